//! A trainer that computes only a part of the time.

use std::sync::Mutex;
use std::time::Instant;

/// Pays for computing with rest, in proportion.
pub(crate) struct Throttle {
    duty_percent: u32,
    since: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(duty_percent: u32) -> Self {
        Self { duty_percent: duty_percent.clamp(1, 100), since: Mutex::new(None) }
    }

    /// Sleeps until the time since the last call is long enough for what was computed in it. Called
    /// by the trainer's thread after each piece of work, and before the first, when nothing is owed.
    pub(crate) fn rest(&self) {
        if self.duty_percent == 100 {
            return;
        }
        let mut since = self.since.lock().expect("only the trainer waits here");
        if let Some(at) = *since {
            std::thread::sleep(at.elapsed() * (100 - self.duty_percent) / self.duty_percent);
        }
        *since = Some(Instant::now());
    }
}
