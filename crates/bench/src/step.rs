//! A whole train step against PyTorch eager, both in processes of their own, in turns.

use crate::{Bar, Book, Figure, median};
use anyhow::{Context, Result};
use model::{AdamW, Batch, Layout, ModelConfig, Part, Trainer, clip_norm};
use serde_json::Value;
use std::convert::Infallible;
use std::process::Command;
use std::time::Instant;

/// The shape of `bench/torch_step.py`: 13.8 M parameters.
fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 2048,
        hidden_size: 384,
        intermediate_size: 1008,
        num_hidden_layers: 7,
        num_attention_heads: 6,
        num_key_value_heads: 6,
        head_dim: 64,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: false,
        max_position_embeddings: 256,
    }
}

const SPEED: Figure<'_> = Figure { name: "swarm.step.against_torch", unit: "x", bar: Bar::Least(0.42), goal: ">= 0.9" };
const MEMORY: Figure<'_> = Figure { name: "swarm.step.memory", unit: "x", bar: Bar::Most(0.6), goal: "<= 0.5" };

/// Prints our own step as JSON: the other half of a pair.
pub(crate) fn own() -> Result<()> {
    println!("{}", own_step()?);
    Ok(())
}

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    let Some(python) = std::env::var("TORCH_PYTHON").ok().filter(|_| full) else {
        if full {
            eprintln!("step: set TORCH_PYTHON to a Python with torch to measure against PyTorch");
        }
        book.keep(&[SPEED, MEMORY]);
        return Ok(());
    };
    let (mut speeds, mut memories) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let torch = json(Command::new(&python).args(["bench/torch_step.py", "--threads", "2", "--steps", "8"]))?;
        let own = json(Command::new(std::env::current_exe()?).args(["--step-only"]))?;
        let number = |value: &Value, key: &str| value[key].as_f64().with_context(|| format!("{key} in {value}"));
        speeds.push(number(&torch, "step_ms_median")? / number(&own, "median_step_ms")?);
        let torch_mb = number(&torch, "rss_peak_minus_idle_bytes")? / f64::from(1 << 20);
        memories.push(number(&own, "peak_minus_idle_mb")? / torch_mb);
        println!("pair: torch {torch} own {own}");
    }
    let how = "13.8 M Llama, f32, B 4, T 256, 2 threads, forward, backward, clip, AdamW, against PyTorch eager; median of five pairs in turns";
    book.full(SPEED, speeds, how);
    let how = "peak memory of the same less that of the idle process, ours over PyTorch's";
    book.full(MEMORY, memories, how);
    Ok(())
}

fn json(command: &mut Command) -> Result<Value> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().rev().find(|line| line.starts_with('{')).context("no JSON line")?;
    Ok(serde_json::from_str(line)?)
}

fn own_step() -> Result<Value> {
    let idle = memory_mb("VmRSS")?;
    let config = config();
    let layout = Layout::new(&config, &Part::whole(&config));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    let times = pool.install(|| -> Result<Vec<f64>> {
        let mut trainer = Trainer::new(&config, &model::open("cpu")?);
        let mut theta = model::init(&layout, config.num_hidden_layers, 1);
        let (mut m, mut v) = (vec![0.0; layout.len], vec![0.0; layout.len]);
        let ids = (0..4 * 257).map(|i| (i * 7919 % 2048) as u32).collect();
        let batch = Batch { ids };
        let mut times = Vec::new();
        for step in 1..=10 {
            let begun = Instant::now();
            trainer.set(&theta);
            let Ok((mut grad, _)) = trainer.gradient(0..1, 256, |_| Ok::<_, Infallible>(batch.clone()));
            clip_norm(&mut grad, 1.0);
            AdamW::new(0.1).step(&layout, &mut theta, (&mut m, &mut v), &grad, 1e-3, step);
            trainer.give_back(grad);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times.split_off(2))
    })?;
    let peak = memory_mb("VmHWM")?;
    Ok(serde_json::json!({ "median_step_ms": median(times), "peak_minus_idle_mb": peak - idle }))
}

fn memory_mb(key: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("memory is measured on Linux only")?;
    let line = status.lines().find(|line| line.starts_with(key)).context("a line of /proc/self/status")?;
    let kb: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kb / 1024.0)
}
