//! Submitting transactions, and what becomes of them.

use crate::Node;
use crate::log::ChainLog;
use crate::pending::Progress;
use crate::spend_error::{FINAL_WITHIN, SpendError, Unsettled};
use base::{Hash, NodeId};
use chain::Tx;
use tokio::sync::watch;

impl Node {
    /// What the next wallet transaction of `key` has to carry: the chain, and its running number.
    pub fn next_of(&self, network: Option<&str>, key: &NodeId) -> anyhow::Result<(Hash, u64)> {
        let kept = self.picked(network)?;
        Ok((kept.network.genesis.chain(), kept.next_number(key)))
    }

    /// Submits a wallet transaction of this node's own account; gives the height of the block it is final in.
    pub async fn spend(&self, network: Option<&str>, tx: ledger::Tx) -> Result<u64, SpendError> {
        self.spend_named(network, tx).await.map(|(height, _)| height)
    }

    /// The same; the transaction's hash, too.
    pub(crate) async fn spend_named(&self, network: Option<&str>, tx: ledger::Tx) -> Result<(u64, Hash), SpendError> {
        let log = self.pick(network)?;
        let (hash, progress) = log.spend(&self.shared.key, tx)?;
        Ok((settled(&log, progress).await?, hash))
    }

    /// Submits a transaction and waits until it is final.
    pub async fn say(&self, network: Option<&str>, tx: &Tx) -> Result<u64, SpendError> {
        let log = self.pick(network)?;
        let progress = log.say(tx)?;
        settled(&log, progress).await
    }
}

/// Waits for what becomes of a submitted transaction.
async fn settled(log: &ChainLog, mut progress: watch::Receiver<Progress>) -> Result<u64, SpendError> {
    let ends = progress.wait_for(|progress| !matches!(progress, Progress::Waits(_)));
    let ended = tokio::time::timeout(FINAL_WITHIN, ends).await.ok().and_then(Result::ok).map(|progress| *progress);
    let last = ended.unwrap_or_else(|| *progress.borrow());
    match last {
        Progress::Final(height) => Ok(height),
        Progress::Refused(reject) => Err(SpendError::Refused(reject)),
        Progress::Dropped(reject) => Err(SpendError::Unknown(Unsettled::Dropped(reject))),
        Progress::Waits(Some(reject)) => Err(SpendError::Unknown(Unsettled::Upstream(reject))),
        Progress::Waits(None) => Err(SpendError::Unknown(Unsettled::Waits { trouble: log.trouble() })),
    }
}
