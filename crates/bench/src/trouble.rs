//! Serving under trouble: providers that are killed in mid-answer, and twice as many questions as can be answered.

mod overload;

use crate::market::question;
use crate::pair::start;
use crate::serve::{answer, job, prompt, written};
use crate::{Bar, Book, Figure, Measured, Process};
use anyhow::{Context, Result, ensure};
use base::NodeId;
use engine::{Engine, EngineConfig, Event, Job, Written};
use market::{Checked, Piece, judge};
use serde_json::Value;
use serving::{Local, Trade, TradeConfig};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const KILLS: usize = 200;
const ACROSS_KILLS: usize = 40;
const TOKENS: u64 = 96;

const IDENTICAL: Figure<'static> =
    Figure { name: "serve.failover.identical", unit: "%", bar: Bar::Least(100.0), goal: "100" };
const ACROSS: Figure<'static> =
    Figure { name: "serve.failover.across", unit: "% coherent and said", bar: Bar::Least(100.0), goal: "100" };
const GAP: Figure<'static> = Figure { name: "serve.failover.gap.p95", unit: "s", bar: Bar::Most(2.0), goal: "<= 0.5" };

/// Three areas, for each takes its time: `kills`, `across`, `overload`.
pub(crate) fn measure(book: &mut Book, area: &str, full: bool) -> Result<()> {
    if !full {
        let kept: &[Figure<'static>] = match area {
            "kills" => &[IDENTICAL, GAP],
            "across" => &[ACROSS],
            _ => &overload::FIGURES,
        };
        book.keep(kept);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match area {
        "kills" => runtime.block_on(kills(book)),
        "across" => runtime.block_on(across(book)),
        _ => runtime.block_on(overload::measure(book)),
    }
}

/// A process that serves the model.
struct Server {
    _process: Process,
    node: NodeId,
    ticket: String,
}

fn serve(program: &Path, stage: &Path, name: &str, ticket: Option<&str>) -> Result<Server> {
    let mut command = Command::new(program);
    command.args(["--json", "--no-mdns", "--bind", "127.0.0.1:0", "--threads", "1", "--data"]).arg(stage.join(name));
    command.args(["serve", "--offer", "--parallel", "2", "--listen", "127.0.0.1:0", "--model"]);
    command.arg(stage.join("figure.gguf")).args(ticket.iter().flat_map(|ticket| ["--ticket", ticket]));
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().with_context(|| program.display().to_string())?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
    let ready: Value = serde_json::from_str(&line).context("its first line")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Server { _process: Process(child), node: text(&ready["node"]).parse()?, ticket: text(&ready["tickets"][0]) })
}

