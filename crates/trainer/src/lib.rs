//! Taking part in runs: the threads that train and apply, the driver that carries out what the pure machines of `swarm`
//! decide, and what of it is on disk.
//!
//! *Goals*: none of the threads waits for another; kill it anywhere and start it again, and it goes on; what a replay does is
//! what a node did. *Non-goals*: decisions (`swarm`), arithmetic (`model`), the order of a chain, which comes through [`Log`].

mod bounds;
mod content;
mod corpus;
mod driver;
mod eval;
mod event;
mod export;
mod feed;
mod log;
mod memory;
mod moving;
mod persist;
mod replay;
mod setup;
mod show;
mod speed;
mod status;
mod store;
mod throttle;
mod work;
mod workers;

pub use bounds::Bounds;
pub use content::Contents;
pub use corpus::import;
pub use driver::{DriverOrder, SAMPLES_FILE, drive};
pub use eval::{Heldout, bits_per_byte};
pub use export::{SavedRun, newest, saved};
pub use log::Log;
pub use memory::{on_device, step_bytes, training};
pub use replay::{Replayed, read_log, replay, write_log};
pub use setup::Setup;
pub use speed::speed;
pub use status::{Download, MemberStatus, RoundLine, RunStatus, RunWait};
pub use store::{Followed, Store, give_weights};
pub use throttle::{Answering, Duty};
pub use work::Limits;
