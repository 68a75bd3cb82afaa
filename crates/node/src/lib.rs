//! A node: composition and drivers. The pure machines decide; here threads compute, sockets carry
//! and disks keep.
//!
//! *Goals*: kill it anywhere and start it again, and it goes on. *Non-goals*: decisions.

mod activity;
mod config;
mod control;
#[cfg(feature = "serve")]
mod market;
mod programs;
mod recruiter;
mod relay;
mod request;
mod runs;
mod sample;
mod shared;
mod supervisor;
mod vault;
pub mod view;
mod wallet;

pub use activity::{Activity, ActivityReason, MachineState};
pub use config::{AskTable, Config, LimitsTable, NodeTable, Presence, ScheduleTable, ServeTable, TEMPLATE, When};
#[cfg(feature = "serve")]
pub use market::{AnswerStream, Said, tell};
pub use net::{RelayAddr, RelayKey};
pub use recruiter::{Moved, Recruiter};
pub use relay::relay_key;
pub use request::{ControlRequest, NextProgram, call};
pub use supervisor::Supervisor;
pub use vault::{new_wallet, open_wallet, restore_wallet, wallet_account, wallet_words};
#[cfg(feature = "serve")]
pub use view::NodePanel;
pub use view::{NodeSettings, Panel, Recorded, Status, utc};
pub use wallet::{
    AccountStatus, BlockStatus, ChainStatus, Deed, ProofFile, Proved, SpendError, TxPart, TxStatus, Unsettled,
};

use anyhow::{Context, Result, bail};
use base::{Hash, NodeId};
use ledger::Credits;
use net::{Address, Net, PeerInfo, Ticket};
use replica::{ChainLog, Chains, home};
use runs::RunLog;
use shared::Shared;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use swarm::{RunId, Spec, WorkTx};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use trainer::{Bounds, Contents, DriverOrder, Limits, RunStatus, Setup, Store};

/// How a node runs.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The data folder.
    pub dir: PathBuf,
    /// Where it listens; port 0 = any.
    pub bind: SocketAddr,
    /// Whether nodes of the local network are found by mDNS.
    pub mdns: bool,
    /// Relays that may help behind a router.
    pub relays: Vec<net::RelayAddr>,
    /// Bytes of content a second that may go and come; 0: no limit.
    pub rates: (u64, u64),
    /// Whether it computes nothing for others before [`Node::mind`].
    pub minded: bool,
    /// What training may use.
    pub limits: Limits,
    /// Device of the trainer.
    pub device: String,
    /// Held-out tokens measured at each checkpoint; 0 = none.
    pub eval_tokens: u64,
}

impl NodeConfig {
    /// How peers are reached, under the key of `secret`.
    pub fn net(&self, secret: [u8; 32]) -> net::NetConfig {
        net::NetConfig { secret, bind: self.bind, mdns: self.mdns, relays: self.relays.clone(), rates: self.rates }
    }
}

/// A running node.
pub struct Node {
    shared: Arc<Shared>,
    drivers: Mutex<BTreeMap<Hash, mpsc::Sender<DriverOrder>>>,
    status: watch::Sender<Status>,
    stop: CancellationToken,
    tasks: Mutex<tokio::task::JoinSet<Result<()>>>,
    parts: watch::Sender<BTreeMap<Hash, Vec<RunStatus>>>,
    idling: std::sync::OnceLock<Arc<Supervisor>>,
    /// Where the API listens, and the settings as they are shown.
    shown: std::sync::Mutex<(Option<String>, view::panel::SettingsView)>,
    begun: std::time::Instant,
    /// With which program the owner wants it to go on.
    next: std::sync::OnceLock<NextProgram>,
    #[cfg(feature = "serve")]
    shares: market::Shares,
    #[cfg(feature = "serve")]
    trade: std::sync::OnceLock<std::sync::Weak<serving::Trade>>,
}

/// Orders that wait for a driver.
const ORDERS: usize = 64;

/// A run is on the chain after so long, or something is wrong.
const CREATED_WITHIN: Duration = Duration::from_secs(30);

impl Node {
    /// As which program it is to go on, where it ended for that.
    pub fn next_program(&self) -> Option<&NextProgram> {
        self.next.get()
    }

