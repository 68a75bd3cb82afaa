//! The endpoint of a node and the tasks that answer its peers.

use crate::bulk::{self, Content, FetchError, Fetched};
use crate::gossip;
use crate::links::{self, Listener};
use crate::log::{self, Follow, LogClient, LogService};
use crate::pool::Pool;
use crate::ticket::Address;
use base::{Hash, NodeId, Reject};
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{NetReportConfig, PortmapperConfig, QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr};
use iroh_gossip::Gossip;
use iroh_mdns_address_lookup::MdnsAddressLookup;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How a node is on the network.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's secret key.
    pub secret: [u8; 32],
    /// Where it listens; port 0 = any.
    pub bind: SocketAddr,
    /// Whether nodes of the local network are found by mDNS.
    pub mdns: bool,
}

/// Why there is no endpoint.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address cannot be had.
    #[error("cannot listen on {bind}: {why}; choose another with `--bind`")]
    Bind {
        /// What was asked for.
        bind: SocketAddr,
        /// What the system said.
        why: String,
    },
}

/// Connections accepted at a time.
const ACCEPTED_MAX: usize = 1024;
/// Streams that a peer may have open on one connection.
const STREAMS_MAX: u32 = 64;
/// Above 2 MiB a lossy link kills the connection ("too many gaps in stream buffer").
const STREAM_WINDOW: u32 = 2 << 20;
/// What a peer may have in flight to us on one connection.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The local network's name for mDNS.
const MDNS_NAME: &str = "talkoo1";

/// A node on the network. Dropping it ends its tasks.
pub struct Net {
    endpoint: Endpoint,
    book: MemoryLookup,
    pool: Arc<Pool>,
    gossip: Gossip,
    secret: [u8; 32],
    stop: CancellationToken,
    sockets: Vec<SocketAddr>,
}

/// What answers the connections of peers.
#[derive(Clone)]
struct Services {
    content: Arc<dyn Content>,
    log: Option<Arc<dyn LogService>>,
    listener: Option<Arc<dyn Listener>>,
    gossip: Gossip,
    book: MemoryLookup,
    pool: Arc<Pool>,
}

/// What is known of the way to a peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Round trip of a small request.
    pub rtt: Duration,
    /// Whether packets go straight to it.
    pub direct: bool,
    /// Where to.
    pub address: String,
}

