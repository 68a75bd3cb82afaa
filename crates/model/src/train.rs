//! One unit of work: (θ, s, plan) → (update, s′, trace).

use crate::apply::{ApplyError, ApplyRule, partial_mean};
use crate::private::{Blocks, Moments, Private};
use crate::update::{Encoded, Format, encode, fold};
use crate::{AdamW, Device, Layout, ModelConfig, Part, Stage, StageInput, Weights, clip_norm};
use base::{Hash, Wire};
use std::borrow::Cow;
use std::ops::Range;
use std::time::{Duration, Instant};
use thiserror::Error;

/// What the log told a member to do in a round, and with which settings of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitPlan {
    /// `true`: one gradient (H = 1); `false`: H inner AdamW steps.
    pub gradients: bool,
    /// H.
    pub inner_steps: u64,
    /// Micro-batches per inner step, b.
    pub micro_batches: u64,
    /// Sequences per micro-batch.
    pub micro_batch: usize,
    /// T.
    pub seq_len: usize,
    /// Constant within the round.
    pub lr: f32,
    /// Inner optimiser.
    pub adam: AdamW,
    /// Longest inner gradient.
    pub clip: f32,
    /// Codec settings.
    pub format: Format,
    /// β of the error feedback.
    pub beta: f32,
    /// With `delay = 1`: the member's own update that is not yet applied, its share, and α.
    pub pending: Option<(Vec<u8>, u32, f32)>,
}

/// Token ids of one micro-batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[B, T + 1]`, row-major: inputs are columns `0..T`, targets `1..=T`.
    pub ids: Vec<u32>,
}

/// The result of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// What is sent.
    pub update: Encoded,
    /// Inner steps done (less than planned after a stop-loss).
    pub steps: u64,
    /// Loss-bearing tokens.
    pub tokens: u64,
    /// Summed loss in nats.
    pub nats: f64,
    /// Root of the step trace: one leaf per inner step.
    pub trace: Hash,
    /// How long folding and encoding took.
    pub codec_time: Duration,
}

/// Why a unit gave nothing. Private state is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnitError<E> {
    /// The gradient or the weights left the finite numbers.
    #[error("the step is not finite")]
    NotFinite,
    /// The own pending update does not decode.
    #[error(transparent)]
    Pending(#[from] ApplyError),
    /// Data could not be read.
    #[error("data: {0}")]
    Data(E),
    /// Nothing was done before the stop.
    #[error("stopped before the first step was done")]
    Stopped,
}

/// Trains the whole model on one device.
pub struct Trainer {
    config: ModelConfig,
    stage: Stage,
    layout: Layout,
}

impl Trainer {
    /// A trainer of the whole model.
    pub fn new(config: &ModelConfig, device: &Device) -> Self {
        let part = Part::whole(config);
        let layout = Layout::new(config, &part);
        let stage = Stage::new(config, &part, device, &vec![0.0; layout.len]);
        let stage = stage.expect("the whole model has both ends of what is tied");
        Self { config: config.clone(), stage, layout }
    }

    /// Where each tensor lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Mean gradient of the weights that are set over the micro-batches with these numbers, which
    /// `next` gives; summed nats too. After an error the next gradient begins at nothing, too.
    pub fn gradient<E>(
        &mut self,
        numbers: Range<u64>,
        seq_len: usize,
        mut next: impl FnMut(u64) -> Result<Batch, E>,
    ) -> Result<(Vec<f32>, f64), E> {
        let mut nats = 0.0;
        let count = (numbers.end - numbers.start) as f64;
        for i in numbers {
            let given = next(i).inspect_err(|_| {
                // What was added so far belongs to no gradient.
                let part = self.stage.take_grads();
                self.stage.give_back(part);
            })?;
            let (ids, targets, batch) = columns(&given, seq_len);
            let scale = 1.0 / (targets.len() as f64 * count) as f32;
            let saved = self.stage.forward(StageInput::Tokens { ids: &ids, batch });
            nats += self.stage.backward_loss(saved, &targets, scale).0;
        }
        Ok((self.stage.take_grads(), nats))
    }

    /// Gives a gradient back, so that the next one needs no fresh memory.
    pub fn give_back(&mut self, gradient: Vec<f32>) {
        self.stage.give_back(gradient);
    }

