//! Training together, decided purely: who trains what in which round, what counts, what is applied.
//!
//! Two machines. [`RunsState`] is replicated: every node applies the same blocks of the log to it and
//! holds the same runs, members, plans and closed sets. [`Peer`] is one node's part in it: it reads
//! the state and asks its driver to train, fetch, apply, synchronise and submit.
//!
//! *Goals*: no IO, no clock, no entropy; integers only; every rule of a round in one place.
//! *Non-goals*: tensors (updates are hashes and sizes here), transport, the order of the log itself.

// What one node computes here all compute, and a counter that ends would end all of them at once: no sum of
// what the log says is taken without a thought of its end.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod peer;
mod planner;
mod runfile;
mod sequencer;
mod spec;
mod state;
mod tx;

pub use peer::{Fetch, Input, Intent, Memory, Output, Peer, Train, Waiting};
pub use planner::{LinkProfile, MachineProfile, Outlook, PlanInput, plan};
pub use runfile::{Resolved, RunFile, RunFileError};
pub use sequencer::Sequencer;
pub use spec::{Access, Init, Mode, Spec, SpecError};
pub use state::{
    Candidate, Closed, Dispute, Member, Outcome, Phase, RoundState, Run, RunEvent, RunsState, Settle, Slot, Standing,
};
pub use tx::{Attest, Claim, Commit, DOMAIN, DisputeVerdict, RunId, SignedWorkTx, WorkBlock, WorkEnvelope, WorkTx};
