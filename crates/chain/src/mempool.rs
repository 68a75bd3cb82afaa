//! Transactions that wait for a block, bounded for each signer and in all.

use crate::block::Tx;
use crate::limits::{BLOCK_BYTES_MAX, BLOCK_TXS_MAX, TX_BYTES_MAX};
use crate::state::State;
use base::{Hash, NodeId, Reject, Wire};
use std::collections::{BTreeMap, BTreeSet};

/// Transactions of one signer that wait at a time.
const WAITING_PER_SIGNER: usize = 64;
/// And of all.
const WAITING_MAX: usize = 1 << 16;

/// What waits, in the order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    waiting: BTreeMap<u64, Waiting>,
    known: BTreeSet<Hash>,
    per_signer: BTreeMap<NodeId, usize>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    hash: Hash,
    bytes: usize,
    tx: Tx,
}

impl Mempool {
    /// Takes a transaction, or refuses it with a reason; says whether it is new. One that waits already is taken
    /// again without effect.
    pub(crate) fn submit(&mut self, state: &State, tx: Tx) -> Result<bool, Reject> {
        let encoded = tx.to_bytes();
        if encoded.len() > TX_BYTES_MAX {
            return Err(Reject::Oversized);
        }
        let hash = tx.hash();
        if self.known.contains(&hash) {
            return Ok(false);
        }
        let by = tx.by();
        let waiting = self.per_signer.get(&by).copied().unwrap_or_default();
        if waiting >= WAITING_PER_SIGNER || self.waiting.len() >= WAITING_MAX {
            return Err(Reject::TooMany);
        }
        let lane = self.waiting.values().filter(|other| waiting > 0 && other.tx.by() == by);
        let ahead = lane.clone().filter(|other| matches!(other.tx, Tx::Wallet { .. })).count() as u64;
        if let Tx::Work { tx } = &tx
            && lane.clone().any(|other| matches!(&other.tx, Tx::Work { tx: o } if o.value.seq >= tx.value.seq))
        {
            return Err(Reject::Duplicate);
        }
        state.check(&tx, ahead)?;
        // Only signers that check out are counted, so junk keys cannot fill the table.
        self.per_signer.insert(by, waiting.saturating_add(1));
        self.known.insert(hash);
        self.waiting.insert(self.next, Waiting { hash, bytes: encoded.len(), tx });
        self.next = self.next.saturating_add(1);
        Ok(true)
    }

    /// Whether a transaction waits: its signature was checked when it came.
    pub(crate) fn has(&self, hash: &Hash) -> bool {
        self.known.contains(hash)
    }

    /// Wallet transactions of `by` that wait.
    pub(crate) fn waiting(&self, by: &NodeId) -> u64 {
        let own = |waiting: &&Waiting| waiting.tx.by() == *by && matches!(waiting.tx, Tx::Wallet { .. });
        self.waiting.values().filter(own).count() as u64
    }

    /// What the next block takes: the oldest first, without those in `taken`, and with so much evidence at most.
    pub(crate) fn pick(&self, taken: &BTreeSet<Hash>, evidence_max: usize) -> Vec<Tx> {
        let (mut room, mut evidence) = (BLOCK_BYTES_MAX / 2, 0..evidence_max);
        let free = self.waiting.values().filter(|waiting| !taken.contains(&waiting.hash));
        let free = free.filter(|waiting| !matches!(waiting.tx, Tx::Evidence { .. }) || evidence.next().is_some());
        let fits = free.take(BLOCK_TXS_MAX).take_while(|waiting| {
            let fits = waiting.bytes <= room;
            room = room.saturating_sub(waiting.bytes);
            fits
        });
        fits.map(|waiting| waiting.tx.clone()).collect()
    }

    /// Whether anything waits beside those in `taken`.
    pub(crate) fn has_more(&self, taken: &BTreeSet<Hash>) -> bool {
        self.waiting.values().any(|waiting| !taken.contains(&waiting.hash))
    }

    /// Blocks are final: what they `carried`, refused there or not, and what can no longer be carried, is let
    /// go of.
    pub(crate) fn settle(&mut self, state: &State, carried: &BTreeSet<Hash>) {
        let spent = |tx: &Tx| match tx {
            Tx::Work { .. } | Tx::Wallet { .. } => state.used(tx),
            Tx::Vote { .. } | Tx::Evidence { .. } => state.check(tx, 0).is_err(),
        };
        let gone = self.waiting.extract_if(.., |_, waiting| carried.contains(&waiting.hash) || spent(&waiting.tx));
        for (_, waiting) in gone {
            self.known.remove(&waiting.hash);
            if let Some(n) = self.per_signer.get_mut(&waiting.tx.by()) {
                *n = n.saturating_sub(1);
                if *n == 0 {
                    self.per_signer.remove(&waiting.tx.by());
                }
            }
        }
    }
}
