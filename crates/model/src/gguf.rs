//! Models as one GGUF file, which llama.cpp and everything built on it loads.
//!
//! The format is that of ggml's `gguf.md`, version 3. llama.cpp rotates neighbouring pairs of a head where Hugging Face
//! rotates its halves, so the rows of q and k are put in another order.

use crate::checkpoint::{CheckpointError, ExportCard};
use crate::{Layout, ModelConfig, Part};
use half::f16;
use serde_json::Value;
use std::io::{BufWriter, Write};
use std::path::Path;

/// How the matrices are written. Norms are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// As they are.
    F32,
    /// Blocks of 32 numbers in 8 bits each, with a scale: a quarter of the size.
    Q8_0,
}

/// Of the format.
const VERSION: u32 = 3;
const ALIGN: usize = 32;
/// Numbers of a block in Q8_0.
const BLOCK: usize = 32;
/// What a model without a template of its own is given: it was trained on text, so it goes on from what was said.
const TEMPLATE: &str =
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}\n\n{% endif %}{% endfor %}";

impl GgufType {
    /// The type of a tensor with rows of `columns`: those that no blocks fit into stay as they are.
    fn of(self, matrix: bool, columns: usize) -> Self {
        if matrix && columns.is_multiple_of(BLOCK) { self } else { Self::F32 }
    }

    fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q8_0 => 8,
        }
    }

    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q8_0 => 7,
        }
    }

    fn bytes(self, n: usize) -> usize {
        match self {
            Self::F32 => 4 * n,
            Self::Q8_0 => n / BLOCK * (BLOCK + 2),
        }
    }

    fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => values.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
            Self::Q8_0 => values.chunks_exact(BLOCK).for_each(|block| {
                let highest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
                let scale = highest / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                out.extend_from_slice(&f16::from_f32(scale).to_le_bytes());
                out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
            }),
        }
    }
}

/// Writes the model `theta` (flat, layout of the whole) with its tokenizer (`tokenizer.json`: byte-level BPE with GPT-2's
/// way of splitting) into one file.
pub fn export_gguf(
    path: &Path,
    config: &ModelConfig,
    theta: &[f32],
    tokenizer_json: &[u8],
    end_token: u32,
    card: &ExportCard,
    kind: GgufType,
) -> Result<(), CheckpointError> {
    let layout = Layout::new(config, &Part::whole(config));
    assert_eq!(theta.len(), layout.len, "one value per parameter");
    let words = words(tokenizer_json, config.vocab_size)?;
    let mut header = Vec::new();
    let meta = meta(config, &words, end_token, card, kind);
    header.extend_from_slice(b"GGUF");
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(layout.params.len() as u64).to_le_bytes());
    header.extend_from_slice(&(meta.len() as u64).to_le_bytes());
    for (key, value) in &meta {
        text(&mut header, key);
        value.encode(&mut header);
    }
    let mut offset = 0;
    let mut tensors = Vec::new();
    for param in &layout.params {
        let columns = *param.shape.last().unwrap_or(&0);
        let kind = kind.of(param.is_matrix(), columns);
        text(&mut header, &name(&param.name));
        header.extend_from_slice(&(param.shape.len() as u32).to_le_bytes());
        // The innermost dimension comes first.
        param.shape.iter().rev().for_each(|n| header.extend_from_slice(&(*n as u64).to_le_bytes()));
        header.extend_from_slice(&kind.id().to_le_bytes());
        header.extend_from_slice(&(offset as u64).to_le_bytes());
        tensors.push((param, kind));
        offset += kind.bytes(param.len()).next_multiple_of(ALIGN);
    }
    header.resize(header.len().next_multiple_of(ALIGN), 0);
    let write = || -> std::io::Result<()> {
        // What is there of it is never a cut-off file under its name.
        let part = path.with_extension("gguf.part");
        let mut file = BufWriter::new(std::fs::File::create(&part)?);
        file.write_all(&header)?;
        for (param, kind) in &tensors {
            let mut values = theta[param.range()].to_vec();
            let heads = match param.name.rsplit('.').nth(1) {
                Some("q_proj") => Some(config.num_attention_heads),
                Some("k_proj") => Some(config.num_key_value_heads),
                _ => None,
            };
            if let Some(heads) = heads {
                values = interleave(&values, heads, config.head_dim, config.hidden_size);
            }
            let mut bytes = Vec::with_capacity(kind.bytes(values.len()) + ALIGN);
            kind.encode(&values, &mut bytes);
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            file.write_all(&bytes)?;
        }
        file.into_inner()?.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|source| CheckpointError::Io { path: path.to_owned(), source })
}

