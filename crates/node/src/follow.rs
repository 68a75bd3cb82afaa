//! Follows chains: from other nodes as far as certificates hold, and on to the driver of its runs.

use crate::driver::{Happening, RECONNECT};
use crate::log::ChainLog;
use base::{NodeId, Reject, Wire};
use chain::Block;
use net::{Follow, LogEvent, Net};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A keeper that says nothing for so long is left: a heartbeat comes every five seconds. The first word may be
/// a large snapshot.
const SILENT: Duration = Duration::from_secs(30);
const BEGINNING: Duration = Duration::from_secs(180);
/// Blocks that wait for a certificate.
const UNCERTIFIED_MAX: usize = 256;

/// Brings the chain here for as long as the node lives and does not validate itself: from one node after the
/// other that may keep it.
pub(crate) async fn sync(log: Arc<ChainLog>, net: Arc<Net>, stop: CancellationToken) {
    if log.stale.load(Ordering::Relaxed) {
        return;
    }
    let following = async {
        loop {
            validating(&log).await;
            for source in log.sources(&net.id()) {
                let ended = from(&log, &net, source).await;
                log.upstream.lock().expect("nobody panics while holding it").take();
                match ended {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::debug!(chain = %log.chain().short(), source = %source.short(), %error, "following")
                    }
                }
            }
            tokio::time::sleep(RECONNECT).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = following => {}
    }
}

/// Waits as long as this node validates the chain: then its blocks come from the engine.
async fn validating(log: &ChainLog) {
    let Some(kept) = log.kept() else { return };
    let mut height = kept.keeper.height();
    // A validator that was away catches up as a follower does.
    while kept.keeper.keeps_up() && !matches!(tokio::time::timeout(SILENT, height.changed()).await, Ok(Err(_))) {}
}

/// Follows one node until it ends, or gives what does not hold.
async fn from(log: &ChainLog, net: &Net, source: NodeId) -> anyhow::Result<()> {
    let newest = log.kept().map(|kept| *kept.keeper.height().borrow());
    let follow = Follow {
        chain: log.chain(),
        from: newest.map_or(0, |newest| newest + 1),
        anchor: log.anchor.map(|anchor| anchor.height),
    };
    let client = net.follow(source, follow).await;
    let mut client = client.inspect_err(|_| {
        let text = format!(
            "cannot reach {}, which keeps the chain; trying again (if it moved, ask for a fresh ticket)",
            source.short()
        );
        log.away.send_replace(Some(text));
    })?;
    let mut uncertified = Vec::new();
    let mut patience = BEGINNING;
    while let Ok(Some(event)) = tokio::time::timeout(patience, client.events.recv()).await {
        patience = SILENT;
        match event {
            // One that was not asked for would take the place of what is here.
            LogEvent::Snapshot(_) if newest.is_some() => return Err(Reject::Malformed.into()),
            LogEvent::Snapshot(bytes) => {
                let kept = tokio::task::block_in_place(|| log.begin(&bytes));
                kept.inspect_err(|error| drop(log.away.send_replace(Some(error.to_string()))))?;
            }
            LogEvent::Block(bytes, certificate) => {
                let kept = log.kept().ok_or(Reject::Early)?;
                uncertified.push(Block::from_bytes(&bytes).map_err(|_| Reject::Malformed)?);
                if !certificate.is_empty() {
                    let offered = kept.keeper.offer(std::mem::take(&mut uncertified), certificate).await;
                    offered.inspect_err(|reject| kept.keeper.count(*reject))?;
                } else if uncertified.len() > UNCERTIFIED_MAX {
                    kept.keeper.count(Reject::TooMany);
                    return Err(Reject::TooMany.into());
                }
                if kept.keeper.keeps_up() {
                    return Ok(());
                }
            }
            LogEvent::Refused(reason) => tracing::debug!(reason, "a transaction was refused"),
        }
        log.away.send_if_modified(|away| away.take().is_some());
        *log.upstream.lock().expect("nobody panics while holding it") = Some(client.submit.clone());
    }
    log.away.send_replace(Some(format!("{} ended the connection; trying the next", source.short())));
    Ok(())
}

/// Hands the chain's blocks to a driver, and its transactions to the chain.
pub(crate) async fn follow_log(
    log: Arc<ChainLog>,
    out: mpsc::Sender<Happening>,
    mut txs: mpsc::Receiver<Vec<u8>>,
    stop: CancellationToken,
) {
    let following = async {
        let kept = log.wait_kept().await?;
        let (mut height, state) = kept.keeper.look(|o| (o.state().height(), o.state().runs().clone()));
        out.send(Happening::State(Box::new(state))).await.ok()?;
        loop {
            tokio::select! {
                tx = txs.recv() => {
                    if let Err(reject) = log.submit(&tx?) {
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
        #[expect(unreachable_code, reason = "the type of a block that ends by its questions alone")]
        Some(())
    };
    tokio::select! {
        () = stop.cancelled() => {}
        _ = following => {}
    }
}
