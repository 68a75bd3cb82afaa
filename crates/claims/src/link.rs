//! Two real peers of one thread each on a 50 Mbit/s, 50 ms link, with `delay = 1`.
//!
//! Each peer lives in a network namespace of its own. The only way between them is a forwarder in
//! this process, which paces what passes to the link's rate and holds it for half the round trip.
//! Namespaces need root and iproute2; without them the figure stays as it was measured last.

use crate::{Bar, Book, Figure, Process, median};
use anyhow::{Context, Result, bail, ensure};
use model::{Config, Layout, ModelCard, Part};
use net::Ticket;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

const FIGURE: Figure<'_> =
    Figure { name: "swarm.utilisation.two_peers", unit: "%", bar: Bar::Least(90.0), goal: ">= 97" };

const BITS_PER_S: f64 = 50e6;
const ONE_WAY: Duration = Duration::from_millis(25);
/// What a router would queue: the link's bandwidth times the round trip.
const QUEUE_S: f64 = 0.05;
/// The run starts from published weights, so that it runs with delay at once; a few rounds settle
/// the shares before those that count.
const WARM_ROUNDS: u64 = 5;
const ROUNDS: u64 = 10;
const DEADLINE: Duration = Duration::from_secs(1200);

const RUN: &str = r#"
[run]
name = "link"
seed = 11
[model]
init = "model"
[data]
seq_len = 128
[train]
tokens = "20M"
batch_tokens = 16384
micro_batch = 1
lr = 3e-3
[round]
mode = "local"
density = 1
bits = 8
delay = 1
target_seconds = 12
[out]
every_rounds = 1000
"#;

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    if !full {
        book.keep(&[FIGURE]);
        return Ok(());
    }
    let worlds = match Worlds::new() {
        Ok(worlds) => worlds,
        Err(why) => {
            eprintln!("link: {why:#}; this figure needs root and iproute2");
            book.keep(&[FIGURE]);
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (percent, round_s) = runtime.block_on(two_peers(&worlds))?;
    let how = format!(
        "two processes of one thread each in network namespaces, link paced to 50 Mbit/s each way and held 25 ms each \
         way by a forwarder; 1.1 M parameters, local rounds of {round_s:.1} s, density 1 in 8 bits, delay 1; computing \
         time of the trainer over wall over {ROUNDS} rounds, mean of both"
    );
    book.full(FIGURE, percent, &how);
    Ok(())
}

/// Two network namespaces, each with one cable to this one; gone when dropped.
struct Worlds {
    names: [String; 2],
}

/// Where each cable ends: here, and in the namespace.
const HERE: [&str; 2] = ["10.213.7.1", "10.213.7.5"];
const THERE: [&str; 2] = ["10.213.7.2", "10.213.7.6"];

impl Worlds {
    fn new() -> Result<Self> {
        let worlds = Self { names: [0, 1].map(|i| format!("talkoo{}-{i}", std::process::id() % 100_000)) };
        for (i, name) in worlds.names.iter().enumerate() {
            let (here, there) = (format!("tk{i}h{}", std::process::id() % 10_000), format!("tk{i}t"));
            ip(&["netns", "add", name])?;
            ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", name])?;
            ip(&["addr", "add", &format!("{}/30", HERE[i]), "dev", &here])?;
            ip(&["link", "set", &here, "up"])?;
            ip(&["-n", name, "addr", "add", &format!("{}/30", THERE[i]), "dev", &there])?;
            ip(&["-n", name, "link", "set", &there, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(worlds)
    }

    /// Starts talkoo in one of them.
    fn talkoo(&self, i: usize, dir: &Path, bind: &str, arguments: &[&str]) -> Result<Process> {
        let program = std::env::current_exe()?.with_file_name("talkoo");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[i]]).arg(program);
        command.args(["--bind", bind, "--no-mdns", "--threads", "1", "--json", "--data"]).arg(dir).args(arguments);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        Ok(Process(child))
    }
}

impl Drop for Worlds {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip")?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

async fn two_peers(worlds: &Worlds) -> Result<(f64, f64)> {
    const PORT: u16 = 4770;
    let stage = tempfile::tempdir()?;
    let dirs: [PathBuf; 2] = ["a", "b"].map(|name| stage.path().join(name));
    let file = stage.path().join("run.toml");
    std::fs::write(&file, RUN)?;
    let config = Config::preset("tiny", 2048, 128)?;
    let theta = model::init(&Layout::new(&config, &Part::whole(&config)), config.num_hidden_layers, 11);
    model::export(&stage.path().join("model"), &config, &theta, b"{}", (0, "<|endoftext|>"), &ModelCard::default())?;
    let create =
        ["train", "create", file.to_str().context("utf-8")?, "--members", "2", "--mbit", "50", "--rtt-ms", "50"];
    let mut a = worlds.talkoo(0, &dirs[0], &format!("{}:{PORT}", THERE[0]), &create)?;
    let mut line = String::new();
    BufReader::new(a.0.stdout.take().context("piped")?).read_line(&mut line)?;
    let created: Value = serde_json::from_str(&line).context("talkoo train create")?;
    let mut ticket: Ticket = created["ticket"].as_str().context("a ticket")?.parse()?;

    // The second peer knows the first at the forwarder's end of its own cable.
    let ends = [UdpSocket::bind((HERE[0], 0)).await?, UdpSocket::bind((HERE[1], 0)).await?];
    ticket.peers[0].sockets = vec![ends[1].local_addr()?];
    forward(ends, format!("{}:{PORT}", THERE[0]).parse()?);
    let _b = worlds.talkoo(1, &dirs[1], &format!("{}:{PORT}", THERE[1]), &["train", "join", &ticket.to_string()])?;

    let begun = Instant::now();
    let first = [reach(&dirs[0], WARM_ROUNDS, begun)?, reach(&dirs[1], WARM_ROUNDS, begun)?];
    let last = [reach(&dirs[0], WARM_ROUNDS + ROUNDS, begun)?, reach(&dirs[1], WARM_ROUNDS + ROUNDS, begun)?];
    let parts = first.iter().zip(&last).map(|((at, first), (then, last))| {
        let busy = last["busy_ms"].as_u64().unwrap_or(0) - first["busy_ms"].as_u64().unwrap_or(0);
        100.0 * busy as f64 / (*then - *at).as_millis() as f64
    });
    let parts: Vec<f64> = parts.collect();
    println!("utilisation by peer: {parts:.1?} %");
    let rounds = last[0].1["rounds"].as_array().context("rounds")?;
    let took = rounds.iter().rev().take(ROUNDS as usize).filter_map(|round| round["took_ms"].as_f64()).collect();
    Ok((parts.iter().sum::<f64>() / 2.0, median(took) / 1e3))
}

/// Follows a node's run until it has so many versions; gives the moment and what it showed then.
fn reach(dir: &Path, version: u64, begun: Instant) -> Result<(Instant, Value)> {
    let program = std::env::current_exe()?.with_file_name("talkoo");
    while begun.elapsed() < DEADLINE {
        let mut command = Command::new(&program);
        command.args(["--json", "--data"]).arg(dir).args(["train", "watch"]);
        let mut watch = Process(command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        for line in BufReader::new(watch.0.stdout.take().context("piped")?).lines() {
            let run: Value = serde_json::from_str(&line?)?;
            if run["version"].as_u64().is_some_and(|reached| reached >= version) {
                return Ok((Instant::now(), run));
            }
        }
    }
    bail!("version {version} did not come in time")
}

/// Passes datagrams between the peers behind the two sockets. The first is at `first`, the second
/// is wherever it calls from.
fn forward(ends: [UdpSocket; 2], first: SocketAddr) {
    let [one, two] = ends.map(Arc::new);
    let (caller, called) = watch::channel(None);
    let (known, at_first) = watch::channel(Some(first));
    tokio::spawn(one_way(two.clone(), one.clone(), Some(caller), at_first));
    tokio::spawn(async move {
        let _known = known;
        one_way(one, two, None, called).await;
    });
}

async fn one_way(
    from: Arc<UdpSocket>,
    to: Arc<UdpSocket>,
    caller: Option<watch::Sender<Option<SocketAddr>>>,
    target: watch::Receiver<Option<SocketAddr>>,
) {
    let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, datagram)) = queued.recv().await {
            tokio::time::sleep_until(at.into()).await;
            let known = *target.borrow();
            if let Some(target) = known {
                let _ = to.send_to(&datagram, target).await;
            }
        }
    });
    let mut free = Instant::now();
    let mut buffer = vec![0; 1 << 16];
    while let Ok((len, sender)) = from.recv_from(&mut buffer).await {
        if let Some(caller) = &caller {
            caller.send_replace(Some(sender));
        }
        let now = Instant::now();
        let start = free.max(now);
        // A full queue drops, which is how a sender learns the rate.
        if (start - now).as_secs_f64() > QUEUE_S {
            continue;
        }
        // Headers of IP and UDP travel too.
        free = start + Duration::from_secs_f64((len + 28) as f64 * 8.0 / BITS_PER_S);
        if queue.send((free + ONE_WAY, buffer[..len].to_vec())).is_err() {
            return;
        }
    }
}
