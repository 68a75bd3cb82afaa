//! Models as folders that every tool loads: `safetensors`, `config.json`, tokenizer, model card.

use crate::{ConfigError, Device, Layout, ModelConfig, Part, Trainer};
use safetensors::tensor::{SafeTensorError, TensorView};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What the model card says.
#[derive(Debug, Clone, Default)]
pub struct ExportCard {
    /// Name of the run.
    pub name: String,
    /// Name and licence of the data.
    pub data: String,
    /// Root of the data manifest.
    pub manifest: String,
    /// Tokens applied.
    pub tokens: u64,
    /// Rounds closed.
    pub rounds: u64,
    /// Members that contributed.
    pub members: u64,
    /// Held-out bits per byte, where measured.
    pub bits_per_byte: Option<f64>,
    /// Root of the weights on the log.
    pub root: String,
}

/// Why a model was not written or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration is refused.
    #[error(transparent)]
    ModelConfig(#[from] ConfigError),
    /// Not a safetensors file.
    #[error("safetensors: {0}")]
    Format(#[from] SafeTensorError),
    /// A tensor is missing, superfluous, or of another shape or type.
    #[error("tensor `{name}`: {why}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The tokenizer cannot be written into this format.
    #[error("the tokenizer: {0}")]
    Tokenizer(String),
    /// The index of a sharded model is none.
    #[error("model.safetensors.index.json: {0}")]
    Index(String),
}

/// Writes the model `theta` (flat, layout of the whole) into the folder `dir`: `model.safetensors`,
/// `config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json`, `README.md`.
pub fn export(
    dir: &Path,
    config: &ModelConfig,
    theta: &[f32],
    tokenizer_json: &[u8],
    end_token: (u32, &str),
    card: &ExportCard,
) -> Result<(), CheckpointError> {
    let layout = Layout::new(config, &Part::whole(config));
    assert_eq!(theta.len(), layout.len, "one value per parameter");
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let bytes: Vec<u8> = theta.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut views = Vec::with_capacity(layout.params.len());
    for param in &layout.params {
        let range = param.range();
        let data = &bytes[4 * range.start..4 * range.end];
        views.push((param.name.clone(), TensorView::new(Dtype::F32, param.shape.clone(), data)?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata))?;
    let (end_id, end_text) = end_token;
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_position_embeddings,
        "bos_token": end_text,
        "eos_token": end_text,
        "clean_up_tokenization_spaces": false,
    });
    let generation = json!({ "bos_token_id": end_id, "eos_token_id": end_id, "do_sample": true });
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(io(&path))
    };
    write("config.json", &config.to_json(end_id))?;
    write("generation_config.json", generation.to_string().as_bytes())?;
    write("tokenizer.json", tokenizer_json)?;
    write("tokenizer_config.json", tokenizer_config.to_string().as_bytes())?;
    write("README.md", card_text(card).as_bytes())?;
    write("model.safetensors", &file)
}

