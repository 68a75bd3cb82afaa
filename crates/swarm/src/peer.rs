//! One node's part in its runs: a pure machine that reads the replicated state and asks its driver
//! to compute, fetch and say. It acts on what the state *is*, not on what changed, so it goes on
//! after a restart or a lost message as if nothing had happened.

use crate::round::{Candidate, Closed, RoundState};
use crate::state::{Event, Run, State, Status};
use crate::{Attest, Block, Commit, Init, RunId, Tx};
use base::{Hash, Machine, Millis, NodeId, Outbox, Reject, Round, wire_struct};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// What can happen to a node.
#[derive(Debug, Clone)]
pub enum Input {
    /// The next block of the log.
    Block(Block),
    /// Blocks that another part of this process applied already: what they made of the state.
    Applied {
        /// The state after them.
        state: Arc<State>,
        /// What happened in the last one.
        events: Arc<Vec<Event>>,
    },
    /// The owner wants to take part in a run, with what an earlier process remembered of it.
    Follow {
        /// Which run.
        run: RunId,
        /// Numeric class of this node.
        class: Hash,
        /// What [`Output::Remember`] last said.
        memory: Option<Memory>,
        /// Version and root of the weights on disk.
        weights: Option<(u64, Hash)>,
    },
    /// The owner wants to leave.
    Quit(RunId),
    /// A unit is done; `None`: it failed or was stopped before its first step.
    Trained {
        /// Which run.
        run: RunId,
        /// Which round.
        round: Round,
        /// What to commit to, without the fields that the machine knows.
        result: Option<Box<Commit>>,
    },
    /// An update was fetched and verified, or not.
    Fetched {
        /// Which run.
        run: RunId,
        /// Which update.
        update: Hash,
        /// How it went.
        result: Result<(), Reject>,
    },
    /// Weights were made, fetched or applied: their version and root, or `None`.
    Weights {
        /// Which run.
        run: RunId,
        /// What is held now.
        result: Option<(u64, Hash)>,
    },
    /// The time asked for by [`Output::Wake`] has come.
    Wake,
}

/// What a node asks of its driver, to be carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Say this on the log.
    Submit(Tx),
    /// Make the initial weights of version 0.
    Init(RunId),
    /// Fetch weights by root and keep what is on disk already.
    Sync {
        /// Which run.
        run: RunId,
        /// Which version.
        version: u64,
        /// Their root.
        root: Hash,
        /// Who has them.
        sources: Vec<NodeId>,
    },
    /// Do a unit.
    Train(Box<Train>),
    /// Fetch an update and verify it.
    Fetch(Box<Fetch>),
    /// Make version `closed.round + 1` of the version before.
    Apply {
        /// Which run.
        run: RunId,
        /// The closed round.
        closed: Box<Closed>,
    },
    /// Write this down before anything that follows.
    Remember(RunId, Memory),
    /// These updates are needed no more.
    Forget(RunId, Vec<Hash>),
    /// Come back at this time at the latest.
    Wake(Millis),
    /// For displays.
    Event(Event),
    /// Own weights contradict the quorum's: taking part ends until the owner acts.
    Dispute {
        /// Which run.
        run: RunId,
        /// Of which version.
        version: u64,
        /// What this node computed.
        ours: Hash,
        /// What the quorum reports.
        theirs: Hash,
    },
}

impl Input {
    /// What kind of input it is, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Block(_) => "block",
            Self::Applied { .. } => "applied",
            Self::Follow { .. } => "follow",
            Self::Quit(_) => "quit",
            Self::Trained { .. } => "trained",
            Self::Fetched { .. } => "fetched",
            Self::Weights { .. } => "weights",
            Self::Wake => "wake",
        }
    }
}

impl Output {
    /// What kind of output it is, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submit(Tx::Commit { .. }) => "commit",
            Self::Submit(Tx::Attest { .. }) => "attest",
            Self::Submit(_) => "submit",
            Self::Init(_) => "init",
            Self::Sync { .. } => "sync",
            Self::Train(_) => "train",
            Self::Fetch(_) => "fetch",
            Self::Apply { .. } => "apply",
            Self::Remember(..) => "remember",
            Self::Forget(..) => "forget",
            Self::Wake(_) => "wake",
            Self::Event(Event::Opened(..)) => "opened",
            Self::Event(Event::Committed(..)) => "committed",
            Self::Event(Event::Closed(..)) => "closed",
            Self::Event(_) => "event",
            Self::Dispute { .. } => "dispute",
        }
    }
}

