//! Stages on the processor: forward and backward written down, products by faer.
//!
//! Activations are `[N, …]` with N = B·T rows. A block keeps its two inputs, what attention read
//! and wrote, and the two halves of the feed-forward; everything else is computed again.

use super::kernels::{
    Attended, Heads, Into, Rope, add_transposed_times, attention, attention_backward, gated, gated_backward,
    inverse_rms, normed, normed_backward, softmax_minus_one_hot, times, times_transposed,
};
use super::{Boundary, StageInput};
use crate::layout::PER_BLOCK;
use crate::{Layout, ModelConfig, Part};
use std::ops::Range;

/// What a forward pass keeps.
pub(super) struct Saved {
    ids: Option<Vec<u32>>,
    batch: usize,
    seq_len: usize,
    blocks: Vec<Block>,
    /// Input of the last norm, for a stage with the head.
    last: Option<Normed>,
    output: Vec<f32>,
}

/// Input of a norm, and one factor per row.
struct Normed {
    x: Vec<f32>,
    inverse: Vec<f32>,
}

struct Block {
    input: Normed,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    log_sum: Vec<f32>,
    middle: Normed,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Saved {
    pub(super) fn output(&self) -> Boundary {
        Boundary { data: self.output.clone(), batch: self.batch, seq_len: self.seq_len }
    }

    pub(super) fn take_output(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.output)
    }
}

/// Weights of one part, with accumulated gradients.
pub(super) struct Stage {
    config: ModelConfig,
    part: Part,
    layout: Layout,
    weights: Vec<f32>,
    /// Empty until the first backward pass.
    grads: Vec<f32>,
    rope: Option<Rope>,
    spare: Spare,
}

/// Buffers that are used again: pages from the system cost more than what is computed in them.
#[derive(Default)]
struct Spare {
    buffers: Vec<Vec<f32>>,
    rows: usize,
}

impl Spare {
    /// Forgets buffers of passes over another number of rows.
    fn begin(&mut self, rows: usize) {
        if rows != self.rows {
            self.buffers.clear();
            self.rows = rows;
        }
    }

    /// A buffer of any contents.
    fn get(&mut self, len: usize) -> Vec<f32> {
        match self.buffers.iter().position(|buffer| buffer.len() == len) {
            Some(i) => self.buffers.swap_remove(i),
            None => vec![0.0; len],
        }
    }

    fn put(&mut self, buffers: impl IntoIterator<Item = Vec<f32>>) {
        self.buffers.extend(buffers);
    }
}

/// Tensors of a block, by their place in the layout.
#[derive(Clone, Copy)]
enum Of {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
    InputNorm,
    MiddleNorm,
}

impl Stage {
    pub(super) fn new(config: &ModelConfig, part: &Part, weights: &[f32]) -> Self {
        Self {
            config: config.clone(),
            part: part.clone(),
            layout: Layout::new(config, part),
            weights: weights.to_vec(),
            grads: Vec::new(),
            rope: None,
            spare: Spare::default(),
        }
    }

    pub(super) fn set_weights(&mut self, flat: &[f32]) {
        self.weights.copy_from_slice(flat);
    }

    pub(super) fn take_grads(&mut self) -> Vec<f32> {
        if self.grads.is_empty() { vec![0.0; self.layout.len] } else { std::mem::take(&mut self.grads) }
    }

    pub(super) fn give_back(&mut self, grads: Vec<f32>) {
        self.spare.put([grads]);
    }

    pub(super) fn forward(&mut self, input: StageInput<'_>) -> Saved {
        let mut saved = self.trunk(input);
        if self.part.head {
            let (rows, v) = (saved.batch * saved.seq_len, self.config.vocab_size);
            let (y, last) = self.last_normed(saved.take_output());
            let mut logits = self.spare.get(rows * v);
            times_transposed(&mut logits, Into::Replace, &y, &self.weights[self.head()], rows, v);
            self.spare.put([y]);
            (saved.last, saved.output) = (Some(last), logits);
        }
        saved
    }

