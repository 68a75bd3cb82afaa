//! What is written down of the owner's accounts.

use crate::earnings::Days;
use base::NodeId;
use serde::{Deserialize, Serialize};
use swarm::RunId;

/// One thing that happened to an account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// In which block.
    pub height: u64,
    /// When, Unix milliseconds.
    pub time_ms: u64,
    /// What: `paid`, `received`, or the kind of a transaction of its own.
    pub what: String,
    /// Micro-credits that came in.
    pub in_micro: u64,
    /// Micro-credits that went out, without the fee.
    pub out_micro: u64,
    /// To or from whom, or the run.
    pub other: String,
    /// The transaction, where it was one.
    pub tx: String,
    /// The round that paid, from 0, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
}

/// What is written down of a block.
#[derive(Debug, Default, PartialEq)]
pub struct Notes {
    /// What happened to accounts.
    pub entries: Vec<(NodeId, Vec<Entry>)>,
    /// What they did on a day, as it is now.
    pub days: Days,
    /// What members of their runs were paid.
    pub paid: Vec<(RunId, NodeId, u64)>,
}
