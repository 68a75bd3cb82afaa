//! A validator: the orderer between the engine, a disk and a network. It translates and decides nothing.

use crate::block::{Block, Genesis, Tx};
use crate::desk::{Desk, Refused};
use crate::engine::{Begin, Engine, EngineError, Mailbox, Timing};
use crate::orderer::{Answer, Orderer};
use crate::wires::{Blocked, Outgoing, Packet, engine_key, wires};
use base::{Hash, Keypair, Millis, NodeId, Reject, RejectCounts, Wire};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Where blocks are kept. What a call gave back is on disk, whatever happens next.
pub trait Disk: Send + Sync + 'static {
    /// Keeps a block that may become final.
    fn keep(&self, hash: &Hash, block: &[u8]) -> std::io::Result<()>;
    /// Blocks kept that are not final.
    fn kept(&self) -> std::io::Result<Vec<Vec<u8>>>;
    /// Appends final blocks, in order, the last one with the certificate that makes them final; lets go of
    /// others at their heights.
    fn finish(&self, blocks: &[Block], certificate: &[u8]) -> std::io::Result<()>;
    /// The final block at a height.
    fn block(&self, height: u64) -> std::io::Result<Option<Vec<u8>>>;
}

/// What a validator begins with.
pub struct ValidatorConfig {
    /// The network.
    pub genesis: Genesis,
    /// Its consensus key: the one of its seat.
    pub key: Keypair,
    /// Folder of the engine's journal.
    pub journal: PathBuf,
    /// Its blocks.
    pub disk: Arc<dyn Disk>,
    /// How patient it is.
    pub timing: Timing,
}

/// The validator's network: packets out, with whom they are for; packets in, with whom they are from,
/// authenticated by their consensus keys.
pub struct Connections {
    /// Out.
    pub out: Outgoing,
    /// In.
    pub incoming: mpsc::Receiver<(NodeId, Packet)>,
}

/// A running validator. Dropped, it stops.
pub struct Validator {
    orderer: Arc<Mutex<Orderer>>,
    arrived: Arc<Notify>,
    height: watch::Receiver<u64>,
    trouble: watch::Receiver<Option<String>>,
    blocked: Blocked,
    refused: Refused,
    out: Outgoing,
    others: Vec<NodeId>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    task: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Why a validator cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ValidatorError {
    /// The engine cannot.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The disk cannot be read.
    #[error("the chain on disk: {0}")]
    Disk(#[from] std::io::Error),
    /// What is on the disk does not follow.
    #[error("the chain on disk does not add up at height {0}: {1}")]
    Damaged(u64, Reject),
}

/// The chain on a disk, as far as it is final.
pub fn replay(genesis: &Genesis, disk: &dyn Disk) -> Result<Orderer, ValidatorError> {
    let mut orderer = Orderer::new(genesis);
    for height in 1.. {
        let Some(bytes) = disk.block(height)? else { break };
        let block = Block::from_bytes(&bytes).map_err(|_| ValidatorError::Damaged(height, Reject::Malformed))?;
        let hash = orderer.body(block);
        orderer.finalized(&hash).map_err(|answer| match answer {
            Answer::Invalid(reject) => ValidatorError::Damaged(height, reject),
            _ => ValidatorError::Damaged(height, Reject::NotHeld),
        })?;
    }
    for bytes in disk.kept()? {
        if let Ok(block) = Block::from_bytes(&bytes) {
            orderer.body(block);
        }
    }
    Ok(orderer)
}

impl Validator {
    /// Goes on with the chain on its disk.
    pub fn start(config: ValidatorConfig, connections: Connections) -> Result<Self, ValidatorError> {
        let orderer = replay(&config.genesis, config.disk.as_ref())?;
        let me = config.key.id();
        let validators = config.genesis.validators.clone();
        let others: Vec<NodeId> = validators.iter().filter(|id| **id != me).copied().collect();
        let peers = others.iter().filter_map(engine_key).collect();
        let (ends, inlet) = wires(peers, 0, &connections.out);
        let (mailbox, asked) = mpsc::unbounded_channel();
        let begin = Begin {
            dir: config.journal,
            chain: config.genesis.chain(),
            key: config.key,
            validators,
            epoch: 0,
            genesis: config.genesis.block().hash(),
            timing: config.timing,
        };
        let engine = Engine::start(begin, Mailbox(mailbox), ends, inlet.blocked.clone())?;
        let (height, trouble) = (watch::Sender::new(orderer.state().height()), watch::Sender::default());
        let (orderer, arrived) = (Arc::new(Mutex::new(orderer)), Arc::new(Notify::new()));
        let refused = Refused::default();
        let (heights, troubles, blocked) = (height.subscribe(), trouble.subscribe(), inlet.blocked.clone());
        let desk = Desk {
            orderer: orderer.clone(),
            disk: config.disk,
            out: connections.out.clone(),
            others: others.clone(),
            inlet,
            height,
            trouble,
            hold: config.timing.hold(),
            proposal: None,
            questions: Vec::new(),
            asked_for: None,
            wanted: BTreeSet::new(),
            given: BTreeMap::new(),
            refused: refused.clone(),
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(desk.run(engine, asked, connections.incoming, arrived.clone(), stopped));
        Ok(Self {
            orderer,
            arrived,
            height: heights,
            trouble: troubles,
            blocked,
            refused,
            out: connections.out,
            others,
            stop: Mutex::new(Some(stop)),
            task: tokio::sync::Mutex::new(Some(task)),
        })
    }

    /// Takes an encoded transaction, or refuses it with a reason, and tells the other validators.
    pub fn submit(&self, bytes: &[u8]) -> Result<(), Reject> {
        let tx = Tx::from_bytes(bytes).map_err(|_| Reject::Malformed)?;
        self.look(|orderer| orderer.submit(tx))?;
        self.arrived.notify_one();
        if !self.others.is_empty() {
            let _ = self.out.send((self.others.clone(), Packet::Tx(bytes.to_vec())));
        }
        Ok(())
    }

    /// Height of the last final block, as it grows.
    pub fn height(&self) -> watch::Receiver<u64> {
        self.height.clone()
    }

    /// Why the chain stands still here, if it does.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
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

    /// Looks at the chain.
    pub fn look<T>(&self, look: impl FnOnce(&mut Orderer) -> T) -> T {
        look(&mut self.orderer.lock().expect("the orderer does not panic"))
    }
}

/// Unix time.
pub fn clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(since.as_millis() as u64)
}