    /// Summed loss in nats; the logits of `at_once` rows are made at a time.
    pub(super) fn nats(&mut self, input: StageInput<'_>, targets: &[u32], at_once: usize) -> f64 {
        assert!(self.part.head, "only a stage with the head has a loss");
        let (c, v) = (self.config.hidden_size, self.config.vocab_size);
        let mut saved = self.trunk(input);
        let (y, last) = self.last_normed(saved.take_output());
        assert_eq!(y.len(), targets.len() * c, "one target per row");
        for block in saved.blocks {
            let Block { input, q, k, v, attended, log_sum, middle, gate, up } = block;
            self.spare.put([q, k, v, attended, log_sum, gate, up]);
            self.spare.put([input.x, input.inverse, middle.x, middle.inverse]);
        }
        let mut logits = self.spare.get(at_once.min(targets.len()) * v);
        let mut nats = 0.0;
        for (y, targets) in y.chunks(at_once * c).zip(targets.chunks(at_once)) {
            let logits = &mut logits[..targets.len() * v];
            times_transposed(logits, Into::Replace, y, &self.weights[self.head()], targets.len(), v);
            nats += softmax_minus_one_hot(logits, targets, v, 0.0);
        }
        self.spare.put([y, logits, last.x, last.inverse]);
        nats
    }

    /// Embedding and blocks; the output is the stream behind them.
    fn trunk(&mut self, input: StageInput<'_>) -> Saved {
        let c = self.config.hidden_size;
        let (mut x, ids, batch, seq_len) = match input {
            StageInput::Tokens { ids, batch } => {
                assert!(self.part.embedding, "only a stage with the embedding takes tokens");
                let seq_len = ids.len() / batch;
                assert_eq!(ids.len(), batch * seq_len, "ids fill whole rows");
                self.spare.begin(ids.len());
                let mut x = self.spare.get(ids.len() * c);
                for (row, &id) in x.chunks_exact_mut(c).zip(ids) {
                    row.copy_from_slice(&self.weights[id as usize * c..][..c]);
                }
                (x, Some(ids.to_vec()), batch, seq_len)
            }
            StageInput::Boundary(boundary) => {
                self.spare.begin(boundary.batch * boundary.seq_len);
                (boundary.data.clone(), None, boundary.batch, boundary.seq_len)
            }
        };
        if self.rope.as_ref().is_none_or(|rope| rope.seq_len != seq_len) {
            self.rope = Some(Rope::new(seq_len, self.config.head_dim, self.config.rope_theta));
        }
        let mut blocks = Vec::with_capacity(self.part.blocks.len());
        for block in 0..self.part.blocks.len() {
            let (saved, output) = self.block(block, x, seq_len);
            blocks.push(saved);
            x = output;
        }
        Saved { ids, batch, seq_len, blocks, last: None, output: x }
    }

    /// The stream behind the last norm, and what that norm's backward pass needs.
    fn last_normed(&mut self, x: Vec<f32>) -> (Vec<f32>, Normed) {
        let mut y = self.spare.get(x.len());
        let input = self.norm_input(x);
        normed(&input.x, &input.inverse, &self.weights[self.last_norm()], &mut y);
        (y, input)
    }

    pub(super) fn backward(&mut self, saved: Saved, grad: Vec<f32>) -> Option<Boundary> {
        let c = self.config.hidden_size;
        let rows = saved.batch * saved.seq_len;
        if self.grads.is_empty() {
            self.grads = self.spare.get(self.layout.len);
            self.grads.fill(0.0);
        }
        let mut dx = grad;
        if let Some(input) = saved.last {
            let (norm, head, v) = (self.last_norm(), self.head(), self.config.vocab_size);
            let (mut y, mut dy) = (self.spare.get(rows * c), self.spare.get(rows * c));
            normed(&input.x, &input.inverse, &self.weights[norm.clone()], &mut y);
            add_transposed_times(&mut self.grads[head.clone()], &dx, &y, v, c);
            times(&mut dy, Into::Replace, &dx, &self.weights[head], rows, c);
            let mut below = y;
            below.fill(0.0);
            let (gain, d_gain) = (&self.weights[norm.clone()], &mut self.grads[norm]);
            normed_backward(&dy, &input.x, &input.inverse, gain, &mut below, d_gain);
            self.spare.put([dy, input.x, input.inverse, std::mem::replace(&mut dx, below)]);
        }
        for (i, block) in saved.blocks.into_iter().enumerate().rev() {
            self.block_backward(i, block, &mut dx, saved.seq_len);
        }
        match saved.ids {
            Some(ids) => {
                for (row, id) in dx.chunks_exact(c).zip(ids) {
                    let grad = &mut self.grads[id as usize * c..][..c];
                    grad.iter_mut().zip(row).for_each(|(sum, &part)| *sum += part);
                }
                self.spare.put([dx]);
                None
            }
            None => Some(Boundary { data: dx, batch: saved.batch, seq_len: saved.seq_len }),
        }
    }

