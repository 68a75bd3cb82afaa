//! What happens to the driver of a chain's runs.

use crate::work::Work;
use anyhow::Result;
use std::sync::Arc;
use std::time::Duration;
use swarm::{Input, RunId, RunsState, WorkBlock};

/// Pause before what failed is tried again.
pub(crate) const RECONNECT: Duration = Duration::from_millis(500);

/// What happens to a driver.
pub(crate) enum DriverEvent {
    Input(Box<Input>),
    /// What the chain says so far; comes first.
    State(Box<RunsState>),
    Block(WorkBlock),
    Refused(String),
    Prepared(RunId, Result<Arc<Work>>),
    Fetching(RunId, &'static str, usize, usize),
    Trouble(RunId, String),
    Heldout(RunId, u64, f64),
}
