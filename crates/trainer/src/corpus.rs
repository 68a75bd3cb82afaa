//! A run's data on this node: fetched from peers by hash, checked, served on.

use crate::bounds::Bounds;
use crate::content::Contents;
use crate::store::Store;
use anyhow::{Context, Result, ensure};
use base::{ChunkTree, Hash, NodeId};
use data::{Manifest, Shard};
use host::write_whole;
use net::Net;
use std::path::{Path, PathBuf};
use swarm::{Access, RunId, Spec};

/// Copies a corpus that was built in `from` into the data folder; gives its manifest.
pub fn import(store: &Store, from: &Path) -> Result<Manifest> {
    let json = std::fs::read(from.join("manifest.json"))
        .with_context(|| format!("{} has no manifest.json; make it with `talkoo data build`", from.display()))?;
    let manifest = Manifest::from_json(&json)?;
    data::Corpus::verify(from)?;
    let to = store.corpus_dir(&manifest.root())?;
    for name in names(&manifest) {
        if !to.join(&name).exists() {
            let bytes = std::fs::read(from.join(&name))?;
            write_whole(&to.join(&name), &bytes, true)?;
        }
    }
    Ok(manifest)
}

/// Manifests and tokenizers have at most so many bytes.
const SMALL_MAX: u64 = 64 << 20;

/// Told the chunks that are there and those in all.
pub(crate) type Progress = dyn Fn(usize, usize) + Sync;

/// Makes sure that the run's data is on this node, and serves it.
pub(crate) async fn obtain(
    (net, store, contents): (&Net, &Store, &Contents),
    bounds: &Bounds,
    run: &RunId,
    spec: &Spec,
    sources: &[NodeId],
    progress: &Progress,
) -> Result<()> {
    let dir = store.corpus_dir(&spec.manifest)?;
    let private = match &spec.access {
        Access::Open => None,
        Access::Invited(list) => {
            contents.restrict(*run, list.iter().copied().collect());
            Some(*run)
        }
    };
    let get = |name: String, root: Hash, most: u64| {
        let (contents, path) = (&contents, dir.join(name));
        async move { get(net, contents, &path, (root, most), private, sources, progress).await }
    };
    let manifest = Manifest::from_json(&get("manifest.json".into(), spec.manifest, SMALL_MAX).await?)?;
    ensure!(manifest.root() == spec.manifest, "the manifest is not written canonically");
    let shards = || manifest.train.iter().chain(&manifest.heldout);
    let name = |shard: &Shard| format!("{}.bin", shard.root);
    // What arrived before an interruption is there already.
    let there = |file: PathBuf| std::fs::metadata(file).map_or(0, |file| file.len());
    let missing = |shard: &Shard| {
        let file = dir.join(name(shard));
        manifest.shard_bytes(shard).saturating_sub(there(file.with_extension("part")).max(there(file)))
    };
    bounds.disk.ensure(shards().map(missing).sum()).context("the run's data")?;
    let largest = shards().map(|shard| manifest.shard_bytes(shard)).max().unwrap_or(0) >> 20;
    let memory_mb = bounds.memory_mb;
    ensure!(
        memory_mb == 0 || largest < memory_mb,
        "the run's data comes in pieces of {largest} MB, and talkoo.toml allows {memory_mb} MB of memory (memory_mb)"
    );
    get("tokenizer.json".into(), manifest.tokenizer, SMALL_MAX).await?;
    for shard in shards() {
        get(name(shard), shard.root, manifest.shard_bytes(shard)).await?;
    }
    Ok(())
}

/// A file of the corpus: from disk, else from peers; what arrived before an interruption is used.
async fn get(
    net: &Net,
    contents: &Contents,
    path: &Path,
    (root, most): (Hash, u64),
    private: Option<Hash>,
    sources: &[NodeId],
    progress: &Progress,
) -> Result<Vec<u8>> {
    let have = std::fs::read(path).unwrap_or_default();
    let tree = ChunkTree::of(&have);
    let bytes = if tree.root() == root {
        have
    } else {
        let partial = path.with_extension("part");
        let have = if have.is_empty() { std::fs::read(&partial).unwrap_or_default() } else { have };
        match net.fetch(root, most, sources, have, progress).await {
            Ok(fetched) => {
                write_whole(path, &fetched.bytes, true)?;
                let _ = std::fs::remove_file(partial);
                fetched.bytes
            }
            Err(error) => {
                if !error.partial.is_empty() {
                    let _ = write_whole(&partial, &error.partial, false);
                }
                return Err(error).with_context(|| format!("data: {}", path.display()));
            }
        }
    };
    contents.add_file(private, path.to_owned(), ChunkTree::of(&bytes));
    Ok(bytes)
}

fn names(manifest: &Manifest) -> Vec<String> {
    let shards = manifest.train.iter().chain(&manifest.heldout).map(|shard| format!("{}.bin", shard.root));
    // The manifest last: a folder that has it is complete.
    shards.chain(["tokenizer.json".into(), "manifest.json".into()]).collect()
}