/// A unit to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Train {
    /// Which run.
    pub run: RunId,
    /// Which round.
    pub round: Round,
    /// Version of the weights from which it trains.
    pub base: u64,
    /// Their root.
    pub root: Hash,
    /// b.
    pub micro_batches: u32,
    /// First window position.
    pub position: u64,
    /// What the learning rate follows.
    pub tokens_before: u64,
    /// Of the optimiser.
    pub steps_before: u64,
    /// Milliseconds until the stop-loss.
    pub window_ms: u64,
    /// Whether it trains alone: plainly, nothing is sent.
    pub plain: bool,
    /// The private state to go on from; zero = none.
    pub state: Hash,
    /// Own updates whose fate is known since the last unit.
    pub settle: Vec<Settle>,
    /// With delay: the own update that is not applied yet, its tokens and the round's.
    pub pending: Option<(Hash, u64, u64)>,
}

/// What became of an own update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// The update.
    pub update: Hash,
    /// The closed set it is in; empty: left out, all of it comes back.
    pub set: Vec<Candidate>,
}

/// An update to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Which run.
    pub run: RunId,
    /// What.
    pub candidate: Candidate,
    /// Who has it, the best source first.
    pub sources: Vec<NodeId>,
}

/// What a node must remember of a run across a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The private state behind the last commit that the log took.
    pub state: Hash,
    /// A commit that may or may not be on the log, as its update and the private state after it.
    pub said: Option<Commit>,
    /// Own updates on the log whose fate is open: round and update.
    pub unsettled: Vec<(Round, Hash)>,
}

wire_struct!(Memory { state, said, unsettled });

/// Why a node does not train right now: a closed vocabulary, shown to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It trains.
    No,
    /// The run is not on the log that this node sees.
    UnknownRun,
    /// The log has not taken its `Join` yet.
    Joining,
    /// It fetches the weights.
    Weights,
    /// It applies sets to catch up.
    CatchingUp,
    /// It waits for its first round.
    Place,
    /// More members than slots: it is another's turn.
    Turn,
    /// Others still train.
    OthersTrain,
    /// Updates are on their way.
    Exchange,
    /// The run has all its tokens.
    Ended,
    /// Its weights contradict the quorum's.
    Dispute,
    /// The run takes invited members only.
    NotInvited,
}

impl Waiting {
    /// A sentence for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::No => "training",
            Self::UnknownRun => "the log does not know the run (yet)",
            Self::Joining => "waiting for the log to take the join",
            Self::Weights => "fetching the weights",
            Self::CatchingUp => "applying closed rounds to catch up",
            Self::Place => "waiting for the next round to begin",
            Self::Turn => "another member's turn: there are more members than slots",
            Self::OthersTrain => "unit done, others still train",
            Self::Exchange => "updates are on their way",
            Self::Ended => "the run has all its tokens",
            Self::Dispute => "own weights contradict the quorum's: restart to fetch them anew",
            Self::NotInvited => "the run takes invited members only",
        }
    }
}

/// Said again when the log has not taken it after so long.
const RETRY_MS: u64 = 3_000;
/// An update that could not be fetched is tried again after so long.
const FETCH_RETRY_MS: u64 = 500;
/// Updates fetched at a time.
const FETCHES_MAX: usize = 16;
/// Sources named for a fetch.
const SOURCES_MAX: usize = 32;
/// Updates of closed rounds are kept for others this many rounds.
const UPDATES_KEPT: u64 = 24;

/// A node's side of all its runs, with its copy of the replicated state.
pub struct Peer {
    id: NodeId,
    state: Arc<State>,
    parts: BTreeMap<RunId, Part>,
}

