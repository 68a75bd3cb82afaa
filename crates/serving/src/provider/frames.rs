//! Frames on their way to who asked, and why there are no more.

use market::{Frame, Reason};
use std::time::Duration;
use tokio::sync::mpsc;

/// Who does not read for so long is gone.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(20);

/// Why an answer breaks off.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Break {
    /// Nobody reads it any more.
    Left,
    /// The client is told.
    Why(Reason),
}

impl From<Reason> for Break {
    fn from(reason: Reason) -> Self {
        Self::Why(reason)
    }
}

pub(super) async fn send(out: &mpsc::Sender<Frame>, frame: Frame) -> Result<(), Break> {
    match tokio::time::timeout(READ_WITHIN, out.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Break::Left),
    }
}
