//! The whole network on one thread: many [`swarm::Peer`]s, one [`swarm::Sequencer`], a virtual wire between
//! them, virtual disks under them, virtual time and one seed. The main test of the training protocol.
//!
//! *Goals*: the same seed gives the same trace, event by event; every fault class of the house style (delay,
//! loss, reorder, duplicates, partitions, crashes with and without a disk, slow members, skewed clocks, liars);
//! safety checked at every block, liveness after the faults stop; a failure names its seed and its time.
//! *Non-goals*: tensors (an update is a set of mass ids, which is enough to see error feedback lost or doubled),
//! bytes on the wire, the speed of a real machine.
//!
//! ```
//! use sim::{Scenario, run};
//! let report = run(&Scenario::calm(1, 3)).expect("nothing is wrong in a calm network");
//! assert!(report.rounds >= 6 && report.voids == 0);
//! ```

mod check;
mod drive;
mod figure;
mod lies;
mod mass;
mod node;
mod scenario;
mod wire;
mod world;

pub use figure::{Figure, utilisation};
pub use scenario::{Clock, Costs, Crash, CrashAfter, Faults, Lag, Liar, Part, Partition, Rest, Scenario, Stall};
pub use world::{Report, Violation, logged, run};
