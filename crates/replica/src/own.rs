//! What is the owner's.

use base::NodeId;
use std::sync::Arc;

/// What is the owner's: the history of its accounts is kept.
pub type Own = Arc<Owned>;

/// The owner's accounts, and what works for them.
#[derive(Debug)]
pub struct Owned {
    /// That of the node itself comes first.
    pub accounts: Vec<NodeId>,
    /// What computes on this machine, as in `talkoo.toml`.
    pub device: String,
}
