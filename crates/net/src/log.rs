//! Following a log and submitting to it: one stream, blocks one way, transactions the other.

use crate::frame;
use crate::pool::Pool;
use base::{NodeId, Reject, Wire};
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Names the protocol and its version.
pub(crate) const ALPN: &[u8] = b"talkoo/log/1";

/// A block is at most this long.
const BLOCK_MAX: usize = 8 << 20;
/// A transaction is at most this long: the longest carries a run with its configuration.
const TX_MAX: usize = 1 << 18;
/// Blocks that wait for the follower, and transactions that wait for the log.
const QUEUE: usize = 256;

/// A log that this node keeps for others.
pub trait LogService: Send + Sync + 'static {
    /// Takes an encoded transaction, or refuses it.
    fn submit(&self, from: NodeId, tx: Vec<u8>) -> Result<(), Reject>;
    /// The encoded block at `height`, as soon as there is one; `None` when the log ends.
    fn block(&self, height: u64) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send + '_>>;
}

/// What a follower is told.
#[derive(Debug)]
pub enum LogEvent {
    /// The next encoded block.
    Block(Vec<u8>),
    /// A transaction was refused.
    Refused(String),
}

/// A followed log. Ends when the connection does.
pub struct LogClient {
    /// Blocks from the height asked for on, in order.
    pub events: mpsc::Receiver<LogEvent>,
    /// Encoded transactions to the log; full when the log does not keep up.
    pub submit: mpsc::Sender<Vec<u8>>,
}

const BLOCK: u8 = 0;
const REFUSED: u8 = 1;

/// Serves one follower.
pub(crate) async fn serve(connection: Connection, by: NodeId, log: Arc<dyn LogService>) {
    let Ok((send, mut receive)) = connection.accept_bi().await else { return };
    let Ok(from) = frame::receive_as::<u64>(&mut receive, 8).await else { return };
    let (refusals, mut refused) = mpsc::channel::<Reject>(QUEUE);
    let blocks = serve_blocks(send, from, log.clone(), &mut refused);
    let submits = async {
        while let Ok(Some(tx)) = frame::receive(&mut receive, TX_MAX).await {
            if let Err(reject) = log.submit(by, tx) {
                // A follower that does not read its refusals loses them, nobody waits.
                let _ = refusals.try_send(reject);
            }
        }
    };
    tokio::select! {
        _ = blocks => {}
        () = submits => {}
    }
}

async fn serve_blocks(
    mut send: SendStream,
    from: u64,
    log: Arc<dyn LogService>,
    refused: &mut mpsc::Receiver<Reject>,
) -> Result<(), Reject> {
    let mut height = from;
    loop {
        let (tag, bytes) = tokio::select! {
            block = log.block(height) => {
                height += 1;
                (BLOCK, block.ok_or(Reject::Ended)?)
            }
            Some(reject) = refused.recv() => (REFUSED, Bytes::from_static(reject.name().as_bytes())),
        };
        let mut framed = Vec::with_capacity(1 + bytes.len());
        framed.push(tag);
        framed.extend_from_slice(&bytes);
        frame::send(&mut send, &framed).await?;
    }
}

/// Follows the log that `peer` keeps, from `height` on.
pub(crate) async fn follow(pool: &Pool, peer: NodeId, height: u64) -> Result<LogClient, Reject> {
    let connection = pool.get(peer, ALPN, 0).await?;
    let (mut send, receive) = connection.open_bi().await.map_err(|_| Reject::NotHeld)?;
    frame::send(&mut send, &height.to_bytes()).await?;
    let (events_in, events) = mpsc::channel(QUEUE);
    let (submit, submits) = mpsc::channel(QUEUE);
    // Each ends when the other side of its channel or the stream does.
    tokio::spawn(read_events(connection, receive, events_in));
    tokio::spawn(write_submits(send, submits));
    Ok(LogClient { events, submit })
}

async fn read_events(connection: Connection, mut receive: RecvStream, events: mpsc::Sender<LogEvent>) {
    loop {
        let event = tokio::select! {
            frame = frame::receive(&mut receive, 1 + BLOCK_MAX) => match frame {
                Ok(Some(bytes)) => decode(bytes),
                _ => break,
            },
            () = events.closed() => break,
        };
        let Some(event) = event else { break };
        if events.send(event).await.is_err() {
            break;
        }
    }
    connection.close(0u32.into(), b"done");
}

fn decode(mut bytes: Vec<u8>) -> Option<LogEvent> {
    match *bytes.first()? {
        BLOCK => Some(LogEvent::Block(bytes.split_off(1))),
        REFUSED => Some(LogEvent::Refused(String::from_utf8_lossy(&bytes[1..]).into_owned())),
        _ => None,
    }
}

async fn write_submits(mut send: SendStream, mut submits: mpsc::Receiver<Vec<u8>>) {
    while let Some(tx) = submits.recv().await {
        if frame::send(&mut send, &tx).await.is_err() {
            return;
        }
    }
}