#[derive(Debug, Default)]
struct Part {
    class: Hash,
    quit: bool,
    memory: Memory,
    /// Version and root of the weights held; roots of the last versions, to compare with the quorum's.
    weights: Option<(u64, Hash)>,
    roots: BTreeMap<u64, Hash>,
    weights_busy: bool,
    training: Option<Round>,
    /// Rounds in which training gave nothing.
    failed: BTreeSet<Round>,
    updates: BTreeMap<Hash, (u64, Update)>,
    /// When something was last said or asked for, by what it is and for which round or version.
    said: BTreeMap<(&'static str, u64), Millis>,
    attest_by: BTreeMap<Round, Millis>,
    dispute: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Update {
    Held,
    Fetching,
    /// Not to be had before this time.
    Missing(Millis),
    /// The bytes are no valid update.
    Refused,
}

impl Peer {
    /// A node that takes part in nothing yet.
    pub fn new(id: NodeId) -> Self {
        Self { id, state: Arc::default(), parts: BTreeMap::new() }
    }

    /// The replicated state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs that the owner follows.
    pub fn following(&self) -> impl Iterator<Item = RunId> + '_ {
        self.parts.iter().filter(|(_, part)| !part.quit).map(|(id, _)| *id)
    }

    /// Version and root of the weights held for a run.
    pub fn weights(&self, run: &RunId) -> Option<(u64, Hash)> {
        self.parts.get(run)?.weights
    }

    /// Why this node does not train in `run`.
    pub fn waiting(&self, run: &RunId) -> Waiting {
        let Some(part) = self.parts.get(run) else { return Waiting::UnknownRun };
        let Some(run) = self.state.runs.get(run) else { return Waiting::UnknownRun };
        if part.dispute {
            return Waiting::Dispute;
        }
        if run.ended {
            return Waiting::Ended;
        }
        if !run.spec.admits(&self.id) {
            return Waiting::NotInvited;
        }
        let Some(member) = run.members.get(&self.id) else { return Waiting::Joining };
        let Some((version, _)) = part.weights else { return Waiting::Weights };
        if part.training.is_some() {
            return Waiting::No;
        }
        if run.owed(&self.id).is_some_and(|round| round.base > version) {
            return Waiting::CatchingUp;
        }
        if member.status != Status::Active {
            return Waiting::Place;
        }
        match run.open.back() {
            Some(round) if round.is_training() && round.slot(&self.id).is_none() => Waiting::Turn,
            Some(round) if round.is_training() => Waiting::OthersTrain,
            _ => Waiting::Exchange,
        }
    }
}

impl Machine for Peer {
    type Input = Input;
    type Output = Output;

    fn step(&mut self, now: Millis, input: Input, out: &mut Outbox<Output>) {
        match input {
            Input::Block(block) => match Arc::make_mut(&mut self.state).apply(&block) {
                Ok(events) => {
                    events.into_iter().for_each(|event| out.push(Output::Event(event)));
                    self.note_commits();
                }
                Err(_) => return,
            },
            Input::Applied { state, events } => {
                if state.height <= self.state.height {
                    return;
                }
                self.state = state;
                events.iter().for_each(|event| out.push(Output::Event(event.clone())));
                self.note_commits();
            }
            Input::Follow { run, class, memory, weights } => {
                let memory = memory.unwrap_or_default();
                let part = Part { class, memory, weights, ..Part::default() };
                self.parts.insert(run, part);
                self.note_commits();
            }
            Input::Quit(run) => {
                if let Some(part) = self.parts.get_mut(&run) {
                    part.quit = true;
                }
            }
            Input::Trained { run, round, result } => self.trained(&run, round, result, out),
            Input::Fetched { run, update, result } => self.fetched(now, &run, update, result),
            Input::Weights { run, result } => self.weights_done(&run, result),
            Input::Wake => {}
        }
        let runs: Vec<RunId> = self.parts.keys().copied().collect();
        for run in runs {
            self.act(now, &run, out);
        }
    }
}

impl Peer {
    /// The log took (or passed over) what was said: settle which private state counts.
    fn note_commits(&mut self) {
        for (id, part) in &mut self.parts {
            let Some(run) = self.state.runs.get(id) else { continue };
            let Some(said) = &part.memory.said else { continue };
            let taken =
                run.members.get(&self.id).is_some_and(|m| m.private == said.state_next && m.last == Some(said.round));
            if taken {
                // What the unit began with is settled now that the unit counts, not before.
                if said.state == Hash::default() {
                    part.memory.unsettled.clear();
                } else {
                    let base = run.base(said.round).unwrap_or_default();
                    run.settle(base, &mut part.memory.unsettled);
                }
                part.memory.state = said.state_next;
                if said.size > 0 {
                    part.memory.unsettled.push((said.round, said.update));
                }
                part.memory.said = None;
            } else if said.round < run.next
                && !run.open.iter().any(|round| round.round == said.round && round.is_training())
            {
                part.memory.said = None;
            }
        }
    }

