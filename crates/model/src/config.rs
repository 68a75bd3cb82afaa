//! The shape of a model: Hugging Face `LlamaForCausalLM`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names of the presets, smallest first: one dial instead of seven.
pub const SIZES: [&str; 5] = ["nano", "tiny", "small", "base", "large"];

/// Updates write a position in a tensor as u32.
const TENSOR_MAX: u64 = 1 << 32;

/// Shape of a Llama model, with the field names of Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// V.
    pub vocab_size: usize,
    /// C.
    pub hidden_size: usize,
    /// F.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// H.
    pub num_attention_heads: usize,
    /// K; H is a multiple of it.
    #[serde(default)]
    pub num_key_value_heads: usize,
    /// D; C / H where absent.
    #[serde(default)]
    pub head_dim: usize,
    /// Base of the rotary angles.
    #[serde(default = "rope_theta")]
    pub rope_theta: f32,
    /// ε of the norms.
    #[serde(default = "rms_norm_eps")]
    pub rms_norm_eps: f32,
    /// Whether the head is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Longest sequence.
    #[serde(default = "max_positions")]
    pub max_position_embeddings: usize,
}

fn rope_theta() -> f32 {
    10_000.0
}
fn rms_norm_eps() -> f32 {
    1e-5
}
fn max_positions() -> usize {
    2048
}

/// Why a shape is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not the JSON of a configuration.
    #[error("config.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A size that is not known.
    #[error("unknown size `{size}`; one of {}", SIZES.join(", "))]
    UnknownSize {
        /// What was asked for.
        size: String,
    },
    /// Another architecture or a setting that is not built.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// Longer sequences than the model was made for.
    #[error("sequences of {seq_len} tokens are longer than max_position_embeddings, {most}: make `seq_len` smaller")]
    TooLong {
        /// T.
        seq_len: usize,
        /// The longest.
        most: usize,
    },
    /// Values that contradict each other.
    #[error("impossible: {0}")]
    Impossible(&'static str),
}

impl ModelConfig {
    /// A preset for a vocabulary. Widths are multiples of 128, so that quantised exports need no padding.
    pub fn preset(size: &str, vocab_size: usize, max_position_embeddings: usize) -> Result<Self, ConfigError> {
        // C, F, blocks, H, K, tied
        let (c, f, blocks, heads, kv, tied) = match size {
            "nano" => (64, 128, 2, 2, 2, true),
            "tiny" => (128, 384, 4, 4, 4, true),
            "small" => (512, 1408, 4, 8, 8, true),
            "base" => (768, 2048, 12, 12, 12, true),
            "large" => (2048, 5632, 22, 32, 4, false),
            other => return Err(ConfigError::UnknownSize { size: other.into() }),
        };
        let config = Self {
            vocab_size,
            hidden_size: c,
            intermediate_size: f,
            num_hidden_layers: blocks,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            head_dim: c / heads,
            rope_theta: rope_theta(),
            rms_norm_eps: rms_norm_eps(),
            tie_word_embeddings: tied,
            max_position_embeddings,
        };
        config.check()?;
        Ok(config)
    }

