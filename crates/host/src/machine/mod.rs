//! What this machine is doing right now, and what it has.
//!
//! The driver reads it every second; what follows from a reading is decided elsewhere, by a pure machine.
//!
//! Goals: no administrator rights, nothing installed, nothing written; a value that cannot be known is `None`
//! and its source says why; a reading costs about a millisecond (every 10 s some more, to look for children) and
//! never waits for another program.
//!
//! Non-goals: what the owner does. No key, window, program or file name is ever looked at, only how long ago
//! and how much.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(test, not(target_os = "linux")))]
mod other;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(not(target_os = "linux"))]
use other as system;

use std::path::Path;
use std::time::Duration;

/// The machine at one moment. `None` = cannot be known on this machine (or not yet: shares of a processor
/// need two readings, the desktop answers a moment later).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Milliseconds since a person last used the keyboard, the pointer or a terminal, local or remote: the
    /// least of all sources. `None` also where nobody is logged in.
    pub input_idle_ms: Option<u64>,
    /// Processor time of everything but this process and its children since the last reading, in
    /// thousandths of the whole machine: all cores busy = 1000.
    pub other_load_permille: Option<u32>,
    /// Whether the machine runs from its battery. A machine without a battery does not.
    pub on_battery: Option<bool>,
    /// Charge of the battery in percent, the mean of several. `None` without a battery.
    pub battery_percent: Option<u8>,
    /// The hottest sensor of the processor in degrees Celsius.
    pub temperature_c: Option<i32>,
    /// How busy the busiest graphics device is, by whoever.
    pub gpu_busy_percent: Option<u8>,
    /// Whether the way to the internet is paid by volume, as the owner or the network says or the system guesses.
    pub metered: Option<bool>,
    /// Memory that could be had without swapping, in units of 2^20 bytes.
    pub memory_free_mb: Option<u64>,
    /// Memory of this process and its children, in units of 2^20 bytes.
    pub memory_own_mb: Option<u64>,
    /// Space that this user could still fill where the data folder is, in units of 2^20 bytes.
    pub disk_free_mb: Option<u64>,
    /// Processor time of this process and its children since the last reading, in thousandths of the whole
    /// machine.
    pub own_cpu_permille: Option<u32>,
}

/// What changes slowly of a [`Reading`].
#[derive(Clone, Copy)]
struct Slow {
    on_battery: Option<bool>,
    battery_percent: Option<u8>,
    temperature_c: Option<i32>,
    gpu_busy_percent: Option<u8>,
    disk_free_mb: Option<u64>,
}

/// How often it is read. Asking a battery goes through a slow controller on many laptops, all sensors take milliseconds.
const SLOW_EVERY: Duration = Duration::from_secs(5);

/// Thousandths of the whole machine's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    own_permille: u32,
    other_permille: u32,
}

/// How often the children of this process are looked for: that reads every process of the machine. Until it is
/// found, the work of a new child counts as other load.
const CHILDREN_EVERY: Duration = Duration::from_secs(10);

/// Descendants that are counted at most.
const CHILDREN_MAX: usize = 256;

/// Reads the machine.
pub trait Sampler: Send {
    /// The machine now. Shares of the processor are taken over the time since the last call; called again
    /// within a tenth of a second, they repeat.
    fn read(&mut self) -> Reading;

    /// For each field of [`Reading`], by its name: where it comes from, or why it is unknown.
    fn sources(&self) -> Vec<(&'static str, String)>;
}

/// The sampler of this system. Within a tokio runtime it also asks the desktop, in tasks of its own that end
/// when it is dropped. `data_dir` need not exist yet.
pub fn sampler(data_dir: &Path) -> Box<dyn Sampler> {
    system::sampler(data_dir)
}

/// Space that this user could still fill where a folder is or would be, in units of 2^20 bytes.
pub fn disk_free_mb(dir: &Path) -> Option<u64> {
    system::disk_free_mb(dir)
}

/// Memory of this process, in units of 2^20 bytes.
pub fn own_memory_mb() -> Option<u64> {
    system::own_memory_mb()
}

/// What the program may take of the machine; 0 = no limit.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Processors at a time.
    pub threads: u16,
    /// Memory in units of 2^20 bytes.
    pub memory_mb: u64,
}

