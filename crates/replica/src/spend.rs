//! Submitting transactions, and what becomes of them.

use crate::log::ChainLog;
use crate::pending::Progress;
use crate::spend_error::{FINAL_WITHIN, SpendError, Unsettled};
use base::{Hash, Keypair};
use chain::Tx;
use tokio::sync::watch;

impl ChainLog {
    /// Submits a wallet transaction that `key` signs with its next free number, and waits until it is final: the height of
    /// its block, and its hash.
    pub async fn spend(&self, key: &Keypair, tx: ledger::WalletTx) -> Result<(u64, Hash), SpendError> {
        let (hash, progress) = self.begin_spend(key, tx)?;
        Ok((settled(self, progress).await?, hash))
    }

    /// Submits a transaction of the owner, and waits until it is final: the height of its block.
    pub async fn say(&self, tx: &Tx) -> Result<u64, SpendError> {
        let progress = self.begin_say(tx)?;
        settled(self, progress).await
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
