//! Four validators in one process on this machine: real engines and disks, packets through their encoding.

use crate::{Bar, Book, Measured};
use anyhow::{Context, Result};
use base::{Keypair, Signed, Wire};
use chain::{Genesis, Tx};
use ledger::Credits;
use replica::Replica;
use replica::local::LocalNetwork;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const VALIDATORS: usize = 4;
/// Transfers one after the other.
const SINGLE: usize = 1_000;
/// Senders of the load, one transfer each.
const SENDERS: usize = 16_000;
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// How long blocks are counted.
const COUNTED: Duration = Duration::from_secs(10);

pub(crate) fn measure(book: &mut Book) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let stage = tempfile::tempdir()?;
    let (mut latency, rate, alive, dead) = runtime.block_on(async {
        let mut network = Network::start(stage.path())?;
        let latency = network.latency().await?;
        let rate = network.rate().await?;
        let alive = network.load(SENDERS + 1);
        let alive = network.blocks(alive).await?;
        // Signed before: nothing is between the end of one and the counting.
        let load = network.load(2 * SENDERS);
        let gone = network.validators[3].take().context("it runs")?;
        // From the moment on in which nothing comes from it any more: until its turns as leader are skipped, the others
        // wait for it. What it still does by itself before it stops reaches nobody.
        network.local.part(&[3]);
        let stopped = tokio::spawn(async move { gone.stop().await });
        let dead = network.blocks(load).await?;
        stopped.await?;
        anyhow::Ok((latency, rate, alive, dead))
    })?;
    latency.sort_by(f64::total_cmp);
    let (p50, p99) = (latency[SINGLE / 2], latency[SINGLE * 99 / 100]);
    let how = "four validators in one process on two cores, disks synced, packets in memory; 1,000 transfers one after the other, from submission to final on the same validator";
    book.add("quick", "ledger.finality.p50", (Measured::out_of(p50, &latency), "ms"), Bar::Most(150.0), "<= 60", how);
    book.add("quick", "ledger.finality.p99", (Measured::out_of(p99, &latency), "ms"), Bar::Most(400.0), "<= 150", how);
    let how = "the same four; 16,000 transfers of distinct senders, every validator checks every signature, from the first submission to the last one final";
    book.add("quick", "ledger.finalized.rate", (rate, "transfers/s"), Bar::Least(1_000.0), ">= 5000", how);
    let how = format!(
        "the same, transfers always waiting, for {} s from the moment in which one is cut off and stopped; with all alive {:.0} blocks/s, so {:.2} of it",
        COUNTED.as_secs(),
        alive.rate,
        dead.rate / alive.rate
    );
    book.add("quick", "ledger.one_dead.blocks", (dead.rate, "blocks/s"), Bar::Least(10.0), ">= 0.7 x all alive", &how);
    let how = "the same seconds: the longest time without a new block";
    book.add("quick", "ledger.one_dead.gap", (dead.gap.as_secs_f64(), "s"), Bar::Most(5.0), "<= 1", how);
    Ok(())
}

struct Network {
    genesis: Genesis,
    local: LocalNetwork,
    validators: Vec<Option<Replica>>,
}

fn sender(i: usize) -> Keypair {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&(i as u64).to_le_bytes());
    Keypair::from_secret(secret)
}

impl Network {
    fn start(stage: &Path) -> Result<Self> {
        let opening = (0..=3 * SENDERS).map(|i| (sender(i).id(), Credits::whole(100))).collect();
        let mut local = LocalNetwork::new(VALIDATORS, stage.to_owned(), opening, 3_600_000);
        for (i, disk) in local.disks.iter_mut().enumerate() {
            *disk = Arc::new(replica::ChainStore::open(&stage.join(format!("store-{i}")))?);
        }
        let validators = (0..VALIDATORS).map(|i| local.start(i).map(Some)).collect::<Result<_, _>>()?;
        Ok(Self { genesis: local.genesis.clone(), local, validators })
    }

    fn transfer(&self, from: usize, nonce: u64) -> Vec<u8> {
        let tx = ledger::WalletTx::Transfer { to: sender(3 * SENDERS).id(), amount: Credits(1) };
        let envelope = ledger::WalletEnvelope { chain: self.genesis.chain(), nonce, tx };
        Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &sender(from), envelope) }.to_bytes()
    }

    fn at(&self, i: usize) -> &Replica {
        self.validators[i].as_ref().expect("it runs")
    }

    async fn until(&self, i: usize, total: u64) -> Result<()> {
        let target = Credits::whole(100).0 + total;
        let to = sender(3 * SENDERS).id();
        let got = || self.at(i).look(|o| o.state().money().account(&to).map_or(0, |a| a.balance.0));
        let mut height = self.at(i).height();
        let wait = async {
            while got() < target {
                height.changed().await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(LIMIT, wait).await.context("the chain stands still")?
    }

    async fn latency(&mut self) -> Result<Vec<f64>> {
        let mut out = Vec::new();
        for nonce in 0..SINGLE as u64 {
            let tx = self.transfer(0, nonce);
            let begun = Instant::now();
            self.at(1).submit(&tx)?;
            self.until(1, nonce + 1).await?;
            out.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(out)
    }

    async fn rate(&mut self) -> Result<f64> {
        let txs: Vec<Vec<u8>> = (1..=SENDERS).map(|i| self.transfer(i, 0)).collect();
        let begun = Instant::now();
        for (i, tx) in txs.iter().enumerate() {
            self.at(i % VALIDATORS).submit(tx)?;
            // Whoever submits leaves the engines their turn.
            if i % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.until(0, (SINGLE + SENDERS) as u64).await?;
        Ok(SENDERS as f64 / begun.elapsed().as_secs_f64())
    }

    /// Transfers of the senders from `first` on.
    fn load(&self, first: usize) -> Vec<Vec<u8>> {
        (first..first + SENDERS - 1).map(|i| self.transfer(i, 0)).collect()
    }

    /// Blocks under a light load, from now on.
    async fn blocks(&mut self, txs: Vec<Vec<u8>>) -> Result<Blocks> {
        let (begun, mut heights) = (Instant::now(), self.at(0).height());
        let from = *heights.borrow_and_update();
        let (mut last, mut gap) = (begun, Duration::ZERO);
        // A light stream that is never empty: blocks are counted, not transfers.
        for tx in txs {
            self.at(0).submit(&tx)?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            if heights.has_changed()? {
                heights.mark_unchanged();
                last = Instant::now();
            }
            gap = gap.max(last.elapsed());
            if begun.elapsed() > COUNTED {
                let blocks = *heights.borrow() - from;
                return Ok(Blocks { rate: blocks as f64 / begun.elapsed().as_secs_f64(), gap });
            }
        }
        anyhow::bail!("the load ended too early")
    }
}

/// Blocks of some seconds.
struct Blocks {
    /// Per second.
    rate: f64,
    /// The longest time without one.
    gap: Duration,
}
