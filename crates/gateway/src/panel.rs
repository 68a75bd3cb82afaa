//! The node behind the page.

use serde_json::Value;

/// What the page shows of a node, and the little that it may change. All of it is JSON that this crate only passes on.
pub trait PanelSource: Send + Sync + 'static {
    /// Everything at a glance.
    fn state(&self) -> Value;
    /// One run in full.
    fn run(&self, run: &str) -> Option<Value>;
    /// What was done on each day that is kept, and where its time went, newest first.
    fn days(&self) -> Value;
    /// Final blocks, newest first, below a height.
    fn blocks(&self, before: Option<u64>, count: usize) -> Value;
    /// An account by its key.
    fn account(&self, key: &str) -> Option<Value>;
    /// The node's own figures, in Prometheus' text format.
    fn metrics(&self) -> String;
    /// The owner needs the machine for so many minutes, or until it says otherwise.
    fn pause(&self, minutes: Option<u64>) -> Result<(), String>;
    /// The owner does not need it any more.
    fn resume(&self) -> Result<(), String>;
    /// Goes to an event, where this is a replay of what was.
    fn replay(&self, _at: usize) -> Result<(), String> {
        Err("this is no replay".into())
    }
}
