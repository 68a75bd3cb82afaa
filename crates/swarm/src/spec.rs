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
/// Tokens of a round, of all members together: far above any batch, and so few that no sum over a run ends.
const TOKENS_PER_ROUND_MAX: u64 = 1 << 44;
/// The codec selects a part and writes a scale for each 2^12 values of a matrix: `model::CHUNK`.
const CHUNK_LOG2: u32 = 12;
/// Of the parameters of a model, one in 2^5 at most stands in a vector: vectors are sent whole, in bf16. A
/// block of width C has 2·C of them beside more than 5·C² in matrices, and C is 16 and more.
const VECTORS_LOG2: u32 = 5;
/// What an update has beside values: lengths, levels, what is rounded up in each tensor.
const FRAMING_BYTES: u64 = 1 << 16;
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
        if self.tokens_per_micro_batch() > MICRO_BATCH_TOKENS_MAX {
            return refuse("train.micro_batch", "times `data.seq_len` is more than 1048576 tokens at once");
        }
        if !(1..=4096).contains(&self.micro_batch) || !(1..=1 << 20).contains(&self.micro_batches) {
            return refuse("train.batch_tokens", "gives no whole micro-batch, or more than 1048576 of them");
        }
        if !(1..=10_000).contains(&self.inner_steps) {
            return refuse("train.inner_steps", "is outside 1..=10000");
        }
        if self.tokens_per_round() > TOKENS_PER_ROUND_MAX {
            return refuse("train.batch_tokens", "times `train.inner_steps` is more than 2^44 tokens a round");
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
        if self.mode == Mode::Gradients && self.bits < 8 {
            let why = "is 1 or 2 with `round.mode` = \"gradients\": levels that a whole tensor shares turn its quiet \
                       gradients into noise, of which AdamW makes full steps. Measured, such a group ends 8 to 13 \
                       percent worse than one machine alone. Write 8, or `round.mode` = \"local\"";
            return refuse("round.bits", why);
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
        u64::from(self.micro_batch).saturating_mul(u64::from(self.seq_len))
    }

    /// Loss-bearing tokens that a round plans for all members together.
    pub fn tokens_per_round(&self) -> u64 {
        self.windows(self.micro_batches).saturating_mul(u64::from(self.seq_len))
    }

    /// Windows of the run's order that a unit of so many micro-batches may read.
    pub fn windows(&self, micro_batches: u32) -> u64 {
        let steps = u64::from(micro_batches).saturating_mul(u64::from(self.inner_steps));
        steps.saturating_mul(u64::from(self.micro_batch))
    }

    /// What an update of this run can be long, in bytes, whatever is in it.
    pub fn update_bytes_max(&self) -> u64 {
        let (params, sparsity) = (self.params, u32::from(self.sparsity));
        // Each chunk rounds up, and has a scale of two bytes where there are 8 bits.
        let chunks = params >> CHUNK_LOG2;
        let sent = (params >> sparsity).saturating_add(chunks);
        let remainder = sparsity.saturating_sub(1);
        // An index: a remainder, a stop, and a quotient in unary. The quotients of a chunk together are no longer
        // than its length in steps of the remainder.
        let (index, quotients) = if sparsity == 0 { (0, 0) } else { (u64::from(sparsity), params >> remainder) };
        let bits = sent.saturating_mul(index.saturating_add(u64::from(self.bits))).saturating_add(quotients);
        let vectors = (params >> VECTORS_LOG2).saturating_mul(2);
        let matrices = (bits / 8).saturating_add(chunks.saturating_mul(2));
        matrices.saturating_add(vectors).saturating_add(FRAMING_BYTES)
    }

    /// By how many rounds round `round` may run ahead of the applied sets.
    pub fn delay_at(&self, round: u64) -> u64 {
        let undelayed = self.init == Init::Seed && round < UNDELAYED_ROUNDS;
        if undelayed { 0 } else { u64::from(self.delay).min(round) }
    }

    /// The version of the weights from which round `round` trains.
    pub fn base_of(&self, round: u64) -> u64 {
        round.saturating_sub(self.delay_at(round))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The key for which a plain run with this change is refused.
    fn refused(change: impl Fn(&mut Spec)) -> Option<&'static str> {
        let mut spec = Spec::plain("x", String::new(), 1 << 20, Hash::default());
        change(&mut spec);
        spec.check().err().map(|error| error.key)
    }

    #[test]
    fn gradients_of_less_than_eight_bits_are_refused_with_the_reason() {
        assert_eq!(refused(|spec| spec.bits = 2), Some("round.bits"));
        assert_eq!(refused(|spec| spec.bits = 1), Some("round.bits"));
        assert_eq!(refused(|spec| (spec.bits, spec.mode) = (2, Mode::Local)), None);
        assert_eq!(refused(|spec| spec.bits = 8), None);
        let spec = Spec { bits: 2, ..Spec::plain("x", String::new(), 1, Hash::default()) };
        let error = spec.check().expect_err("too few bits").to_string();
        assert!(error.contains("worse") && error.contains("Write 8"), "{error}");
    }

    #[test]
    fn a_round_is_as_large_as_sums_over_it_allow() {
        let large = |spec: &mut Spec, inner_steps| {
            (spec.mode, spec.inner_steps, spec.seq_len) = (Mode::Local, inner_steps, 1 << 20);
            (spec.micro_batch, spec.micro_batches) = (1, 1 << 20);
        };
        assert_eq!(refused(|spec| large(spec, 16)), None);
        assert_eq!(refused(|spec| large(spec, 17)), Some("train.batch_tokens"));
    }

    #[test]
    fn an_update_is_bounded_by_what_its_format_sends() {
        let bytes = |sparsity, bits| {
            let plain = Spec::plain("x", String::new(), 1 << 30, Hash::default());
            Spec { sparsity, bits, mode: Mode::Local, ..plain }.update_bytes_max() as f64 / f64::from(1u32 << 30)
        };
        // Bytes a parameter: values and indices, scales, a sixteenth of a byte for vectors.
        for (sparsity, bits, least, most) in
            [(0, 8, 1.06, 1.07), (0, 2, 0.31, 0.32), (2, 2, 0.25, 0.27), (4, 1, 0.11, 0.12), (6, 1, 0.08, 0.09)]
        {
            let bytes = bytes(sparsity, bits);
            assert!(least < bytes && bytes < most, "1/{} at {bits} bits: {bytes}", 1 << sparsity);
        }
    }
}
