//! What a run is: fixed at its creation, equal for everybody, integers only.

use base::{Hash, NodeId, Reader, Wire, WireError, wire_struct};
use thiserror::Error;

/// Who may join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// These keys; data and weights go to them only.
    Invited(Vec<NodeId>),
}

/// Tokens of a micro-batch: what a member computes at once, and must have memory for.
pub(crate) const MICRO_BATCH_TOKENS_MAX: u64 = 1 << 20;

/// Where training starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Weights drawn from the run's seed.
    Seed,
    /// Published weights with this root.
    Root(Hash),
}

/// What a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One optimiser step on the members' mean gradient; AdamW is common.
    Gradients,
    /// H steps at home, then plain descent on the mean weight difference.
    Local,
}

/// The whole run. Fractions are integers: `_milli` 10⁻³, `_micro` 10⁻⁶, `_nano` 10⁻⁹.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Name for people.
    pub name: String,
    /// Of initial weights and data order.
    pub seed: u64,
    /// Who may join.
    pub access: Access,
    /// The model's `config.json`.
    pub config: String,
    /// Its parameters.
    pub params: u64,
    /// Where training starts.
    pub init: Init,
    /// Root of the data manifest.
    pub manifest: Hash,
    /// T.
    pub seq_len: u32,
    /// Sequences per micro-batch.
    pub micro_batch: u32,
    /// Micro-batches of all members together in one inner step.
    pub micro_batches: u32,
    /// H.
    pub inner_steps: u32,
    /// Tokens after which the run ends.
    pub tokens: u64,
    /// Peak learning rate.
    pub lr_nano: u64,
    /// Name of the schedule.
    pub schedule: String,
    /// Tokens over which the learning rate warms up.
    pub warmup_tokens: u64,
    /// Of AdamW.
    pub weight_decay_micro: u32,
    /// Longest gradient.
    pub clip_milli: u32,
    /// Gradients or local.
    pub mode: Mode,
    /// One of 2^sparsity values is sent.
    pub sparsity: u8,
    /// Bits per value sent.
    pub bits: u8,
    /// Outer step α.
    pub alpha_milli: u32,
    /// β of the error feedback.
    pub beta_milli: u32,
    /// Rounds by which communication may lag behind compute: 0 or 1.
    pub delay: u8,
    /// Most contributors in a round.
    pub slots: u16,
    /// Stop-loss of a unit.
    pub train_window_ms: u64,
    /// Shortest and longest exchange.
    pub exchange_ms: (u64, u64),
    /// A checkpoint is written every so many rounds.
    pub checkpoint_rounds: u32,
    /// So many of them stay on each member's disk.
    pub checkpoints_kept: u32,
    /// Held-out tokens that are measured with each.
    pub eval_tokens: u64,
}

/// The most rounds that may lag.
pub(crate) const DELAY_MAX: u8 = 1;
/// Rounds from random weights that run without delay.
const UNDELAYED_ROUNDS: u64 = 20;
/// A run takes at most this many contributors a round; bitmaps and blocks are sized by it.
pub(crate) const SLOTS_MAX: u16 = 1024;
/// An access list has at most this many keys.
const INVITED_MAX: usize = 4096;

/// Why a run cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{key}` {why}")]
pub struct SpecError {
    /// The key of the run file.
    pub key: &'static str,
    /// What is wrong with its value.
    pub why: String,
}

impl Spec {
    /// A run in `gradients` mode that sends everything, of four sequences of sixteen tokens a round: to begin with where a run
    /// is made without a file.
    pub fn plain(name: &str, config: String, params: u64, manifest: Hash) -> Self {
        Self {
            name: name.into(),
            seed: 1,
            access: Access::Open,
            config,
            params,
            init: Init::Seed,
            manifest,
            seq_len: 16,
            micro_batch: 1,
            micro_batches: 4,
            inner_steps: 1,
            tokens: 1 << 40,
            lr_nano: 1_000_000,
            schedule: "constant".into(),
            warmup_tokens: 0,
            weight_decay_micro: 0,
            clip_milli: 1000,
            mode: Mode::Gradients,
            sparsity: 0,
            bits: 8,
            alpha_milli: 1000,
            beta_milli: 1000,
            delay: 0,
            slots: 32,
            train_window_ms: 5_000,
            exchange_ms: (2_000, 10_000),
            checkpoint_rounds: 1_000_000,
            checkpoints_kept: 0,
            eval_tokens: 0,
        }
    }

