//! Real nodes on loopback: overhead of a round, bytes beside updates, first round, resync.

use crate::{Bar, Book};
use anyhow::{Context, Result};
use base::{CHUNK_BYTES, ChunkTree, Hash, NodeId, Reject, Wire};
use bytes::Bytes;
use net::{Content, Net, NetConfig};
use node::{Node, NodeConfig};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use swarm::Spec;
use trainer::Limits;

pub(crate) fn measure(book: &mut Book) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        resync(book).await?;
        four_peers(book).await
    })
}

fn node_config(dir: &Path) -> NodeConfig {
    NodeConfig {
        dir: dir.to_owned(),
        bind: ([127, 0, 0, 1], 0).into(),
        mdns: false,
        relays: vec![],
        rates: (0, 0),
        minded: false,
        limits: Limits { threads: 1, duty_percent: 100 },
        device: "cpu".into(),
        eval_tokens: 0,
    }
}

/// Four peers, a model so small that a round is its overhead.
async fn four_peers(book: &mut Book) -> Result<()> {
    const ROUNDS: u64 = 40;
    let dir = tempfile::tempdir()?;
    let begun = Instant::now();
    let corpus = dir.path().join("corpus");
    let built = tokio::task::block_in_place(|| data::shipped::build(&corpus))?;
    let config = model::ModelConfig::preset("nano", 2048, 16)?;
    let layout = model::Layout::new(&config, &model::Part::whole(&config));
    let spec = Spec {
        // Joining takes a few hundred rounds of a member alone: they are ten milliseconds long.
        tokens: 64 * (ROUNDS + 600),
        train_window_ms: 20_000,
        exchange_ms: (5_000, 20_000),
        ..Spec::plain("overhead", String::from_utf8(config.to_json(0))?, layout.len as u64, built.manifest.root())
    };
    let first = Node::start(node_config(&dir.path().join("1"))).await?;
    let ticket = first.create(spec, &corpus, None, ledger::Credits::ZERO).await?;
    let mut watch = first.watch();
    let wait = Duration::from_secs(180);
    let one = watch.wait_for(|status| status.runs.first().is_some_and(|run| run.version >= 1));
    tokio::time::timeout(wait, one).await.context("the first round did not close")??;
    let how = "within this program, nano model: shipped corpus built, node started, run created, first round closed (one member)";
    let seconds = begun.elapsed().as_secs_f64();
    book.add("quick", "swarm.first_round", (seconds, "s"), Bar::Most(60.0), "<= 20", how);
    let mut nodes = vec![first];
    for i in 2..=4 {
        let node = Node::start(node_config(&dir.path().join(i.to_string()))).await?;
        node.follow(ticket.clone()).await?;
        nodes.push(node);
    }
    let version = watch.borrow().runs.first().map_or(0, |run| run.version);
    let before = (loopback_bytes()?, content_bytes(&nodes));
    let ended = watch.wait_for(|status| status.runs.first().is_some_and(|run| run.ended));
    let status = tokio::time::timeout(wait, ended).await.context("the run did not end")??.clone();
    let passed = loopback_bytes()? - before.0;
    let content = content_bytes(&nodes) - before.1;
    let run = &status.runs[0];
    // A round of a set of four is four rounds of a member.
    let rounds: usize = run.rounds.iter().filter(|round| round.round >= version).map(|round| round.set).sum();
    anyhow::ensure!(rounds > 0, "no round closed after all had come");
    let together: Vec<f64> = run.rounds.iter().filter(|r| r.set == 4).map(|r| r.took_ms as f64).collect();
    anyhow::ensure!(together.len() >= 10, "too few rounds of four members: {}", together.len());
    let how = "four nodes on loopback, single-node log, 0.2 M parameters: whole round with about 5 ms of training";
    book.add("quick", "swarm.round.overhead", (together, "ms"), Bar::Most(60.0), "<= 15", how);
    for node in &nodes {
        node.close().await?;
    }
    drop(nodes);
    let folder = dir.path().join("1");
    let _kept = let_go_of(&folder).await?;
    let blocks = replica::ChainStore::open(&replica::chain_dir(&folder, &ticket.chain))?.works()?;
    let how = "real nodes: from the round that was open when a newcomer had the weights to that of its first unit, the longest";
    book.add(
        "quick",
        "swarm.join.rounds",
        (join_rounds(ticket.chain, &blocks) as f64, "rounds"),
        Bar::Most(2.0),
        "same",
        how,
    );
    let bytes: usize = blocks.iter().map(|block| block.to_bytes().len()).sum();
    let how = format!(
        "four nodes on loopback, rounds with about 5 ms of training: all bytes of the interface less those of the content that nodes gave \
         to each other, per member and round: what carries updates and acknowledges them is in it, and whatever else is on loopback; the \
         log's blocks are {:.1} kB a round",
        bytes as f64 / run.version as f64 / 1000.0
    );
    let per_round = passed.saturating_sub(content) as f64 / rounds as f64 / 1000.0;
    book.add("quick", "swarm.bytes.other", (per_round, "kB/member/round"), Bar::Most(16.0), "<= 8", &how);
    Ok(())
}

