//! How long ago somebody used a terminal or the built-in keyboard, without asking any program.
//!
//! Terminals: the access time of the device, as `w` takes it. It changes when what was typed is read; what a
//! program prints changes the modification time only, so our own printing is not taken for a person. The kernel
//! moves it in steps of 8 s (tty_io.c, since Linux 3.9), so a terminal seems idle up to 8 s too long, but
//! the first key after a longer rest is seen at once.
//!
//! Keyboard: the count of interrupts of the `i8042` controller, which serves the keyboard and often the touchpad
//! of a laptop and nothing else. The lines of USB are shared with disks, cameras and network, so a count of theirs
//! says nothing about a person and is not used. Access times of `/dev/input/*` do not move on use.

use super::read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A console counts if it was used this long after the start of the system or later: its device carries the time
/// of the start until somebody types there.
const CONSOLE_AFTER_S: i64 = 120;

/// A use this far in the future is one in the present, by a clock that is read twice; any further, the clock was
/// set back since, and the use is of no known age.
const AHEAD_S: i64 = 10;

/// Terminals that are looked at, at most.
const TERMINALS_MAX: usize = 1024;

/// When a terminal was last used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terminal {
    /// A device that is there without anybody logged in.
    console: bool,
    /// Seconds since 1970.
    used_s: i64,
}

/// When the system was started, in seconds since 1970, from `/proc/stat`.
pub(super) fn parse_boot_s(stat: &str) -> Option<i64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Whether a name below `/dev` is that of a console (`tty1`; `tty` and `tty0` are aliases, `ttyS0` is a line to a
/// device as often as to a person).
pub(super) fn is_console(name: &str) -> bool {
    let digits = name.strip_prefix("tty").unwrap_or_default();
    is_number(digits) && digits != "0"
}

/// Milliseconds since any terminal was used; `None` if nobody used one.
pub(super) fn idle_ms(terminals: &[Terminal], boot_s: i64, now_s: i64) -> Option<u64> {
    let known = terminals.iter().filter(|terminal| {
        let start = if terminal.console { boot_s.saturating_add(CONSOLE_AFTER_S) } else { 0 };
        (start..=now_s.saturating_add(AHEAD_S)).contains(&terminal.used_s)
    });
    let newest = known.map(|terminal| terminal.used_s).max()?;
    u64::try_from(now_s.saturating_sub(newest)).unwrap_or(0).checked_mul(1000)
}

/// The interrupts of all cores from `/sys/kernel/irq/<n>/per_cpu_count`.
pub(super) fn parse_interrupts(counts: &str) -> Option<u64> {
    let counts = counts.trim().split(',').map(|count| count.parse().ok());
    counts.collect::<Option<Vec<u64>>>()?.into_iter().try_fold(0, u64::checked_add)
}

/// When the system was started, in seconds since 1970.
fn boot_s(root: &Path) -> Option<i64> {
    parse_boot_s(&read(root.join("proc/stat"))?)
}

/// The terminals below a root. Consoles and the system's start are looked up seldom.
pub(super) struct Terminals {
    boot_s: Option<i64>,
    consoles: Vec<PathBuf>,
    /// Where the others are: each login has one.
    opened: PathBuf,
}

impl Terminals {
    /// Looks for them.
    pub(super) fn find(root: &Path) -> Self {
        let consoles = devices(&root.join("dev"), is_console);
        Self { boot_s: boot_s(root), consoles, opened: root.join("dev/pts") }
    }

    /// Milliseconds since one of them was used.
    pub(super) fn idle_ms(&self) -> Option<u64> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let opened = devices(&self.opened, is_number);
        let all = opened.iter().map(|path| (false, path)).chain(self.consoles.iter().map(|path| (true, path)));
        let used = |(console, path): (bool, &PathBuf)| {
            Some(Terminal { console, used_s: std::fs::metadata(path).ok()?.atime() })
        };
        let terminals: Vec<_> = all.filter_map(used).collect();
        idle_ms(&terminals, self.boot_s?, i64::try_from(now_s).ok()?)
    }
}

/// The keyboard that is built in.
pub(super) struct Keyboard {
    counts: Vec<PathBuf>,
    seen: Option<u64>,
    used: Option<Instant>,
}

