//! Submitting transactions, and what becomes of them.

use super::FINAL_WITHIN;
use crate::Node;
use crate::log::ChainLog;
use crate::pending::Progress;
use base::{Hash, NodeId, Reject};
use chain::Tx;
use std::fmt;
use tokio::sync::watch;

/// Why a transaction is not final.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpendError {
    /// This node refused it before anybody got it, or its number was used for another one: it never has an effect.
    #[error("refused: {}", why(.0))]
    Refused(Reject),
    /// Nothing was submitted.
    #[error(transparent)]
    Unsent(#[from] anyhow::Error),
    /// It was submitted and may still become final: one that says the same would be a second one.
    #[error("{0}")]
    Unknown(Unsettled),
}

/// Why nobody knows yet what becomes of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsettled {
    /// Another node refused it; others are asked.
    Upstream(Reject),
    /// The chain does not take it now, so it is submitted no more; whoever has it may bring it again.
    Dropped(Reject),
    /// No block came with it.
    Waits {
        /// Why the chain stands still here, where this node knows.
        trouble: Option<String>,
    },
}

impl SpendError {
    /// Whether it is certain that the transaction has no effect.
    pub fn has_no_effect(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unsent(_))
    }
}

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stays = "this node submits it until a block has it, so do not submit it again; \
            `talkoo wallet history` shows when it is done";
        let seconds = FINAL_WITHIN.as_secs();
        match self {
            Self::Upstream(reject) => {
                write!(f, "not final yet after {seconds} s: another node refused it: {}; {stays}", why(reject))
            }
            Self::Dropped(reject) => write!(
                f,
                "it was submitted, and the chain does not take it now: {}; whoever has the block may bring it again, so \
                 look at `talkoo wallet history` before you submit another one",
                why(reject)
            ),
            Self::Waits { trouble } => {
                let trouble = trouble.as_deref().unwrap_or("too few validators answer");
                write!(f, "not final yet after {seconds} s: {trouble}; {stays}")
            }
        }
    }
}

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

/// A refusal for people.
fn why(reject: &Reject) -> String {
    match reject {
        Reject::Insufficient => "there is not so much (with the fee) in the account".into(),
        Reject::BadAmount => "the amount is zero, or more than can be added".into(),
        Reject::UnknownRun => "the chain of this node does not have this run".into(),
        Reject::Stale => "another transaction used its number, perhaps from another machine with the same key".into(),
        other => other.to_string(),
    }
}
