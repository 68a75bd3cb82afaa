//! Answers those who ask for content: bounded in memory for each connection, each network, and in all.

use crate::bulk::{ASKED_AHEAD, Content, REQUEST_MAX, Request, STALL, within};
use crate::frame;
use crate::peer_error::PeerError;
use crate::rate::Rate;
use crate::seats::{Origin, Shares};
use base::{Hash, NodeId, Wire};
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};

/// Chunks in memory for peers that read them, of all and of one connection (as many as are asked for ahead on one).
const CHUNKS_OUT_MAX: usize = 64;
const CHUNKS_OUT_EACH: usize = ASKED_AHEAD;
/// A chunk is read within this, or its room is for others.
const SEND_WITHIN: Duration = STALL;
/// A tree of so many bytes waits for its turn as chunks do.
const SMALL_TREE: usize = 1 << 14;
/// A connection on which nothing is asked for so long only takes a place.
const FIRST_STREAM_WITHIN: Duration = Duration::from_secs(10);

/// What all connections serve from.
pub(crate) struct Serving {
    content: Arc<dyn Content>,
    up: Rate,
    /// Chunks that are in memory for peers that read them.
    chunks: Shares,
}

impl Serving {
    pub(crate) fn new(content: Arc<dyn Content>, up: u64) -> Self {
        Self { content, up: Rate::new(up), chunks: Shares::new(CHUNKS_OUT_MAX) }
    }

    /// Answers the requests of one connection until it closes.
    pub(crate) async fn serve(self: Arc<Self>, connection: Connection, by: NodeId, origin: Origin) {
        let permits = Permits { own: Arc::new(Semaphore::new(CHUNKS_OUT_EACH)), origin: self.chunks.of(origin) };
        let mut streams = JoinSet::new();
        while let Some((send, receive)) = first_in_time(&connection, &mut streams).await {
            let (serving, permits) = (self.clone(), permits.clone());
            streams.spawn(async move {
                if let Err(error) = serving.answer(send, receive, by, &permits).await {
                    serving.content.refused(&by, error.reject());
                }
            });
        }
    }

    async fn answer(
        &self,
        mut send: SendStream,
        mut receive: RecvStream,
        by: NodeId,
        permits: &Permits,
    ) -> Result<(), PeerError> {
        let request: Request = within(SEND_WITHIN, frame::receive_as(&mut receive, REQUEST_MAX)).await?;
        match request {
            Request::Tree { root } => {
                let tree = self.content.tree(&root, &by).ok_or(PeerError::Missing)?;
                let bytes = tree.to_bytes();
                // Whoever asks for a tree waits for seconds only; one of a large content is content itself.
                match bytes.len() > SMALL_TREE {
                    true => self.up.take(bytes.len()).await,
                    false => self.up.count(bytes.len()),
                }
                within(SEND_WITHIN, frame::send(&mut send, &bytes)).await?;
                if tree.chunks.len() == 1 {
                    let _own = permits.take().await?;
                    let _all = permit(&self.chunks.all).await?;
                    self.up.count(tree.range(0).len());
                    // Without it the tree is the answer: the chunk is asked for elsewhere.
                    if let Some(chunk) = self.chunk(root, 0, by).await {
                        self.send(&mut send, &chunk).await?;
                    }
                }
            }
            Request::Chunk { root, index } => {
                let tree = self.content.tree(&root, &by).ok_or(PeerError::Missing)?;
                let index = index as usize;
                if index >= tree.chunks.len() {
                    return Err(PeerError::Missing);
                }
                // Whoever has chunks to read waits before the queue, not in it; and bytes are read when they may go,
                // not before: who reads slowly keeps others waiting, not memory.
                let _own = permits.take().await?;
                self.up.take(tree.range(index).len()).await;
                let _all = permit(&self.chunks.all).await?;
                let chunk = self.chunk(root, index, by).await.ok_or(PeerError::Missing)?;
                self.send(&mut send, &chunk).await?;
            }
            Request::Ping { nonce } => frame::send(&mut send, &nonce.to_bytes()).await?,
        }
        let _ = send.finish();
        Ok(())
    }

    async fn chunk(&self, root: Hash, index: usize, by: NodeId) -> Option<Bytes> {
        let content = self.content.clone();
        spawn_blocking(move || content.chunk(&root, index, &by)).await.ok()?
    }

    async fn send(&self, send: &mut SendStream, chunk: &Bytes) -> Result<(), PeerError> {
        within(SEND_WITHIN, frame::send(send, chunk)).await?;
        self.content.sent(chunk.len());
        Ok(())
    }
}

/// What a connection may have in memory.
#[derive(Clone)]
struct Permits {
    own: Arc<Semaphore>,
    origin: Arc<Semaphore>,
}

impl Permits {
    /// Room for one chunk: of the connection's, and of its network's.
    async fn take(&self) -> Result<[OwnedSemaphorePermit; 2], PeerError> {
        Ok([permit(&self.own).await?, permit(&self.origin).await?])
    }
}

async fn permit(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, PeerError> {
    of.clone().acquire_owned().await.map_err(|_| PeerError::NoRoom)
}

/// The next stream of a connection; none when it ends, or when its first one does not come in time. Streams that ended are
/// let go of; the transport bounds how many there are.
pub(crate) async fn first_in_time(
    connection: &Connection,
    streams: &mut JoinSet<()>,
) -> Option<(SendStream, RecvStream)> {
    while streams.try_join_next().is_some() {}
    // Answers to what this node asked over it count as well.
    let unused = || connection.stats().frame_rx.stream == 0;
    if unused() {
        match tokio::time::timeout(FIRST_STREAM_WITHIN, connection.accept_bi()).await {
            Ok(accepted) => return accepted.ok(),
            Err(_) if unused() => {
                connection.close(2u32.into(), b"nothing was asked");
                return None;
            }
            Err(_) => {}
        }
    }
    connection.accept_bi().await.ok()
}
