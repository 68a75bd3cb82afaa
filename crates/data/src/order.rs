//! Which window of the corpus a position of the run is. Nobody chooses its data: the log hands out
//! positions, and this arithmetic says what they mean.

use base::{Hash, Permutation, Rng};

/// The deterministic order of a run: an endless sequence of positions, each epoch of it a
/// permutation of all windows with a key of its own.
#[derive(Debug, Clone)]
pub struct Order {
    windows: u64,
    seed: u64,
}

/// A window of the training split, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How often the corpus was begun before.
    pub epoch: u64,
    /// Window `i` is tokens `i·T ..= (i+1)·T`: `T` inputs and, one later, `T` targets.
    pub index: u64,
}

impl Order {
    /// Order over `tokens` tokens in windows of `seq_len` (T); `None` when not one window fits.
    pub fn new(tokens: u64, seq_len: u64, manifest: &Hash, seed: u64) -> Option<Self> {
        let windows = tokens.checked_sub(1)? / seq_len.max(1);
        (windows > 0).then(|| Self { windows, seed: Rng::keyed(seed, manifest.seed()).next_u64() })
    }

    /// Windows in an epoch.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// The window at `position`.
    pub fn at(&self, position: u64) -> Window {
        let (epoch, offset) = (position / self.windows, position % self.windows);
        let key = Rng::keyed(self.seed, epoch).next_u64();
        Window { epoch, index: Permutation::new(self.windows, key).at(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_sees_every_window_once_in_another_order() {
        let order = Order::new(1001, 10, &Hash::default(), 7).expect("windows");
        assert_eq!(order.windows(), 100);
        let epoch = |e: u64| (0..100).map(|i| order.at(100 * e + i).index).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        for mut windows in [first, second] {
            windows.sort_unstable();
            assert_eq!(windows, (0..100).collect::<Vec<_>>());
        }
        assert_eq!(order.at(250).epoch, 2);
        assert!(Order::new(5, 10, &Hash::default(), 7).is_none());
    }
}
