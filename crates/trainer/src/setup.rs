//! What drivers of one node share.

use crate::bounds::Bounds;
use crate::content::Contents;
use crate::store::Store;
use crate::throttle::{Answering, Duty};
use crate::work::Limits;
use anyhow::Result;
use base::Keypair;
use net::Net;
use std::sync::Arc;
use tokio::sync::watch;

/// What drivers of one node share.
pub struct Setup {
    /// The data folder.
    pub store: Arc<Store>,
    /// What is given to peers.
    pub contents: Arc<Contents>,
    /// The ways to them.
    pub net: Arc<Net>,
    /// The node's key.
    pub key: Keypair,
    /// What training may take of the machine.
    pub limits: Limits,
    /// How much of the time it computes now.
    pub duty: Duty,
    /// Answers that go before it.
    pub answers: Answering,
    /// Whether what is under way is ended and nothing new begun.
    pub drains: Arc<watch::Sender<bool>>,
    /// What the trainer computes on.
    pub device: String,
    /// Held-out tokens measured at each checkpoint; 0 = none.
    pub eval_tokens: u64,
    /// What the owner allows now: read anew each time, for the settings may have changed.
    pub bounds: Box<dyn Fn() -> Result<Bounds> + Send + Sync>,
}
