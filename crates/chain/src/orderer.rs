//! What one validator knows and answers, purely: which block to propose on a parent, whether another's is
//! valid, what has become final. The engine that asks, the disk and the network are its driver's.

use crate::block::{Block, Header, Tx};
use crate::genesis::Genesis;
use crate::light::AccountProof;
use crate::limits::{BLOCK_BYTES_MAX, BLOCK_TXS_MAX};
use crate::mempool::Mempool;
use crate::state::{Happened, State};
use base::{Hash, Millis, NodeId, Reject, Wire};
use std::collections::{BTreeMap, BTreeSet};

/// An idle network makes a block every so often.
pub const HEARTBEAT_MS: u64 = 5_000;
/// A block may be so far ahead of the verifier's clock.
pub const AHEAD_MS: u64 = 1_000;

/// Blocks may be kept so far ahead of the last final one.
const AHEAD_BLOCKS: u64 = 1 << 16;
/// Final blocks whose hashes are known, for whoever asks for one or hears of it again.
const RECENT: u64 = 4096;

/// A validator's view of the chain, or a follower's.
pub struct Orderer {
    /// Hashes of the last final blocks, with their heights; the genesis first.
    recent: BTreeMap<Hash, u64>,
    state: State,
    mempool: Mempool,
    /// Blocks that are not final.
    bodies: BTreeMap<Hash, Block>,
    /// A second state, ahead of the final one, and the blocks between them in order. Blocks nearly always
    /// follow each other in one line: each is applied twice, and no state is ever copied but after a fork.
    head: Option<State>,
    between: Vec<Hash>,
}

/// Whose turn it is to propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// In which epoch.
    pub epoch: u64,
    /// The validator whose turn it is.
    pub leader: NodeId,
    /// Validators from which it heard nothing of late; only it says so.
    pub missing: Vec<NodeId>,
}

/// What is to be said of a proposed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Valid for everybody.
    Valid,
    /// Wrong for everybody, for ever.
    Invalid(Reject),
    /// This block must be had first.
    Missing(Hash),
    /// Ask again at this time: the proposer's clock is ahead.
    Later(Millis),
}

impl Orderer {
    /// At the genesis.
    pub fn new(genesis: &Genesis) -> Self {
        Self::behind_state(State::new(genesis))
    }

    /// Behind the last block of a state that is final.
    pub fn behind_state(state: State) -> Self {
        let height = state.height();
        let (mempool, bodies) = (Mempool::default(), BTreeMap::new());
        Self {
            recent: BTreeMap::from([(state.tip(), height)]),
            state,
            mempool,
            bodies,
            head: None,
            between: Vec::new(),
        }
    }

    /// The state behind the last final block.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Proves what `owner` holds behind the last final block.
    pub fn prove(&mut self, owner: &NodeId) -> AccountProof {
        self.state.prove(owner)
    }

    /// Takes a transaction for a later block, or refuses it with a reason; says whether it is new.
    pub fn submit(&mut self, tx: Tx) -> Result<bool, Reject> {
        self.mempool.submit(&self.state, tx)
    }

    /// Wallet transactions of `by` that wait for a block.
    pub fn waiting(&self, by: &NodeId) -> u64 {
        self.mempool.waiting(by)
    }

    /// Takes a block that is not final; gives its hash.
    pub fn body(&mut self, block: Block) -> Hash {
        let hash = block.hash();
        let height = block.header.height;
        let final_height = self.state.height();
        if height > final_height && height <= final_height.saturating_add(AHEAD_BLOCKS) {
            self.bodies.insert(hash, block);
        }
        hash
    }

    /// Lets go of a block that is not final and that nothing was built on here.
    pub fn forget(&mut self, hash: &Hash) {
        if !self.between.contains(hash) {
            self.bodies.remove(hash);
        }
    }

    /// A block that is not final.
    pub fn block(&self, hash: &Hash) -> Option<&Block> {
        self.bodies.get(hash)
    }

    /// The block to propose in `turn` on `parent`, or when one will be due: there is nothing to put in order yet.
    pub fn propose(&mut self, turn: &Turn, parent: &Hash, now: Millis) -> Result<Result<Block, Millis>, Judgement> {
        if self.behind(parent)?.epoch().number > turn.epoch {
            // Nothing follows the last block of an epoch in it: that one is proposed until it is final.
            return self.bodies.get(parent).cloned().map(Ok).ok_or(Judgement::Missing(*parent));
        }
        let taken = self.taken(parent)?;
        let more = self.mempool.has_more(&taken);
        let state = self.behind(parent)?;
        let heartbeat = state.time().plus(HEARTBEAT_MS);
        let due = if more { state.time() } else { state.deadline().map_or(heartbeat, |due| due.min(heartbeat)) };
        if due > now {
            return Ok(Err(due));
        }
        let evidence_max = state.evidence_max();
        let txs = self.mempool.pick(&taken, evidence_max);
        Ok(Ok(self.behind(parent)?.next(turn.leader, turn.missing.clone(), now, txs)))
    }

