//! What a network costs and how a newcomer gets into it: real nodes left alone, a long chain, crashes, and
//! rounds on four validators against rounds on one.

mod rounds;

use crate::cpu::Cpu;
use crate::{Bar, Book, Figure, Measured, Process};
use anyhow::{Context, Result, ensure};
use base::{Keypair, Millis, NodeId, Wire};
use chain::{Anchor, Block, RootProof, Snapshot, State, Step};
use ledger::Credits;
use node::ControlRequest;
use replica::Disk;
use replica::NetworkFile;
use replica::local::LocalNetwork;
use serde_json::Value;
use sim::{Scenario, logged};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A node that does what it is told, whoever uses the machine.
pub(crate) const UP: [&str; 4] = ["up", "--when", "always", "--no-runs"];
/// Blocks of the long chain, 5 s apart as in an idle network.
const LONG: u64 = 100_000;
/// Accounts in its state.
const ACCOUNTS: u64 = 10_000;
/// How long idle nodes are left alone.
const IDLE: Duration = Duration::from_secs(60);
/// Empty blocks whose bytes on disk are counted.
const EMPTY: u64 = 2_000;
const BLOCKS_PER_DAY: f64 = 86_400.0 / 5.0;

const SYNC: Figure<'static> = Figure { name: "ledger.sync.100k", unit: "s", bar: Bar::Most(60.0), goal: "<= 10" };
const CRASHES: Figure<'static> =
    Figure { name: "ledger.crashes.survived", unit: "kills", bar: Bar::Least(200.0), goal: "10000 in simulation" };

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    disk_per_day(book)?;
    bytes_per_member(book)?;
    runtime.block_on(idle(book))?;
    if !full {
        book.keep(&[SYNC, CRASHES]);
        book.keep(&rounds::FIGURES);
        return Ok(());
    }
    sync(book)?;
    // Ten minutes by itself: `CLAIM_KILLS=0` keeps what was measured last.
    match std::env::var("CLAIM_KILLS") {
        Ok(kills) if kills == "0" => book.keep(&[CRASHES]),
        _ => crashes(book)?,
    }
    rounds::measure(book, &runtime)
}

/// A chain of blocks that somebody with all four keys makes, 5 s apart.
struct Long {
    local: LocalNetwork,
    state: State,
    ends: Vec<Step>,
}

impl Long {
    fn new(stage: &Path, accounts: u64) -> Self {
        let id = |i: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            NodeId(bytes)
        };
        let opening = (0..accounts).map(|i| (id(i), Credits::whole(1))).collect();
        let local = LocalNetwork::new(4, stage.to_owned(), opening, 3_600_000);
        let state = State::new(&local.genesis);
        Self { local, state, ends: Vec::new() }
    }

    /// The next block; certified when it ends an epoch, or when asked for.
    fn next(&mut self, certify: bool) -> Result<(Block, Vec<u8>)> {
        let time = self.state.time().plus(5_000);
        let epoch = self.state.epoch().clone();
        let by = epoch.set[(self.state.height() % 4) as usize];
        let block = self.state.next(by, Vec::new(), time, Vec::new());
        let mut certificate = Vec::new();
        if certify || block.header.next.is_some() {
            let signers: &[Keypair] = &self.local.keys[..3];
            let at = (epoch.number, block.header.height);
            certificate = chain::certify(&self.local.genesis.chain(), &epoch.set, signers, at, &block.hash())?;
        }
        if block.header.next.is_some() {
            self.ends.push(Step { header: block.header.clone(), certificate: certificate.clone() });
        }
        self.state.apply(&block)?;
        Ok((block, certificate))
    }
}

