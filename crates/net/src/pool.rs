//! Connections to peers, reused: several to one peer where striping helps, never more than the cap.

use crate::alpn;
use crate::peer_error::PeerError;
use crate::rate::Rate;
use base::NodeId;
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
/// How often a dial is begun anew because its peer is elsewhere: who says new addresses all the time sends no stranger
/// more first packets than that.
const MOVES_OF_A_DIAL: usize = 3;

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
    pub(crate) async fn get(&self, peer: NodeId, alpn: &'static [u8], lane: usize) -> Result<Connection, PeerError> {
        let slot = {
            let mut slots = self.slots.lock().await;
            if slots.len() >= CONNECTIONS_MAX {
                slots.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
            if slots.len() >= CONNECTIONS_MAX {
                return Err(PeerError::NoRoom);
            }
            slots.entry((peer, alpn, lane)).or_default().clone()
        };
        // Held while dialling: whoever asks for the same lane waits for the same connection.
        let mut slot = slot.lock_owned().await;
        if let Some(connection) = slot.as_ref().filter(|c| c.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        let id = EndpointId::from_bytes(&peer.0).map_err(|_| PeerError::Unreachable)?;
        let (endpoint, book) = (self.endpoint.clone(), self.book.clone());
        let (serve, mut moves) = (self.serve.clone(), self.moves.subscribe());
        // A task of its own: who gives up waiting leaves the connection to whoever asks next.
        let dial = tokio::spawn(async move {
            // Named, they get the first packet, too; looked up, they may come after it.
            let look = || {
                let known = book.get_endpoint_info(id).map(|info| info.into_endpoint_addr());
                known.unwrap_or_else(|| EndpointAddr::new(id))
            };
            // A dial knows only the addresses of its beginning: one that goes where nobody is any more ends after
            // seconds.
            let dialling = async {
                for _ in 0..MOVES_OF_A_DIAL {
                    let at = look();
                    tokio::select! {
                        dialled = endpoint.connect(at.clone(), alpn) => return dialled.ok(),
                        () = moved(&mut moves, peer, || look() != at) => {}
                    }
                }
                endpoint.connect(look(), alpn).await.ok()
            };
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, dialling).await;
            let connection = dialled.ok().flatten().ok_or(PeerError::Unreachable)?;
            serve(peer, alpn, connection.clone());
            *slot = Some(connection.clone());
            Ok(connection)
        });
        dial.await.unwrap_or(Err(PeerError::Unreachable))
    }
}

/// Waits until a peer is elsewhere. What others say of themselves, however much, is no reason to dial it anew.
async fn moved(moves: &mut broadcast::Receiver<NodeId>, peer: NodeId, elsewhere: impl Fn() -> bool) {
    loop {
        match moves.recv().await {
            Ok(node) if node != peer => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) if elsewhere() => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Waker};

    #[test]
    fn what_others_say_of_themselves_breaks_no_dial_off() {
        let (say, mut heard) = broadcast::channel(MOVES);
        let (peer, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut context = Context::from_waker(Waker::noop());
        let mut dials_anew = |elsewhere: bool| {
            let mut waits = std::pin::pin!(moved(&mut heard, peer, || elsewhere));
            waits.as_mut().poll(&mut context).is_ready()
        };
        // More than the channel holds: what was missed may have been of this peer.
        for _ in 0..10 * MOVES {
            say.send(other).expect("heard");
        }
        assert!(!dials_anew(false), "it is where it was");
        say.send(peer).expect("heard");
        assert!(!dials_anew(false), "the same addresses once more");
        say.send(peer).expect("heard");
        assert!(dials_anew(true));
        for _ in 0..10 * MOVES {
            say.send(other).expect("heard");
        }
        assert!(dials_anew(true), "it may have been missed");
    }
}
