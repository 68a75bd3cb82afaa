//! `talkoo serve`: models of this machine and of the network behind the OpenAI API.

use crate::Common;
use anyhow::{Context, Result, anyhow, bail, ensure};
use base::Hash;
use clap::Args;
use engine::{Engine, EngineConfig};
use gateway::{Gateway, Keys};
use ledger::Credits;
use market::Price;
use node::{Config, Node, NodePanel, NodeSettings};
use serving::{Local, Models as Kept, OfferConfig, Served, Trade, TradeConfig};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    models: Models,
    #[command(flatten)]
    asking: Asking,
    /// Where the API listens (default: 127.0.0.1:8080); beyond this machine it demands keys.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Offer these models to the networks of this node: others may ask them.
    #[arg(long)]
    offer: bool,
    /// Credits that others pay for a million tokens of questions and of answers (default: none).
    #[arg(long, value_name = "IN,OUT", value_parser = price)]
    price: Option<Price>,
    /// Take credits of this chain, too, whoever validates it; without it those of the own network, and of four and more validators.
    #[arg(long, value_name = "CHAIN")]
    accept: Vec<Hash>,
    /// Refuse requests without a key on this machine, too; `talkoo key create` makes one.
    #[arg(long)]
    demand_keys: bool,
    /// Tokens of an answer where a request names no bound (default: 2048).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    answer_tokens: Option<u64>,
    /// Temperature where a request names none (default: 1, as the API's own); small models say less nonsense at 0.
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
}

/// Models of this machine.
#[derive(Args)]
pub(crate) struct Models {
    /// A model to serve, as `talkoo model ls` names it, or a GGUF file; may be given several times. Without any, others
    /// are asked, or what was trained here last is served.
    #[arg(long, value_name = "NAME|FILE")]
    model: Vec<String>,
    /// Answers that are written at a time (default: 4); of two and more, others get all but one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: Option<u16>,
    /// Tokens of a question and its answer together (default: what the model was trained with, at most 8,192).
    #[arg(long, value_name = "N")]
    context: Option<usize>,
}

/// How others are asked.
#[derive(Args)]
pub(crate) struct Asking {
    /// A ticket of somebody who serves, or of a run: the network whose providers are asked; may be given several times.
    #[arg(long, value_name = "TICKET")]
    ticket: Vec<net::Ticket>,
    /// Credits that are paid for a million tokens of questions and of answers, at most (default: none).
    #[arg(long, value_name = "IN,OUT", value_parser = price)]
    max_price: Option<Price>,
    /// Credits that may be set aside for providers, in all, counted from the first start of this folder (default: none).
    #[arg(long, value_name = "CREDITS", value_parser = credits)]
    budget: Option<Credits>,
    /// Of 100 answers, how many are shown with their question to a second provider, which checks the first one
    /// (default: none).
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    check: Option<u8>,
}

fn credits(text: &str) -> Result<Credits, String> {
    Credits::parse(text).map_err(|_| "an amount such as 2 or 0.05 is needed".into())
}

fn price(text: &str) -> Result<Price, String> {
    let (input, output) = text.split_once(',').unwrap_or((text, text));
    Ok(Price { input: credits(input)?, output: credits(output)? })
}

impl Models {
    /// Whether any is named.
    pub(crate) fn is_any(&self) -> bool {
        !self.model.is_empty()
    }

    /// Loads all of them; without any, and with nobody named who could be asked, what was trained here last.
    pub(crate) async fn load(&self, common: &Common, asking: &Asking) -> Result<Local> {
        let dir = common.dir();
        let named = self.named(common).await?;
        if named.all().is_empty()
            && asking.tickets(common)?.is_empty()
            && let Some(run) = trainer::newest(&dir)
        {
            eprintln!("no model and no network is named: what was trained here last, run {}", run.short());
            let path = tokio::task::block_in_place(|| trainer::saved(&dir, &run)?.gguf())?;
            return Ok(Local::new(vec![self.load_one(common, path, None).await?]));
        }
        Ok(named)
    }

    /// The model that comes with the program, where there is no other.
    pub(crate) async fn starter(&self, common: &Common) -> Result<Local> {
        let models = Kept::of(&common.dir());
        let model = tokio::task::block_in_place(|| models.starter())?;
        let served = self.load_one(common, models.path(&model), Some(model.hash)).await?;
        eprintln!("{}", serving::STARTER_SAYS);
        Ok(Local::new(vec![served]))
    }

    /// What is named, here or in talkoo.toml.
    fn names<'a>(&'a self, common: &'a Common) -> &'a [String] {
        if self.model.is_empty() { &common.config.serve.models } else { &self.model }
    }

