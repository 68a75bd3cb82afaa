//! A trainer that computes only a part of the time.

use crate::platform::thread_cpu_time;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Pays for computing with rest, in proportion.
pub(crate) struct Throttle {
    duty_percent: u32,
    since: Mutex<Option<(Instant, Option<Duration>)>>,
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
        if let Some((at, cpu)) = *since {
            let elapsed = at.elapsed();
            // Waiting for a processor that others use is rest already.
            let used = thread_cpu_time().zip(cpu).map_or(elapsed, |(now, then)| now.saturating_sub(then));
            let whole = used * 100 / self.duty_percent;
            std::thread::sleep(whole.saturating_sub(elapsed));
        }
        *since = Some((Instant::now(), thread_cpu_time()));
    }
}
