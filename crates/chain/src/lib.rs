//! An order that distrusting peers agree on, and what follows from it: runs, and money for work.
//!
//! [`State`] is replicated: every node applies the same final blocks to it, and its root is in the next
//! block. [`Orderer`] is one validator's side, pure: what to propose, what is valid, what became final. The
//! consensus engine (commonware `simplex`), a disk and a network are put around it elsewhere. [`Light`]
//! believes a chain by its certificates alone.
//!
//! *Goals*: nothing final is ever lost or done twice; a refused transaction changes nothing; integers only.
//! *Non-goals*: what a run's rules are (`swarm`), what an account's are (`ledger`), connections.

// A build with tests may calculate as it likes; the program may not: every node must come to the same numbers.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod block;
mod certificate;
mod epoch;
mod genesis;
mod keys;
mod light;
mod limits;
mod mempool;
mod orderer;
mod pay;
mod snapshot;
mod state;

pub use block::{Block, EVIDENCE_DOMAIN, Evidence, Header, Tx, VOTE_DOMAIN, Vote};
pub use certificate::{certified, certify, namespace};
pub use epoch::{Epoch, first_set};
pub use genesis::{Founder, Genesis, Recovery};
pub use keys::{engine_key, node_of, participants};
pub use light::{AccountProof, Anchor, Light, RootProof, Step};
pub use limits::{BLOCK_BYTES_MAX, BLOCK_TXS_MAX, CERTIFICATE_MAX, EVIDENCE_MAX, SET_MAX, TX_BYTES_MAX};
pub use orderer::{Judgement, Orderer, Turn};
pub use pay::{Fate, reference_flops, units};
pub use snapshot::{STATE_MAX, Snapshot};
pub use state::{Happened, State};
