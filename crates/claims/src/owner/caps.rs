//! What a node may take, and whether it keeps to it.

use super::{Contributor, LOOK, contribute};
use crate::{Bar, Book, Figure, Process, network, serve};
use anyhow::{Context, Result, anyhow, ensure};
use node::Request;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Memory that another program takes when its owner is back, in units of 2^20 bytes.
const TAKEN_MB: u64 = 1200;
/// What the node itself could give back counts as free: the other program takes so much more.
const OWN_MB: u64 = 400;
/// A node without a model takes less.
const SMALL_MB: f64 = 100.0;
const RETURNS: usize = 3;

/// The node's owner opens a program that needs much memory.
pub(super) async fn returns(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let model = stage.path().join("figure.gguf");
    serve::written(&model, "base")?;
    let dir = stage.path().join("node");
    std::fs::create_dir_all(&dir)?;
    let free = free_mb()?;
    ensure!(free > 2 * TAKEN_MB, "{free} MB of free memory are too few to measure this");
    let settings = format!("[schedule]\nmemory_free_min_mb = {}\n", free - TAKEN_MB);
    std::fs::write(dir.join("talkoo.toml"), settings)?;
    let mut took = Vec::new();
    for _ in 0..RETURNS {
        // With `always` the memory of others does not count.
        let options = ["--when", "idle", "--no-runs", "--model", model.to_str().context("UTF-8")?];
        let node = contribute(&dir, &options)?;
        let begun = Instant::now();
        while node.ask(Request::Panel).await?["serving"]["models"][0]["local"] != true {
            ensure!(begun.elapsed() < Duration::from_secs(120), "it does not serve");
            tokio::time::sleep(LOOK).await;
        }
        ensure!(network::resident(node.process.0.id())? > SMALL_MB, "the model takes less than it should");
        // From its first byte: the node need not wait for the last one.
        let begun = Instant::now();
        let taken = std::hint::black_box(vec![1u8; ((TAKEN_MB + OWN_MB) << 20) as usize]);
        while network::resident(node.process.0.id())? > SMALL_MB {
            ensure!(begun.elapsed() < Duration::from_secs(60), "it keeps its memory");
            tokio::time::sleep(LOOK).await;
        }
        took.push(begun.elapsed().as_secs_f64());
        drop(taken);
    }
    let worst = took.into_iter().fold(0.0, f64::max);
    let how = format!(
        "a node that serves a model of 87 M parameters; another program takes {TAKEN_MB} MB, so that less than its owner wants is \
         free: from its first byte until the node takes less than {SMALL_MB} MB, the worst of {RETURNS}"
    );
    book.add("quick", "owner.return.memory", (worst, "s"), Bar::Most(5.0), "<= 1", &how);
    Ok(())
}

fn free_mb() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<u64>()? / 1024)
}

pub(super) const SOAK: Figure<'static> =
    Figure { name: "owner.caps", unit: "times exceeded", bar: Bar::Most(0.0), goal: "0" };

const SOAKED: Duration = Duration::from_secs(600);
/// What is counted over time is counted over this.
const WINDOW: Duration = Duration::from_secs(10);
const THREADS: f64 = 1.0;
const MEMORY_MB: f64 = 400.0;
const UPLOAD: f64 = 1e6;
const DISK_BYTES: u64 = 1 << 30;
/// What may go at once after a silence, and a part of its time that a thread's neighbours take: sockets, clocks, this program.
const BURST: f64 = (1 << 20) as f64;
const BESIDE: f64 = 0.1;

