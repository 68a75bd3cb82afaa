//! A keeper of a chain: the orderer between the consensus engine, a disk and a network. It translates and
//! decides nothing. With a key that has a seat it is a validator; without one it follows.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use crate::actor::{Actor, Offer, Refused, SILENT_MS, Work};
use crate::clock::clock;
use crate::disk::{Disk, Note};
use crate::end::{Failure, Shared};
use crate::wires::{Blocked, Outgoing, Packet};
use base::{Keypair, NodeId, Reject, RejectCounts, Wire};
use chain::{Block, Genesis, Judgement, Orderer, State, Tx};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// What a keeper begins with.
pub struct ReplicaConfig {
    /// The network.
    pub genesis: Genesis,
    /// Its consensus key; it votes in the epochs whose set has it.
    pub key: Option<Keypair>,
    /// Folder of the engine's journal: never copied, never deleted while its key votes.
    pub journal: PathBuf,
    /// Its blocks.
    pub disk: Arc<dyn Disk>,
    /// Whether a chain that fails ends the process: so for the node's own, never for one that is only followed.
    pub ends: bool,
    /// Told of every block that became final, and of what it did; after a restart again of those since the
    /// last whole state.
    pub note: Arc<Note>,
}

/// The keeper's network: packets out, with whom they are for; packets in, with whom they are from,
/// authenticated by their consensus keys.
pub struct Connections {
    /// Out.
    pub out: Outgoing,
    /// In.
    pub incoming: mpsc::Receiver<(NodeId, Packet)>,
}

/// A running keeper. Dropped, it stops.
pub struct Replica {
    orderer: Shared,
    me: Option<NodeId>,
    arrived: Arc<Notify>,
    offers: mpsc::Sender<Offer>,
    height: watch::Receiver<u64>,
    trouble: watch::Receiver<Option<String>>,
    blocked: Blocked,
    refused: Refused,
    out: Outgoing,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    task: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Why a keeper cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// No network begins like this.
    #[error("the genesis is not one that a network can begin with: {0}")]
    Genesis(Reject),
    /// The disk cannot be read.
    #[error("the chain on disk: {0}")]
    Disk(#[from] std::io::Error),
    /// What is on the disk does not follow.
    #[error("the chain on disk does not add up at height {0}: {1}")]
    Damaged(u64, Reject),
}

/// A validator whose newest block is so old has missed some, for a heartbeat comes every five seconds.
const LATE_MS: u64 = 30_000;
/// Offers that wait to be taken: each may be 64 MiB, and who makes one waits for its answer.
const OFFERS: usize = 2;

/// The chain on a disk, as far as it is final.
pub fn replay(genesis: &Genesis, disk: &dyn Disk, note: &Note) -> Result<Orderer, ReplicaError> {
    genesis.check().map_err(ReplicaError::Genesis)?;
    let mut orderer = match disk.state()? {
        // What this node wrote itself is believed; the blocks after it must follow from it all the same.
        Some(bytes) => {
            Orderer::behind_state(State::from_snapshot(genesis, &bytes).map_err(|r| ReplicaError::Damaged(0, r))?)
        }
        None if genesis.recovers.is_some() => return Err(ReplicaError::Damaged(0, Reject::NotHeld)),
        None => Orderer::new(genesis),
    };
    for height in orderer.state().height().saturating_add(1).. {
        let Some(bytes) = disk.block(height)? else { break };
        let block = Block::from_bytes(&bytes).map_err(|_| ReplicaError::Damaged(height, Reject::Malformed))?;
        let hash = orderer.body(block);
        let done = orderer.finalized(&hash).map_err(|answer| match answer {
            Judgement::Invalid(reject) => ReplicaError::Damaged(height, reject),
            _ => ReplicaError::Damaged(height, Reject::NotHeld),
        })?;
        done.iter().for_each(|(block, happened)| note(block, happened));
    }
    for bytes in disk.kept()? {
        if let Ok(block) = Block::from_bytes(&bytes) {
            orderer.body(block);
        }
    }
    Ok(orderer)
}

impl Replica {
    /// Goes on with the chain on its disk.
    pub fn start(config: ReplicaConfig, connections: Connections) -> Result<Self, ReplicaError> {
        let orderer = replay(&config.genesis, config.disk.as_ref(), config.note.as_ref())?;
        let (height, trouble) = (watch::Sender::new(orderer.state().height()), watch::Sender::default());
        let (heights, troubles) = (height.subscribe(), trouble.subscribe());
        let failure = Failure { ends: config.ends, trouble: trouble.clone(), failed: Arc::default() };
        let orderer = Shared::new(orderer, config.genesis.clone(), failure.clone());
        let arrived = Arc::new(Notify::new());
        let (refused, blocked) = (Refused::default(), Blocked::default());
        let me = config.key.as_ref().map(Keypair::id);
        let desk = Actor {
            orderer: orderer.clone(),
            disk: config.disk,
            note: config.note,
            chain: config.genesis.chain(),
            genesis: config.genesis.block().hash(),
            key: config.key,
            journal: config.journal,
            silent_ms: SILENT_MS.min(config.genesis.epoch_ms / 4),
            out: connections.out.clone(),
            height,
            trouble,
            blocked: blocked.clone(),
            refused: refused.clone(),
            work: Work::default(),
        };
        let (stop, stopped) = oneshot::channel();
        let (offers, offered) = mpsc::channel(OFFERS);
        let desk = tokio::spawn(desk.run(connections.incoming, offered, arrived.clone(), stopped));
        let task = tokio::spawn(async move {
            if let Some(panic) = desk.await.err().and_then(|error| error.try_into_panic().ok()) {
                failure.fail_by_panic(panic.as_ref());
            }
        });
        Ok(Self {
            orderer,
            me,
            arrived,
            offers,
            height: heights,
            trouble: troubles,
            blocked,
            refused,
            out: connections.out,
            stop: Mutex::new(Some(stop)),
            task: tokio::sync::Mutex::new(Some(task)),
        })
    }

