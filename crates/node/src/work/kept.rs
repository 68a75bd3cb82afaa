//! What a run keeps on disk beside its weights: updates, and private states.

use super::Work;
use crate::store::{read_verified, write_whole};
use anyhow::{Context, Result};
use base::{ChunkTree, Hash};
use bytes::Bytes;
use model::{Private, Weights};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Work {
    /// The run is left: its weights go to disk and out of memory, a unit that is under way is let go of.
    pub(crate) fn leave(&self) -> Result<()> {
        self.left.store(true, Ordering::Relaxed);
        let saved = self.save();
        self.contents.drop_weights(&self.run);
        saved
    }

    /// Whether a private state is on this node.
    pub(crate) fn has_private(&self, state: &Hash) -> bool {
        self.private_state(state).is_some()
    }

    /// Keeps another's private state for a newcomer's first unit.
    pub(crate) fn keep_inherited(&self, state: &Hash, bytes: &[u8]) -> Result<()> {
        Private::from_bytes(&self.layout, bytes)?;
        write_whole(&self.private_path(state)?, bytes, false)
    }

    pub(super) fn update_path(&self, update: &Hash) -> Result<PathBuf> {
        Ok(self.store.run_dir(&self.run)?.join("updates").join(update.to_string()))
    }

    pub(super) fn keep_update(&self, root: &Hash, bytes: Bytes) {
        if let Err(error) = self.update_path(root).and_then(|path| write_whole(&path, &bytes, false)) {
            tracing::warn!(%error, "an update could not be written");
        }
        self.contents.add(Some(self.run), bytes);
    }

    pub(crate) fn update(&self, root: &Hash) -> Result<Bytes> {
        if let Some(bytes) = self.contents.get(root) {
            return Ok(bytes);
        }
        let bytes = read_verified(&self.update_path(root)?, root).context("an update is gone from this node")?;
        Ok(bytes.into())
    }

    /// Whether an update is on this node already.
    pub(crate) fn holds(&self, root: &Hash) -> bool {
        match self.update(root) {
            Ok(bytes) => {
                self.contents.add(Some(self.run), bytes);
                true
            }
            Err(_) => false,
        }
    }

    pub(super) fn keep_made(&self, version: u64, weights: Weights) -> Result<Hash> {
        let tree = Arc::new(weights.tree());
        let root = tree.root();
        // Nobody else has these weights: they are on disk before they are committed to.
        self.snapshot(version, &weights, &root)?;
        self.versions().made = Some((version, Arc::new(weights), tree));
        Ok(root)
    }

    pub(super) fn private_path(&self, state: &Hash) -> Result<PathBuf> {
        Ok(self.store.run_dir(&self.run)?.join("private").join(state.to_string()))
    }

    pub(super) fn private_state(&self, state: &Hash) -> Option<Private> {
        if *state == Hash::default() {
            return None;
        }
        let mut cache = self.private.lock().expect("nobody panics while holding the private states");
        if let Some(private) = cache.get(state) {
            return Some(private.clone());
        }
        let bytes = read_verified(&self.private_path(state).ok()?, state)?;
        let private = Private::from_bytes(&self.layout, &bytes).ok()?;
        self.serve_private(state, ChunkTree::of(&bytes));
        cache.insert(*state, private.clone());
        Some(private)
    }

    /// Keeps a private state on disk, and the last ones before it.
    pub(super) fn keep_private(&self, private: Private) -> Result<Hash> {
        let bytes = private.to_bytes();
        let tree = ChunkTree::of(&bytes);
        let hash = tree.root();
        write_whole(&self.private_path(&hash)?, &bytes, false)?;
        self.serve_private(&hash, tree);
        let mut cache = self.private.lock().expect("nobody panics while holding the private states");
        cache.insert(hash, private);
        let dir = self.store.run_dir(&self.run)?.join("private");
        for gone in prune_oldest(&dir, self.privates_kept) {
            cache.remove(&gone);
            self.contents.remove(&gone);
        }
        Ok(hash)
    }

    /// Newcomers go on from others' moments.
    pub(super) fn serve_private(&self, state: &Hash, tree: ChunkTree) {
        if let Ok(path) = self.private_path(state) {
            self.contents.add_file(Some(self.run), path, tree);
        }
    }
}

/// Keeps the newest `keep` files of a folder, named by hashes; gives those of the others.
fn prune_oldest(dir: &std::path::Path, keep: usize) -> Vec<Hash> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> =
        entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    files.sort();
    files.truncate(files.len().saturating_sub(keep));
    let gone = files.iter().filter(|(_, path)| std::fs::remove_file(path).is_ok());
    gone.filter_map(|(_, path)| path.file_name()?.to_str()?.parse().ok()).collect()
}
