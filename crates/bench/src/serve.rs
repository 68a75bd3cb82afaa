//! Serving: our engine beside llama.cpp itself, in one program, on one model, with as many threads.

use crate::pair::Pair;
use crate::{Bar, Book, Measured};
use anyhow::{Context, Result, ensure};
use engine::{Client, Engine, EngineConfig, Event, Job, SamplingParams};
use gateway::{Gateway, Keys};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use market::Price;
use model::{ExportCard, GgufType, Layout, ModelConfig, Part};
use serving::{Local, Served};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const PROMPT: usize = 512;
const WRITTEN: usize = 128;
const STREAMS: usize = 8;
/// Of each of several streams.
const STREAM_PROMPT: usize = 64;
const CONTEXT: usize = 1024;
const REPEATS: usize = 5;

pub(crate) fn measure(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let path = stage.path().join("figure.gguf");
    let parameters = written(&path, "base")?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let engine = Engine::load(EngineConfig {
        path: path.clone(),
        hash: None,
        threads,
        slots: STREAMS,
        context: CONTEXT,
        memory: 0,
        vram: 0,
    })?;
    let raw = Raw::load(&path)?;
    let how = format!("{parameters:.0} M parameters in 8 bits, {threads} threads, greedy, median of {REPEATS} ratios");

    let (mut alone, mut many) = (Vec::new(), Vec::new());
    let (mut bf16, mut q8) = (Vec::new(), Vec::new());
    for i in 0..REPEATS {
        // In turns, so that what else the machine does falls on both.
        let (theirs, _) = raw.one(threads, &prompt(i, PROMPT), KvCacheType::F16)?;
        let begun = Instant::now();
        let ours = answer(&engine, job(i, PROMPT, WRITTEN))?;
        alone.push(theirs.as_secs_f64() / begun.elapsed().as_secs_f64());
        // With the same cache it writes the same; it is timed with its own, which is faster and not the same each time.
        let (exact, tokens) = raw.one(threads, &prompt(i, PROMPT), KvCacheType::BF16)?;
        bf16.push(theirs.as_secs_f64() / exact.as_secs_f64());
        let (eight, _) = raw.one(threads, &prompt(i, PROMPT), KvCacheType::Q8_0)?;
        q8.push(theirs.as_secs_f64() / eight.as_secs_f64());
        ensure!(ours == tokens, "the engine and llama.cpp wrote different tokens");
        let theirs = raw.many(threads)?;
        let begun = Instant::now();
        let streams: Result<Vec<_>, _> =
            (0..STREAMS).map(|k| engine.submit(job(100 + k, STREAM_PROMPT, WRITTEN))).collect();
        for mut events in streams? {
            while events.blocking_recv().is_some() {}
        }
        many.push(theirs.as_secs_f64() / begun.elapsed().as_secs_f64());
    }
    let claim = |book: &mut Book, name, value: Measured, unit, bar, goal, how: &str| {
        book.add("quick", name, (value, unit), bar, goal, how)
    };
    let one = format!(
        "prompt of {PROMPT} and {WRITTEN} tokens written: llama.cpp's time with its default cache over ours, whose values are in bf16; {how}"
    );
    claim(book, "serve.engine.alone", alone.into(), "x", Bar::Least(0.95), ">= 1.0", &one);
    let eight = format!(
        "{STREAMS} answers at a time of {STREAM_PROMPT} + {WRITTEN} tokens: llama.cpp's time in batches of {STREAMS} over ours; {how}"
    );
    claim(book, "serve.engine.streams", many.into(), "x", Bar::Least(0.95), ">= 1.0", &eight);

    let how = format!(
        "what equal bytes cost: llama.cpp's time with its default cache over that with values in bf16, the same prompt and answer; \
         with values in q8_0 it is {:.3}; {how}",
        crate::median(q8)
    );
    claim(book, "serve.engine.exact", bf16.into(), "x", Bar::Printed, "-", &how);
    drop(raw);

    let ratio = through_gateway(engine)?;
    let how = format!(
        "{PROMPT} + {WRITTEN} tokens streamed over HTTP on loopback: the engine's own time over that, median of {REPEATS} ratios: \
         from an HTTP client through its gateway, the encrypted link to another node, and that node's signatures"
    );
    claim(book, "serve.link.rate", ratio.into(), "x", Bar::Least(0.9), ">= 0.97", &how);
    Ok(())
}

/// Writes a model of random weights: its speed is that of any other of its shape. Gives its millions of parameters.
pub(crate) fn written(path: &Path, size: &str) -> Result<f64> {
    let config = ModelConfig::preset(size, 2048, CONTEXT)?;
    let layout = Layout::new(&config, &Part::whole(&config));
    let theta = model::init(&layout, config.num_hidden_layers, 5);
    let tokenizer = std::fs::read("corpus/tokenizer.json").context("run it in the project's folder")?;
    model::export_gguf(path, &config, &theta, &tokenizer, 0, &ExportCard::default(), GgufType::Q8_0)?;
    Ok(theta.len() as f64 / 1e6)
}

pub(crate) fn prompt(seed: usize, n: usize) -> Vec<i32> {
    (0..n).map(|k| ((seed * 131 + k * 7919) % 2047 + 1) as i32).collect()
}

pub(crate) fn job(seed: usize, n: usize, max_tokens: usize) -> Job {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    // Each is a client of its own: nothing was read before.
    let client = Client(base::Hash::of("figure", &seed.to_le_bytes()).0);
    Job {
        client,
        own: true,
        prompt: prompt(seed, n),
        max_tokens,
        sampling,
        stop: vec![],
        logprobs: None,
        echo: false,
        written: vec![],
        pace: None,
    }
}

