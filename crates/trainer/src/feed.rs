//! Hands a chain's blocks to the driver of its runs, and what the driver says to the chain.

use crate::event::DriverEvent;
use crate::log::Log;
use std::sync::Arc;
use swarm::SignedWorkTx;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Until `stop`, or until the chain or the driver ends.
pub(crate) async fn follow_log(
    log: Arc<dyn Log>,
    out: mpsc::Sender<DriverEvent>,
    txs: mpsc::Receiver<SignedWorkTx>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        _ = hand_on(&*log, &out, txs) => {}
    }
}

/// Ends with `None` when the driver or the chain does.
async fn hand_on(
    log: &dyn Log,
    out: &mpsc::Sender<DriverEvent>,
    mut txs: mpsc::Receiver<SignedWorkTx>,
) -> Option<std::convert::Infallible> {
    let (mut height, state) = log.state().await?;
    out.send(DriverEvent::State(Box::new(state))).await.ok()?;
    loop {
        tokio::select! {
            tx = txs.recv() => {
                if let Err(reject) = log.submit(tx?) {
                    out.send(DriverEvent::Refused(reject.name().into())).await.ok()?;
                }
            }
            block = log.block(height + 1) => {
                out.send(DriverEvent::Block(block?)).await.ok()?;
                height += 1;
            }
        }
    }
}
