//! A trainer that computes only a part of the time.

use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::watch;

/// Of 100 parts of the time, how many the node computes for others; 0: it rests, its owner needs the machine.
pub(crate) type Duty = Arc<watch::Sender<u32>>;

/// Pays for computing with rest, in proportion.
pub(crate) struct Throttle {
    duty: Duty,
    since: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(duty: Duty) -> Self {
        Self { duty, since: Mutex::new(None) }
    }

    /// Sleeps until the time since the last call is long enough for what was computed in it. Called
    /// by the trainer's thread after each piece of work, and before the first, when nothing is owed.
    pub(crate) fn rest(&self) {
        let duty = (*self.duty.borrow()).clamp(1, 100);
        let mut since = self.since.lock().expect("only the trainer waits here");
        if let Some(at) = *since {
            std::thread::sleep(at.elapsed() * (100 - duty) / duty);
        }
        *since = Some(Instant::now());
    }
}
