//! `talkoo demo serve`: the loop closes. Two machines train a model, then serve it; a third one asks, one of the two is
//! killed in mid-answer, the other goes on; every word is signed for and paid once.

use crate::{FIRST_WITHIN, Peer, calibrate, say, wait_for};
use anyhow::{Context, Result, ensure};
use base::NodeId;
use ledger::Credits;
use market::{Ask, AskInput, Piece, Price, Sampling};
use node::{ControlRequest, Node, NodeConfig};
use serde_json::Value;
use serving::{Local, Trade, TradeConfig};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use trainer::Limits;

#[derive(clap::Args)]
pub struct ServeDemoArgs {
    /// Seconds of training.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// Keep the files here instead of deleting them.
    #[arg(long, value_name = "DIR")]
    pub(super) keep: Option<PathBuf>,
}

/// Percent of a core's time that each of the two may train.
const DUTY: u32 = 60;
/// Tokens of question and answer together.
const CONTEXT: usize = 256;
const ANSWER: u64 = 200;
/// A provider is killed after so many of them.
const KILL_AT: u64 = 60;
/// A million tokens cost so much.
const PRICE: Price = Price { input: Credits::whole(1), output: Credits::whole(2) };
const PRICE_TEXT: &str = "1,2";
/// What the asking machine is given, and what it may spend of it.
const PURSE: &str = "1";
const BUDGET: Credits = Credits(400_000);
const QUESTION: &str = "ROMEO:\n";
const NAMES: [&str; 2] = ["first", "second"];

/// A machine that serves.
struct Server {
    child: Child,
    node: NodeId,
    ticket: String,
}

pub(super) async fn show(device: &str, args: &ServeDemoArgs, stage: &Path) -> Result<()> {
    say("Two machines train a model together, then serve what they trained; a third one asks.\n");
    let run = train(device, args, stage).await?;
    let chain = run.ticket.parse::<net::Ticket>()?.chain;
    let model = stage.join("bard.gguf");
    export(stage, &run.run, &model)?;
    say(&format!(
        "the weights that both agreed on, as a file that llama.cpp reads: {} kB",
        model.metadata()?.len() >> 10
    ));

    let mut first = serve(stage, NAMES[0], &model, None).await?;
    let mut second = serve(stage, NAMES[1], &model, Some(&first.ticket)).await?;
    let node = Node::start(config(stage.join("asking"))).await?;
    let trade_config = TradeConfig { price: PRICE, budget: BUDGET, ..TradeConfig::default() };
    let trade = node.trade(Local::default(), trade_config).await?;
    trade.join(&first.ticket.parse()?)?;
    let client = node.id().to_string();
    paid(stage, &client).await?;
    say(&format!("both offer it for {PRICE_TEXT} credits a million tokens; the machine that asks has {PURSE} credit"));
    known(&trade, 2).await?;
    // Ahead of need: the one that is killed may be the one that keeps the books.
    let (network, half) = (chain.to_string(), Credits(BUDGET.0 / 2));
    node.spend(Some(&network), ledger::WalletTx::Deposit { amount: BUDGET }).await?;
    let parts = ledger::Allotments(vec![(first.node, half), (second.node, half)]);
    node.spend(Some(&network), ledger::WalletTx::Allot { parts }).await?;

    say("\na question, to get to know them:\n");
    let begun = ask(&trade, 24, None).await?;
    let serving = begun.parts[0];
    say(&format!("\n-- {}", begun.line));
    let dies = if serving == first.node { &mut first } else { &mut second };
    say(&format!(
        "\nthe same conversation goes to {} again, which is killed (SIGKILL) in the middle:\n",
        serving.short()
    ));
    let killed = ask(&trade, ANSWER, Some(&mut dies.child)).await?;
    say(&format!("\n-- {}", killed.line));
    ensure!(killed.parts.len() == 2, "the killed machine was not the one that answered");
    say(&format!(
        "-- {} wrote on from the last word that {} had signed",
        killed.parts[1].short(),
        killed.parts[0].short()
    ));
    ensure!(!killed.gap.is_zero(), "no gap");
    say(&format!("-- the longest silence was {} ms", killed.gap.as_millis()));
    let path = stage.join("receipt.json");
    std::fs::write(&path, &killed.receipt)?;
    let verified =
        std::process::Command::new(std::env::current_exe()?).args(["receipt", "verify"]).arg(&path).output()?;
    ensure!(verified.status.success(), "the receipt does not verify");
    say(&format!("\n{}", String::from_utf8_lossy(&verified.stdout).trim_end()));
    let account = node.account(Some(&chain.to_string()), &node.id())?;
    let left = Credits(account.balance_micro);
    say(&format!("paid by vouchers, each word once; {left} credits were not set aside for anybody"));
    trade.close().await;
    node.close().await?;
    for server in [&mut first, &mut second] {
        let _ = server.child.kill().await;
    }
    if args.keep.is_some() {
        say(&format!("files: {} (talkoo run --model {})", stage.display(), model.display()));
    }
    Ok(())
}

