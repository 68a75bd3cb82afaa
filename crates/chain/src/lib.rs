//! An order that distrusting peers agree on, and what follows from it: runs, and money for work.
//!
//! [`State`] is replicated: every node applies the same final blocks to it, and its root is in the next
//! block. [`Orderer`] is one validator's side, pure: what to propose, what is valid, what became final.
//! [`Keeper`] puts it between the consensus engine (commonware `simplex`), a disk and a network. One
//! validator is the same path as four and more, and a follower's is the same without an engine. [`Light`]
//! believes a chain by its certificates alone.
//!
//! *Goals*: nothing final is ever lost or done twice; a refused transaction changes nothing; integers only.
//! *Non-goals*: what a run's rules are (`swarm`), what an account's are (`ledger`), connections.

// A build with tests may calculate as it likes; the program may not: every node must come to the same numbers.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod block;
mod certificate;
mod clock;
mod desk;
mod disk;
mod end;
mod engine;
mod epoch;
mod genesis;
mod keeper;
mod keys;
mod light;
mod limits;
pub mod local;
mod mempool;
mod orderer;
mod pay;
mod snapshot;
mod state;
mod wires;

pub use block::{Block, EVIDENCE_DOMAIN, Evidence, Header, Tx, VOTE_DOMAIN, Vote};
pub use certificate::{certified, certify};
pub use clock::clock;
pub use disk::{Disk, Note};
pub use end::{EXIT_DISK, EXIT_PANIC};
pub use engine::EngineError;
pub use epoch::{Epoch, first_set};
pub use genesis::{Founder, Genesis, Recovery};
pub use keeper::{Connections, Keeper, KeeperConfig, KeeperError, replay};
pub use light::{AccountProof, Anchor, Light, RootProof, Step};
pub use limits::{BLOCK_BYTES_MAX, BLOCK_TXS_MAX, CERTIFICATE_MAX, EVIDENCE_MAX, SET_MAX, TX_BYTES_MAX};
pub use orderer::{Answer, Orderer, Turn};
pub use pay::{Fate, reference_flops, units};
pub use snapshot::{STATE_MAX, Snapshot};
pub use state::{Happened, State};
pub use wires::{Channel, Outgoing, PACKET_MAX, Packet};