/// Has caps kept by the system where it can be asked to; who keeps them now, in words. Whatever the answer, the program keeps
/// to them by itself, as far as it can. What is in memory before is not moved: to be called before models are loaded.
pub async fn confine(caps: Caps) -> String {
    #[cfg(target_os = "linux")]
    let unit = system::confine(caps).await;
    #[cfg(not(target_os = "linux"))]
    let unit: Result<String, String> = Err(format!(
        "{} is not asked to keep {} threads and {} MB",
        std::env::consts::OS,
        caps.threads,
        caps.memory_mb
    ));
    unit.map_or_else(|why| format!("the program itself ({why})"), |unit| format!("the system ({unit})"))
}

/// What the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Threads that the system runs at once for this process: less than the machine's where it is held to some.
    pub cores: usize,
    /// Memory in units of 2^20 bytes, or the least limit set on this process; 0 = unknown.
    pub memory_mb: u64,
    /// The processor's name; its architecture where it has none.
    pub cpu: String,
    /// The system's name and version.
    pub os: String,
    /// Graphics devices: the model where the driver tells it, else maker, number and driver.
    pub gpu: Vec<String>,
    /// Whether the processor has AVX2 and the system uses it.
    pub avx2: bool,
    /// Whether the processor has AVX-512 (F) and the system uses it.
    pub avx512: bool,
}

/// What this machine has; reads files, so once is enough.
pub fn hardware() -> Hardware {
    #[cfg(target_arch = "x86_64")]
    let (avx2, avx512) = (std::is_x86_feature_detected!("avx2"), std::is_x86_feature_detected!("avx512f"));
    #[cfg(not(target_arch = "x86_64"))]
    let (avx2, avx512) = (false, false);
    Hardware {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mb: system::memory_mb().unwrap_or(0),
        cpu: system::cpu().unwrap_or_else(|| std::env::consts::ARCH.into()),
        os: system::os().unwrap_or_else(|| std::env::consts::OS.into()),
        gpu: system::gpus(),
        avx2,
        avx512,
    }
}

/// Everything that can be known of the machine now: name, value where there is one, and where it comes from or why it is
/// not known. Within a tokio runtime the desktop is asked too, for at most a second.
pub async fn look(data_dir: &Path) -> Vec<(&'static str, Option<String>, String)> {
    let mut sampler = sampler(data_dir);
    sampler.read();
    tokio::time::sleep(LOOK).await;
    let reading = sampler.read();
    sampler.sources().into_iter().map(|(name, source)| (name, reading.value(name), source)).collect()
}

/// Shares of the processor and answers of a desktop are there after this.
const LOOK: Duration = Duration::from_millis(700);

impl Reading {
    /// A field by its name.
    fn value(&self, name: &str) -> Option<String> {
        fn text<T: ToString>(value: Option<T>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        match name {
            "input_idle_ms" => text(self.input_idle_ms),
            "other_load_permille" => text(self.other_load_permille),
            "on_battery" => text(self.on_battery),
            "battery_percent" => text(self.battery_percent),
            "temperature_c" => text(self.temperature_c),
            "gpu_busy_percent" => text(self.gpu_busy_percent),
            "metered" => text(self.metered),
            "memory_free_mb" => text(self.memory_free_mb),
            "memory_own_mb" => text(self.memory_own_mb),
            "disk_free_mb" => text(self.disk_free_mb),
            "own_cpu_permille" => text(self.own_cpu_permille),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_source() {
        let fields = format!("{:?}", Reading::default());
        let sources = sampler(Path::new(".")).sources();
        for (name, source) in &sources {
            assert!(fields.contains(&format!("{name}: ")), "{name} is no field");
            assert!(!source.is_empty(), "{name}");
        }
        assert_eq!(sources.len(), fields.matches(": ").count());
    }

    #[test]
    fn this_machine_has_a_core() {
        let hardware = hardware();
        assert!(hardware.cores > 0 && !hardware.cpu.is_empty() && !hardware.os.is_empty(), "{hardware:?}");
    }
}
