//! Connections to peers, reused: several to one peer where striping helps, never more than the cap.

use crate::alpn;
use crate::rate::Rate;
use base::{NodeId, Reject};
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, broadcast};

/// Connections held in all.
const CONNECTIONS_MAX: usize = 256;
/// A peer that does not answer for so long is not reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Moves of peers that a dial may miss; who misses some dials once more.
const MOVES: usize = 64;

type Key = (NodeId, &'static [u8], usize);
type Slot = Arc<Mutex<Option<Connection>>>;

/// Answers what a peer asks over a connection that this node dialled.
type Serve = Box<dyn Fn(NodeId, &[u8], Connection) + Send + Sync>;

/// The pool.
pub(crate) struct Pool {
    endpoint: Endpoint,
    /// Where peers are.
    book: MemoryLookup,
    slots: Mutex<BTreeMap<Key, Slot>>,
    serve: Arc<Serve>,
    /// Peers that are elsewhere than was thought.
    moves: broadcast::Sender<NodeId>,
    /// How fast content may come.
    pub(crate) down: Rate,
}

impl Pool {
    pub(crate) fn new(endpoint: Endpoint, book: MemoryLookup, serve: Serve, down: Rate) -> Self {
        let (slots, (moves, _)) = (Mutex::default(), broadcast::channel(MOVES));
        Self { endpoint, book, slots, serve: Arc::new(serve), moves, down }
    }

    /// A connection that `peer` made: it carries requests both ways, so it is used instead of
    /// dialling back, which behind a router, or to a peer that was restarted, can take long or fail.
    pub(crate) async fn offer(&self, peer: NodeId, alpn: &'static [u8], connection: Connection) {
        let mut slots = self.slots.lock().await;
        // The newest one is right: an older one may lead to a process that is gone.
        if slots.len() < CONNECTIONS_MAX {
            slots.insert((peer, alpn, 0), Arc::new(Mutex::new(Some(connection))));
        }
    }

    /// `peer` is at these addresses now: lets go of connections to where it was, and dials anew where one is
    /// being made. One that the peer itself made from where it is stays.
    pub(crate) async fn moved(&self, peer: NodeId, sockets: &[SocketAddr]) {
        // One through a relay finds it there wherever it is.
        let at = |address: &TransportAddr| match address {
            TransportAddr::Ip(socket) => sockets.contains(socket),
            _ => true,
        };
        let there = |connection: &Connection| connection.paths().iter().any(|path| at(path.remote_addr()));
        self.slots.lock().await.retain(|(node, alpn, _), slot| {
            let stale = slot.try_lock().is_ok_and(|slot| slot.as_ref().is_some_and(|connection| !there(connection)));
            *node != peer || *alpn == alpn::LOG || !stale
        });
        // Nobody may be dialling.
        let _ = self.moves.send(peer);
    }

    /// Lets go of every connection to `peer` for `alpn`, and of those that are being made: the next one is new.
    pub(crate) async fn forget(&self, peer: NodeId, alpn: &'static [u8]) {
        self.slots.lock().await.retain(|(node, known, _), _| *node != peer || *known != alpn);
    }

    /// Open connections, as far as nobody is about to make them.
    pub(crate) fn open(&self) -> Vec<(NodeId, Connection)> {
        let Ok(slots) = self.slots.try_lock() else { return Vec::new() };
        let open = slots.iter().filter_map(|((peer, ..), slot)| Some((*peer, slot.try_lock().ok()?.clone()?)));
        open.filter(|(_, connection)| connection.close_reason().is_none()).collect()
    }

    /// Lets go of a connection that does not answer, unless another one has taken its place.
    pub(crate) async fn discard(&self, peer: NodeId, alpn: &'static [u8], lane: usize, silent: &Connection) {
        let mut slots = self.slots.lock().await;
        let Some(slot) = slots.get(&(peer, alpn, lane)) else { return };
        let same = |slot: &Option<Connection>| slot.as_ref().is_some_and(|c| c.stable_id() == silent.stable_id());
        if slot.try_lock().is_ok_and(|slot| same(&slot)) {
            slots.remove(&(peer, alpn, lane));
        }
    }

    /// An open connection to `peer` for `alpn`; `lane` tells parallel ones apart.
    pub(crate) async fn get(&self, peer: NodeId, alpn: &'static [u8], lane: usize) -> Result<Connection, Reject> {
        let slot = {
            let mut slots = self.slots.lock().await;
            if slots.len() >= CONNECTIONS_MAX {
                slots.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
            if slots.len() >= CONNECTIONS_MAX {
                return Err(Reject::TooMany);
            }
            slots.entry((peer, alpn, lane)).or_default().clone()
        };
        // Held while dialling: whoever asks for the same lane waits for the same connection.
        let mut slot = slot.lock_owned().await;
        if let Some(connection) = slot.as_ref().filter(|c| c.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        let id = EndpointId::from_bytes(&peer.0).map_err(|_| Reject::Malformed)?;
        let (endpoint, book) = (self.endpoint.clone(), self.book.clone());
        let (serve, mut moves) = (self.serve.clone(), self.moves.subscribe());
        // A task of its own: who gives up waiting leaves the connection to whoever asks next.
        let dial = tokio::spawn(async move {
            // A dial knows only the addresses of its beginning: one that goes where nobody is any more ends after
            // seconds.
            let dialling = async {
                loop {
                    // Named, they get the first packet, too; looked up, they may come after it.
                    let known = book.get_endpoint_info(id).map(|info| info.into_endpoint_addr());
                    let at = known.unwrap_or_else(|| EndpointAddr::new(id));
                    tokio::select! {
                        dialled = endpoint.connect(at, alpn) => return dialled.ok(),
                        () = moved(&mut moves, peer) => {}
                    }
                }
            };
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, dialling).await;
            let connection = dialled.ok().flatten().ok_or(Reject::NotHeld)?;
            serve(peer, alpn, connection.clone());
            *slot = Some(connection.clone());
            Ok(connection)
        });
        dial.await.unwrap_or(Err(Reject::NotHeld))
    }
}

/// Waits until a peer is elsewhere.
async fn moved(moves: &mut broadcast::Receiver<NodeId>, peer: NodeId) {
    loop {
        match moves.recv().await {
            Ok(node) if node != peer => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
