//! Why a transaction is not final.

use base::Reject;
use std::fmt;
use std::time::Duration;

/// A transaction is final after so long, or something is wrong.
pub const FINAL_WITHIN: Duration = Duration::from_secs(30);

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
