//! Systems whose readings are not built yet: macOS, Windows. Compiles, is untested there, and knows nothing.

use super::{Reading, Sampler};
use std::path::Path;

/// The fields of a reading.
const FIELDS: [&str; 10] = [
    "input_idle_ms",
    "other_load_permille",
    "on_battery",
    "battery_percent",
    "temperature_c",
    "metered",
    "memory_free_mb",
    "memory_own_mb",
    "disk_free_mb",
    "own_cpu_permille",
];

/// Knows nothing.
struct Unknown;

pub(super) fn sampler(_data_dir: &Path) -> Box<dyn Sampler> {
    Box::new(Unknown)
}

impl Sampler for Unknown {
    fn read(&mut self) -> Reading {
        Reading::default()
    }

    fn sources(&self) -> Vec<(&'static str, String)> {
        let why = format!("unknown: not built yet for {}", std::env::consts::OS);
        FIELDS.map(|field| (field, why.clone())).into()
    }
}

pub(super) fn memory_mb() -> Option<u64> {
    None
}

pub(super) fn cpu() -> Option<String> {
    None
}

pub(super) fn os() -> Option<String> {
    None
}

pub(super) fn gpus() -> Vec<String> {
    Vec::new()
}