/// Rows of each head, from the two halves to neighbouring pairs.
fn interleave(values: &[f32], heads: usize, dim: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for d in 0..dim / 2 {
            for half in 0..2 {
                let row = head * dim + half * (dim / 2) + d;
                out.extend_from_slice(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

/// What llama.cpp calls a tensor.
fn name(ours: &str) -> String {
    let plain = ours.trim_end_matches(".weight");
    let short = |part: &str| match part {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        _ => "ffn_norm",
    };
    match plain.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        Some((block, part)) => format!("blk.{block}.{}.weight", short(part)),
        None => match plain {
            "model.embed_tokens" => "token_embd.weight".into(),
            "model.norm" => "output_norm.weight".into(),
            _ => "output.weight".into(),
        },
    }
}

/// The tokenizer as llama.cpp wants it.
struct Words {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    merges: Vec<String>,
}

/// Kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

fn words(json: &[u8], vocabulary: usize) -> Result<Words, CheckpointError> {
    let wrong = |why: &str| CheckpointError::Tokenizer(why.to_owned());
    let value: Value = serde_json::from_slice(json).map_err(|error| wrong(&error.to_string()))?;
    let splits = value.pointer("/pre_tokenizer/type") == Some(&Value::from("ByteLevel"))
        && value.pointer("/pre_tokenizer/use_regex") != Some(&Value::from(false))
        && value.pointer("/pre_tokenizer/add_prefix_space") != Some(&Value::from(true));
    if value.pointer("/model/type") != Some(&Value::from("BPE")) || !splits {
        return Err(wrong("only byte-level BPE with GPT-2's way of splitting can be written"));
    }
    let mut tokens: Vec<String> = (0..vocabulary).map(|i| format!("[unused {i}]")).collect();
    let mut kinds = vec![UNUSED; vocabulary];
    let mut put = |id: Option<u64>, token: &str, kind: i32| {
        let place = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < vocabulary);
        let place = place.ok_or_else(|| wrong("a token has no place in the model's vocabulary"))?;
        (tokens[place], kinds[place]) = (token.to_owned(), kind);
        Ok::<_, CheckpointError>(())
    };
    let known = value.pointer("/model/vocab").and_then(Value::as_object).ok_or_else(|| wrong("no vocabulary"))?;
    for (token, id) in known {
        put(id.as_u64(), token, NORMAL)?;
    }
    for added in value["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let kind = if added["special"] == true { CONTROL } else { NORMAL };
        put(added["id"].as_u64(), added["content"].as_str().unwrap_or_default(), kind)?;
    }
    let merges = value.pointer("/model/merges").and_then(Value::as_array).ok_or_else(|| wrong("no merges"))?;
    // Older files write a pair as one text.
    let merge = |pair: &Value| match pair {
        Value::String(text) => Some(text.clone()),
        Value::Array(two) => Some(format!("{} {}", two.first()?.as_str()?, two.get(1)?.as_str()?)),
        _ => None,
    };
    let merges = merges.iter().map(merge).collect::<Option<_>>().ok_or_else(|| wrong("a merge is not two texts"))?;
    Ok(Words { tokens, kinds, merges })
}

/// A value of the header.
enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<i32>),
}