    /// Loads those that are named.
    pub(crate) async fn named(&self, common: &Common) -> Result<Local> {
        let mut models: Vec<Served> = Vec::new();
        for (path, hash) in self.names(common).iter().map(|what| found(common, what)).collect::<Result<Vec<_>>>()? {
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

    /// Loads one from a file whose content has to be `hash`, where that is known.
    pub(crate) async fn load_one(&self, common: &Common, path: PathBuf, hash: Option<Hash>) -> Result<Served> {
        eprintln!("loading {}", path.display());
        let set = &common.config.serve;
        let (threads, slots) = (common.threads(), usize::from(self.parallel.unwrap_or(set.parallel)));
        let context = self.context.unwrap_or(set.context);
        // What training has already is not there for a model.
        let memory = match common.config.limits.memory_mb {
            0 => 0,
            limit => (limit.saturating_sub(host::own_memory_mb().unwrap_or(0)) << 20).max(1),
        };
        // Models share it evenly.
        let models = self.names(common).len().max(1) as u64;
        let vram = match common.config.limits.vram_mb {
            0 => 0,
            limit => (limit.saturating_mul(1 << 20) / models).max(1),
        };
        let config = EngineConfig { path, hash, threads, slots, context, memory, vram };
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
    /// Whether what may be paid and shown is named.
    pub(crate) fn limits(&self) -> bool {
        self.max_price.is_some() || self.budget.is_some() || self.check.is_some()
    }

    /// Tickets of networks whose providers are asked.
    pub(crate) fn tickets(&self, common: &Common) -> Result<Vec<net::Ticket>> {
        if !self.ticket.is_empty() {
            return Ok(self.ticket.clone());
        }
        let tickets = common.config.ask.tickets.iter().map(|ticket| ticket.parse::<net::Ticket>());
        tickets.collect::<Result<_, _>>().context("talkoo.toml, [ask] tickets")
    }

    /// How a node takes part in the market.
    pub(crate) fn config(&self, common: &Common, offer: OfferConfig) -> TradeConfig {
        let set = &common.config.ask;
        let [input, output] = set.max_price;
        TradeConfig {
            offer,
            price: self.max_price.unwrap_or(Price { input, output }),
            budget: self.budget.unwrap_or(set.budget),
            check_percent: self.check.unwrap_or(set.check_percent).into(),
            for_names: set.for_names.clone(),
            providers: set.providers.clone(),
        }
    }

    /// A node that takes part in the market.
    pub(crate) async fn trade(
        &self,
        common: &Common,
        local: Local,
        offer: OfferConfig,
    ) -> Result<(Arc<Node>, Arc<Trade>)> {
        self.alone(common).await?;
        let node = Node::start(common.node()?).await?;
        let trade = self.enter(common, &node, local, offer).await?;
        Ok((node, trade))
    }

    /// Nobody else uses the data folder.
    async fn alone(&self, common: &Common) -> Result<()> {
        let dir = common.dir();
        if node::call(&dir, &node::ControlRequest::Status).await?.is_some() {
            bail!("a node runs on {} already; stop it, or name another folder with --data", dir.display());
        }
        Ok(())
    }

    /// A node's part in the market.
    async fn enter(&self, common: &Common, node: &Arc<Node>, local: Local, offer: OfferConfig) -> Result<Arc<Trade>> {
        let trade = node.trade(local, self.config(common, offer)).await?;
        for ticket in self.tickets(common)? {
            trade.join(&ticket)?;
        }
        Ok(trade)
    }
}

/// The API and the page of a node, and its part in the market.
pub(crate) struct Serving {
    /// Where a program of this machine reaches it.
    pub(crate) address: SocketAddr,
    /// Tickets by which others find its offers.
    pub(crate) tickets: Vec<String>,
    pub(crate) trade: Arc<Trade>,
    gateway: tokio::task::JoinHandle<Result<(), gateway::GatewayError>>,
    stop: CancellationToken,
}

impl ServeArgs {
    /// The settings as they are in force.
    pub(crate) fn in_force(&self, common: &Common) -> Config {
        let mut config = common.in_force();
        let (serve, ask) = (&mut config.serve, &mut config.ask);
        if self.models.is_any() {
            serve.models = self.models.model.clone();
        }
        serve.parallel = self.models.parallel.unwrap_or(serve.parallel);
        serve.context = self.models.context.unwrap_or(serve.context);
        serve.listen = self.listen.unwrap_or(serve.listen);
        serve.offer |= self.offer;
        serve.demand_keys |= self.demand_keys;
        serve.answer_tokens = self.answer_tokens.unwrap_or(serve.answer_tokens);
        serve.temperature = self.temperature.unwrap_or(serve.temperature);
        let both = |price: Price| [price.input, price.output];
        serve.price = self.price.map_or(serve.price, both);
        if !self.accept.is_empty() {
            serve.accept = self.accept.iter().map(Hash::to_string).collect();
        }
        ask.max_price = self.asking.max_price.map_or(ask.max_price, both);
        ask.budget = self.asking.budget.unwrap_or(ask.budget);
        ask.check_percent = self.asking.check.unwrap_or(ask.check_percent);
        if !self.asking.ticket.is_empty() {
            ask.tickets = self.asking.ticket.iter().map(ToString::to_string).collect();
        }
        config
    }

    /// Whether others may ask.
    fn offers(&self, common: &Common) -> bool {
        self.offer || common.config.serve.offer
    }

    /// The models that are named.
    pub(crate) async fn named(&self, common: &Common) -> Result<Local> {
        self.models.named(common).await
    }

    /// The model that comes with the program; none where models are offered to others.
    pub(crate) async fn starter(&self, common: &Common) -> Result<Local> {
        if self.offers(common) { Ok(Local::default()) } else { self.models.starter(common).await }
    }

    /// Loads a model as the others.
    pub(crate) async fn load_one(&self, common: &Common, path: PathBuf) -> Result<Served> {
        self.models.load_one(common, path, None).await
    }

    /// Begins to serve `local` with a node. A port that nobody asked for by name may be another one where it is taken.
    pub(crate) async fn open(
        &self,
        common: &Common,
        node: &Arc<Node>,
        local: Local,
        any_port: bool,
    ) -> Result<Serving> {
        let set = &common.config.serve;
        let temperature = self.temperature.unwrap_or(set.temperature);
        ensure!((0.0..=2.0).contains(&temperature), "--temperature is between 0 and 2");
        let public = self.offers(common);
        let [input, output] = set.price;
        let named = set
            .accept
            .iter()
            .map(|chain| chain.parse::<Hash>().context("[serve] accept"))
            .collect::<Result<Vec<_>>>()?;
        let accept = if self.accept.is_empty() { named } else { self.accept.clone() };
        let offer = OfferConfig { public, price: self.price.unwrap_or(Price { input, output }), accept };
        let trade = self.asking.enter(common, node, local, offer).await?;
        let listen = self.listen.unwrap_or(set.listen);
        let dir = common.dir();
        let keys = Keys::asking(serving::api_keys_as_they_change(&dir)?);
        let keys = Arc::new(keys.keeping(serving::api_used(&dir)?, serving::api_used_kept(&dir)));
        let gateway = || Gateway {
            answers: Arc::new(trade.asker()),
            keys: keys.clone(),
            demand_keys: self.demand_keys || set.demand_keys,
            answer_tokens: self.answer_tokens.unwrap_or(set.answer_tokens),
            temperature,
            panel: Some(Arc::new(NodePanel(node.clone()))),
        };
        let stop = CancellationToken::new();
        let begun = match begin(gateway(), listen, stop.clone()).await {
            Err(_) if any_port && self.listen.is_none() => {
                begin(gateway(), (listen.ip(), 0).into(), stop.clone()).await
            }
            begun => begun,
        };
        let (address, gateway) = begun?;
        let tickets = match public {
            true => trade.networks().iter().map(|chain| trade.ticket(*chain).to_string()).collect(),
            false => Vec::new(),
        };
        let address = from_here(address);
        Ok(Serving { address, tickets, trade, gateway, stop })
    }
}

/// Where a program of this machine reaches what listens there.
fn from_here(address: SocketAddr) -> SocketAddr {
    let own: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    if address.ip().is_unspecified() { SocketAddr::new(own, address.port()) } else { address }
}

/// Begins to answer; gives the address.
async fn begin(
    gateway: Gateway,
    listen: SocketAddr,
    stop: CancellationToken,
) -> Result<(SocketAddr, tokio::task::JoinHandle<Result<(), gateway::GatewayError>>)> {
    let (sender, ready) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(gateway::serve(gateway, listen, stop, move |address| {
        let _ = sender.send(address);
    }));
    match ready.await {
        Ok(address) => Ok((address, serving)),
        Err(_) => Err(serving.await?.err().map_or_else(|| anyhow!("the API ended at once"), Into::into)),
    }
}

impl Serving {
    /// Waits until the API ends by itself.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        Ok((&mut self.gateway).await??)
    }

    /// Ends it.
    pub(crate) async fn close(mut self) {
        self.stop.cancel();
        // It saves what keys have used, unless it ended before.
        if !self.gateway.is_finished() {
            let _ = (&mut self.gateway).await;
        }
        self.trade.close().await;
    }
}

pub(crate) async fn run(common: &Common, args: ServeArgs) -> Result<()> {
    let local = args.models.load(common, &args.asking).await?;
    ensure!(!args.offers(common) || !local.all().is_empty(), "there is nothing to offer: name a model with --model");
    let names: Vec<String> = local.all().iter().map(|served| served.card().name.clone()).collect();
    args.asking.alone(common).await?;
    let node = Node::start(common.node()?).await?;
    tokio::spawn(crate::update::give(node.clone()));
    let mut serving = args.open(common, &node, local, false).await?;
    let (address, tickets) = (serving.address, &serving.tickets);
    let api = format!("http://{address}/v1");
    node.show_as(NodeSettings { api: Some(api.clone()), config: args.in_force(common) });
    let stopped = crate::stop::stopped()?;
    if common.json {
        let id = node.id().to_string();
        outln!("{}", serde_json::json!({ "api": api, "models": names, "node": id, "tickets": tickets }));
    } else {
        outln!("{api} answers any OpenAI client; http://{address}/ in a browser; Ctrl-C stops it");
        for ticket in tickets {
            outln!("others ask these models with: talkoo run --ticket {ticket}");
        }
    }
    tokio::select! {
        ended = serving.ended() => ended?,
        () = stopped => {}
        () = node.stopped() => {}
    }
    serving.close().await;
    let closed = node.close().await;
    crate::update::go_on(common, &node)?;
    closed
}
