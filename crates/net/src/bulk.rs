//! Content by hash: asked for chunk by chunk (answered in `serving.rs`), checked chunk by chunk, from many at once.

use crate::alpn;
use crate::frame;
use crate::peer_error::PeerError;
use crate::pool::Pool;
use base::{CHUNK_BYTES, ChunkTree, Hash, NodeId, Reject, Wire, wire_enum};
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{Mutex, Notify};
use tokio::task::{JoinSet, spawn_blocking};

/// What a node serves. Called from many tasks; [`chunk`](Content::chunk) may block for as long as a disk does.
pub trait Content: Send + Sync + 'static {
    /// The chunk tree of `root`, when it is held and `by` may have it.
    fn tree(&self, root: &Hash, by: &NodeId) -> Option<Arc<ChunkTree>>;
    /// Chunk `index` of `root`, when it is held and `by` may have it.
    fn chunk(&self, root: &Hash, index: usize, by: &NodeId) -> Option<Bytes>;
    /// Counts bytes that went out.
    fn sent(&self, bytes: usize);
    /// Counts a refused request.
    fn refused(&self, by: &NodeId, why: Reject);
}

/// Nothing for anybody.
impl Content for () {
    fn tree(&self, _: &Hash, _: &NodeId) -> Option<Arc<ChunkTree>> {
        None
    }
    fn chunk(&self, _: &Hash, _: usize, _: &NodeId) -> Option<Bytes> {
        None
    }
    fn sent(&self, _: usize) {}
    fn refused(&self, _: &NodeId, _: Reject) {}
}

/// A request is at most this long.
pub(crate) const REQUEST_MAX: usize = 64;
/// A tree lists 32 bytes a chunk: enough for 2 TiB.
const TREE_MAX: usize = 64 << 20;
/// Connections to one source for one transfer.
const LANES_MAX: usize = 4;
/// Chunks that make a further connection worth its handshake.
const CHUNKS_PER_LANE: usize = 4;
/// Chunks asked for at once over one connection: while one travels, the request for the next does.
pub(crate) const ASKED_AHEAD: usize = 2;
/// A source that brings nothing for so long is given up for this transfer.
pub(crate) const STALL: Duration = Duration::from_secs(20);

/// A tree is small: a source that does not send it for so long is dialled anew next time.
const TREE_STALL: Duration = Duration::from_secs(3);

/// What is asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// The tree of `root` and, when it is one chunk only, that chunk as a second frame.
    Tree { root: Hash },
    /// One chunk.
    Chunk { root: Hash, index: u32 },
    /// Nothing: is it there?
    Ping { nonce: u64 },
}

wire_enum!(Request {
    0 => Tree { root },
    1 => Chunk { root, index },
    2 => Ping { nonce },
});

/// Where the bytes of a transfer are put: in memory, or in a file that is too large for it.
pub trait Place: Send + 'static {
    /// Bytes that are there now.
    fn held(&self) -> io::Result<u64>;
    /// Makes it so long; what is new is filled in later.
    fn resize(&mut self, len: u64) -> io::Result<()>;
    /// Fills `bytes` with what is there from `at` on.
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Puts `bytes` there from `at` on.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
}

impl Place for Vec<u8> {
    fn held(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
    fn resize(&mut self, len: u64) -> io::Result<()> {
        self.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.copy_from_slice(&self[at as usize..][..bytes.len()]);
        Ok(())
    }
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl Place for std::fs::File {
    fn held(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn resize(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        io::Seek::seek(self, io::SeekFrom::Start(at))?;
        io::Read::read_exact(self, bytes)
    }
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        io::Seek::seek(self, io::SeekFrom::Start(at))?;
        io::Write::write_all(self, bytes)
    }
}

/// Content that arrived whole.
#[derive(Debug)]
pub struct Fetched<P = Vec<u8>> {
    /// The bytes.
    pub bytes: P,
    /// Their tree.
    pub tree: ChunkTree,
    /// Chunks that had to be moved.
    pub moved: usize,
    /// Wrong answers on the way.
    pub failed: Vec<(NodeId, PeerError)>,
}

/// Why content did not arrive.
#[derive(Debug, Error)]
#[error("{}", match .disk {
    Some(disk) => format!("what arrived of {root:?} could not be kept: {disk}"),
    None => format!("no peer has all of {root:?}: {missing} chunks missing"),
})]
pub struct FetchError<P = Vec<u8>> {
    /// What was asked for.
    pub root: Hash,
    /// Chunks that nobody gave.
    pub missing: usize,
    /// What arrived, in place; goes on from here when given back to `fetch`.
    pub partial: P,
    /// Wrong answers on the way.
    pub failed: Vec<(NodeId, PeerError)>,
    /// It is longer than it may be: so is every copy of it, for its root says it.
    pub longer: bool,
    /// What kept it from being kept.
    pub disk: Option<io::Error>,
}

