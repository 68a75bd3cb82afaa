//! A node gives the program that it runs to peers, and helps those who look for one to find each other.

use crate::Node;
use base::{ChunkTree, Hash};
use net::Topic;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

impl Node {
    /// Meets, in `topic`, those who give programs or look for them. With `given` it gives one itself: words that say which, for
    /// those who know their form, and where its file is.
    pub fn give_program(&self, topic: Hash, given: Option<(Vec<u8>, PathBuf, ChunkTree)>) {
        let words = given.map(|(words, path, tree)| {
            self.shared.contents.add_file(None, path, tree);
            words
        });
        let (_, words) = watch::channel(words);
        self.shared.net.speak_to_all(Topic { topic, words, hear: Arc::new(()) });
    }
}
