//! What a run keeps on disk: weights, updates, and private states.

use super::Work;
use anyhow::{Context, Result, ensure};
use base::{ChunkTree, Hash, Reject, Round};
use host::{write_parts, write_whole};
use model::{Layout, Private, Weights, verify_update};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use swarm::{Candidate, Init};

/// Ending waits so long for a unit to be let go of. A micro-batch may take longer; what its unit writes then lies
/// beside what the log knows, and is written anew.
const ENDING: Duration = Duration::from_secs(10);
/// File of a run that began with published weights: those weights.
pub(crate) const INITIAL: &str = "initial";
/// Ends the name of an update that is on its way.
const ARRIVING: &str = "arriving";

// --- weights -----------------------------------------------------------------------------------

impl Work {
    /// The run is left: its weights go to disk and out of memory, a unit that is under way is let go of.
    pub(crate) fn leave(&self) -> Result<()> {
        self.left.store(true, Ordering::Relaxed);
        let saved = self.save();
        self.contents.drop_weights(&self.run);
        saved
    }

    /// The node ends: a unit that is under way is let go of, the weights go to disk.
    pub(crate) async fn end(&self) -> Result<()> {
        self.left.store(true, Ordering::Relaxed);
        if tokio::time::timeout(ENDING, self.computing.lock()).await.is_err() {
            tracing::warn!(run = %self.run.short(), "a unit is still computing; it is dropped");
        }
        tokio::task::block_in_place(|| self.save())
    }

    /// Weights on disk: version and root.
    pub(crate) fn load_snapshot(&self) -> Option<(u64, Hash)> {
        // Damaged on disk: as if they were not there.
        let (version, weights, tree) = self.read_weights(&self.snapshot_path().ok()?).ok()?;
        self.keep_initial(version, &weights).ok()?;
        *self.disk() = version;
        self.versions().saved = Some(Instant::now());
        Some(self.adopt_tree(version, Arc::new(weights), Arc::new(tree)))
    }

    /// Writes the newest weights to disk now.
    pub(crate) fn save(&self) -> Result<()> {
        match self.newest() {
            Some((version, weights, root)) => self.snapshot(version, &weights, &root),
            None => Ok(()),
        }
    }

    pub(super) fn snapshot(&self, version: u64, weights: &Weights, root: &Hash) -> Result<()> {
        let mut on_disk = self.disk();
        // Weights that another thread put there meanwhile may be nowhere else.
        if version >= *on_disk {
            write_weights(&self.snapshot_path()?, version, weights, root)?;
            *on_disk = version;
        }
        Ok(())
    }

    /// The version on disk, held while it changes.
    pub(super) fn disk(&self) -> MutexGuard<'_, u64> {
        self.disk.lock().expect("nobody panics while writing")
    }

    /// Published weights with which a run begins stay for replays.
    pub(super) fn keep_initial(&self, version: u64, weights: &Weights) -> Result<()> {
        if version > 0 || self.spec.init == Init::Seed {
            return Ok(());
        }
        let initial = self.store.run_dir(&self.run)?.join(INITIAL);
        if initial.exists() { Ok(()) } else { write_whole(&initial, &weights.bytes(), false) }
    }

    fn snapshot_path(&self) -> Result<PathBuf> {
        Ok(self.store.run_dir(&self.run)?.join("weights"))
    }

    fn made_path(&self) -> Result<PathBuf> {
        Ok(self.store.run_dir(&self.run)?.join("made"))
    }

    /// Keeps what a plain round made. Nobody else has these weights, so they are on disk before they are committed
    /// to; the log may yet refuse them, so they lie beside those that it knows until their round closes.
    pub(super) fn keep_made(&self, version: u64, weights: Weights) -> Result<Hash> {
        let tree = Arc::new(weights.tree());
        let root = tree.root();
        write_weights(&self.made_path()?, version, &weights, &root)?;
        self.versions().made = Some((version, Arc::new(weights), tree));
        Ok(root)
    }

    /// What this node made in a plain round that closed, from memory or as an earlier process left it on disk. From
    /// now on the log knows it, so it takes the place of the weights before it.
    pub(super) fn take_made(&self, version: u64, root: &Hash) -> Result<(Arc<Weights>, Arc<ChunkTree>)> {
        let made = self.versions().made.take().filter(|(made, _, tree)| *made == version && tree.root() == *root);
        let (weights, tree) = match made {
            Some((_, weights, tree)) => (weights, tree),
            None => {
                let found = self.read_weights(&self.made_path()?);
                let (made, weights, tree) = found.context("the weights of this plain round are gone")?;
                ensure!(made == version && tree.root() == *root, "the weights on disk are another plain round's");
                (Arc::new(weights), Arc::new(tree))
            }
        };
        let put = self.put_made(version);
        if let Err(error) = &put {
            tracing::warn!(%error, "the weights of a plain round could not be put in their place");
        }
        // Otherwise they are written once more with the next snapshot.
        self.versions().saved = put.is_ok().then(Instant::now);
        Ok((weights, tree))
    }

    fn put_made(&self, version: u64) -> Result<()> {
        let mut on_disk = self.disk();
        let (made, weights) = (self.made_path()?, self.snapshot_path()?);
        // What is exported of the weights is as old as they are: these are the newest from now on.
        File::options().append(true).open(&made)?.set_modified(SystemTime::now())?;
        std::fs::rename(made, weights)?;
        *on_disk = version;
        Ok(())
    }

    fn read_weights(&self, path: &Path) -> Result<(u64, Weights, ChunkTree)> {
        read_weights(path, &self.layout, self.common_moments())
    }
}

