//! The same stages on any device that burn runs on, with its autodiff.

use super::kernels::softmax_minus_one_hot;
use super::{Boundary, StageInput};
use crate::layout::PER_BLOCK;
use crate::{Layout, ModelConfig, Part};
use burn::tensor::{Device, Int, Tensor, TensorData, activation, module};

/// The graph of one forward pass, kept for its backward pass.
pub(super) struct Saved {
    output: Tensor<3>,
    input: Option<Tensor<3>>,
}

impl Saved {
    pub(super) fn output(&self) -> Boundary {
        let [batch, seq_len, _] = self.output.dims();
        Boundary { data: host(self.output.clone().inner()), batch, seq_len }
    }
}

enum Weight {
    Matrix(Tensor<2>),
    Vector(Tensor<1>),
}

/// Weights of one part on a device, with accumulated gradients.
pub(super) struct Stage {
    config: ModelConfig,
    part: Part,
    layout: Layout,
    device: Device,
    weights: Vec<Weight>,
    grads: Vec<Option<Weight>>,
    rope: Option<(usize, Tensor<4>, Tensor<4>, Tensor<4>)>,
}

impl Stage {
    pub(super) fn new(config: &ModelConfig, part: &Part, device: &Device, weights: &[f32]) -> Self {
        let layout = Layout::new(config, part);
        let grads = layout.params.iter().map(|_| None).collect();
        let device = device.clone().autodiff();
        let (config, part) = (config.clone(), part.clone());
        let mut stage = Self { config, part, layout, device, weights: Vec::new(), grads, rope: None };
        stage.set_weights(weights);
        stage
    }

    pub(super) fn set_weights(&mut self, flat: &[f32]) {
        self.weights = (self.layout.params.iter())
            .map(|param| {
                let values = flat[param.range()].to_vec();
                let data = TensorData::new(values, param.shape.clone());
                if param.is_matrix() {
                    Weight::Matrix(Tensor::from_data(data, &self.device).require_grad())
                } else {
                    Weight::Vector(Tensor::from_data(data, &self.device).require_grad())
                }
            })
            .collect();
    }

    pub(super) fn forward(&mut self, input: StageInput<'_>) -> Saved {
        let (mut x, leaf) = self.trunk(input);
        if self.part.head {
            let [batch, seq_len, _] = x.dims();
            let logits = self.head(self.last_normed(x));
            x = logits.reshape([batch, seq_len, self.config.vocab_size]);
        }
        Saved { output: x, input: leaf }
    }

    /// Summed loss in nats; the logits of `at_once` rows are made at a time.
    pub(super) fn nats(&mut self, input: StageInput<'_>, targets: &[u32], at_once: usize) -> f64 {
        assert!(self.part.head, "only a stage with the head has a loss");
        let (x, _) = self.trunk(input);
        let x = self.last_normed(x);
        let mut nats = 0.0;
        for (i, targets) in targets.chunks(at_once).enumerate() {
            let rows = x.clone().narrow(0, i * at_once, targets.len());
            let mut logits = host(self.head(rows).inner());
            nats += softmax_minus_one_hot(&mut logits, targets, self.config.vocab_size, 0.0);
        }
        nats
    }

    /// Embedding and blocks; the input too where it is a boundary.
    fn trunk(&mut self, input: StageInput<'_>) -> (Tensor<3>, Option<Tensor<3>>) {
        let (mut x, leaf) = match input {
            StageInput::Tokens { ids, batch } => {
                assert!(self.part.embedding, "only a stage with the embedding takes tokens");
                (self.embed(ids, batch), None)
            }
            StageInput::Boundary(boundary) => {
                let shape = [boundary.batch, boundary.seq_len, self.config.hidden_size];
                let leaf = Tensor::<3>::from_data(TensorData::new(boundary.data.clone(), shape), &self.device);
                let leaf = leaf.require_grad();
                (leaf.clone(), Some(leaf))
            }
        };
        let [_, seq_len, _] = x.dims();
        self.prepare_rope(seq_len);
        let first = usize::from(self.part.embedding);
        for block in 0..self.part.blocks.len() {
            x = self.block(x, first + block * PER_BLOCK);
        }
        (x, leaf)
    }

