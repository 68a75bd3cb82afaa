//! What this node serves by root: weights from memory, the rest from files; to everybody, or to the members of a run.

use base::{ChunkTree, Hash, NodeId, Reject, RejectCounts, Round};
use bytes::Bytes;
use model::Weights;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use swarm::{Run, RunId};

/// Everything that is served now.
#[derive(Default)]
pub struct Contents {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    items: BTreeMap<Hash, Item>,
    /// Own updates of rounds whose commits are not closed, and the private states after them: whoever had them could
    /// commit what was learned as its own.
    withheld: Vec<(Round, Item)>,
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
    Weights(Arc<Weights>),
    File(PathBuf),
}

impl Contents {
    /// Serves weights under their tree.
    pub(crate) fn add_weights(&self, run: Hash, weights: Arc<Weights>, tree: Arc<ChunkTree>) {
        self.put(Some(run), tree, Source::Weights(weights));
    }

    /// Serves a file.
    pub fn add_file(&self, run: Option<Hash>, path: PathBuf, tree: ChunkTree) {
        self.put(run, Arc::new(tree), Source::File(path));
    }

    /// Serves a file that an own unit made from when its round stops training.
    pub(crate) fn withhold(&self, run: RunId, round: Round, path: PathBuf, tree: ChunkTree) {
        let item = Item { run: Some(run), tree: Arc::new(tree), bytes: Source::File(path) };
        self.lock().withheld.push((round, item));
    }

    /// Serves what was withheld of rounds that do not train any more, as far as their run is `known`.
    pub(crate) fn release(&self, known: &BTreeMap<RunId, Run>) {
        let mut inner = self.lock();
        let over = |round: Round, run: &Run| {
            round < run.next && !run.open.iter().any(|open| open.round == round && open.is_training())
        };
        let Inner { items, withheld, .. } = &mut *inner;
        let due = withheld.extract_if(.., |(round, item)| {
            item.run.and_then(|run| known.get(&run)).is_some_and(|run| over(*round, run))
        });
        items.extend(due.map(|(_, item)| (item.tree.root(), item)));
    }

    /// Serves no weights of a run any more; its updates stay for those who need them still.
    pub(crate) fn drop_weights(&self, run: &Hash) {
        let of_it = |item: &Item| item.run == Some(*run) && matches!(item.bytes, Source::Weights(_));
        self.lock().items.retain(|_, item| !of_it(item));
    }

    /// Serves it no more, nor later.
    pub fn remove(&self, root: &Hash) {
        let mut inner = self.lock();
        inner.items.remove(root);
        inner.withheld.retain(|(_, item)| item.tree.root() != *root);
    }

    /// From now on what belongs to `run` goes to these only.
    pub(crate) fn restrict(&self, run: Hash, members: BTreeSet<NodeId>) {
        self.lock().members.insert(run, members);
    }

    /// Refused requests by reason, and bytes sent.
    pub fn counts(&self) -> (RejectCounts, u64) {
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