/// Writes `check.safetensors` beside an exported model: two rows of token ids and our logits for
/// them, for `fixtures/check_export.py` to compare with those of another implementation.
pub fn export_check(dir: &Path, config: &ModelConfig, theta: &[f32]) -> Result<(), CheckpointError> {
    let (rows, columns) = (2, config.max_position_embeddings.min(32));
    let ids: Vec<u32> = (0..rows * columns).map(|i| (i * 7919 % config.vocab_size) as u32).collect();
    let mut trainer = Trainer::new(config, &Device::Host);
    trainer.set(theta);
    let logits: Vec<u8> = trainer.logits(&ids, rows).iter().flat_map(|x| x.to_le_bytes()).collect();
    let ids: Vec<u8> = ids.iter().flat_map(|id| (*id as i32).to_le_bytes()).collect();
    let views = [
        ("ids", TensorView::new(Dtype::I32, vec![rows, columns], &ids)?),
        ("logits", TensorView::new(Dtype::F32, vec![rows, columns, config.vocab_size], &logits)?),
    ];
    let path = dir.join("check.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None)?).map_err(io(&path))
}

/// Reads a Hugging Face Llama folder, in one file or sharded: its configuration and flat weights.
pub fn load(dir: &Path) -> Result<(ModelConfig, Vec<f32>), CheckpointError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(io(&path))
    };
    let mut config = ModelConfig::from_json(&read("config.json")?)?;
    let files = files(dir)?;
    let mut found: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for name in files {
        let bytes = read(&name)?;
        for (name, view) in SafeTensors::deserialize(&bytes)?.tensors() {
            let values = floats(&name, &view)?;
            found.insert(name, (view.shape().to_vec(), values));
        }
    }
    // Some files tie by leaving the head out without saying so.
    if !found.contains_key("lm_head.weight") {
        config.tie_word_embeddings = true;
    }
    let layout = Layout::new(&config, &Part::whole(&config));
    let mut theta = vec![0.0; layout.len];
    for param in &layout.params {
        let refuse = |why: String| CheckpointError::Tensor { name: param.name.clone(), why };
        let (shape, values) = found.remove(&param.name).ok_or_else(|| refuse("is missing".into()))?;
        if shape != param.shape {
            return Err(refuse(format!("has shape {shape:?}, not {:?}", param.shape)));
        }
        theta[param.range()].copy_from_slice(&values);
    }
    found.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
    if config.tie_word_embeddings {
        found.remove("lm_head.weight");
    }
    match found.into_keys().next() {
        Some(name) => Err(CheckpointError::Tensor { name, why: "is not of this architecture".into() }),
        None => Ok((config, theta)),
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> CheckpointError + '_ {
    |source| CheckpointError::Io { path: path.to_owned(), source }
}

/// Names of the weight files. An index may only name files of its own folder.
fn files(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let path = dir.join("model.safetensors.index.json");
    if !path.exists() {
        return Ok(vec!["model.safetensors".into()]);
    }
    let bytes = std::fs::read(&path).map_err(io(&path))?;
    let refuse = |why: &str| CheckpointError::Index(why.to_owned());
    let index: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| refuse(&e.to_string()))?;
    let map = index.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| refuse("no weight_map"))?;
    let mut names = std::collections::BTreeSet::new();
    for name in map.values() {
        let name = name.as_str().ok_or_else(|| refuse("a file name is not a string"))?;
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(refuse("a file name leaves the folder"));
        }
        names.insert(name.to_owned());
    }
    Ok(names.into_iter().collect())
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, CheckpointError> {
    let halves = |f: fn(u16) -> f32| -> Vec<f32> {
        view.data().chunks_exact(2).map(|b| f(u16::from_le_bytes([b[0], b[1]]))).collect()
    };
    let values = match view.dtype() {
        Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::BF16 => halves(|b| half::bf16::from_bits(b).to_f32()),
        Dtype::F16 => halves(|b| half::f16::from_bits(b).to_f32()),
        other => return Err(CheckpointError::Tensor { name: name.into(), why: format!("has type {other:?}") }),
    };
    if values.iter().all(|x: &f32| x.is_finite()) {
        Ok(values)
    } else {
        Err(CheckpointError::Tensor { name: name.into(), why: "holds a value that is not finite".into() })
    }
}

fn card_text(card: &ExportCard) -> String {
    let loss = card.bits_per_byte.map_or("not measured".into(), |b| format!("{b:.4} bits per byte"));
    format!(
        "# {}\n\nTrained together by a talkoo swarm.\n\n| | |\n|---|---|\n| data | {} |\n| manifest | `{}` |\n\
         | tokens | {} |\n| rounds | {} |\n| members that contributed | {} |\n| held-out loss | {loss} |\n\
         | root of the weights on the log | `{}` |\n",
        card.name, card.data, card.manifest, card.tokens, card.rounds, card.members, card.root
    )
}
