//! Shares of the processor, from `/proc/stat` and `/proc/<pid>/stat`.
//!
//! Both count in ticks of USER_HZ, which is 1/100 s on all Linux ABIs, whatever the kernel's own rate is.
//! A share divides ticks by ticks, so the length of a tick cancels out.
//!
//! In a container `/proc/stat` is the host's: the load of its other containers counts as other load, and a
//! thousand is the whole host, not this container's part of it.

use super::read;
use crate::machine::{CHILDREN_EVERY, CHILDREN_MAX, Shares};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Shares are taken over no fewer ticks of all cores together: fewer tell nothing.
const TICKS_MIN: u64 = 10;

/// Ticks of the whole machine since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Ticks in which a core did something, for whoever, however nice.
    busy: u64,
    /// All ticks.
    total: u64,
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    parent: u32,
    /// Ticks of it and of its children that ended.
    ticks: u64,
}

/// Ticks of the machine from the first line of `/proc/stat`.
///
/// Stolen time counts as time but not as busy: it is the work of other machines on the same host, and
/// nobody at this one misses it. Time of guests is already in `user` and `nice`.
pub(super) fn parse_machine(stat: &str) -> Option<Machine> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields = line.split_ascii_whitespace().take(8).map(|field| field.parse().ok());
    let [user, nice, system, idle, iowait, irq, softirq, steal] = fields.collect::<Option<Vec<u64>>>()?[..] else {
        return None;
    };
    let sum = |parts: &[u64]| parts.iter().try_fold(0u64, |sum, part| sum.checked_add(*part));
    let busy = sum(&[user, nice, system, irq, softirq])?;
    Some(Machine { busy, total: sum(&[busy, idle, iowait, steal])? })
}

/// A process from `/proc/<pid>/stat`: fields 4 (parent) and 14 to 17 (user and system time of it, then of its
/// children that were waited for), counted from 1 as in proc(5).
pub(super) fn parse_process(stat: &str) -> Option<Process> {
    // The name stands in parentheses and may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first of them is field 3.
    let parent = fields.get(1)?.parse().ok()?;
    let mut ticks = 0u64;
    for field in fields.get(11..15)? {
        // The times of children are signed in the kernel, and never below 0.
        ticks = ticks.checked_add(field.parse().ok()?)?;
    }
    Some(Process { parent, ticks })
}

/// All descendants of a process, at most [`CHILDREN_MAX`].
pub(super) fn descendants(of: u32, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        for (&pid, _) in parents.iter().filter(|(_, up)| **up == parent) {
            // A table read while processes come and go may even hold a circle.
            if found.len() <= CHILDREN_MAX && !found.contains(&pid) {
                found.push(pid);
            }
        }
    }
    found.remove(0);
    found
}

/// Shares between two moments; `None` where they are too close.
pub(super) fn shares(before: (Machine, u64), after: (Machine, u64)) -> Option<Shares> {
    let total = after.0.total.saturating_sub(before.0.total);
    if total < TICKS_MIN {
        return None;
    }
    let busy = after.0.busy.saturating_sub(before.0.busy);
    // A child that ended without being waited for takes its ticks along: the sum may fall.
    let own = after.1.saturating_sub(before.1);
    let permille =
        |ticks: u64| u32::try_from(u128::from(ticks) * 1000 / u128::from(total)).map_or(1000, |p| p.min(1000));
    Some(Shares { own_permille: permille(own), other_permille: permille(busy.saturating_sub(own)) })
}

/// Measures shares from one reading to the next.
pub(super) struct Meter {
    before: Option<(Machine, u64)>,
    shares: Option<Shares>,
    children: Vec<u32>,
    looked: Option<Instant>,
}

impl Meter {
    /// Begins at this moment.
    pub(super) fn new(proc: &Path) -> Self {
        let mut meter = Self { before: None, shares: None, children: Vec::new(), looked: None };
        meter.read(proc);
        meter
    }

    /// Shares since the last reading that was long enough ago.
    pub(super) fn read(&mut self, proc: &Path) -> Option<Shares> {
        if self.looked.is_none_or(|at| at.elapsed() >= CHILDREN_EVERY) {
            self.looked = Some(Instant::now());
            let children = descendants(std::process::id(), &parents(proc));
            if children != self.children {
                // What a child did before it was found is not of this interval.
                self.children = children;
                self.before = self.ticks(proc);
                return self.shares;
            }
        }
        let Some(after) = self.ticks(proc) else {
            self.before = None;
            self.shares = None;
            return None;
        };
        match self.before.map(|before| shares(before, after)) {
            None => self.before = Some(after),
            Some(None) => {}
            Some(measured) => {
                self.before = Some(after);
                self.shares = measured;
            }
        }
        self.shares
    }

