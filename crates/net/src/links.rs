//! Frames between nodes that have a standing reason to talk, such as validators: one stream each way,
//! made again when it breaks.

use crate::alpn;
use crate::frame;
use crate::pool::Pool;
use base::NodeId;
use iroh::endpoint::Connection;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Frames that wait while a link is down or slow; later ones are dropped.
const QUEUE: usize = 1024;
const QUEUE_BYTES: usize = 16 << 20;
/// Pause before a broken link is made again.
const AGAIN: Duration = Duration::from_millis(300);

/// Who takes the frames of others.
pub trait Listener: Send + Sync + 'static {
    /// The longest frame that `by` may send; 0: none at all.
    fn frame_max(&self, by: &NodeId) -> usize;
    /// Takes a frame. Never waits: what it has no room for is dropped.
    fn take(&self, by: &NodeId, frame: Vec<u8>);
}

/// Reads the frames of one peer until its connection ends.
pub(crate) async fn serve(connection: Connection, by: NodeId, listener: Arc<dyn Listener>) {
    let max = listener.frame_max(&by);
    if max == 0 {
        return connection.close(1u32.into(), b"not a validator here");
    }
    // One stream at a time: a second one takes the place of the first when that ended.
    while let Ok(mut stream) = connection.accept_uni().await {
        while let Ok(Some(bytes)) = frame::receive(&mut stream, max).await {
            listener.take(&by, bytes);
        }
    }
}

/// A link: frames put in are sent in order while it stands, and dropped while it does not, or does not keep up.
pub struct Link {
    frames: mpsc::Sender<Frame>,
    room: Arc<Semaphore>,
}

/// A frame and the room that it takes until it is sent.
type Frame = (Arc<Vec<u8>>, OwnedSemaphorePermit);

impl Link {
    /// Puts a frame in; whether there was room.
    pub fn send(&self, frame: Arc<Vec<u8>>) -> bool {
        let room = u32::try_from(frame.len()).ok().and_then(|n| self.room.clone().try_acquire_many_owned(n).ok());
        room.is_some_and(|room| self.frames.try_send((frame, room)).is_ok())
    }
}

/// Makes a link to `peer`.
pub(crate) fn keep(pool: Arc<Pool>, peer: NodeId, stop: CancellationToken) -> Link {
    let (sender, mut frames) = mpsc::channel::<Frame>(QUEUE);
    tokio::spawn(async move {
        let run = async {
            loop {
                if let Some(()) = send(&pool, peer, &mut frames).await {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = run => {}
        }
    });
    Link { frames: sender, room: Arc::new(Semaphore::new(QUEUE_BYTES)) }
}

/// Sends until the link breaks; `Some` when nobody puts frames in any more.
async fn send(pool: &Pool, peer: NodeId, frames: &mut mpsc::Receiver<Frame>) -> Option<()> {
    let connection = pool.get(peer, alpn::LINKS, 0).await.ok()?;
    let mut stream = connection.open_uni().await.ok()?;
    loop {
        let Some((bytes, _room)) = frames.recv().await else { return Some(()) };
        if frame::send(&mut stream, &bytes).await.is_err() {
            pool.discard(peer, alpn::LINKS, 0, &connection).await;
            return None;
        }
    }
}
