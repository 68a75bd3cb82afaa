//! One node's part in its runs: a pure machine that reads the replicated state and asks its driver
//! to compute, fetch and say. It acts on what the state *is*, not on what changed, so it goes on
//! after a restart or a lost message as if nothing had happened.

mod acting;
mod disputing;
mod words;

pub use words::{Fetch, Input, Intent, Memory, Output, Train, Waiting};

use crate::state::{RunsState, Standing};
use crate::{Commit, RunId};
use acting::Acting;
use base::{Hash, Machine, Millis, NodeId, Outbox, Reject, Round};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An update that could not be fetched is tried again after so long.
const FETCH_RETRY_MS: u64 = 500;
/// The pause after a failed unit, doubled after each further one: a moment's fault costs a round or two.
const PAUSE_MS: u64 = 4_000;
/// It is doubled so often at most: a fault that lasts costs the others a round in a quarter of an hour.
const DOUBLINGS_MAX: u32 = 8;

/// A node's side of all its runs, with its copy of the replicated state.
pub struct Peer {
    id: NodeId,
    state: Arc<RunsState>,
    parts: BTreeMap<RunId, Part>,
    will: Intent,
}

#[derive(Debug, Default)]
struct Part {
    class: Hash,
    quit: bool,
    memory: Memory,
    /// Version and root of the weights held; roots of the last versions and where they are from: those made
    /// here are compared with the quorum's.
    weights: Option<(u64, Hash)>,
    roots: BTreeMap<u64, (Hash, Making)>,
    weights_busy: Option<Making>,
    training: Option<Round>,
    /// Rounds in which training gave nothing.
    failed: BTreeSet<Round>,
    /// Units that failed by a fault of this node since its last one on the log, and until when it begins no other.
    faults: u32,
    pause_until: Millis,
    updates: BTreeMap<Hash, (u64, Update)>,
    /// When something was last said or asked for, by what it is and for which round or version.
    said: BTreeMap<(&'static str, u64), Millis>,
    /// When an open round was first seen.
    seen: BTreeMap<Round, Millis>,
    attest_by: BTreeMap<Round, Millis>,
    differs: Option<Differs>,
    /// Chunk hashes that others' disputes ask for.
    chunks: BTreeMap<NodeId, Option<Hash>>,
}

/// What happens to the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Making {
    /// They are computed here.
    Here,
    /// They are fetched: another's word.
    Elsewhere,
}

/// Own weights against the quorum's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Differs {
    version: u64,
    ours: Hash,
    theirs: Hash,
    /// The first chunk that differs, and its hash here, once known.
    chunk: Option<(u32, Hash)>,
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

impl Part {
    /// The root of a version that was made here.
    fn made(&self, version: u64) -> Option<Hash> {
        self.roots.get(&version).filter(|(_, making)| *making == Making::Here).map(|(root, _)| *root)
    }

    /// The trainer is free again.
    fn done(&mut self, round: Round) {
        if self.training == Some(round) {
            self.training = None;
        }
    }

    /// The unit of `round` failed: the next one begins after a pause.
    fn fail(&mut self, now: Millis, round: Round) {
        self.done(round);
        self.failed.insert(round);
        self.pause_until = now.plus(PAUSE_MS << self.faults.min(DOUBLINGS_MAX));
        self.faults = self.faults.saturating_add(1);
    }
}

impl Peer {
    /// A node that takes part in nothing yet, and knows of the chain what `state` says.
    pub fn new(id: NodeId, state: RunsState) -> Self {
        Self { id, state: Arc::new(state), parts: BTreeMap::new(), will: Intent::Work }
    }

    /// The replicated state.
    pub fn state(&self) -> &RunsState {
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
        if part.differs.is_some() {
            return Waiting::Dispute;
        }
        if run.ended {
            return Waiting::Ended;
        }
        if !run.spec.admits(&self.id) {
            return Waiting::NotInvited;
        }
        let Some(member) = run.members.get(&self.id) else { return Waiting::Joining };
        if self.will != Intent::Work && part.training.is_none() {
            return Waiting::Resting;
        }
        let Some((version, _)) = part.weights else { return Waiting::Weights };
        if part.training.is_some() {
            return Waiting::No;
        }
        if part.faults > 0 && member.status != Standing::Active {
            return Waiting::Pausing;
        }
        if run.owed(&self.id).is_some_and(|round| round.base > version) {
            return Waiting::CatchingUp;
        }
        if run.aside(&self.id).is_some() {
            return Waiting::Aside;
        }
        if member.status != Standing::Active {
            return Waiting::Place;
        }
        match run.open.back() {
            Some(round) if round.is_training() && round.slot(&self.id).is_none() => {
                let crowded = run.active() > usize::from(run.spec.slots).min(run.spec.micro_batches as usize);
                if crowded { Waiting::Turn } else { Waiting::Place }
            }
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
                // Also a run that is not followed yet since the start: its log may still have this member.
                self.parts.entry(run).or_default().quit = true;
            }
            Input::Trained { run, round, result } => self.trained(now, &run, round, result, out),
            Input::Failed { run, round } => {
                if let Some(part) = self.parts.get_mut(&run) {
                    part.fail(now, round);
                }
            }
            Input::Fetched { run, update, result } => self.fetched(now, &run, update, result),
            Input::Weights { run, result } => self.weights_done(&run, result),
            Input::Differs { run, version, chunk, hash } => {
                let differs = self.parts.get_mut(&run).and_then(|part| part.differs.as_mut());
                if let Some(differs) = differs.filter(|differs| differs.version == version) {
                    differs.chunk = Some((chunk, hash));
                }
            }
            Input::Chunk { run, by, hash } => {
                if let Some(part) = self.parts.get_mut(&run) {
                    part.chunks.insert(by, Some(hash));
                }
            }
            Input::Intent(will) => self.will = will,
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
                if said.state != part.memory.state {
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
                part.faults = 0;
            } else if said.round < run.next
                && !run.open.iter().any(|round| round.round == said.round && round.is_training())
            {
                part.memory.said = None;
            }
        }
    }

    fn trained(
        &mut self,
        now: Millis,
        id: &RunId,
        round: Round,
        result: Option<Box<Commit>>,
        out: &mut Outbox<Output>,
    ) {
        let Some(part) = self.parts.get_mut(id) else { return };
        part.done(round);
        let refuses = |commit: &Commit| {
            let run = self.state.runs.get(id);
            run.is_some_and(|run| run.check_commit(&self.id, commit) == Err(Reject::WrongWork))
        };
        match result {
            // The log takes no such commit, however often it is said.
            Some(commit) if refuses(&commit) => part.fail(now, round),
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
        let making = part.weights_busy.take().unwrap_or(Making::Elsewhere);
        match result {
            Some((version, root)) => {
                part.weights = Some((version, root));
                // What was made from weights that are replaced counts no more.
                part.roots.split_off(&version);
                part.roots.insert(version, (root, making));
                while part.roots.len() > 8 {
                    part.roots.pop_first();
                }
            }
            None => part.weights = None,
        }
    }

    fn act(&mut self, now: Millis, id: &RunId, out: &mut Outbox<Output>) {
        let (Some(run), Some(part)) = (self.state.runs.get(id), self.parts.get_mut(id)) else { return };
        let mut acting = Acting { me: self.id, now, will: self.will, run, part, out };
        acting.all();
    }
}
