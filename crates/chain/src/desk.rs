//! A validator's desk: takes what the engine asks and what others send, has the orderer decide, and carries
//! out what follows on the disk and the network.

use crate::block::{Block, Tx};
use crate::engine::{Asked, Engine};
use crate::orderer::{Answer, Orderer};
use crate::state::Happened;
use crate::validator::{Disk, clock};
use crate::wires::{Inlet, Outgoing, Packet};
use base::{Hash, Millis, NodeId, Reject, RejectCounts, Wire};
use commonware_cryptography::blake3::Digest;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// A disk that takes nothing is tried again after so long.
const DISK_AGAIN: Duration = Duration::from_secs(1);
/// A missing block is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// A question of the engine that cannot be answered yet.
pub(crate) enum Question {
    Verify { parent: Hash, block: Hash, answer: oneshot::Sender<bool> },
    Certify { block: Hash, answer: oneshot::Sender<bool> },
    Final { block: Hash, certificate: Vec<u8> },
}

/// The leader's turn.
pub(crate) struct Proposal {
    parent: Hash,
    answer: oneshot::Sender<Digest>,
    until: Millis,
}

/// What the validator's task works on.
pub(crate) struct Desk {
    pub(crate) orderer: Arc<Mutex<Orderer>>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) out: Outgoing,
    pub(crate) others: Vec<NodeId>,
    pub(crate) inlet: Inlet,
    pub(crate) height: watch::Sender<u64>,
    pub(crate) trouble: watch::Sender<Option<String>>,
    pub(crate) hold: Duration,
    pub(crate) proposal: Option<Proposal>,
    pub(crate) questions: Vec<Question>,
    /// The block that was last asked for, and when.
    pub(crate) asked_for: Option<(Hash, Millis)>,
    /// Blocks that were asked for.
    pub(crate) wanted: BTreeSet<Hash>,
    /// The last blocks that each validator gave unasked, oldest first: one that floods loses its own.
    pub(crate) given: BTreeMap<NodeId, VecDeque<Hash>>,
    pub(crate) refused: Refused,
}

pub(crate) type Refused = Arc<Mutex<RejectCounts>>;

/// Blocks of one validator that are kept without being final.
const GIVEN_MAX: usize = 64;

impl Desk {
    pub(crate) async fn run(
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

    fn count(&self, reject: Reject) {
        self.refused.lock().expect("nobody panics while holding it").add(reject);
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
            Packet::Block(bytes) => match Block::from_bytes(&bytes) {
                Ok(block) => {
                    let hash = self.look(|orderer| orderer.body(block));
                    if self.wanted.remove(&hash) {
                        return;
                    }
                    let given = self.given.entry(from).or_default();
                    given.push_back(hash);
                    let oldest = if given.len() > GIVEN_MAX { given.pop_front() } else { None };
                    if let Some(oldest) = oldest {
                        self.look(|orderer| orderer.forget(&oldest));
                    }
                }
                Err(_) => self.count(Reject::Malformed),
            },
            Packet::Ask(hash) => {
                let known = self.look(|orderer| orderer.block(&hash).map(Wire::to_bytes));
                let known = known.or_else(|| self.final_block(&hash));
                if let Some(bytes) = known {
                    let _ = self.out.send((vec![from], Packet::Block(bytes)));
                }
            }
            Packet::Tx(bytes) => {
                let tx = Tx::from_bytes(&bytes).map_err(|_| Reject::Malformed);
                if let Err(reject) = tx.and_then(|tx| self.look(|orderer| orderer.submit(tx))) {
                    self.count(reject);
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
        self.wanted.clear();
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
            self.wanted.insert(hash);
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
        let made = self.look(|orderer| {
            let made = orderer.propose(&proposal.parent, now)?;
            Ok(made.map(|block| orderer.body(block)))
        });
        let wait = match made {
            Ok(Ok(hash)) => {
                let _ = proposal.answer.send(Digest(hash.0));
                return Duration::from_secs(60);
            }
            Ok(Err(due)) => due.since(now),
            Err(Answer::Missing(hash)) => self.ask_for(hash, now).as_millis() as u64,
            Err(_) => 1_000,
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