    /// Reads a Hugging Face `config.json` and refuses what these stages would compute wrongly.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let value: serde_json::Value = serde_json::from_slice(json)?;
        refuse_unsupported(&value)?;
        let mut config: Self = serde_json::from_value(value.clone())?;
        if config.num_key_value_heads == 0 {
            config.num_key_value_heads = config.num_attention_heads;
        }
        if config.head_dim == 0 {
            config.head_dim = config.hidden_size / config.num_attention_heads.max(1);
        }
        if let Some(theta) = value.pointer("/rope_parameters/rope_theta").and_then(serde_json::Value::as_f64) {
            config.rope_theta = theta as f32;
        }
        config.check()?;
        Ok(config)
    }

    /// Writes a Hugging Face `config.json`, with the rotary base in both places where versions look for it.
    pub fn to_json(&self, end_token: u32) -> Vec<u8> {
        let mut value = serde_json::to_value(self).expect("a configuration is plain data");
        let more = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "use_cache": true,
            "dtype": "float32",
            "torch_dtype": "float32",
            "rope_scaling": null,
            "rope_parameters": { "rope_type": "default", "rope_theta": self.rope_theta },
            "bos_token_id": end_token,
            "eos_token_id": end_token,
        });
        for (key, entry) in more.as_object().expect("an object") {
            value[key] = entry.clone();
        }
        serde_json::to_vec_pretty(&value).expect("plain data")
    }

    /// Memory that one step of training takes beside the weights, in bytes: what the forward pass keeps for the backward pass of
    /// `rows` windows of `seq_len` tokens, one block's own work, the logits and their gradient. On other devices than the
    /// processor attention keeps its scores, too; that is counted always.
    pub fn step_bytes(&self, rows: u64, seq_len: u64) -> u64 {
        let n = |size: usize| size as u64;
        let (c, f, heads) = (n(self.hidden_size), n(self.intermediate_size), n(self.num_attention_heads));
        let (wide, narrow) = (heads * n(self.head_dim), n(self.num_key_value_heads) * n(self.head_dim));
        let block = 2 * c + 2 * wide + 2 * narrow + 2 * f + heads + 2;
        let work = 3 * c + 3 * f + 2 * wide + 2 * narrow;
        let token = n(self.num_hidden_layers).saturating_mul(block + heads.saturating_mul(seq_len));
        let token = token.saturating_add(work + 2 * n(self.vocab_size));
        rows.saturating_mul(seq_len).saturating_mul(token).saturating_mul(4)
    }

    /// Checks that the values fit each other and stay inside what is addressable.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |why| Err(ConfigError::Impossible(why));
        let sizes = [self.vocab_size, self.hidden_size, self.intermediate_size, self.num_hidden_layers];
        if sizes.contains(&0) || self.num_attention_heads == 0 || self.num_key_value_heads == 0 || self.head_dim == 0 {
            return refuse("a size is zero");
        }
        if sizes.iter().any(|&n| n > 1 << 20) || self.head_dim > 1 << 12 || self.num_attention_heads > 1 << 12 {
            return refuse("a size is absurd");
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return refuse("num_attention_heads is not a multiple of num_key_value_heads");
        }
        if !self.head_dim.is_multiple_of(2) {
            return refuse("head_dim is odd");
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0 && self.rms_norm_eps > 0.0) {
            return refuse("rope_theta or rms_norm_eps");
        }
        let rows = [self.vocab_size, self.intermediate_size, self.num_attention_heads * self.head_dim];
        if rows.iter().any(|&rows| rows as u64 * self.hidden_size as u64 > TENSOR_MAX) {
            return refuse("a tensor has more than 2^32 values");
        }
        Ok(())
    }

    /// Checks that sequences of this length are such as the model was made for.
    pub fn check_length(&self, seq_len: usize) -> Result<(), ConfigError> {
        let most = self.max_position_embeddings;
        if seq_len > most { Err(ConfigError::TooLong { seq_len, most }) } else { Ok(()) }
    }

    /// Reference work per token in training: 6 × the matrix parameters that a token meets (no input
    /// embedding) + causal attention at length `seq_len`, forward and backward.
    pub fn flops_per_token(&self, seq_len: usize) -> u64 {
        let (c, f) = (self.hidden_size as u64, self.intermediate_size as u64);
        let (q, kv) =
            ((self.num_attention_heads * self.head_dim) as u64, (self.num_key_value_heads * self.head_dim) as u64);
        let block = c * (2 * q + 2 * kv) + 3 * c * f;
        let matmul = self.num_hidden_layers as u64 * block + c * self.vocab_size as u64;
        6 * matmul + 6 * self.num_hidden_layers as u64 * q * seq_len as u64
    }
}

fn refuse_unsupported(value: &serde_json::Value) -> Result<(), ConfigError> {
    let text = |key: &str| value.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
    let refuse = |what: String| Err(ConfigError::Unsupported(what));
    if let Some(kind) = text("model_type")
        && kind != "llama"
    {
        return refuse(format!("model_type `{kind}` (only llama)"));
    }
    if let Some(act) = text("hidden_act")
        && act != "silu"
    {
        return refuse(format!("hidden_act `{act}` (only silu)"));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if value.get(key).and_then(serde_json::Value::as_bool) == Some(true) {
            return refuse(key.into());
        }
    }
    let scaling = value.get("rope_scaling").filter(|v| !v.is_null());
    let kind = value.pointer("/rope_parameters/rope_type").and_then(serde_json::Value::as_str);
    if scaling.is_some() || kind.is_some_and(|kind| kind != "default") {
        return refuse("scaled rotary positions".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_survives_config_json() {
        for size in SIZES {
            let config = ModelConfig::preset(size, 2048, 512).expect(size);
            assert_eq!(ModelConfig::from_json(&config.to_json(0)).expect(size), config);
        }
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        let base = ModelConfig::preset("nano", 64, 64).expect("nano").to_json(0);
        let spoil = |key: &str, entry: serde_json::Value| {
            let mut value: serde_json::Value = serde_json::from_slice(&base).expect("json");
            value[key] = entry;
            ModelConfig::from_json(value.to_string().as_bytes())
        };
        assert!(spoil("model_type", "mistral".into()).is_err());
        assert!(spoil("attention_bias", true.into()).is_err());
        assert!(spoil("rope_scaling", serde_json::json!({"factor": 2.0})).is_err());
        assert!(spoil("hidden_size", 0.into()).is_err());
        assert!(spoil("num_key_value_heads", 3.into()).is_err());
        assert!(spoil("vocab_size", "many".into()).is_err());
        // Above 2^32 values positions in an update would be cut.
        let nano = ModelConfig::preset("nano", 64, 64).expect("nano");
        let large = |vocab_size| ModelConfig { vocab_size, hidden_size: 1 << 14, ..nano.clone() };
        assert!(large(1 << 18).check().is_ok());
        assert!(large((1 << 18) + 1).check().is_err());
    }

    #[test]
    fn sequences_longer_than_the_model_was_made_for_are_refused() {
        let config = ModelConfig::preset("nano", 64, 64).expect("nano");
        assert!(config.check_length(64).is_ok());
        assert!(config.check_length(65).expect_err("too long").to_string().contains("65"));
    }
}
