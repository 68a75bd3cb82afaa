//! Follows a log, one's own or another node's.

use crate::driver::{Happening, RECONNECT, Shared};
use crate::log::ChainLog;
use base::{NodeId, Reject, Wire};
use chain::Block;
use net::{LogEvent, LogService};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Follows a log for as long as the node lives: blocks in, transactions out.
pub(crate) async fn follow_log(
    shared: Arc<Shared>,
    keeper: NodeId,
    out: mpsc::Sender<Happening>,
    mut txs: mpsc::Receiver<Vec<u8>>,
    stop: CancellationToken,
) {
    let mut height = 0;
    while !stop.is_cancelled() {
        let ended = if keeper == shared.net.id() {
            follow_own(&shared.log, keeper, &out, &mut txs, &mut height, &stop).await
        } else {
            follow_remote(&shared, keeper, &out, &mut txs, &mut height, &stop).await
        };
        if ended.is_none() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RECONNECT) => {}
        }
    }
}

/// `None` when the driver is gone.
async fn follow_own(
    log: &ChainLog,
    me: NodeId,
    out: &mpsc::Sender<Happening>,
    txs: &mut mpsc::Receiver<Vec<u8>>,
    height: &mut u64,
    stop: &CancellationToken,
) -> Option<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            tx = txs.recv() => {
                if let Err(reject) = log.submit(me, tx?) {
                    out.send(Happening::Refused(reject.name().into())).await.ok()?;
                }
            }
            block = log.block(*height + 1) => {
                let Some(block) = block.and_then(|bytes| Block::from_bytes(&bytes).ok()) else { return Some(()) };
                *height = block.height;
                out.send(Happening::Block(block.work())).await.ok()?;
            }
        }
    }
}

/// `None` when the driver is gone, otherwise the connection ended.
async fn follow_remote(
    shared: &Shared,
    keeper: NodeId,
    out: &mpsc::Sender<Happening>,
    txs: &mut mpsc::Receiver<Vec<u8>>,
    height: &mut u64,
    stop: &CancellationToken,
) -> Option<()> {
    let client = tokio::select! {
        () = stop.cancelled() => return None,
        client = shared.net.follow(keeper, *height + 1) => client,
    };
    let Ok(mut client) = client else {
        return out.send(Happening::Away(true)).await.ok();
    };
    out.send(Happening::Away(false)).await.ok()?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            tx = txs.recv() => {
                // Full: the log does not keep up, and the machine says it again.
                let _ = client.submit.try_send(tx?);
            }
            event = client.events.recv() => match event {
                Some(LogEvent::Block(bytes)) => {
                    let Ok(block) = Block::from_bytes(&bytes) else {
                        shared.contents.count(Reject::Malformed);
                        return Some(());
                    };
                    *height = block.height;
                    out.send(Happening::Block(block.work())).await.ok()?;
                }
                Some(LogEvent::Refused(reason)) => out.send(Happening::Refused(reason)).await.ok()?,
                None => return Some(()),
            }
        }
    }
}
