//! How fast content may go, as the owner of the link says: a token bucket (RFC 2697, one rate, one bucket).

use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A limit that all who share it keep together.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Bytes a second; none: no limit.
    limit: Option<f64>,
    /// When all that was promised has gone.
    clear: Mutex<Instant>,
}

/// So much may go at once after a pause.
const BURST: Duration = Duration::from_millis(250);
/// What goes without waiting delays others by this at most.
const COUNTED_MAX: Duration = Duration::from_secs(5);

impl Rate {
    /// A limit in bytes a second; 0: none.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit: (limit > 0).then_some(limit as f64), clear: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may go, in the order of coming. Who goes away meanwhile costs nothing.
    pub(crate) async fn take(&self, bytes: usize) {
        let Some(limit) = self.limit else { return };
        let mut clear = self.clear.lock().await;
        let at = Self::after(*clear, bytes, limit);
        tokio::time::sleep_until(at).await;
        *clear = at;
    }

    /// Counts bytes that go without having waited: those who come later wait for them, but not for long.
    pub(crate) async fn count(&self, bytes: usize) {
        let Some(limit) = self.limit else { return };
        let mut clear = self.clear.lock().await;
        *clear = Self::after(*clear, bytes, limit).min(Instant::now() + COUNTED_MAX);
    }

    fn after(clear: Instant, bytes: usize, limit: f64) -> Instant {
        let now = Instant::now();
        let from = clear.max(now.checked_sub(BURST).unwrap_or(now));
        from + Duration::from_secs_f64(bytes as f64 / limit)
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
    async fn without_a_limit_nobody_waits() {
        let begun = Instant::now();
        Rate::new(0).take(usize::MAX).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
