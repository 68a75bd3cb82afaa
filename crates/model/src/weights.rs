//! The agreed weights of a run.

use crate::{Layout, ModelConfig, init};
use base::{ChunkTree, Reject};
use rayon::prelude::*;
use std::borrow::Cow;

/// The agreed weights of a run: θ and, in gradients mode, the moments of the common AdamW behind it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights {
    flat: Vec<f32>,
    len: usize,
}

impl Weights {
    /// Initial weights from a seed.
    pub fn init(layout: &Layout, config: &ModelConfig, seed: u64, common_moments: bool) -> Self {
        Self::from_theta(init(layout, config.num_hidden_layers, seed), common_moments)
    }

    /// θ as given, moments zero.
    pub fn from_theta(mut flat: Vec<f32>, common_moments: bool) -> Self {
        let len = flat.len();
        flat.resize(if common_moments { 3 * len } else { len }, 0.0);
        Self { flat, len }
    }

    /// From canonical bytes: θ, then m and v where the run has common moments; f32, little-endian.
    pub fn from_bytes(layout: &Layout, common_moments: bool, bytes: &[u8]) -> Result<Self, Reject> {
        let parts = if common_moments { 3 } else { 1 };
        if bytes.len() != 4 * parts * layout.len {
            return Err(Reject::WrongSize);
        }
        let flat = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(Self { flat, len: layout.len })
    }

    /// Canonical bytes. On a little-endian machine this is a view.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        if cfg!(target_endian = "little") {
            Cow::Borrowed(bytemuck::cast_slice(&self.flat))
        } else {
            Cow::Owned(self.flat.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
    }

    /// Becomes a copy of `other`, in the memory that is there.
    pub fn copy_from(&mut self, other: &Self) {
        self.flat.clone_from(&other.flat);
        self.len = other.len;
    }

    /// The chunk tree whose root names these weights.
    pub fn tree(&self) -> ChunkTree {
        ChunkTree::of(&self.bytes())
    }

    /// θ.
    pub fn theta(&self) -> &[f32] {
        &self.flat[..self.len]
    }

    /// Whether no value is NaN or infinite, moments included. Weights that are not cannot be gone on with.
    pub fn is_finite(&self) -> bool {
        all_finite(&self.flat)
    }

    pub(crate) fn theta_mut(&mut self) -> &mut [f32] {
        &mut self.flat[..self.len]
    }

    /// θ, m, v; only for runs with common moments.
    pub(crate) fn split_mut(&mut self) -> (&mut [f32], &mut [f32], &mut [f32]) {
        assert_eq!(self.flat.len(), 3 * self.len, "the run has common moments");
        let (theta, rest) = self.flat.split_at_mut(self.len);
        let (m, v) = rest.split_at_mut(self.len);
        (theta, m, v)
    }
}

/// Whether no value is NaN or infinite. Without a branch inside a block, so that it vectorises.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    const BLOCK: usize = 1 << 15;
    values.par_chunks(BLOCK).all(|block| block.iter().fold(true, |all, x| all & x.is_finite()))
}