impl Net {
    /// Opens the endpoint and begins to answer: content to everybody that `content` admits, the log
    /// where this node keeps one, and those whom the `listener` hears.
    pub async fn open(
        config: Config,
        content: Arc<dyn Content>,
        log: Option<Arc<dyn LogService>>,
        listener: Option<Arc<dyn Listener>>,
    ) -> Result<Self, NetError> {
        let bind = config.bind;
        let failed = |why: String| NetError::Bind { bind, why };
        let transport = QuicTransportConfig::builder()
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
            .keep_alive_interval(Duration::from_secs(2))
            .max_idle_timeout(Some(VarInt::from_u32(6_000).into()))
            .build();
        let book = MemoryLookup::new();
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&config.secret))
            .relay_mode(RelayMode::Disabled)
            .clear_address_lookup()
            .address_lookup(book.clone())
            .portmapper_config(PortmapperConfig::Disabled)
            .net_report_config(NetReportConfig::minimal())
            .transport_config(transport)
            .alpns([bulk::ALPN, log::ALPN, links::ALPN, gossip::ALPN].map(<[u8]>::to_vec).to_vec())
            .clear_ip_transports()
            .bind_addr(bind)
            .map_err(|e| failed(e.to_string()))?
            .bind()
            .await
            .map_err(|e| failed(e.to_string()))?;
        if config.mdns {
            add_mdns(&endpoint);
        }
        let stop = CancellationToken::new();
        let sockets = sockets_of(&endpoint);
        let gossip = Gossip::builder().alpn(gossip::ALPN).max_message_size(gossip::MESSAGE_MAX).spawn(endpoint.clone());
        let served = content.clone();
        let serve = move |by, alpn: &[u8], connection| {
            if alpn == bulk::ALPN {
                tokio::spawn(bulk::serve(connection, by, served.clone()));
            }
        };
        let pool = Arc::new(Pool::new(endpoint.clone(), Box::new(serve)));
        let services =
            Services { content, log, listener, gossip: gossip.clone(), book: book.clone(), pool: pool.clone() };
        tokio::spawn(accept(endpoint.clone(), services, stop.clone()));
        Ok(Self { endpoint, book, pool, gossip, secret: config.secret, stop, sockets })
    }

    /// Who this node is.
    pub fn id(&self) -> NodeId {
        NodeId(*self.endpoint.id().as_bytes())
    }

    /// Where it can be reached from the same machine or network.
    pub fn address(&self) -> Address {
        Address { node: self.id(), sockets: self.sockets.clone() }
    }

    /// Remembers where a peer can be reached.
    pub fn know(&self, address: &Address) {
        remember(&self.book, self.id(), address);
    }

    /// Tells everybody in `topic` where this node is, and learns where they are, beginning with `peers`.
    pub fn meet(&self, topic: Hash, peers: &[NodeId]) {
        let known = peers.iter().filter(|peer| **peer != self.id());
        let bootstrap = known.filter_map(|peer| EndpointId::from_bytes(&peer.0).ok()).collect();
        let (book, me, pool) = (self.book.clone(), self.id(), self.pool.clone());
        let learn = move |address: &Address| {
            if remember(&book, me, address) {
                // It was restarted elsewhere: connections to where it was are dead.
                let (pool, address) = (pool.clone(), address.clone());
                tokio::spawn(async move { pool.moved(address.node, &address.sockets).await });
            }
        };
        let part = gossip::take_part(
            self.gossip.clone(),
            topic,
            bootstrap,
            self.secret,
            self.address(),
            learn,
            self.stop.clone(),
        );
        tokio::spawn(part);
    }

    /// Fetches content by root from several peers at once; see [`FetchError`] for going on later.
    pub async fn fetch(
        &self,
        root: Hash,
        sources: &[NodeId],
        have: Vec<u8>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Fetched, FetchError> {
        bulk::fetch(&self.pool, root, sources, have, progress).await
    }

    /// Follows a chain that `peer` keeps.
    pub async fn follow(&self, peer: NodeId, follow: Follow) -> Result<LogClient, Reject> {
        log::follow(&self.pool, peer, follow).await
    }

    /// A standing link to `peer`: frames put in are sent in order while it stands, dropped while it does not.
    pub fn link(&self, peer: NodeId) -> tokio::sync::mpsc::Sender<Arc<Vec<u8>>> {
        links::keep(self.pool.clone(), peer, self.stop.clone())
    }

    /// Asks a peer for a sign of life.
    pub async fn ping(&self, peer: NodeId) -> Result<PeerInfo, Reject> {
        bulk::ping(&self.pool, peer).await?;
        let rtt = bulk::ping(&self.pool, peer).await?;
        let connection = self.pool.get(peer, bulk::ALPN, 0).await?;
        let paths = connection.paths();
        let path = paths.iter().find(|path| path.is_selected());
        let direct = path.as_ref().is_some_and(|path| path.is_ip());
        let address = path.map_or("unknown".into(), |path| match path.remote_addr() {
            TransportAddr::Ip(socket) => socket.to_string(),
            other => format!("{other:?}"),
        });
        Ok(PeerInfo { rtt, direct, address })
    }

    /// Stops answering and closes every connection.
    pub async fn close(&self) {
        self.stop.cancel();
        self.endpoint.close().await;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Services {
    /// A peer that comes from an address that was not known was restarted or has moved: what leads
    /// to where it was is dead.
    async fn note_address(&self, by: NodeId, connection: &iroh::endpoint::Connection) {
        let socket = connection.paths().iter().find_map(|path| match path.remote_addr() {
            TransportAddr::Ip(socket) => Some(*socket),
            _ => None,
        });
        let (Some(socket), Ok(id)) = (socket, EndpointId::from_bytes(&by.0)) else { return };
        let known = self.book.get_endpoint_info(id);
        if known.is_some_and(|info| info.into_endpoint_addr().ip_addrs().any(|known| *known == socket)) {
            return;
        }
        self.book.set_endpoint_info(EndpointAddr::new(id).with_ip_addr(socket));
        self.pool.moved(by, &[socket]).await;
    }
}

/// Notes where a peer is; whether it was known to be elsewhere.
fn remember(book: &MemoryLookup, me: NodeId, address: &Address) -> bool {
    let Ok(id) = EndpointId::from_bytes(&address.node.0) else { return false };
    if address.node == me {
        return false;
    }
    let sockets = address.sockets.iter().map(|socket| TransportAddr::Ip(*socket));
    let info = iroh::endpoint_info::EndpointInfo::from(EndpointAddr::from_parts(id, sockets));
    let before = book.set_endpoint_info(info.clone());
    before.is_some_and(|before| before != info.data)
}

fn add_mdns(endpoint: &Endpoint) {
    match MdnsAddressLookup::builder().service_name(MDNS_NAME).build(endpoint.id()) {
        Ok(mdns) => {
            if let Ok(lookup) = endpoint.address_lookup() {
                lookup.add(mdns);
            }
        }
        Err(error) => tracing::info!(%error, "no mDNS: nodes of the local network are found by ticket only"),
    }
}

/// Dialable addresses: a wildcard socket is reached on every address of the machine, loopback included.
fn sockets_of(endpoint: &Endpoint) -> Vec<SocketAddr> {
    let mut sockets: Vec<SocketAddr> = endpoint.addr().ip_addrs().copied().collect();
    for socket in endpoint.bound_sockets() {
        if socket.ip().is_unspecified() && socket.is_ipv4() {
            sockets.push(SocketAddr::from(([127, 0, 0, 1], socket.port())));
        }
    }
    sockets.sort();
    sockets.dedup();
    sockets
}

async fn accept(endpoint: Endpoint, services: Services, stop: CancellationToken) {
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
        if connections.len() >= ACCEPTED_MAX {
            incoming.refuse();
            continue;
        }
        let services = services.clone();
        connections.spawn(async move {
            let Ok(connection) = incoming.await else { return };
            let by = NodeId(*connection.remote_id().as_bytes());
            services.note_address(by, &connection).await;
            match (connection.alpn(), services.log) {
                (links::ALPN, _) => {
                    if let Some(listener) = services.listener {
                        links::serve(connection, by, listener).await;
                    }
                }
                (bulk::ALPN, _) => {
                    services.pool.offer(by, bulk::ALPN, connection.clone()).await;
                    bulk::serve(connection, by, services.content).await;
                }
                (log::ALPN, Some(log)) => log::serve(connection, by, log).await,
                (gossip::ALPN, _) => {
                    let _ = services.gossip.handle_connection(connection).await;
                }
                _ => connection.close(1u32.into(), b"this node keeps no log"),
            }
        });
    }
}