    /// Attention and feed-forward, each after a norm, each added to the stream.
    fn block(&mut self, block: usize, x: Vec<f32>, seq_len: usize) -> (Block, Vec<f32>) {
        let heads = self.heads(seq_len);
        let (c, f) = (self.config.hidden_size, self.config.intermediate_size);
        let (rows, wide, narrow) = (x.len() / c, heads.h * heads.d, heads.kv * heads.d);
        let input = self.norm_input(x);
        let mut y = self.spare.get(rows * c);
        normed(&input.x, &input.inverse, self.weight(block, Of::InputNorm), &mut y);
        let mut q = self.spare.get(rows * wide);
        let (mut k, mut v) = (self.spare.get(rows * narrow), self.spare.get(rows * narrow));
        times_transposed(&mut q, Into::Replace, &y, self.weight(block, Of::Q), rows, wide);
        times_transposed(&mut k, Into::Replace, &y, self.weight(block, Of::K), rows, narrow);
        times_transposed(&mut v, Into::Replace, &y, self.weight(block, Of::V), rows, narrow);
        let rope = self.rope.as_ref().expect("made at the start of forward");
        rope.turn(&mut q, wide, false);
        rope.turn(&mut k, narrow, false);
        let (mut attended, mut log_sum) = (self.spare.get(rows * wide), self.spare.get(rows * heads.h));
        attention(heads, &q, &k, &v, &mut attended, &mut log_sum);
        let mut middle = self.spare.get(rows * c);
        middle.copy_from_slice(&input.x);
        times_transposed(&mut middle, Into::Add, &attended, self.weight(block, Of::O), rows, c);

        let middle = self.norm_input(middle);
        normed(&middle.x, &middle.inverse, self.weight(block, Of::MiddleNorm), &mut y);
        let (mut gate, mut up) = (self.spare.get(rows * f), self.spare.get(rows * f));
        times_transposed(&mut gate, Into::Replace, &y, self.weight(block, Of::Gate), rows, f);
        times_transposed(&mut up, Into::Replace, &y, self.weight(block, Of::Up), rows, f);
        let mut inner = self.spare.get(rows * f);
        gated(&gate, &up, &mut inner);
        let mut output = y;
        output.copy_from_slice(&middle.x);
        times_transposed(&mut output, Into::Add, &inner, self.weight(block, Of::Down), rows, c);
        self.spare.put([inner]);
        (Block { input, q, k, v, attended, log_sum, middle, gate, up }, output)
    }

