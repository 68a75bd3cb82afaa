//! What a node shows of itself: plain data, for JSON and for people.

use serde::{Deserialize, Serialize};
use trainer::RunStatus;

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its key.
    pub node: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Runs that it follows.
    pub runs: Vec<RunStatus>,
    /// Refused requests and answers of peers, by reason.
    pub refused: Vec<(String, u64)>,
    /// What keeps the log on this node from going on, for the owner.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Bytes of content sent to peers.
    pub sent_bytes: u64,
}