    /// Opens the data folder and goes on with every run in it.
    pub async fn start(config: NodeConfig) -> Result<Arc<Self>> {
        let store = Arc::new(Store::open(&config.dir)?);
        let key = store.keypair()?;
        let contents = Arc::new(Contents::default());
        let accounts = [Some(key.id()), wallet_account(&config.dir)?].into_iter().flatten().collect();
        let chains = Arc::new(Chains::new(&config.dir, home(store.folder(), accounts, config.device.clone())?));
        let net = Arc::new(
            Net::open(config.net(key.secret()), contents.clone(), Some(chains.clone()), Some(chains.clone())).await?,
        );
        let duty = Arc::new(watch::Sender::new(if config.minded { 0 } else { config.limits.duty_percent }));
        let dir = config.dir.clone();
        let bounds = Box::new(move || {
            let config = Config::of(&dir)?;
            let (memory_mb, vram_mb) = (config.limits.memory_mb, config.limits.vram_mb);
            Ok(Bounds { disk: config.disk_budget(&dir), memory_mb, vram_mb })
        });
        let setup = Arc::new(Setup {
            store,
            contents,
            net,
            key,
            limits: config.limits,
            duty,
            answers: Default::default(),
            drains: Arc::new(watch::Sender::new(false)),
            device: config.device,
            eval_tokens: config.eval_tokens,
            bounds,
        });
        let shared = Arc::new(Shared { setup, chains });
        let stop = CancellationToken::new();
        let tasks = tokio::task::JoinSet::new();
        let node = Arc::new(Self {
            shared,
            drivers: Mutex::default(),
            status: watch::Sender::default(),
            stop,
            tasks: Mutex::new(tasks),
            parts: watch::Sender::default(),
            idling: std::sync::OnceLock::new(),
            shown: std::sync::Mutex::default(),
            begun: std::time::Instant::now(),
            next: std::sync::OnceLock::new(),
            #[cfg(feature = "serve")]
            shares: market::Shares::default(),
            #[cfg(feature = "serve")]
            trade: std::sync::OnceLock::new(),
        });
        #[cfg(feature = "serve")]
        if let Err(error) = node.share_models() {
            tracing::warn!(%error, "published models are not given to peers");
        }
        node.show();
        let home = node.shared.chains.home.clone();
        if let Some(kept) = home.kept() {
            kept.connect(&node.shared.net);
        }
        node.tasks.lock().await.spawn(wallet::reseat(node.clone(), node.stop.clone()));
        node.shared.chains.follow(home, &node.shared.net, &node.stop);
        for followed in node.shared.store.followed()? {
            tracing::info!(run = %followed.run.short(), "rejoining");
            node.follow(followed.ticket).await?;
        }
        let listener = control::listen(&config.dir)?;
        node.tasks.lock().await.spawn(control::serve(node.clone(), listener, node.stop.clone()));
        Ok(node)
    }

    /// Who this node is.
    pub fn id(&self) -> NodeId {
        self.shared.net.id()
    }

    /// Where it can be reached.
    pub fn address(&self) -> Address {
        self.shared.net.address()
    }

    /// Creates a run on this node's log, joins it, and gives the ticket for others. `corpus` is the
    /// folder of a built corpus; `weights` are flat initial weights where the run does not start from its seed;
    /// `budget` is paid into the run's budget as soon as the chain has the run.
    pub async fn create(
        self: &Arc<Self>,
        spec: Spec,
        corpus: &Path,
        weights: Option<Vec<f32>>,
        budget: Credits,
    ) -> Result<Ticket> {
        let manifest = tokio::task::block_in_place(|| trainer::import(&self.shared.store, corpus))?;
        if manifest.root() != spec.manifest {
            bail!("the run names another corpus than {}", corpus.display());
        }
        let id = spec.id(&self.id());
        if let Some(theta) = weights {
            trainer::give_weights(&self.shared.store, &id, &spec, theta)?;
        }
        let home = self.shared.chains.home.clone();
        let ticket = Ticket { chain: home.chain(), run: id, anchor: None, peers: vec![self.address()] };
        let driver = self.driver(home).await;
        let gone = || anyhow::anyhow!("the node is stopping");
        driver.send(DriverOrder::Say(WorkTx::Create { spec })).await.map_err(|_| gone())?;
        driver.send(DriverOrder::Follow(ticket.clone())).await.map_err(|_| gone())?;
        // Who has the ticket can name the run: it is on the chain.
        let run = id.to_string();
        let mut status = self.watch();
        let known =
            status.wait_for(|status| status.runs.iter().any(|shown| shown.run == run && !shown.name.is_empty()));
        match tokio::time::timeout(CREATED_WITHIN, known).await {
            Ok(known) => known.map(|_| ()).map_err(|_| gone())?,
            Err(_) => bail!("the chain did not take the run: {}", self.status().trouble.unwrap_or_default()),
        }
        // Not before: the chain takes no money for a run that it does not know.
        if budget > Credits::ZERO {
            self.spend(None, ledger::WalletTx::Fund { pot: id, amount: budget })
                .await
                .context("the run is created, but nothing was paid into its budget; `talkoo wallet fund` does it")?;
        }
        Ok(self.ticket(&ticket))
    }

