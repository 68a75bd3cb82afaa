//! Room on the disk, which a validator leaves before there is none.

use super::Actor;
use crate::disk::Disk;
use crate::end::EXIT_DISK;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// Free bytes that a chain leaves on its disk. An engine whose journal cannot be written ends, and a store of blocks
/// that failed to write once may take nothing until it is opened again: both are stopped before. It is room for the
/// blocks of the seconds until it is looked at again, and for a journal and a store to end what they do, and to open.
const RESERVE: u64 = 256 << 20;
/// With so much free a validator that stopped goes on: not at once when there is a byte more.
const RESERVE_AGAIN: u64 = 2 * RESERVE;
/// Free space is looked at so often.
pub(super) const ROOM_AGAIN: Duration = Duration::from_secs(2);
/// A write that failed is tried again after so long.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// A disk that has room may fail for so long.
const FAILING_MAX: Duration = Duration::from_secs(10);

/// What is known of the disk.
#[derive(Debug, Default)]
pub(crate) struct Room {
    looked: Option<Instant>,
    full: bool,
    /// Since when writes of a kind have failed: that others succeed says nothing of them.
    failing: BTreeMap<&'static str, Instant>,
}

impl Room {
    pub(super) fn is_full(&self) -> bool {
        self.full
    }
}

impl Actor {
    /// Whether the chain may write.
    pub(super) fn has_room(&mut self) -> bool {
        let now = Instant::now();
        if self.work.room.looked.is_some_and(|looked| now.duration_since(looked) < ROOM_AGAIN) {
            return !self.work.room.full;
        }
        self.work.room.looked = Some(now);
        let needed = if self.work.room.full { RESERVE_AGAIN } else { RESERVE };
        // Where nobody can tell, a write will.
        let full = self.disk.room().is_ok_and(|free| free < needed);
        if full && !self.work.room.full {
            let (reserve, again) = (RESERVE >> 20, RESERVE_AGAIN >> 20);
            let text = format!(
                "less than {reserve} MB of disk are free, so the chain stands still here; make room: \
                 it goes on with {again} MB"
            );
            tracing::error!(text, "trouble");
            self.trouble.send_replace(Some(text));
        } else if !full && self.work.room.full {
            tracing::info!("there is room on the disk again: the chain goes on");
            self.trouble.send_replace(None);
        }
        self.work.room.full = full;
        !full
    }

    /// Writes, or gives how long to wait until it is tried again. A full disk stops the chain here, not the node.
    /// One that has room and fails all the same ends the process: what keeps blocks may refuse everything after one
    /// failed write, until it is opened anew.
    pub(super) fn write(
        &mut self,
        kind: &'static str,
        write: impl FnOnce(&dyn Disk) -> io::Result<()>,
    ) -> Result<(), Duration> {
        if !self.has_room() {
            return Err(ROOM_AGAIN);
        }
        match tokio::task::block_in_place(|| write(self.disk.as_ref())) {
            Ok(()) => {
                self.work.room.failing.remove(kind);
                let failed = self.orderer.failure.has_failed();
                if !failed && self.work.room.failing.is_empty() && self.trouble.borrow().is_some() {
                    self.trouble.send_replace(None);
                }
                Ok(())
            }
            Err(error) => {
                let text = format!("the chain cannot be written: {error}");
                let now = Instant::now();
                let since = *self.work.room.failing.entry(kind).or_insert(now);
                if now.duration_since(since) >= FAILING_MAX {
                    let why = format!("{text}. Look at the disk, then start the node again");
                    self.orderer.failure.fail(EXIT_DISK, &why);
                    return Err(WRITE_AGAIN);
                }
                tracing::error!(text, "trouble");
                self.trouble.send_replace(Some(text));
                Err(WRITE_AGAIN)
            }
        }
    }

    /// Stops voting, with the journal whole on disk when this returns; what the engine asked is void.
    pub(super) async fn stand_up(&mut self) {
        if let Some(place) = self.work.place.take() {
            place.engine.stop().await;
            self.work.proposal = None;
            self.work.questions.retain(|question| matches!(question, super::Question::Final { .. }));
        }
    }
}