fn write_weights(path: &Path, version: u64, weights: &Weights, root: &Hash) -> Result<()> {
    let (version, bytes) = (version.to_le_bytes(), weights.bytes());
    write_parts(path, &[version.as_slice(), &root.0, &bytes], false)
}

/// The version and the weights of a file; refuses those that are not as they were written.
fn read_weights(path: &Path, layout: &Layout, common_moments: bool) -> Result<(u64, Weights, ChunkTree)> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let damaged = || format!("{} is damaged", path.display());
    let (version, rest) = bytes.split_first_chunk::<8>().with_context(damaged)?;
    let (root, rest) = rest.split_first_chunk::<32>().with_context(damaged)?;
    let weights = Weights::from_bytes(layout, common_moments, rest).with_context(damaged)?;
    let tree = weights.tree();
    ensure!(tree.root().0 == *root, damaged());
    Ok((u64::from_le_bytes(*version), weights, tree))
}

// --- updates -----------------------------------------------------------------------------------

impl Work {
    fn update_path(&self, update: &Hash) -> Result<PathBuf> {
        Ok(self.store.run_dir(&self.run)?.join("updates").join(update.to_string()))
    }

    fn arriving_path(&self, update: &Hash) -> Result<PathBuf> {
        Ok(self.update_path(update)?.with_extension(ARRIVING))
    }

    /// Where an update is put while it arrives: with what came of it before.
    pub(crate) fn arriving(&self, update: &Hash) -> Result<File> {
        let path = self.arriving_path(update)?;
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        file.with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
    }