impl Meta {
    fn encode(&self, out: &mut Vec<u8>) {
        let kind = |out: &mut Vec<u8>, id: u32| out.extend_from_slice(&id.to_le_bytes());
        match self {
            Self::U32(n) => {
                kind(out, 4);
                out.extend_from_slice(&n.to_le_bytes());
            }
            Self::F32(x) => {
                kind(out, 6);
                out.extend_from_slice(&x.to_le_bytes());
            }
            Self::Bool(yes) => {
                kind(out, 7);
                out.push(u8::from(*yes));
            }
            Self::Text(value) => {
                kind(out, 8);
                text(out, value);
            }
            Self::Texts(values) => {
                kind(out, 9);
                kind(out, 8);
                out.extend_from_slice(&(values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(out, value));
            }
            Self::Numbers(values) => {
                kind(out, 9);
                kind(out, 5);
                out.extend_from_slice(&(values.len() as u64).to_le_bytes());
                values.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            }
        }
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
}

fn meta(config: &ModelConfig, words: &Words, end: u32, card: &ExportCard, kind: GgufType) -> Vec<(String, Meta)> {
    let number = |n: usize| Meta::U32(n as u32);
    let say = |value: &str| Meta::Text(value.to_owned());
    let entries = [
        ("general.architecture", say("llama")),
        ("general.name", say(&card.name)),
        (
            "general.description",
            say(&format!("trained together by a talkoo swarm on {}; root {}", card.data, card.root)),
        ),
        ("general.alignment", number(ALIGN)),
        ("general.quantization_version", Meta::U32(2)),
        ("general.file_type", Meta::U32(kind.file_type())),
        ("llama.vocab_size", number(config.vocab_size)),
        ("llama.context_length", number(config.max_position_embeddings)),
        ("llama.embedding_length", number(config.hidden_size)),
        ("llama.block_count", number(config.num_hidden_layers)),
        ("llama.feed_forward_length", number(config.intermediate_size)),
        ("llama.attention.head_count", number(config.num_attention_heads)),
        ("llama.attention.head_count_kv", number(config.num_key_value_heads)),
        ("llama.attention.key_length", number(config.head_dim)),
        ("llama.attention.value_length", number(config.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(config.rms_norm_eps)),
        ("llama.rope.dimension_count", number(config.head_dim)),
        ("llama.rope.freq_base", Meta::F32(config.rope_theta)),
        ("tokenizer.ggml.model", say("gpt2")),
        ("tokenizer.ggml.pre", say("gpt-2")),
        ("tokenizer.ggml.tokens", Meta::Texts(words.tokens.clone())),
        ("tokenizer.ggml.token_type", Meta::Numbers(words.kinds.clone())),
        ("tokenizer.ggml.merges", Meta::Texts(words.merges.clone())),
        // Without them llama.cpp takes GPT-2's own numbers.
        ("tokenizer.ggml.bos_token_id", Meta::U32(end)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(end)),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(false)),
        ("tokenizer.chat_template", say(TEMPLATE)),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_halves_become_rows_of_pairs() {
        // Two heads of four rows, one column: the row is its value.
        let rows: Vec<f32> = (0..8).map(|i| i as f32).collect();
        assert_eq!(interleave(&rows, 2, 4, 1), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }

    #[test]
    fn eight_bits_keep_a_number_to_a_part_of_the_greatest() {
        let values: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) / 7.0).collect();
        let mut bytes = Vec::new();
        GgufType::Q8_0.encode(&values, &mut bytes);
        assert_eq!(bytes.len(), GgufType::Q8_0.bytes(64));
        for (block, back) in values.chunks(BLOCK).zip(bytes.chunks(BLOCK + 2)) {
            let scale = f16::from_le_bytes([back[0], back[1]]).to_f32();
            for (value, byte) in block.iter().zip(&back[2..]) {
                assert!((value - scale * f32::from(*byte as i8)).abs() <= scale * 0.51 + value.abs() * 1e-3);
            }
        }
    }

    #[test]
    fn another_kind_of_tokenizer_is_refused() {
        for json in [
            "",
            "{}",
            r#"{"model":{"type":"Unigram"}}"#,
            r#"{"pre_tokenizer":{"type":"ByteLevel"},"model":{"type":"BPE"}}"#,
        ] {
            assert!(words(json.as_bytes(), 10).is_err(), "{json}");
        }
    }
}