    /// Refuses what no run can be. Every node checks this before it takes a run into its state.
    pub fn check(&self) -> Result<(), SpecError> {
        let refuse = |key, why: &str| Err(SpecError { key, why: why.to_owned() });
        if self.name.is_empty() || self.name.len() > 64 {
            return refuse("run.name", "needs 1 to 64 bytes");
        }
        if self.config.len() > 1 << 16 {
            return refuse("model", "has a config.json above 64 KiB");
        }
        if !(1..=1 << 44).contains(&self.params) {
            return refuse("model", "has no parameters, or more than 2^44");
        }
        if !(1..=1 << 20).contains(&self.seq_len) {
            return refuse("data.seq_len", "is outside 1..=1048576");
        }
        if u64::from(self.seq_len) * u64::from(self.micro_batch) > MICRO_BATCH_TOKENS_MAX {
            return refuse("train.micro_batch", "times `data.seq_len` is more than 1048576 tokens at once");
        }
        if !(1..=4096).contains(&self.micro_batch) || !(1..=1 << 20).contains(&self.micro_batches) {
            return refuse("train.batch_tokens", "gives no whole micro-batch, or more than 1048576 of them");
        }
        if !(1..=10_000).contains(&self.inner_steps) {
            return refuse("train.inner_steps", "is outside 1..=10000");
        }
        if self.tokens == 0 || self.tokens > 1 << 56 {
            return refuse("train.tokens", "is outside 1..=2^56");
        }
        if !(1..=1_000_000_000).contains(&self.lr_nano) {
            return refuse("train.lr", "is outside 1e-9..=1");
        }
        if !matches!(self.schedule.as_str(), "wsd" | "linear" | "constant") {
            return refuse("train.schedule", "is not one of wsd, linear, constant");
        }
        if self.weight_decay_micro > 1_000_000 || self.clip_milli == 0 {
            return refuse("train.weight_decay", "is outside 0..=1");
        }
        if !matches!(self.sparsity, 0 | 2 | 4 | 6) {
            return refuse("round.density", "is not one of 1, 1/4, 1/16, 1/64");
        }
        if !matches!(self.bits, 1 | 2 | 8) {
            return refuse("round.bits", "is not one of 1, 2, 8");
        }
        if self.mode == Mode::Gradients && (self.inner_steps != 1 || self.delay != 0) {
            return refuse("round.mode", "`gradients` goes with inner_steps = 1 and delay = 0");
        }
        if !(1..=10_000).contains(&self.alpha_milli) || self.beta_milli > 1000 {
            return refuse("round.alpha", "is outside 0.001..=10");
        }
        if self.delay > DELAY_MAX {
            return refuse("round.delay", "is not 0 or 1");
        }
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return refuse("round.slots", "is outside 1..=1024");
        }
        let day = 86_400_000;
        let (low, high) = self.exchange_ms;
        if !(100..=day).contains(&self.train_window_ms) || !(50..=day).contains(&low) || !(low..=day).contains(&high) {
            return refuse("round.target_seconds", "gives windows outside a tenth of a second to a day");
        }
        if self.checkpoint_rounds == 0 {
            return refuse("out.every_rounds", "is zero");
        }
        Ok(())
    }

    /// The name of the run that `creator` makes of this.
    pub fn id(&self, creator: &NodeId) -> Hash {
        Hash::of("talkoo 2026 run v1", &(self.to_bytes(), creator.to_bytes()).to_bytes())
    }

    /// Loss-bearing tokens of one micro-batch.
    pub fn tokens_per_micro_batch(&self) -> u64 {
        u64::from(self.micro_batch) * u64::from(self.seq_len)
    }

    /// Loss-bearing tokens that a round plans for all members together.
    pub fn tokens_per_round(&self) -> u64 {
        u64::from(self.micro_batches) * u64::from(self.inner_steps) * self.tokens_per_micro_batch()
    }

    /// By how many rounds round `round` may run ahead of the applied sets.
    pub fn delay_at(&self, round: u64) -> u64 {
        let undelayed = self.init == Init::Seed && round < UNDELAYED_ROUNDS;
        if undelayed { 0 } else { u64::from(self.delay).min(round) }
    }

    /// The version of the weights from which round `round` trains.
    pub fn base_of(&self, round: u64) -> u64 {
        round - self.delay_at(round)
    }

    /// Whether `node` may join.
    pub fn admits(&self, node: &NodeId) -> bool {
        match &self.access {
            Access::Open => true,
            Access::Invited(list) => list.contains(node),
        }
    }
}

wire_struct!(Spec {
    name,
    seed,
    access,
    config,
    params,
    init,
    manifest,
    seq_len,
    micro_batch,
    micro_batches,
    inner_steps,
    tokens,
    lr_nano,
    schedule,
    warmup_tokens,
    weight_decay_micro,
    clip_milli,
    mode,
    sparsity,
    bits,
    alpha_milli,
    beta_milli,
    delay,
    slots,
    train_window_ms,
    exchange_ms,
    checkpoint_rounds,
    checkpoints_kept,
    eval_tokens,
});

impl Wire for Access {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open => out.push(0),
            Self::Invited(list) => {
                out.push(1);
                list.encode(out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::decode(input)? {
            0 => Ok(Self::Open),
            1 => Ok(Self::Invited(input.list(INVITED_MAX)?)),
            _ => Err(WireError::Invalid("access")),
        }
    }
}

impl Wire for Init {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Seed => out.push(0),
            Self::Root(root) => {
                out.push(1);
                root.encode(out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::decode(input)? {
            0 => Ok(Self::Seed),
            1 => Ok(Self::Root(Hash::decode(input)?)),
            _ => Err(WireError::Invalid("init")),
        }
    }
}

impl Wire for Mode {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self == Self::Local));
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(if bool::decode(input)? { Self::Local } else { Self::Gradients })
    }
}
