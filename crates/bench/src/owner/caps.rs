//! What a node may take, and whether it keeps to it.

use super::{Contributor, LOOK, contribute};
use crate::{Bar, Book, Figure, Measured, Process, network, serve};
use anyhow::{Context, Result, anyhow, ensure};
use node::ControlRequest;
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
    let (mut took, mut filled) = (Vec::new(), 0.0f64);
    for _ in 0..RETURNS {
        // With `always` the memory of others does not count.
        let options = ["--when", "idle", "--no-runs", "--model", model.to_str().context("UTF-8")?];
        let node = contribute(&dir, &options)?;
        let begun = Instant::now();
        while node.ask(ControlRequest::Panel).await?["serving"]["models"][0]["local"] != true {
            ensure!(begun.elapsed() < Duration::from_secs(120), "it does not serve");
            tokio::time::sleep(LOOK).await;
        }
        ensure!(network::resident(node.process.0.id())? > SMALL_MB, "the model takes less than it should");
        // From its first byte: the node need not wait for the last one.
        let begun = Instant::now();
        let taken = std::hint::black_box(vec![1u8; ((TAKEN_MB + OWN_MB) << 20) as usize]);
        filled = filled.max(begun.elapsed().as_secs_f64());
        while network::resident(node.process.0.id())? > SMALL_MB {
            ensure!(begun.elapsed() < Duration::from_secs(60), "it keeps its memory");
            tokio::time::sleep(LOOK).await;
        }
        took.push(begun.elapsed().as_secs_f64());
        drop(taken);
    }
    let worst = took.iter().copied().fold(0.0, f64::max);
    let how = format!(
        "a node that serves a model of 87 M parameters; another program takes {} MB, {TAKEN_MB} that the owner wants free and {OWN_MB} \
         that the node itself could give back: from its first byte until the node takes less than {SMALL_MB} MB, looked at every {} ms, \
         the worst of {RETURNS}; the filling itself took up to {filled:.2} s of it",
        TAKEN_MB + OWN_MB,
        LOOK.as_millis()
    );
    book.add("quick", "owner.return.memory", (Measured::out_of(worst, &took), "s"), Bar::Most(5.0), "<= 1", &how);
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
/// The same load without a cap on memory, to learn what it takes.
const FREE: Duration = Duration::from_secs(90);
/// What is counted over time is counted over this.
const WINDOW: Duration = Duration::from_secs(10);
const THREADS: f64 = 1.0;
/// The cap on memory is so much of what the load took without one: it comes near.
const MEMORY_CAP: f64 = 1.1;
const UPLOAD: f64 = 1e6;
const DISK_BYTES: u64 = 1 << 30;
/// Copies of the model that its owner adds, one each minute: more than the cap on the folder allows.
const COPIES: u64 = 12;
/// What may go at once after a silence, and a part of its time that a thread's neighbours take: sockets, clocks, this program.
const BURST: f64 = (1 << 20) as f64;
const BESIDE: f64 = 0.1;

/// What a node took under load.
#[derive(Default)]
struct Load {
    exceeded: Vec<String>,
    windows: u32,
    cpu: f64,
    sent: f64,
    answered: u64,
    /// Most memory in MB, and most bytes of the folder.
    memory_mb: f64,
    disk: u64,
    seconds: f64,
}

/// Ten minutes of training, serving and giving a model away, under every cap.
pub(super) async fn soak(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let file = stage.path().join("figure.gguf");
    serve::written(&file, "base")?;
    let free = load(&stage.path().join("free"), &file, FREE, 0).await?;
    let cap = (free.memory_mb * 1e6 / f64::from(1 << 20) * MEMORY_CAP) as u64;
    let soaked = load(&stage.path().join("capped"), &file, SOAKED, cap).await?;
    ensure!(soaked.answered > 20, "{} answers in all this time", soaked.answered);
    ensure!(soaked.sent > 0.5 * UPLOAD * soaked.seconds, "it gave too little away: {} bytes", soaked.sent);
    let how = format!(
        "ten minutes of training with one thread ({:.2} cores in the mean), {} answers meanwhile, and a model given to a peer at 8 Mbit/s \
         ({:.2} MB/s in the mean); memory capped at {:.0} MB, a tenth more than the same load takes without a cap, of which it took up to \
         {:.0}; the folder at 1 GB, of which it took up to {:.2} while its owner added models until there was no more room: windows of \
         10 s above a cap by more than a tenth of a core or a mebibyte, looks twice a second at memory: {}",
        soaked.cpu / f64::from(soaked.windows),
        soaked.answered,
        soaked.sent / soaked.seconds / 1e6,
        (cap << 20) as f64 / 1e6,
        soaked.memory_mb,
        soaked.disk as f64 / DISK_BYTES as f64,
        if soaked.exceeded.is_empty() { "none".into() } else { soaked.exceeded.join(", ") }
    );
    book.full(SOAK, soaked.exceeded.len() as f64, &how);
    Ok(())
}

