//! How much there may be of everything.

/// Validators of an epoch at most.
pub const SET_MAX: usize = 64;
/// A block carries at most this many transactions.
pub const BLOCK_TXS_MAX: usize = 4096;
/// And is at most this long.
pub const BLOCK_BYTES_MAX: usize = 4 << 20;
/// A transaction is at most this long: the longest carries a run with its configuration.
pub const TX_BYTES_MAX: usize = 1 << 18;
/// A certificate is at most this long.
pub const CERTIFICATE_MAX: usize = 1 << 15;
/// Evidence is at most this long.
pub const EVIDENCE_MAX: usize = 1 << 12;