/// Two machines train until the tokens are done; the run as the first one sees it at its end.
async fn train(device: &str, args: &ServeDemoArgs, stage: &Path) -> Result<trainer::RunStatus> {
    let corpus = stage.join("corpus");
    tokio::task::block_in_place(|| data::shipped::build(&corpus))?;
    let speed = tokio::task::block_in_place(|| calibrate(device, stage))?;
    let tokens = (speed * f64::from(2 * DUTY) / 100.0 * 0.6 * args.seconds as f64) as u64;
    let text = format!(
        "[run]\nname = \"bard\"\nseed = 7\n[model]\nsize = \"tiny\"\n[data]\nmanifest = \"corpus\"\nseq_len = {CONTEXT}\n\
         [train]\ntokens = {tokens}\nbatch_tokens = 1024\nmicro_batch = 1\nlr = 3e-3\nwarmup = 0.05\n\
         [round]\nmode = \"gradients\"\nbits = 8\ntarget_seconds = 1\n[out]\nevery_rounds = 1000000\n"
    );
    std::fs::write(stage.join("run.toml"), text)?;
    let file = stage.join("run.toml").to_string_lossy().into_owned();
    let mut first = Peer::start(stage, NAMES[0], DUTY, &["train", "create", &file])?;
    let ticket = wait_for(&first, "the ticket", FIRST_WITHIN, |run| {
        (!run.name.is_empty()).then(|| run.ticket.clone()).filter(|t| !t.is_empty())
    })
    .await?;
    let mut second = Peer::start(stage, NAMES[1], DUTY, &["train", "join", &ticket])?;
    let (begun, limit) = (Instant::now(), Duration::from_secs(args.seconds * 4 + 60));
    let mut shown = 0;
    let end = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(begun.elapsed() < limit, "the run did not end in time; see the logs in {}", stage.display());
        let (Some(run), Some(other)) = (first.run().await, second.run().await) else { continue };
        if run.tokens.0 * 8 / run.tokens.1.max(1) > shown {
            shown = run.tokens.0 * 8 / run.tokens.1.max(1);
            let loss = run.rounds.iter().rev().find(|round| round.loss > 0.0).map_or(0.0, |round| round.loss);
            let (done, all) = (base::grouped(run.tokens.0), base::grouped(run.tokens.1));
            say(&format!("round {:>4}  loss {loss:.3}  {done} of {all} tokens", run.version));
        }
        let whole = |run: &trainer::RunStatus| run.ended && run.root.as_ref().is_some_and(|(at, _)| *at == run.version);
        if whole(&run) && whole(&other) {
            ensure!(run.root == other.root, "the two do not have the same weights");
            break run;
        }
    };
    first.stop().await;
    second.stop().await;
    Ok(end)
}

fn export(stage: &Path, run: &str, out: &Path) -> Result<()> {
    let saved = trainer::saved(&stage.join(NAMES[0]), &run.parse()?)?;
    saved.export_gguf(out, 0, 2, None, model::GgufType::Q8_0)
}

