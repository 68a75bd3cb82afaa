//! The log that this node keeps: the order of one node, on its disk. It is its owner's own
//! book-keeping; an order that distrusting peers agree on takes its place behind the same trait.

use crate::store::Store;
use anyhow::Result;
use base::{Millis, NodeId, Reject, Wire};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use swarm::{Sequencer, SignedTx};
use tokio::sync::{Notify, watch};

/// A log on this node's disk.
pub(crate) struct NodeLog {
    store: Arc<Store>,
    sequencer: Mutex<Sequencer>,
    arrived: Notify,
    height: watch::Sender<u64>,
    trouble: watch::Sender<Option<String>>,
}

/// Pause before a block that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl NodeLog {
    /// Goes on with the log on disk.
    pub(crate) fn open(store: Arc<Store>) -> Result<Arc<Self>> {
        let sequencer = Sequencer::replay(store.blocks()?.into_iter());
        let sequencer = sequencer.map_err(|e| anyhow::anyhow!("the log on disk does not add up: {e}"))?;
        let height = watch::Sender::new(sequencer.state().height);
        let (arrived, trouble) = (Notify::new(), watch::Sender::default());
        Ok(Arc::new(Self { store, sequencer: Mutex::new(sequencer), arrived, height, trouble }))
    }

    /// Makes blocks until the task is dropped: at once when transactions wait, else at deadlines.
    pub(crate) async fn run(self: Arc<Self>) -> Result<()> {
        loop {
            let due = self.lock().due();
            let now = clock();
            let wait = due.map(|due| Duration::from_millis(due.since(now)));
            let arrived = self.arrived.notified();
            match wait {
                Some(Duration::ZERO) => self.make().await,
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, arrived).await;
                }
                None => arrived.await,
            }
        }
    }

    async fn make(&self) {
        let block = self.lock().make(clock()).0;
        // On disk before anybody sees it. A full disk stops the log, not the node: the same block is
        // tried again until there is room.
        while let Err(error) = tokio::task::block_in_place(|| self.store.append(&block)) {
            let text = format!("the log cannot be written (is the disk full?): {error:#}");
            tracing::error!(text, "trouble");
            self.trouble.send_replace(Some(text));
            tokio::time::sleep(RETRY).await;
        }
        self.trouble.send_replace(None);
        self.height.send_replace(block.height);
    }

    /// Why the log stands still, if it does.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sequencer> {
        self.sequencer.lock().expect("the sequencer does not panic")
    }
}

impl net::LogService for NodeLog {
    fn submit(&self, _from: NodeId, tx: Vec<u8>) -> Result<(), Reject> {
        let tx = SignedTx::from_bytes(&tx).map_err(|_| Reject::Malformed)?;
        self.lock().submit(tx)?;
        self.arrived.notify_one();
        Ok(())
    }

    fn block(&self, height: u64) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send + '_>> {
        Box::pin(async move {
            let mut heights = self.height.subscribe();
            heights.wait_for(|newest| *newest >= height).await.ok()?;
            tokio::task::block_in_place(|| self.store.block(height)).ok().flatten().map(Bytes::from)
        })
    }
}

/// The log's time: milliseconds of Unix time.
pub(crate) fn clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(since.as_millis() as u64)
}
