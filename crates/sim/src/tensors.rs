//! Members that really train: a model small enough for a test, and every byte that nodes would store, by hash. What
//! a node may use is what its own disk names; each node computes for itself, so agreement is seen, not assumed.
//!
//! Units follow `node`: the same calls of `model` in the same order, on settings that are translated the same way.

use crate::distort::distort;
use crate::scenario::Liar;
use crate::tiny::{SEQ_LEN, config, first_weights, layout, windows};
use base::{ChunkTree, Hash, Reject, Rng};
use model::update::{Format, encode};
use model::{
    AdamW, ApplyRule, Batch, Contribution, Layout, Private, Schedule, Trainer, UnitError, UnitPlan, Weights, apply,
    restitution, shares, verify_update,
};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use swarm::{Candidate, Closed, Commit, Mode, Settle, Spec, Train};

/// Windows from here on are held out: no run hands out so many.
const HELD_OUT: u64 = 1 << 63;
/// Windows on which loss is compared: 2,048 tokens.
const HELD_OUT_WINDOWS: u64 = 128;

/// What all nodes of a run have on their disks, and one trainer that computes for each of them in turn.
pub(crate) struct Tensors {
    spec: Spec,
    layout: Layout,
    format: Format,
    trainer: Trainer,
    weights: BTreeMap<Hash, Weights>,
    updates: BTreeMap<Hash, Vec<u8>>,
    privates: BTreeMap<Hash, Vec<u8>>,
    /// Where the mean of a set is computed.
    mean: Vec<f32>,
    /// First units that went on from another member's moments, and those whose member refused them.
    pub inherited: u64,
    pub refused: u64,
}

impl Tensors {
    pub fn new(spec: Spec) -> Self {
        let device = model::open("cpu").expect("every build has it");
        let mut tensors = Self {
            layout: layout(),
            format: Format::new(spec.sparsity, spec.bits).expect("the scenario names one that the codec has"),
            trainer: Trainer::new(&config(), &device),
            weights: BTreeMap::new(),
            updates: BTreeMap::new(),
            privates: BTreeMap::new(),
            mean: Vec::new(),
            inherited: 0,
            refused: 0,
            spec,
        };
        let first = first_weights(tensors.spec.seed, tensors.spec.mode);
        tensors.keep_weights(first);
        tensors
    }

    fn keep_weights(&mut self, weights: Weights) -> Hash {
        let root = weights.tree().root();
        self.weights.insert(root, weights);
        root
    }

    fn keep_update(&mut self, bytes: Vec<u8>) -> Hash {
        let root = ChunkTree::of(&bytes).root();
        self.updates.insert(root, bytes);
        root
    }

    fn keep_private(&mut self, bytes: Vec<u8>) -> Hash {
        let root = ChunkTree::of(&bytes).root();
        self.privates.insert(root, bytes);
        root
    }

    /// Held-out loss of weights, nats per token.
    pub fn held_out(&mut self, root: &Hash) -> Option<f64> {
        self.trainer.set(self.weights.get(root)?.theta());
        let batch = windows(self.spec.seed, HELD_OUT, HELD_OUT_WINDOWS);
        let nats = self.trainer.nats(&batch, SEQ_LEN as usize);
        Some(nats / (HELD_OUT_WINDOWS * u64::from(SEQ_LEN)) as f64)
    }

    /// Does a unit of at most `steps` inner steps. `own`: the updates on its disk, of which it takes back what did not
    /// count; `donated`: the private state of another, where it arrived.
    pub fn unit(
        &mut self,
        train: &Train,
        steps: u64,
        own: Option<&BTreeSet<Hash>>,
        donated: Option<Hash>,
    ) -> Result<Commit, String> {
        let weights = self.weights.get(&train.root).ok_or("its weights are nowhere")?.clone();
        let (state, mut private) = self.begin(train, donated);
        if let Some(own) = own.filter(|_| state == train.state) {
            train.settle.iter().try_for_each(|settle| self.settle(settle, own, &mut private))?;
        }
        let plan = self.plan(train, steps)?;
        let (seed, rows, position) = (self.spec.seed, u64::from(self.spec.micro_batch), train.position);
        let next = |i: u64| -> Result<Batch, Infallible> { Ok(windows(seed, position + i * rows, rows)) };
        let failed = |error: UnitError<Infallible>| error.to_string();
        let (unit, update) = if train.plain {
            let rule = self.rule(train.tokens_before, train.steps_before);
            let done = self.trainer.plain_unit(&weights, &mut private, &plan, &rule, next, || false);
            let (made, unit) = done.map_err(failed)?;
            (unit, self.keep_weights(made))
        } else {
            let unit = self.trainer.unit(&weights, &mut private, &plan, next, || false).map_err(failed)?;
            let update = self.keep_update(unit.update.bytes.clone());
            (unit, update)
        };
        Ok(Commit {
            run: train.run,
            round: train.round,
            root: train.root,
            class: Hash::default(),
            tokens: unit.tokens,
            steps: unit.steps as u32,
            update,
            norm_sq_bits: unit.update.norm_sq.to_bits(),
            size: unit.update.bytes.len() as u64,
            state,
            state_next: self.keep_private(private.to_bytes()),
            trace: unit.trace,
            loss_micro: (unit.nats / unit.tokens.max(1) as f64 * 1e6) as u64,
        })
    }

