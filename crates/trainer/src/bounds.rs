//! What the owner allows a run.

use host::DiskBudget;

/// What the owner allows a run.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Of the disk.
    pub disk: DiskBudget,
    /// Of memory, in units of 2^20 bytes; 0 = no limit.
    pub memory_mb: u64,
    /// The same of a graphics device's.
    pub vram_mb: u64,
}
