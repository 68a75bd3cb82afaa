//! Linux: files of `/proc`, `/sys` and `/dev`, and D-Bus where a desktop is there.

mod bus;
mod cpu;
mod dbus;
mod hardware;
mod input;
mod memory;
mod power;
mod scope;
mod session;
mod wayland;

pub(super) use scope::confine;

use super::{Reading, SLOW_EVERY, Sampler, Slow};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often sensors are looked for: drivers come and go.
const SENSORS_EVERY: Duration = Duration::from_secs(60);

/// Bytes of a file of the kernel that are read at once; most are shorter.
const READ_AT_ONCE: usize = 4096;

pub(super) fn sampler(data_dir: &Path) -> Box<dyn Sampler> {
    Box::new(Linux::new(Path::new("/"), data_dir))
}

pub(super) fn memory_mb() -> Option<u64> {
    memory::total_mb(Path::new("/"))
}

pub(super) fn own_memory_mb() -> Option<u64> {
    memory::own_mb(Path::new("/"), &[])
}

pub(super) fn cpu() -> Option<String> {
    hardware::cpu(Path::new("/"))
}

pub(super) fn os() -> Option<String> {
    hardware::os(Path::new("/"))
}

pub(super) fn gpus() -> Vec<String> {
    hardware::gpus(Path::new("/"))
}

/// Reads the files below a root.
struct Linux {
    root: PathBuf,
    data_dir: PathBuf,
    meter: cpu::Meter,
    keyboard: input::Keyboard,
    watch: bus::Watch,
    desktop: wayland::Desktop,
    sensors: Vec<PathBuf>,
    sensors_at: Instant,
    terminals: input::Terminals,
    slow: Slow,
    slow_at: Instant,
}

impl Linux {
    fn new(root: &Path, data_dir: &Path) -> Self {
        let now = Instant::now();
        let sensors = power::sensors(&root.join("sys"));
        Self {
            root: root.into(),
            data_dir: data_dir.into(),
            meter: cpu::Meter::new(&root.join("proc")),
            keyboard: input::Keyboard::new(root),
            watch: bus::Watch::start(),
            desktop: wayland::Desktop::start(),
            slow: read_slow(root, data_dir, &sensors),
            slow_at: now,
            sensors,
            sensors_at: now,
            terminals: input::Terminals::find(root),
        }
    }

    /// The least of what is known: whoever uses any of them is there.
    fn input_idle_ms(&mut self) -> Option<u64> {
        let ms = |idle: Duration| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let told = [self.watch.idle(), self.desktop.idle(), self.keyboard.idle()];
        let known = told.into_iter().map(|idle| idle.map(ms)).chain([self.terminals.idle_ms()]);
        known.flatten().min()
    }
}

impl Sampler for Linux {
    fn read(&mut self) -> Reading {
        if self.sensors_at.elapsed() >= SENSORS_EVERY {
            self.sensors = power::sensors(&self.root.join("sys"));
            self.sensors_at = Instant::now();
        }
        if self.slow_at.elapsed() >= SLOW_EVERY {
            self.slow = read_slow(&self.root, &self.data_dir, &self.sensors);
            self.terminals = input::Terminals::find(&self.root);
            self.slow_at = Instant::now();
        }
        let shares = self.meter.read(&self.root.join("proc"));
        Reading {
            input_idle_ms: self.input_idle_ms(),
            other_load_permille: shares.map(|shares| shares.other_permille),
            on_battery: self.slow.on_battery,
            battery_percent: self.slow.battery_percent,
            temperature_c: self.slow.temperature_c,
            gpu_busy_percent: self.slow.gpu_busy_percent,
            metered: self.watch.metered(),
            memory_free_mb: memory::free_mb(&self.root),
            memory_own_mb: memory::own_mb(&self.root, self.meter.children()),
            disk_free_mb: self.slow.disk_free_mb,
            own_cpu_permille: shares.map(|shares| shares.own_permille),
        }
    }

    fn sources(&self) -> Vec<(&'static str, String)> {
        let or = |known: bool, source: &str, why: &str| if known { source.into() } else { format!("unknown: {why}") };
        let slow = &self.slow;
        let keyboard = if self.keyboard.found() { "counted" } else { "none found" };
        let terminals = if self.terminals.idle_ms().is_some() { "used" } else { "not used" };
        let power = "/sys/class/power_supply";
        let sensor = self.sensors.first().map(|path| path.display().to_string()).unwrap_or_default();
        let memory = "/proc/meminfo (MemAvailable) and limits of control groups";
        vec![
            (
                "input_idle_ms",
                format!(
                    "desktop: {}; compositor: {}; terminals: {terminals}; interrupts of a built-in keyboard: {keyboard}",
                    self.watch.idle_source(),
                    self.desktop.source()
                ),
            ),
            ("other_load_permille", "/proc/stat (of the host, in a container) less own".into()),
            ("on_battery", or(slow.on_battery.is_some(), power, "the system lists no power supplies")),
            ("battery_percent", or(slow.battery_percent.is_some(), power, "no battery")),
            ("temperature_c", or(slow.temperature_c.is_some(), &sensor, "no sensor of the processor")),
            (
                "gpu_busy_percent",
                or(slow.gpu_busy_percent.is_some(), "gpu_busy_percent of amdgpu", "no driver here says it"),
            ),
            ("metered", self.watch.metered_source()),
            ("memory_free_mb", or(memory::free_mb(&self.root).is_some(), memory, "no /proc/meminfo")),
            ("memory_own_mb", "/proc/self/status (VmRSS) and that of children".into()),
            ("disk_free_mb", or(slow.disk_free_mb.is_some(), "statvfs of the data folder", "no answer for the folder")),
            ("own_cpu_permille", "/proc/self/stat and that of children".into()),
        ]
    }
}

fn read_slow(root: &Path, data_dir: &Path, sensors: &[PathBuf]) -> Slow {
    let supplies = power::supplies(&root.join("sys"));
    let battery = supplies.map(|supplies| power::battery(&supplies));
    Slow {
        on_battery: battery.map(|(on, _)| on),
        battery_percent: battery.and_then(|(_, percent)| percent),
        temperature_c: power::hottest_c(sensors),
        gpu_busy_percent: hardware::gpu_busy_percent(root),
        disk_free_mb: disk_free_mb(data_dir),
    }
}

/// A file of the kernel. It says nothing of its length, and is made anew for each call: it is read in one.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::with_capacity(READ_AT_ONCE);
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Space where a folder is or would be.
pub(super) fn disk_free_mb(dir: &Path) -> Option<u64> {
    let dir = std::path::absolute(dir).ok()?;
    let space = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
    Some(space.f_bavail.checked_mul(space.f_frsize)? >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_files() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut linux = Linux::new(dir.path(), &dir.path().join("not/yet"));
        let reading = linux.read();
        assert!(reading.disk_free_mb.is_some());
        assert_eq!(Reading { disk_free_mb: None, ..reading }, Reading::default());
        assert!(linux.sources().iter().any(|(name, source)| *name == "on_battery" && source.starts_with("unknown")));
    }

    #[test]
    fn this_machine() {
        let mut sampler = sampler(Path::new("."));
        let reading = sampler.read();
        assert!(reading.memory_free_mb.is_some() && reading.memory_own_mb.is_some_and(|mb| mb > 0), "{reading:?}");
        assert!(reading.disk_free_mb.is_some(), "{reading:?}");
    }
}
