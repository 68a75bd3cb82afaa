//! A trainer that computes only a part of the time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Of 100 parts of the time, how many the node computes for others; 0: it rests, its owner needs the machine.
pub(crate) type Duty = Arc<watch::Sender<u32>>;

/// What the owner wants is looked at so often while it rests.
const SLICE: Duration = Duration::from_millis(100);

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
        let mut since = self.since.lock().expect("only the trainer waits here");
        if let Some(at) = *since {
            let worked = at.elapsed();
            let rested = Instant::now();
            // The owner may want more or less of it meanwhile; whoever is to rest is told so by whoever asks next.
            loop {
                let duty = (*self.duty.borrow()).min(100);
                let due = if duty == 0 { Duration::ZERO } else { worked * (100 - duty) / duty };
                let left = due.saturating_sub(rested.elapsed());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(SLICE));
            }
        }
        *since = Some(Instant::now());
    }
}
