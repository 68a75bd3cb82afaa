//! How a network begins.

use crate::block::{Block, Header};
use crate::keys::participants;
use crate::limits::SET_MAX;
use base::{Hash, Millis, NodeId, Reject, Wire, wire_struct};
use ledger::{Credits, Ledger};

/// Ten years, and a time far from here: sums of them are numbers.
const SPAN_MAX_MS: u64 = 10 * 366 * 24 * 3_600_000;
pub(crate) const TIME_MAX_MS: u64 = 1 << 48;
/// More would keep people out.
const WORK_BITS_MAX: u32 = 30;

/// A genesis is a network: its hash names the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// For people.
    pub name: String,
    /// When it was made; no block is older.
    pub time: Millis,
    /// The first validators, one seat each.
    pub validators: Vec<Founder>,
    /// Opening balances, the faucet's among them; the bonds of the first seats are taken from them.
    pub opening: Vec<(NodeId, Credits)>,
    /// Rules of the money; its chain id is that of this genesis.
    pub money: ledger::Params,
    /// Micro-credits of new money for 10^15 reference floating-point operations.
    pub per_pflop: Credits,
    /// The last block of an epoch is the first so long after its beginning.
    pub epoch_ms: u64,
    /// Leading zero bits of the proof of work that creating and joining a run cost.
    pub work_bits: u32,
    /// The network that this one goes on from, its validators being gone.
    pub recovers: Option<Recovery>,
}

/// From where a network goes on whose validators are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// The chain.
    pub chain: Hash,
    /// Its last certified block as far as who recovers it knows.
    pub block: Hash,
    /// Of that block.
    pub height: u64,
    /// Root of the state with which the new network begins.
    pub root: Hash,
}

wire_struct!(Recovery { chain, block, height, root });

/// A first validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Founder {
    /// Its consensus key.
    pub key: NodeId,
    /// Whose bond stands for it.
    pub owner: NodeId,
    /// The node that votes with it.
    pub node: NodeId,
}

wire_struct!(Founder { key, owner, node });
wire_struct!(Genesis { name, time, validators, opening, money, per_pflop, epoch_ms, work_bits, recovers });

impl Genesis {
    /// The chain's name. Its domain rises with every change of what is in the state, so that no node takes one form for
    /// the other.
    pub fn chain(&self) -> Hash {
        self.named("talkoo 2026 genesis v3")
    }

    /// The name of this chain in the version before, whose blocks and states this one cannot read.
    pub fn earlier_chain(&self) -> Hash {
        self.named("talkoo 2026 genesis v2")
    }

    fn named(&self, domain: &str) -> Hash {
        let money = ledger::Params { chain: Hash::default(), ..self.money.clone() };
        Hash::of(domain, &Self { money, ..self.clone() }.to_bytes())
    }

    /// The block that stands for it: the parent of the first.
    pub fn block(&self) -> Block {
        let header = Header {
            height: 0,
            epoch: 0,
            set: Hash::default(),
            parent: self.chain(),
            time: self.time,
            root: Hash::default(),
            by: NodeId([0; 32]),
            missing: Vec::new(),
            next: None,
            txs: Hash::default(),
        };
        Block::new(header, Vec::new())
    }

    /// Whether a network can begin like this: one validator or four and more, different keys, bonds that
    /// the opening balances cover, balances that add up.
    pub fn check(&self) -> Result<(), Reject> {
        let n = self.validators.len();
        let mut keys: Vec<NodeId> = self.validators.iter().map(|founder| founder.key).collect();
        keys.sort_unstable();
        keys.dedup();
        if n != keys.len() || n > SET_MAX || matches!(n, 0 | 2 | 3) || participants(&keys).is_none() {
            return Err(Reject::WrongShape);
        }
        let spans = [self.epoch_ms, self.money.unbonding_ms, self.money.close_ms];
        let long = self.epoch_ms == 0 || spans.iter().any(|span| *span > SPAN_MAX_MS);
        if long || self.time.0 > TIME_MAX_MS || self.work_bits > WORK_BITS_MAX {
            return Err(Reject::WrongShape);
        }
        self.opening.iter().try_fold(Credits::ZERO, |sum, (_, amount)| sum.plus(*amount))?;
        self.books().map(|_| ())
    }

    /// The first books, with the bonds of the first seats.
    pub(crate) fn books(&self) -> Result<Ledger, Reject> {
        let money = ledger::Params { chain: self.chain(), ..self.money.clone() };
        let mut books = Ledger::new(money, &self.opening);
        if self.recovers.is_some() {
            // The books are those of the state that it goes on with.
            return Ok(books);
        }
        self.validators.iter().try_for_each(|founder| books.found_seat(founder.key, founder.owner, founder.node))?;
        Ok(books)
    }
}
