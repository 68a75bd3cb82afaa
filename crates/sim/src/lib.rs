//! The whole network on one thread: many [`swarm::Peer`]s, one [`swarm::Sequencer`], a virtual wire between
//! them, virtual disks under them, virtual time and one seed. The main test of the training protocol.
//!
//! *Goals*: the same seed gives the same trace, event by event; every fault class of the house style (delay,
//! loss, reorder, duplicates, partitions, crashes with and without a disk, slow members, skewed clocks, liars);
//! safety checked at every block, liveness after the faults stop; a failure names its seed and its time.
//! *Non-goals*: bytes on the wire, the speed of a real machine.
//!
//! What members compute is one of two kinds of [`Work`]. *Grains* stand for tensors: an update is a set of names,
//! which is enough to see error feedback lost or doubled, and a thousand schedules take seconds. With *tensors*
//! each member trains a model of 1,904 parameters with the `model` crate, and liars spoil what is learned.
//!
//! The simulation shows what the protocol holds against such liars, and no more. While they are less than a third,
//! honest members agree on every root and their weights stay finite. Of three updates and more none counts for more
//! than about one and a half times the middle one's length (of two middle ones, the longer one's); of four members
//! and more none has more than a third of an open round. Inside these bounds a lie counts: nobody checks that an
//! update was learned, so noise, old updates and opposite ones slow the others down.
//!
//! ```
//! use sim::{Scenario, run};
//! let report = run(&Scenario::calm(1, 3)).expect("nothing is wrong in a calm network");
//! assert!(report.rounds >= 6 && report.voids == 0);
//! ```

mod distort;
mod faults;
mod figure;
mod mass;
mod node;
mod report;
mod scenario;
mod tensors;
mod tiny;
mod world;

pub use faults::{Crash, CrashAfter, Faults, Lag, Partition, Rest, Stall};
pub use figure::{Figure, utilisation};
pub use report::{Learning, Report, Struck, Violation};
pub use scenario::{Clock, Costs, Liar, Part, Scenario, Work};
pub use world::{logged, run};
