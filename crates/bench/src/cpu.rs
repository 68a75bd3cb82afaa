//! Time that a process was on a processor, in nanoseconds.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// What a process has used so far.
pub(crate) struct Cpu {
    /// Seconds of all its threads, those that ended too, in hundredths.
    whole: f64,
    /// Nanoseconds of each thread that lives.
    threads: BTreeMap<u32, u64>,
}

/// A hundredth is counted when it is full.
const TICK_S: f64 = 0.01;

impl Cpu {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let whole = seconds(&text).context("/proc/PID/stat")?;
        let mut threads = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            // One that ends meanwhile is gone.
            let Ok(text) = std::fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok()).context("schedstat")?;
            threads.insert(entry.file_name().to_str().and_then(|id| id.parse().ok()).context("a thread")?, ns);
        }
        Ok(Self { whole, threads })
    }

    /// Seconds since an earlier look.
    pub(crate) fn since(&self, earlier: &Self) -> f64 {
        let of = |(id, ns): (&u32, &u64)| ns.saturating_sub(earlier.threads.get(id).copied().unwrap_or(0));
        let living = self.threads.iter().map(of).sum::<u64>() as f64 / 1e9;
        // A thread that ended is in the whole only, and that lags behind by less than a hundredth at each end.
        living.max(self.whole - earlier.whole - 2.0 * TICK_S)
    }
}

/// utime and stime, 14 and 15 of the whole line.
fn seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) * TICK_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_threads_that_ended_is_counted() {
        let at = |whole: f64, threads: &[(u32, u64)]| Cpu { whole, threads: threads.iter().copied().collect() };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        let before = at(1.0, &[(1, 5_000_000), (2, 7_000_000)]);
        near(at(1.0, &[(1, 5_300_000), (2, 7_000_000), (3, 200_000)]).since(&before), 0.0005);
        near(at(3.0, &[(1, 5_300_000)]).since(&before), 1.98);
    }

    #[test]
    fn ticks_stand_behind_the_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0\n";
        assert_eq!(seconds(stat), Some(3.0));
        assert_eq!(seconds("7 (a) S 1"), None);
    }
}
