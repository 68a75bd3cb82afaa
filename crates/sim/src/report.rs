//! What a run of the simulator showed, or what went wrong in it.

use base::{Hash, Millis, RejectCounts};
use std::fmt;

/// What a run of the simulator showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Folded over every event: equal for equal seeds.
    pub trace: Hash,
    /// Rounds that closed.
    pub rounds: u64,
    /// Of them without a quorum.
    pub voids: u64,
    /// Disputes about roots that were decided: for the one who opened it, and against.
    pub disputes: (u64, u64),
    /// Processes that ended before their time, before the calm.
    pub crashes: u64,
    /// Faults of the network, as often as they happened.
    pub struck: Struck,
    /// Lies that liars told, and faults of broken machines.
    pub lies: u64,
    /// Commits to another's update that the log refused.
    pub copies: u64,
    /// Blocks of the log.
    pub blocks: u64,
    /// Submissions, requests and answers.
    pub messages: u64,
    /// What the log refused.
    pub refused: RejectCounts,
    /// How long it took, in virtual time.
    pub virtual_ms: u64,
    /// Part of the time in which trainers computed, mean over honest members, after the warm-up.
    pub utilisation: f64,
    /// What members learned, where they really train.
    pub learning: Option<Learning>,
}

/// Faults of the network that happened, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Struck {
    /// Messages lost.
    pub lost: u64,
    /// Messages that came twice.
    pub doubled: u64,
    /// Transfers that took longer.
    pub slow: u64,
    /// Messages that took longer while the network was slow.
    pub late: u64,
    /// Messages between the sides of a partition.
    pub cut: u64,
    /// Times that the log was to do something and was absent.
    pub absent: u64,
}

/// What members that really train learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learning {
    /// Held-out loss of the weights of version 0, nats per token.
    pub before: f64,
    /// The same of the newest weights that an honest member holds.
    pub after: f64,
    /// First units that went on from another member's moments.
    pub inherited: u64,
    /// First units that were to do so, and whose member refused those moments.
    pub refused: u64,
}

impl Learning {
    /// By how much the held-out loss fell.
    pub fn fall(&self) -> f64 {
        self.before - self.after
    }
}

/// An invariant does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Of the scenario.
    pub seed: u64,
    /// Virtual time.
    pub at: Millis,
    /// Which one, and where everybody stood.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {}: {}", self.seed, self.at, self.what)
    }
}

impl std::error::Error for Violation {}
