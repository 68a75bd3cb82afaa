//! Length-prefixed frames on a QUIC stream.

use crate::peer_error::PeerError;
use base::{Reader, Reject, Wire};
use iroh::endpoint::{RecvStream, SendStream};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A frame of so many bytes takes no room.
const SHORT: usize = 1 << 16;

/// Writes one frame.
pub(crate) async fn send(stream: &mut SendStream, bytes: &[u8]) -> Result<(), PeerError> {
    let len = u32::try_from(bytes.len()).map_err(|_| PeerError::Broke(Reject::Oversized))?;
    if bytes.len() > SHORT {
        stream.write_all(&len.to_le_bytes()).await.map_err(|_| PeerError::Unreachable)?;
        return stream.write_all(bytes).await.map_err(|_| PeerError::Unreachable);
    }
    // One write, one packet.
    stream.write_all(&[&len.to_le_bytes()[..], bytes].concat()).await.map_err(|_| PeerError::Unreachable)
}

/// Reads one frame of at most `max` bytes; `None` at the clean end of the stream.
pub(crate) async fn receive(stream: &mut RecvStream, max: usize) -> Result<Option<Vec<u8>>, PeerError> {
    let Some(len) = length(stream, max).await? else { return Ok(None) };
    Ok(Some(body(stream, len, None).await?.0))
}

/// The same for a frame that takes room as its bytes arrive, so that the frames of many together are bounded, for as long as
/// it is kept; a short one needs none.
pub(crate) async fn receive_in(
    stream: &mut RecvStream,
    max: usize,
    room: &Arc<Semaphore>,
) -> Result<Option<(Vec<u8>, Option<OwnedSemaphorePermit>)>, PeerError> {
    let Some(len) = length(stream, max).await? else { return Ok(None) };
    body(stream, len, Some(room)).await.map(Some)
}

async fn length(stream: &mut RecvStream, max: usize) -> Result<Option<usize>, PeerError> {
    let mut len = [0; 4];
    match stream.read_exact(&mut len).await {
        Ok(()) => {}
        Err(iroh::endpoint::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(_) => return Err(PeerError::Unreachable),
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > max {
        return Err(Reject::Oversized.into());
    }
    Ok(Some(len))
}

async fn body(
    stream: &mut RecvStream,
    len: usize,
    room: Option<&Arc<Semaphore>>,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), PeerError> {
    let mut taken: Option<OwnedSemaphorePermit> = None;
    // Grows with what arrives: a claimed length allocates nothing.
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let Ok(Some(chunk)) = stream.read_chunk(len - bytes.len()).await else { return Err(PeerError::Unreachable) };
        if let Some(room) = room.filter(|_| bytes.len() + chunk.len() > SHORT) {
            let more = room.clone().acquire_many_owned(chunk.len() as u32).await.map_err(|_| PeerError::NoRoom)?;
            match &mut taken {
                Some(taken) => taken.merge(more),
                None => taken = Some(more),
            }
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, taken))
}

/// Reads one frame that must be a `T`.
pub(crate) async fn receive_as<T: Wire>(stream: &mut RecvStream, max: usize) -> Result<T, PeerError> {
    let bytes = receive(stream, max).await?.ok_or(Reject::Malformed)?;
    let mut input = Reader::new(&bytes);
    let value = T::decode(&mut input).map_err(|_| Reject::Malformed)?;
    input.end().map_err(|_| Reject::Malformed)?;
    Ok(value)
}
