//! `talkoo train` and `talkoo up`.

use crate::runs::{self, Others, Prepared, find_on_disk};
use crate::{Common, client, render, stop, train_replay};
use anyhow::Result;
use base::Wire;
use clap::Subcommand;
use model::GgufType;
use node::{ControlRequest, Node, Status};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use swarm::{Mode, Outlook};

#[derive(Subcommand)]
pub(crate) enum TrainCommand {
    /// Show what a run would do on machines like this one: bytes, times, and whether it pays.
    Plan {
        /// The run file.
        file: PathBuf,
        #[command(flatten)]
        others: Others,
    },
    /// Begin a run on this node's log, take part in it, and print the ticket for others.
    Create {
        /// The run file.
        file: PathBuf,
        #[command(flatten)]
        others: Others,
    },
    /// Take part in a run.
    Join {
        /// The line that `train create` printed.
        ticket: String,
    },
    /// Leave a run; committed units count.
    Leave {
        /// Its id, or the beginning of it.
        run: String,
    },
    /// Runs of this node.
    Ls,
    /// One run in full.
    Show {
        /// Its id, or the beginning of it; the only one by default.
        run: Option<String>,
    },
    /// One run as it goes on, until Ctrl-C.
    Watch {
        /// Its id, or the beginning of it; the only one by default.
        run: Option<String>,
    },
    /// Do a whole run again in one process, from the log on this (stopped) node, or from a written one.
    Replay {
        /// Its id, or the beginning of it; the only one by default.
        run: Option<String>,
        /// A log that `talkoo train log` wrote, of one run on the shipped texts; no node is needed.
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// With --log: write the model that came out as a GGUF file, as `talkoo train export --gguf` would have.
        #[arg(long, requires = "log", value_name = "FILE")]
        gguf: Option<PathBuf>,
    },
    /// Write the log of a run on this (stopped) node into a file, with which anybody does the run again.
    Log {
        /// The file.
        out: PathBuf,
        /// Its id, or the beginning of it; the only one by default.
        run: Option<String>,
    },
    /// Write the newest weights as a model folder that every tool loads.
    Export {
        /// Where to.
        out: PathBuf,
        /// Its id, or the beginning of it; the only one by default.
        run: Option<String>,
        /// Also write check.safetensors: logits for another implementation to compare with.
        #[arg(long)]
        check: bool,
        /// Write one GGUF file, which llama.cpp and `talkoo serve` load, in 8 bits.
        #[arg(long, conflicts_with = "check")]
        gguf: bool,
        /// With --gguf: numbers as they are, four times as long.
        #[arg(long, requires = "gguf")]
        f32: bool,
    },
}

pub(crate) async fn run(common: &Common, command: TrainCommand) -> Result<()> {
    match command {
        TrainCommand::Plan { file, others } => {
            let prepared = prepare(common, &file, &others)?;
            let rows: Vec<Value> = prepared.outlooks.iter().map(outlook_json).collect();
            let value = json!({ "tokens_per_s_here": prepared.speed, "settings": rows });
            render::print(common, &value, || plan_text(&prepared, &others));
            Ok(())
        }
        TrainCommand::Create { file, others } => create(common, &file, &others).await,
        TrainCommand::Join { ticket } => join(common, &ticket).await,
        TrainCommand::Leave { run } => {
            let status = client::status(common).await?;
            let run = client::find(&status, Some(&run))?.run;
            let answer = client::ask(common, ControlRequest::Leave { run }).await?;
            render::print(common, &answer, || "left; committed units count".into());
            Ok(())
        }
        TrainCommand::Ls => {
            let status = client::status(common).await?;
            render::print(common, &serde_json::to_value(&status.runs)?, || {
                let lines: Vec<String> = status.runs.iter().map(render::line).collect();
                if lines.is_empty() { "no runs".into() } else { lines.join("\n") }
            });
            Ok(())
        }
        TrainCommand::Show { run } => {
            let run = client::find(&client::status(common).await?, run.as_deref())?;
            render::print(common, &serde_json::to_value(&run)?, || render::run(&run));
            Ok(())
        }
        TrainCommand::Watch { run } => watch(common, run.as_deref()).await,
        TrainCommand::Replay { run, log, gguf } => {
            train_replay::replay(common, run.as_deref(), log.as_deref(), gguf.as_deref())
        }
        TrainCommand::Log { out, run } => train_replay::write_log(common, &out, run.as_deref()),
        TrainCommand::Export { out, run, check, gguf, f32 } => {
            let kind = gguf.then_some(if f32 { GgufType::F32 } else { GgufType::Q8_0 });
            export(common, &out, run.as_deref(), check, kind).await
        }
    }
}

