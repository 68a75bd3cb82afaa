//! Why asking a peer came to nothing.

use base::Reject;
use thiserror::Error;

/// Why asking a peer came to nothing. Only [`PeerError::Broke`] is held against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PeerError {
    /// What it sent breaks a rule.
    #[error("it broke a rule: {0}")]
    Broke(Reject),
    /// There is no way to it, or the way ended.
    #[error("it cannot be reached")]
    Unreachable,
    /// It says that it does not have what was asked for.
    #[error("it does not have it")]
    Missing,
    /// It did not answer in time.
    #[error("it did not answer in time")]
    TooSlow,
    /// This node has all the connections that it may have.
    #[error("this node has as many connections as it may have")]
    NoRoom,
}

impl From<Reject> for PeerError {
    fn from(reject: Reject) -> Self {
        Self::Broke(reject)
    }
}

impl PeerError {
    /// As it is counted.
    pub fn reject(self) -> Reject {
        match self {
            Self::Broke(reject) => reject,
            Self::Unreachable | Self::Missing => Reject::NotHeld,
            Self::TooSlow | Self::NoRoom => Reject::TooMany,
        }
    }
}
