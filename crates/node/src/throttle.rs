//! A trainer that computes only a part of the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Of 100 parts of the time, how many the node computes for others; 0: it rests, its owner needs the machine.
pub(crate) type Duty = Arc<watch::Sender<u32>>;

/// Answers that are being written here.
pub(crate) type Answers = Arc<AtomicU64>;

/// What the owner wants is looked at so often while it rests.
const SLICE: Duration = Duration::from_millis(100);
/// And so often whether an answer is done.
const TURN: Duration = Duration::from_millis(10);

/// Pays for computing with rest, in proportion.
pub(crate) struct Throttle {
    duty: Duty,
    /// Where answers use the processors that training may use, too: they come first.
    answers: Option<Answers>,
    since: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(duty: Duty, answers: Option<Answers>) -> Self {
        Self { duty, answers, since: Mutex::new(None) }
    }

    /// Sleeps until the time since the last call is long enough for what was computed in it, and no answer is being written. Called
    /// by the trainer's thread after each piece of work, and before the first, when nothing is owed.
    pub(crate) fn rest(&self) {
        let mut since = self.since.lock().expect("only the trainer waits here");
        let worked = since.map_or(Duration::ZERO, |at| at.elapsed());
        let rested = Instant::now();
        // The owner may want more or less of it meanwhile; whoever is to rest is told so by whoever asks next.
        loop {
            let duty = (*self.duty.borrow()).min(100);
            let due = if duty == 0 { Duration::ZERO } else { worked * (100 - duty) / duty };
            let left = due.saturating_sub(rested.elapsed());
            let answers = self.answers.as_ref().map_or(0, |answers| answers.load(Ordering::Relaxed));
            if left.is_zero() && (answers == 0 || duty == 0) {
                break;
            }
            std::thread::sleep(left.clamp(TURN, SLICE));
        }
        *since = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_first_until_the_owner_does() {
        let (duty, answers) = (Arc::new(watch::Sender::new(100)), Answers::default());
        let throttle = Throttle::new(duty.clone(), Some(answers.clone()));
        throttle.rest();
        answers.store(1, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| throttle.rest());
            assert!(!waits.is_finished());
            answers.store(0, Ordering::Relaxed);
            waits.join().expect("it ends with the answer");
            answers.store(1, Ordering::Relaxed);
            let waits = scope.spawn(|| throttle.rest());
            duty.send_replace(0);
            waits.join().expect("who is to rest is told so");
        });
        // Who may use all processors does not wait.
        Throttle::new(Arc::new(watch::Sender::new(100)), None).rest();
    }
}