    /// The stream behind the last norm, `[B·T, C]`.
    fn last_normed(&self, x: Tensor<3>) -> Tensor<2> {
        let [batch, seq_len, hidden] = x.dims();
        self.norm(x.reshape([batch * seq_len, hidden]), self.last_norm())
    }

    /// Logits of rows behind the last norm.
    fn head(&self, rows: Tensor<2>) -> Tensor<2> {
        self.linear(rows, if self.config.tie_word_embeddings { 0 } else { self.last_norm() + 1 })
    }

    /// The last norm's place in the layout.
    fn last_norm(&self) -> usize {
        usize::from(self.part.embedding) + self.part.blocks.len() * PER_BLOCK
    }

    pub(super) fn backward(&mut self, saved: Saved, grad_output: Vec<f32>) -> Option<Boundary> {
        let grad = TensorData::new(grad_output, saved.output.dims());
        let grad = Tensor::<3>::from_data(grad, &self.device);
        self.backward_from(saved, |output| (output * grad).sum())
    }

    pub(super) fn take_grads(&mut self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.layout.len);
        for (param, grad) in self.layout.params.iter().zip(&mut self.grads) {
            match grad.take() {
                Some(Weight::Matrix(grad)) => out.extend(host(grad)),
                Some(Weight::Vector(grad)) => out.extend(host(grad)),
                None => out.resize(out.len() + param.len(), 0.0),
            }
        }
        assert_eq!(out.len(), self.layout.len, "one gradient per parameter");
        out
    }

    fn backward_from(&mut self, saved: Saved, scalar: impl FnOnce(Tensor<3>) -> Tensor<1>) -> Option<Boundary> {
        let mut gradients = scalar(saved.output).backward();
        for (weight, sum) in self.weights.iter().zip(&mut self.grads) {
            let grad = match weight {
                Weight::Matrix(w) => w.grad_remove(&mut gradients).map(Weight::Matrix),
                Weight::Vector(w) => w.grad_remove(&mut gradients).map(Weight::Vector),
            };
            *sum = match (sum.take(), grad) {
                (Some(Weight::Matrix(a)), Some(Weight::Matrix(b))) => Some(Weight::Matrix(a + b)),
                (Some(Weight::Vector(a)), Some(Weight::Vector(b))) => Some(Weight::Vector(a + b)),
                (a, b) => a.or(b),
            };
        }
        saved.input.map(|leaf| {
            let [batch, seq_len, _] = leaf.dims();
            let grad = leaf.grad_remove(&mut gradients).expect("a leaf of the graph has a gradient");
            Boundary { data: host(grad), batch, seq_len }
        })
    }

    fn embed(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        let seq_len = ids.len() / batch;
        assert_eq!(ids.len(), batch * seq_len, "ids fill whole rows");
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, seq_len]), &self.device);
        module::embedding(self.matrix(0), ids)
    }

    /// One block: attention and feed-forward, each after a norm, each added to the stream.
    fn block(&self, x: Tensor<3>, at: usize) -> Tensor<3> {
        let [batch, seq_len, hidden] = x.dims();
        let rows = batch * seq_len;
        let x = x.reshape([rows, hidden]);
        let normed = self.norm(x.clone(), at + 7);
        let q = self.heads(self.linear(normed.clone(), at), batch, self.config.num_attention_heads);
        let k = self.heads(self.linear(normed.clone(), at + 1), batch, self.config.num_key_value_heads);
        let v = self.heads(self.linear(normed, at + 2), batch, self.config.num_key_value_heads);
        let attended = self.attention(self.rotate(q), self.rotate(k), v);
        let width = self.config.num_attention_heads * self.config.head_dim;
        let attended = attended.swap_dims(1, 2).reshape([rows, width]);
        let x = x + self.linear(attended, at + 3);
        let normed = self.norm(x.clone(), at + 8);
        let gate = activation::silu(self.linear(normed.clone(), at + 4));
        let up = self.linear(normed, at + 5);
        let x = x + self.linear(gate * up, at + 6);
        x.reshape([batch, seq_len, hidden])
    }

    /// `[B·T, N·D]` to `[B, N, T, D]`.
    fn heads(&self, x: Tensor<2>, batch: usize, n: usize) -> Tensor<4> {
        let seq_len = x.dims()[0] / batch;
        x.reshape([batch, seq_len, n, self.config.head_dim]).swap_dims(1, 2)
    }

    /// Causal attention; q `[B, H, T, D]`, k and v `[B, K, T, D]`.
    fn attention(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
        let (k, v) = (self.repeat_heads(k), self.repeat_heads(v));
        let (_, _, _, mask) = self.rope.as_ref().expect("prepared at the start of forward");
        let scale = 1.0 / (self.config.head_dim as f32).sqrt();
        let scores = q.mul_scalar(scale).matmul(k.swap_dims(2, 3)) + mask.clone();
        activation::softmax(scores, 3).matmul(v)
    }

    /// `[B, K, T, D]` to `[B, H, T, D]`: each key/value head serves H/K query heads.
    fn repeat_heads(&self, x: Tensor<4>) -> Tensor<4> {
        let (h, n) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        if h == n {
            return x;
        }
        let [batch, _, seq_len, d] = x.dims();
        let x: Tensor<5> = x.unsqueeze_dim(2);
        x.expand([batch, n, h / n, seq_len, d]).reshape([batch, h, seq_len, d])
    }

    /// Rotary positions, rotate-half: pairs are (i, i + D/2).
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let (_, cos, sin, _) = self.rope.as_ref().expect("prepared at the start of forward");
        let half = self.config.head_dim / 2;
        let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        let second = b * cos.clone() + a * sin.clone();
        Tensor::cat(vec![first, second], 3)
    }

    /// Tables of `[1, 1, T, D/2]` and the causal mask `[1, 1, T, T]`, made once per length.
    fn prepare_rope(&mut self, seq_len: usize) {
        if self.rope.as_ref().is_some_and(|(len, ..)| *len == seq_len) {
            return;
        }
        let half = self.config.head_dim / 2;
        let (mut cos, mut sin) = (Vec::with_capacity(seq_len * half), Vec::with_capacity(seq_len * half));
        for t in 0..seq_len {
            for i in 0..half {
                let exponent = -2.0 * i as f64 / self.config.head_dim as f64;
                let frequency = f64::from(self.config.rope_theta).powf(exponent) as f32;
                let angle = t as f32 * frequency;
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        // Large and finite: −∞ − −∞ is NaN in a softmax that subtracts the maximum.
        let mask = (0..seq_len * seq_len).map(|i| if i % seq_len > i / seq_len { -1e9f32 } else { 0.0 });
        let device = &self.device;
        let table = |data: Vec<f32>, shape: [usize; 4]| Tensor::<4>::from_data(TensorData::new(data, shape), device);
        let rope_shape = [1, 1, seq_len, half];
        let mask = table(mask.collect(), [1, 1, seq_len, seq_len]);
        self.rope = Some((seq_len, table(cos, rope_shape), table(sin, rope_shape), mask));
    }

    /// RMSNorm over the last dimension.
    fn norm(&self, x: Tensor<2>, weight: usize) -> Tensor<2> {
        let Weight::Vector(gain) = &self.weights[weight] else { unreachable!("norms are vectors") };
        let scale = (x.clone().square().mean_dim(1) + self.config.rms_norm_eps).sqrt().recip();
        x * scale * gain.clone().unsqueeze()
    }

    /// x · Wᵀ for W `[out, in]`.
    fn linear(&self, x: Tensor<2>, weight: usize) -> Tensor<2> {
        x.matmul(self.matrix(weight).transpose())
    }

    fn matrix(&self, weight: usize) -> Tensor<2> {
        let Weight::Matrix(matrix) = &self.weights[weight] else { unreachable!("projections are matrices") };
        matrix.clone()
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().expect("stages compute in f32")
}
