//! Loading a model: what it is, and whether there is room for it.

use crate::template::Template;
use base::Hash;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use thiserror::Error;

/// How a model is served.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The GGUF file.
    pub path: PathBuf,
    /// What its content has to be; none: whatever it is.
    pub hash: Option<Hash>,
    /// Threads that compute.
    pub threads: usize,
    /// Answers at a time.
    pub slots: usize,
    /// Tokens of a prompt and its answer together; 0 = as many as the model was trained with, at most 8,192.
    pub context: usize,
    /// Bytes of memory that the model and its caches may take, where so many are free; 0 = what is free.
    pub memory: u64,
    /// Bytes of a graphics device that they may take: layers beyond it stay with the processor; 0 = all are put there.
    pub vram: u64,
}

/// Why a model is not served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// It is no model.
    #[error("{0} is no GGUF model, or damaged")]
    NotGguf(PathBuf),
    /// It is another content than it should be.
    #[error("{0} has changed since it came: `talkoo model rm` it and fetch it again")]
    Changed(PathBuf),
    /// llama.cpp does not take it.
    #[error("{0} cannot be served: {1}")]
    Unknown(PathBuf, String),
    /// There is no room.
    #[error(
        "the model needs {need_mb} MB ({slots} answers at a time, {context} tokens each), {have_mb} MB are free: serve fewer at a \
         time, a shorter context, or a smaller model"
    )]
    Memory {
        /// What it takes.
        need_mb: u64,
        /// What there is.
        have_mb: u64,
        /// Answers at a time.
        slots: usize,
        /// Tokens of each.
        context: usize,
    },
}

/// What is served.
#[derive(Debug)]
pub struct ModelInfo {
    /// The file's name without its ending.
    pub name: String,
    /// Hash of the whole file: names the model among peers.
    pub hash: Hash,
    /// Bytes of the file.
    pub bytes: u64,
    /// Parameters.
    pub parameters: u64,
    /// Tokens of a prompt and its answer together.
    pub context: usize,
    /// Answers at a time.
    pub slots: usize,
    /// Its chat template, if it has one.
    pub template: Option<Template>,
    /// Whether texts begin with a token of their own.
    pub adds_bos: bool,
    /// Whether it was published as an embedding model.
    pub embeds: bool,
    /// Memory that it takes, as counted before it was loaded.
    pub memory: u64,
    /// Type of most weights, as GGUF files are called by.
    pub quantisation: String,
    /// Whether an answer is the same to the bit whatever the threads, the neighbours and the pieces in which its question was
    /// read. Not so for weights whose sums llama.cpp takes otherwise for one token than for many.
    pub exact: bool,
    /// Hash of the template's source; of nothing where there is none.
    pub template_hash: Hash,
    /// Hash of all tokens' bytes in order.
    pub vocabulary_hash: Hash,
}

/// The type of weights of which it was measured that sums over one token and over many are the same to the bit. A file
/// is called by what most of its weights are: those of `Q4_0` and `Q4_1` have an output matrix in `Q6_K`, which no test
/// here measures.
const EXACT: &str = "Q8_0";
/// The graph of which that was measured, without experts. A build for graphics devices gives them large sums also where no
/// layer is on them, and nobody compared these.
const EXACT_GRAPH: &str = "llama";
/// A model takes this much beside its weights and its cache.
const WORKING: u64 = 96 << 20;
/// The longest context where none was asked for: a longer one costs memory that few answers need.
const CONTEXT: usize = 8192;
const EMBEDDED: usize = 2048;

/// llama.cpp's own beginning, once in a process: for who calls it beside an [`Engine`](crate::Engine).
///
/// # Panics
/// When somebody else began it.
pub fn backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default().with_logs_enabled(true));
        LlamaBackend::init().expect("nobody else began it")
    })
}

