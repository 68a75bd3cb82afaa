//! One question between two nodes: a stream each way, frames both ways, over as soon as either side lets go of it.

use crate::frame;
use crate::pool::Pool;
use base::{NodeId, Reject};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Names the protocol and its version.
pub(crate) const ALPN: &[u8] = b"talkoo/ask/1";
/// Bytes of first frames that are being read at a time, from everybody.
const READING: usize = 64 << 20;
/// The first frame comes whole within this.
const FIRST_WITHIN: Duration = Duration::from_secs(20);

/// Who answers the questions of peers.
pub trait Answerer: Send + Sync + 'static {
    /// The longest frame that a peer may send.
    fn frame_max(&self) -> usize;
    /// Answers one question; its first frame is `first`. Dropped when the peer's connection ends.
    fn answer(&self, by: NodeId, first: Vec<u8>, talk: Talk) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Both directions of one question.
pub struct Talk {
    /// To the peer.
    pub say: Say,
    /// From the peer.
    pub hear: Hear,
}

/// Frames to a peer. Dropped, they have an end, which the peer notices.
pub struct Say(SendStream);

/// Frames from a peer. Dropped, the peer notices that nobody reads.
pub struct Hear {
    stream: RecvStream,
    max: usize,
}

impl Say {
    /// Sends a frame.
    pub async fn frame(&mut self, bytes: &[u8]) -> Result<(), Reject> {
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
    pub async fn frame(&mut self) -> Result<Option<Vec<u8>>, Reject> {
        frame::receive(&mut self.stream, self.max).await
    }
}

/// Begins to talk to `peer`.
pub(crate) async fn open(pool: &Pool, peer: NodeId, max: usize) -> Result<Talk, Reject> {
    let connection = pool.get(peer, ALPN, 0).await?;
    match connection.open_bi().await {
        Ok((say, hear)) => Ok(Talk { say: Say(say), hear: Hear { stream: hear, max } }),
        Err(_) => {
            pool.discard(peer, ALPN, 0, &connection).await;
            Err(Reject::NotHeld)
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
    while let Ok((say, mut hear)) = connection.accept_bi().await {
        // The transport bounds the streams of a connection, hence these tasks.
        while streams.try_join_next().is_some() {}
        let (answerer, room) = (answerer.clone(), room.clone());
        streams.spawn(async move {
            let max = answerer.frame_max();
            let first = tokio::time::timeout(FIRST_WITHIN, frame::receive_in(&mut hear, max, &room.0)).await;
            let Ok(Ok(Some(first))) = first else { return };
            let talk = Talk { say: Say(say), hear: Hear { stream: hear, max } };
            answerer.answer(by, first, talk).await;
        });
    }
}
