//! The clock of this machine.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of Unix time.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