    /// Takes final blocks that another node gave, in order from the next one on, with a certificate for the last.
    pub async fn offer(&self, blocks: Vec<Block>, certificate: Vec<u8>) -> Result<(), Reject> {
        let (taken, answer) = oneshot::channel();
        self.offers.send(Offer { blocks, certificate, taken }).await.map_err(|_| Reject::Ended)?;
        answer.await.map_err(|_| Reject::Ended)?
    }

    /// Whether it validates and has a block of late: otherwise it is well to follow another, too.
    pub fn keeps_up(&self) -> bool {
        let time = self.look(|orderer| orderer.state().time());
        self.validates() && clock().since(time) < LATE_MS
    }

    /// Whether this node's key is in the set of the current epoch.
    pub fn validates(&self) -> bool {
        self.look(|orderer| self.me.is_some_and(|me| orderer.state().validators().contains(&me)))
    }

    /// Takes an encoded transaction, or refuses it with a reason, and tells the other validators; says whether
    /// it is new.
    pub fn submit(&self, bytes: &[u8]) -> Result<bool, Reject> {
        let tx = Tx::from_bytes(bytes).map_err(|_| Reject::Malformed)?;
        let new = self.look(|orderer| orderer.submit(tx))?;
        self.arrived.notify_one();
        if !self.validates() {
            return Ok(new);
        }
        let mut to = self.look(|orderer| orderer.state().validators().to_vec());
        to.retain(|id| Some(*id) != self.me);
        if !to.is_empty() {
            let _ = self.out.send((to, Packet::Tx(bytes.to_vec())));
        }
        Ok(new)
    }

    /// Tells, whenever asked, which node has which seat.
    pub fn seats(&self) -> impl Fn() -> Vec<(NodeId, NodeId)> + Send + 'static {
        let orderer = self.orderer.clone();
        move || orderer.look(|orderer| orderer.state().money().seats().map(|(key, seat)| (*key, seat.node)).collect())
    }

    /// Height of the last final block, as it grows.
    pub fn height(&self) -> watch::Receiver<u64> {
        self.height.clone()
    }

    /// Why the chain stands still here, if it does.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Whether it stopped for good because its chain or its disk failed; [`trouble`](Self::trouble) says why. One that
    /// ends the process never gets here.
    pub fn has_failed(&self) -> bool {
        self.orderer.failure.has_failed()
    }

    /// Validators that this one hears no more: they sent what no honest one sends.
    pub fn blocked(&self) -> Vec<NodeId> {
        self.blocked.nodes()
    }

    /// Stops, with the journal on disk when this returns.
    pub async fn stop(&self) {
        self.stop.lock().expect("nobody panics while holding it").take();
        if let Some(task) = self.task.lock().await.take() {
            let _ = task.await;
        }
    }

    /// Counts something that a peer got wrong.
    pub fn count(&self, reject: Reject) {
        self.refused.lock().expect("nobody panics while holding it").add(reject);
    }

    /// What was refused of peers, by reason.
    pub fn refused(&self) -> RejectCounts {
        self.refused.lock().expect("nobody panics while holding it").clone()
    }

    /// Looks at the chain. A panic in there [ends the process](crate::EXIT_PANIC), for what it left half done would be
    /// taken for the state; where the chain is only followed, it ends the keeper.
    ///
    /// # Panics
    /// When `look` does and the process lives on.
    pub fn look<T>(&self, look: impl FnOnce(&mut Orderer) -> T) -> T {
        self.orderer.look(look)
    }
}