    /// Takes part in the run of a ticket because its owner says so: it is not left again unasked.
    pub async fn join(self: &Arc<Self>, ticket: Ticket) -> Result<()> {
        recruiter::owned(&self.shared.store, &ticket.run);
        self.follow(ticket).await
    }

    /// Takes part in the run of a ticket.
    pub async fn follow(self: &Arc<Self>, ticket: Ticket) -> Result<()> {
        ticket.peers.first().context("the ticket names no node")?;
        if ticket.run == Hash::default() {
            bail!("this is the ticket of somebody who serves, not of a run: `talkoo run --ticket` asks there");
        }
        ticket.peers.iter().for_each(|address| self.shared.net.know(address));
        let anchor = ticket.anchor.map(|(height, hash)| chain::Anchor { height, hash });
        let log = self.shared.chains.enter(&self.shared.net, ticket.chain, anchor, &self.stop)?;
        log.add_sources(ticket.peers.iter().map(|address| address.node));
        self.enter_run(log, ticket).await
    }

    /// Has the driver of a chain take part in a run; it is shown when this returns.
    async fn enter_run(self: &Arc<Self>, log: Arc<ChainLog>, ticket: Ticket) -> Result<()> {
        let (run, mut status) = (ticket.run.to_string(), self.watch());
        let gone = || anyhow::anyhow!("the node is stopping");
        let driver = self.driver(log).await;
        driver.send(DriverOrder::Follow(ticket)).await.map_err(|_| gone())?;
        let shown = status.wait_for(|status| status.runs.iter().any(|shown| shown.run == run));
        tokio::select! {
            shown = shown => shown.map(|_| ()).map_err(|_| gone()),
            () = driver.closed() => Err(gone()),
        }
    }

    /// Leaves a run: committed units stay paid for, nobody waits. It is not taken again unasked.
    pub async fn leave(&self, run: RunId) -> Result<()> {
        recruiter::owned(&self.shared.store, &run);
        self.quit(run).await
    }

    async fn quit(&self, run: RunId) -> Result<()> {
        let drivers = self.drivers.lock().await;
        if !self.status().runs.iter().any(|status| status.run == run.to_string()) {
            bail!("this node is in no run {run}; `talkoo train ls` lists them");
        }
        for driver in drivers.values() {
            let _ = driver.send(DriverOrder::Leave(run)).await;
        }
        drop(drivers);
        // Shown no more, it is written down.
        let (run, mut status) = (run.to_string(), self.watch());
        tokio::select! {
            _ = status.wait_for(|status| status.runs.iter().all(|shown| shown.run != run)) => Ok(()),
            () = self.stop.cancelled() => bail!("the node is stopping"),
        }
    }

    /// What the node shows of itself.
    pub fn status(&self) -> Status {
        let (refused, sent_bytes) = self.counts();
        let trouble = self.shared.chains.home.trouble();
        Status { trouble, refused, sent_bytes, ..self.status.borrow().clone() }
    }

    /// The same, as it changes.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The way to a peer.
    pub async fn ping(&self, peer: NodeId) -> Result<Vec<PeerInfo>> {
        if peer == self.id() {
            bail!("{} is this node itself", peer.short());
        }
        let pinged = self.shared.net.ping(peer).await;
        pinged.map_err(|_| anyhow::anyhow!("{} does not answer, or its address is not known here", peer.short()))
    }

