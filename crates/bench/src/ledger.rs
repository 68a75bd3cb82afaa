//! Speed of the books, on one core, signatures apart.

use crate::{Bar, Book};
use base::{NodeId, Rng, Signature, Signed};
use ledger::{Credits, Ledger, Params, SignedWalletTx, WalletEnvelope, WalletTx};
use std::hint::black_box;
use std::time::Instant;

const BLOCK: usize = 1_000;
const BLOCKS: usize = 30;

pub(crate) fn measure(book: &mut Book) {
    let (rate, _) = blocks(10_000);
    let how = "10,000 accounts, blocks of 1,000 transfers among random ones, their signatures not checked, the root after each, median of \
         30 blocks";
    book.add("quick", "ledger.apply.rate", (rate, "transfers/s"), Bar::Least(100_000.0), ">= 500000", how);
    let (_, root_ms) = blocks(1_000_000);
    let how = "1,000,000 accounts, the root after a block of 1,000 transfers among random ones, median of 30 blocks";
    book.add("quick", "ledger.root.million_ms", (root_ms, "ms"), Bar::Most(50.0), "<= 10", how);
}

/// Transfers per second, and milliseconds of the root alone.
fn blocks(accounts: u64) -> (Vec<f64>, Vec<f64>) {
    let id = |i: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        NodeId(bytes)
    };
    let opening: Vec<_> = (0..accounts).map(|i| (id(i), Credits::whole(1_000))).collect();
    let mut ledger = Ledger::new(Params::default(), &opening);
    ledger.root();
    let mut rng = Rng::new(1);
    let mut nonces = std::collections::BTreeMap::new();
    let (mut rates, mut roots) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        let transfer = |_| {
            let by = id(rng.below(accounts));
            let nonce: &mut u64 = nonces.entry(by).or_default();
            let tx = WalletTx::Transfer { to: id(rng.below(accounts)), amount: Credits(5) };
            let value = WalletEnvelope { chain: ledger.params().chain, nonce: *nonce, tx };
            *nonce += 1;
            Signed { by, value, signature: Signature([0; 64]) }
        };
        let block: Vec<SignedWalletTx> = (0..BLOCK).map(transfer).collect();
        let begun = Instant::now();
        for tx in &block {
            ledger.take_checked(tx).expect("everybody has enough");
        }
        let applied = begun.elapsed();
        black_box(ledger.root());
        let whole = begun.elapsed();
        rates.push(BLOCK as f64 / whole.as_secs_f64());
        roots.push((whole - applied).as_secs_f64() * 1e3);
    }
    assert_eq!(ledger.held(), u128::from(ledger.supply().0), "money is conserved");
    (rates, roots)
}
