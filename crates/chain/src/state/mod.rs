//! The replicated state: money, runs and votes, equal on every node that applied the same blocks.

mod money;
mod voters;
mod whole;

use crate::block::{Block, Header, Tx};
use crate::epoch::Epoch;
use crate::genesis::{Genesis, TIME_MAX_MS};
use crate::light::{AccountProof, RootProof, state_root};
use crate::pay::{Fate, reference_flops};
use base::{Hash, Millis, NodeId, Reject, RejectCounts, Wire};
use ledger::{Credits, Ledger, PaySource, Tree};
use std::collections::{BTreeMap, BTreeSet};
use swarm::{RunEvent, RunId};

/// Everything that the chain decides.
#[derive(Debug, Clone)]
pub struct State {
    genesis: Genesis,
    chain: Hash,
    tip: Hash,
    height: u64,
    time: Millis,
    runs: swarm::RunsState,
    money: Ledger,
    epoch: Epoch,
    votes: BTreeMap<RunId, BTreeMap<NodeId, u16>>,
    vote_seqs: BTreeMap<NodeId, u64>,
    /// Reference operations of a token of each run; computed once.
    flops: BTreeMap<RunId, u64>,
    /// One entry for each run and for each signer of work.
    entries: Tree,
    touched: BTreeSet<Entry>,
    rejects: RejectCounts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Run(RunId),
    Signer(NodeId),
    Votes(RunId),
    Voter(NodeId),
    Epoch,
}

/// What a block did, for drivers and displays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// To a run.
    Run(RunEvent),
    /// A unit was paid.
    Paid {
        /// For which run.
        run: RunId,
        /// Who did it.
        to: NodeId,
        /// How much.
        amount: Credits,
        /// From where.
        from: PaySource,
    },
    /// What became of a member's part in a round that closed; its payments come before it.
    Worked {
        /// In which run.
        run: RunId,
        /// Whose.
        by: NodeId,
        /// Tokens that count.
        tokens: u64,
        /// How it ended.
        fate: Fate,
    },
    /// An epoch ended; this one begins, with these validators.
    Epoch(u64, Vec<NodeId>),
    /// A validator was proved to have signed two things that exclude each other: its bond is lost.
    Slashed {
        /// Its key.
        seat: NodeId,
        /// Whose bond it was.
        owner: NodeId,
        /// How much of it there was.
        amount: Credits,
    },
    /// A transaction was refused: it changed nothing.
    Refused(Hash, Reject),
}

impl State {
    /// The state of a network that begins.
    ///
    /// # Panics
    /// When the genesis was not [checked](Genesis::check).
    pub fn new(genesis: &Genesis) -> Self {
        let chain = genesis.chain();
        Self {
            chain,
            tip: genesis.block().hash(),
            height: 0,
            time: genesis.time,
            runs: swarm::RunsState::new(chain, genesis.work_bits),
            money: genesis.books().expect("a genesis is checked before use"),
            epoch: Epoch::first(genesis),
            votes: BTreeMap::new(),
            vote_seqs: BTreeMap::new(),
            flops: BTreeMap::new(),
            entries: Tree::default(),
            touched: BTreeSet::from([Entry::Epoch]),
            rejects: RejectCounts::default(),
            genesis: genesis.clone(),
        }
    }

    /// The network's name, for people.
    pub fn name(&self) -> &str {
        &self.genesis.name
    }

    /// The chain's name.
    pub fn chain(&self) -> Hash {
        self.chain
    }

    /// Height of the last block.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Hash of the last block.
    pub fn tip(&self) -> Hash {
        self.tip
    }

    /// Time of the last block.
    pub fn time(&self) -> Millis {
        self.time
    }

    /// The runs.
    pub fn runs(&self) -> &swarm::RunsState {
        &self.runs
    }

    /// The books.
    pub fn money(&self) -> &Ledger {
        &self.money
    }

    /// How the network began.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Who orders blocks, and since when.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Keys of who orders blocks now.
    pub fn validators(&self) -> &[NodeId] {
        &self.epoch.set
    }

    /// Refused transactions of blocks, by reason.
    pub fn rejects(&self) -> &RejectCounts {
        &self.rejects
    }

    /// When the next block is due without any transaction: the first deadline of a run.
    pub fn deadline(&self) -> Option<Millis> {
        self.runs.deadline()
    }

    /// Whether `tx` would be taken now; `ahead` transactions of the same lane wait before it.
    pub fn check(&self, tx: &Tx, ahead: u64) -> Result<(), Reject> {
        match tx {
            Tx::Work { tx } => self.runs.check(tx),
            Tx::Wallet { tx } => self.check_budget(tx).and_then(|()| self.money.check(tx, ahead)),
            Tx::Vote { vote } => self.check_vote(vote),
            Tx::Evidence { evidence } => self.check_evidence(evidence).map(|_| ()),
        }
    }

