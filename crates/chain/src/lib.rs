//! An order that distrusting peers agree on, and what follows from it: runs, and money for work.
//!
//! [`State`] is replicated: every node applies the same final blocks to it, and its root is in the next
//! block. [`Orderer`] is one validator's side, pure: what to propose, what is valid, what became final.
//! [`Validator`] puts it between the consensus engine (commonware `simplex`), a disk and a network. One
//! validator is the same path as four and more.
//!
//! *Goals*: nothing final is ever lost or done twice; a refused transaction changes nothing; integers only.
//! *Non-goals*: what a run's rules are (`swarm`), what an account's are (`ledger`), connections.

mod block;
mod desk;
mod engine;
mod mempool;
mod orderer;
mod pay;
mod state;
mod validator;
mod wires;

pub use block::{BLOCK_BYTES_MAX, BLOCK_TXS_MAX, Block, Genesis, TX_BYTES_MAX, Tx, VOTE_DOMAIN, Vote};
pub use engine::{EngineError, Timing};
pub use orderer::{Answer, Orderer};
pub use pay::reference_flops;
pub use state::{Happened, State};
pub use validator::{Connections, Disk, Validator, ValidatorConfig, ValidatorError, clock, replay};
pub use wires::{Channel, Outgoing, PACKET_MAX, Packet};
