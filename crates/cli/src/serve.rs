//! `talkoo serve`: models of this machine and of the network behind the OpenAI API.

use crate::Common;
use anyhow::{Context, Result, bail, ensure};
use base::Hash;
use clap::Args;
use engine::{Engine, EngineConfig};
use gateway::{Gateway, Keys};
use ledger::Credits;
use market::Price;
use node::{Local, Models as Kept, Node, OfferConfig, Served, Trade, TradeConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    models: Models,
    #[command(flatten)]
    asking: Asking,
    /// Where the API listens; beyond this machine it demands keys.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// Offer these models to the networks of this node: others may ask them.
    #[arg(long)]
    offer: bool,
    /// Credits that others pay for a million tokens of questions and of answers.
    #[arg(long, default_value = "0,0", value_name = "IN,OUT", value_parser = price)]
    price: Price,
    /// Refuse requests without a key on this machine, too; `talkoo key create` makes one.
    #[arg(long)]
    demand_keys: bool,
    /// Tokens of an answer where a request names no bound.
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    answer_tokens: u64,
    /// Temperature where a request names none; the API's own is 1, small models say less nonsense at 0.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    temperature: f32,
}

/// Models of this machine.
#[derive(Args)]
pub(crate) struct Models {
    /// A model to serve, as `talkoo model ls` names it, or a GGUF file; may be given several times. Without any, others
    /// are asked, or what was trained here last is served.
    #[arg(long, value_name = "NAME|FILE")]
    model: Vec<String>,
    /// Answers that are written at a time.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Tokens of a question and its answer together (default: what the model was trained with, at most 8,192).
    #[arg(long, default_value_t = 0, value_name = "N")]
    context: usize,
}

/// How others are asked.
#[derive(Args)]
pub(crate) struct Asking {
    /// A ticket of somebody who serves, or of a run: the network whose providers are asked; may be given several times.
    #[arg(long, value_name = "TICKET")]
    ticket: Vec<net::Ticket>,
    /// Credits that are paid for a million tokens of questions and of answers, at most.
    #[arg(long, default_value = "0,0", value_name = "IN,OUT", value_parser = price)]
    max_price: Price,
    /// Credits that may be set aside for providers, in all.
    #[arg(long, default_value = "0", value_name = "CREDITS", value_parser = credits)]
    budget: Credits,
}

fn credits(text: &str) -> Result<Credits, String> {
    Credits::parse(text).map_err(|_| "an amount such as 2 or 0.05 is needed".into())
}

fn price(text: &str) -> Result<Price, String> {
    let (input, output) = text.split_once(',').unwrap_or((text, text));
    Ok(Price { input: credits(input)?, output: credits(output)? })
}

impl Models {
    /// Loads all of them; without any, and with nobody named who could be asked, what was trained here last.
    pub(crate) async fn load(&self, common: &Common, asking: &Asking) -> Result<Local> {
        let mut files = self.model.iter().map(|what| found(common, what)).collect::<Result<Vec<_>>>()?;
        let dir = common.dir();
        if files.is_empty()
            && asking.ticket.is_empty()
            && let Some(run) = node::newest(&dir)
        {
            eprintln!("no model and no network is named: what was trained here last, run {}", run.short());
            files.push((tokio::task::block_in_place(|| node::saved(&dir, &run)?.gguf())?, None));
        }
        let mut models: Vec<Served> = Vec::new();
        for (path, hash) in files {
            let served = self.load_one(common, path, hash).await?;
            let name = &served.card().name;
            ensure!(
                models.iter().all(|other| other.card().name != *name),
                "two models are called {name}: name their files differently"
            );
            models.push(served);
        }
        Ok(Local::new(models))
    }

    async fn load_one(&self, common: &Common, path: PathBuf, hash: Option<Hash>) -> Result<Served> {
        eprintln!("loading {}", path.display());
        let (threads, slots) = (common.threads(), usize::from(self.parallel));
        let config = EngineConfig { path, hash, threads, slots, context: self.context, memory: 0 };
        let loaded = tokio::task::spawn_blocking(move || Engine::load(config)).await.context("loading")??;
        let info = loaded.info();
        eprintln!(
            "{}: {:.0} M parameters in {}, {} answers at a time of {} tokens each, {} MB",
            info.name,
            info.parameters as f64 / 1e6,
            info.quantisation,
            info.slots,
            info.context,
            info.memory >> 20
        );
        Ok(Served::new(loaded))
    }
}

/// The file of a model, and what its content has to be where it was taken in before.
fn found(common: &Common, what: &str) -> Result<(PathBuf, Option<Hash>)> {
    let path = Path::new(what);
    if path.is_file() {
        return Ok((path.to_owned(), None));
    }
    if what.ends_with(".gguf") {
        bail!("there is no file {what}; `talkoo model pull` fetches models");
    }
    let models = Kept::of(&common.dir());
    let model = models.find(what)?;
    Ok((models.path(&model), Some(model.hash)))
}

impl Asking {
    /// A node that takes part in the market.
    pub(crate) async fn trade(
        &self,
        common: &Common,
        local: Local,
        offer: OfferConfig,
    ) -> Result<(Arc<Node>, Arc<Trade>)> {
        let dir = common.dir();
        if node::call(&dir, &node::Request::Status).await?.is_some() {
            bail!("a node runs on {} already; stop it, or name another folder with --data", dir.display());
        }
        let node = Node::start(common.node()).await?;
        let config = TradeConfig { offer, price: self.max_price, budget: self.budget };
        let trade = node.trade(local, config).await?;
        for ticket in &self.ticket {
            trade.join(ticket)?;
        }
        Ok((node, trade))
    }
}

pub(crate) async fn run(common: &Common, args: ServeArgs) -> Result<()> {
    ensure!((0.0..=2.0).contains(&args.temperature), "--temperature is between 0 and 2");
    let keys = Arc::new(Keys::new(node::api_keys(&common.dir())?));
    let local = args.models.load(common, &args.asking).await?;
    ensure!(!args.offer || !local.all().is_empty(), "there is nothing to offer: name a model with --model");
    let names: Vec<String> = local.all().iter().map(|served| served.card().name.clone()).collect();
    let offer = OfferConfig { public: args.offer, price: args.price };
    let (node, trade) = args.asking.trade(common, local, offer).await?;
    let tickets: Vec<String> = match args.offer {
        true => trade.networks().iter().map(|chain| trade.ticket(*chain).to_string()).collect(),
        false => Vec::new(),
    };
    let answers = Arc::new(trade.asker());
    let ServeArgs { demand_keys, answer_tokens, temperature, .. } = args;
    let gateway = Gateway { answers, keys, demand_keys, answer_tokens, temperature };
    let stop = CancellationToken::new();
    let (json, id) = (common.json, node.id());
    let ready = move |address: SocketAddr| {
        if json {
            let api = format!("http://{address}/v1");
            let ready = serde_json::json!({ "api": api, "models": names, "node": id.to_string(), "tickets": tickets });
            outln!("{ready}");
        } else {
            outln!("http://{address}/v1 answers any OpenAI client; http://{address}/ in a browser; Ctrl-C stops it");
            for ticket in &tickets {
                outln!("others ask these models with: talkoo run --ticket {ticket}");
            }
        }
    };
    tokio::select! {
        served = gateway::serve(gateway, args.listen, stop, ready) => served?,
        asked = crate::train::stopped() => asked?,
        () = node.stopped() => {}
    }
    trade.close().await;
    node.close().await
}