/// Waits until `n` providers have offered since `since`.
async fn offered(trade: &Trade, n: usize, since: u64) -> Result<()> {
    let begun = Instant::now();
    while trade.providers().iter().filter(|known| known.offer.since.0 >= since).count() < n {
        ensure!(begun.elapsed() < Duration::from_secs(90), "an offer did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// An answer whose writer was killed.
struct Killed {
    /// The tokens are those that one engine of this build writes alone.
    same: bool,
    /// Seconds of the longest silence.
    gap: f64,
    /// This build finds each token the likeliest, but for ties.
    coherent: bool,
    /// The receipt says that all of it was written on one class of machine.
    one_class: bool,
}

/// Kills whoever answers, at another token each time: two providers of one build.
async fn kills(book: &mut Book) -> Result<()> {
    let kills = std::env::var("CLAIM_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let (answers, missed) = killed(kills, None).await?;
    let same = answers.iter().filter(|killed| killed.same).count();
    let how = format!(
        "{kills} answers of {TOKENS} tokens, greedy, the process that writes is killed (SIGKILL) at another token each time, a second provider is reached before, \
         two receipts each; the same tokens as one engine alone, and one that breaks off is not the same; on one machine of one class; {missed} more in which another one wrote \
         than was killed"
    );
    book.full(IDENTICAL, same as f64 * 100.0 / kills as f64, &how);
    let mut gaps: Vec<f64> = answers.iter().map(|killed| killed.gap).collect();
    gaps.sort_by(f64::total_cmp);
    let how = format!("the longest silence of each of these answers; median {:.2} s", gaps[kills / 2]);
    book.full(GAP, Measured::out_of(gaps[kills * 95 / 100], &gaps), &how);
    Ok(())
}

/// The same with a second provider whose arithmetic was built in another way (`OTHER_TALKOO`: `scripts/other_build.sh`).
async fn across(book: &mut Book) -> Result<()> {
    let Some(other) = std::env::var_os("OTHER_TALKOO").map(PathBuf::from) else {
        book.keep(&[ACROSS]);
        return Ok(());
    };
    let (answers, missed) = killed(ACROSS_KILLS, Some(&other)).await?;
    let good = answers.iter().filter(|killed| killed.coherent && !killed.one_class).count();
    let same = answers.iter().filter(|killed| killed.same).count();
    let how = format!(
        "{ACROSS_KILLS} answers of {TOKENS} tokens, greedy, of two providers whose llama.cpp was built with and without its own matrix \
         kernels; whoever writes is killed; this build finds each token of the whole the likeliest but for ties, and the receipt says \
         that two classes wrote it; {same} of them are the same as one build alone writes; {missed} more in which another one wrote \
         than was killed"
    );
    book.full(ACROSS, good as f64 * 100.0 / ACROSS_KILLS as f64, &how);
    Ok(())
}

/// Answers whose writer was killed, and how often another one wrote than was killed. The second provider is of the `other`
/// build, if there is one.
async fn killed(kills: usize, other: Option<&Path>) -> Result<(Vec<Killed>, usize)> {
    let stage = tempfile::tempdir()?;
    let path = stage.path().join("figure.gguf");
    written(&path, "small")?;
    let own = Engine::load(EngineConfig { path, hash: None, threads: 1, slots: 2, context: 512, memory: 0, vram: 0 })?;
    let own = Arc::new(own);
    let talkoo = std::env::current_exe()?.with_file_name("talkoo");
    let programs = [talkoo.as_path(), other.unwrap_or(&talkoo)];
    let mut servers = vec![serve(programs[0], stage.path(), "first", None)?];
    let ticket = servers[0].ticket.clone();
    servers.push(serve(programs[1], stage.path(), "second", Some(&ticket))?);
    let (node, trade) = start(&stage.path().join("client"), Local::default(), TradeConfig::default(), &[]).await?;
    for server in &servers {
        trade.join(&server.ticket.parse()?)?;
    }
    offered(&trade, 2, 0).await?;
    let (mut answers, mut missed, mut i) = (Vec::new(), 0, 0);
    while answers.len() < kills {
        i += 1;
        let tokens = prompt(i, 24);
        // One word, to learn who has this conversation.
        let mut pieces = trade.ask(&[4; 32], "who", question(tokens.clone(), 1)).await?;
        while !matches!(pieces.recv().await.context("an answer")?, Piece::End { .. }) {}
        let who = serving::verify_receipt(&trade.receipt("who").context("a receipt")?)?.0[0].by;
        let at = servers.iter().position(|server| server.node == who).context("one of the two")?;
        let mut pieces = trade.ask(&[4; 32], "killed", question(tokens, TOKENS)).await?;
        let (mut ids, mut gap, mut last, mut broke) = (Vec::new(), Duration::ZERO, None::<Instant>, None);
        let kill_at = 1 + (i * 7) % 60;
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Read { .. } => {}
                Piece::Token(token) => {
                    gap = gap.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
                    last = Some(Instant::now());
                    ids.push(token.id);
                    if ids.len() == kill_at {
                        drop(servers.remove(at));
                    }
                }
                Piece::End { finish, .. } => {
                    gap = gap.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
                    broke = finish.err();
                    break;
                }
            }
        }
        if let Some(reason) = broke {
            // What breaks off is not the same, and counts.
            eprintln!("answer {i} broke off at token {}: {reason}", ids.len());
            if ids.len() < kill_at {
                drop(servers.remove(at));
            }
            for server in &servers {
                eprintln!("  {} answers a ping: {}", server.node.short(), node.ping(server.node).await.is_ok());
            }
            answers.push(Killed { same: false, gap: gap.as_secs_f64(), coherent: false, one_class: false });
        } else {
            // Now and then another one than before is quicker, and the wrong one was killed.
            let receipts = serving::verify_receipt(&trade.receipt("killed").context("a receipt")?)?;
            if receipts.0.iter().any(|part| part.by == who) && receipts.0.len() > 1 {
                let (engine, gap, one_class) = (own.clone(), gap.as_secs_f64(), receipts.one_class());
                let judged = move || -> Result<Killed> {
                    let same = ids == answer(&engine, job(i, 24, TOKENS as usize))?;
                    Ok(Killed { same, gap, coherent: likely(&engine, i, ids)?, one_class })
                };
                answers.push(tokio::task::spawn_blocking(judged).await??);
            } else {
                missed += 1;
            }
        }
        let since = replica::clock().0;
        // Another machine takes its place: one that comes back is looked for for seconds where it was.
        let program = programs[at];
        servers.insert(at, serve(program, stage.path(), &format!("other-{i}"), Some(&servers[0].ticket))?);
        trade.join(&servers[at].ticket.parse()?)?;
        offered(&trade, 1, since).await?;
        // The next kill finds a second provider that is reached.
        while node.ping(servers[at].node).await.is_err() {}
        let same = answers.iter().filter(|killed| killed.same).count();
        eprintln!("{} of {kills} kills, {same} answers the same", answers.len());
    }
    trade.close().await;
    node.close().await?;
    Ok((answers, missed))
}

/// Whether an engine finds each of these tokens the likeliest, but for ties.
fn likely(engine: &Engine, seed: usize, ids: Vec<i32>) -> Result<bool> {
    let ask = question(prompt(seed, 24), TOKENS);
    let reading =
        Job { written: ids.clone(), max_tokens: ids.len(), logprobs: Some(2), echo: true, ..job(seed, 24, 0) };
    let mut events = engine.submit(reading)?;
    while let Some(event) = events.blocking_recv() {
        if let Event::Read { logprobs, .. } = event {
            let token = |written: &Written| market::Token {
                id: written.id,
                logprob: Some(written.logprob),
                top: written.top.iter().map(|(_, logprob)| (Vec::new(), *logprob)).collect(),
                ..market::Token::default()
            };
            // Those of the answer: nothing is known of the question's first token.
            let scored: Vec<_> = logprobs.iter().skip(24 - 1).map(token).collect();
            ensure!(scored.len() == ids.len(), "{} tokens of {} were scored", scored.len(), ids.len());
            let checked = Checked {
                ask: &ask,
                finish: market::Finish::Length,
                read: (24, 24),
                text: "",
                scored: &scored,
                more: 0,
            };
            return Ok(!judge(&checked).is_bad());
        }
    }
    anyhow::bail!("the engine ended")
}
