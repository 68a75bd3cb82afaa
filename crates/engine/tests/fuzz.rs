//! Schemas, grammars and texts that somebody damaged, sent to an engine in a process of its own, for a bounded time
//! (`FUZZ_SECONDS`, default 2): it refuses or answers, and it does not die.

use base::{Hash, Rng};
use engine::{AnswerShape, Client, Engine, EngineConfig, Job, Refusal, SamplingParams};
use model::{ExportCard, GgufType, Layout, ModelConfig, Part};
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Says to a process that it is the one that may die.
const CHILD: &str = "TALKOO_FUZZ_CHILD";
/// How much longer than it was told to a child may take: to load the model, and for the last input.
const GRACE: Duration = Duration::from_secs(120);

fn seconds() -> Duration {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse::<f64>().ok()).unwrap_or(2.0);
    Duration::from_secs_f64(seconds)
}

#[test]
fn an_engine_survives_whatever_it_is_sent() {
    if std::env::var_os(CHILD).is_some() {
        return feed();
    }
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "an_engine_survives_whatever_it_is_sent", "--nocapture"]).env(CHILD, "1");
    let mut child = command.stdout(Stdio::piped()).spawn().expect("a process");
    let mut output = child.stdout.take().expect("piped");
    let (done, ended) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let read = output.read_to_string(&mut text);
        let _ = done.send(());
        read.map(|_| text)
    });
    if ended.recv_timeout(seconds() + GRACE).is_err() {
        child.kill().expect("killed");
        child.wait().expect("ended");
        panic!("one input took longer than {} s", GRACE.as_secs());
    }
    let status = child.wait().expect("ended");
    let text = reader.join().expect("read").expect("a text");
    assert_eq!(status.code(), Some(0), "{status}: {text}");
    assert!(text.contains("fuzz engine: "), "{text}");
}

fn served(dir: &Path) -> Engine {
    let config = ModelConfig::preset("nano", 2048, 128).expect("a size");
    let theta = model::init(&Layout::new(&config, &Part::whole(&config)), config.num_hidden_layers, 5);
    let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
    let path = dir.join("own.gguf");
    model::export_gguf(&path, &config, &theta, &tokenizer, 0, &ExportCard::default(), GgufType::Q8_0).expect("written");
    Engine::load(EngineConfig { path, hash: None, threads: 1, slots: 1, context: 0, memory: 0, vram: 0 })
        .expect("served")
}

fn job(format: AnswerShape, seed: u32) -> Job {
    Job {
        client: Client([1; 32]),
        own: true,
        prompt: vec![5, 6, 7],
        written: vec![],
        max_tokens: 16,
        pace: None,
        sampling: SamplingParams { temperature: 2.0, seed, format, ..SamplingParams::default() },
        stop: vec![],
        logprobs: None,
        echo: false,
    }
}

fn feed() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path());
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/schemas.json")).expect("JSON");
    let entries = ["schemas", "hostile"].map(|key| fixture[key].as_array().expect("a list").clone()).concat();
    let schemas: Vec<String> = entries.iter().map(|entry| entry["schema"].to_string()).collect();
    let grammar =
        |entry: &Value| engine::schema::to_grammar(&entry["schema"], &engine::schema::SchemaLimits::default()).ok();
    let grammars: Vec<String> = entries.iter().filter_map(grammar).collect();
    for entry in fixture["hostile"].as_array().expect("a list") {
        let refused = engine.submit(job(AnswerShape::Schema(entry["schema"].clone()), 0));
        assert!(matches!(refused, Err(Refusal::Format(_))), "{}", entry["name"]);
    }
    let mut rng = Rng::new(Hash::of("fuzz", b"engine").seed());
    let (begun, mut inputs, mut answered) = (Instant::now(), 0u64, 0u64);
    while begun.elapsed() < seconds() {
        inputs += 1;
        let format = match rng.below(3) {
            0 => {
                let text = damaged(&schemas, &mut rng);
                let Ok(schema) = serde_json::from_str(&text) else { continue };
                AnswerShape::Schema(schema)
            }
            1 => AnswerShape::Grammar(damaged(&grammars, &mut rng)),
            _ => {
                let _ = engine.tokenize(&damaged(&schemas, &mut rng), rng.chance(1, 2));
                continue;
            }
        };
        if let Ok(mut events) = engine.submit(job(format, inputs as u32)) {
            answered += 1;
            while events.blocking_recv().is_some() {}
        }
    }
    println!("fuzz engine: {inputs} inputs, {answered} answered");
    assert!(answered > 0);
}

/// One of several texts, with some of it changed for what matters to who reads it.
fn damaged(samples: &[String], rng: &mut Rng) -> String {
    const WORDS: [&str; 16] =
        ["(", ")", "[", "]", "{", "}", "|", "*", "\"", "\\", "{0,99}", "\"$ref\":\"#\",", "::=", "root", "9", "\u{e9}"];
    let mut chars: Vec<char> = samples[rng.below(samples.len() as u64) as usize].chars().take(20_000).collect();
    for _ in 0..rng.below(5) {
        let at = rng.below(chars.len() as u64 + 1) as usize;
        match rng.below(3) {
            0 if at < chars.len() => {
                chars.remove(at);
            }
            1 => chars.truncate(chars.len() - at.min(3)),
            _ => {
                chars.splice(at..at, WORDS[rng.below(16) as usize].chars());
            }
        }
    }
    chars.into_iter().collect()
}
