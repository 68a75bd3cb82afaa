//! What goes wrong in a simulated network, and when.

/// What goes wrong before the calm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Messages lost; a lost block cuts its stream.
    pub loss_permille: u64,
    /// Submissions that arrive twice.
    pub duplicate_permille: u64,
    /// Fetches that take `slow_ms` longer.
    pub slow_permille: u64,
    /// How much longer.
    pub slow_ms: u64,
    /// Crashes at a time.
    pub crashes: Vec<Crash>,
    /// Owners need their machines.
    pub rests: Vec<Rest>,
    /// A crash at a point of the protocol.
    pub crash_after: Option<CrashAfter>,
    /// Groups that are cut off.
    pub partitions: Vec<Partition>,
    /// Times in which the log does nothing.
    pub stalls: Vec<Stall>,
    /// Times in which every message takes longer. The calm does not end them.
    pub lags: Vec<Lag>,
}

impl Faults {
    /// Whether nothing goes wrong at all.
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// The owner of a machine needs it, from when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// Whose.
    pub node: usize,
    /// From when.
    pub from_ms: u64,
    /// To when.
    pub to_ms: u64,
}

/// A process dies and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Whose.
    pub node: usize,
    /// When.
    pub at_ms: u64,
    /// For how long; never past the calm.
    pub down_ms: u64,
    /// Whether its disk is lost too (not where it alone holds the newest weights: then the run is lost).
    pub wipe: bool,
    /// Whether it reads the whole log before it goes on, or only the blocks that it had seen.
    pub whole_log: bool,
}

/// A process dies right after it carried out its n-th output (wakes and events are not counted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashAfter {
    /// Whose.
    pub node: usize,
    /// After which output, from 1.
    pub output: u64,
    /// For how long.
    pub down_ms: u64,
    /// As in [`Crash`].
    pub whole_log: bool,
}

/// Some machines reach only each other. The log is on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// Who.
    pub side: Vec<usize>,
}

/// The log takes and makes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
}

/// Every message takes longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// By how much.
    pub extra_ms: u64,
}
