//! What a block does to runs.

use crate::RunId;
use crate::dispute::Outcome;
use base::{NodeId, Reject, Round};

/// What happened in a block, for drivers and displays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
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
