//! The order of one node: its transactions in the order in which they came. The single-node log;
//! validators that distrust each other take its place with the ledger.

use crate::state::RunsState;
use crate::tx::BLOCK_TXS_MAX;
use crate::{RunEvent, SignedWorkTx, WorkBlock};
use base::{Hash, Millis, NodeId, Reject};
use std::collections::BTreeMap;

/// Orders transactions into blocks.
#[derive(Debug, Default)]
pub struct Sequencer {
    state: RunsState,
    waiting: Vec<SignedWorkTx>,
    per_signer: BTreeMap<NodeId, usize>,
}

/// Transactions of one signer that wait for a block at a time.
const WAITING_PER_SIGNER: usize = 64;

impl Sequencer {
    /// Orders for `chain`, without proofs of work.
    pub fn new(chain: Hash) -> Self {
        Self { state: RunsState::new(chain, 0), ..Self::default() }
    }

    /// The state behind the last block.
    pub fn state(&self) -> &RunsState {
        &self.state
    }

    /// Takes a transaction for the next block, or refuses it with a reason.
    pub fn submit(&mut self, tx: SignedWorkTx) -> Result<(), Reject> {
        let waiting = self.per_signer.get(&tx.by).copied().unwrap_or_default();
        if waiting >= WAITING_PER_SIGNER || self.waiting.len() >= BLOCK_TXS_MAX {
            return Err(Reject::TooMany);
        }
        self.state.check(&tx)?;
        if self.waiting.iter().any(|other| other.by == tx.by && other.value.seq >= tx.value.seq) {
            return Err(Reject::Duplicate);
        }
        // Only signers that check out are counted, so junk keys cannot fill the table.
        self.per_signer.insert(tx.by, waiting.saturating_add(1));
        self.waiting.push(tx);
        Ok(())
    }

    /// When a block is due: at once with a transaction waiting, else at the next deadline of a run.
    pub fn due(&self) -> Option<Millis> {
        if self.waiting.is_empty() { self.state.deadline() } else { Some(self.state.time) }
    }

    /// Makes the next block at log time `now` (the clock may have gone back; the log's does not).
    pub fn make(&mut self, now: Millis) -> (WorkBlock, Vec<RunEvent>) {
        let time = now.max(self.state.time);
        let txs = std::mem::take(&mut self.waiting);
        self.per_signer.clear();
        let block = WorkBlock { height: self.state.height.saturating_add(1), time, txs };
        let events = self.state.apply_checked(&block).expect("it follows the last one");
        (block, events)
    }
}
