//! A model small enough for a test, and a text that it can learn.

use base::Rng;
use model::{Batch, Layout, ModelConfig, Part, Weights};
use swarm::Mode;

/// T of the virtual run.
pub(crate) const SEQ_LEN: u32 = 16;
/// V: as many words as the text has.
const WORDS: u64 = 16;
/// After three of four words the next one is certain, after the others it is any: a model that learned this has a
/// loss of 1.18 nats, one that knows nothing of 2.77.
const CERTAIN: (u64, u64) = (3, 4);
/// The shape: one block, and head and embedding apart, so that some rows may get no gradient.
pub(crate) fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: WORDS as usize,
        hidden_size: 16,
        intermediate_size: 12,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: false,
        max_position_embeddings: SEQ_LEN as usize,
    }
}

pub(crate) fn layout() -> Layout {
    let config = config();
    Layout::new(&config, &Part::whole(&config))
}

/// The shape as a run names it.
pub(crate) fn config_json() -> String {
    String::from_utf8(config().to_json(0)).expect("JSON is text")
}

/// Its parameters.
pub(crate) fn params() -> u64 {
    layout().len as u64
}

/// Weights of version 0.
pub(crate) fn first_weights(seed: u64, mode: Mode) -> Weights {
    Weights::init(&layout(), &config(), seed, mode == Mode::Gradients)
}

/// `count` windows of T + 1 words, from number `at` on.
pub(crate) fn windows(seed: u64, at: u64, count: u64) -> Batch {
    let mut ids = Vec::new();
    for number in at..at + count {
        let mut rng = Rng::keyed(seed, number);
        let mut id = rng.below(WORDS);
        for _ in 0..=SEQ_LEN {
            ids.push(id as u32);
            let follows = (5 * id + 3) % WORDS;
            id = if rng.chance(CERTAIN.0, CERTAIN.1) { follows } else { rng.below(WORDS) };
        }
    }
    Batch { ids }
}