    /// Stops every task, writes what is in memory and closes the network.
    pub async fn close(&self) -> Result<()> {
        self.stop.cancel();
        let mut tasks = self.tasks.lock().await;
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            result = result.and(ended.map_err(anyhow::Error::from).flatten());
        }
        self.shared.chains.stopped().await;
        for kept in self.shared.chains.all().iter().filter_map(|log| log.kept()) {
            kept.keeper.stop().await;
        }
        self.shared.net.close().await;
        result
    }

    /// Resolves when the node was asked to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// The ticket by which others join now: it names the newest block, and the nodes as they are reached now.
    fn ticket(&self, ticket: &Ticket) -> Ticket {
        self.shared.chains.fresh(&self.address(), ticket)
    }

    async fn driver(self: &Arc<Self>, log: Arc<ChainLog>) -> mpsc::Sender<DriverOrder> {
        let chain = log.chain();
        let mut drivers = self.drivers.lock().await;
        if let Some(driver) = drivers.get(&chain) {
            return driver.clone();
        }
        let (sender, orders) = mpsc::channel(ORDERS);
        let (status, mut changed) = watch::channel(Vec::new());
        let mut tasks = self.tasks.lock().await;
        let stop = self.stop.child_token();
        let mut run = tokio::task::JoinSet::new();
        let log = Arc::new(RunLog { log, net: self.shared.net.clone() });
        run.spawn(trainer::drive(self.shared.setup.clone(), log, orders, status, stop.clone()));
        let (stopped, node) = (stop.clone(), Arc::downgrade(self));
        tasks.spawn(async move {
            let ended = run.join_next().await.context("a driver")?.map_err(anyhow::Error::from).flatten();
            match (ended, node.upgrade()) {
                (Err(error), Some(node)) if !stopped.is_cancelled() => node.undriven(chain, error).await,
                (ended, _) => ended,
            }
        });
        let node = Arc::downgrade(self);
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    change = changed.changed() => if change.is_err() { return Ok(()) },
                }
                let Some(node) = node.upgrade() else { return Ok(()) };
                let runs = changed.borrow_and_update().clone();
                node.parts.send_modify(|parts| {
                    parts.insert(chain, runs);
                });
                node.show();
            }
        });
        drivers.insert(chain, sender.clone());
        sender
    }

    /// What drives the runs of a chain ended by itself. Without that of its own chain the node would show what was, and do
    /// nothing: it ends. A chain of others ends nothing but its runs here, until somebody orders something on it again.
    async fn undriven(&self, chain: Hash, error: anyhow::Error) -> Result<()> {
        let text = format!("{error:#}");
        if chain == self.shared.chains.home.chain() {
            tracing::error!(error = text, "what drives the runs of the node's own chain ended, and the node with it");
            self.stop.cancel();
            return Err(error);
        }
        tracing::error!(error = text, chain = %chain.short(), "what drives the runs of a chain ended");
        self.drivers.lock().await.remove(&chain);
        self.parts.send_modify(|parts| {
            for run in parts.get_mut(&chain).into_iter().flatten() {
                run.trouble = Some(format!("its rounds go on without this node until it starts again: {text}"));
            }
        });
        self.show();
        Ok(())
    }

    /// What was refused, by reason, and bytes of content sent.
    fn counts(&self) -> (Vec<(String, u64)>, u64) {
        let (rejects, sent_bytes) = self.shared.contents.counts();
        (rejects.iter().map(|(reject, n)| (reject.name().to_owned(), n)).collect(), sent_bytes)
    }

    fn show(&self) {
        let (refused, sent_bytes) = self.counts();
        let address = self.address();
        let status = Status {
            node: self.id().to_string(),
            addresses: address.sockets.iter().map(SocketAddr::to_string).collect(),
            runs: self.parts.borrow().values().flatten().cloned().collect(),
            refused,
            sent_bytes,
            trouble: None,
        };
        self.status.send_replace(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_drives_a_chain_of_others_ends_without_the_node() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = NodeConfig {
            dir: dir.path().to_owned(),
            bind: ([127, 0, 0, 1], 0).into(),
            mdns: false,
            relays: vec![],
            rates: (0, 0),
            minded: false,
            limits: Limits { threads: 1, duty_percent: 100 },
            device: "cpu".into(),
            eval_tokens: 0,
        };
        let node = Node::start(config).await.expect("a node starts");
        let (home, theirs) = (node.shared.chains.home.chain(), Hash([7; 32]));
        node.parts.send_modify(|parts| {
            parts.insert(theirs, vec![RunStatus { run: "a run".into(), ..RunStatus::default() }]);
        });
        let error = || anyhow::anyhow!("a panic");
        node.undriven(theirs, error()).await.expect("it ends nothing else");
        assert!(!node.stop.is_cancelled());
        let shown = node.status().runs;
        assert!(shown[0].trouble.as_deref().is_some_and(|text| text.contains("a panic")), "{shown:?}");
        node.undriven(home, error()).await.expect_err("without it the node does nothing");
        assert!(node.stop.is_cancelled());
        node.close().await.expect("it ends");
    }
}