fn sync(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let mut long = Long::new(stage.path(), ACCOUNTS);
    let set = chain::first_set(&long.local.genesis);
    let (first, _) = long.next(false)?;
    while long.state.height() < LONG - 1 {
        long.next(false)?;
    }
    let (height, state) = (long.state.height(), long.state.to_snapshot());
    let (last, certificate) = long.next(true)?;
    let mut steps = long.ends.clone();
    if last.header.next.is_none() {
        steps.push(Step { header: last.header.clone(), certificate });
    }
    let epochs = steps.len();
    let genesis = long.local.genesis.clone();
    let anchor = Anchor { height: 1, hash: first.hash() };
    let snapshot =
        Snapshot { genesis, anchor: Some((first.header, set)), state, proof: RootProof { between: Vec::new(), steps } };
    let bytes = snapshot.to_bytes();
    let begun = Instant::now();
    let snapshot = Snapshot::from_bytes(&bytes)?;
    let (synced, _) = snapshot.check(&long.local.genesis.chain(), Some(&anchor), Millis(0))?;
    let store = replica::ChainStore::open(&stage.path().join("newcomer"))?;
    store.keep_state(&synced.to_snapshot(), &long.ends)?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(synced.height() == height, "it is behind block {}", synced.height());
    let how = format!(
        "from the hash of block 1 to a state on disk behind block {height}, blocks without transactions: {epochs} certificates \
         checked, {ACCOUNTS} accounts, {:.1} MB decoded and its root made anew; the bytes at hand, the network's time not counted",
        bytes.len() as f64 / 1e6
    );
    book.full(SYNC, seconds, &how);
    Ok(())
}

fn disk_per_day(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let mut long = Long::new(stage.path(), 10);
    let store = replica::ChainStore::open(&stage.path().join("store"))?;
    let size = || -> Result<u64> { Ok(std::fs::metadata(stage.path().join("store/blocks.redb"))?.len()) };
    let mut add = |n: u64| -> Result<()> {
        for _ in 0..n {
            let (block, certificate) = long.next(true)?;
            store.keep(&block)?;
            store.finish(&[block], &certificate)?;
        }
        Ok(())
    };
    add(EMPTY)?;
    let before = size()?;
    add(EMPTY)?;
    let per_block = (size()? - before) as f64 / EMPTY as f64;
    let how = format!(
        "growth of the chain's file over {EMPTY} empty blocks of four validators, each with its certificate, times one every 5 s; the \
         journal of votes is not in it"
    );
    book.add("quick", "ledger.idle.disk", (per_block * BLOCKS_PER_DAY / 1e6, "MB/day"), Bar::Most(20.0), "<= 5", &how);
    Ok(())
}

fn bytes_per_member(book: &mut Book) -> Result<()> {
    let members = 64;
    let scenario =
        Scenario { slots: 64, micro_batches: 128, rounds: 6, tokens_rounds: 6, ..Scenario::calm(1, members) };
    let (report, blocks) = logged(&scenario).map_err(|violation| anyhow::anyhow!("{violation}"))?;
    let bytes: usize = blocks.iter().map(|block| block.to_bytes().len()).sum();
    // Joining and creating are no part of a round.
    let entry: usize = blocks
        .iter()
        .flat_map(|block| &block.txs)
        .filter(|tx| {
            matches!(
                tx.value.tx,
                swarm::WorkTx::Create { .. } | swarm::WorkTx::Join { .. } | swarm::WorkTx::Ready { .. }
            )
        })
        .map(|tx| tx.to_bytes().len())
        .sum();
    let value = (bytes - entry) as f64 / (report.rounds as f64 * members as f64);
    let how = "simulated run of 64 members in 64 slots: bytes of the log but for joining, per member and closed round";
    book.add("quick", "ledger.bytes.member_round", (value, "bytes"), Bar::Most(600.0), "<= 40", how);
    Ok(())
}

/// A node with what it is told on its command line.
pub(crate) fn talkoo(dir: &Path, bind: &str, arguments: &[&str]) -> Result<Process> {
    let program = std::env::current_exe()?.with_file_name("talkoo");
    let mut command = Command::new(program);
    command.args(["--bind", bind, "--no-mdns", "--threads", "1", "--json", "--data"]).arg(dir).args(arguments);
    Ok(Process(command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null()).spawn()?))
}

/// Data folders and addresses of a network of `n` that nobody has started.
pub(crate) fn found(stage: &Path, n: usize) -> Result<Vec<(std::path::PathBuf, String)>> {
    let sockets = (0..n).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let binds = sockets.iter().map(|s| Ok(s.local_addr()?.to_string())).collect::<Result<Vec<_>>>()?;
    let dirs: Vec<_> = (0..n).map(|i| stage.join(format!("of-{n}-{i}"))).collect();
    let seats =
        dirs.iter().zip(&binds).map(|(dir, bind)| replica::seat(dir, bind.parse()?, None)).collect::<Result<_>>()?;
    let network = NetworkFile::new("figures", seats)?;
    dirs.iter().try_for_each(|dir| replica::join_network(dir, &network).map(|_| ()))?;
    Ok(dirs.into_iter().zip(binds).collect())
}