    fn trained(&mut self, id: &RunId, round: Round, result: Option<Box<Commit>>, out: &mut Outbox<Output>) {
        let Some(part) = self.parts.get_mut(id) else { return };
        if part.training == Some(round) {
            part.training = None;
        }
        match result {
            Some(commit) => {
                if commit.size > 0 {
                    part.updates.insert(commit.update, (round.0, Update::Held));
                }
                part.memory.said = Some(*commit);
                out.push(Output::Remember(*id, part.memory.clone()));
            }
            None => {
                part.failed.insert(round);
            }
        }
    }

    fn fetched(&mut self, now: Millis, id: &RunId, update: Hash, result: Result<(), Reject>) {
        let Some(part) = self.parts.get_mut(id) else { return };
        let Some((_, state)) = part.updates.get_mut(&update) else { return };
        *state = match result {
            Ok(()) => Update::Held,
            Err(Reject::NotHeld | Reject::WrongHash | Reject::TooMany) => Update::Missing(now.plus(FETCH_RETRY_MS)),
            Err(_) => Update::Refused,
        };
    }

    fn weights_done(&mut self, id: &RunId, result: Option<(u64, Hash)>) {
        let Some(part) = self.parts.get_mut(id) else { return };
        part.weights_busy = false;
        match result {
            Some((version, root)) => {
                part.weights = Some((version, root));
                part.roots.insert(version, root);
                while part.roots.len() > 8 {
                    part.roots.pop_first();
                }
            }
            None => part.weights = None,
        }
    }

    fn act(&mut self, now: Millis, id: &RunId, out: &mut Outbox<Output>) {
        let (Some(run), Some(part)) = (self.state.runs.get(id), self.parts.get_mut(id)) else { return };
        let mut acting = Acting { me: self.id, now, run, part, out };
        acting.all();
    }
}

/// One pass over one run.
struct Acting<'a> {
    me: NodeId,
    now: Millis,
    run: &'a Run,
    part: &'a mut Part,
    out: &'a mut Outbox<Output>,
}

