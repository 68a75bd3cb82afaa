//! A keeper's desk: takes what the engine asks and what others send, has the orderer decide, and carries out
//! what follows on the disk and the network.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod incoming;
mod room;

use crate::clock::clock;
use crate::disk::{Disk, Note};
use crate::end::{EXIT_DISK, Shared};
use crate::engine::{Asked, Begin, Engine, EngineError, Mailbox, Timing};
use crate::wires::{Blocked, Inlet, Outgoing, Packet, wires};
use base::{Hash, Keypair, Millis, NodeId, Reject, RejectCounts, Signed, Wire};
use chain::{BLOCK_BYTES_MAX, Block, EVIDENCE_DOMAIN, Evidence, Happened, Judgement, Orderer, Turn, Tx, engine_key};
use commonware_cryptography::blake3::Digest;
use incoming::Allowance;
use room::{ROOM_AGAIN, Room};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// A missing block is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// A validator that said nothing for so long, or for a quarter of a short epoch, is reported as missing.
pub(crate) const SILENT_MS: u64 = 15_000;

/// A question of the engine that cannot be answered yet.
pub(crate) enum Question {
    Verify { turn: Turn, parent: Hash, block: Hash, answer: oneshot::Sender<bool> },
    Certify { block: Hash, answer: oneshot::Sender<bool> },
    Final { block: Hash, certificate: Vec<u8> },
}

/// The leader's turn.
pub(crate) struct Proposal {
    leader: NodeId,
    parent: Hash,
    answer: oneshot::Sender<Digest>,
    until: Millis,
}

/// Final blocks that another node gave, with a certificate for the last one.
pub(crate) struct Offer {
    pub(crate) blocks: Vec<Block>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) taken: oneshot::Sender<Result<(), Reject>>,
}

/// A place in the set of an epoch: the engine that votes there.
struct Place {
    engine: Engine,
    epoch: u64,
    hold: Duration,
    inlet: Inlet,
    asked: mpsc::UnboundedReceiver<Asked>,
}

/// What the keeper's task works on.
pub(crate) struct Actor {
    pub(crate) orderer: Shared,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) note: Arc<Note>,
    pub(crate) chain: Hash,
    /// The block before the first epoch.
    pub(crate) genesis: Hash,
    pub(crate) key: Option<Keypair>,
    pub(crate) journal: PathBuf,
    pub(crate) silent_ms: u64,
    pub(crate) out: Outgoing,
    pub(crate) height: watch::Sender<u64>,
    pub(crate) trouble: watch::Sender<Option<String>>,
    pub(crate) blocked: Blocked,
    pub(crate) refused: Refused,
    pub(crate) work: Work,
}

/// What the task has on its hands.
#[derive(Default)]
pub(crate) struct Work {
    place: Option<Place>,
    proposal: Option<Proposal>,
    questions: Vec<Question>,
    /// The block that was last asked for, and when.
    asked_for: Option<(Hash, Instant)>,
    /// Blocks that were asked for.
    wanted: BTreeSet<Hash>,
    /// The last blocks that each validator gave unasked, oldest first, with their sizes: one that floods loses its own.
    given: BTreeMap<NodeId, VecDeque<(Hash, usize)>>,
    /// When each validator was last heard, and when it was last told of the end of an epoch.
    heard: BTreeMap<NodeId, Instant>,
    told: BTreeMap<NodeId, Instant>,
    /// What each validator had of this one in this second: blocks in bytes, certificates checked.
    blocks: BTreeMap<NodeId, Allowance>,
    finals: BTreeMap<NodeId, Allowance>,
    room: Room,
}

impl Work {
    /// A block is final as soon as it and its ancestors are here.
    fn await_final(&mut self, block: Hash, certificate: Vec<u8>) {
        // Each brings its ancestors: while blocks are fetched, the oldest of many are not needed.
        let waiting = |q: &Question| matches!(q, Question::Final { .. });
        if self.questions.iter().filter(|q| waiting(q)).count() >= FINALS_MAX {
            let first = self.questions.iter().position(waiting);
            first.into_iter().for_each(|i| drop(self.questions.remove(i)));
        }
        self.questions.push(Question::Final { block, certificate });
    }
}

