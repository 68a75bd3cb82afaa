//! Founders of a network whose keys are known.

use base::{Keypair, Millis, NodeId};
use chain::{Founder, Genesis};
use ledger::{Credits, Params};

/// The key of seat `i`.
pub fn key(i: usize) -> Keypair {
    Keypair::from_secret([100u8.wrapping_add(i as u8); 32])
}

/// `n` founders, whose wallets are their seats' keys, and `opening` balances.
pub fn genesis(n: usize, opening: Vec<(NodeId, Credits)>, epoch_ms: u64) -> Genesis {
    let keys: Vec<Keypair> = (0..n).map(key).collect();
    let found = |key: &Keypair| Founder { key: key.id(), owner: key.id(), node: key.id() };
    let wallets = keys.iter().map(|key| (key.id(), Credits::whole(1_000)));
    Genesis {
        name: "local".into(),
        time: Millis(0),
        validators: keys.iter().map(found).collect(),
        opening: wallets.chain(opening).collect(),
        money: Params { locked_units: 0, ..Params::default() },
        per_pflop: Credits::whole(1),
        epoch_ms,
        work_bits: 0,
        recovers: None,
    }
}
