//! A node gives the program that it runs to peers, and helps those who look for one to find each other.

use crate::Node;
use base::{ChunkTree, Hash, NodeId};
use net::Topic;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Peers with whom the node is connected are met in the topic this often.
const MEET_EVERY: Duration = Duration::from_secs(5);

/// A program that a node gives.
pub struct GivenProgram {
    /// What says which it is, for those who know its form; at most what fits into a beat of a topic.
    pub words: Vec<u8>,
    /// Where it is.
    pub path: PathBuf,
    /// Its chunk hashes.
    pub tree: ChunkTree,
}

impl Node {
    /// Meets, in `topic`, those who give programs or look for them, and gives one itself where it has one.
    pub async fn give_program(self: &Arc<Self>, topic: Hash, given: Option<GivenProgram>) {
        let words = given.map(|given| {
            self.shared.contents.add_file(None, given.path, given.tree);
            given.words
        });
        let (sender, words) = watch::channel(words);
        let net = self.shared.net.clone();
        let more = net.speak(Topic { topic, words, hear: Arc::new(()) }, &[]);
        let stop = self.stop.clone();
        self.tasks.lock().await.spawn(async move {
            let mut tick = tokio::time::interval(MEET_EVERY);
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    _ = tick.tick() => more.add(&net.ways().into_keys().collect::<Vec<NodeId>>()),
                }
            }
            drop(sender);
            Ok(())
        });
    }
}
