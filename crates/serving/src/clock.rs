//! The clock of this machine.

use base::Millis;

/// Unix time.
pub(crate) fn clock() -> Millis {
    Millis(host::now_ms())
}
