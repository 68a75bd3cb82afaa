//! What a member checks of a fetched update before it may be applied.

use crate::Layout;
use crate::update::{Decoder, Format};
use base::Reject;

/// What a valid update is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckedUpdate {
    /// How it is encoded.
    pub format: Format,
    /// Squared norm of what it decodes to.
    pub norm_sq: f64,
}

/// Decodes `bytes` completely and checks structure, finiteness, the run's format and the committed norm.
pub fn verify_update(layout: &Layout, bytes: &[u8], format: Format, norm_sq: f64) -> Result<CheckedUpdate, Reject> {
    let mut decoder = Decoder::new(layout, bytes)?;
    if decoder.format() != format {
        return Err(Reject::Malformed);
    }
    for param in &layout.params {
        decoder.tensor(param)?;
    }
    let found = decoder.finish()?;
    if !found.is_finite() {
        return Err(Reject::NotFinite);
    }
    if found.to_bits() != norm_sq.to_bits() {
        return Err(Reject::WrongNorm);
    }
    Ok(CheckedUpdate { format, norm_sq })
}
