//! The clock, and names that nobody foresees.

use std::hash::{BuildHasher, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of Unix time.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A number that nobody foresees; not for secrets.
pub(crate) fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A new identifier.
pub(crate) fn name(prefix: &str) -> String {
    format!("{prefix}-{:016x}{:08x}", random(), random() as u32)
}
