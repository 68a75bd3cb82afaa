//! Money, pure: accounts, transfers, bonds, deposits with vouchers, issuance, earnings that stay
//! locked, slashes; and one root over all of it.
//!
//! *Goals*: integers only; double entry, so that what all places hold together is what was issued
//! less what was burned; a refused transaction changes nothing, and one that would overflow is refused;
//! any entry is provable against the root.
//! *Non-goals*: who has earned what (a verdict becomes an entry elsewhere), the order of
//! transactions, networks, files.
//!
//! ```
//! use base::{Keypair, Millis, Signed};
//! use ledger::{Credits, DOMAIN, Ledger, Params, WalletEnvelope, WalletTx};
//! let (ann, bob) = (Keypair::from_secret([1; 32]), Keypair::from_secret([2; 32]));
//! let params = Params::default();
//! let mut ledger = Ledger::new(params.clone(), &[(ann.id(), Credits::whole(10))]);
//! let tx = WalletTx::Transfer { to: bob.id(), amount: Credits::whole(3) };
//! let tx = Signed::new(DOMAIN, &ann, WalletEnvelope { chain: params.chain, nonce: 0, tx });
//! ledger.take(&tx)?;
//! assert_eq!(ledger.take(&tx), Err(base::Reject::Stale), "said twice, done once");
//! let root = ledger.root();
//! let proof = ledger.prove(&bob.id());
//! assert_eq!(proof.check(&root, &bob.id())?.map(|account| account.balance), Some(Credits::whole(3)));
//! # Ok::<(), base::Reject>(())
//! ```

// A build with tests may calculate as it likes; the program may not: every node must come to the same numbers.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod account;
mod credits;
mod issuance;
mod rules;
mod state;
mod tree;
mod tx;

pub use account::{ALLOTMENTS_MAX, Account, Allotment, UNBONDINGS_MAX, Unbonding};
pub use credits::Credits;
pub use issuance::Issuance;
pub use state::{Ledger, PAYERS_MAX, Params, PaySource, Proof, SEATS_MAX, Seat, divide};
pub use tree::{Path, Tree};
pub use tx::{
    ALLOT_MAX, Allotments, DOMAIN, SEAT_DOMAIN, SeatClaim, SignedWalletTx, VOUCHER_DOMAIN, Voucher, WalletEnvelope,
    WalletTx,
};
