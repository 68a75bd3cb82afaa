//! One virtual machine: a peer in memory, a disk that outlives it, a clock of its own.

use crate::scenario::{Liar, Part};
use base::{Hash, Keypair, NodeId};
use std::collections::{BTreeSet, VecDeque};
use swarm::{DOMAIN, Output, Peer, RunsState, SignedWorkTx, WorkEnvelope, WorkTx};

/// Versions of the weights kept in memory for others: a quorum knows a root one round late, with delay two.
const VERSIONS_KEPT: usize = 4;

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// The last [`Output::Remember`].
    pub remembered: Option<Output>,
    /// The last snapshot of the weights.
    pub weights: Option<(u64, Hash)>,
    /// Weights made alone, by root.
    pub plain: BTreeSet<Hash>,
    /// Updates, own and fetched.
    pub updates: BTreeSet<Hash>,
    /// Private states, by hash.
    pub states: BTreeSet<Hash>,
    /// Last running number used.
    pub seq: u64,
}

pub(crate) struct Node {
    pub key: Keypair,
    pub id: NodeId,
    pub part: Part,
    pub chain: Hash,
    pub peer: Peer,
    pub disk: Disk,
    /// Whether its process runs.
    pub up: bool,
    /// Counts processes: what an earlier one awaited reaches nobody.
    pub epoch: u64,
    /// Height of the log that an earlier process had seen, and whether the next one reads on before it acts.
    pub height: u64,
    pub whole_log: bool,
    /// Its stream of blocks: counts connections, whether one stands, the next height, the last arrival.
    pub stream: u64,
    pub streaming: bool,
    pub stream_next: u64,
    pub stream_ms: u64,
    /// The last versions of the weights, in memory.
    pub held: VecDeque<(u64, Hash)>,
    pub wake_ms: Option<u64>,
    /// Outputs carried out, to crash between two of them.
    pub outputs: u64,
    pub quit: bool,
    /// Whether a disk was ever lost: only then error feedback may be.
    pub wiped: bool,
    /// When its trainer was busy.
    pub busy: Vec<(u64, u64)>,
    /// What was computed beside a unit and is to be taken from the next one.
    pub owed_ms: u64,
    /// Until when its link and its processor have work.
    pub up_ms: u64,
    pub down_ms: u64,
    pub verify_ms: u64,
}

impl Node {
    pub fn new(key: Keypair, part: Part, chain: Hash) -> Self {
        let id = key.id();
        Self {
            key,
            id,
            part,
            chain,
            peer: Peer::new(id, RunsState::new(chain, 0)),
            disk: Disk::default(),
            up: false,
            epoch: 0,
            height: 0,
            whole_log: true,
            stream: 0,
            streaming: false,
            stream_next: 1,
            stream_ms: 0,
            held: VecDeque::new(),
            wake_ms: None,
            outputs: 0,
            quit: false,
            wiped: false,
            busy: Vec::new(),
            owed_ms: 0,
            up_ms: 0,
            down_ms: 0,
            verify_ms: 0,
        }
    }

    pub fn honest(&self) -> bool {
        self.part.liar.is_none() || self.lies(Liar::Flipped)
    }

    pub fn lies(&self, liar: Liar) -> bool {
        self.part.liar == Some(liar)
    }

    /// Signs with the next running number, which is on disk before anything is sent.
    pub fn sign(&mut self, tx: WorkTx) -> SignedWorkTx {
        self.disk.seq += 1;
        let envelope = WorkEnvelope { chain: self.chain, seq: self.disk.seq, work: 0, tx };
        SignedWorkTx::new(DOMAIN, &self.key, envelope)
    }

    /// Takes weights into memory and, now and then, to disk.
    pub fn hold(&mut self, version: u64, root: Hash) {
        let follows = self.held.back().is_some_and(|(last, _)| last + 1 == version);
        self.held.push_back((version, root));
        if self.held.len() > VERSIONS_KEPT {
            self.held.pop_front();
        }
        if !follows || version.is_multiple_of(self.part.snapshot_every) {
            self.disk.weights = Some((version, root));
        }
    }

    /// Whether it can serve these weights.
    pub fn has_weights(&self, root: &Hash) -> bool {
        let held = self.held.iter().chain(&self.disk.weights).any(|(_, own)| own == root);
        held || self.disk.plain.contains(root)
    }

    /// The process is gone; the disk stays.
    pub fn stop(&mut self, now: u64) {
        self.height = self.peer.state().height;
        self.up = false;
        self.epoch += 1;
        self.stream += 1;
        self.streaming = false;
        self.wake_ms = None;
        self.held.clear();
        if let Some((_, end)) = self.busy.last_mut() {
            *end = now.min(*end);
        }
    }
}