impl Keyboard {
    /// Looks for one; there may be none.
    pub(super) fn new(root: &Path) -> Self {
        let lines = std::fs::read_dir(root.join("sys/kernel/irq")).into_iter().flatten().flatten();
        let lines = lines.map(|line| line.path()).filter(|line| {
            // One line may serve several drivers; then it tells nothing.
            std::fs::read_to_string(line.join("actions")).is_ok_and(|drivers| drivers.trim() == "i8042")
        });
        Self { counts: lines.map(|line| line.join("per_cpu_count")).collect(), seen: None, used: None }
    }

    /// Whether there is one.
    pub(super) fn found(&self) -> bool {
        !self.counts.is_empty()
    }

    /// Time since it was used; `None` if it was not since the first call.
    pub(super) fn idle(&mut self) -> Option<Duration> {
        let count = |path: &PathBuf| parse_interrupts(&read(path)?);
        let now: u64 = self.counts.iter().filter_map(count).fold(0, u64::wrapping_add);
        if self.seen.replace(now).is_some_and(|seen| seen != now) {
            self.used = Some(Instant::now());
        }
        self.used.map(|used| used.elapsed())
    }
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

fn devices(dir: &Path, wanted: fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_name().to_str().is_some_and(wanted));
    entries.map(|entry| entry.path()).take(TERMINALS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot() {
        let check = |stat: &str, expect: Option<i64>| assert_eq!(parse_boot_s(stat), expect, "{stat}");
        check("cpu  1 2 3\nctxt 587702\nbtime 1795827947\nprocesses 3\n", Some(1_795_827_947));
        check("btime x\n", None);
        check("btime \n", None);
        check("", None);
    }

    #[test]
    fn names() {
        for (name, expect) in [("tty1", true), ("tty63", true), ("tty", false), ("tty0", false), ("ttyS0", false)] {
            assert_eq!(is_console(name), expect, "{name}");
        }
        for (name, expect) in [("0", true), ("17", true), ("ptmx", false), ("", false), ("-1", false)] {
            assert_eq!(is_number(name), expect, "{name}");
        }
    }

    #[test]
    fn the_newest_use() {
        let check = |terminals: &[(bool, i64)], expect: Option<u64>| {
            let terminals: Vec<_> =
                terminals.iter().map(|(console, used_s)| Terminal { console: *console, used_s: *used_s }).collect();
            assert_eq!(idle_ms(&terminals, 1000, 5000), expect, "{terminals:?}");
        };
        check(&[], None);
        check(&[(false, 4000)], Some(1_000_000));
        check(&[(false, 4000), (false, 4992), (true, 3000)], Some(8_000));
        // A server that nobody logs in to.
        check(&[(true, 1000), (true, 1005), (true, 900)], None);
        check(&[(true, 1000), (true, 1130)], Some(3_870_000));
        // A terminal may be older than the start, by a clock that was wrong then.
        check(&[(false, 500)], Some(4_500_000));
        check(&[(false, 5008)], Some(0));
        check(&[(false, 9000), (true, 9000)], None);
        check(&[(false, -5), (false, i64::MAX)], None);
        assert_eq!(idle_ms(&[Terminal { console: true, used_s: 0 }], i64::MAX, i64::MAX), None);
    }

    #[test]
    fn interrupts() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(parse_interrupts(text), expect, "{text}");
        check("0,13\n", Some(13));
        check("7\n", Some(7));
        check("1,x\n", None);
        check("18446744073709551615,1\n", None);
        check("", None);
    }

    #[test]
    fn a_key_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = dir.path().join("sys/kernel/irq").join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        assert!(!Keyboard::new(dir.path()).found());
        put("1/actions", "i8042\n");
        put("1/per_cpu_count", "0,9\n");
        put("16/actions", "i801_smbus,i8042\n");
        put("16/per_cpu_count", "100,0\n");
        let mut keyboard = Keyboard::new(dir.path());
        assert!(keyboard.found());
        assert_eq!((keyboard.idle(), keyboard.idle()), (None, None));
        put("16/per_cpu_count", "101,0\n");
        assert_eq!(keyboard.idle(), None);
        put("1/per_cpu_count", "0,10\n");
        assert!(keyboard.idle().expect("known") < Duration::from_secs(60));
        assert!(keyboard.idle().is_some());
    }
}
