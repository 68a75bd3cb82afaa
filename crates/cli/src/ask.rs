//! `talkoo run`: questions in the terminal. `talkoo receipt`: what proves an answer.

use crate::serve::{Asking, Models};
use crate::{Common, render};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use market::{Ask, AskInput, Message, Sampling};
use node::{AnswerStream, ControlRequest, Said};
use serde_json::{Value, json};
use serving::{OfferConfig, STARTER, Trade};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

#[derive(Args)]
pub(crate) struct RunArgs {
    /// The model, net/NAME where other machines serve it; without one, what this node serves, or else the network.
    #[arg(value_name = "MODEL")]
    name: Option<String>,
    /// The question; without one, questions are read line by line.
    prompt: Option<String>,
    #[command(flatten)]
    models: Models,
    #[command(flatten)]
    asking: Asking,
    /// Tokens of an answer at most.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: u64,
    /// 0 = always the likeliest word.
    #[arg(long, default_value_t = 0.7, value_name = "T")]
    temperature: f32,
    /// Text to go on with as it is, not a conversation: for models that were not taught to chat.
    #[arg(long)]
    text: bool,
    /// Write the receipt of the last answer here.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

/// Offers are heard within this, or nobody makes any.
const OFFERS_WITHIN: Duration = Duration::from_secs(30);
/// Who waits for longer is told so.
const SOON: Duration = Duration::from_secs(1);

/// Who asks.
enum Asker {
    /// A node of this process.
    Own(Arc<Trade>),
    /// The node that runs on the data folder.
    Running(PathBuf),
}

/// An answer on its way.
enum Answering {
    Own(mpsc::Receiver<Said>),
    Running(AnswerStream),
}

pub(crate) async fn run(common: &Common, args: RunArgs) -> Result<()> {
    anyhow::ensure!((0.0..=2.0).contains(&args.temperature), "--temperature is between 0 and 2");
    let dir = common.dir();
    if node::call(&dir, &ControlRequest::Status).await?.is_some() {
        if args.models.is_any() {
            let dir = dir.display();
            bail!(
                "the node that runs on {dir} serves its own models: leave --model out, or name another folder with --data"
            );
        }
        if args.asking.limits() {
            bail!(
                "the node that runs on {} has its own --max-price, --budget and --check: leave them out",
                dir.display()
            );
        }
        for ticket in args.asking.tickets(common)? {
            node::call(&dir, &ControlRequest::Enter { ticket: ticket.to_string() }).await?;
        }
        return converse(common, &args, &Asker::Running(dir)).await;
    }
    let local = args.models.load(common, &args.asking).await?;
    let bare = local.all().is_empty()
        && args.name.as_deref().is_none_or(|name| name == STARTER)
        && args.asking.tickets(common)?.is_empty();
    let (node, trade) = args.asking.trade(common, local, OfferConfig::default()).await?;
    if bare && node.is_alone() {
        trade.serve(&args.models.starter(common).await?).await;
    }
    let done = converse(common, &args, &Asker::Own(trade.clone())).await;
    trade.close().await;
    node.close().await?;
    done
}

impl Asker {
    /// Models that can be asked, and those of the node itself that are not loaded now.
    async fn models(&self) -> Result<(Vec<String>, Vec<String>)> {
        match self {
            Self::Own(trade) => Ok((trade.models().into_iter().map(|card| card.name).collect(), trade.unloaded())),
            Self::Running(dir) => {
                let answer = node::call(dir, &ControlRequest::Models).await?.context("the node has ended")?;
                let names = |key: &str| serde_json::from_value::<Vec<String>>(answer[key].clone());
                Ok((names("models")?, names("unloaded")?))
            }
        }
    }