    /// The children that are counted.
    pub(super) fn children(&self) -> &[u32] {
        &self.children
    }

    fn ticks(&self, proc: &Path) -> Option<(Machine, u64)> {
        let machine = parse_machine(&read(proc.join("stat"))?)?;
        let mut own = parse_process(&read(proc.join("self/stat"))?)?.ticks;
        for child in &self.children {
            // A child that ended meanwhile is in its parent's ticks.
            let stat = read(proc.join(child.to_string()).join("stat"));
            own = own.saturating_add(stat.and_then(|stat| parse_process(&stat)).map_or(0, |child| child.ticks));
        }
        Some((machine, own))
    }
}

/// The parent of each process that can be seen.
fn parents(proc: &Path) -> BTreeMap<u32, u32> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let stat = |pid: u32| read(proc.join(pid.to_string()).join("stat"));
    pids.filter_map(|pid| Some((pid, parse_process(&stat(pid)?)?.parent))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  73639 2036 7268 15485 466 10 146 888 7 3\n\
        cpu0 35894 1212 3287 9067 95 0 9 430 0 0\nintr 452400 0 0\nctxt 587702\nbtime 1795827947\n";
    const SELF: &str = "12555 (talkoo) S 12506 12506 6478 0 -1 4194304 99 0 0 0 700 50 30 4 20 0 1 0 50133 3133440 \
        389 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0";

    #[test]
    fn the_machine() {
        let check = |stat: &str, expect: Option<(u64, u64)>| {
            assert_eq!(parse_machine(stat), expect.map(|(busy, total)| Machine { busy, total }), "{stat}");
        };
        check(STAT, Some((83_099, 99_938)));
        check("cpu  1 2 3 4 5 6 7 8\n", Some((19, 36)));
        check("cpu  1 2 3 4\n", None);
        check("cpu  1 2 3 x 5 6 7 8 9 10\n", None);
        check("cpu  1 2 -3 4 5 6 7 8 9 10\n", None);
        check("cpu  18446744073709551615 2 3 4 5 6 7 8\n", None);
        check("cpu0 1 2 3 4 5 6 7 8 9 10\n", None);
        check("", None);
    }

    #[test]
    fn a_process() {
        let check = |stat: &str, expect: Option<(u32, u64)>| {
            assert_eq!(parse_process(stat), expect.map(|(parent, ticks)| Process { parent, ticks }), "{stat}");
        };
        check(SELF, Some((12_506, 784)));
        check(&SELF.replace("(talkoo)", "(a) b) (c 1 2)"), Some((12_506, 784)));
        check(&SELF.replace(" 700 ", " -700 "), None);
        check("12555 (talkoo) S 12506 1 2", None);
        check("12555 (talkoo", None);
        check("", None);
    }

    #[test]
    fn all_below() {
        let check = |parents: &[(u32, u32)], expect: &[u32]| {
            assert_eq!(descendants(10, &parents.iter().copied().collect()), expect, "{parents:?}");
        };
        check(&[(1, 0), (10, 1), (11, 1)], &[]);
        check(&[(1, 0), (10, 1), (20, 10), (30, 20), (40, 11), (21, 10)], &[20, 21, 30]);
        check(&[(10, 20), (20, 10)], &[20]);
        let many: Vec<_> = (100..1000).map(|pid| (pid, 10)).collect();
        assert_eq!(descendants(10, &many.into_iter().collect()).len(), CHILDREN_MAX);
    }

    #[test]
    fn shares_of_a_thousand() {
        let check = |busy: u64, total: u64, own: u64, expect: Option<(u32, u32)>| {
            let before = (Machine { busy: 1000, total: 5000 }, 300);
            let after = (Machine { busy, total }, own);
            let expect = expect.map(|(own_permille, other_permille)| Shares { own_permille, other_permille });
            assert_eq!(shares(before, after), expect, "{busy} {total} {own}");
        };
        check(1000, 5200, 300, Some((0, 0)));
        check(1150, 5200, 400, Some((500, 250)));
        check(1200, 5200, 300, Some((0, 1000)));
        // Two clocks that do not agree to the tick.
        check(1090, 5200, 400, Some((500, 0)));
        check(1500, 5200, 900, Some((1000, 0)));
        // Sums that fell.
        check(1100, 5200, 200, Some((0, 500)));
        check(900, 5200, 300, Some((0, 0)));
        // Too close, or the machine began anew.
        check(1005, 5009, 300, None);
        check(10, 50, 3, None);
    }

    #[test]
    fn this_process() {
        let proc = Path::new("/proc");
        let mut meter = Meter::new(proc);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a child");
        let all = parents(proc);
        assert!(descendants(std::process::id(), &all).contains(&child.id()));
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        assert!(meter.read(Path::new("/nowhere")).is_none());
    }
}
