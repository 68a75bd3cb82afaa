//! What this node serves: content by root, in memory or in files, to everybody or to a run's members.

use base::{ChunkTree, Hash, NodeId, Reject, RejectCounts};
use bytes::Bytes;
use model::Weights;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Everything that is served now.
#[derive(Default)]
pub struct Contents {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    items: BTreeMap<Hash, Item>,
    /// Members of private runs; a run that is absent is open.
    members: BTreeMap<Hash, BTreeSet<NodeId>>,
    rejects: RejectCounts,
    sent_bytes: u64,
}

#[derive(Clone)]
struct Item {
    run: Option<Hash>,
    tree: Arc<ChunkTree>,
    bytes: Source,
}

#[derive(Clone)]
enum Source {
    Memory(Bytes),
    Weights(Arc<Weights>),
    File(PathBuf),
}

impl Contents {
    /// Serves bytes; gives their tree.
    pub(crate) fn add(&self, run: Option<Hash>, bytes: Bytes) -> Arc<ChunkTree> {
        let tree = Arc::new(ChunkTree::of(&bytes));
        self.put(run, tree.clone(), Source::Memory(bytes));
        tree
    }

    /// Serves weights under their tree.
    pub(crate) fn add_weights(&self, run: Hash, weights: Arc<Weights>, tree: Arc<ChunkTree>) {
        self.put(Some(run), tree, Source::Weights(weights));
    }

    /// Serves a file.
    pub(crate) fn add_file(&self, run: Option<Hash>, path: PathBuf, tree: ChunkTree) {
        self.put(run, Arc::new(tree), Source::File(path));
    }

    /// Serves no weights of a run any more; its updates stay for those who need them still.
    pub(crate) fn drop_weights(&self, run: &Hash) {
        let of_it = |item: &Item| item.run == Some(*run) && matches!(item.bytes, Source::Weights(_));
        self.lock().items.retain(|_, item| !of_it(item));
    }

    /// Serves it no more.
    pub(crate) fn remove(&self, root: &Hash) {
        self.lock().items.remove(root);
    }

    /// The bytes of something held in memory.
    pub(crate) fn get(&self, root: &Hash) -> Option<Bytes> {
        match &self.lock().items.get(root)?.bytes {
            Source::Memory(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// From now on what belongs to `run` goes to these only.
    pub(crate) fn restrict(&self, run: Hash, members: BTreeSet<NodeId>) {
        self.lock().members.insert(run, members);
    }

    /// Refused requests by reason, and bytes sent.
    pub(crate) fn counts(&self) -> (RejectCounts, u64) {
        let inner = self.lock();
        (inner.rejects.clone(), inner.sent_bytes)
    }

    /// Counts something that a peer got wrong.
    pub(crate) fn count(&self, reject: Reject) {
        self.lock().rejects.add(reject);
    }

    fn put(&self, run: Option<Hash>, tree: Arc<ChunkTree>, bytes: Source) {
        let root = tree.root();
        self.lock().items.insert(root, Item { run, tree, bytes });
    }

    fn admitted(&self, root: &Hash, by: &NodeId) -> Option<Item> {
        let inner = self.lock();
        let item = inner.items.get(root)?;
        let members = item.run.and_then(|run| inner.members.get(&run));
        members.is_none_or(|members| members.contains(by)).then(|| item.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding the contents")
    }
}

impl net::Content for Contents {
    fn tree(&self, root: &Hash, by: &NodeId) -> Option<Arc<ChunkTree>> {
        self.admitted(root, by).map(|item| item.tree)
    }

    fn chunk(&self, root: &Hash, index: usize, by: &NodeId) -> Option<Bytes> {
        let item = self.admitted(root, by)?;
        if index >= item.tree.chunks.len() {
            return None;
        }
        let range = item.tree.range(index);
        let bytes = match &item.bytes {
            Source::Memory(bytes) => bytes.slice(range),
            Source::Weights(weights) => Bytes::copy_from_slice(&weights.bytes()[range]),
            Source::File(path) => {
                let mut file = std::fs::File::open(path).ok()?;
                file.seek(SeekFrom::Start(range.start as u64)).ok()?;
                let mut bytes = vec![0; range.len()];
                file.read_exact(&mut bytes).ok()?;
                bytes.into()
            }
        };
        Some(bytes)
    }

    fn sent(&self, bytes: usize) {
        self.lock().sent_bytes += bytes as u64;
    }

    fn refused(&self, _by: &NodeId, why: Reject) {
        self.count(why);
    }
}
