//! How long what several modules take may be.

/// Tokens of a question, or of an answer that is gone on with.
pub(crate) const TOKENS_MAX: usize = 1 << 20;
/// Bytes of one token, and of what can be shown since.
pub(crate) const TOKEN_BYTES_MAX: usize = 4096;
/// Bytes of a text that ends an answer.
pub(crate) const STOP_MAX: usize = 1024;
