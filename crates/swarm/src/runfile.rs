//! The run file: what a person writes. Everything left out is derived.

use crate::spec::MICRO_BATCH_TOKENS_MAX;
use crate::{Access, Init, Mode, Outlook, Spec, SpecError};
use base::{Hash, NodeId};
use serde::Deserialize;
use thiserror::Error;

/// `RUN.toml`, parsed. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// The run itself.
    pub run: RunTable,
    /// What is trained.
    pub model: ModelTable,
    /// On what.
    #[serde(default)]
    pub data: DataTable,
    /// How.
    pub train: TrainTable,
    /// In which rounds.
    #[serde(default)]
    pub round: RoundTable,
    /// What it pays.
    #[serde(default)]
    pub pay: PayTable,
    /// What comes out.
    #[serde(default)]
    pub out: OutTable,
}

/// `[run]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunTable {
    /// For people.
    pub name: String,
    /// Of weights and data order.
    #[serde(default)]
    pub seed: u64,
    /// `"open"` or a list of keys.
    #[serde(default)]
    pub access: AccessKey,
}

/// `run.access`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum AccessKey {
    /// `"open"`.
    Word(String),
    /// Keys.
    List(Vec<String>),
}

impl Default for AccessKey {
    fn default() -> Self {
        Self::Word("open".into())
    }
}

/// `[model]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// A preset.
    pub size: Option<String>,
    /// A Hugging Face `config.json` instead.
    pub config: Option<String>,
    /// `"seed"`, or the folder of a Hugging Face Llama to continue from.
    #[serde(default = "seed_word")]
    pub init: String,
}

fn seed_word() -> String {
    "seed".into()
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataTable {
    /// Folder of a built corpus, or `"shipped"`.
    #[serde(default = "shipped_word")]
    pub manifest: String,
    /// `"text"`.
    #[serde(default = "text_word")]
    pub format: String,
    /// T.
    #[serde(default = "default_seq_len")]
    pub seq_len: u32,
}

fn shipped_word() -> String {
    "shipped".into()
}
fn text_word() -> String {
    "text".into()
}
fn default_seq_len() -> u32 {
    512
}

impl Default for DataTable {
    fn default() -> Self {
        Self { manifest: shipped_word(), format: text_word(), seq_len: default_seq_len() }
    }
}

/// A number, or a word such as `"auto"` or `"2B"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A whole number.
    Int(u64),
    /// A fraction.
    Float(f64),
    /// A word.
    Word(String),
}

/// `[train]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainTable {
    /// Tokens in all: a number, or `"300k"`, `"20M"`, `"2B"`.
    pub tokens: Value,
    /// Tokens of all members together in one step.
    pub batch_tokens: u64,
    /// H, or `"auto"`.
    #[serde(default = "auto")]
    pub inner_steps: Value,
    /// Peak learning rate.
    pub lr: f64,
    /// `wsd`, `linear`, `constant`.
    #[serde(default = "wsd")]
    pub schedule: String,
    /// Part of the tokens over which the learning rate warms up.
    #[serde(default = "warmup")]
    pub warmup: f64,
    /// Of AdamW.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// Longest gradient.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Sequences per micro-batch.
    #[serde(default = "micro_batch")]
    pub micro_batch: u32,
    /// `"f32"`.
    #[serde(default = "f32_word")]
    pub compute: String,
    /// `"all"`.
    #[serde(default = "all_word")]
    pub trainable: String,
}

fn auto() -> Value {
    Value::Word("auto".into())
}
fn wsd() -> String {
    "wsd".into()
}
fn warmup() -> f64 {
    0.02
}
fn weight_decay() -> f64 {
    0.1
}
fn clip() -> f64 {
    1.0
}
fn micro_batch() -> u32 {
    4
}
fn f32_word() -> String {
    "f32".into()
}
fn all_word() -> String {
    "all".into()
}

/// `[round]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundTable {
    /// `gradients`, `local`, `auto`.
    pub mode: String,
    /// 1, 0.25, 0.0625, 0.015625, or `"1/64"`, or `"auto"`.
    pub density: Value,
    /// 1, 2, 8 or `"auto"`.
    pub bits: Value,
    /// Outer step.
    pub alpha: f64,
    /// 0, 1 or `"auto"`.
    pub delay: Value,
    /// Most contributors.
    pub slots: u16,
    /// Wished length.
    pub target_seconds: f64,
}

impl Default for RoundTable {
    fn default() -> Self {
        Self {
            mode: "auto".into(),
            density: auto(),
            bits: auto(),
            alpha: 1.0,
            delay: auto(),
            slots: 32,
            target_seconds: 600.0,
        }
    }
}

