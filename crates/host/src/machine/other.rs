//! macOS and Windows, by libraries that know both.
//!
//! They know Linux too, and nothing here depends on the system it is compiled for but one constant: the tests on Linux
//! run this very code. On macOS and Windows themselves it was never compiled or run.
//!
//! Goals: as in [`super`]. What could wait for another program is not asked: the free space is that of one folder,
//! since a list of all disks would also have macOS work out what it could purge, and Windows is not asked for its
//! temperature.
//!
//! Unlike on Linux, shares of the processor are taken over half a second or more, and repeat until then; the last
//! moments of a child that ended count as other load; terminals and remote logins are not looked at.

use super::{CHILDREN_EVERY, CHILDREN_MAX, Reading, SLOW_EVERY, Sampler, Shares, Slow};
use starship_battery::{Manager, State};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sysinfo::{Components, CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Shares are taken over this long at least: the library itself needs a fifth of a second, and Windows lists every
/// process to find one.
const SHARES_EVERY: Duration = Duration::from_millis(500);

/// Whether sensors are asked. Windows tells only administrators, through a service that is waited for without end.
const SENSORS: bool = !cfg!(windows);

/// Sensors report what the hardware says, and some say nonsense.
const CELSIUS: std::ops::RangeInclusive<f32> = 1.0..=125.0;

/// Input this far in the future is of now.
const AHEAD_MS: u64 = 60_000;

pub(super) fn sampler(data_dir: &Path) -> Box<dyn Sampler> {
    Box::new(Other::new(data_dir))
}

pub(super) fn memory_mb() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    Some(system.total_memory() >> 20).filter(|mb| *mb > 0)
}

pub(super) fn cpu() -> Option<String> {
    let mut system = System::new();
    // The names come with the list, whatever else is asked of it.
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    let brand = system.cpus().first()?.brand().split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    Some(brand).filter(|brand| !brand.is_empty())
}

pub(super) fn os() -> Option<String> {
    let kernel = System::kernel_long_version();
    Some(System::long_os_version().map_or(kernel.clone(), |name| format!("{name}, {kernel}")))
}

pub(super) fn own_memory_mb() -> Option<u64> {
    Some(take(&mut System::new(), &family()).bytes >> 20).filter(|mb| *mb > 0)
}

/// None is listed: whether a model can use one, the library that computes with it says.
pub(super) fn gpus() -> Vec<String> {
    Vec::new()
}

/// Asks the libraries.
struct Other {
    data_dir: PathBuf,
    system: System,
    /// This process and its descendants.
    family: Vec<Pid>,
    family_at: Instant,
    taken: Taken,
    shares: Option<Shares>,
    batteries: Option<Manager>,
    sensors: Components,
    slow: Slow,
    slow_at: Instant,
}

/// What the processes of the family used up to a moment.
struct Taken {
    at: Instant,
    /// Milliseconds of a processor, by process.
    spent: BTreeMap<Pid, u64>,
    /// Memory of all of them.
    bytes: u64,
}

impl Other {
    fn new(data_dir: &Path) -> Self {
        let (mut system, mut sensors, batteries) = (System::new(), Components::new(), Manager::new().ok());
        let family = family();
        let taken = take(&mut system, &family);
        Self {
            data_dir: data_dir.into(),
            slow: read_slow(batteries.as_ref(), &mut sensors, data_dir),
            slow_at: Instant::now(),
            family,
            family_at: taken.at,
            taken,
            shares: None,
            system,
            batteries,
            sensors,
        }
    }

    /// Takes shares again where the last are old enough.
    fn measure(&mut self) {
        if self.taken.at.elapsed() < SHARES_EVERY {
            return;
        }
        if self.family_at.elapsed() >= CHILDREN_EVERY {
            self.family = family();
            self.family_at = Instant::now();
        }
        let taken = take(&mut self.system, &self.family);
        let elapsed = taken.at.duration_since(self.taken.at);
        let own_ms = spent_ms(&self.taken.spent, &taken.spent);
        let cores = self.system.cpus().len();
        self.shares = own_ms.and_then(|own_ms| shares(self.system.global_cpu_usage(), own_ms, elapsed, cores));
        self.taken = taken;
    }