    /// Whether the running number of `tx` is used up: it is done, or can never be.
    pub fn used(&self, tx: &Tx) -> bool {
        match tx {
            Tx::Work { tx } => self.runs.seqs.get(&tx.by).is_some_and(|last| tx.value.seq <= *last),
            Tx::Wallet { tx } => {
                self.money.account(&tx.by).is_some_and(|account| tx.value.nonce < account.wallet_nonce)
            }
            Tx::Vote { vote } => self.vote_seqs.get(&vote.by).is_some_and(|last| vote.value.seq <= *last),
            Tx::Evidence { evidence } => {
                self.vote_seqs.get(&evidence.by).is_some_and(|last| evidence.value.seq <= *last)
            }
        }
    }

    /// The next block with `txs`, at time `now` or the first possible after the last one, proposed by the
    /// validator `by`, which has heard nothing of those `missing` of late.
    pub fn next(&mut self, by: NodeId, mut missing: Vec<NodeId>, now: Millis, txs: Vec<Tx>) -> Block {
        let time = now.max(self.time.plus(1));
        missing.retain(|key| self.epoch.set.contains(key));
        missing.sort_unstable();
        missing.dedup();
        let header = Header {
            height: self.height.saturating_add(1),
            epoch: self.epoch.number,
            set: self.epoch.set_hash(),
            parent: self.tip,
            time,
            root: self.root(),
            by,
            missing,
            next: self.next_set(time),
            txs: Hash::default(),
        };
        Block::new(header, txs)
    }

    /// The validators of the next epoch, if a block at `time` is the last one of this.
    fn next_set(&self, time: Millis) -> Option<Vec<NodeId>> {
        (time >= self.epoch.began.plus(self.genesis.epoch_ms)).then(|| self.epoch.next_set(&self.money))
    }

    /// Whether `block` is the next one: in place, later, and made by somebody with the same state.
    pub fn follows(&mut self, block: &Block) -> Result<(), Reject> {
        self.in_place(block)?;
        let header = &block.header;
        let set = &self.epoch.set;
        let sorted = header.missing.is_sorted_by(|a, b| a < b) && header.missing.iter().all(|key| set.contains(key));
        if header.epoch != self.epoch.number
            || header.set != self.epoch.set_hash()
            || !set.contains(&header.by)
            || !sorted
        {
            return Err(Reject::NotCommittee);
        }
        if header.next != self.next_set(header.time) {
            return Err(Reject::WrongShape);
        }
        if header.root == self.root() { Ok(()) } else { Err(Reject::WrongRoot) }
    }

    fn in_place(&self, block: &Block) -> Result<(), Reject> {
        let header = &block.header;
        if self.height.checked_add(1) != Some(header.height) || header.parent != self.tip {
            return Err(if header.height <= self.height { Reject::Stale } else { Reject::Early });
        }
        // Times that are added to it are numbers, too.
        if header.time.0 > TIME_MAX_MS {
            return Err(Reject::Expired);
        }
        if header.time <= self.time { Err(Reject::Stale) } else { Ok(()) }
    }

    /// Applies the next block. One that does not follow is refused whole; a transaction that is refused
    /// changes nothing and is counted.
    pub fn apply(&mut self, block: &Block) -> Result<Vec<Happened>, Reject> {
        self.apply_with(block, &|_| false)
    }

    /// The same where the signatures of some transactions were checked before.
    pub(crate) fn apply_with(
        &mut self,
        block: &Block,
        checked: &dyn Fn(&Hash) -> bool,
    ) -> Result<Vec<Happened>, Reject> {
        self.follows(block)?;
        // A signature is wrong for everybody and for ever: who proposes one is wrong with all of its block.
        if !block.txs.iter().all(|tx| checked(&tx.hash()) || tx.is_signed()) {
            return Err(Reject::BadSignature);
        }
        self.check_accusations(block)?;
        Ok(self.carry_out(block))
    }

    /// The same for a block that an equal state took before.
    pub(crate) fn apply_checked(&mut self, block: &Block) -> Result<Vec<Happened>, Reject> {
        self.in_place(block)?;
        Ok(self.carry_out(block))
    }