fn prepare(common: &Common, file: &Path, others: &Others) -> Result<Prepared> {
    runs::prepare(file, &common.dir(), common.limits(), common.device(), others)
}

async fn create(common: &Common, file: &Path, others: &Others) -> Result<()> {
    let prepared = prepare(common, file, others)?;
    if let Some(best) = prepared.outlooks.first().filter(|best| !best.worthwhile() && others.members > 1) {
        eprintln!(
            "note: {} such machines are expected to end with {:+.1} % loss against one of them alone; see `talkoo train plan`",
            others.members, -best.gain_pct
        );
    }
    let spec = base::to_hex(&prepared.spec.to_bytes());
    let corpus = std::path::absolute(&prepared.corpus)?;
    let budget = prepared.budget.unwrap_or_default();
    let request =
        ControlRequest::Create { spec, corpus: corpus.clone(), model: prepared.model.clone(), budget_micro: budget.0 };
    if let Some(answer) = node::call(&common.dir(), &request).await? {
        render::print(common, &answer, || ticket_text(&answer));
        return Ok(());
    }
    let node = Node::start(common.node()?).await?;
    let theta = prepared.model.as_deref().map(model::load).transpose()?.map(|(_, theta)| theta);
    let ticket = node.create(prepared.spec, &corpus, theta, budget).await?;
    let stopped = stop::stopped()?;
    let answer = json!({ "run": ticket.run.to_string(), "ticket": ticket.to_string() });
    render::print(common, &answer, || ticket_text(&answer));
    until_stopped(common, &node, stopped).await
}

fn ticket_text(answer: &Value) -> String {
    let ticket = answer["ticket"].as_str().unwrap_or_default();
    format!("others join with\n\n  talkoo train join {ticket}\n")
}

async fn join(common: &Common, ticket: &str) -> Result<()> {
    let parsed: net::Ticket = ticket.parse()?;
    if let Some(answer) = node::call(&common.dir(), &ControlRequest::Join { ticket: ticket.to_owned() }).await? {
        render::print(common, &answer, || "joined; see `talkoo train watch`".into());
        return Ok(());
    }
    let node = Node::start(common.node()?).await?;
    let run = parsed.run.to_string();
    node.join(parsed).await?;
    let stopped = stop::stopped()?;
    if common.json {
        render::announce(&json!({ "run": run, "node": node.id().to_string() }).to_string());
    }
    until_stopped(common, &node, stopped).await
}

/// Keeps the node running and prints a line now and then.
async fn until_stopped(common: &Common, node: &Arc<Node>, stopped: impl Future<Output = ()>) -> Result<()> {
    tokio::pin!(stopped);
    eprintln!("node {} runs; Ctrl-C stops it", node.id().short());
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(10));
    let mut shown = String::new();
    loop {
        tokio::select! {
            () = &mut stopped => break,
            () = node.stopped() => break,
            _ = tick.tick() => {
                let lines: Vec<String> = node.status().runs.iter().map(render::line).collect();
                let text = lines.join("\n");
                if !common.json && text != shown {
                    eprintln!("{text}");
                    shown = text;
                }
            }
        }
    }
    eprintln!("stopping");
    node.close().await
}

