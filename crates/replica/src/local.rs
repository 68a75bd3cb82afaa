//! Keepers of one network in one process, with packets in memory: for tests of faults and for measurements.

use crate::disk::Disk;
use crate::replica::{Connections, Replica, ReplicaConfig, ReplicaError};
use crate::wires::Packet;
use base::{Keypair, Millis, NodeId, Reject, Wire};
use chain::{Block, Founder, Genesis, Step};
use ledger::{Credits, Params};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// Packets that wait to be taken.
const QUEUE: usize = 1 << 16;

/// A disk in memory that outlives its keeper.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    inner: Mutex<MemoryInner>,
}

#[derive(Debug, Default)]
struct MemoryInner {
    kept: BTreeMap<u64, Vec<Vec<u8>>>,
    finals: BTreeMap<u64, Vec<u8>>,
    certificates: BTreeMap<u64, Vec<u8>>,
    ends: BTreeMap<u64, Step>,
    state: Option<Vec<u8>>,
    room: Option<u64>,
}

impl MemoryDisk {
    fn with<T>(&self, with: impl FnOnce(&mut MemoryInner) -> T) -> io::Result<T> {
        Ok(with(&mut self.inner.lock().expect("nobody panics while holding it")))
    }
}

impl MemoryDisk {
    /// From now on so many bytes of the disk are free.
    pub fn leave(&self, room: u64) {
        self.inner.lock().expect("nobody panics while holding it").room = Some(room);
    }
}

impl Disk for MemoryDisk {
    fn keep(&self, block: &Block) -> io::Result<()> {
        self.with(|inner| inner.kept.entry(block.header.height).or_default().push(block.to_bytes()))
    }

    fn kept(&self) -> io::Result<Vec<Vec<u8>>> {
        self.with(|inner| inner.kept.values().flatten().cloned().collect())
    }

    fn finish(&self, blocks: &[Block], certificate: &[u8]) -> io::Result<()> {
        let Some(last) = blocks.last() else { return Ok(()) };
        self.with(|inner| {
            for block in blocks {
                let before = inner.finals.insert(block.header.height, block.to_bytes());
                assert!(before.is_none(), "a final block is written once");
            }
            let height = last.header.height;
            inner.certificates.insert(height, certificate.to_vec());
            if last.header.next.is_some() {
                let step = Step { header: last.header.clone(), certificate: certificate.to_vec() };
                inner.ends.insert(last.header.epoch, step);
            }
            inner.kept.retain(|at, _| *at > height);
        })
    }

    fn block(&self, height: u64) -> io::Result<Option<Vec<u8>>> {
        self.with(|inner| inner.finals.get(&height).cloned())
    }

    fn state(&self) -> io::Result<Option<Vec<u8>>> {
        self.with(|inner| inner.state.clone())
    }

    fn keep_state(&self, state: &[u8], ends: &[Step]) -> io::Result<()> {
        self.with(|inner| {
            inner.state = Some(state.to_vec());
            inner.ends.extend(ends.iter().map(|step| (step.header.epoch, step.clone())));
        })
    }

    fn certificate(&self, height: u64) -> io::Result<Option<Vec<u8>>> {
        self.with(|inner| inner.certificates.get(&height).cloned())
    }

    fn end(&self, epoch: u64) -> io::Result<Option<Step>> {
        self.with(|inner| inner.ends.get(&epoch).cloned())
    }

    fn room(&self) -> io::Result<u64> {
        self.with(|inner| inner.room.unwrap_or(u64::MAX))
    }
}

/// What becomes of a packet on its way: nothing, itself, others.
pub type Tamper = dyn Fn(&NodeId, &NodeId, Packet) -> Vec<Packet> + Send + Sync;

type Inlets = Mutex<BTreeMap<NodeId, mpsc::Sender<(NodeId, Packet)>>>;

#[derive(Default)]
struct Air {
    inlets: Inlets,
    /// Ways on which nothing goes.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    tamper: Mutex<Option<Arc<Tamper>>>,
}

/// A network in one process.
pub struct LocalNetwork {
    /// How it begins.
    pub genesis: Genesis,
    /// Keys of seats, of the founders first.
    pub keys: Vec<Keypair>,
    /// Their disks.
    pub disks: Vec<Arc<dyn Disk>>,
    stage: PathBuf,
    air: Arc<Air>,
}

impl LocalNetwork {
    /// `n` founders, whose wallets are their seats' keys, and `opening` balances; journals lie in `stage`.
    pub fn new(n: usize, stage: PathBuf, opening: Vec<(NodeId, Credits)>, epoch_ms: u64) -> Self {
        let keys: Vec<Keypair> = (0..n).map(Self::key).collect();
        let found = |key: &Keypair| Founder { key: key.id(), owner: key.id(), node: key.id() };
        let wallets = keys.iter().map(|key| (key.id(), Credits::whole(1_000)));
        let genesis = Genesis {
            name: "local".into(),
            time: Millis(crate::clock::clock().0.saturating_sub(1)),
            validators: keys.iter().map(found).collect(),
            opening: wallets.chain(opening).collect(),
            money: Params { locked_units: 0, ..Params::default() },
            per_pflop: Credits::whole(1),
            epoch_ms,
            work_bits: 0,
            recovers: None,
        };
        let disks = (0..n).map(|_| Arc::new(MemoryDisk::default()) as Arc<dyn Disk>).collect();
        Self { genesis, keys, disks, stage, air: Arc::default() }
    }