    /// Sets θ for [`gradient`](Self::gradient) and [`nats`](Self::nats).
    pub fn set(&mut self, theta: &[f32]) {
        self.stage.set_weights(theta);
    }

    /// Summed loss of a batch in nats under the weights that are set.
    pub fn nats(&mut self, batch: &Batch, seq_len: usize) -> f64 {
        let (ids, targets, batch) = columns(batch, seq_len);
        self.stage.nats(StageInput::Tokens { ids: &ids, batch }, &targets)
    }

    /// Log-its of the last position for `ids` under the weights that are set.
    pub fn next_logits(&mut self, ids: &[u32]) -> Vec<f32> {
        let saved = self.stage.forward(StageInput::Tokens { ids, batch: 1 });
        let mut logits = saved.output().data;
        logits.split_off(logits.len() - self.config.vocab_size)
    }

    /// Logits `[B, T, V]` for `ids` under the weights that are set.
    pub fn logits(&mut self, ids: &[u32], batch: usize) -> Vec<f32> {
        self.stage.forward(StageInput::Tokens { ids, batch }).output().data
    }

    /// Does a unit: trains from θ as planned, folds the result into the private state and encodes
    /// what is to be sent. `next(i)` gives micro-batch `i` of the unit; `stop` is asked between
    /// inner steps and between micro-batches of a gradient unit never (H = 1 is all or nothing).
    pub fn unit<E>(
        &mut self,
        weights: &Weights,
        private: &mut Private,
        plan: &UnitPlan,
        mut next: impl FnMut(u64) -> Result<Batch, E>,
        mut stop: impl FnMut() -> bool,
    ) -> Result<Unit, UnitError<E>> {
        let mut start = Cow::Borrowed(weights.theta());
        if let Some((bytes, share, alpha)) = &plan.pending {
            let mean = partial_mean(&self.layout, bytes, *share)?;
            start.to_mut().iter_mut().zip(&mean).for_each(|(w, &g)| *w -= alpha * g);
        }
        let mut trace = Vec::new();
        let mut nats = 0.0;
        let (delta, moments) = if plan.gradients {
            self.set(&start);
            let all = 0..plan.micro_batches;
            let (grad, sum) = self.gradient(all, plan.seq_len, &mut next).map_err(UnitError::Data)?;
            nats += sum;
            leaf(0, sum, &grad, &mut trace);
            (grad, None)
        } else {
            let result = self.inner_steps(&start, private, plan, &mut next, &mut stop, &mut trace)?;
            nats += result.1;
            (result.0, Some(result.2))
        };
        if trace.is_empty() {
            return Err(UnitError::Stopped);
        }
        let begun = Instant::now();
        fold(&mut private.e, plan.beta, &delta).map_err(|_| UnitError::NotFinite)?;
        self.give_back(delta);
        private.moments = moments;
        let update = encode(&self.layout, &mut private.e, plan.format);
        Ok(done(plan, &trace, nats, update, begun.elapsed()))
    }

    /// Does a unit alone: nothing is compressed or sent, the result is the next version of the weights.
    /// `rule` is what the set of this round would be applied with.
    pub fn plain_unit<E>(
        &mut self,
        weights: &Weights,
        private: &mut Private,
        plan: &UnitPlan,
        rule: &ApplyRule,
        mut next: impl FnMut(u64) -> Result<Batch, E>,
        mut stop: impl FnMut() -> bool,
    ) -> Result<(Weights, Unit), UnitError<E>> {
        let mut trace = Vec::new();
        let mut result = weights.clone();
        let nats = match *rule {
            ApplyRule::Gradients { adam, lr, step, clip } => {
                self.set(weights.theta());
                let all = 0..plan.micro_batches;
                let (mut grad, nats) = self.gradient(all, plan.seq_len, &mut next).map_err(UnitError::Data)?;
                leaf(0, nats, &grad, &mut trace);
                clip_norm(&mut grad, clip);
                let (theta, m, v) = result.split_mut();
                adam.step(&self.layout, theta, (m, v), &grad, lr, step);
                self.give_back(grad);
                nats
            }
            ApplyRule::Local { decay, .. } => {
                let start = weights.theta().to_vec();
                let (delta, nats, moments) =
                    self.inner_steps(&start, private, plan, &mut next, &mut stop, &mut trace)?;
                // The steps that were done: a stop-loss may have cut the unit short.
                let decay = decay * trace.len() as f32;
                for param in &self.layout.params {
                    let keep = if param.is_matrix() { 1.0 - decay } else { 1.0 };
                    let range = param.range();
                    let theta = &mut result.theta_mut()[range.clone()];
                    theta.iter_mut().zip(&delta[range]).for_each(|(w, &d)| *w = keep * *w - d);
                }
                private.moments = Some(moments);
                nats
            }
        };
        if trace.is_empty() {
            return Err(UnitError::Stopped);
        }
        if !result.is_finite() {
            return Err(UnitError::NotFinite);
        }
        let nothing = Encoded { bytes: Vec::new(), norm_sq: 0.0 };
        Ok((result, done(plan, &trace, nats, nothing, Duration::ZERO)))
    }

