//! Following a chain and submitting to it: one stream, a snapshot and certified blocks one way, transactions
//! the other.

use crate::alpn;
use crate::frame;
use crate::peer_error::PeerError;
use crate::pool::Pool;
use base::{Hash, NodeId, Reader, Reject, Wire, wire_struct};
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// A block with its certificate is at most this long.
const BLOCK_MAX: usize = 8 << 20;
/// A transaction is at most this long: the longest carries a run with its configuration.
const TX_MAX: usize = 1 << 18;
/// Blocks that wait for the follower, and transactions that wait for the log.
const QUEUE: usize = 256;
/// Bytes of blocks that wait for the follower: what it does not take stays with the other side. Two of the longest fit.
const QUEUE_BYTES: usize = 2 * (1 + BLOCK_MAX);
/// No block has this height: who asks for it wants none, only to submit.
const NO_BLOCK: u64 = u64::MAX;
/// Names submitted transactions in refusals.
const SUBMITTED: &str = "talkoo 2026 submitted v1";
/// Snapshots travel in parts of this size, and are at most so long in all.
const PART: usize = 1 << 20;
const SNAPSHOT_MAX: usize = 1 << 28;

/// A future of a service.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Chains that this node keeps for others.
pub trait LogService: Send + Sync + 'static {
    /// Takes an encoded transaction, or refuses it.
    fn submit(&self, chain: &Hash, from: NodeId, tx: Vec<u8>) -> Result<(), Reject>;
    /// The encoded block at `height` as soon as there is one, with its certificate (empty where it has none of
    /// its own); `None` when this node does not have it.
    fn block(&self, chain: Hash, height: u64) -> BoxFuture<'_, Option<(Bytes, Bytes)>>;
    /// An encoded snapshot for who begins at the block `anchor`, or at the genesis, and the height of its state.
    fn snapshot(&self, chain: Hash, anchor: Option<u64>) -> BoxFuture<'_, Option<(u64, Bytes)>>;
}

/// What a follower asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    /// Which chain.
    pub chain: Hash,
    /// Blocks from this height on; 0 = a snapshot first.
    pub from: u64,
    /// Height of the block that vouches for the snapshot.
    pub anchor: Option<u64>,
}

wire_struct!(Follow { chain, from, anchor });

impl Follow {
    /// Asks for no blocks: only to submit.
    pub fn to_submit(chain: Hash) -> Self {
        Self { chain, from: NO_BLOCK, anchor: None }
    }

    /// Following and submitting alone are connections of their own.
    fn lane(&self) -> usize {
        (self.chain.seed() as usize).wrapping_add(usize::from(self.from == NO_BLOCK))
    }
}

/// What a refusal calls the transaction with these bytes.
pub fn submitted(tx: &[u8]) -> Hash {
    Hash::of(SUBMITTED, tx)
}

/// What a follower is told.
#[derive(Debug)]
pub enum LogEvent {
    /// An encoded snapshot; blocks go on behind it.
    Snapshot(Vec<u8>),
    /// The next encoded block, and its certificate (empty where it has none of its own).
    Block(Vec<u8>, Vec<u8>),
    /// A transaction, by its [name](submitted), was refused.
    Refused(Hash, Reject),
}

/// A followed chain. Ends when the connection does.
pub struct LogClient {
    /// Blocks from the height asked for on, in order.
    pub events: Events,
    /// Encoded transactions to the log; full when the log does not keep up.
    pub submit: mpsc::Sender<Vec<u8>>,
}

/// What a log tells, bounded in bytes until it is taken.
pub struct Events {
    queue: mpsc::Receiver<(LogEvent, u32)>,
    room: Arc<Semaphore>,
}

impl Events {
    /// The next event; `None` when the connection has ended.
    pub async fn recv(&mut self) -> Option<LogEvent> {
        let (event, bytes) = self.queue.recv().await?;
        self.room.add_permits(bytes as usize);
        Some(event)
    }
}

const BLOCK: u8 = 0;
const REFUSED: u8 = 1;
const SNAPSHOT_PART: u8 = 2;
const SNAPSHOT_END: u8 = 3;