/// `[pay]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PayTable {
    /// Credits that the creator pays into the run's budget, as text: `"7"`, `"0.25"`.
    pub budget: Option<String>,
}

/// `[out]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutTable {
    /// A checkpoint every so many rounds.
    pub every_rounds: u32,
    /// Held-out tokens that are measured.
    pub eval_tokens: u64,
    /// Checkpoints kept.
    pub keep: u32,
}

impl Default for OutTable {
    fn default() -> Self {
        Self { every_rounds: 20, eval_tokens: 100_000, keep: 5 }
    }
}

/// What the file names, looked up by the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// `config.json`.
    pub config: String,
    /// Parameters.
    pub params: u64,
    /// Root of the manifest.
    pub manifest: Hash,
    /// Where training starts.
    pub init: Init,
}

/// Why a run file is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunFileError {
    /// Not TOML, or an unknown key.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// A value that no run can have.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl RunFile {
    /// Reads a run file.
    pub fn parse(text: &str) -> Result<Self, RunFileError> {
        let file: Self = toml::from_str(text)?;
        file.check_words()?;
        Ok(file)
    }

    fn check_words(&self) -> Result<(), SpecError> {
        let one_of = |key, value: &str, known: &[&str]| {
            if known.contains(&value) {
                Ok(())
            } else {
                refuse(key, format!("is `{value}`; it can be {}", known.join(", ")))
            }
        };
        one_of("data.format", &self.data.format, &["text"])?;
        one_of("train.compute", &self.train.compute, &["f32"])?;
        one_of("train.trainable", &self.train.trainable, &["all"])?;
        one_of("round.mode", &self.round.mode, &["auto", "gradients", "local"])?;
        // Looked at before anything is measured with them.
        let at_once = u64::from(self.data.seq_len).saturating_mul(u64::from(self.train.micro_batch));
        if !(1..=MICRO_BATCH_TOKENS_MAX).contains(&at_once) {
            return refuse(
                "data.seq_len",
                format!("times `train.micro_batch` is {at_once} tokens; it can be 1 to 1048576"),
            );
        }
        if !(self.round.target_seconds > 0.0 && self.round.target_seconds <= 86_400.0) {
            return refuse("round.target_seconds", format!("is {}; it can be up to 86400", self.round.target_seconds));
        }
        if !(self.train.lr > 0.0 && self.train.lr <= 1.0) {
            return refuse("train.lr", format!("is {}; it can be above 0, up to 1", self.train.lr));
        }
        self.tokens()?;
        if self.model.size.is_some() && self.model.config.is_some() {
            return refuse("model.size", "and `model.config` exclude each other".into());
        }
        Ok(())
    }

    /// Tokens in all.
    pub fn tokens(&self) -> Result<u64, SpecError> {
        match &self.train.tokens {
            Value::Int(n) => Ok(*n),
            Value::Float(x) if *x >= 1.0 && *x < 1e16 => Ok(*x as u64),
            Value::Word(word) => parse_amount(word),
            Value::Float(x) => refuse("train.tokens", format!("is {x}; write a number, \"300k\", \"20M\" or \"2B\"")),
        }
    }

    /// The run that the file describes; `outlook` decides what it leaves to `"auto"`.
    pub fn resolve(&self, resolved: &Resolved, outlook: &Outlook) -> Result<Spec, SpecError> {
        let tokens = self.tokens()?;
        let mode = match self.round.mode.as_str() {
            "gradients" => Mode::Gradients,
            "local" => Mode::Local,
            _ => outlook.mode,
        };
        let (gradients, same) = (mode == Mode::Gradients, mode == outlook.mode);
        let inner_steps = match &self.train.inner_steps {
            Value::Int(n) => u32::try_from(*n).unwrap_or(u32::MAX),
            Value::Word(word) if word == "auto" && gradients => 1,
            Value::Word(word) if word == "auto" => {
                if same {
                    outlook.inner_steps
                } else {
                    10
                }
            }
            _ => return refuse("train.inner_steps", "is neither a whole number nor \"auto\"".into()),
        };
        let planned = |value: u8, gradients_value: u8, local: u8| match (gradients, same) {
            (true, _) => gradients_value,
            (false, true) => value,
            (false, false) => local,
        };
        let sparsity = match &self.round.density {
            Value::Word(word) if word == "auto" => planned(outlook.sparsity, 0, 0),
            value => parse_density(value)?,
        };
        let bits = small(&self.round.bits, planned(outlook.bits, 8, 2), "round.bits")?;
        let delay = small(&self.round.delay, planned(outlook.delay, 0, 0), "round.delay")?;
        let per_micro_batch = u64::from(self.train.micro_batch).saturating_mul(u64::from(self.data.seq_len));
        let micro_batches = self.train.batch_tokens.checked_div(per_micro_batch).unwrap_or(0);
        let target_ms = (self.round.target_seconds * 1000.0).clamp(0.0, 1e9) as u64;
        let spec = Spec {
            name: self.run.name.clone(),
            seed: self.run.seed,
            access: self.access()?,
            config: resolved.config.clone(),
            params: resolved.params,
            init: resolved.init,
            manifest: resolved.manifest,
            seq_len: self.data.seq_len,
            micro_batch: self.train.micro_batch,
            micro_batches: u32::try_from(micro_batches).unwrap_or(u32::MAX),
            inner_steps,
            tokens,
            lr_nano: fixed("train.lr", self.train.lr, 1e9)?,
            schedule: self.train.schedule.clone(),
            warmup_tokens: (tokens as f64 * self.train.warmup.clamp(0.0, 1.0)) as u64,
            weight_decay_micro: fixed("train.weight_decay", self.train.weight_decay, 1e6)? as u32,
            clip_milli: fixed("train.clip", self.train.clip, 1e3)? as u32,
            mode,
            sparsity,
            bits,
            alpha_milli: fixed("round.alpha", self.round.alpha, 1e3)? as u32,
            beta_milli: if gradients { 1000 } else { 950 },
            delay,
            slots: self.round.slots,
            // A unit may take four times what is wished before it is cut; never under five seconds.
            train_window_ms: target_ms.saturating_mul(4).max(5_000),
            exchange_ms: (1_000.max(target_ms / 10), 10_000.max(target_ms.saturating_mul(2))),
            checkpoint_rounds: self.out.every_rounds,
            checkpoints_kept: self.out.keep,
            eval_tokens: self.out.eval_tokens,
        };
        spec.check()?;
        Ok(spec)
    }

    fn access(&self) -> Result<Access, SpecError> {
        match &self.run.access {
            AccessKey::Word(word) if word == "open" => Ok(Access::Open),
            AccessKey::Word(word) => refuse("run.access", format!("is `{word}`; it can be \"open\" or a list of keys")),
            AccessKey::List(keys) => {
                let parse = |key: &String| key.parse::<NodeId>();
                let keys: Result<Vec<_>, _> = keys.iter().map(parse).collect();
                keys.map(Access::Invited).or_else(|e| refuse("run.access", format!("has a key that is none: {e}")))
            }
        }
    }
}