pub(crate) fn answer(engine: &Engine, job: Job) -> Result<Vec<i32>> {
    let mut events = engine.submit(job)?;
    let mut out = Vec::new();
    while let Some(event) = events.blocking_recv() {
        if let Event::Token(token) = event {
            out.push(token.id);
        }
    }
    Ok(out)
}

/// llama.cpp called as its own examples call it.
struct Raw {
    model: LlamaModel,
}

impl Raw {
    fn load(path: &Path) -> Result<Self> {
        Ok(Self { model: LlamaModel::load_from_file(engine::backend(), path, &LlamaModelParams::default())? })
    }

    fn context(&self, threads: usize, sequences: usize, values: KvCacheType) -> Result<LlamaContext<'_>> {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new((sequences * CONTEXT) as u32))
            .with_n_seq_max(sequences as u32)
            .with_n_batch(PROMPT as u32)
            .with_n_ubatch(PROMPT as u32)
            .with_n_threads(threads as i32)
            .with_n_threads_batch(threads as i32)
            .with_type_v(values)
            .with_no_perf(true);
        Ok(self.model.new_context(engine::backend(), params)?)
    }

    /// One prompt and one answer; the time and the tokens.
    fn one(&self, threads: usize, prompt: &[i32], values: KvCacheType) -> Result<(Duration, Vec<i32>)> {
        let mut context = self.context(threads, 1, values)?;
        let mut batch = LlamaBatch::new(PROMPT, 1);
        let begun = Instant::now();
        for (k, token) in prompt.iter().enumerate() {
            batch.add(LlamaToken(*token), k as i32, &[0], k + 1 == prompt.len())?;
        }
        context.decode(&mut batch)?;
        let mut row = batch.n_tokens() - 1;
        let mut tokens = Vec::new();
        while tokens.len() < WRITTEN {
            let token = likeliest(context.get_logits_ith(row));
            tokens.push(token);
            if tokens.len() == WRITTEN {
                break;
            }
            batch.clear();
            batch.add(LlamaToken(token), (prompt.len() + tokens.len() - 1) as i32, &[0], true)?;
            context.decode(&mut batch)?;
            row = 0;
        }
        Ok((begun.elapsed(), tokens))
    }

    /// Several prompts together, then one token of each in every batch.
    fn many(&self, threads: usize) -> Result<Duration> {
        let mut context = self.context(threads, STREAMS, KvCacheType::F16)?;
        let mut batch = LlamaBatch::new(PROMPT, 1);
        let begun = Instant::now();
        for k in 0..STREAMS {
            for (at, token) in prompt(100 + k, STREAM_PROMPT).iter().enumerate() {
                batch.add(LlamaToken(*token), at as i32, &[k as i32], at + 1 == STREAM_PROMPT)?;
            }
        }
        context.decode(&mut batch)?;
        let mut rows: Vec<i32> = (1..=STREAMS).map(|k| (k * STREAM_PROMPT - 1) as i32).collect();
        for written in 1..WRITTEN {
            let tokens: Vec<i32> = rows.iter().map(|row| likeliest(context.get_logits_ith(*row))).collect();
            batch.clear();
            for (k, token) in tokens.iter().enumerate() {
                batch.add(LlamaToken(*token), (STREAM_PROMPT + written - 1) as i32, &[k as i32], true)?;
            }
            context.decode(&mut batch)?;
            rows = (0..STREAMS as i32).collect();
        }
        rows.iter().for_each(|row| {
            std::hint::black_box(likeliest(context.get_logits_ith(*row)));
        });
        Ok(begun.elapsed())
    }
}

fn likeliest(logits: &[f32]) -> i32 {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as i32
}

/// The same answer from the engine and streamed over HTTP.
fn through_gateway(engine: Engine) -> Result<Vec<f64>> {
    let served = Served::new(engine);
    let engine = served.engine().clone();
    // Another node's: what has its name here would be answered here.
    let model = format!("{}{}", serving::NET, served.card().name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let pair = runtime.block_on(Pair::new(Local::new(vec![served]), Price::default(), Vec::new()))?;
    let (answers, keys) = (Arc::new(pair.client.1.asker()), Arc::new(Keys::default()));
    let gateway = Gateway { answers, keys, demand_keys: false, answer_tokens: 16, temperature: 1.0, panel: None };
    let (ready, address) = std::sync::mpsc::channel();
    let stop = CancellationToken::new();
    let listen: SocketAddr = ([127, 0, 0, 1], 0).into();
    runtime.spawn(gateway::serve(gateway, listen, stop.clone(), move |address| {
        let _ = ready.send(address);
    }));
    let address = address.recv()?;
    let mut ratios = Vec::new();
    for i in 0..REPEATS {
        let begun = Instant::now();
        answer(&engine, job(5000 + i, PROMPT, WRITTEN))?;
        let own = begun.elapsed();
        let body = serde_json::json!({
            "model": model, "prompt": prompt(6000 + i, PROMPT), "max_tokens": WRITTEN, "temperature": 0, "stream": true,
        });
        let begun = Instant::now();
        let chunks = streamed(address, &body.to_string(), &i.to_string())?;
        ratios.push(own.as_secs_f64() / begun.elapsed().as_secs_f64());
        ensure!(chunks > WRITTEN, "each token comes by itself: {chunks} chunks");
    }
    stop.cancel();
    runtime.block_on(pair.close())?;
    Ok(ratios)
}

/// Chunks of a streamed answer.
fn streamed(address: SocketAddr, body: &str, key: &str) -> Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let (mut chunks, mut said) = (0, Vec::new());
    for line in BufReader::new(stream).lines() {
        let line = line?;
        chunks += usize::from(line.starts_with("data: "));
        said.push(line);
    }
    ensure!(chunks > 0, "no stream: {}", said.join(" "));
    Ok(chunks)
}
