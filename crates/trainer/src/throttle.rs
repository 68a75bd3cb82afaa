//! A trainer that computes only a part of the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Of 100 parts of the time, how many the node computes for others; 0: it rests, its owner needs the machine.
pub type Duty = Arc<watch::Sender<u32>>;

/// Answers that are being written here.
pub type Answering = Arc<AtomicU64>;

/// What the owner wants is looked at so often while it rests.
const SLICE: Duration = Duration::from_millis(100);
/// And so often whether an answer is done.
const TURN: Duration = Duration::from_millis(10);

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

    /// Goes on after a wait that was for others: it was no work, so no rest is owed for it.
    pub(crate) fn resume(&self) {
        *self.since.lock().expect("only the trainer waits here") = Some(Instant::now());
    }
}

/// Answers come first, where they use the same processors: waits for them `until` then, unless the trainer is to rest anyway.
pub(crate) fn give_way(answers: &Answering, until: Instant, rests: impl Fn() -> bool) {
    while answers.load(Ordering::Relaxed) > 0 && !rests() && Instant::now() < until {
        std::thread::sleep(TURN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn no_rest_is_owed_for_a_wait() {
        let throttle = Throttle::new(Arc::new(watch::Sender::new(1)));
        throttle.rest();
        give_way(&Answering::new(AtomicU64::new(1)), Instant::now() + 5 * TURN, || false);
        throttle.resume();
        let begun = Instant::now();
        throttle.rest();
        assert!(begun.elapsed() < 99 * 5 * TURN, "as if the wait had been work");
    }

    #[test]
    fn answers_come_first_as_long_as_there_is_time() {
        let (answers, rests) = (Answering::default(), AtomicBool::new(false));
        let late = || Instant::now() + Duration::from_secs(3600);
        let wait = |until: Instant| give_way(&answers, until, || rests.load(Ordering::Relaxed));
        wait(late());
        answers.store(1, Ordering::Relaxed);
        wait(Instant::now());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| wait(late()));
            answers.store(0, Ordering::Relaxed);
            waits.join().expect("it ends with the answer");
            answers.store(1, Ordering::Relaxed);
            let waits = scope.spawn(|| wait(late()));
            rests.store(true, Ordering::Relaxed);
            waits.join().expect("who is to rest is told so");
        });
    }
}
