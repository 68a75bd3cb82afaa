//! A validator: the orderer between the engine, a disk and a network. It translates and decides nothing.

use crate::block::{Block, Genesis, Tx};
use crate::engine::{Asked, Begin, Engine, EngineError, Mailbox, Timing};
use crate::orderer::{Answer, Orderer};
use crate::state::Happened;
use crate::wires::{Blocked, Inlet, Outgoing, Packet, engine_key, wires};
use base::{Hash, Keypair, Millis, NodeId, Reject, Wire};
use commonware_cryptography::blake3::Digest;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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

/// A missing block is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// A disk that takes nothing is tried again after so long.
const DISK_AGAIN: Duration = Duration::from_secs(1);

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
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(desk.run(engine, asked, connections.incoming, arrived.clone(), stopped));
        Ok(Self {
            orderer,
            arrived,
            height: heights,
            trouble: troubles,
            blocked,
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

    /// Looks at the chain.
    pub fn look<T>(&self, look: impl FnOnce(&mut Orderer) -> T) -> T {
        look(&mut self.orderer.lock().expect("the orderer does not panic"))
    }
}

/// A question of the engine that cannot be answered yet.
enum Question {
    Verify { parent: Hash, block: Hash, answer: oneshot::Sender<bool> },
    Certify { block: Hash, answer: oneshot::Sender<bool> },
    Final { block: Hash, certificate: Vec<u8> },
}

/// The leader's turn.
struct Proposal {
    parent: Hash,
    answer: oneshot::Sender<Digest>,
    until: Millis,
}

/// What the validator's task works on.
struct Desk {
    orderer: Arc<Mutex<Orderer>>,
    disk: Arc<dyn Disk>,
    out: Outgoing,
    others: Vec<NodeId>,
    inlet: Inlet,
    height: watch::Sender<u64>,
    trouble: watch::Sender<Option<String>>,
    hold: Duration,
    proposal: Option<Proposal>,
    questions: Vec<Question>,
    /// The block that was last asked for, and when.
    asked_for: Option<(Hash, Millis)>,
}

/// Unix time.
pub fn clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(since.as_millis() as u64)
}

