//! What a node shows its owner: one typed document for the page, `talkoo status`, `/metrics` and `talkoo doctor`.

mod build;
pub(crate) mod earnings;
pub(crate) mod events;
mod metrics;
pub mod panel;
mod pay;
mod status;

pub use build::{NodeSettings, utc};
#[cfg(feature = "serve")]
pub use build::NodePanel;
pub use events::Recorded;
pub use panel::Panel;
pub use status::Status;