/// Ten minutes of training, serving and giving a model away, under every cap.
pub(super) async fn soak(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let file = stage.path().join("figure.gguf");
    serve::written(&file, "base")?;
    let dir = stage.path().join("node");
    std::fs::create_dir_all(&dir)?;
    let settings = "[limits]\nthreads = 1\nmemory_mb = 400\ndisk_gb = 1\nupload_mbit = 8\ndownload_mbit = 8\n";
    std::fs::write(dir.join("talkoo.toml"), settings)?;
    told(&dir, &["model", "add", file.to_str().context("UTF-8")?])?;
    told(&dir, &["model", "publish", "figure"])?;
    let node = contribute(&dir, &["--no-runs", "--model", "figure", "--context", "256"])?;
    let run = stage.path().join("run.toml");
    std::fs::write(&run, network::run_file("soak", 4096, 2))?;
    told(&dir, &["train", "create", run.to_str().context("UTF-8")?])?;
    node.first_unit().await?;
    let published = told(&dir, &["model", "publish", "figure"])?;
    let ticket = published["ticket"].as_str().context("a ticket")?;
    let questions = Questions::begin(&node.page);
    let (begun, mut exceeded, mut windows, mut sent_all, mut cpu_all) = (Instant::now(), Vec::new(), 0u32, 0.0, 0.0);
    let mut pulls = Vec::new();
    let mut puller = pull(stage.path(), ticket, 0)?;
    while begun.elapsed() < SOAKED {
        let (at, cpu, sent) = (Instant::now(), node.cpu()?, bytes_sent(&node).await?);
        while at.elapsed() < WINDOW {
            let memory = network::resident(node.process.0.id())?;
            if memory > MEMORY_MB {
                exceeded.push(format!("{memory} MB"));
            }
            if puller.0.0.try_wait()?.is_some() {
                std::fs::remove_dir_all(&puller.1)?;
                pulls.push(begun.elapsed());
                puller = pull(stage.path(), ticket, pulls.len())?;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let seconds = at.elapsed().as_secs_f64();
        let (cores, bytes) = ((node.cpu()? - cpu) / seconds, bytes_sent(&node).await? - sent);
        (windows, sent_all, cpu_all) = (windows + 1, sent_all + bytes, cpu_all + cores);
        if cores > THREADS + BESIDE {
            exceeded.push(format!("{cores:.2} cores"));
        }
        if bytes > UPLOAD * seconds + BURST {
            exceeded.push(format!("{:.2} MB/s", bytes / seconds / 1e6));
        }
        let disk = bytes_below(&dir)?;
        if disk > DISK_BYTES {
            exceeded.push(format!("{disk} bytes on disk"));
        }
    }
    // Caps that nothing comes near are kept by who does nothing.
    let panel = node.ask(Request::Panel).await?;
    ensure!(
        cpu_all / f64::from(windows) > 0.7 * THREADS,
        "it did not train: {:.2} cores, {}; {}",
        cpu_all / f64::from(windows),
        panel["activity"],
        panel["runs"]
    );
    let answered = questions.end()?;
    ensure!(answered > 20, "{answered} answers in all this time");
    ensure!(sent_all > 0.5 * UPLOAD * SOAKED.as_secs_f64(), "it gave too little away: {sent_all} bytes");
    let how = format!(
        "ten minutes of training with one thread ({:.2} cores in the mean), {answered} answers meanwhile, and a model given to a peer at \
         8 Mbit/s ({:.2} MB/s in the mean), memory capped at 400 MB and the folder at 1 GB: windows of 10 s above a cap by more than a tenth of a core \
         or a mebibyte, looks twice a second at memory: {}",
        cpu_all / f64::from(windows),
        sent_all / begun.elapsed().as_secs_f64() / 1e6,
        if exceeded.is_empty() { "none".into() } else { exceeded.join(", ") }
    );
    book.full(SOAK, exceeded.len() as f64, &how);
    Ok(())
}

/// Somebody who asks, answer after answer, with a moment between them.
struct Questions {
    stop: Arc<AtomicBool>,
    asks: JoinHandle<Result<u64>>,
}

impl Questions {
    fn begin(address: &str) -> Self {
        let (stop, address) = (Arc::new(AtomicBool::new(false)), address.to_owned());
        let until = stop.clone();
        let asks = std::thread::spawn(move || {
            let body = r#"{"model":"figure","prompt":"To be","max_tokens":24,"temperature":0}"#;
            let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
            let mut answered = 0;
            while !until.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect(&address)?;
                stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                answered += u64::from(text.starts_with("HTTP/1.1 200"));
                std::thread::sleep(Duration::from_secs(2));
            }
            Ok(answered)
        });
        Self { stop, asks }
    }

    /// Answers that came.
    fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.asks.join().map_err(|_| anyhow!("who asked panicked"))?
    }
}

/// What a command that ends says.
fn told(dir: &Path, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("talkoo"));
    command.args(["--bind", "127.0.0.1:0", "--no-mdns", "--json", "--data"]).arg(dir).args(arguments);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?}"))
}

/// A stranger who fetches the model, and its folder.
fn pull(stage: &Path, ticket: &str, i: usize) -> Result<(Process, PathBuf)> {
    let dir = stage.join(format!("stranger-{i}"));
    Ok((network::talkoo(&dir, "127.0.0.1:0", &["model", "pull", ticket])?, dir))
}

async fn bytes_sent(node: &Contributor) -> Result<f64> {
    node.ask(Request::Status).await?["sent_bytes"].as_f64().context("bytes sent")
}

fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // What is written anew goes away meanwhile.
        let Ok(about) = entry.metadata() else { continue };
        bytes += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
