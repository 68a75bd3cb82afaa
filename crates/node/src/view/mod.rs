//! What a node shows its owner: one typed document for the page, `talkoo status`, `/metrics` and `talkoo doctor`.

mod build;
pub(crate) mod earnings;
pub(crate) mod events;
#[cfg(feature = "serve")]
mod market;
mod metrics;
pub mod panel;
mod pay;
mod status;

#[cfg(feature = "serve")]
pub use build::NodePanel;
pub use build::{NodeSettings, utc};
pub use events::Recorded;
pub use panel::Panel;
pub use status::Status;
