//! What a member keeps to itself between units.

use crate::Layout;
use crate::update::{narrow, widen};
use base::{ChunkTree, Hash, Reject, Wire};

/// A member's private state s: the error feedback and, in local mode, its own AdamW moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Private {
    /// Error feedback, bf16.
    pub e: Vec<u16>,
    /// Moments and the number of inner steps behind them; empty in gradients mode and before the first unit.
    pub moments: Option<Moments>,
}

/// AdamW moments in 8-bit blocks: what a worker goes on from is exactly what an auditor can fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub(crate) steps: u64,
    pub(crate) m: Blocks,
    pub(crate) v: Blocks,
}

/// Values in blocks of 256: a bf16 scale and 8 bits each.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Blocks {
    scales: Vec<u16>,
    codes: Vec<u8>,
}

const BLOCK: usize = 256;

impl Private {
    /// s = 0, as a newcomer or a member that lost its state declares it.
    pub fn zero(layout: &Layout) -> Self {
        Self { e: vec![0; layout.len], moments: None }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.e.len() * 4 + 16);
        out.extend(self.e.iter().flat_map(|e| e.to_le_bytes()));
        if let Some(moments) = &self.moments {
            moments.steps.encode(&mut out);
            for blocks in [&moments.m, &moments.v] {
                out.extend(blocks.scales.iter().flat_map(|s| s.to_le_bytes()));
                out.extend_from_slice(&blocks.codes);
            }
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(layout: &Layout, bytes: &[u8]) -> Result<Self, Reject> {
        let n = layout.len;
        let scales = n.div_ceil(BLOCK);
        let words = |bytes: &[u8]| bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        let with_moments = 2 * n + 8 + 2 * (2 * scales + n);
        if bytes.len() != 2 * n && bytes.len() != with_moments {
            return Err(Reject::WrongSize);
        }
        let (e, rest) = bytes.split_at(2 * n);
        if rest.is_empty() {
            return Ok(Self { e: words(e), moments: None });
        }
        let (steps, rest) = rest.split_at(8);
        let (m, v) = rest.split_at(2 * scales + n);
        let blocks = |bytes: &[u8]| {
            let (scales, codes) = bytes.split_at(2 * scales);
            Blocks { scales: words(scales), codes: codes.to_vec() }
        };
        let steps = u64::from_bytes(steps).map_err(|_| Reject::Malformed)?;
        Ok(Self { e: words(e), moments: Some(Moments { steps, m: blocks(m), v: blocks(v) }) })
    }

    /// The hash that commits to it.
    pub fn hash(&self) -> Hash {
        ChunkTree::of(&self.to_bytes()).root()
    }
}

impl Blocks {
    /// Linear and signed: code − 128, scaled by the block's largest magnitude.
    pub(crate) fn signed(values: &[f32]) -> Self {
        Self::build(values, |x| x, 127.0, 128.0)
    }

    /// Of the square root, unsigned: the second moment spans many magnitudes.
    pub(crate) fn rooted(values: &[f32]) -> Self {
        Self::build(values, f32::sqrt, 255.0, 0.0)
    }

    fn build(values: &[f32], map: impl Fn(f32) -> f32, steps: f32, zero: f32) -> Self {
        let mut out = Self::default();
        for block in values.chunks(BLOCK) {
            let max = block.iter().map(|&x| map(x).abs()).fold(0.0, f32::max);
            // One bf16 step up, so that the largest value is inside the range after rounding.
            let scale = if max == 0.0 { 0 } else { narrow(max / steps) + 1 };
            let inverse = if scale == 0 { 0.0 } else { 1.0 / widen(scale) };
            out.scales.push(scale);
            out.codes.extend(block.iter().map(|&x| ((map(x) * inverse).round_ties_even() + zero) as u8));
        }
        out
    }

    pub(crate) fn signed_values(&self) -> Vec<f32> {
        self.values(|code, scale| (f32::from(code) - 128.0) * scale)
    }

    pub(crate) fn rooted_values(&self) -> Vec<f32> {
        self.values(|code, scale| {
            let root = f32::from(code) * scale;
            root * root
        })
    }

    fn values(&self, value: impl Fn(u8, f32) -> f32) -> Vec<f32> {
        self.codes.iter().enumerate().map(|(i, &code)| value(code, widen(self.scales[i / BLOCK]))).collect()
    }
}
