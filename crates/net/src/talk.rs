//! One question between two nodes: a stream each way, frames both ways, over as soon as either side lets go of it.

use crate::alpn;
use crate::frame;
use crate::peer_error::PeerError;
use crate::pool::Pool;
use crate::reach::origin_of;
use crate::seats::Origin;
use crate::serving::first_in_time;
use base::NodeId;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Bytes of first frames that are being read at a time, from everybody.
const READING: usize = 64 << 20;
/// The first frame comes whole within this.
const FIRST_WITHIN: Duration = Duration::from_secs(20);

/// Who answers the questions of peers.
pub trait Answerer: Send + Sync + 'static {
    /// The longest first frame that a peer may send, and the longest one after it.
    fn frame_max(&self) -> (usize, usize);
    /// Answers one question; its first frame is `first`. Dropped when the peer's connection ends.
    fn answer(&self, by: NodeId, first: Vec<u8>, talk: Talk) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Both directions of one question.
pub struct Talk {
    /// To the peer.
    pub say: FrameSender,
    /// From the peer.
    pub hear: Hear,
    /// Where the peer comes from.
    pub origin: Origin,
    /// The room that its first frame takes. Who answers keeps it for as long as the frame is kept.
    pub room: Option<FrameRoom>,
}

/// Room that a frame takes among those of all peers. Dropped, it is free.
pub struct FrameRoom {
    _permit: OwnedSemaphorePermit,
}

/// Frames to a peer. Dropped, they have an end, which the peer notices.
pub struct FrameSender(SendStream);

/// Frames from a peer. Dropped, the peer notices that nobody reads.
pub struct Hear {
    stream: RecvStream,
    max: usize,
}

impl FrameSender {
    /// Sends a frame.
    pub async fn frame(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        frame::send(&mut self.0, bytes).await
    }

    /// Nothing more comes: what was sent still arrives.
    pub fn finish(&mut self) {
        let _ = self.0.finish();
    }

    /// Resolves when the peer does not read any more.
    pub async fn stopped(&self) {
        let _ = self.0.stopped().await;
    }
}

impl Hear {
    /// The next frame; none at the clean end.
    pub async fn frame(&mut self) -> Result<Option<Vec<u8>>, PeerError> {
        frame::receive(&mut self.stream, self.max).await
    }
}

/// Begins to talk to `peer`.
pub(crate) async fn open(pool: &Pool, peer: NodeId, max: usize) -> Result<Talk, PeerError> {
    let connection = pool.get(peer, alpn::TALK, 0).await?;
    match connection.open_bi().await {
        Ok((say, hear)) => {
            let hear = Hear { stream: hear, max };
            Ok(Talk { say: FrameSender(say), hear, origin: Origin::Near, room: None })
        }
        Err(_) => {
            pool.discard(peer, alpn::TALK, 0, &connection).await;
            Err(PeerError::Unreachable)
        }
    }
}

/// What the questions of all peers share.
#[derive(Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READING)))
    }
}

/// Answers the questions of one connection until it closes.
pub(crate) async fn serve(connection: Connection, by: NodeId, answerer: Arc<dyn Answerer>, room: Room) {
    let mut streams = JoinSet::new();
    while let Some((say, mut hear)) = first_in_time(&connection, &mut streams).await {
        // A way through a relay may have become a straight one since.
        let (answerer, room, origin) = (answerer.clone(), room.clone(), origin_of(&connection));
        streams.spawn(async move {
            let (first_max, max) = answerer.frame_max();
            let first = tokio::time::timeout(FIRST_WITHIN, frame::receive_in(&mut hear, first_max, &room.0)).await;
            let Ok(Ok(Some((first, permit)))) = first else { return };
            let room = permit.map(|permit| FrameRoom { _permit: permit });
            let talk = Talk { say: FrameSender(say), hear: Hear { stream: hear, max }, origin, room };
            answerer.answer(by, first, talk).await;
        });
    }
}