    /// Backward of [`block`](Self::block); `dx` goes from the gradient of its output to that of its input.
    fn block_backward(&mut self, block: usize, saved: Block, dx: &mut [f32], seq_len: usize) {
        let heads = self.heads(seq_len);
        let (c, f) = (self.config.hidden_size, self.config.intermediate_size);
        let (rows, wide, narrow) = (dx.len() / c, heads.h * heads.d, heads.kv * heads.d);
        let Block { input, q, k, v, attended, log_sum, middle, mut gate, mut up } = saved;
        let (mut y, mut dy) = (self.spare.get(rows * c), self.spare.get(rows * c));

        let (mut inner, mut d_inner) = (self.spare.get(rows * f), self.spare.get(rows * f));
        gated(&gate, &up, &mut inner);
        add_transposed_times(self.grad(block, Of::Down), dx, &inner, c, f);
        times(&mut d_inner, Into::Replace, dx, self.weight(block, Of::Down), rows, f);
        gated_backward(&d_inner, &mut gate, &mut up);
        normed(&middle.x, &middle.inverse, self.weight(block, Of::MiddleNorm), &mut y);
        add_transposed_times(self.grad(block, Of::Gate), &gate, &y, f, c);
        add_transposed_times(self.grad(block, Of::Up), &up, &y, f, c);
        times(&mut dy, Into::Replace, &gate, self.weight(block, Of::Gate), rows, c);
        times(&mut dy, Into::Add, &up, self.weight(block, Of::Up), rows, c);
        self.norm_backward(block, Of::MiddleNorm, &dy, &middle, dx);

        add_transposed_times(self.grad(block, Of::O), dx, &attended, c, wide);
        let mut d_attended = self.spare.get(rows * wide);
        times(&mut d_attended, Into::Replace, dx, self.weight(block, Of::O), rows, wide);
        let mut dq = self.spare.get(rows * wide);
        let (mut dk, mut dv) = (self.spare.get(rows * narrow), self.spare.get(rows * narrow));
        let read = Attended { q: &q, k: &k, v: &v, out: &attended, log_sum: &log_sum };
        attention_backward(heads, &read, &d_attended, [&mut dq, &mut dk, &mut dv]);
        let rope = self.rope.as_ref().expect("made at the start of forward");
        rope.turn(&mut dq, wide, true);
        rope.turn(&mut dk, narrow, true);
        normed(&input.x, &input.inverse, self.weight(block, Of::InputNorm), &mut y);
        add_transposed_times(self.grad(block, Of::Q), &dq, &y, wide, c);
        add_transposed_times(self.grad(block, Of::K), &dk, &y, narrow, c);
        add_transposed_times(self.grad(block, Of::V), &dv, &y, narrow, c);
        times(&mut dy, Into::Replace, &dq, self.weight(block, Of::Q), rows, c);
        times(&mut dy, Into::Add, &dk, self.weight(block, Of::K), rows, c);
        times(&mut dy, Into::Add, &dv, self.weight(block, Of::V), rows, c);
        self.norm_backward(block, Of::InputNorm, &dy, &input, dx);
        self.spare.put([y, dy, inner, d_inner, gate, up, q, k, v, attended, log_sum, d_attended, dq, dk, dv]);
        self.spare.put([input.x, input.inverse, middle.x, middle.inverse]);
    }

    fn norm_input(&mut self, x: Vec<f32>) -> Normed {
        let mut inverse = self.spare.get(x.len() / self.config.hidden_size);
        inverse_rms(&x, &mut inverse, self.config.rms_norm_eps);
        Normed { x, inverse }
    }

    fn norm_backward(&mut self, block: usize, norm: Of, dy: &[f32], saved: &Normed, dx: &mut [f32]) {
        let range = self.range(block, norm);
        let (gain, d_gain) = (&self.weights[range.clone()], &mut self.grads[range]);
        normed_backward(dy, &saved.x, &saved.inverse, gain, dx, d_gain);
    }

    fn heads(&self, t: usize) -> Heads {
        let config = &self.config;
        Heads { h: config.num_attention_heads, kv: config.num_key_value_heads, d: config.head_dim, t }
    }

    fn range(&self, block: usize, of: Of) -> Range<usize> {
        self.layout.params[usize::from(self.part.embedding) + block * PER_BLOCK + of as usize].range()
    }

    fn weight(&self, block: usize, of: Of) -> &[f32] {
        &self.weights[self.range(block, of)]
    }

    fn grad(&mut self, block: usize, of: Of) -> &mut [f32] {
        let range = self.range(block, of);
        &mut self.grads[range]
    }

    fn last_norm(&self) -> Range<usize> {
        let at = usize::from(self.part.embedding) + self.part.blocks.len() * PER_BLOCK;
        self.layout.params[at].range()
    }

    /// The head's matrix, which is the embedding where they are tied.
    fn head(&self) -> Range<usize> {
        let last = if self.config.tie_word_embeddings { 0 } else { self.layout.params.len() - 1 };
        self.layout.params[last].range()
    }
}