    fn carry_out(&mut self, block: &Block) -> Vec<Happened> {
        let mut happened = Vec::new();
        let header = &block.header;
        (self.height, self.time, self.tip) = (header.height, header.time, header.hash());
        self.money.advance(header.time);
        self.epoch.note(&header.by, &header.missing);
        self.touched.insert(Entry::Epoch);
        // Runs first: a run can be created, funded and voted on in one block, and none is funded that ends in it.
        let events = self.runs.apply_checked(&block.work());
        let events = events.expect("heights and times follow as those of the chain do");
        for event in events {
            self.note(&event, &mut happened);
            happened.push(Happened::Run(event));
        }
        for tx in &block.txs {
            let taken = match tx {
                Tx::Wallet { tx } => self.check_budget(tx).and_then(|()| self.money.take_checked(tx)),
                Tx::Vote { vote } => self.vote(vote),
                Tx::Evidence { evidence } => self.convict(evidence).map(|what| happened.push(what)),
                Tx::Work { tx } => {
                    self.touched.insert(Entry::Signer(tx.by));
                    self.touched.extend(tx.value.tx.run().map(Entry::Run));
                    Ok(())
                }
            };
            if let Err(reject) = taken {
                self.rejects.add(reject);
                happened.push(Happened::Refused(tx.hash(), reject));
            }
        }
        if let Some(next) = &header.next {
            self.turn(next);
            happened.push(Happened::Epoch(self.epoch.number, next.clone()));
        }
        happened
    }

    /// The root over all of it.
    pub fn root(&mut self) -> Hash {
        let touched = std::mem::take(&mut self.touched);
        let mut changes: Vec<(Hash, Option<Hash>)> = (touched.iter())
            .map(|entry| {
                let bytes = match entry {
                    Entry::Run(run) => self.runs.runs.get(run).map(Wire::to_bytes),
                    Entry::Signer(by) => self.runs.seqs.get(by).map(Wire::to_bytes),
                    Entry::Votes(run) => self.votes.get(run).map(Wire::to_bytes),
                    Entry::Voter(by) => self.vote_seqs.get(by).map(Wire::to_bytes),
                    Entry::Epoch => Some(self.epoch.to_bytes()),
                };
                (entry.key(), bytes.map(|bytes| Hash::of("talkoo 2026 chain entry v1", &bytes)))
            })
            .collect();
        changes.sort_unstable_by_key(|(key, _)| *key);
        self.entries.update(&changes);
        state_root(&self.money.root(), &self.entries.root(), self.height, self.time)
    }

    /// Proves what `owner` holds, but for the blocks that certify it.
    pub fn prove(&mut self, owner: &NodeId) -> AccountProof {
        self.root();
        AccountProof {
            owner: *owner,
            height: self.height,
            time: self.time,
            entries: self.entries.root(),
            books: self.money.root(),
            money: self.money.prove(owner),
            root: RootProof { between: Vec::new(), steps: Vec::new() },
        }
    }

    /// What follows for the books from what happened to a run.
    fn note(&mut self, event: &RunEvent, happened: &mut Vec<Happened>) {
        match event {
            RunEvent::Created(run) => {
                self.touched.insert(Entry::Run(*run));
                let spec = &self.runs.runs[run].spec;
                // A run whose operations cannot be told earns no new money.
                self.flops.insert(*run, reference_flops(&spec.config, spec.seq_len).unwrap_or(0));
            }
            RunEvent::Closed(run, round) => {
                self.touched.insert(Entry::Run(*run));
                self.pay(run, round.0, happened);
            }
            RunEvent::Ended(run) => {
                self.touched.insert(Entry::Run(*run));
                self.money.refund(run);
            }
            RunEvent::Joined(run, _)
            | RunEvent::Gone(run, _)
            | RunEvent::Opened(run, _)
            | RunEvent::Committed(run, _)
            | RunEvent::Disputed(run, ..) => {
                self.touched.insert(Entry::Run(*run));
            }
            RunEvent::Refused(_, reject) => self.rejects.add(*reject),
        }
    }

    /// An epoch ends: seats that were given up or not kept are out, as far as the set can do without them.
    fn turn(&mut self, next: &[NodeId]) {
        let absent = self.epoch.absent();
        self.epoch.turn(next.to_vec(), self.time, &self.money);
        let seats = self.money.seats().filter(|(key, seat)| seat.leaving || absent.contains(*key));
        let out: Vec<NodeId> = seats.map(|(key, _)| *key).filter(|key| !next.contains(key)).collect();
        for key in out {
            self.money.free_seat(&key);
        }
    }
}

impl Entry {
    fn key(&self) -> Hash {
        let (kind, id) = match self {
            Self::Run(run) => (0u8, run.0),
            Self::Signer(by) => (1, by.0),
            Self::Votes(run) => (2, run.0),
            Self::Voter(by) => (3, by.0),
            Self::Epoch => (4, [0; 32]),
        };
        Hash::of("talkoo 2026 chain entry key v1", &[&[kind], id.as_slice()].concat())
    }
}
