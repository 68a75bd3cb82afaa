//! Connections that peers make: who gets one, and what answers it.

use crate::alpn;
use crate::links::{self, Listener};
use crate::log::{self, LogService};
use crate::overlay::Overlay;
use crate::pool::Pool;
use crate::reach::origin_of;
use crate::seats::{Origin, Seats, Shares};
use crate::serving::Serving;
use crate::talk::{self, Answerer};
use base::NodeId;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections accepted at a time, those of them that are kept for peers who are expected, and of one key.
pub(crate) const ACCEPTED_MAX: usize = 1024;
pub(crate) const EXPECTED_MAX: usize = 256;
pub(crate) const EACH_MAX: usize = 24;
/// Handshakes under way; and from how many on a peer has to show first that it is where it says: of all, and of what
/// one network may have.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKES_FREE: usize = 32;
const FREE_SHARE: usize = 4;
/// A handshake that takes longer is none.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// What answers the connections of peers.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) serving: Arc<Serving>,
    pub(crate) log: Option<Arc<dyn LogService>>,
    pub(crate) listener: Option<Arc<dyn Listener>>,
    pub(crate) overlay: Overlay,
    pub(crate) book: MemoryLookup,
    pub(crate) pool: Arc<Pool>,
    pub(crate) answerer: Arc<OnceLock<Arc<dyn Answerer>>>,
    pub(crate) room: talk::Room,
    pub(crate) seats: Arc<Seats>,
}

/// Room for handshakes. Those of one network share a part of it, so that it does not shut all others out.
struct Handshakes(Shares);

/// What becomes of one more.
enum Entry {
    /// There is room: of its network, and of all.
    Free([OwnedSemaphorePermit; 2]),
    /// Its peer has to show first that it is where it says: whoever is not there would take its network's room.
    Unproven,
    Full,
}

impl Handshakes {
    fn new() -> Self {
        Self(Shares::new(HANDSHAKES_MAX))
    }

    fn enter(&self, origin: Origin, proven: bool) -> Entry {
        let (own, share) = (self.0.of(origin), origin.share(HANDSHAKES_MAX));
        let in_all = HANDSHAKES_MAX - self.0.all.available_permits();
        let of_own = share - own.available_permits();
        if !proven && (in_all > HANDSHAKES_FREE || of_own >= (share / FREE_SHARE).max(1)) {
            return Entry::Unproven;
        }
        match (own.try_acquire_owned(), self.0.all.clone().try_acquire_owned()) {
            (Ok(own), Ok(all)) => Entry::Free([own, all]),
            _ => Entry::Full,
        }
    }
}

pub(crate) async fn accept(endpoint: Endpoint, services: Services, stop: CancellationToken) {
    let handshakes = Handshakes::new();
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            () = stop.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        while let Some(ended) = connections.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a connection's task failed");
            }
        }
        let origin = match TransportAddr::from(incoming.remote_addr()) {
            TransportAddr::Ip(socket) => Origin::of(socket.ip()),
            _ => Origin::Relayed,
        };
        let handshake = match handshakes.enter(origin, incoming.remote_addr_validated()) {
            Entry::Free(room) => room,
            Entry::Unproven => {
                let _ = incoming.retry();
                continue;
            }
            Entry::Full => {
                incoming.refuse();
                continue;
            }
        };
        let services = services.clone();
        connections.spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, incoming).await;
            drop(handshake);
            let Ok(Ok(connection)) = shaken else { return };
            let (by, origin) = (NodeId(*connection.remote_id().as_bytes()), origin_of(&connection));
            let Some(_seat) = services.seats.take(by, origin) else {
                return connection.close(3u32.into(), b"too many connections; try again later");
            };
            services.note_address(by, &connection).await;
            services.serve(connection, by, origin).await;
        });
    }
}

impl Services {
    /// Serves one connection until it ends.
    async fn serve(self, connection: Connection, by: NodeId, origin: Origin) {
        match (connection.alpn(), self.log) {
            (alpn::LINKS, _) => {
                if let Some(listener) = self.listener {
                    links::serve(connection, by, listener).await;
                }
            }
            (alpn::BULK, _) => {
                self.pool.offer(by, alpn::BULK, connection.clone()).await;
                self.serving.serve(connection, by, origin).await;
            }
            (alpn::LOG, Some(log)) => log::serve(connection, by, log).await,
            (alpn::TALK, _) => match self.answerer.get() {
                Some(answerer) => talk::serve(connection, by, answerer.clone(), self.room).await,
                None => connection.close(1u32.into(), b"this node serves no models"),
            },
            (alpn::GOSSIP, _) => self.overlay.take_in(connection).await,
            _ => connection.close(1u32.into(), b"this node keeps no log"),
        }
    }
}

impl Services {
    /// A peer that comes from an address that was not known was restarted or has moved: what leads
    /// to where it was is dead.
    async fn note_address(&self, by: NodeId, connection: &Connection) {
        let socket = connection.paths().iter().find_map(|path| match path.remote_addr() {
            TransportAddr::Ip(socket) => Some(*socket),
            _ => None,
        });
        let (Some(socket), Ok(id)) = (socket, EndpointId::from_bytes(&by.0)) else { return };
        let known = self.book.get_endpoint_info(id).map(|info| info.into_endpoint_addr());
        if known.as_ref().is_some_and(|known| known.ip_addrs().any(|known| *known == socket)) {
            return;
        }
        let relays = known.iter().flat_map(EndpointAddr::relay_urls).cloned().map(TransportAddr::Relay);
        let now = [TransportAddr::Ip(socket)].into_iter().chain(relays);
        self.book.set_endpoint_info(EndpointAddr::from_parts(id, now));
        self.pool.moved(by, &[socket]).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_of_one_network_leave_room_for_others() {
        let handshakes = Handshakes::new();
        let enter = |origin, proven| match handshakes.enter(origin, proven) {
            Entry::Free(room) => Some(room),
            Entry::Unproven | Entry::Full => None,
        };
        let (flood, other) = (Origin::V4([8, 8, 8]), Origin::V4([9, 9, 9]));
        let named: Vec<_> = (0..HANDSHAKES_MAX).filter_map(|_| enter(flood, false)).collect();
        assert_eq!(named.len(), 8, "who says that it is there takes a part of its network's room");
        assert!(matches!(handshakes.enter(flood, false), Entry::Unproven));
        let shown: Vec<_> = (0..HANDSHAKES_MAX).filter_map(|_| enter(flood, true)).collect();
        assert_eq!(named.len() + shown.len(), 32);
        assert!(matches!(handshakes.enter(flood, true), Entry::Full));
        let relayed: Vec<_> = (0..HANDSHAKES_MAX).filter_map(|_| enter(Origin::Relayed, true)).collect();
        assert_eq!(relayed.len(), 128);
        assert!(enter(other, true).is_some());
        assert!(matches!(handshakes.enter(other, false), Entry::Unproven), "many are under way");
        drop((named, shown, relayed));
        assert!(enter(flood, false).is_some() && enter(other, false).is_some());
    }
}
