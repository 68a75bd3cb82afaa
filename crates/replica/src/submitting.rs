//! The owner's transactions, submitted until final blocks settle them.

use crate::log::{ChainLog, Kept};
use crate::outlets::{AGAIN, LINK_FOR, shuffle};
use crate::pending::judge;
use base::NodeId;
use net::{Follow, LogClient, LogEvent, Net};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Nodes that get transactions beside the one whose blocks are followed.
const BESIDE: usize = 2;

/// Submits the owner's transactions until final blocks settle them, for as long as the chain is kept.
pub(crate) async fn submit(log: &Arc<ChainLog>, net: &Arc<Net>) {
    let Some(kept) = log.wait_kept().await else { return };
    let (mut height, mut tick) = (kept.keeper.height(), tokio::time::interval(AGAIN));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut links, mut linked) = (JoinSet::new(), BTreeSet::new());
    loop {
        let again = tokio::select! {
            _ = tick.tick() => true,
            () = log.outlets.opened.notified() => true,
            changed = height.changed() => {
                if changed.is_err() {
                    return;
                }
                false
            }
        };
        let newest = *height.borrow_and_update();
        review(&kept, newest);
        if !again {
            continue;
        }
        let pending = kept.pending.all();
        for tx in &pending {
            if let Err(reject) = log.submit_own(&kept, tx) {
                tracing::debug!(%reject, "a transaction that waits is not taken yet");
            }
        }
        while let Some(ended) = links.try_join_next() {
            if let Ok(node) = ended {
                linked.remove(&node);
            }
        }
        if kept.keeper.validates() || (pending.is_empty() && !log.outlets.passes()) {
            continue;
        }
        let mut free = log.sources(&net.id());
        free.retain(|node| !linked.contains(node));
        shuffle(&mut free);
        for node in free.into_iter().take(BESIDE.saturating_sub(linked.len())) {
            linked.insert(node);
            links.spawn(link(log.clone(), net.clone(), kept.clone(), node));
        }
    }
}

/// Ends the wait for transactions whose number is used, or that the chain no longer takes.
fn review(kept: &Kept, height: u64) {
    if kept.pending.is_empty() {
        return;
    }
    let waiting = kept.pending.all();
    // Of a newer state not every block is settled yet.
    let judged = kept.keeper.look(|o| (o.state().height() == height).then(|| judge(o.state(), &waiting)));
    for (hash, progress) in judged.into_iter().flatten() {
        tokio::task::block_in_place(|| kept.pending.end(&hash, progress));
    }
}

/// A way for transactions to a node, for a while.
async fn link(log: Arc<ChainLog>, net: Arc<Net>, kept: Arc<Kept>, node: NodeId) -> NodeId {
    let Ok(LogClient { mut events, submit }) = net.follow(node, Follow::to_submit(log.chain())).await else {
        return node;
    };
    let _outlet = log.outlets.open(submit);
    let refusals = async {
        while let Some(LogEvent::Refused(tx, reject)) = events.recv().await {
            kept.pending.refused(&tx, reject);
        }
    };
    let _ = tokio::time::timeout(LINK_FOR, refusals).await;
    node
}