    /// Whether the block `hash`, proposed in `turn`, is a valid child of `parent`.
    pub fn verify(&mut self, turn: &Turn, parent: &Hash, hash: &Hash, now: Millis) -> Judgement {
        let Some(block) = self.bodies.get(hash) else { return Judgement::Missing(*hash) };
        let Header { epoch, by, time, .. } = block.header;
        let again = hash == parent && block.header.next.is_some();
        if epoch != turn.epoch || (by != turn.leader && !again) {
            return Judgement::Invalid(Reject::NotCommittee);
        }
        if (block.header.parent != *parent && !again)
            || block.txs.len() > BLOCK_TXS_MAX
            || block.to_bytes().len() > BLOCK_BYTES_MAX
        {
            return Judgement::Invalid(Reject::Malformed);
        }
        if time > now.plus(AHEAD_MS) {
            return Judgement::Later(Millis(time.0.saturating_sub(AHEAD_MS)));
        }
        match self.reach(hash) {
            Ok(()) => Judgement::Valid,
            Err(answer) => answer,
        }
    }

    /// The block `tip` is final, and with it its ancestors: gives them in order with what they did.
    pub fn finalized(&mut self, tip: &Hash) -> Result<Vec<(Block, Vec<Happened>)>, Judgement> {
        let path = self.path(tip)?;
        let mut done: Vec<(Block, Vec<Happened>)> = Vec::new();
        for block in path {
            let hash = block.hash();
            let seen = self.between.first() == Some(&hash);
            let mempool = &self.mempool;
            // What was applied ahead was checked there.
            let happened = if seen {
                self.between.remove(0);
                self.state.apply_checked(&block)
            } else {
                self.state.apply_with(&block, &|tx| mempool.has(tx))
            };
            let happened = happened.map_err(Judgement::Invalid)?;
            self.follow(&block, seen);
            self.recent.insert(hash, block.header.height);
            done.push((block, happened));
        }
        let height = self.state.height();
        self.recent.retain(|_, at| at.saturating_add(RECENT) > height);
        self.bodies.retain(|_, block| block.header.height > height);
        let carried = done.iter().flat_map(|(block, _)| &block.txs).map(Tx::hash).collect();
        self.mempool.settle(&self.state, &carried);
        Ok(done)
    }

    /// The height of a block that became final not long ago.
    pub fn height_of(&self, hash: &Hash) -> Option<u64> {
        self.recent.get(hash).copied()
    }

    /// The blocks after the last final one up to `tip`, in order; none when it is final already.
    pub fn path(&self, tip: &Hash) -> Result<Vec<Block>, Judgement> {
        let mut path = Vec::new();
        let mut at = *tip;
        if self.recent.contains_key(tip) {
            return Ok(path);
        }
        while at != self.state.tip() {
            let block = self.bodies.get(&at).ok_or(Judgement::Missing(at))?;
            let above = block.header.height.checked_add(1);
            let follows = path.last().is_none_or(|child: &Block| Some(child.header.height) == above);
            if block.header.height <= self.state.height() || !follows {
                return Err(Judgement::Invalid(Reject::Stale));
            }
            path.push(block.clone());
            at = block.header.parent;
        }
        path.reverse();
        Ok(path)
    }

    /// Transactions of `parent` and its ancestors that are not final.
    fn taken(&self, parent: &Hash) -> Result<BTreeSet<Hash>, Judgement> {
        let mut taken = BTreeSet::new();
        let mut at = *parent;
        while at != self.state.tip() {
            let block = self.bodies.get(&at).ok_or(Judgement::Missing(at))?;
            taken.extend(block.txs.iter().map(Tx::hash));
            at = block.header.parent;
        }
        Ok(taken)
    }

    /// The state behind `hash`.
    fn behind(&mut self, hash: &Hash) -> Result<&mut State, Judgement> {
        if *hash == self.state.tip() {
            return Ok(&mut self.state);
        }
        self.reach(hash)?;
        self.head.as_mut().ok_or(Judgement::Missing(*hash))
    }

    /// Brings the state ahead to `hash`.
    fn reach(&mut self, hash: &Hash) -> Result<(), Judgement> {
        let path = self.path(hash)?;
        let hashes: Vec<Hash> = path.iter().map(Block::hash).collect();
        if !hashes.starts_with(&self.between) {
            // Another branch, or an earlier block of this one.
            (self.head, self.between) = (None, Vec::new());
        }
        let head = self.head.get_or_insert_with(|| self.state.clone());
        for (block, hash) in path.iter().zip(hashes).skip(self.between.len()) {
            if let Err(reject) = head.apply_with(block, &|tx| self.mempool.has(tx)) {
                return Err(Judgement::Invalid(reject));
            }
            self.between.push(hash);
        }
        Ok(())
    }

    /// A block became final: the state ahead is never behind the final one.
    fn follow(&mut self, block: &Block, seen: bool) {
        if seen {
            return;
        }
        let next = self.between.is_empty() && self.head.as_ref().is_some_and(|head| head.tip() == block.header.parent);
        let applied = next && self.head.as_mut().is_some_and(|head| head.apply_checked(block).is_ok());
        if !applied {
            (self.head, self.between) = (None, Vec::new());
        }
    }
}
