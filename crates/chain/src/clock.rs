//! The clock of this machine.

use base::Millis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time.
pub fn clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(since.as_millis() as u64)
}