    fn memory_free_mb(&mut self) -> Option<u64> {
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        free_mb(self.system.total_memory(), self.system.used_memory(), self.system.available_memory())
    }
}

impl Sampler for Other {
    fn read(&mut self) -> Reading {
        if self.slow_at.elapsed() >= SLOW_EVERY {
            self.slow = read_slow(self.batteries.as_ref(), &mut self.sensors, &self.data_dir);
            self.slow_at = Instant::now();
        }
        self.measure();
        Reading {
            input_idle_ms: input_idle().ok().map(idle_ms),
            other_load_permille: self.shares.map(|shares| shares.other_permille),
            on_battery: self.slow.on_battery,
            battery_percent: self.slow.battery_percent,
            temperature_c: self.slow.temperature_c,
            gpu_busy_percent: self.slow.gpu_busy_percent,
            metered: None,
            memory_free_mb: self.memory_free_mb(),
            memory_own_mb: Some(self.taken.bytes >> 20).filter(|_| self.taken.bytes > 0),
            disk_free_mb: self.slow.disk_free_mb,
            own_cpu_permille: self.shares.map(|shares| shares.own_permille),
        }
    }

    fn sources(&self) -> Vec<(&'static str, String)> {
        let or = |known: bool, source: &str, why: &str| if known { source.into() } else { format!("unknown: {why}") };
        let slow = &self.slow;
        let input = match input_idle() {
            Ok(_) => "system-idle-time: keyboard and pointer of this login, no terminals".into(),
            Err(error) => format!("unknown: system-idle-time: {error}"),
        };
        let sensor = if SENSORS { "no sensor of the processor" } else { "the system tells only administrators" };
        let space = "fs4: the file system of the data folder";
        vec![
            ("input_idle_ms", input),
            ("other_load_permille", "sysinfo: all processors, less own".into()),
            ("on_battery", or(slow.on_battery.is_some(), "starship-battery", "the system lists no batteries")),
            ("battery_percent", or(slow.battery_percent.is_some(), "starship-battery", "no battery")),
            ("temperature_c", or(slow.temperature_c.is_some(), "sysinfo: sensors of the processor", sensor)),
            ("gpu_busy_percent", "unknown: no library tells it".into()),
            ("metered", "unknown: no library tells it".into()),
            ("memory_free_mb", or(self.system.total_memory() > 0, "sysinfo: all memory", "the system does not say")),
            (
                "memory_own_mb",
                or(self.taken.bytes > 0, "sysinfo: this process and children", "not found by its number"),
            ),
            ("disk_free_mb", or(slow.disk_free_mb.is_some(), space, "no answer for the folder")),
            ("own_cpu_permille", "sysinfo: processor time of this process and children".into()),
        ]
    }
}

/// Time since the last input, or why it is unknown.
fn input_idle() -> Result<Duration, String> {
    system_idle_time::get_idle_time().map_err(|error| error.to_string())
}

/// Milliseconds since the last input.
///
/// Windows counts them in 32 bits, and input that a program makes may be dated a moment ahead of the clock. Then it
/// seems to be 49 days old, and is of now.
fn idle_ms(idle: Duration) -> u64 {
    let ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    let around = u64::from(u32::MAX);
    if (around - AHEAD_MS..=around).contains(&ms) { 0 } else { ms }
}

/// This process, and its descendants if it finds any.
fn family() -> Vec<Pid> {
    let own = Pid::from_u32(std::process::id());
    // A list of its own, dropped at once: it holds more than is asked for, and on Windows every process open.
    let mut system = System::new();
    let kind = ProcessRefreshKind::nothing().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
    let all = system
        .processes()
        .iter()
        .filter_map(|(pid, process)| Some((*pid, Born { parent: process.parent()?, at_s: process.start_time() })));
    let began_s = system.process(own).map_or(0, |process| process.start_time());
    let mut family = vec![own];
    family.extend(descendants(own, began_s, &all.collect()));
    family
}

/// Where a process comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Born {
    parent: Pid,
    /// Seconds since 1970.
    at_s: u64,
}