/// The folder of a node that was closed: a thread that trains keeps it until its unit ends.
async fn let_go_of(dir: &Path) -> Result<trainer::Store> {
    let begun = Instant::now();
    loop {
        match trainer::Store::open(dir) {
            Err(_) if begun.elapsed() < Duration::from_secs(20) => tokio::time::sleep(Duration::from_millis(50)).await,
            opened => return opened,
        }
    }
}

/// Bytes that were sent on loopback, by whomever.
fn loopback_bytes() -> Result<u64> {
    let path = "/sys/class/net/lo/statistics/tx_bytes";
    std::fs::read_to_string(path).context(path)?.trim().parse().context(path)
}

/// Bytes of updates and weights that nodes gave away.
fn content_bytes(nodes: &[Arc<Node>]) -> u64 {
    nodes.iter().map(|node| node.status().sent_bytes).sum()
}

/// The most rounds between a member's `Ready` and the round of its first unit, from the log.
fn join_rounds(chain: base::Hash, blocks: &[swarm::WorkBlock]) -> u64 {
    let mut state = swarm::RunsState::new(chain, 0);
    let (mut ready, mut longest) = (BTreeMap::new(), 0);
    for block in blocks {
        if state.apply(block).is_err() {
            break;
        }
        for run in state.runs.values() {
            for (id, member) in &run.members {
                let open = run.next.0.saturating_sub(1);
                if member.status == swarm::Standing::Active {
                    ready.entry(*id).or_insert(open);
                }
                if let (1, Some(first), Some(ready)) = (member.units, member.last, ready.get(id)) {
                    longest = longest.max(first.0.saturating_sub(*ready));
                }
            }
        }
    }
    longest
}

struct One(Bytes, Arc<ChunkTree>);

impl Content for One {
    fn tree(&self, root: &Hash, _by: &NodeId) -> Option<Arc<ChunkTree>> {
        (self.1.root() == *root).then(|| self.1.clone())
    }
    fn chunk(&self, root: &Hash, index: usize, _by: &NodeId) -> Option<Bytes> {
        (self.1.root() == *root && index < self.1.chunks.len()).then(|| self.0.slice(self.1.range(index)))
    }
    fn sent(&self, _bytes: usize) {}
    fn refused(&self, _by: &NodeId, _why: Reject) {}
}

/// One of forty chunks differs: how many move?
async fn resync(book: &mut Book) -> Result<()> {
    let content: Vec<u8> = (0..40 * CHUNK_BYTES).map(|i| (i / 977) as u8).collect();
    let mut other = content.clone();
    other[17 * CHUNK_BYTES + 5] ^= 1;
    let tree = Arc::new(ChunkTree::of(&content));
    let root = tree.root();
    let open = |secret: u8, content: Arc<One>| {
        let config = NetConfig {
            secret: [secret; 32],
            bind: ([127, 0, 0, 1], 0).into(),
            mdns: false,
            relays: vec![],
            rates: (0, 0),
        };
        Net::open(config, content, None, None)
    };
    let holder = open(1, Arc::new(One(content.into(), tree))).await?;
    let empty = ChunkTree::of(&[]);
    let asker = open(2, Arc::new(One(Bytes::new(), Arc::new(empty)))).await?;
    asker.know(&holder.address());
    let fetched = asker.fetch(root, u64::MAX, &[holder.id()], other, &|_, _| {}).await?;
    let how = "40 MiB of weights of which one byte differs, fetched by root over a real connection";
    book.add("quick", "swarm.resync.chunks", (fetched.moved as f64, "chunks"), Bar::Most(1.05), "1", how);
    holder.close().await;
    asker.close().await;
    Ok(())
}
