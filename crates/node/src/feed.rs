//! Hands a chain's blocks to the driver of its runs.

use crate::happening::Happening;
use base::Wire;
use chain::Block;
use replica::ChainLog;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Hands the chain's blocks to a driver, and its transactions to the chain.
pub(crate) async fn follow_log(
    log: Arc<ChainLog>,
    out: mpsc::Sender<Happening>,
    txs: mpsc::Receiver<Vec<u8>>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        _ = hand_on(&log, &out, txs) => {}
    }
}

/// Ends with `None` when the driver or the chain does.
async fn hand_on(
    log: &ChainLog,
    out: &mpsc::Sender<Happening>,
    mut txs: mpsc::Receiver<Vec<u8>>,
) -> Option<std::convert::Infallible> {
    let kept = log.wait_kept().await?;
    let (mut height, state) = kept.keeper.look(|o| (o.state().height(), o.state().runs().clone()));
    out.send(Happening::State(Box::new(state))).await.ok()?;
    loop {
        tokio::select! {
            tx = txs.recv() => {
                if let Err(reject) = log.submit(&tx?, None) {
                    out.send(Happening::Refused(reject.name().into())).await.ok()?;
                }
            }
            block = kept.block(height + 1) => {
                let block = Block::from_bytes(&block?.0).ok()?;
                height = block.header.height;
                out.send(Happening::Block(block.work())).await.ok()?;
            }
        }
    }
}
