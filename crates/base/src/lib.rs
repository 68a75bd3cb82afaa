//! What every other crate of talkoo speaks: identities, hashes, canonical encoding, units, seeded
//! randomness, and the shape of a pure protocol machine.
//!
//! *Goals*: no IO, no clock, no entropy; every decoder bounded; one way to write each value down.
//! *Non-goals*: anything about training, money or networks.
//!
//! ```
//! use base::{Hash, Reader, Wire};
//! let bytes = 7u64.to_bytes();
//! assert_eq!(u64::from_bytes(&bytes), Ok(7));
//! assert_ne!(Hash::of("a", &bytes), Hash::of("b", &bytes));
//! # let _ = Reader::new(&bytes);
//! ```

mod codec;
mod hash;
mod hex;
mod key;
mod machine;
mod reject;
mod rng;
mod text;
mod units;

pub use codec::{Reader, Wire, WireError};
pub use hash::{CHUNK_BYTES, ChunkTree, Hash};
pub use hex::{from_hex, to_hex, write_hex};
pub use key::{Keypair, NodeId, Signature, Signed};
pub use machine::{Machine, Outbox};
pub use reject::{Reject, RejectCounts};
pub use rng::{Permutation, Rng};
pub use text::{curve, grouped, grouped_by, plain, short};
pub use units::{Millis, Round, Tokens};