/// Asks a node, as soon as it answers.
pub(crate) async fn answer(dir: &Path, request: &ControlRequest) -> Result<Value> {
    let begun = Instant::now();
    loop {
        match node::call(dir, request).await {
            Ok(Some(value)) => return Ok(value),
            other => ensure!(begun.elapsed() < Duration::from_secs(30), "the node does not answer: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn idle(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let (one, four) = (found(stage.path(), 1)?, found(stage.path(), 4)?);
    let mut nodes = Vec::new();
    for (dir, bind) in one.iter().chain(&four) {
        nodes.push((talkoo(dir, bind, &UP)?, dir));
    }
    for (_, dir) in &nodes {
        let key = Keypair::from_secret([9; 32]).id();
        let send = ledger::WalletTx::Transfer { to: key, amount: Credits::whole(1) };
        answer(dir, &ControlRequest::Spend { network: None, tx: base::to_hex(&send.to_bytes()) }).await?;
    }
    let before: Vec<Cpu> = nodes.iter().map(|(node, _)| Cpu::of(node.0.id())).collect::<Result<_>>()?;
    let begun = Instant::now();
    tokio::time::sleep(IDLE).await;
    let mut shares = Vec::new();
    for ((node, _), before) in nodes.iter().zip(&before) {
        shares.push(100.0 * Cpu::of(node.0.id())?.since(before) / begun.elapsed().as_secs_f64());
    }
    let how = format!(
        "a real node of a network of one after one transfer, left alone for {} s: time of its threads on a processor (schedstat) over \
         wall; it looks for no runs and not at its machine",
        IDLE.as_secs()
    );
    book.add("quick", "ledger.idle.cpu_one", (shares[0], "%"), Bar::Most(0.5), "<= 0.1", &how);
    let four = &shares[1..];
    let mean = four.iter().sum::<f64>() / four.len() as f64;
    let worst = four.iter().copied().fold(0.0, f64::max);
    let how = format!("the same for each of four on this machine, mean; the busiest {worst:.3} %");
    let mean = Measured::out_of(mean, four);
    book.add("quick", "ledger.idle.cpu_four", (mean, "%"), Bar::Most(0.5), "<= 0.1", &how);
    let memory = nodes[1..].iter().map(|(node, _)| resident(node.0.id())).collect::<Result<Vec<f64>>>()?;
    let most = memory.into_iter().fold(0.0, f64::max);
    let how = "the same four: resident memory of the largest";
    book.add("quick", "ledger.memory", (most, "MB"), Bar::Most(200.0), "<= 100", how);
    Ok(())
}

/// Resident memory of a process in MB.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// The test of crash points, longer.
fn crashes(book: &mut Book) -> Result<()> {
    let test = Command::new("cargo")
        .args(["test", "--workspace", "--test", "faults", "a_kill_at_any_place", "--", "--nocapture"])
        .env("TALKOO_CRASHES", "200")
        .output()?;
    let said = String::from_utf8_lossy(&test.stdout);
    ensure!(said.contains("running 1 test"), "the test of crash points was not run; is it called otherwise now?");
    let kills = survived(&said);
    let how = "a real node killed with SIGKILL at seven labelled places of submit, keep, finish and apply in turn; after each restart \
               supply is what is held, every final block is there, and each transfer was done once; kills that the test counted";
    book.full(CRASHES, kills, how);
    Ok(())
}

/// The last count of kills that the test printed; behind it stands nothing where a later one was not survived.
fn survived(said: &str) -> f64 {
    let mut counts = said.lines().filter_map(|line| line.split_once("kills survived: ")?.1.trim().parse().ok());
    counts.next_back().unwrap_or_default()
}

/// A run of the smallest model that does not end, in rounds of `target_seconds`.
pub(crate) fn run_file(name: &str, batch_tokens: u64, target_seconds: u64) -> String {
    format!(
        r#"
[run]
name = "{name}"
seed = 3
[model]
size = "nano"
[data]
seq_len = 32
[train]
tokens = 100000000
batch_tokens = {batch_tokens}
micro_batch = 1
lr = 1e-3
[round]
mode = "gradients"
target_seconds = {target_seconds}
"#
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn kills_are_those_that_the_test_counted() {
        let said = "running 1 test\ntest a_kill ... kills survived: 1\nkills survived: 2\nthread panicked\n";
        assert_eq!(super::survived(said), 2.0);
        assert_eq!(super::survived("running 1 test\n"), 0.0);
    }
}