pub(crate) type Refused = Arc<Mutex<RejectCounts>>;

/// Final blocks that wait for what is before them.
const FINALS_MAX: usize = 16;
/// Blocks of one validator that are kept without being final, in number and bytes.
const GIVEN_MAX: usize = 64;
const GIVEN_BYTES_MAX: usize = 3 * BLOCK_BYTES_MAX;

/// Why a validator's process ends with its engine.
const ENGINE_ENDED: &str = "the consensus engine ended, most likely because its journal cannot be written. Look at the \
                            disk and at what was logged before, then start the node again";

/// What the engine of a place does next; without a place nothing ever.
async fn engine(place: &mut Option<Place>) -> Option<Asked> {
    match place {
        Some(place) => tokio::select! {
            asked = place.asked.recv() => asked,
            _ = &mut place.engine.ended => None,
        },
        None => std::future::pending().await,
    }
}

impl Actor {
    pub(crate) async fn run(
        mut self,
        mut incoming: mpsc::Receiver<(NodeId, Packet)>,
        mut offers: mpsc::Receiver<Offer>,
        arrived: Arc<Notify>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut connected = true;
        while !self.orderer.failure.has_failed() {
            if !self.has_room() {
                self.stand_up().await;
            } else if let Err(error) = self.sit().await {
                self.trouble
                    .send_replace(Some(format!("this node cannot take its place among the validators: {error}")));
            }
            let wait = self.progress();
            let wait = if self.work.room.is_full() { wait.min(ROOM_AGAIN) } else { wait };
            tokio::select! {
                asked = engine(&mut self.work.place) => match asked {
                    Some(asked) => self.ask(asked),
                    // An engine ends by itself where its journal cannot be written, and its own state is gone with it.
                    // A process that goes on would look well and never vote; the next one opens the journal anew.
                    None => self.orderer.failure.fail(EXIT_DISK, ENGINE_ENDED),
                },
                packet = incoming.recv(), if connected => match packet {
                    Some((from, packet)) => self.packet(from, packet),
                    None => connected = false,
                },
                Some(offer) = offers.recv() => {
                    let taken = self.offer(offer.blocks, &offer.certificate);
                    let _ = offer.taken.send(taken);
                }
                () = arrived.notified() => {}
                _ = &mut stopped => {
                    if let Some(place) = self.work.place.take() {
                        place.engine.stop().await;
                    }
                    return;
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes the place that the current epoch has for this node, if any, and leaves that of the last one.
    async fn sit(&mut self) -> Result<(), EngineError> {
        // Asked on every turn of the loop: an epoch is copied only when there is something to do.
        let number = self.look(|orderer| orderer.state().epoch().number);
        if self.work.place.as_ref().is_some_and(|place| place.epoch == number) {
            return Ok(());
        }
        let (epoch, tip) = self.look(|orderer| (orderer.state().epoch().clone(), orderer.state().tip()));
        self.stand_up().await;
        let Some(key) = self.key.as_ref().filter(|key| epoch.set.contains(&key.id())) else { return Ok(()) };
        // Not at the beginning of its epoch: the engine has its own record of what it voted on.
        let genesis = match epoch.number.checked_sub(1) {
            Some(before) => self.disk.end(before)?.map_or(tip, |step| step.header.hash()),
            None => self.genesis,
        };
        let peers = epoch.set.iter().filter(|id| **id != key.id()).filter_map(engine_key).collect();
        let (ends, inlet) = wires(peers, epoch.number, &self.out, self.blocked.clone());
        let (mailbox, asked) = mpsc::unbounded_channel();
        let timing = Timing::of(epoch.set.len());
        let begin = Begin {
            dir: self.journal.clone(),
            chain: self.chain,
            key: Keypair::from_secret(key.secret()),
            validators: epoch.set.clone(),
            epoch: epoch.number,
            genesis,
            timing,
        };
        let engine = Engine::start(begin, Mailbox(mailbox), ends, self.blocked.clone())?;
        let now = Instant::now();
        self.work.heard = epoch.set.iter().map(|id| (*id, now)).collect();
        self.work.place = Some(Place { engine, epoch: epoch.number, hold: timing.hold(), inlet, asked });
        Ok(())
    }

    /// The other validators of now.
    fn others(&self) -> Vec<NodeId> {
        let me = self.key.as_ref().map(Keypair::id);
        self.look(|orderer| orderer.state().validators().iter().filter(|id| Some(**id) != me).copied().collect())
    }

    fn look<T>(&self, look: impl FnOnce(&mut Orderer) -> T) -> T {
        self.orderer.look(look)
    }

    fn count(&self, reject: Reject) {
        self.refused.lock().expect("nobody panics while holding it").add(reject);
    }

    fn ask(&mut self, asked: Asked) {
        let Some(place) = &self.work.place else { return };
        let epoch = place.epoch;
        match asked {
            Asked::Propose { parent, leader, answer } => {
                let until = clock().plus(place.hold.as_millis() as u64);
                self.work.proposal = Some(Proposal { leader, parent, answer, until });
            }
            Asked::Verify { parent, leader, block, answer } => {
                let turn = Turn { epoch, leader, missing: Vec::new() };
                self.work.questions.push(Question::Verify { turn, parent, block, answer });
            }
            Asked::Certify { block, answer } => self.work.questions.push(Question::Certify { block, answer }),
            Asked::Final { block, certificate } => self.work.await_final(block, certificate),
            Asked::Broadcast { block, to } => {
                let bytes = self.look(|orderer| orderer.block(&block).map(Wire::to_bytes));
                let to = to.unwrap_or_else(|| self.others());
                if let Some(bytes) = bytes.filter(|_| !to.is_empty()) {
                    let _ = self.out.send((to, Packet::Block(bytes)));
                }
            }
            Asked::Evidence(votes) => self.accuse(epoch, votes),
        }
    }

    /// Two votes that exclude each other are told to all: they cost a bond.
    fn accuse(&mut self, epoch: u64, votes: Vec<u8>) {
        let Some(key) = &self.key else { return };
        let evidence = Evidence { chain: self.chain, seq: clock().0, epoch, votes };
        let tx = Tx::Evidence { evidence: Signed::new(EVIDENCE_DOMAIN, key, evidence) };
        let bytes = tx.to_bytes();
        match self.look(|orderer| orderer.submit(tx)) {
            Ok(_) => {
                tracing::warn!("a validator signed two things that exclude each other");
                let _ = self.out.send((self.others(), Packet::Tx(bytes)));
            }
            Err(reject) => self.count(reject),
        }
    }

    /// Answers what can be answered; gives how long to wait for the rest.
    fn progress(&mut self) -> Duration {
        let mut wait = Duration::from_secs(60);
        for question in std::mem::take(&mut self.work.questions) {
            if let Some((question, later)) = self.answer(question) {
                wait = wait.min(later);
                self.work.questions.push(question);
            }
        }
        if let Some(proposal) = self.work.proposal.take() {
            wait = wait.min(self.propose(proposal));
        }
        wait
    }

    /// Gives the question back when it has to wait, and for how long.
    fn answer(&mut self, question: Question) -> Option<(Question, Duration)> {
        let now = clock();
        match question {
            Question::Verify { answer, .. } | Question::Certify { answer, .. } if answer.is_closed() => None,
            Question::Verify { turn, parent, block, answer } => {
                let said = self.look(|orderer| orderer.verify(&turn, &parent, &block, now));
                let wait = match said {
                    Judgement::Valid => {
                        let _ = answer.send(true);
                        return None;
                    }
                    Judgement::Invalid(reject) => {
                        tracing::warn!(?block, %reject, "a proposed block is invalid");
                        let _ = answer.send(false);
                        return None;
                    }
                    Judgement::Missing(hash) => self.ask_for(hash),
                    Judgement::Later(at) => Duration::from_millis(at.since(now)),
                };
                Some((Question::Verify { turn, parent, block, answer }, wait))
            }
            Question::Certify { block, answer } => {
                let bytes = self.look(|orderer| match orderer.block(&block) {
                    Some(block) => Some(Some(block.clone())),
                    None => orderer.height_of(&block).map(|_| None),
                });
                let wait = match bytes {
                    Some(bytes) => match bytes.map_or(Ok(()), |block| self.write("keep", |disk| disk.keep(&block))) {
                        Ok(()) => {
                            let _ = answer.send(true);
                            return None;
                        }
                        Err(wait) => wait,
                    },
                    None => self.ask_for(block),
                };
                Some((Question::Certify { block, answer }, wait))
            }
            Question::Final { block, certificate } => {
                let wait = match self.finish(&block, &certificate) {
                    Ok(()) => return None,
                    Err(Wait::Missing(hash)) => self.ask_for(hash),
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
            Err(Judgement::Missing(hash)) => return Err(Wait::Missing(hash)),
            Err(answer) => {
                tracing::error!(?block, ?answer, "a final block does not follow");
                self.trouble.send_replace(Some(format!("a block that is final does not follow here: {answer:?}")));
                return Ok(());
            }
        };
        if path.is_empty() {
            return Ok(());
        }
        self.write("finish", |disk| disk.finish(&path, certificate)).map_err(Wait::Disk)?;
        let done: Result<Vec<(Block, Vec<Happened>)>, Judgement> = self.look(|orderer| orderer.finalized(block));
        match done {
            Ok(done) => done.iter().for_each(|(block, happened)| (self.note)(block, happened)),
            Err(answer) => {
                self.trouble.send_replace(Some(format!("a block that is final cannot be applied: {answer:?}")));
            }
        }
        if path.iter().any(|block| block.header.next.is_some()) {
            let state = self.look(|orderer| orderer.state().to_snapshot());
            if let Err(error) = self.disk.keep_state(&state, &[]) {
                tracing::warn!(%error, "the state was not kept; the next start reads more blocks");
            }
        }
        self.work.wanted.clear();
        self.height.send_replace(self.look(|orderer| orderer.state().height()));
        Ok(())
    }

    fn ask_for(&mut self, hash: Hash) -> Duration {
        let now = Instant::now();
        let recently =
            self.work.asked_for.is_some_and(|(other, at)| other == hash && now.duration_since(at) < ASK_AGAIN);
        if !recently {
            self.work.asked_for = Some((hash, now));
            self.work.wanted.insert(hash);
            let _ = self.out.send((self.others(), Packet::Ask(hash)));
        }
        ASK_AGAIN
    }

    /// Proposes when something is due; lets the turn pass when nothing was until its end.
    fn propose(&mut self, proposal: Proposal) -> Duration {
        let now = clock();
        if proposal.answer.is_closed() {
            return Duration::from_secs(60);
        }
        let Some(epoch) = self.work.place.as_ref().map(|place| place.epoch) else { return Duration::from_secs(60) };
        let silence = Duration::from_millis(self.silent_ms);
        let silent = |(id, at): (&NodeId, &Instant)| (at.elapsed() >= silence && *id != proposal.leader).then_some(*id);
        let missing = self.work.heard.iter().filter_map(silent).collect();
        let turn = Turn { epoch, leader: proposal.leader, missing };
        let made = self.look(|orderer| {
            let made = orderer.propose(&turn, &proposal.parent, now)?;
            Ok(made.map(|block| orderer.body(block)))
        });
        let wait = match made {
            Ok(Ok(hash)) => {
                let _ = proposal.answer.send(Digest(hash.0));
                return Duration::from_secs(60);
            }
            Ok(Err(due)) => due.since(now),
            Err(Judgement::Missing(hash)) => self.ask_for(hash).as_millis() as u64,
            Err(_) => 1_000,
        };
        if now >= proposal.until {
            return Duration::from_secs(60);
        }
        let wait = wait.min(proposal.until.since(now)).max(1);
        self.work.proposal = Some(proposal);
        Duration::from_millis(wait)
    }
}

enum Wait {
    Missing(Hash),
    Disk(Duration),
}
