//! A stage: `[embedding?] blocks a..b [head?]` of a Llama, forward and backward.
//!
//! Two engines do the same: `host` writes the passes down for processors, `burn` derives them on
//! any device that burn runs on (feature `burn`). Both are held against the same reference.

#[cfg(feature = "burn")]
mod burn;
mod host;
mod kernels;

use crate::{ConfigError, Device, Layout, ModelConfig, Part};

/// Logits that are made at a time where only the loss is wanted: 4 MiB.
const LOGITS_AT_ONCE: usize = 1 << 20;
/// Rows that go through the head at a time at least: a product with fewer does not pay.
const ROWS_AT_ONCE: usize = 32;

/// What crosses from one stage to the next: activations forward, gradients backward.
#[derive(Debug, Clone, PartialEq)]
pub struct Boundary {
    /// `[B, T, C]`, row-major.
    pub data: Vec<f32>,
    /// B.
    pub batch: usize,
    /// T.
    pub seq_len: usize,
}

/// Input of a stage.
#[derive(Debug, Clone, Copy)]
pub enum StageInput<'a> {
    /// Token ids `[B, T]`, for a stage with the embedding.
    Tokens {
        /// The ids, row-major.
        ids: &'a [u32],
        /// B.
        batch: usize,
    },
    /// The output of the stage before.
    Boundary(&'a Boundary),
}

/// What one forward pass keeps for its backward pass.
pub struct Saved(Kept);

enum Kept {
    Host(host::Saved),
    #[cfg(feature = "burn")]
    Burn(burn::Saved),
}

impl Saved {
    /// The output `[B, T, C]`, or `[B, T, V]` logits of a stage with the head, as a copy.
    pub fn output(&self) -> Boundary {
        match &self.0 {
            Kept::Host(saved) => saved.output(),
            #[cfg(feature = "burn")]
            Kept::Burn(saved) => saved.output(),
        }
    }
}

/// Weights of one part on a device, with accumulated gradients.
pub struct Stage {
    layout: Layout,
    vocab: usize,
    engine: Engine,
}

enum Engine {
    Host(host::Stage),
    #[cfg(feature = "burn")]
    Burn(burn::Stage),
}

impl Stage {
    /// A stage with the given flat weights (length [`Layout::len`]). Refuses a part that has only one end of tied
    /// embeddings.
    pub fn new(config: &ModelConfig, part: &Part, device: &Device, weights: &[f32]) -> Result<Self, ConfigError> {
        if config.tie_word_embeddings && part.embedding != part.head {
            return Err(ConfigError::Impossible("tied embeddings need embedding and head in one stage"));
        }
        let layout = Layout::new(config, part);
        assert_eq!(weights.len(), layout.len, "one value per parameter");
        let engine = match device {
            Device::Host => Engine::Host(host::Stage::new(config, part, weights)),
            #[cfg(feature = "burn")]
            Device::Burn(device) => Engine::Burn(burn::Stage::new(config, part, device, weights)),
        };
        Ok(Self { layout, vocab: config.vocab_size, engine })
    }

    /// Where each tensor lies in the flat vectors.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Replaces all weights by a flat vector.
    pub fn set_weights(&mut self, flat: &[f32]) {
        assert_eq!(flat.len(), self.layout.len, "one value per parameter");
        match &mut self.engine {
            Engine::Host(stage) => stage.set_weights(flat),
            #[cfg(feature = "burn")]
            Engine::Burn(stage) => stage.set_weights(flat),
        }
    }

    /// Runs the part and keeps what its backward pass needs.
    pub fn forward(&mut self, input: StageInput<'_>) -> Saved {
        Saved(match &mut self.engine {
            Engine::Host(stage) => Kept::Host(stage.forward(input)),
            #[cfg(feature = "burn")]
            Engine::Burn(stage) => Kept::Burn(stage.forward(input)),
        })
    }

    /// Backward from the gradient of the output; parameter gradients accumulate in the stage, the
    /// gradient of the input comes back where the input was a boundary.
    pub fn backward(&mut self, saved: Saved, grad_output: &Boundary) -> Option<Boundary> {
        self.backward_from(saved, grad_output.data.clone())
    }

    /// Backward of `scale` × the summed cross-entropy of the logits against `targets` `[B, T]`.
    /// Gives the unscaled sum in nats and the gradient of the input.
    pub fn backward_loss(&mut self, mut saved: Saved, targets: &[u32], scale: f32) -> (f64, Option<Boundary>) {
        // The gradient of the loss is written down instead of derived: softmax − one-hot. One pass
        // over the logits instead of three, and no second copy of them in a graph.
        let mut grad = match &mut saved.0 {
            Kept::Host(saved) => saved.take_output(),
            #[cfg(feature = "burn")]
            Kept::Burn(saved) => saved.output().data,
        };
        let nats = kernels::softmax_minus_one_hot(&mut grad, targets, self.vocab, scale);
        (nats, self.backward_from(saved, grad))
    }

    /// Summed cross-entropy in nats of `input` against `targets` `[B, T]`, without any gradient. The logits of a few
    /// rows are in memory at a time, whatever B, T and V.
    pub fn nats(&mut self, input: StageInput<'_>, targets: &[u32]) -> f64 {
        let rows = (LOGITS_AT_ONCE / self.vocab).max(ROWS_AT_ONCE);
        match &mut self.engine {
            Engine::Host(stage) => stage.nats(input, targets, rows),
            #[cfg(feature = "burn")]
            Engine::Burn(stage) => stage.nats(input, targets, rows),
        }
    }

    /// Takes the accumulated gradients as a flat vector and clears them.
    pub fn take_grads(&mut self) -> Vec<f32> {
        match &mut self.engine {
            Engine::Host(stage) => stage.take_grads(),
            #[cfg(feature = "burn")]
            Engine::Burn(stage) => stage.take_grads(),
        }
    }

    /// Gives a vector of gradients back, to be filled again: fresh pages cost more than clearing it.
    pub fn give_back(&mut self, grads: Vec<f32>) {
        match &mut self.engine {
            Engine::Host(stage) => stage.give_back(grads),
            #[cfg(feature = "burn")]
            Engine::Burn(_) => drop(grads),
        }
    }

    fn backward_from(&mut self, saved: Saved, grad: Vec<f32>) -> Option<Boundary> {
        match (&mut self.engine, saved.0) {
            (Engine::Host(stage), Kept::Host(saved)) => stage.backward(saved, grad),
            #[cfg(feature = "burn")]
            (Engine::Burn(stage), Kept::Burn(saved)) => stage.backward(saved, grad),
            #[cfg(feature = "burn")]
            _ => unreachable!("a pass ends in the stage that began it"),
        }
    }
}