    /// The model of this name, or the first one there is; waits for offers of others.
    async fn model(&self, name: Option<&str>) -> Result<String> {
        let (begun, mut told) = (Instant::now(), false);
        loop {
            let (models, unloaded) = self.models().await?;
            if let Some(found) = models.iter().find(|model| name.is_none_or(|name| name == *model)) {
                // A question for the own machine goes to no other one because the machine is short of memory.
                if let (None, true, Some(own)) = (name, found.starts_with(serving::NET), unloaded.first()) {
                    bail!("this node's own model {own} is not loaded now; `talkoo run {found}` asks others");
                }
                return Ok(found.clone());
            }
            if let Some(name) = name
                && unloaded.iter().any(|own| own == name)
            {
                bail!("this node's own model {name} is not loaded now");
            }
            if let Some(others) =
                name.map(|name| format!("{}{name}", serving::NET)).filter(|name| models.contains(name))
            {
                bail!("no model of this machine has this name; others serve {others}");
            }
            if begun.elapsed() > OFFERS_WITHIN {
                let what = name.unwrap_or("a model");
                bail!(
                    "nobody whom this node knows offers {what}; --ticket names a network, --model serves one of this machine"
                );
            }
            if begun.elapsed() > SOON && !std::mem::replace(&mut told, true) {
                eprintln!("waiting for offers of the network, for at most {} s", OFFERS_WITHIN.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Answering> {
        match self {
            Self::Own(trade) => {
                let (words, said) = mpsc::channel(WORDS);
                let trade = trade.clone();
                tokio::spawn(async move {
                    if let Err(error) = node::tell(&trade, ask, words.clone()).await {
                        let _ = words.send(Said::Error(format!("{error:#}"))).await;
                    }
                });
                Ok(Answering::Own(said))
            }
            Self::Running(dir) => {
                let telling = AnswerStream::begin(dir, &ask).await?.context("the node has ended")?;
                Ok(Answering::Running(telling))
            }
        }
    }
}

/// Words that wait for a slow terminal.
const WORDS: usize = 64;

impl Answering {
    async fn next(&mut self) -> Result<Said> {
        match self {
            Self::Own(said) => said.recv().await.context("the answer broke off"),
            Self::Running(telling) => telling.next().await,
        }
    }
}

async fn converse(common: &Common, args: &RunArgs, asker: &Asker) -> Result<()> {
    let model = asker.model(args.name.as_deref()).await?;
    let mut messages = Vec::new();
    if let Some(prompt) = &args.prompt {
        return answer(common, args, asker, &model, prompt, &mut messages).await;
    }
    let terminal = std::io::stdin().is_terminal() && !common.json;
    if terminal {
        eprintln!("{model}; an empty line ends it");
    }
    loop {
        if terminal {
            eprint!("> ");
        }
        // A task of its own: who waits at the terminal stops nothing else.
        let read = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next());
        let Some(line) = read.await?.transpose()?.filter(|line| !line.trim().is_empty()) else { return Ok(()) };
        answer(common, args, asker, &model, &line, &mut messages).await?;
    }
}

async fn answer(
    common: &Common,
    args: &RunArgs,
    asker: &Asker,
    model: &str,
    prompt: &str,
    messages: &mut Vec<Message>,
) -> Result<()> {
    messages.push(Message { role: "user".into(), content: prompt.into(), ..Message::default() });
    let input = match args.text {
        true => AskInput::Text(prompt.into()),
        false => AskInput::Chat { messages: messages.clone(), tools: None },
    };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos() ^ std::process::id();
    let ask = Ask {
        model: model.to_owned(),
        input,
        max_tokens: Some(args.max_tokens),
        sampling: Sampling { temperature: args.temperature, seed, ..Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    };
    let begun = Instant::now();
    let mut answering = asker.ask(ask).await?;
    let (mut text, mut tokens, mut first) = (String::new(), 0, None);
    let receipt = loop {
        match answering.next().await? {
            Said::Token(said) => {
                first.get_or_insert_with(Instant::now);
                tokens += 1;
                show(common, &said);
                text += &said;
            }
            Said::End { text: rest, receipt } => {
                show(common, &rest);
                text += &rest;
                break receipt;
            }
            Said::Error(error) => {
                if tokens > 0 {
                    show(common, "\n");
                }
                bail!("{error}");
            }
        }
    };
    messages.push(Message { role: "assistant".into(), content: text.clone(), ..Message::default() });
    let first = first.unwrap_or(begun);
    let rate = f64::from(tokens) / first.elapsed().as_secs_f64().max(1e-3);
    if let Some(path) = &args.receipt {
        std::fs::write(path, &receipt).with_context(|| path.display().to_string())?;
    }
    let receipts = serving::verify_receipt(&receipt)?;
    let waited = first.duration_since(begun);
    if common.json {
        let receipt: Value = serde_json::from_str(&receipt)?;
        outln!(
            "{}",
            json!({
                "model": model, "text": text, "tokens": tokens, "tokens_per_second": rate,
                "first_token_ms": waited.as_secs_f64() * 1e3, "receipt": receipt,
            })
        );
    } else {
        outln!("");
        eprintln!(
            "-- {}, {rate:.1} tokens/s, first after {} ms",
            serving::receipt_summary(&receipts),
            waited.as_millis()
        );
    }
    Ok(())
}

/// Words as they come.
fn show(common: &Common, text: &str) {
    if !common.json {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

#[derive(Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Check a receipt: every signature, every sum, every byte.
    Verify {
        /// The file, as `talkoo run --receipt` writes it and `/v1/receipts/ID` gives it.
        file: PathBuf,
    },
}

pub(crate) fn receipt(common: &Common, command: &ReceiptCommand) -> Result<()> {
    let ReceiptCommand::Verify { file } = command;
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let receipts = serving::verify_receipt(&text)?;
    let last = receipts.0.last().context("an empty receipt")?;
    let words: u64 = receipts.0.iter().map(|part| part.value.written).sum();
    let model = &last.value.runtime.model;
    render::print(common, &json!({ "verified": true, "receipt": serde_json::from_str::<Value>(&text)? }), || {
        format!(
            "good: {words} tokens of the model {}, asked by {}, {}\nwhat it proves: these keys signed that these weights \
             wrote these words to this question; not that they did, which a spot check tests",
            model.short(),
            last.value.client.short(),
            serving::receipt_summary(&receipts)
        )
    });
    Ok(())
}