    /// H AdamW steps from `start`; gives θ − θ_i, summed nats and the new moments.
    fn inner_steps<E>(
        &mut self,
        start: &[f32],
        private: &Private,
        plan: &UnitPlan,
        next: &mut impl FnMut(u64) -> Result<Batch, E>,
        stop: &mut impl FnMut() -> bool,
        trace: &mut Vec<Hash>,
    ) -> Result<(Vec<f32>, f64, Moments), UnitError<E>> {
        let (mut m, mut v, mut count) = match &private.moments {
            Some(moments) => (moments.m.signed_values(), moments.v.positive_values(), moments.steps),
            None => (vec![0.0; start.len()], vec![0.0; start.len()], 0),
        };
        let mut theta = start.to_vec();
        let mut nats = 0.0;
        for step in 0..plan.inner_steps {
            if stop() {
                break;
            }
            self.set(&theta);
            let part = step * plan.micro_batches..(step + 1) * plan.micro_batches;
            let (mut grad, sum) = self.gradient(part, plan.seq_len, &mut *next).map_err(UnitError::Data)?;
            nats += sum;
            clip_norm(&mut grad, plan.clip);
            leaf(step, sum, &grad, trace);
            count += 1;
            plan.adam.step(&self.layout, &mut theta, (&mut m, &mut v), &grad, plan.lr, count);
            self.give_back(grad);
        }
        if !m.iter().chain(&v).all(|x| x.is_finite()) {
            return Err(UnitError::NotFinite);
        }
        let delta = start.iter().zip(&theta).map(|(&a, &b)| a - b).collect();
        Ok((delta, nats, Moments { steps: count, m: Blocks::signed(&m), v: Blocks::positive(&v) }))
    }
}

/// The unit whose steps left this trace.
fn done(plan: &UnitPlan, trace: &Vec<Hash>, nats: f64, update: Encoded, codec_time: Duration) -> Unit {
    let steps = trace.len() as u64;
    let tokens = steps * plan.micro_batches * (plan.micro_batch * plan.seq_len) as u64;
    let trace = Hash::of("talkoo 2026 step trace v1", &trace.to_bytes());
    Unit { update, steps, tokens, nats, trace, codec_time }
}

/// One leaf of the step trace: the step, its loss and a hash of its gradient.
fn leaf(step: u64, nats: f64, grad: &[f32], trace: &mut Vec<Hash>) {
    let mut bytes = (step, nats.to_bits()).to_bytes();
    if cfg!(target_endian = "little") {
        bytes.extend_from_slice(&Hash::of_chunk(bytemuck::cast_slice(grad)).0);
    } else {
        let le: Vec<u8> = grad.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.extend_from_slice(&Hash::of_chunk(&le).0);
    }
    trace.push(Hash::of("talkoo 2026 trace leaf v1", &bytes));
}

/// Inputs `[B, T]`, targets `[B, T]` and B of a batch.
fn columns(batch: &Batch, seq_len: usize) -> (Vec<u32>, Vec<u32>, usize) {
    let rows = batch.ids.chunks_exact(seq_len + 1);
    assert!(rows.remainder().is_empty() && rows.len() > 0, "rows of T + 1 ids");
    let n = rows.len();
    let mut ids = Vec::with_capacity(n * seq_len);
    let mut targets = Vec::with_capacity(n * seq_len);
    for row in rows {
        ids.extend_from_slice(&row[..seq_len]);
        targets.extend_from_slice(&row[1..]);
    }
    (ids, targets, n)
}