/// A node under load for a while, with a cap on its memory in units of 2^20 bytes (0 = none) and all others.
async fn load(dir: &Path, model: &Path, time: Duration, memory_mb: u64) -> Result<Load> {
    std::fs::create_dir_all(dir)?;
    let settings =
        format!("[limits]\nthreads = 1\nmemory_mb = {memory_mb}\ndisk_gb = 1\nupload_mbit = 8\ndownload_mbit = 8\n");
    std::fs::write(dir.join("talkoo.toml"), settings)?;
    let beside = dir.with_extension("beside");
    std::fs::create_dir_all(&beside)?;
    told(dir, &["model", "add", model.to_str().context("UTF-8")?])?;
    let node = contribute(dir, &["--no-runs", "--model", "figure", "--context", "256"])?;
    let run = beside.join("run.toml");
    std::fs::write(&run, network::run_file("soak", 4096, 2))?;
    told(dir, &["train", "create", run.to_str().context("UTF-8")?])?;
    node.first_unit().await?;
    let published = told(dir, &["model", "publish", "figure"])?;
    let ticket = published["ticket"].as_str().context("a ticket")?;
    let questions = Questions::begin(&node.page);
    let cap_mb = if memory_mb == 0 { f64::INFINITY } else { (memory_mb << 20) as f64 / 1e6 };
    let (begun, mut out, mut pulls, mut copies) = (Instant::now(), Load::default(), 0, 0);
    let mut puller = pull(&beside, ticket, 0)?;
    while begun.elapsed() < time {
        let (at, cpu, sent) = (Instant::now(), node.cpu()?, bytes_sent(&node).await?);
        while at.elapsed() < WINDOW {
            let memory = network::resident(node.process.0.id())?;
            out.memory_mb = out.memory_mb.max(memory);
            if memory > cap_mb {
                out.exceeded.push(format!("{memory:.0} MB"));
            }
            if puller.0.0.try_wait()?.is_some() {
                std::fs::remove_dir_all(&puller.1)?;
                pulls += 1;
                puller = pull(&beside, ticket, pulls)?;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let seconds = at.elapsed().as_secs_f64();
        let (cores, bytes) = (node.cpu()?.since(&cpu) / seconds, bytes_sent(&node).await? - sent);
        (out.windows, out.sent, out.cpu) = (out.windows + 1, out.sent + bytes, out.cpu + cores);
        if cores > THREADS + BESIDE {
            out.exceeded.push(format!("{cores:.2} cores"));
        }
        if bytes > UPLOAD * seconds + BURST {
            out.exceeded.push(format!("{:.2} MB/s", bytes / seconds / 1e6));
        }
        // Another one each minute; what finds no room is refused.
        if begun.elapsed().as_secs() / 60 >= copies && copies < COPIES {
            copies += 1;
            let _ = told(dir, &["model", "add", &copy(model, &beside, copies)?]);
        }
        let disk = bytes_below(dir)?;
        out.disk = out.disk.max(disk);
        if disk > DISK_BYTES {
            out.exceeded.push(format!("{disk} bytes on disk"));
        }
    }
    // Caps that nothing comes near are kept by who does nothing.
    let panel = node.ask(ControlRequest::Panel).await?;
    let cores = out.cpu / f64::from(out.windows);
    ensure!(cores > 0.7 * THREADS, "it did not train: {cores:.2} cores, {}; {}", panel["activity"], panel["runs"]);
    (out.answered, out.seconds) = (questions.end()?, begun.elapsed().as_secs_f64());
    Ok(out)
}

/// The same model with other weights, which is another one.
fn copy(model: &Path, to: &Path, i: u64) -> Result<String> {
    let mut bytes = std::fs::read(model)?;
    let last = bytes.last_mut().context("an empty model")?;
    *last = last.wrapping_add(i as u8);
    let path = to.join(format!("copy-{i}.gguf"));
    std::fs::write(&path, bytes)?;
    Ok(path.to_str().context("UTF-8")?.to_owned())
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
    node.ask(ControlRequest::Status).await?["sent_bytes"].as_f64().context("bytes sent")
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