/// Starts a machine that serves the model on the folder in which it trained.
async fn serve(stage: &Path, name: &str, model: &Path, ticket: Option<&str>) -> Result<Server> {
    let log = std::fs::File::options().create(true).append(true).open(stage.join(format!("{name}.log")))?;
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg("--data").arg(stage.join(name)).args([
        "--bind",
        "127.0.0.1:0",
        "--no-mdns",
        "--json",
        "--threads",
        "1",
    ]);
    command.args(["serve", "--listen", "127.0.0.1:0", "--offer", "--price", PRICE_TEXT, "--parallel", "2", "--model"]);
    command.arg(model);
    if let Some(text) = ticket {
        // The second sells in the network of the first, which keeps it alone: its owner has to say so.
        let chain = text.parse::<net::Ticket>().context("the first one's ticket")?.chain.to_string();
        command.args(["--ticket", text, "--accept", &chain]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.kill_on_drop(true).spawn().context("cannot start a server")?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
    let line = line.context("it did not come up in time")??;
    let ready: Value =
        serde_json::from_str(&line.with_context(|| format!("it ended; see {name}.log in {}", stage.display()))?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let node: NodeId = text(&ready["node"]).parse()?;
    say(&format!("{} serves bard: {}", node.short(), text(&ready["api"])));
    Ok(Server { child, node, ticket: text(&ready["tickets"][0]) })
}

fn config(dir: PathBuf) -> NodeConfig {
    NodeConfig {
        dir,
        bind: ([127, 0, 0, 1], 0).into(),
        mdns: false,
        relays: Vec::new(),
        rates: (0, 0),
        minded: false,
        limits: Limits { threads: 1, duty_percent: 100 },
        device: "cpu".into(),
        eval_tokens: 0,
    }
}

/// The creator of the run gives the asking machine some credits.
async fn paid(stage: &Path, client: &str) -> Result<()> {
    use base::Wire;
    let amount = Credits::parse(PURSE).map_err(|_| anyhow::anyhow!("no amount"))?;
    let tx = ledger::WalletTx::Transfer { to: client.parse()?, amount };
    let request = ControlRequest::Spend { network: None, tx: base::to_hex(&tx.to_bytes()) };
    node::call(&stage.join(NAMES[0]), &request).await?.context("the first machine is gone")?;
    Ok(())
}

async fn known(trade: &Trade, providers: usize) -> Result<()> {
    let begun = Instant::now();
    while trade.providers().len() < providers {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the offers did not come in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

struct Answer {
    parts: Vec<NodeId>,
    receipt: String,
    line: String,
    gap: Duration,
}

/// Asks, shows the words as they come, and kills a machine in the middle.
async fn ask(trade: &Arc<Trade>, max_tokens: u64, mut kill: Option<&mut Child>) -> Result<Answer> {
    let ask = Ask {
        model: format!("{}bard", serving::NET),
        input: AskInput::Text(QUESTION.into()),
        max_tokens: Some(max_tokens),
        sampling: Sampling { temperature: 0.8, seed: 11, ..Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    };
    let name = serving::new_answer_name()?;
    let mut pieces = trade.ask(&[7; 32], &name, ask).await.map_err(|reason| anyhow::anyhow!("{reason}"))?;
    let mut out = std::io::stdout();
    write!(out, "    {}", QUESTION.replace('\n', "\n    "))?;
    let (mut tokens, mut gap, mut last) = (0, Duration::ZERO, None::<Instant>);
    loop {
        let text = match pieces.recv().await.context("the answer broke off")? {
            Piece::Read { .. } => continue,
            Piece::Token(token) => token.text,
            Piece::End { finish, text, .. } => {
                finish.map_err(|reason| anyhow::anyhow!("{reason}"))?;
                writeln!(out, "{}", text.replace('\n', "\n    "))?;
                break;
            }
        };
        gap = gap.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
        last = Some(Instant::now());
        tokens += 1;
        write!(out, "{}", text.replace('\n', "\n    "))?;
        out.flush()?;
        if tokens == KILL_AT
            && let Some(child) = kill.take()
        {
            child.kill().await?;
        }
    }
    let receipt = trade.receipt(&name).context("the receipt is missing")?;
    let receipts = serving::verify_receipt(&receipt)?;
    let parts = receipts.0.iter().map(|part| part.by).collect();
    Ok(Answer { parts, receipt, line: serving::receipt_summary(&receipts), gap })
}