pub(crate) fn load(config: &EngineConfig) -> Result<(Arc<LlamaModel>, ModelInfo), LoadError> {
    let path = &config.path;
    let (hash, bytes) = hash_of(path)?;
    if config.hash.is_some_and(|expected| expected != hash) {
        return Err(LoadError::Changed(path.clone()));
    }
    let unknown = |why: &str| LoadError::Unknown(path.clone(), why.to_owned());
    let params = match config.vram {
        0 => LlamaModelParams::default(),
        vram => LlamaModelParams::default().with_n_gpu_layers(on_device(config, bytes, vram)),
    };
    let model = LlamaModel::load_from_file(backend(), path, &params);
    let model = Arc::new(model.map_err(|error| unknown(&error.to_string()))?);
    if model.n_vocab() <= 0 {
        return Err(unknown("it has no vocabulary"));
    }
    // The name of a model is the hash of its file: words of a file that nobody hashed would be signed with it.
    if let Some(parts) = model.meta_val_str("split.count").ok().filter(|parts| parts != "1" && parts != "0") {
        let merge = "merge them with `llama-gguf-split --merge` and serve that";
        return Err(unknown(&format!("it is one of {parts} files, and only a model in one file has a name: {merge}")));
    }
    let embeds = embeds(&model);
    let context = context(config, model.n_ctx_train() as usize, embeds);
    let head = number(&model, "attention.key_length");
    let head = head.unwrap_or(model.n_embd() as u64 / u64::from(model.n_head()).max(1));
    let cache = cache(u64::from(model.n_head_kv()), head, context, config.slots);
    let caches = cache.saturating_mul(u64::from(model.n_layer()));
    let rows = (crate::plan::ECHO_ROWS + config.slots) as u64 * model.n_vocab() as u64 * 4;
    let memory = bytes.saturating_add(caches).saturating_add(WORKING).saturating_add(rows);
    let allowed = if config.memory > 0 { config.memory } else { u64::MAX };
    let have = free_memory().unwrap_or(u64::MAX).min(allowed);
    if memory > have {
        let (need_mb, have_mb) = (memory >> 20, have >> 20);
        return Err(LoadError::Memory { need_mb, have_mb, slots: config.slots, context });
    }
    let vocabulary = model.vocab();
    let text = |token: llama_cpp_2::token::LlamaToken| {
        if token.0 < 0 {
            String::new()
        } else {
            String::from_utf8_lossy(&crate::tokens::piece(&model, token)).into_owned()
        }
    };
    let source = model.meta_val_str("tokenizer.chat_template").ok();
    let template_hash = Hash::of("talkoo 2026 template v1", source.as_deref().unwrap_or_default().as_bytes());
    let template = source.map(|source| Template::new(&source, &text(vocabulary.bos()), &text(vocabulary.eos())));
    let template = template.transpose().map_err(|error| unknown(&error.to_string()))?;
    let quantisation = quantisation(model.meta_val_str("general.file_type").ok().as_deref());
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let dense = number(&model, "expert_count").unwrap_or_default() == 0;
    let name = path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let info = ModelInfo {
        name,
        hash,
        bytes,
        parameters: model.n_params(),
        context,
        slots: config.slots,
        template,
        adds_bos: vocabulary.should_add_bos(),
        embeds,
        memory,
        exact: !crate::ON_GRAPHICS && dense && is_measured(&architecture, &quantisation),
        quantisation,
        template_hash,
        vocabulary_hash: vocabulary_hash(&model),
    };
    Ok((model, info))
}

/// Whether tests hold one such model's answers against each other, to the last bit.
fn is_measured(architecture: &str, quantisation: &str) -> bool {
    architecture == EXACT_GRAPH && quantisation == EXACT
}

/// Whether a model was published for embeddings.
fn embeds(model: &LlamaModel) -> bool {
    number(model, "pooling_type").is_some_and(|kind| kind > 0)
}

/// Tokens of one answer, for a model that was trained with so many.
fn context(config: &EngineConfig, trained: usize, embeds: bool) -> usize {
    match config.context {
        // A text that is embedded is read in one pass, whose memory grows with it.
        0 if embeds => trained.min(EMBEDDED),
        0 => trained.min(CONTEXT),
        asked => asked.min(trained),
    }
}

/// Bytes of a layer's cache: keys and values in 16 bits.
fn cache(heads: u64, head: u64, context: usize, slots: usize) -> u64 {
    [heads, head, context as u64, slots as u64, 2 * 2].into_iter().fold(1, u64::saturating_mul)
}

/// A number that the file says of its model.
fn number(model: &LlamaModel, key: &str) -> Option<u64> {
    let architecture = model.meta_val_str("general.architecture").ok()?;
    model.meta_val_str(&format!("{architecture}.{key}")).ok()?.parse().ok()
}