    /// The private state from which a unit goes on: one's own; a newcomer's is another's moments and none of its
    /// feedback, if they are such as an optimiser leaves; else none.
    fn begin(&mut self, train: &Train, donated: Option<Hash>) -> (Hash, Private) {
        let read = |state: &Hash| Private::from_bytes(&self.layout, self.privates.get(state)?).ok();
        let none = Private::zero(&self.layout);
        if let Some(private) = read(&train.state) {
            return (train.state, private);
        }
        let Some(state) = donated else { return (Hash::default(), none) };
        match read(&state).filter(|donor| donor.plausible(self.spec.clip_milli as f32 / 1000.0)) {
            Some(donor) => {
                self.inherited += 1;
                (state, Private { moments: donor.moments, ..none })
            }
            None => {
                self.refused += 1;
                (Hash::default(), none)
            }
        }
    }

    /// Gives back to the error feedback what was left out or scaled down.
    fn settle(&self, settle: &Settle, own: &BTreeSet<Hash>, private: &mut Private) -> Result<(), String> {
        let set: Vec<(u64, f64)> = settle.set.iter().map(|c| (c.tokens, f64::from_bits(c.norm_sq_bits))).collect();
        let at = settle.set.iter().position(|c| c.update == settle.update);
        let scale = at.map_or(0, |at| shares(&set)[at].0);
        if scale == 1 << 16 {
            return Ok(());
        }
        let bytes = self.updates.get(&settle.update).filter(|_| own.contains(&settle.update));
        let bytes = bytes.ok_or("its own update is gone")?;
        restitution(&self.layout, &mut private.e, bytes, scale).map_err(|reject| reject.to_string())
    }

    /// What the log planned, with the run's settings.
    fn plan(&self, train: &Train, steps: u64) -> Result<UnitPlan, String> {
        let pending = match &train.pending {
            None => None,
            Some((update, tokens, of)) => {
                let bytes = self.updates.get(update).ok_or("its own update is gone")?;
                let share = (u128::from(*tokens) << 20) / u128::from(*of).max(1);
                Some((bytes.clone(), share as u32, self.spec.alpha_milli as f32 / 1000.0))
            }
        };
        Ok(UnitPlan {
            gradients: self.spec.mode == Mode::Gradients,
            inner_steps: u64::from(self.spec.inner_steps).min(steps),
            micro_batches: u64::from(train.micro_batches),
            micro_batch: self.spec.micro_batch as usize,
            seq_len: self.spec.seq_len as usize,
            lr: self.lr(train.tokens_before),
            adam: AdamW::new(0.0),
            clip: self.spec.clip_milli as f32 / 1000.0,
            format: self.format,
            beta: self.spec.beta_milli as f32 / 1000.0,
            pending,
        })
    }

    fn lr(&self, tokens_before: u64) -> f32 {
        let spec = &self.spec;
        let schedule = Schedule::parse(&spec.schedule).expect("checked when the run was created");
        let peak = spec.lr_nano as f32 * 1e-9;
        schedule.lr(peak, tokens_before, spec.tokens_per_round(), spec.tokens, spec.warmup_tokens)
    }