fn refuse<T>(key: &'static str, why: String) -> Result<T, SpecError> {
    Err(SpecError { key, why })
}

fn parse_amount(word: &str) -> Result<u64, SpecError> {
    let (digits, unit) = match word.char_indices().last() {
        Some((at, 'k' | 'K')) => (&word[..at], 1e3),
        Some((at, 'M')) => (&word[..at], 1e6),
        Some((at, 'B')) => (&word[..at], 1e9),
        Some((at, 'T')) => (&word[..at], 1e12),
        _ => (word, 1.0),
    };
    match digits.trim().parse::<f64>() {
        Ok(n) if n > 0.0 && n * unit < 1e17 => Ok((n * unit) as u64),
        _ => refuse("train.tokens", format!("is `{word}`; write a number, 300k, 20M or 2B")),
    }
}

fn parse_density(value: &Value) -> Result<u8, SpecError> {
    let share = match value {
        Value::Int(n) => *n as f64,
        Value::Float(x) => *x,
        Value::Word(word) => match word.strip_prefix("1/").and_then(|n| n.trim().parse::<f64>().ok()) {
            Some(n) => 1.0 / n,
            None => 0.0,
        },
    };
    let known = [(1.0, 0), (0.25, 2), (0.0625, 4), (0.015_625, 6)];
    match known.iter().find(|(density, _)| *density == share) {
        Some((_, sparsity)) => Ok(*sparsity),
        None => refuse("round.density", "is not one of 1, 1/4, 1/16, 1/64, \"auto\"".into()),
    }
}

fn small(value: &Value, auto: u8, key: &'static str) -> Result<u8, SpecError> {
    match value {
        Value::Word(word) if word == "auto" => Ok(auto),
        Value::Int(n) if *n < 256 => Ok(*n as u8),
        _ => refuse(key, "is neither a small number nor \"auto\"".into()),
    }
}

fn fixed(key: &'static str, value: f64, unit: f64) -> Result<u64, SpecError> {
    let scaled = (value * unit).round();
    if (0.0..1e15).contains(&scaled) { Ok(scaled as u64) } else { refuse(key, format!("is {value}")) }
}

#[cfg(test)]
mod tests;