    /// Lets go of what an earlier process left of updates: those that came whole and are `known` stay.
    pub(crate) fn clear_updates(&self, known: &BTreeSet<Hash>) -> Result<()> {
        for file in std::fs::read_dir(self.store.run_dir(&self.run)?.join("updates"))?.flatten() {
            let hash: Option<Hash> = file.file_name().to_str().and_then(|name| name.parse().ok());
            if !hash.is_some_and(|hash| known.contains(&hash)) {
                std::fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    /// Checks an update that arrived completely, keeps it and serves it.
    pub(crate) fn verify(&self, candidate: &Candidate) -> Result<(), Reject> {
        let trouble = |error: anyhow::Error| {
            tracing::warn!(%error, "an update could not be kept");
            Reject::NotHeld
        };
        let arriving = self.arriving_path(&candidate.update).map_err(trouble)?;
        let kept = self.check(candidate, &arriving).and_then(|tree| {
            let path = self.update_path(&candidate.update).map_err(trouble)?;
            std::fs::rename(&arriving, &path).map_err(|error| trouble(error.into()))?;
            self.contents.add_file(Some(self.run), path, tree);
            Ok(())
        });
        if kept.is_err() {
            let _ = std::fs::remove_file(&arriving);
        }
        kept
    }

    fn check(&self, candidate: &Candidate, path: &Path) -> Result<ChunkTree, Reject> {
        let (bytes, tree) = read_verified(path, &candidate.update).ok_or(Reject::NotHeld)?;
        if tree.len != candidate.size {
            return Err(Reject::WrongSize);
        }
        verify_update(&self.layout, &bytes, self.format(), f64::from_bits(candidate.norm_sq_bits))?;
        Ok(tree)
    }

    /// Keeps an own update. Nobody gets it before the commits of its round are closed.
    pub(super) fn keep_own(&self, round: Round, bytes: &[u8]) -> Result<Hash> {
        let tree = ChunkTree::of(bytes);
        let root = tree.root();
        let path = self.update_path(&root)?;
        write_whole(&path, bytes, false).inspect_err(|_| self.forget(&[root]))?;
        self.contents.withhold(self.run, round, path, tree);
        Ok(root)
    }

    /// Takes an update from the folder of another process on this machine, where it is there.
    pub(crate) fn borrow_update(&self, folder: &Path, update: &Hash) -> Result<()> {
        let found = read_verified(&folder.join("updates").join(update.to_string()), update);
        let (bytes, _) = found.context("an update is gone from this node")?;
        write_whole(&self.update_path(update)?, &bytes, false)
    }

    pub(crate) fn update(&self, root: &Hash) -> Result<Vec<u8>> {
        let found = read_verified(&self.update_path(root)?, root);
        found.map(|(bytes, _)| bytes).context("an update is gone from this node")
    }

    /// Whether an update is on this node already; then it is served.
    pub(crate) fn holds(&self, root: &Hash) -> bool {
        let Ok(path) = self.update_path(root) else { return false };
        let Some((_, tree)) = read_verified(&path, root) else { return false };
        self.contents.add_file(Some(self.run), path, tree);
        true
    }

    /// Lets go of updates.
    pub(crate) fn forget(&self, updates: &[Hash]) {
        for update in updates {
            self.contents.remove(update);
            for path in [self.update_path(update), self.arriving_path(update)].into_iter().flatten() {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

// --- private states ----------------------------------------------------------------------------

impl Work {
    /// From now on keeps the private states with these names, and no others by name.
    pub(crate) fn name_privates(&self, names: BTreeSet<Hash>) {
        *self.named() = names;
    }

    fn named(&self) -> MutexGuard<'_, BTreeSet<Hash>> {
        self.privates_named.lock().expect("nobody panics while holding the names")
    }

    /// Whether a private state is on this node.
    pub(crate) fn has_private(&self, state: &Hash) -> bool {
        *state != Hash::default() && self.private_path(state).is_ok_and(|path| path.exists())
    }

    /// Keeps another's private state for a newcomer's first unit.
    pub(crate) fn keep_inherited(&self, state: &Hash, bytes: &[u8]) -> Result<()> {
        let private = Private::from_bytes(&self.layout, bytes)?;
        ensure!(private.plausible(self.clip()), "its second moments are larger than clipped gradients leave");
        write_whole(&self.private_path(state)?, bytes, false)
    }

    fn private_path(&self, state: &Hash) -> Result<PathBuf> {
        Ok(self.store.run_dir(&self.run)?.join("private").join(state.to_string()))
    }

    /// A private state that is on this node; it is served, for newcomers go on from others' moments.
    pub(super) fn private_state(&self, state: &Hash) -> Option<Private> {
        if *state == Hash::default() {
            return None;
        }
        let path = self.private_path(state).ok()?;
        let (bytes, tree) = read_verified(&path, state)?;
        let private = Private::from_bytes(&self.layout, &bytes).ok()?;
        self.contents.add_file(Some(self.run), path, tree);
        Some(private)
    }

    /// Keeps the private state after a unit, the `accepted` one that the log knows, those that were named, and the
    /// last ones before them.
    /// Nobody gets the one of a `round` whose commits are not closed: it shows what was learned.
    pub(super) fn keep_private(&self, round: Round, private: &Private, accepted: &Hash) -> Result<Hash> {
        let bytes = private.to_bytes();
        let tree = ChunkTree::of(&bytes);
        let hash = tree.root();
        let path = self.private_path(&hash)?;
        write_whole(&path, &bytes, false)?;
        self.contents.withhold(self.run, round, path, tree);
        let dir = self.store.run_dir(&self.run)?.join("private");
        let named = self.named();
        let stays = |state: &Hash| *state == hash || state == accepted || named.contains(state);
        for gone in prune_oldest(&dir, self.privates_kept, stays) {
            self.contents.remove(&gone);
        }
        Ok(hash)
    }
}

/// Keeps the newest `keep` files of a folder, named by hashes, and those that `stay`; gives those of the others.
fn prune_oldest(dir: &Path, keep: usize, stays: impl Fn(&Hash) -> bool) -> Vec<Hash> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> =
        entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    files.sort();
    files.truncate(files.len().saturating_sub(keep));
    let mut gone = Vec::new();
    for (_, path) in files {
        let hash: Option<Hash> = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        if !hash.as_ref().is_some_and(&stays) && std::fs::remove_file(&path).is_ok() {
            gone.extend(hash);
        }
    }
    gone
}

/// Reads a file whose content must have `root`, with its tree; `None` when it is missing or damaged.
pub fn read_verified(path: &Path, root: &Hash) -> Option<(Vec<u8>, ChunkTree)> {
    let bytes = std::fs::read(path).ok()?;
    let tree = ChunkTree::of(&bytes);
    (tree.root() == *root).then_some((bytes, tree))
}
