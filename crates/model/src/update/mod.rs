//! The update codec: error feedback in, bytes out, and back.
//!
//! An update carries, per matrix and chunk of 4,096 values, the `density` share of largest
//! magnitude in `bits` each (after DeMo and SparseLoCo: chunked top-k with error feedback), indices
//! as Rice-coded gaps (Rice and Plaut, 1971); 1-D tensors go dense in bf16. What is not sent stays
//! in the error feedback `e`, which is bf16: its rounding is part of the transition.

mod bits;
mod decode;
mod encode;
mod select;

pub use decode::{Decoder, Packed, TensorUpdate, Values};
pub use encode::{Encoded, Norm, encode, fold};

use crate::{Layout, Param};
use base::Reject;

/// Values per chunk of a matrix: selection and 8-bit scales are local to it.
pub const CHUNK: usize = 4096;

/// How much of an update is sent, and how finely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// One of 2^`sparsity` values is sent: 0 = all, 2 = 1/4, 4 = 1/16, 6 = 1/64.
    pub sparsity: u8,
    /// 1 (sign), 2 (sign and one of two magnitudes) or 8 (linear, a scale per chunk).
    pub bits: u8,
}

impl Format {
    /// A format that the codec has.
    pub fn new(sparsity: u8, bits: u8) -> Result<Self, Reject> {
        let known = matches!(sparsity, 0 | 2 | 4 | 6) && matches!(bits, 1 | 2 | 8);
        if known { Ok(Self { sparsity, bits }) } else { Err(Reject::Malformed) }
    }

    /// Whether gradients may be sent so. Levels are one or two for a tensor, and a value of zero is sent as the low
    /// one: the noise of loud rows on silent ones. Plain descent on weight differences takes that as small and
    /// gives it back a round later. AdamW divides it by its own size and makes a full step of it.
    pub fn carries_gradients(self) -> bool {
        self.bits == 8
    }

    /// The Rice parameter that fits geometric gaps of this density.
    fn rice(self) -> u32 {
        u32::from(self.sparsity.saturating_sub(1))
    }

    /// Values that a chunk of `len` sends.
    fn kept(self, len: usize) -> usize {
        len.div_ceil(1 << self.sparsity)
    }

    /// What an update of this format can be long, in bytes, whatever is in it.
    pub fn bytes_max(self, layout: &Layout) -> u64 {
        // Version, sparsity, bits, and the number of parameters.
        const HEADER: u64 = 3 + 8;
        let bits = u64::from(self.bits);
        let tensor = |param: &Param| {
            let n = param.len();
            if !param.is_matrix() {
                return 2 * n as u64;
            }
            let lens = (0..n).step_by(CHUNK).map(|start| CHUNK.min(n - start));
            // The quotients of a chunk's gaps together are no longer than the chunk in steps of the remainder.
            let (sent, quotients) = lens.fold((0, 0), |(sent, quotients), len| {
                (sent + self.kept(len) as u64, quotients + (len >> self.rice()) as u64)
            });
            let scales = if self.bits == 8 { 2 * n.div_ceil(CHUNK) as u64 } else { 2 * bits };
            let gaps = sent * (u64::from(self.rice()) + 1) + quotients;
            let stream = if self.sparsity == 0 { 0 } else { 4 + gaps.div_ceil(8) };
            scales + stream + (sent * bits).div_ceil(8)
        };
        HEADER + layout.params.iter().map(tensor).sum::<u64>()
    }

    /// Expected bits per parameter, for planning: values and indices of matrices.
    pub fn bits_per_parameter(self) -> f64 {
        let per_value = f64::from(self.bits) + if self.bits == 8 { 16.0 / CHUNK as f64 } else { 0.0 };
        if self.sparsity == 0 {
            return per_value;
        }
        let mean_gap = f64::from(1 << self.sparsity);
        let quotient = 1.0 / ((f64::from(1u32 << self.rice()) / mean_gap).exp() - 1.0);
        (per_value + f64::from(self.rice()) + 1.0 + quotient) / mean_gap
    }
}

/// bf16 to f32, exact.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// f32 to bf16, to nearest, ties to even. NaN stays NaN.
pub(crate) fn narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = ((bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16) as u16;
    if x.is_nan() { ((bits >> 16) | 0x40) as u16 } else { rounded }
}

/// The same for what is known to be finite and in range: without a branch, so that loops vectorise.
#[inline(always)]
pub(crate) fn narrow_finite(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16) as u16
}

#[cfg(test)]
mod tests;
