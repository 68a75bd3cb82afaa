//! What a node's machine is told, what it asks for, and the words for it.

use crate::state::{Candidate, Closed, RunEvent, RunsState, Settle};
use crate::{Commit, RunId, WorkBlock, WorkTx};
use base::{Hash, Millis, NodeId, Reject, Round, wire_struct};
use std::sync::Arc;

/// What can happen to a node.
#[derive(Debug, Clone)]
pub enum Input {
    /// The next block of the log.
    Block(WorkBlock),
    /// Blocks that another part of this process applied already: what they made of the state.
    Applied {
        /// The state after them.
        state: Arc<RunsState>,
        /// What happened in the last one.
        events: Arc<Vec<RunEvent>>,
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
    /// A unit is done; `None`: its owner needs the machine, or its window ended before its first step.
    Trained {
        /// Which run.
        run: RunId,
        /// Which round.
        round: Round,
        /// What to commit to, without the fields that the machine knows.
        result: Option<Box<Commit>>,
    },
    /// A unit failed by a fault of this node: nobody is to wait for it, and the next one begins after a pause.
    Failed {
        /// Which run.
        run: RunId,
        /// Which round.
        round: Round,
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
    /// The own apply was checked against a quorum that contradicts it: the first chunk that differs, and its hash.
    Differs {
        /// Which run.
        run: RunId,
        /// Of which version.
        version: u64,
        /// The chunk.
        chunk: u32,
        /// Its hash here.
        hash: Hash,
    },
    /// A chunk of weights that this node made, for another's dispute.
    Chunk {
        /// Which run.
        run: RunId,
        /// Who disputes.
        by: NodeId,
        /// The chunk's hash here.
        hash: Hash,
    },
    /// Weights were made, fetched or applied: their version and root, or `None`.
    Weights {
        /// Which run.
        run: RunId,
        /// What is held now.
        result: Option<(u64, Hash)>,
    },
    /// What the owner wants of the machine from now on.
    Intent(Intent),
    /// The time asked for by [`Output::Wake`] has come.
    Wake,
}

/// What the owner wants of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Intent {
    /// That it takes part.
    #[default]
    Work,
    /// That it ends what is under way and begins nothing new.
    Drain,
    /// That it computes nothing at all.
    Rest,
}

/// What a node asks of its driver, to be carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Say this on the log.
    Submit(WorkTx),
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
    Event(RunEvent),
    /// Own weights contradict the quorum's: do the step again, and say which chunk differs
    /// ([`Input::Differs`]), or that they are as the quorum says after all ([`Input::Weights`]).
    Differs {
        /// Which run.
        run: RunId,
        /// Of which version.
        version: u64,
        /// What this node computed.
        ours: Hash,
        /// What the quorum reports.
        theirs: Hash,
        /// What made the version, while it is kept.
        closed: Option<Box<Closed>>,
        /// Who may have the quorum's.
        sources: Vec<NodeId>,
    },
    /// Give the hash of a chunk of weights that this node made ([`Input::Chunk`]).
    Chunk {
        /// Which run.
        run: RunId,
        /// Who disputes it.
        by: NodeId,
        /// Of which version.
        version: u64,
        /// The chunk.
        chunk: u32,
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
            Self::Failed { .. } => "failed",
            Self::Fetched { .. } => "fetched",
            Self::Differs { .. } => "differs",
            Self::Chunk { .. } => "chunk",
            Self::Weights { .. } => "weights",
            Self::Intent(_) => "will",
            Self::Wake => "wake",
        }
    }
}

impl Output {
    /// What kind of output it is, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submit(WorkTx::Commit { .. }) => "commit",
            Self::Submit(WorkTx::Attest { .. }) => "attest",
            Self::Submit(_) => "submit",
            Self::Init(_) => "init",
            Self::Sync { .. } => "sync",
            Self::Train(_) => "train",
            Self::Fetch(_) => "fetch",
            Self::Apply { .. } => "apply",
            Self::Remember(..) => "remember",
            Self::Forget(..) => "forget",
            Self::Wake(_) => "wake",
            Self::Event(RunEvent::Opened(..)) => "opened",
            Self::Event(RunEvent::Committed(..)) => "committed",
            Self::Event(RunEvent::Closed(..)) => "closed",
            Self::Event(_) => "event",
            Self::Differs { .. } => "differs",
            Self::Chunk { .. } => "chunk",
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
    /// Milliseconds that are left of the train window.
    pub window_ms: u64,
    /// Whether it trains alone: plainly, nothing is sent.
    pub plain: bool,
    /// The private state to go on from; zero = none.
    pub state: Hash,
    /// With none: the member whose moments to go on from if they can be had, and the state that holds them.
    pub inherit: Option<(NodeId, Hash)>,
    /// Own updates whose fate is known since the last unit.
    pub settle: Vec<Settle>,
    /// With delay: the own update that is not applied yet, its tokens and the round's.
    pub pending: Option<(Hash, u64, u64)>,
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
    /// Its units failed, or it said of a root what was not so: it sits out some rounds.
    Aside,
    /// More members than slots: it is another's turn.
    Turn,
    /// Others still train.
    OthersTrain,
    /// Updates are on their way.
    Exchange,
    /// The run has all its tokens.
    Ended,
    /// The owner needs the machine.
    Resting,
    /// Its last unit failed: the next one begins after a pause.
    Pausing,
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
            Self::Aside => "sitting out some rounds: the last units did not come in time, or nobody could fetch them",
            Self::Turn => "another member's turn: there are more members than slots",
            Self::OthersTrain => "unit done, the round is not over yet",
            Self::Exchange => "updates are on their way",
            Self::Ended => "the run has all its tokens",
            Self::Resting => "resting: nothing is computed for others now",
            Self::Pausing => "the last unit failed: training goes on after a pause",
            Self::Dispute => "own weights contradict the quorum's, which the members now check (see the trouble)",
            Self::NotInvited => "the run takes invited members only",
        }
    }
}
