//! A model that our own stages trained for a moment, served.
#![allow(dead_code)]

use engine::{Client, Engine, EngineConfig, EngineFinish, Event, Job, SamplingParams};
use model::{ExportCard, GgufType, Layout, ModelConfig, Part};
use std::path::{Path, PathBuf};

pub const CONTEXT: usize = 256;

/// Weights that were trained for a moment, so that some tokens are far likelier than others.
pub fn weights(config: &ModelConfig) -> Vec<f32> {
    let layout = Layout::new(config, &Part::whole(config));
    let mut theta = model::init(&layout, config.num_hidden_layers, 5);
    // Far from the beginning logits differ by several units.
    for param in layout.params.iter().filter(|param| param.is_matrix()) {
        theta[param.range()].iter_mut().for_each(|x| *x *= 3.0);
    }
    theta
}

pub fn config() -> ModelConfig {
    ModelConfig::preset("nano", 2048, CONTEXT).expect("a size")
}

/// Writes a model.
pub fn written(dir: &Path, config: &ModelConfig, kind: GgufType) -> PathBuf {
    let path = dir.join("own.gguf");
    let card = ExportCard { name: "own".into(), ..ExportCard::default() };
    let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
    model::export_gguf(&path, config, &weights(config), &tokenizer, 0, &card, kind).expect("written");
    path
}

pub fn loaded(path: PathBuf, threads: usize, slots: usize) -> Engine {
    Engine::load(EngineConfig { path, hash: None, threads, slots, context: 0, memory: 0, vram: 0 }).expect("served")
}

pub fn served(dir: &Path, kind: GgufType, slots: usize) -> Engine {
    loaded(written(dir, &config(), kind), 1, slots)
}

pub fn job(prompt: Vec<i32>, max_tokens: usize) -> Job {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    Job {
        client: Client([1; 32]),
        own: true,
        prompt,
        max_tokens,
        sampling,
        stop: vec![],
        logprobs: None,
        echo: false,
        written: vec![],
        pace: None,
    }
}

pub struct Answer {
    pub ids: Vec<i32>,
    pub logprobs: Vec<f32>,
    pub top: Vec<Vec<(i32, f32)>>,
    pub prompt: Vec<engine::Written>,
    pub text: String,
    pub cached: usize,
    pub finish: EngineFinish,
}

pub fn answer(engine: &Engine, job: Job) -> Answer {
    let mut events = engine.submit(job).expect("taken");
    let mut out = Answer {
        ids: vec![],
        logprobs: vec![],
        top: vec![],
        prompt: vec![],
        text: String::new(),
        cached: 0,
        finish: EngineFinish::Failed,
    };
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Read { cached, logprobs } => (out.cached, out.prompt) = (cached, logprobs),
            Event::Token(token) => {
                out.ids.push(token.id);
                out.text += &token.text;
                out.logprobs.push(token.logprob);
                out.top.push(token.top);
            }
            Event::Done { finish, text } => {
                out.text += &text;
                out.finish = finish;
            }
        }
    }
    out
}

/// Prompts of different lengths.
pub fn prompts() -> Vec<Vec<i32>> {
    (0..20usize).map(|i| (0..3 + 7 * i).map(|k| ((i * 131 + k * 7919) % 2047 + 1) as i32).collect()).collect()
}
