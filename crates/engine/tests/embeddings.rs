//! A model that was published for embeddings.

use engine::{Client, Engine, EngineConfig, Job, Refusal, SamplingParams};
use model::{ExportCard, GgufType, Layout, ModelConfig, Part};
use std::path::Path;

/// Writes a model of random weights that says of itself that its vectors are the mean over all tokens.
fn published(path: &Path) {
    let config = ModelConfig::preset("nano", 2048, 128).expect("a size");
    let theta = model::init(&Layout::new(&config, &Part::whole(&config)), config.num_hidden_layers, 5);
    let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
    model::export_gguf(path, &config, &theta, &tokenizer, 0, &ExportCard::default(), GgufType::Q8_0).expect("written");
    let mut bytes = std::fs::read(path).expect("there");
    // Behind magic, version and two counts, the second of which counts what is said of the model. Whole 32 bytes are put in,
    // so that everything behind stays aligned.
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut more = [text("llama.pooling_type"), [4u32.to_le_bytes(), 1u32.to_le_bytes()].concat()].concat();
    let filling = 32 - (more.len() + text("filling").len() + 4 + 8) % 32;
    more.extend([text("filling"), 8u32.to_le_bytes().to_vec(), text(&" ".repeat(filling))].concat());
    let count = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
    bytes[16..24].copy_from_slice(&(count + 2).to_le_bytes());
    bytes.splice(24..24, more);
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn texts_become_vectors() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("vectors.gguf");
    published(&path);
    let config = EngineConfig { path, hash: None, threads: 1, slots: 2, context: 0, memory: 0, vram: 0 };
    let engine = Engine::load(config).expect("served");
    assert!(engine.info().embeds);
    let tokens = engine.tokenize_text("The neighbours meet by the river").expect("tokens");
    let one = engine.embed(tokens.clone()).await.expect("a vector");
    let length: f32 = one.iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-4, "{length}");
    // The same text the same vector, whatever was embedded between; another text another one.
    let other = engine.embed(engine.tokenize_text("Nobody owns the network").expect("tokens")).await.expect("a vector");
    assert_eq!(engine.embed(tokens.clone()).await.expect("a vector"), one);
    let near: f32 = one.iter().zip(&other).map(|(a, b)| a * b).sum();
    assert!(near < 0.999, "{near}");
    // It is not the vector of its last token alone.
    let last = engine.embed(tokens[tokens.len() - 1..].to_vec()).await.expect("a vector");
    let near: f32 = one.iter().zip(&last).map(|(a, b)| a * b).sum();
    assert!(near < 0.999, "{near}");
    assert_eq!(engine.embed(vec![]).await, Err(Refusal::Empty));
    assert_eq!(engine.embed(vec![5; 129]).await, Err(Refusal::TooLong(129, 128)));
    assert_eq!(engine.embed(vec![1 << 20]).await, Err(Refusal::Token(1 << 20)));
    // It writes nothing.
    let job = Job {
        client: Client([1; 32]),
        own: true,
        prompt: tokens,
        written: vec![],
        max_tokens: 4,
        pace: None,
        sampling: SamplingParams::default(),
        stop: vec![],
        logprobs: None,
        echo: false,
    };
    assert!(matches!(engine.submit(job), Err(Refusal::Kind(_))));
    assert_eq!(engine.busy(), 0);
}