    /// The key of seat `i`.
    pub fn key(i: usize) -> Keypair {
        Keypair::from_secret([100u8.wrapping_add(i as u8); 32])
    }

    /// Starts keeper `i`, or starts it again.
    pub fn start(&self, i: usize) -> Result<Replica, ReplicaError> {
        let (out, mut outgoing) = mpsc::unbounded_channel::<(Vec<NodeId>, Packet)>();
        let (inlet, incoming) = mpsc::channel(QUEUE);
        let me = self.keys[i].id();
        self.inlets().insert(me, inlet);
        let air = self.air.clone();
        tokio::spawn(async move {
            while let Some((to, packet)) = outgoing.recv().await {
                let bytes = packet.to_bytes();
                for id in to {
                    air.carry(&me, &id, &bytes);
                }
            }
        });
        let config = ReplicaConfig {
            genesis: self.genesis.clone(),
            key: Some(Keypair::from_secret(self.keys[i].secret())),
            journal: self.stage.join(format!("journal-{i}")),
            disk: self.disks[i].clone(),
            ends: true,
            note: Arc::new(|_, _| {}),
        };
        Replica::start(config, Connections { out, incoming })
    }

    /// One more machine, which may take a seat.
    pub fn add(&mut self) -> usize {
        let i = self.keys.len();
        self.keys.push(Self::key(i));
        self.disks.push(Arc::new(MemoryDisk::default()));
        i
    }

    /// Gives `keeper` the final blocks of disk `from` that it lacks, as a node does that follows another.
    pub async fn follow(&self, from: usize, keeper: &Replica) -> Result<(), Reject> {
        let (mut blocks, mut height) = (Vec::new(), *keeper.height().borrow());
        let read = |height| {
            let block = self.disks[from].block(height).ok().flatten()?;
            Some((Block::from_bytes(&block).ok()?, self.disks[from].certificate(height).ok()?))
        };
        while let Some((block, certificate)) = read(height.saturating_add(1)) {
            height = height.saturating_add(1);
            blocks.push(block);
            if let Some(certificate) = certificate {
                keeper.offer(std::mem::take(&mut blocks), certificate).await?;
            }
        }
        Ok(())
    }

    /// Stops keeper `i`.
    pub async fn stop(&self, i: usize, keeper: Replica) {
        self.inlets().remove(&self.keys[i].id());
        keeper.stop().await;
    }

    /// Cuts the network in two: nothing goes between `one` and the rest.
    pub fn part(&self, one: &[usize]) {
        let mut cut = self.air.cut.lock().expect("nobody panics while holding it");
        for (i, a) in self.keys.iter().enumerate() {
            for (j, b) in self.keys.iter().enumerate() {
                if one.contains(&i) != one.contains(&j) {
                    cut.insert((a.id(), b.id()));
                }
            }
        }
    }

    /// Everything goes everywhere again.
    pub fn heal(&self) {
        self.air.cut.lock().expect("nobody panics while holding it").clear();
    }

    /// From now on packets go through `tamper`: a dishonest machine.
    pub fn tamper(&self, tamper: Arc<Tamper>) {
        *self.air.tamper.lock().expect("nobody panics while holding it") = Some(tamper);
    }

    /// Puts a packet on its way, as if `from` had sent it.
    pub fn send(&self, from: &NodeId, to: &NodeId, packet: &Packet) {
        self.air.carry(from, to, &packet.to_bytes());
    }

    fn inlets(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, mpsc::Sender<(NodeId, Packet)>>> {
        self.air.inlets.lock().expect("nobody panics while holding it")
    }
}

impl Air {
    /// What a peer sends goes through its encoding; who does not keep up loses it.
    fn carry(&self, from: &NodeId, to: &NodeId, bytes: &[u8]) {
        let cut = self.cut.lock().expect("nobody panics while holding it").contains(&(*from, *to));
        let inlet = self.inlets.lock().expect("nobody panics while holding it").get(to).cloned();
        let tamper = self.tamper.lock().expect("nobody panics while holding it").clone();
        let (Some(inlet), Ok(packet), false) = (inlet, Packet::from_bytes(bytes), cut) else { return };
        let packets = match tamper {
            Some(tamper) => tamper(from, to, packet),
            None => vec![packet],
        };
        for packet in packets {
            let _ = inlet.try_send((*from, packet));
        }
    }
}
