//! What a block does to runs.

use crate::RunId;
use base::{NodeId, Reject, Round, wire_enum};

/// What happened in a block, for drivers and displays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// A run began.
    Created(RunId),
    /// A node became a member.
    Joined(RunId, NodeId),
    /// A member left or was set aside.
    Gone(RunId, NodeId),
    /// A round opened.
    Opened(RunId, Round),
    /// The commits of a round closed: bytes may move.
    Committed(RunId, Round),
    /// A round closed.
    Closed(RunId, Round),
    /// A run has all its tokens.
    Ended(RunId),
    /// A dispute about a root, opened by this member, is decided.
    Disputed(RunId, NodeId, Outcome),
    /// A transaction was refused.
    Refused(NodeId, Reject),
}

/// How a dispute stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Verdicts are awaited.
    Open,
    /// The quorum's root was false: it is struck, with all after it, and who reported it sits out some rounds.
    Upheld,
    /// The claim was false, most likely by a fault of its maker's machine: the maker sits out some rounds.
    Dismissed,
    /// Too few could say.
    Undecided,
}

wire_enum!(Outcome { 0 => Open {}, 1 => Upheld {}, 2 => Dismissed {}, 3 => Undecided {} });
