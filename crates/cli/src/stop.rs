//! How a command ends that runs until it is stopped.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// From this call on, being asked to end does not kill this process: what is returned resolves instead. For the moment
/// before others are told that it runs: what begins until then may be killed.
pub(crate) fn stopped() -> Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