async fn watch(common: &Common, id: Option<&str>) -> Result<()> {
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    let terminal = std::io::stdout().is_terminal();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = tick.tick() => {}
        }
        let run = client::find(&client::status(common).await?, id)?;
        if common.json {
            outln!("{}", serde_json::to_string(&run)?);
        } else {
            let clear = if terminal { "\x1b[2J\x1b[H" } else { "" };
            outln!("{clear}{}", render::run(&run));
        }
        std::io::stdout().flush()?;
        if run.ended {
            return Ok(());
        }
    }
}

async fn export(common: &Common, out: &Path, id: Option<&str>, check: bool, gguf: Option<GgufType>) -> Result<()> {
    let dir = common.dir();
    let run = find_on_disk(&dir, id)?;
    let live = node::call(&dir, &ControlRequest::Status).await?.map(serde_json::from_value::<Status>).transpose()?;
    let live = live.and_then(|status| client::find(&status, Some(&run.to_string())).ok());
    let saved = trainer::saved(&dir, &run)?;
    let (tokens, members) = live.as_ref().map_or((0, 0), |run| (run.tokens.0, run.members.len() as u64));
    let bits = live.as_ref().and_then(|run| run.heldout.last()).map(|(_, bits)| *bits);
    match gguf {
        Some(kind) => saved.export_gguf(out, tokens, members, bits, kind)?,
        None => saved.export(out, tokens, members, bits)?,
    }
    if check {
        saved.export_check(out)?;
    }
    let value = json!({ "model": out, "version": saved.version, "root": saved.root });
    render::print(common, &value, || {
        format!("{}: weights of round {}, root {}", out.display(), saved.version, saved.root)
    });
    Ok(())
}

fn outlook_json(outlook: &Outlook) -> Value {
    json!({
        "mode": mode(outlook),
        "inner_steps": outlook.inner_steps,
        "density": 1.0 / f64::from(1u32 << outlook.sparsity),
        "bits": outlook.bits,
        "delay": outlook.delay,
        "bits_per_parameter": outlook.bits_per_parameter,
        "bytes_up": outlook.bytes_up,
        "train_s": outlook.train_s,
        "exchange_s": outlook.exchange_s,
        "utilisation": outlook.utilisation,
        "tokens_per_s": outlook.tokens_per_s,
        "speedup": outlook.speedup,
        "penalty_pct": outlook.penalty_pct,
        "gain_pct": outlook.gain_pct,
        "worthwhile": outlook.worthwhile(),
    })
}

fn mode(outlook: &Outlook) -> &'static str {
    if outlook.mode == Mode::Gradients { "gradients" } else { "local" }
}

fn plan_text(prepared: &Prepared, others: &Others) -> String {
    let mut out = format!(
        "{} parameters; this machine trains {:.0} tokens/s; assumed: {} such machines, {} Mbit/s, {} ms\n\n",
        base::grouped(prepared.spec.params),
        prepared.speed,
        others.members,
        others.mbit,
        others.rtt_ms
    );
    out.push_str(
        "mode       H  density  bits  delay  MB up  train s  exchange s  busy   tokens/s  against one alone\n",
    );
    for outlook in prepared.outlooks.iter().take(8) {
        out.push_str(&format!(
            "{:<9} {:>3} {:>8} {:>5} {:>6} {:>6.2} {:>8.2} {:>11.2} {:>4.0} % {:>9.0}  {:>+5.1} % loss\n",
            mode(outlook),
            outlook.inner_steps,
            if outlook.sparsity == 0 { "1".into() } else { format!("1/{}", 1u32 << outlook.sparsity) },
            outlook.bits,
            outlook.delay,
            outlook.bytes_up / 1e6,
            outlook.train_s,
            outlook.exchange_s,
            100.0 * outlook.utilisation,
            outlook.tokens_per_s,
            -outlook.gain_pct
        ));
    }
    let best = &prepared.outlooks[0];
    out.push_str(&if best.worthwhile() {
        format!(
            "\nthe first is chosen where the run file says \"auto\": {:.1} times the tokens of one machine",
            best.speedup
        )
    } else {
        "\ntraining alone is expected to be as good: over these links the group does not beat one member".to_owned()
    });
    out
}