/// All descendants of a process that began at `at_s`, at most [`CHILDREN_MAX`].
fn descendants(of: Pid, at_s: u64, all: &BTreeMap<Pid, Born>) -> Vec<Pid> {
    let mut found = vec![(of, at_s)];
    let mut next = 0;
    while let Some(&(parent, at_s)) = found.get(next) {
        next += 1;
        for (&pid, born) in all.iter().filter(|(_, born)| born.parent == parent) {
            // On Windows an orphan keeps the number of its parent, and a later process may get that number.
            let orphan = born.at_s < at_s;
            // A table read while processes come and go may even hold a circle.
            if !orphan && found.len() <= CHILDREN_MAX && found.iter().all(|(known, _)| *known != pid) {
                found.push((pid, born.at_s));
            }
        }
    }
    found.into_iter().skip(1).map(|(pid, _)| pid).collect()
}

/// What the processes of the family used up to now; reads the load of the machine at the same moment.
fn take(system: &mut System, family: &[Pid]) -> Taken {
    system.refresh_cpu_usage();
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(family), true, kind);
    let alive = || family.iter().filter_map(|pid| system.process(*pid));
    Taken {
        at: Instant::now(),
        spent: alive().map(|process| (process.pid(), process.accumulated_cpu_time())).collect(),
        bytes: alive().map(|process| process.memory()).sum(),
    }
}

/// Milliseconds of a processor that those used who are there before and after. A child that ended takes its time along,
/// and what a child did before it was found is not of this interval. `None` where nobody is in both.
fn spent_ms(before: &BTreeMap<Pid, u64>, after: &BTreeMap<Pid, u64>) -> Option<u64> {
    let each = after.iter().filter_map(|(pid, spent)| Some(spent.saturating_sub(*before.get(pid)?)));
    each.reduce(u64::saturating_add)
}

/// Shares of a machine that was busy for so many percent while this process used `own_ms` of its processors.
fn shares(busy_percent: f32, own_ms: u64, elapsed: Duration, cores: usize) -> Option<Shares> {
    let all_ms = elapsed.as_millis().checked_mul(cores as u128).filter(|ms| *ms > 0)?;
    let own_permille = u32::try_from(u128::from(own_ms) * 1000 / all_ms).map_or(1000, |own| own.min(1000));
    // What is no number becomes 0.
    let busy_permille = (busy_percent * 10.0).round().clamp(0.0, 1000.0) as u32;
    Some(Shares { own_permille, other_permille: busy_permille.saturating_sub(own_permille) })
}

/// Memory that can be had. On macOS the library calls what programs use just now available, too; but not unused.
fn free_mb(total: u64, used: u64, available: u64) -> Option<u64> {
    (total > 0).then(|| available.min(total.saturating_sub(used)) >> 20)
}

fn read_slow(batteries: Option<&Manager>, sensors: &mut Components, data_dir: &Path) -> Slow {
    let battery = batteries.and_then(cells).map(|cells| battery(&cells));
    Slow {
        on_battery: battery.map(|(on, _)| on),
        battery_percent: battery.and_then(|(_, percent)| percent),
        temperature_c: hottest_c(sensors),
        gpu_busy_percent: None,
        disk_free_mb: disk_free_mb(data_dir),
    }
}

/// What each battery does, and the part of it that is charged; `None` where that cannot be known.
fn cells(batteries: &Manager) -> Option<Vec<(State, f32)>> {
    let found: Vec<_> = batteries.batteries().ok()?.collect();
    let cells: Vec<_> = found.iter().flatten().map(|cell| (cell.state(), cell.state_of_charge().value)).collect();
    // Batteries that do not answer are not no batteries.
    (found.is_empty() || !cells.is_empty()).then_some(cells)
}

/// Whether the machine runs from a battery, and the charge of all in percent.
fn battery(cells: &[(State, f32)]) -> (bool, Option<u8>) {
    let any = |states: &[State]| cells.iter().any(|(state, _)| states.contains(state));
    // Windows calls a battery that is nearly empty so even while it is used.
    let on = any(&[State::Discharging, State::Empty]) && !any(&[State::Charging]);
    let charges: Vec<f32> = cells.iter().map(|(_, charge)| *charge).filter(|charge| charge.is_finite()).collect();
    let mean = charges.iter().sum::<f32>() / charges.len() as f32;
    (on, (!charges.is_empty()).then(|| (mean * 100.0).round().clamp(0.0, 100.0) as u8))
}