impl<P> FetchError<P> {
    /// Whether those who were asked could not be reached or have nothing yet: it may be there in a moment.
    pub fn absent(&self) -> bool {
        self.failed.iter().all(|(_, error)| matches!(error, PeerError::Missing | PeerError::Unreachable))
    }
}

/// Time for a small request to come back.
pub(crate) async fn ping(pool: &Pool, peer: NodeId) -> Result<Duration, PeerError> {
    let begun = Instant::now();
    let connection = pool.get(peer, alpn::BULK, 0).await?;
    let nonce = begun.elapsed().as_nanos() as u64;
    let mut receive = ask(&connection, Request::Ping { nonce }).await?;
    let answer: u64 = frame::receive_as(&mut receive, 8).await?;
    if answer == nonce { Ok(begun.elapsed()) } else { Err(Reject::Malformed.into()) }
}

async fn ask(connection: &Connection, request: Request) -> Result<RecvStream, PeerError> {
    let (mut send, receive) = connection.open_bi().await.map_err(|_| PeerError::Unreachable)?;
    frame::send(&mut send, &request.to_bytes()).await?;
    let _ = send.finish();
    Ok(receive)
}

/// What the workers of one transfer share.
struct Transfer<P> {
    tree: ChunkTree,
    todo: Mutex<VecDeque<usize>>,
    buffer: Mutex<P>,
    failed: Mutex<Vec<(NodeId, PeerError)>>,
    /// Nothing can be kept any more.
    disk: Mutex<Option<io::Error>>,
    arrived: Notify,
}