impl Desk {
    async fn run(
        mut self,
        mut engine: Engine,
        mut asked: mpsc::UnboundedReceiver<Asked>,
        mut incoming: mpsc::Receiver<(NodeId, Packet)>,
        arrived: Arc<Notify>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut connected = true;
        loop {
            let wait = self.progress();
            tokio::select! {
                question = asked.recv() => match question {
                    Some(question) => self.ask(question),
                    None => break,
                },
                packet = incoming.recv(), if connected => match packet {
                    Some((from, packet)) => self.packet(from, packet),
                    None => connected = false,
                },
                () = arrived.notified() => {}
                _ = &mut engine.ended => break,
                _ = &mut stopped => return engine.stop().await,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.trouble.send_replace(Some("the consensus engine ended; restart the node".into()));
    }

    fn look<T>(&self, look: impl FnOnce(&mut Orderer) -> T) -> T {
        look(&mut self.orderer.lock().expect("the orderer does not panic"))
    }

    fn ask(&mut self, asked: Asked) {
        match asked {
            Asked::Propose { parent, answer } => {
                let until = clock().plus(self.hold.as_millis() as u64);
                self.proposal = Some(Proposal { parent, answer, until });
            }
            Asked::Verify { parent, block, answer } => self.questions.push(Question::Verify { parent, block, answer }),
            Asked::Certify { block, answer } => self.questions.push(Question::Certify { block, answer }),
            Asked::Final { block, certificate } => self.questions.push(Question::Final { block, certificate }),
            Asked::Broadcast { block, to } => {
                let bytes = self.look(|orderer| orderer.block(&block).map(Wire::to_bytes));
                let to = to.unwrap_or_else(|| self.others.clone());
                if let Some(bytes) = bytes.filter(|_| !to.is_empty()) {
                    let _ = self.out.send((to, Packet::Block(bytes)));
                }
            }
            Asked::Evidence(text) => tracing::warn!(text, "a validator signed two things"),
        }
    }

    fn packet(&mut self, from: NodeId, packet: Packet) {
        match packet {
            Packet::Engine { channel, epoch, bytes } => self.inlet.take(&from, channel, epoch, bytes),
            Packet::Block(bytes) => {
                if let Ok(block) = Block::from_bytes(&bytes) {
                    self.look(|orderer| orderer.body(block));
                }
            }
            Packet::Ask(hash) => {
                let known = self.look(|orderer| orderer.block(&hash).map(Wire::to_bytes));
                let known = known.or_else(|| self.final_block(&hash));
                if let Some(bytes) = known {
                    let _ = self.out.send((vec![from], Packet::Block(bytes)));
                }
            }
            Packet::Tx(bytes) => {
                if let Ok(tx) = Tx::from_bytes(&bytes) {
                    let _ = self.look(|orderer| orderer.submit(tx));
                }
            }
        }
    }

    /// A final block by its hash, for a validator that fell behind.
    fn final_block(&self, hash: &Hash) -> Option<Vec<u8>> {
        let height = self.look(|orderer| orderer.height_of(hash))?;
        self.disk.block(height).ok().flatten()
    }

    /// Answers what can be answered; gives how long to wait for the rest.
    fn progress(&mut self) -> Duration {
        let mut wait = Duration::from_secs(60);
        for question in std::mem::take(&mut self.questions) {
            if let Some((question, later)) = self.answer(question) {
                wait = wait.min(later);
                self.questions.push(question);
            }
        }
        if let Some(proposal) = self.proposal.take() {
            wait = wait.min(self.propose(proposal));
        }
        wait
    }

    /// Gives the question back when it has to wait, and for how long.
    fn answer(&mut self, question: Question) -> Option<(Question, Duration)> {
        let now = clock();
        match question {
            Question::Verify { answer, .. } | Question::Certify { answer, .. } if answer.is_closed() => None,
            Question::Verify { parent, block, answer } => {
                let said = self.look(|orderer| orderer.verify(&parent, &block, now));
                let wait = match said {
                    Answer::Valid => {
                        let _ = answer.send(true);
                        return None;
                    }
                    Answer::Invalid(reject) => {
                        tracing::warn!(?block, %reject, "a proposed block is invalid");
                        let _ = answer.send(false);
                        return None;
                    }
                    Answer::Missing(hash) => self.ask_for(hash, now),
                    Answer::Later(at) => Duration::from_millis(at.since(now)),
                };
                Some((Question::Verify { parent, block, answer }, wait))
            }
            Question::Certify { block, answer } => {
                let bytes = self.look(|orderer| match orderer.block(&block) {
                    Some(block) => Some(Some(block.to_bytes())),
                    None => orderer.height_of(&block).map(|_| None),
                });
                let wait = match bytes {
                    Some(bytes) => match bytes.map_or(Ok(()), |bytes| self.write(|disk| disk.keep(&block, &bytes))) {
                        Ok(()) => {
                            let _ = answer.send(true);
                            return None;
                        }
                        Err(wait) => wait,
                    },
                    None => self.ask_for(block, now),
                };
                Some((Question::Certify { block, answer }, wait))
            }
            Question::Final { block, certificate } => {
                let wait = match self.finish(&block, &certificate) {
                    Ok(()) => return None,
                    Err(Wait::Missing(hash)) => self.ask_for(hash, now),
                    Err(Wait::Disk(wait)) => wait,
                };
                Some((Question::Final { block, certificate }, wait))
            }
        }
    }

    /// Writes final blocks down, then shows them.
    fn finish(&mut self, block: &Hash, certificate: &[u8]) -> Result<(), Wait> {
        let path = match self.look(|orderer| orderer.path(block)) {
            Ok(path) => path,
            Err(Answer::Missing(hash)) => return Err(Wait::Missing(hash)),
            Err(answer) => {
                tracing::error!(?block, ?answer, "a final block does not follow");
                self.trouble.send_replace(Some(format!("a block that is final does not follow here: {answer:?}")));
                return Ok(());
            }
        };
        if path.is_empty() {
            return Ok(());
        }
        self.write(|disk| disk.finish(&path, certificate)).map_err(Wait::Disk)?;
        let done: Result<Vec<(Block, Vec<Happened>)>, Answer> = self.look(|orderer| orderer.finalized(block));
        if let Err(answer) = done {
            self.trouble.send_replace(Some(format!("a block that is final cannot be applied: {answer:?}")));
        }
        self.height.send_replace(self.look(|orderer| orderer.state().height()));
        Ok(())
    }

    /// A full disk stops the chain here, not the node: it is tried again until there is room.
    fn write(&self, write: impl FnOnce(&dyn Disk) -> std::io::Result<()>) -> Result<(), Duration> {
        match tokio::task::block_in_place(|| write(self.disk.as_ref())) {
            Ok(()) => {
                if self.trouble.borrow().is_some() {
                    self.trouble.send_replace(None);
                }
                Ok(())
            }
            Err(error) => {
                let text = format!("the chain cannot be written (is the disk full?): {error}");
                tracing::error!(text, "trouble");
                self.trouble.send_replace(Some(text));
                Err(DISK_AGAIN)
            }
        }
    }

    fn ask_for(&mut self, hash: Hash, now: Millis) -> Duration {
        let recently =
            self.asked_for.is_some_and(|(other, at)| other == hash && now.since(at) < ASK_AGAIN.as_millis() as u64);
        if !recently {
            self.asked_for = Some((hash, now));
            let _ = self.out.send((self.others.clone(), Packet::Ask(hash)));
        }
        ASK_AGAIN
    }

    /// Proposes when something is due; lets the turn pass when nothing was until its end.
    fn propose(&mut self, proposal: Proposal) -> Duration {
        let now = clock();
        if proposal.answer.is_closed() {
            return Duration::from_secs(60);
        }
        let made = self.look(|orderer| match orderer.propose(&proposal.parent, now) {
            Ok(Some(block)) => Ok(orderer.body(block)),
            Ok(None) => Err(orderer.due(&proposal.parent)),
            Err(answer) => Err(Err(answer)),
        });
        let wait = match made {
            Ok(hash) => {
                let _ = proposal.answer.send(Digest(hash.0));
                return Duration::from_secs(60);
            }
            Err(Ok(due)) => due.unwrap_or(proposal.until).since(now),
            Err(Err(Answer::Missing(hash))) => self.ask_for(hash, now).as_millis() as u64,
            Err(Err(_)) => 1_000,
        };
        if now >= proposal.until {
            return Duration::from_secs(60);
        }
        let wait = wait.min(proposal.until.since(now)).max(1);
        self.proposal = Some(proposal);
        Duration::from_millis(wait)
    }
}

enum Wait {
    Missing(Hash),
    Disk(Duration),
}