    /// What a round that opened at these counts is applied with. The runs here have no decay, which alone would
    /// follow the steps that were done.
    fn rule(&self, tokens_before: u64, steps_before: u64) -> ApplyRule {
        let (spec, lr) = (&self.spec, self.lr(tokens_before));
        let decay = spec.weight_decay_micro as f32 * 1e-6;
        match spec.mode {
            Mode::Gradients => ApplyRule::Gradients {
                adam: AdamW::new(decay),
                lr,
                step: steps_before + 1,
                clip: spec.clip_milli as f32 / 1000.0,
            },
            Mode::Local => ApplyRule::Local {
                alpha: spec.alpha_milli as f32 / 1000.0,
                decay: lr * decay,
                steps: spec.inner_steps as f32,
                reach: spec.lr_nano as f32 * 1e-9 * spec.inner_steps as f32,
            },
        }
    }

    /// Checks an update that was fetched, as nodes do.
    pub fn verify(&self, candidate: &Candidate) -> Result<(), Reject> {
        let bytes = self.updates.get(&candidate.update).ok_or(Reject::NotHeld)?;
        if bytes.len() as u64 != candidate.size {
            return Err(Reject::WrongSize);
        }
        verify_update(&self.layout, bytes, self.format, f64::from_bits(candidate.norm_sq_bits)).map(|_| ())
    }

    /// The root of the weights that a closed set makes of those with root `before`.
    pub fn apply(&mut self, before: &Hash, closed: &Closed) -> Result<Hash, String> {
        let mut weights = self.weights.get(before).ok_or("its weights are nowhere")?.clone();
        let mut set = Vec::with_capacity(closed.set.len());
        for c in &closed.set {
            let bytes = self.updates.get(&c.update).ok_or("an update is nowhere")?;
            set.push(Contribution { bytes, tokens: c.tokens, norm_sq: f64::from_bits(c.norm_sq_bits) });
        }
        let rule = self.rule(closed.tokens_before, closed.steps_before);
        let applied = apply(&self.layout, &mut weights, &set, &rule, &mut self.mean);
        applied.map_err(|error| error.to_string())?;
        if !weights.is_finite() {
            return Err("the weights are not finite".into());
        }
        Ok(self.keep_weights(weights))
    }

    /// Weights with these, but for one bit: what a machine that computes wrongly makes.
    pub fn damaged(&mut self, root: &Hash) -> Hash {
        let Some(weights) = self.weights.get(root) else { return *root };
        let mut bytes = weights.bytes().into_owned();
        bytes[0] ^= 1;
        let moments = self.spec.mode == Mode::Gradients;
        let weights = Weights::from_bytes(&self.layout, moments, &bytes).expect("as long as they were");
        self.keep_weights(weights)
    }

    /// Makes of an honest unit what a liar commits to: gives whether it does. `other`: an update of another member
    /// from the last round.
    pub fn lie(&mut self, commit: &mut Commit, liar: Liar, other: Option<Hash>, rng: &mut Rng) -> bool {
        if commit.size == 0 {
            return false;
        }
        if liar == Liar::BadDonor {
            return self.spoil_moments(commit);
        }
        let source = if liar == Liar::Stale { other } else { Some(commit.update) };
        let Some(bytes) = source.and_then(|update| self.updates.get(&update)) else { return false };
        let mut values = vec![0u16; self.layout.len];
        if restitution(&self.layout, &mut values, bytes, 0).is_err() {
            return false;
        }
        if !distort(liar, &mut values, &self.layout, commit.round.0, rng) {
            return false;
        }
        let lie = encode(&self.layout, &mut values, self.format);
        (commit.size, commit.norm_sq_bits) = (lie.bytes.len() as u64, lie.norm_sq.to_bits());
        commit.update = self.keep_update(lie.bytes);
        true
    }

    /// Puts NaN in place of the first scale of the moments.
    fn spoil_moments(&mut self, commit: &mut Commit) -> bool {
        let Some(bytes) = self.privates.get(&commit.state_next) else { return false };
        // Behind the error feedback of two bytes each and the number of steps.
        let at = 2 * self.layout.len + 8;
        let mut bytes = bytes.clone();
        let Some(scale) = bytes.get_mut(at..at + 2) else { return false };
        scale.fill(0xff);
        commit.state_next = self.keep_private(bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_tiny_and_its_text_is_not_learned_by_heart() {
        assert!(config().check().is_ok() && crate::tiny::params() <= 2_000, "{} parameters", crate::tiny::params());
        let batch = windows(1, 7, 2);
        assert_eq!(batch.ids.len(), 2 * (SEQ_LEN as usize + 1));
        assert_eq!(batch, windows(1, 7, 2));
        assert_ne!(batch, windows(1, 8, 2));
        assert_ne!(batch, windows(2, 7, 2));
    }
}