/// The highest of the sensors of the processor.
fn hottest_c(sensors: &mut Components) -> Option<i32> {
    if SENSORS {
        sensors.refresh(true);
    }
    let processor = sensors.iter().filter(|sensor| is_processor(sensor.label()));
    processor.filter_map(|sensor| celsius(sensor.temperature()?)).max()
}

/// Whether a sensor is of the processor, by its label: the library's own on a Mac with a processor of Intel, Apple's on
/// the others (kinds of cores, or the chip), the driver's on Linux (the last two).
fn is_processor(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    ["cpu", "pacc", "eacc", "soc mtr", "tdie", "coretemp", "k10temp"].iter().any(|part| label.contains(part))
}

/// Whole degrees; `None` for what no running processor has.
fn celsius(degrees: f32) -> Option<i32> {
    CELSIUS.contains(&degrees).then(|| degrees.round() as i32)
}

/// Space where a folder is or would be.
pub(super) fn disk_free_mb(dir: &Path) -> Option<u64> {
    let dir = std::path::absolute(dir).ok()?;
    dir.ancestors().find_map(|dir| fs4::available_space(dir).ok()).map(|bytes| bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: u32) -> Pid {
        Pid::from_u32(number)
    }

    #[test]
    fn families() {
        let check = |all: &[(u32, u32, u64)], expect: &[u32]| {
            let born = |&(number, parent, at_s)| (pid(number), Born { parent: pid(parent), at_s });
            let found = descendants(pid(10), 1000, &all.iter().map(born).collect());
            assert_eq!(found, expect.iter().copied().map(pid).collect::<Vec<_>>(), "{all:?}");
        };
        check(&[], &[]);
        check(&[(10, 1, 1000), (11, 10, 1000), (12, 10, 1001), (13, 1, 2000)], &[11, 12]);
        check(&[(11, 10, 1001), (12, 11, 1002), (13, 12, 1003)], &[11, 12, 13]);
        // Older than what has the number of its parent now.
        check(&[(11, 10, 999), (12, 11, 1002)], &[]);
        check(&[(11, 10, 1001), (12, 11, 1000)], &[11]);
        // A circle.
        check(&[(10, 12, 1000), (11, 10, 1000), (12, 11, 1000)], &[11, 12]);
        let many: Vec<_> = (11..1000).map(|number| (number, 10, 1000)).collect();
        check(&many, &(11..11 + CHILDREN_MAX as u32).collect::<Vec<_>>());
    }

    #[test]
    fn time_spent() {
        let check = |before: &[(u32, u64)], after: &[(u32, u64)], expect: Option<u64>| {
            let table = |times: &[(u32, u64)]| times.iter().map(|&(number, ms)| (pid(number), ms)).collect();
            assert_eq!(spent_ms(&table(before), &table(after)), expect, "{before:?} {after:?}");
        };
        check(&[(1, 100)], &[(1, 150)], Some(50));
        check(&[(1, 100), (2, 7)], &[(1, 150), (2, 9)], Some(52));
        // One ended, one was found.
        check(&[(1, 100), (2, 90_000)], &[(1, 150)], Some(50));
        check(&[(1, 100)], &[(1, 150), (2, 90_000)], Some(50));
        check(&[(1, 100)], &[], None);
    }

    #[test]
    fn shares_of_the_machine() {
        let check = |busy: f32, own_ms: u64, elapsed_ms: u64, cores: usize, expect: Option<(u32, u32)>| {
            let found = shares(busy, own_ms, Duration::from_millis(elapsed_ms), cores);
            let expect = expect.map(|(own_permille, other_permille)| Shares { own_permille, other_permille });
            assert_eq!(found, expect, "{busy} {own_ms} {elapsed_ms} {cores}");
        };
        check(100.0, 1000, 500, 4, Some((500, 500)));
        check(12.34, 0, 500, 4, Some((0, 123)));
        // Two clocks, read one after the other.
        check(49.0, 1000, 500, 4, Some((500, 0)));
        check(100.0, 9000, 500, 4, Some((1000, 0)));
        check(-5.0, 0, 500, 4, Some((0, 0)));
        check(f32::NAN, 200, 500, 4, Some((100, 0)));
        check(50.0, 0, 0, 4, None);
    }

    #[test]
    fn free_memory() {
        let check = |total: u64, used: u64, available: u64, expect: Option<u64>| {
            assert_eq!(free_mb(total << 20, used << 20, available << 20), expect, "{total} {used} {available}");
        };
        check(16_384, 4_384, 12_000, Some(12_000));
        check(16_384, 10_000, 12_000, Some(6_384));
        check(16_384, 20_000, 900, Some(0));
        check(0, 0, 0, None);
    }

    #[test]
    fn batteries() {
        let check =
            |cells: &[(State, f32)], expect: (bool, Option<u8>)| assert_eq!(battery(cells), expect, "{cells:?}");
        check(&[], (false, None));
        check(&[(State::Discharging, 0.57)], (true, Some(57)));
        check(&[(State::Charging, 0.996)], (false, Some(100)));
        check(&[(State::Full, 1.0), (State::Paused, 0.8)], (false, Some(90)));
        check(&[(State::Discharging, 0.4), (State::Charging, 0.2)], (false, Some(30)));
        check(&[(State::Discharging, f32::NAN)], (true, None));
    }

    #[test]
    fn sensors() {
        for label in ["CPU Proximity", "PECI CPU", "pACC MTR Temp Sensor3", "eACC MTR Temp Sensor0", "PMU tdie1"] {
            assert!(is_processor(label), "{label}");
        }
        for label in ["GPU", "Battery", "PMU tcal", "NAND CH0 temp", "gas gauge battery", "Computer", ""] {
            assert!(!is_processor(label), "{label}");
        }
        let check = |degrees: f32, expect: Option<i32>| assert_eq!(celsius(degrees), expect, "{degrees}");
        check(48.6, Some(49));
        check(125.0, Some(125));
        check(0.0, None);
        check(-273.15, None);
        check(127.0, None);
        check(f32::NAN, None);
        check(f32::INFINITY, None);
    }

    #[test]
    fn idle() {
        let check = |ms: u64, expect: u64| assert_eq!(idle_ms(Duration::from_millis(ms)), expect);
        check(0, 0);
        check(600_000, 600_000);
        check(u64::from(u32::MAX) - 61_000, u64::from(u32::MAX) - 61_000);
        check(u64::from(u32::MAX) - 100, 0);
        check(u64::from(u32::MAX), 0);
        check(u64::from(u32::MAX) + 1, u64::from(u32::MAX) + 1);
        assert_eq!(idle_ms(Duration::MAX), u64::MAX);
    }

    /// Set for the child of a test.
    const CHILD: &str = "TALKOO_TEST_CHILD";

    #[test]
    fn children_are_found() {
        if std::env::var_os(CHILD).is_some() {
            std::io::read_to_string(std::io::stdin()).expect("the end");
            return;
        }
        // The child is this test, too.
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "machine::other::tests::children_are_found"])
            .env(CHILD, "")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("a child");
        let found = family();
        // Its input ends, and so does it.
        drop(child.stdin.take());
        child.wait().expect("the end");
        assert_eq!(found[0], pid(std::process::id()));
        assert!(found.contains(&pid(child.id())), "{found:?}");
        assert!(!family().contains(&pid(child.id())));
    }

    #[test]
    fn this_machine() {
        let mut sampler = sampler(Path::new("./not/yet"));
        assert_eq!(sampler.read().own_cpu_permille, None);
        std::thread::sleep(SHARES_EVERY);
        let reading = sampler.read();
        assert!(reading.memory_free_mb.is_some() && reading.memory_own_mb.is_some_and(|mb| mb > 0), "{reading:?}");
        assert!(reading.disk_free_mb.is_some(), "{reading:?}");
        let shares = reading.own_cpu_permille.zip(reading.other_load_permille);
        assert!(shares.is_some_and(|(own, other)| own + other <= 1000), "{reading:?}");
        let names = |sampler: &dyn Sampler| sampler.sources().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&*sampler), names(&*crate::machine::sampler(Path::new("."))));
        assert!(own_memory_mb() > Some(0));
        assert!(memory_mb().is_some() && cpu().is_some() && os().is_some() && gpus().is_empty());
    }
}