/// Fetches `root`, of `most` bytes, from `sources` at once. Chunks that `have` (an older version, or what arrived
/// before) holds already are not moved again. Memory and disk are taken for what the content says of itself: whoever asks
/// knows how much that can be.
pub(crate) async fn fetch<P: Place>(
    pool: &Arc<Pool>,
    (root, most): (Hash, u64),
    sources: &[NodeId],
    have: P,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Fetched<P>, FetchError<P>> {
    let mut failed = Vec::new();
    let (mut found, mut longer) = (None, false);
    for source in sources {
        match fetch_tree(pool, *source, root).await {
            Ok((tree, _)) if tree.len > most => {
                longer = true;
                failed.push((*source, Reject::Oversized.into()));
            }
            Ok(tree) => {
                found = Some(tree);
                break;
            }
            Err(error) => failed.push((*source, error)),
        }
    }
    let Some((tree, first)) = found else {
        return Err(FetchError { root, missing: 1, partial: have, failed, longer, disk: None });
    };
    let (tree, buffer, todo) = spawn_blocking(move || place(tree, have, first)).await.expect("it does not panic");
    let todo = match todo {
        Ok(todo) => todo,
        Err(disk) => return Err(FetchError { root, missing: 1, partial: buffer, failed, longer, disk: Some(disk) }),
    };
    let moved = todo.len() + usize::from(tree.chunks.len() == 1 && todo.is_empty());
    let total = todo.len();
    let transfer = Arc::new(Transfer {
        tree,
        todo: Mutex::new(todo.into()),
        buffer: Mutex::new(buffer),
        failed: Mutex::new(failed),
        disk: Mutex::default(),
        arrived: Notify::new(),
    });
    stripe(pool, root, sources, &transfer, total, progress).await;
    let missing = transfer.todo.lock().await.len();
    let transfer = Arc::into_inner(transfer).expect("all workers have ended");
    let (bytes, failed) = (transfer.buffer.into_inner(), transfer.failed.into_inner());
    let disk = transfer.disk.into_inner();
    if missing > 0 || disk.is_some() {
        return Err(FetchError { root, missing, partial: bytes, failed, longer, disk });
    }
    Ok(Fetched { bytes, tree: transfer.tree, moved, failed })
}

/// Runs workers until nothing is left to do or nobody is left to ask. A small transfer stays with
/// the first sources; each that fails makes room for the next.
async fn stripe<P: Place>(
    pool: &Arc<Pool>,
    root: Hash,
    sources: &[NodeId],
    transfer: &Arc<Transfer<P>>,
    total: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
) {
    let mut alive = sources.to_vec();
    loop {
        let left = transfer.todo.lock().await.len();
        if left == 0 || alive.is_empty() || transfer.disk.lock().await.is_some() {
            return;
        }
        let asked = &alive[..left.div_ceil(CHUNKS_PER_LANE).min(alive.len())];
        let lanes = left.div_ceil(CHUNKS_PER_LANE * asked.len()).clamp(1, LANES_MAX);
        let mut workers = JoinSet::new();
        for lane in (0..lanes).flat_map(|lane| [lane; ASKED_AHEAD]) {
            for &source in asked {
                workers.spawn(work(pool.clone(), source, lane, root, transfer.clone()));
            }
        }
        while !workers.is_empty() {
            tokio::select! {
                // A chunk that a failing source had taken is done in the next pass.
                Some(ended) = workers.join_next() => if let Ok(Some(failed)) = ended {
                    alive.retain(|source| *source != failed);
                },
                () = transfer.arrived.notified() => {}
            }
            let left = transfer.todo.lock().await.len();
            progress(total - left, total);
        }
    }
}

/// Asks one source over one connection for chunk after chunk; gives the source back when it failed.
async fn work<P: Place>(
    pool: Arc<Pool>,
    source: NodeId,
    lane: usize,
    root: Hash,
    transfer: Arc<Transfer<P>>,
) -> Option<NodeId> {
    loop {
        let index = transfer.todo.lock().await.pop_front()?;
        // One's own limit is nobody's fault: its source is not timed meanwhile.
        pool.down.take(transfer.tree.range(index).len()).await;
        match within(STALL, fetch_chunk(&pool, source, lane, root, index, &transfer.tree)).await {
            Ok(bytes) => {
                let at = transfer.tree.range(index).start as u64;
                if let Err(error) = transfer.buffer.lock().await.write(at, &bytes) {
                    *transfer.disk.lock().await = Some(error);
                    return None;
                }
                transfer.arrived.notify_one();
            }
            Err(error) => {
                transfer.todo.lock().await.push_back(index);
                transfer.failed.lock().await.push((source, error));
                return Some(source);
            }
        }
    }
}

/// The buffer with everything in place that is known to be right, and the chunks still to fetch.
fn place<P: Place>(tree: ChunkTree, mut have: P, first: Option<Vec<u8>>) -> (ChunkTree, P, io::Result<Vec<usize>>) {
    let sort = || {
        let held = have.held()?;
        have.resize(tree.len)?;
        if let Some(first) = first {
            have.write(0, &first)?;
            return Ok(Vec::new());
        }
        let mut todo = Vec::new();
        let mut chunk = Vec::new();
        for (index, hash) in tree.chunks.iter().enumerate() {
            let range = tree.range(index);
            chunk.resize(range.len(), 0);
            let there = range.end as u64 <= held;
            if there {
                have.read(range.start as u64, &mut chunk)?;
            }
            if !there || Hash::of_chunk(&chunk) != *hash {
                todo.push(index);
            }
        }
        Ok(todo)
    };
    let todo = sort();
    (tree, have, todo)
}

async fn fetch_tree(pool: &Pool, source: NodeId, root: Hash) -> Result<(ChunkTree, Option<Vec<u8>>), PeerError> {
    // Who is still being dialled is left to it: giving up must not take the way from those who come later.
    let connection = within(TREE_STALL, pool.get(source, alpn::BULK, 0)).await.map_err(|_| PeerError::Unreachable)?;
    match within(TREE_STALL, ask_tree(&connection, root)).await {
        Err(PeerError::TooSlow) => {
            pool.discard(source, alpn::BULK, 0, &connection).await;
            Err(PeerError::TooSlow)
        }
        answer => answer,
    }
}

async fn ask_tree(connection: &Connection, root: Hash) -> Result<(ChunkTree, Option<Vec<u8>>), PeerError> {
    let mut receive = ask(connection, Request::Tree { root }).await?;
    let bytes = frame::receive(&mut receive, TREE_MAX).await?.ok_or(PeerError::Missing)?;
    let tree = ChunkTree::from_bytes(&bytes).map_err(|_| Reject::Malformed)?;
    if tree.root() != root {
        return Err(Reject::WrongHash.into());
    }
    let first = if tree.chunks.len() == 1 { frame::receive(&mut receive, CHUNK_BYTES).await? } else { None };
    match first {
        Some(bytes) if bytes.len() as u64 != tree.len || Hash::of_chunk(&bytes) != tree.chunks[0] => {
            Err(Reject::WrongHash.into())
        }
        first => Ok((tree, first)),
    }
}

async fn fetch_chunk(
    pool: &Pool,
    source: NodeId,
    lane: usize,
    root: Hash,
    index: usize,
    tree: &ChunkTree,
) -> Result<Vec<u8>, PeerError> {
    let connection = pool.get(source, alpn::BULK, lane).await?;
    let mut receive = ask(&connection, Request::Chunk { root, index: index as u32 }).await?;
    let bytes = frame::receive(&mut receive, CHUNK_BYTES).await?.ok_or(PeerError::Missing)?;
    let right = bytes.len() == tree.range(index).len() && Hash::of_chunk(&bytes) == tree.chunks[index];
    if right { Ok(bytes) } else { Err(Reject::WrongHash.into()) }
}

/// Too slow: too many at once, or nobody there any more.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, PeerError>>,
) -> Result<T, PeerError> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(PeerError::TooSlow))
}