/// Serves one follower.
pub(crate) async fn serve(connection: Connection, by: NodeId, log: Arc<dyn LogService>) {
    let Ok((send, mut receive)) = connection.accept_bi().await else { return };
    let Ok(follow) = frame::receive_as::<Follow>(&mut receive, 64).await else { return };
    let (refusals, mut refused) = mpsc::channel::<(Hash, Reject)>(QUEUE);
    let blocks = serve_blocks(send, follow, log.clone(), &mut refused);
    let submits = async {
        while let Ok(Some(tx)) = frame::receive(&mut receive, TX_MAX).await {
            let name = submitted(&tx);
            if let Err(reject) = log.submit(&follow.chain, by, tx) {
                // A follower that does not read its refusals loses them, nobody waits.
                let _ = refusals.try_send((name, reject));
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
    follow: Follow,
    log: Arc<dyn LogService>,
    refused: &mut mpsc::Receiver<(Hash, Reject)>,
) -> Result<(), PeerError> {
    let mut height = follow.from;
    if height == 0 {
        let (at, bytes) = log.snapshot(follow.chain, follow.anchor).await.ok_or(PeerError::Missing)?;
        let mut parts = bytes.chunks(PART).peekable();
        while let Some(part) = parts.next() {
            let tag = if parts.peek().is_some() { SNAPSHOT_PART } else { SNAPSHOT_END };
            frame::send(&mut send, &[&[tag], part].concat()).await?;
        }
        height = at + 1;
    }
    loop {
        let mut framed = Vec::new();
        tokio::select! {
            block = log.block(follow.chain, height) => {
                height = height.saturating_add(1);
                let (block, certificate) = block.ok_or(PeerError::Missing)?;
                framed.reserve(9 + block.len() + certificate.len());
                framed.push(BLOCK);
                certificate.to_vec().encode(&mut framed);
                framed.extend_from_slice(&block);
            }
            Some((name, reject)) = refused.recv() => {
                framed.push(REFUSED);
                framed.extend_from_slice(&name.0);
                framed.extend_from_slice(reject.name().as_bytes());
            }
        };
        frame::send(&mut send, &framed).await?;
    }
}

/// Follows a chain that `peer` keeps.
pub(crate) async fn follow(pool: &Pool, peer: NodeId, follow: Follow) -> Result<LogClient, PeerError> {
    let connection = pool.get(peer, alpn::LOG, follow.lane()).await?;
    let (mut send, receive) = connection.open_bi().await.map_err(|_| PeerError::Unreachable)?;
    frame::send(&mut send, &follow.to_bytes()).await?;
    let (events, queue) = mpsc::channel(QUEUE);
    let (submit, submits) = mpsc::channel(QUEUE);
    let room = Arc::new(Semaphore::new(QUEUE_BYTES));
    // Each ends when the other side of its channel or the stream does.
    tokio::spawn(read_events(connection, receive, events, room.clone()));
    tokio::spawn(write_submits(send, submits));
    Ok(LogClient { events: Events { queue, room }, submit })
}

async fn read_events(
    connection: Connection,
    mut receive: RecvStream,
    events: mpsc::Sender<(LogEvent, u32)>,
    room: Arc<Semaphore>,
) {
    let mut snapshot = Vec::new();
    let reading = async {
        loop {
            let Ok(Some(bytes)) = frame::receive(&mut receive, 1 + BLOCK_MAX).await else { return };
            // At most one of the longest frames, which fits.
            let length = bytes.len() as u32;
            let Some(event) = decode(bytes, &mut snapshot) else { return };
            let Some(event) = event else { continue };
            let Ok(taken) = room.acquire_many(length).await else { return };
            // Given back when the follower takes the event.
            taken.forget();
            if events.send((event, length)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = events.closed() => {}
    }
    connection.close(0u32.into(), b"done");
}

/// `None` for what is no event; inside `None` while a snapshot is not whole.
fn decode(bytes: Vec<u8>, snapshot: &mut Vec<u8>) -> Option<Option<LogEvent>> {
    let (tag, rest) = bytes.split_first()?;
    Some(match *tag {
        BLOCK => {
            let mut input = Reader::new(rest);
            let certificate = input.bytes(BLOCK_MAX).ok()?.to_vec();
            let block = input.take(input.remaining()).ok()?.to_vec();
            Some(LogEvent::Block(block, certificate))
        }
        REFUSED => {
            let (name, reason) = rest.split_first_chunk::<32>()?;
            // A reason that this version does not know is one all the same.
            let known = Reject::ALL.iter().find(|reject| reject.name().as_bytes() == reason);
            Some(LogEvent::Refused(Hash(*name), known.copied().unwrap_or(Reject::Malformed)))
        }
        SNAPSHOT_PART | SNAPSHOT_END if snapshot.len() + rest.len() <= SNAPSHOT_MAX => {
            snapshot.extend_from_slice(rest);
            (*tag == SNAPSHOT_END).then(|| LogEvent::Snapshot(std::mem::take(snapshot)))
        }
        _ => return None,
    })
}

async fn write_submits(mut send: SendStream, mut submits: mpsc::Receiver<Vec<u8>>) {
    while let Some(tx) = submits.recv().await {
        if frame::send(&mut send, &tx).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_transaction_and_what_is_no_event_ends_the_stream() {
        let name = submitted(b"a transaction");
        let frame = |reason: &str| [[REFUSED].as_slice(), name.0.as_slice(), reason.as_bytes()].concat();
        let read = |bytes: Vec<u8>| decode(bytes, &mut Vec::new());
        let told = |reason| match read(frame(reason)) {
            Some(Some(LogEvent::Refused(tx, reject))) => Some((tx, reject)),
            _ => None,
        };
        assert_eq!(told(Reject::TooMany.name()), Some((name, Reject::TooMany)));
        assert_eq!(told("a reason of later"), Some((name, Reject::Malformed)));
        assert!(read(vec![REFUSED, 1, 2]).is_none());
        assert!(read(vec![9]).is_none() && read(Vec::new()).is_none());
    }

    #[tokio::test]
    async fn events_that_are_not_taken_stop_the_reading_at_a_bound_in_bytes() {
        let room = Arc::new(Semaphore::new(10));
        let (sender, queue) = mpsc::channel(QUEUE);
        let mut events = Events { queue, room: room.clone() };
        for _ in 0..2 {
            room.acquire_many(5).await.expect("open").forget();
            sender.try_send((LogEvent::Block(vec![0; 5], Vec::new()), 5)).expect("room");
        }
        assert!(room.try_acquire_many(5).is_err(), "full");
        assert!(events.recv().await.is_some());
        assert!(room.try_acquire_many(5).is_ok(), "what is taken makes room");
    }
}
