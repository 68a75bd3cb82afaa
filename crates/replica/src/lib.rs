//! Chains on this machine: the one that a node keeps at home, and those that it follows.
//!
//! [`Replica`] puts the pure [`chain::Orderer`] between the consensus engine, a disk and a network. [`ChainLog`] keeps a chain
//! in a data folder and submits what the owner signs, [`Chains`] has all of them. One validator is the same path as four and
//! more, and a follower's is the same without an engine.
//!
//! *Goals*: kill it anywhere and start it again, and it goes on; nothing is voted twice; a chain of strangers ends nothing but
//! itself. *Non-goals*: what is valid (`chain`), what runs do with it (`trainer`), what answers cost (`serving`).

mod actor;
mod chain_store;
mod chains;
mod clock;
mod crash;
mod disk;
mod earnings;
mod end;
mod engine;
mod follow;
mod history;
mod home;
pub mod local;
mod log;
mod network;
mod notes;
mod outlets;
mod own;
mod paths;
mod pending;
mod refusals;
mod replica;
mod spend;
mod spend_error;
mod submitting;
mod voting_key;
mod wires;

pub use chain_store::ChainStore;
pub use chains::Chains;
pub use clock::clock;
pub use disk::{Disk, Note};
pub use earnings::{DailyWork, Days};
pub use end::{EXIT_DISK, EXIT_PANIC};
pub use engine::EngineError;
pub use home::home;
pub use log::{ChainLog, Kept};
pub use network::{
    NetworkFile, Recovered, SEAT_FILE, SeatOffer, join as join_network, network_of, private as private_network,
    recover, seat,
};
pub use notes::{Entry, Notes};
pub use own::{Own, Owned};
pub use paths::{chain_dir, secret};
pub use replica::{Connections, Replica, ReplicaConfig, ReplicaError, replay};
pub use spend_error::{FINAL_WITHIN, SpendError, Unsettled};
pub use voting_key::{old_seat, reseated};
pub use wires::{Channel, Outgoing, PACKET_MAX, Packet};
