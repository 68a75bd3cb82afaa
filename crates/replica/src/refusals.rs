//! What a final block refused.

use base::{Hash, Reject};
use chain::{Block, Happened};
use std::collections::BTreeMap;

/// Transactions of a block that changed nothing, and why.
pub(crate) fn refused(block: &Block, happened: &[Happened]) -> BTreeMap<Hash, Reject> {
    let mut refused: BTreeMap<Hash, (i64, Reject)> = BTreeMap::new();
    for what in happened {
        if let Happened::Refused(hash, why) = what {
            refused.entry(*hash).or_insert((0, *why)).0 += 1;
        }
    }
    // A proposer may put one in twice: the first copy is done, and the second one's number is used then.
    if refused.is_empty() {
        return BTreeMap::new();
    }
    for tx in &block.txs {
        if let Some((left, _)) = refused.get_mut(&tx.hash()) {
            *left -= 1;
        }
    }
    refused.into_iter().filter(|(_, (left, _))| *left >= 0).map(|(hash, (_, why))| (hash, why)).collect()
}
