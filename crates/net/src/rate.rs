//! How fast content may go, as the owner of the link says: a token bucket (RFC 2697, one rate, one bucket).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A limit that all who share it keep together.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Bytes a second; none: no limit.
    limit: Option<f64>,
    /// Those who wait, in the order of coming: the first of them holds it.
    queue: tokio::sync::Mutex<()>,
    /// Held for a moment only, so that nobody waits who only counts.
    clock: Mutex<Clock>,
}

#[derive(Debug)]
struct Clock {
    /// When all that was promised has gone.
    clear: Instant,
    /// What went beside somebody who waits: the next one waits for it.
    beside: Duration,
}

/// So much may go at once after a pause.
const BURST: Duration = Duration::from_millis(250);
/// What goes without waiting delays others by this at most.
const COUNTED_MAX: Duration = Duration::from_secs(5);

impl Rate {
    /// A limit in bytes a second; 0: none.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit: (limit > 0).then_some(limit as f64),
            queue: tokio::sync::Mutex::new(()),
            clock: Mutex::new(Clock { clear: Instant::now(), beside: Duration::ZERO }),
        }
    }

    /// Waits until so many bytes may go, in the order of coming. Who goes away meanwhile costs nothing.
    pub(crate) async fn take(&self, bytes: usize) {
        let Some(limit) = self.limit else { return };
        let _turn = self.queue.lock().await;
        let at = self.clear() + Self::time(bytes, limit);
        tokio::time::sleep_until(at).await;
        self.clock().clear = at;
    }

    /// Counts bytes that go without having waited: those who come later wait for them, but not for long.
    pub(crate) fn count(&self, bytes: usize) {
        let Some(limit) = self.limit else { return };
        let time = Self::time(bytes, limit);
        // Who waits has the time until it goes for itself.
        if let Ok(_turn) = self.queue.try_lock() {
            let after = self.clear() + time;
            let mut clock = self.clock();
            clock.clear = clock.clear.max(after.min(Instant::now() + COUNTED_MAX));
        } else {
            let mut clock = self.clock();
            clock.beside = clock.beside.saturating_add(time).min(COUNTED_MAX);
        }
    }

    /// When all that was promised has gone, after a pause as if it had gone a burst ago.
    fn clear(&self) -> Instant {
        let (now, mut clock) = (Instant::now(), self.clock());
        let beside = std::mem::take(&mut clock.beside);
        clock.clear = clock.clear.max(now.checked_sub(BURST).unwrap_or(now)) + beside;
        clock.clear
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(bytes: usize, limit: f64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn all_who_share_it_keep_it_together() {
        let rate = Arc::new(Rate::new(1_000_000));
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let rate = rate.clone();
            tasks.spawn(async move {
                for _ in 0..50 {
                    rate.take(50_000).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        // Ten million bytes, of which a quarter of a second's worth may go at once.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(9_740) && took <= Duration::from_millis(10_010), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_costs_nothing() {
        let rate = Rate::new(1_000);
        rate.take(1_000).await;
        for _ in 0..100 {
            let gone = tokio::time::timeout(Duration::from_millis(1), rate.take(1_000_000)).await;
            assert!(gone.is_err());
        }
        let begun = Instant::now();
        rate.take(1_000).await;
        assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_counts_does_not_wait_behind_who_waits() {
        let rate = Arc::new(Rate::new(1_000));
        let begun = Instant::now();
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let rate = rate.clone();
                tokio::spawn(async move { rate.take(60_000).await })
            })
            .collect();
        tokio::task::yield_now().await;
        (0..10).for_each(|_| rate.count(100));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for one in waiting {
            one.await.expect("it went");
        }
        // All of them, and the thousand bytes that went beside.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(240_740) && took <= Duration::from_millis(241_010), "{took:?}");
        // What goes late beside somebody costs itself, not the time that one has waited.
        let late = tokio::spawn({
            let rate = rate.clone();
            async move { rate.take(60_000).await }
        });
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(50)).await;
        rate.count(100);
        late.await.expect("it went");
        let begun = Instant::now();
        rate.take(100).await;
        assert!(begun.elapsed() <= Duration::from_millis(210), "{:?}", begun.elapsed());
        // However much is counted, it delays others by a moment.
        rate.count(1_000_000);
        let begun = Instant::now();
        rate.take(1).await;
        assert!(begun.elapsed() <= COUNTED_MAX + Duration::from_millis(10), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let begun = Instant::now();
        Rate::new(0).take(usize::MAX).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
