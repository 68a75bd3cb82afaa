//! How a command ends that runs until it is stopped, and how a node comes to its end.

use crate::{Common, client};
use anyhow::Result;
use node::ControlRequest;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// What is under way is finished within this, or let go of.
const FINISHED_WITHIN: Duration = Duration::from_secs(60);

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

/// Waits until what is under way is finished, and nothing new is taken.
pub(crate) async fn finish_all(common: &Common) -> Result<()> {
    // A node that is not minded has nothing to finish.
    let drains = client::ask(common, ControlRequest::Finish).await.is_ok();
    let (begun, mut said) = (Instant::now(), false);
    while drains && begun.elapsed() < FINISHED_WITHIN {
        let busy = client::ask(common, ControlRequest::Busy).await?["busy"] == true;
        if !busy {
            break;
        }
        if !common.json && !std::mem::replace(&mut said, true) {
            eprintln!("finishing what is under way, for at most {} s", FINISHED_WITHIN.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
