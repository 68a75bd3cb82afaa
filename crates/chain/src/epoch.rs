//! Who orders blocks, and for how long: a set of seats for an epoch, and the next one at its end.

use crate::genesis::Genesis;
use crate::limits::SET_MAX;
use base::{Hash, Millis, NodeId, Reader, Wire, WireError, wire_struct};
use ledger::{Ledger, Seat};
use std::collections::{BTreeMap, BTreeSet};

/// Of the set and the one before.
const CONVICTED_MAX: usize = 2 * SET_MAX;

/// An epoch under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// From 0.
    pub number: u64,
    /// Time of the last block before it.
    pub began: Millis,
    /// Keys of its validators, sorted.
    pub set: Vec<NodeId>,
    /// Those of the epoch before, against whom evidence still counts.
    pub before: Vec<NodeId>,
    /// Whose bonds stand for both, also where a seat is free by now.
    owners: BTreeMap<NodeId, NodeId>,
    /// Who was convicted already: once for each seat.
    convicted: BTreeSet<NodeId>,
    /// What each proposer said of the others.
    reports: BTreeMap<NodeId, Report>,
    /// How often each validator voted on new money.
    votes: BTreeMap<NodeId, u64>,
}

/// Blocks that a validator proposed in this epoch, and in how many of them it had not heard from whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Report {
    blocks: u64,
    missing: BTreeMap<NodeId, u64>,
}

wire_struct!(Report { blocks, missing });

impl Epoch {
    /// The first one.
    pub(crate) fn first(genesis: &Genesis) -> Self {
        let (set, began) = (first_set(genesis), genesis.time);
        let owners = genesis.validators.iter().map(|founder| (founder.key, founder.owner)).collect();
        Self {
            number: 0,
            began,
            set,
            before: Vec::new(),
            owners,
            convicted: BTreeSet::new(),
            reports: BTreeMap::new(),
            votes: BTreeMap::new(),
        }
    }

    /// What blocks name the set by.
    pub(crate) fn set_hash(&self) -> Hash {
        set_hash(&self.set)
    }

    /// Somebody proposed a block and had not heard from these.
    pub(crate) fn note(&mut self, by: &NodeId, missing: &[NodeId]) {
        let report = self.reports.entry(*by).or_default();
        report.blocks = report.blocks.saturating_add(1);
        for silent in missing {
            let n = report.missing.entry(*silent).or_default();
            *n = n.saturating_add(1);
        }
    }

    /// Whether a validator proposed a final block of this epoch.
    pub(crate) fn has_proposed(&self, key: &NodeId) -> bool {
        self.reports.contains_key(key)
    }

    /// How often a validator voted on new money in this epoch.
    pub(crate) fn votes(&self, by: &NodeId) -> u64 {
        self.votes.get(by).copied().unwrap_or_default()
    }

    /// A validator voted once more.
    pub(crate) fn count_vote(&mut self, by: &NodeId) {
        let n = self.votes.entry(*by).or_default();
        *n = n.saturating_add(1);
    }

    /// Validators that missed half of the epoch, as more than half of all say, each in at least half of its blocks.
    pub(crate) fn absent(&self) -> BTreeSet<NodeId> {
        let says = |report: &Report, key: &NodeId| {
            report.missing.get(key).is_some_and(|n| n.saturating_mul(2) >= report.blocks)
        };
        let many = |key: &&NodeId| {
            self.reports.values().filter(|report| says(report, key)).count().saturating_mul(2) > self.set.len()
        };
        self.set.iter().filter(many).copied().collect()
    }

    /// The set of the next epoch: seats that stay, in the order in which they were taken, each with its
    /// bond. Fewer than four of several would halt when one sleeps: then the set stays as it is.
    pub(crate) fn next_set(&self, money: &Ledger) -> Vec<NodeId> {
        let absent = self.absent();
        let bond = money.params().seat_bond.0;
        let mut seats: Vec<(&NodeId, &Seat)> = money.seats().filter(|(_, seat)| !seat.leaving).collect();
        seats.retain(|(key, _)| !absent.contains(*key));
        seats.sort_unstable_by_key(|(_, seat)| seat.serial);
        let mut standing: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut next: Vec<NodeId> = Vec::new();
        for (key, seat) in seats {
            let bonded = money.account(&seat.owner).map_or(0, |account| account.bond.0);
            let n = standing.entry(seat.owner).or_default();
            // A bond of nothing is there for everybody.
            let covers = bonded.checked_div(bond).unwrap_or(bonded);
            if next.len() < SET_MAX && covers > *n {
                *n = n.saturating_add(1);
                next.push(*key);
            }
        }
        next.sort_unstable();
        let alone = self.set.len() == 1 && next.len() == 1;
        if next.len() < 4 && !alone { self.set.clone() } else { next }
    }

    /// Who owns the seat of `key`, of this epoch or the one before, if it was not convicted yet.
    pub(crate) fn accountable(&self, key: &NodeId) -> Option<NodeId> {
        self.owners.get(key).filter(|_| !self.convicted.contains(key)).copied()
    }

    /// A seat was convicted.
    pub(crate) fn convict(&mut self, key: NodeId) {
        self.convicted.insert(key);
    }

    /// The next epoch begins.
    pub(crate) fn turn(&mut self, next: Vec<NodeId>, now: Millis, money: &Ledger) {
        self.before = std::mem::replace(&mut self.set, next);
        // An epoch lasts a millisecond or longer: its number is less than its time.
        (self.number, self.began) = (self.number.saturating_add(1), now);
        self.reports.clear();
        self.votes.clear();
        let known = std::mem::take(&mut self.owners);
        for key in self.set.iter().chain(&self.before) {
            let owner = money.seat(key).map(|seat| seat.owner).or_else(|| known.get(key).copied());
            self.owners.extend(owner.map(|owner| (*key, owner)));
        }
        self.convicted.retain(|key| self.owners.contains_key(key));
    }
}

/// The validators of a network's first epoch, sorted.
pub fn first_set(genesis: &Genesis) -> Vec<NodeId> {
    let mut set: Vec<NodeId> = genesis.validators.iter().map(|founder| founder.key).collect();
    set.sort_unstable();
    set
}

/// What blocks name a set of validators by.
pub(crate) fn set_hash(set: &[NodeId]) -> Hash {
    Hash::of("talkoo 2026 validators v1", &set.to_vec().to_bytes())
}

impl Wire for Epoch {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.number, self.began).encode(out);
        (self.set.clone(), self.before.clone()).encode(out);
        self.owners.encode(out);
        self.convicted.iter().copied().collect::<Vec<NodeId>>().encode(out);
        self.reports.encode(out);
        self.votes.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (number, began) = Wire::decode(input)?;
        let (set, before) = (input.list(SET_MAX)?, input.list(SET_MAX)?);
        let owners = Wire::decode(input)?;
        let convicted = input.list::<NodeId>(CONVICTED_MAX)?.into_iter().collect();
        let (reports, votes) = Wire::decode(input)?;
        Ok(Self { number, began, set, before, owners, convicted, reports, votes })
    }
}
