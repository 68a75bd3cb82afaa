//! Training together, decided purely: who trains what in which round, what counts, what is applied.
//!
//! Two machines. [`State`] is replicated: every node applies the same blocks of the log to it and
//! holds the same runs, members, plans and closed sets. [`Peer`] is one node's part in it: it reads
//! the state and asks its driver to train, fetch, apply, synchronise and submit.
//!
//! *Goals*: no IO, no clock, no entropy; integers only; every rule of a round in one place.
//! *Non-goals*: tensors (updates are hashes and sizes here), transport, the order of the log itself.

// What one node computes here all compute, and a counter that ends would end all of them at once: no sum of
// what the log says is taken without a thought of its end.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod closing;
mod dispute;
mod event;
mod member;
mod peer;
mod plan;
mod planner;
mod round;
mod runfile;
mod sequencer;
mod spec;
mod state;
mod tx;

pub use dispute::{Claim, Dispute, Outcome, Verdict};
pub use event::Event;
pub use member::{Member, Status};
pub use peer::{Fetch, Input, Memory, Output, Peer, Settle, Train, Waiting, Will};
pub use plan::Slot;
pub use planner::{Link, Machine, Outlook, PlanInput, plan};
pub use round::{Candidate, Closed, Phase, RoundState};
pub use runfile::{Resolved, RunFile, RunFileError};
pub use sequencer::Sequencer;
pub use spec::{Access, Init, Mode, Spec, SpecError};
pub use state::{Run, State};
pub use tx::{Attest, Block, Commit, DOMAIN, Envelope, RunId, SignedTx, Tx};
