//! How answers went, for displays.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Answers whose times are remembered.
const RECENT: usize = 512;

/// How much was answered since the start, and how fast.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speeds {
    /// Answers that are being written.
    pub now: u64,
    /// Read.
    pub tokens_in: u64,
    /// Written.
    pub tokens_out: u64,
    /// Milliseconds until the first word: the median of the last answers, and the 95th of a hundred.
    pub first_ms: Option<(u64, u64)>,
    /// Mean of the last answers.
    pub tokens_per_s: Option<f64>,
}

/// What was answered here since the start, the owner's own questions too.
#[derive(Debug)]
pub(crate) struct ServingStats {
    inner: Mutex<Inner>,
    /// Those that are being written now.
    now: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Inner {
    read: u64,
    written: u64,
    first_ms: VecDeque<u64>,
    /// Tokens a second of each answer.
    rates: VecDeque<f64>,
}

/// An answer that is being written.
pub(crate) struct Writing<'a> {
    stats: &'a ServingStats,
    begun: Instant,
    first: Option<Instant>,
    written: u64,
}

impl ServingStats {
    pub(crate) fn new(now: Arc<AtomicU64>) -> Self {
        Self { inner: Mutex::default(), now }
    }

    /// Somebody begins to write, who read so many tokens.
    pub(crate) fn begin(&self, read: u64) -> Writing<'_> {
        let mut inner = self.inner();
        inner.read += read;
        self.now.fetch_add(1, Ordering::Relaxed);
        Writing { stats: self, begun: Instant::now(), first: None, written: 0 }
    }

    /// Answers that are being written now.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// All of it.
    pub(crate) fn speeds(&self) -> Speeds {
        let inner = self.inner();
        let mut sorted: Vec<u64> = inner.first_ms.iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied();
        let rate = (!inner.rates.is_empty()).then(|| inner.rates.iter().sum::<f64>() / inner.rates.len() as f64);
        Speeds {
            now: self.now(),
            tokens_in: inner.read,
            tokens_out: inner.written,
            first_ms: at(50).zip(at(95)),
            tokens_per_s: rate,
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding it")
    }
}

impl Writing<'_> {
    /// So many tokens came.
    pub(crate) fn wrote(&mut self, tokens: usize) {
        self.first.get_or_insert_with(Instant::now);
        self.written += tokens as u64;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut inner = self.stats.inner();
        self.stats.now.fetch_sub(1, Ordering::Relaxed);
        inner.written += self.written;
        let Some(first) = self.first else { return };
        inner.first_ms.push_back((first - self.begun).as_millis() as u64);
        if self.written > 1 {
            inner.rates.push_back((self.written - 1) as f64 / first.elapsed().as_secs_f64().max(1e-6));
        }
        while inner.first_ms.len() > RECENT {
            inner.first_ms.pop_front();
        }
        while inner.rates.len() > RECENT {
            inner.rates.pop_front();
        }
    }
}