impl Acting<'_> {
    fn all(&mut self) {
        if self.part.quit {
            if self.run.members.contains_key(&self.me) {
                self.say("leave", 0, Tx::Leave { run: self.run.id });
            }
            return;
        }
        if !self.run.spec.admits(&self.me) || self.disputed() {
            return;
        }
        // Before the weights move on: an owed unit begins from the version held now.
        self.train();
        self.weights();
        let Some(member) = self.run.members.get(&self.me) else {
            if !self.run.ended {
                self.say("join", 0, Tx::Join { run: self.run.id, class: self.part.class });
            }
            return;
        };
        if member.status != Status::Active && !self.run.ended {
            self.become_ready();
        }
        self.train();
        self.commit();
        for i in 0..self.run.open.len() {
            self.exchange(&self.run.open[i]);
        }
        self.forget();
    }

    /// Own weights against the quorum's. A node that computed a version itself never adopts another root for it.
    fn disputed(&mut self) -> bool {
        if self.part.dispute {
            return true;
        }
        let differs = self.part.roots.iter().find_map(|(version, ours)| {
            let theirs = self.run.roots.get(version)?;
            (theirs != ours).then_some((*version, *ours, *theirs))
        });
        if let Some((version, ours, theirs)) = differs {
            self.part.dispute = true;
            self.out.push(Output::Dispute { run: self.run.id, version, ours, theirs });
        }
        self.part.dispute
    }

    /// Moves the weights towards the newest version.
    fn weights(&mut self) {
        if self.part.weights_busy {
            return;
        }
        let Some((version, root)) = self.part.weights else { return self.first_weights() };
        // Roots of versions that this node never confirmed may be a restart's: believe the quorum.
        if self.run.roots.get(&version).is_some_and(|agreed| *agreed != root) && !self.part.roots.contains_key(&version)
        {
            self.part.weights = None;
            return self.first_weights();
        }
        if version >= self.run.version() {
            return;
        }
        let Some(closed) = self.run.closed_round(version) else {
            self.part.weights = None;
            return self.first_weights();
        };
        match closed.plain {
            // Nobody may hold that very version any more; the newest is as good.
            Some((member, _)) if member != self.me => self.newest(),
            _ if self.hold(&closed.set, None) => {
                self.part.weights_busy = true;
                self.out.push(Output::Apply { run: self.run.id, closed: Box::new(closed.clone()) });
            }
            _ if closed.set.iter().any(|c| self.unobtainable(&c.update)) => self.newest(),
            _ => {}
        }
    }

    /// Without weights: the initial ones, or the newest that a quorum reported.
    fn first_weights(&mut self) {
        match (self.run.version(), self.run.spec.init) {
            (0, Init::Seed) => {
                self.part.weights_busy = true;
                self.out.push(Output::Init(self.run.id));
            }
            (0, Init::Root(root)) => self.sync(0, root),
            _ => self.newest(),
        }
    }

    fn newest(&mut self) {
        let known = self.run.roots.last_key_value().map(|(version, root)| (*version, *root));
        let ahead = known.filter(|(version, _)| self.part.weights.is_none_or(|(held, _)| *version > held));
        if let Some((version, root)) = ahead {
            self.sync(version, root);
        } else if self.part.weights.is_none() && self.run.spec.init == Init::Seed && self.run.closed_round(0).is_some()
        {
            // No root is agreed yet, but every set is kept: from the beginning.
            self.part.weights_busy = true;
            self.out.push(Output::Init(self.run.id));
        }
    }

    fn sync(&mut self, version: u64, root: Hash) {
        let sources = self.sources(None);
        if self.recently(("sync", version), FETCH_RETRY_MS) {
            return;
        }
        self.part.weights_busy = true;
        self.out.push(Output::Sync { run: self.run.id, version, root, sources });
    }

    fn become_ready(&mut self) {
        let Some((version, root)) = self.part.weights else { return };
        if version + 1 >= self.run.version() {
            self.say("ready", version, Tx::Ready { run: self.run.id, version, root });
        }
    }

    fn train(&mut self) {
        let Some(round) = self.run.owed(&self.me) else { return };
        let base = round.base;
        let busy = self.part.training.is_some()
            || self.part.failed.contains(&round.round)
            || self.part.memory.said.as_ref().is_some_and(|said| said.round == round.round);
        let Some((version, root)) = self.part.weights else { return };
        let Some(slot) = round.slot(&self.me).filter(|_| !busy && version == base && !self.part.weights_busy) else {
            return;
        };
        let private = self.run.members.get(&self.me).map(|m| m.private).unwrap_or_default();
        // What this node has is not what the log expects (another process, a lost disk): declare it lost.
        let state = if private == self.part.memory.state { private } else { Hash::default() };
        let settled = self.run.settle(base, &mut self.part.memory.unsettled.clone());
        // Lost is lost: who begins with an empty state gets nothing back, the same for whoever replays it.
        let settle = if state == Hash::default() { Vec::new() } else { settled };
        let pending = self.run.pending(&self.me, round.round, base);
        self.part.training = Some(round.round);
        self.out.push(Output::Train(Box::new(Train {
            run: self.run.id,
            round: round.round,
            base,
            root,
            micro_batches: slot.micro_batches,
            position: slot.position,
            tokens_before: round.tokens_before,
            steps_before: round.steps_before,
            window_ms: self.run.spec.train_window_ms,
            plain: round.plan.len() == 1,
            state,
            settle,
            pending,
        })));
    }

    fn commit(&mut self) {
        let Some(said) = self.part.memory.said.clone() else { return };
        let owed = self.run.open.iter().any(|r| r.round == said.round && r.is_training() && r.owes(&self.me));
        if owed {
            self.say("commit", said.round.0, Tx::Commit { commit: said });
        }
    }

    /// Fetches what an exchange needs and attests when all is there, or when time runs out.
    fn exchange(&mut self, round: &RoundState) {
        if round.is_training() || round.plan.len() == 1 {
            return;
        }
        let complete = self.hold(&round.candidates, Some(round));
        if !round.committee.contains(&self.me) || round.attests.contains_key(&self.me) {
            return;
        }
        let window = round.until.since(round.since);
        let by = *self.part.attest_by.entry(round.round).or_insert(self.now.plus(window - window / 4));
        let final_word = round
            .candidates
            .iter()
            .all(|c| matches!(self.part.updates.get(&c.update), Some((_, Update::Held | Update::Refused))));
        if !(complete || final_word || self.now >= by) {
            self.out.push(Output::Wake(by));
            return;
        }
        let base = round.base;
        let root = self.part.roots.get(&base).copied();
        let root = root.or(self.part.weights.filter(|(version, _)| *version == base).map(|(_, root)| root));
        let Some(root) = root else { return };
        let mut held = vec![0u8; round.candidates.len().div_ceil(8)];
        for (i, candidate) in round.candidates.iter().enumerate() {
            let have = matches!(self.part.updates.get(&candidate.update), Some((_, Update::Held)));
            held[i / 8] |= u8::from(have) << (i % 8);
        }
        self.say(
            "attest",
            round.round.0,
            Tx::Attest { attest: Attest { run: self.run.id, round: round.round, root, held } },
        );
    }

    /// Whether all of these updates are held; asks for those that are not.
    fn hold(&mut self, candidates: &[Candidate], round: Option<&RoundState>) -> bool {
        let mut all = true;
        let mut sources = None;
        let fetching = |part: &Part| part.updates.values().filter(|(_, state)| *state == Update::Fetching).count();
        let mut room = None;
        for candidate in candidates {
            let state = self.part.updates.get(&candidate.update).map(|(_, state)| *state);
            if state == Some(Update::Held) {
                continue;
            }
            all = false;
            let retry = match state {
                None => true,
                Some(Update::Missing(at)) if at <= self.now => true,
                Some(Update::Missing(at)) => {
                    self.out.push(Output::Wake(at));
                    false
                }
                _ => false,
            };
            if !retry {
                continue;
            }
            let room = room.get_or_insert_with(|| FETCHES_MAX.saturating_sub(fetching(self.part)));
            if *room > 0 {
                *room -= 1;
                self.part.updates.insert(candidate.update, (candidate.round.0, Update::Fetching));
                let sources = sources.get_or_insert_with(|| self.sources(round));
                let others = sources.iter().filter(|id| **id != candidate.member);
                let first = std::iter::once(&candidate.member).filter(|id| **id != self.me);
                let sources = first.chain(others).copied().collect();
                self.out.push(Output::Fetch(Box::new(Fetch {
                    run: self.run.id,
                    candidate: candidate.clone(),
                    sources,
                })));
            }
        }
        all
    }

    fn unobtainable(&self, update: &Hash) -> bool {
        matches!(self.part.updates.get(update), Some((_, Update::Missing(_) | Update::Refused)))
    }

    /// Members that may have what this node lacks: those that attested first, then those that follow
    /// it in the ring of identities, so that load spreads.
    fn sources(&self, round: Option<&RoundState>) -> Vec<NodeId> {
        let attested = round.into_iter().flat_map(|round| round.attests.keys());
        let mut out: Vec<NodeId> = attested.filter(|id| **id != self.me).copied().collect();
        let members = &self.run.members;
        let ring = members.range((Bound::Excluded(self.me), Bound::Unbounded)).chain(members.range(..self.me));
        let active = ring.filter(|(_, member)| member.status == Status::Active).map(|(id, _)| *id);
        for id in active.take(SOURCES_MAX) {
            if out.len() >= SOURCES_MAX {
                break;
            }
            if !out.contains(&id) {
                out.push(id);
            }
        }
        out
    }

    /// Says something on the log, again after a while when the state does not show it.
    fn say(&mut self, what: &'static str, of: u64, tx: Tx) {
        if !self.recently((what, of), RETRY_MS) {
            self.out.push(Output::Submit(tx));
        }
    }

    /// Whether `what` was done within `ms`; otherwise notes that it is done now.
    fn recently(&mut self, what: (&'static str, u64), ms: u64) -> bool {
        let due = self.part.said.get(&what).map_or(self.now, |at| at.plus(ms));
        if due > self.now {
            self.out.push(Output::Wake(due));
            return true;
        }
        self.part.said.insert(what, self.now);
        self.out.push(Output::Wake(self.now.plus(ms)));
        false
    }

    /// Lets go of updates that nobody will ask for any more.
    fn forget(&mut self) {
        let oldest = self.run.version().saturating_sub(UPDATES_KEPT);
        let unsettled: BTreeSet<Hash> = self.part.memory.unsettled.iter().map(|(_, update)| *update).collect();
        let gone: Vec<Hash> = (self.part.updates.iter())
            .filter(|(hash, (round, state))| *round < oldest && *state != Update::Fetching && !unsettled.contains(hash))
            .map(|(hash, _)| *hash)
            .collect();
        for hash in &gone {
            self.part.updates.remove(hash);
        }
        self.part.failed.retain(|round| round.0 >= oldest);
        self.part.attest_by.retain(|round, _| round.0 >= oldest);
        self.part.said.retain(|(_, of), _| *of == 0 || *of >= oldest);
        if !gone.is_empty() {
            self.out.push(Output::Forget(self.run.id, gone));
        }
    }
}