/// Layers of a model, with their part of the caches, for which there are `vram` bytes on a graphics device; none where the
/// file does not say what they take.
fn on_device(config: &EngineConfig, bytes: u64, vram: u64) -> u32 {
    let params = LlamaModelParams::default().with_vocab_only(true);
    let Ok(model) = LlamaModel::load_from_file(backend(), &config.path, &params) else { return 0 };
    let number = |key: &str| number(&model, key);
    let sizes = || {
        let heads = number("attention.head_count")?;
        let head = number("attention.key_length").or(number("embedding_length")?.checked_div(heads))?;
        let trained = usize::try_from(number("context_length")?).ok()?;
        let kept = number("attention.head_count_kv").unwrap_or(heads);
        Some((number("block_count")?, cache(kept, head, context(config, trained, embeds(&model)), config.slots)))
    };
    let Some((layers, cache)) = sizes() else { return 0 };
    fitting(layers, bytes, cache, vram)
}

/// How many layers fit, each with its `cache`, into `vram` bytes: what stands before and after the layers counts with each of
/// them, so rather too few.
fn fitting(layers: u64, bytes: u64, cache: u64, vram: u64) -> u32 {
    let each = (bytes / layers.max(1)).saturating_add(cache).max(1);
    // The output counts as one more.
    u32::try_from((vram.saturating_sub(WORKING) / each).min(layers.saturating_add(1))).unwrap_or(u32::MAX)
}

fn vocabulary_hash(model: &LlamaModel) -> Hash {
    let mut bytes = Vec::new();
    for id in 0..model.n_vocab() {
        let piece = crate::tokens::piece(model, llama_cpp_2::token::LlamaToken(id));
        bytes.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&piece);
    }
    Hash::of("talkoo 2026 vocabulary v1", &bytes)
}

/// The usual name of a GGUF file type, by llama.cpp's numbers.
fn quantisation(file_type: Option<&str>) -> String {
    let known = [
        (0, "F32"),
        (1, "F16"),
        (2, "Q4_0"),
        (3, "Q4_1"),
        (7, "Q8_0"),
        (8, "Q5_0"),
        (9, "Q5_1"),
        (10, "Q2_K"),
        (11, "Q3_K_S"),
        (12, "Q3_K_M"),
        (13, "Q3_K_L"),
        (14, "Q4_K_S"),
        (15, "Q4_K_M"),
        (16, "Q5_K_S"),
        (17, "Q5_K_M"),
        (18, "Q6_K"),
        (32, "BF16"),
    ];
    let number = file_type.and_then(|text| text.parse::<u32>().ok());
    let name = known.iter().find(|(n, _)| Some(*n) == number).map(|(_, name)| (*name).to_owned());
    name.or(number.map(|n| format!("type {n}"))).unwrap_or_else(|| "unknown".into())
}

/// Hash and length of a file, which has to begin like a model.
fn hash_of(path: &Path) -> Result<(Hash, u64), LoadError> {
    let failed = |error| LoadError::File(path.to_owned(), error);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut magic = [0; 4];
    if file.read_exact(&mut magic).is_err() || magic != *b"GGUF" {
        return Err(LoadError::NotGguf(path.to_owned()));
    }
    file.rewind().map_err(failed)?;
    let tree = base::ChunkTree::read(&mut file).map_err(failed)?;
    Ok((tree.root(), tree.len))
}

/// Bytes that programs can still have, as the system says.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_that_no_test_measures_is_in_no_class() {
        assert!(is_measured("llama", "Q8_0"));
        for other in [("qwen2", "Q8_0"), ("deepseek2", "Q8_0"), ("", "Q8_0"), ("llama", "Q4_K_M")] {
            assert!(!is_measured(other.0, other.1), "{other:?}");
        }
    }

    #[test]
    fn layers_that_fit() {
        let check = |vram_mb: u64, expect: u32| assert_eq!(fitting(32, 3200 << 20, 28 << 20, vram_mb << 20), expect);
        // 128 MB each, and 96 MB for passes.
        check(0, 0);
        check(223, 0);
        check(224, 1);
        check(96 + 16 * 128, 16);
        check(96 + 33 * 128, 33);
        check(24_000, 33);
        assert_eq!(fitting(0, 0, 0, u64::MAX), 1);
        assert_eq!(fitting(u64::MAX - 1, u64::MAX, u64::MAX, u64::MAX), 0);
    }
}
