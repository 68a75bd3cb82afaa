//! The transformer as a chain of stages, and everything that is arithmetic on its weights: training
//! step, optimisers, update codec, the agreed apply, checkpoints.
//!
//! *Goals*: one model code for every device burn runs on; weights, gradients and optimiser state as
//! flat vectors in one canonical order; the agreed arithmetic bit-exact on every machine.
//! *Non-goals*: tokenizers (ids in, ids out), networks, and deciding who trains what.
//!
//! Letters: `B` batch, `T` sequence length, `C` hidden size, `H` heads, `K` key/value heads,
//! `D` head size, `F` feed-forward size, `V` vocabulary.

mod apply;
mod check;
mod checkpoint;
mod config;
mod device;
mod gguf;
mod init;
mod layout;
mod optim;
mod private;
mod sample;
mod simd;
mod stage;
mod train;
pub mod update;
mod weights;

pub use apply::{Applied, ApplyError, ApplyRule, Contribution, apply, restitution, shares};
pub use check::{CheckedUpdate, verify_update};
pub use checkpoint::{CheckpointError, ExportCard, export, export_check, load};
pub use config::{ConfigError, ModelConfig, SIZES};
pub use device::{Device, DeviceError, available, open};
pub use gguf::{GgufType, export_gguf};
pub use init::init;
pub use layout::{Layout, Param, Part};
pub use optim::{AdamW, Schedule, clip_norm};
pub use private::{Moments, Private};
pub use sample::{SampleSettings, sample};
pub use stage::{Boundary, Saved, Stage, StageInput};
pub use train::{Batch, Trainer, Unit, UnitError, UnitPlan};
pub use weights::Weights;
