//! The endpoint of a node and the tasks that answer its peers.

use crate::accept::{self, ACCEPTED_MAX, EACH_MAX, EXPECTED_MAX, Services};
use crate::alpn;
use crate::bulk::{self, Content, FetchError, Fetched, Place};
use crate::gossip::{self, Topic};
use crate::links::{self, Link, Listener};
use crate::log::{self, Follow, LogClient, LogService};
use crate::overlay::Overlay;
use crate::peer_error::PeerError;
use crate::pool::Pool;
use crate::rate::Rate;
use crate::reach::{address_of, learn, origin_of, plausible, way_of};
use crate::relay::{Pins, RelayAddr};
use crate::seats::Seats;
use crate::serving::Serving;
use crate::talk::{self, Answerer, Talk};
use crate::ticket::Address;
use base::{Hash, NodeId};
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{NetReportConfig, PortmapperConfig, QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, EndpointId, RelayMap, RelayMode, SecretKey, Watcher};
use iroh_mdns_address_lookup::MdnsAddressLookup;
use iroh_relay::{RelayConfig, RelayQuicConfig};
use n0_future::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// How a node is on the network.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The node's secret key.
    pub secret: [u8; 32],
    /// Where it listens; port 0 = any.
    pub bind: SocketAddr,
    /// Whether nodes of the local network are found by mDNS.
    pub mdns: bool,
    /// Relays that may help where packets do not go straight; none: nobody is asked.
    pub relays: Vec<RelayAddr>,
    /// Bytes of content a second that may go and come; 0: no limit.
    pub rates: (u64, u64),
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

/// Streams that a peer may have open on one connection.
const STREAMS_MAX: u32 = 64;
/// Above 2 MiB a lossy link kills the connection ("too many gaps in stream buffer").
const STREAM_WINDOW: u32 = 2 << 20;
/// What a peer may have in flight to us on one connection.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A relay that answers does so within this.
const RELAY_WITHIN: Duration = Duration::from_secs(5);
/// A way that goes straight is found within this, or there is none.
const PUNCH_WITHIN: Duration = Duration::from_secs(8);
/// Peers of a topic that wait to be taken in.
const MORE: usize = 16;
/// The local network's name for mDNS.
const MDNS_NAME: &str = "talkoo1";

/// A node on the network. Dropping it ends its tasks.
pub struct Net {
    endpoint: Endpoint,
    book: MemoryLookup,
    pool: Arc<Pool>,
    overlay: Overlay,
    secret: [u8; 32],
    stop: CancellationToken,
    pins: Arc<Pins>,
    answerer: Arc<OnceLock<Arc<dyn Answerer>>>,
    seats: Arc<Seats>,
}

/// Takes in peers of a topic that became known later.
pub struct More {
    me: NodeId,
    sender: tokio::sync::mpsc::Sender<Vec<EndpointId>>,
}

impl More {
    /// These are there, too. What does not fit now is told again by whoever cares.
    pub fn add(&self, peers: &[NodeId]) {
        let _ = self.sender.try_send(self.ids(peers));
    }

    fn ids(&self, peers: &[NodeId]) -> Vec<EndpointId> {
        let others = peers.iter().filter(|peer| **peer != self.me);
        others.filter_map(|peer| EndpointId::from_bytes(&peer.0).ok()).collect()
    }
}

/// Peers with whom a node is connected meet it in such a topic this often.
const MEET_EVERY: Duration = Duration::from_secs(5);

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
        config: NetConfig,
        content: Arc<dyn Content>,
        log: Option<Arc<dyn LogService>>,
        listener: Option<Arc<dyn Listener>>,
    ) -> Result<Self, NetError> {
        let bind = config.bind;
        let failed = |why: String| NetError::Bind { bind, why };
        let mut report = NetReportConfig::minimal();
        // Where UDP is blocked, relays are found and served over HTTPS alone.
        report.https_probes = !config.relays.is_empty();
        let transport = QuicTransportConfig::builder()
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
            // A word that is lost is said again long before the other side gives up.
            .keep_alive_interval(Duration::from_secs(4))
            .max_idle_timeout(Some(VarInt::from_u32(6_000).into()))
            .build();
        let book = MemoryLookup::new();
        let pins = Arc::new(Pins::new(&config.relays));
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&config.secret))
            .relay_mode(relay_mode(&config.relays))
            .ca_tls_config(pins.tls())
            .clear_address_lookup()
            .address_lookup(book.clone())
            .portmapper_config(PortmapperConfig::Disabled)
            .net_report_config(report)
            .transport_config(transport)
            .alpns([alpn::BULK, alpn::LOG, alpn::LINKS, alpn::GOSSIP, alpn::TALK].map(<[u8]>::to_vec).to_vec())
            .clear_ip_transports()
            .bind_addr(bind)
            .map_err(|e| failed(e.to_string()))?
            .bind()
            .await
            .map_err(|e| failed(e.to_string()))?;
        if config.mdns {
            add_mdns(&endpoint);
        }
        if !config.relays.is_empty() && tokio::time::timeout(RELAY_WITHIN, endpoint.online()).await.is_err() {
            let relays: Vec<String> = config.relays.iter().map(RelayAddr::to_string).collect();
            tracing::warn!(
                relays = relays.join(" "),
                "no relay answers: nodes behind other routers cannot reach this one for now; `talkoo relay` runs one"
            );
        }
        let stop = CancellationToken::new();
        let overlay = Overlay::new(endpoint.clone());
        let serving = Arc::new(Serving::new(content, config.rates.0));
        let dialled = serving.clone();
        let serve = move |by, alpn: &[u8], connection| {
            if alpn == alpn::BULK {
                let origin = origin_of(&connection);
                tokio::spawn(dialled.clone().serve(connection, by, origin));
            }
        };
        let pool = Arc::new(Pool::new(endpoint.clone(), book.clone(), Box::new(serve), Rate::new(config.rates.1)));
        let answerer = Arc::new(OnceLock::new());
        let seats = Arc::new(Seats::new(ACCEPTED_MAX, EXPECTED_MAX, EACH_MAX));
        let services = Services {
            serving,
            log,
            listener,
            overlay: overlay.clone(),
            book: book.clone(),
            pool: pool.clone(),
            answerer: answerer.clone(),
            room: talk::Room::default(),
            seats: seats.clone(),
        };
        tokio::spawn(accept::accept(endpoint.clone(), services, stop.clone()));
        Ok(Self { endpoint, book, pool, overlay, secret: config.secret, stop, pins, answerer, seats })
    }

    /// Who this node is.
    pub fn id(&self) -> NodeId {
        NodeId(*self.endpoint.id().as_bytes())
    }

    /// Where it can be reached: from the same machine or network, from outside as far as relays have seen that,
    /// and through its relay.
    pub fn address(&self) -> Address {
        address_of(&self.endpoint)
    }

    /// These peers find a place here when strangers have taken all of theirs: those who validate a chain, or the members
    /// of a run. Said again of the same, others take their stead.
    pub fn expect(&self, chain_or_run: Hash, peers: BTreeSet<NodeId>) {
        self.seats.expect(chain_or_run, peers);
    }

    /// Remembers where a peer can be reached.
    pub fn know(&self, address: &Address) {
        learn(&self.book, &self.pins, &self.pool, self.id(), address);
    }

    /// Answers questions from now on. Said twice, the first one stays.
    pub fn answer(&self, answerer: Arc<dyn Answerer>) {
        let _ = self.answerer.set(answerer);
    }

    /// Begins to talk to `peer`, whose frames are at most `max` long.
    pub async fn talk(&self, peer: NodeId, max: usize) -> Result<Talk, PeerError> {
        talk::open(&self.pool, peer, max).await
    }

    /// `peer` is silent: the next question to it goes over a new connection.
    pub async fn forget(&self, peer: NodeId) {
        self.pool.forget(peer, alpn::TALK).await;
    }

    /// Tells everybody in `topic` where this node is, and learns where they are, beginning with `peers`.
    pub fn meet(&self, topic: Hash, peers: &[NodeId]) {
        let (_, words) = tokio::sync::watch::channel(Some(Vec::new()));
        let _ = self.speak(Topic { topic, words, hear: Arc::new(()) }, peers);
    }

    /// The same with words of one's own, or none, and an ear for those of others. Gives what takes in more peers.
    pub fn speak(&self, topic: Topic, peers: &[NodeId]) -> More {
        let (more, peers_to_come) = tokio::sync::mpsc::channel(MORE);
        let more = More { me: self.id(), sender: more };
        let bootstrap = more.ids(peers);
        let (book, me, pool, pins) = (self.book.clone(), self.id(), self.pool.clone(), self.pins.clone());
        let forgotten = pins.clone();
        let forget = move |node: &NodeId| {
            forgotten.forget(node);
            if let Ok(id) = EndpointId::from_bytes(&node.0) {
                book.remove_endpoint_info(id);
            }
        };
        let (book, endpoint) = (self.book.clone(), self.endpoint.clone());
        let open = pool.clone();
        let connected = move || -> Vec<NodeId> { open.open().into_iter().map(|(peer, _)| peer).collect() };
        let learn = move |address: &Address| {
            let id = EndpointId::from_bytes(&address.node.0).ok();
            let unknown = id.is_some_and(|id| book.get_endpoint_info(id).is_none());
            learn(&book, &pins, &pool, me, &plausible(address, &address_of(&endpoint)));
            unknown
        };
        let moved = self.endpoint.watch_addr().stream_updates_only().map(|_| ());
        let own = self.endpoint.clone();
        let here = move || address_of(&own);
        let secret = self.secret;
        let part = gossip::Part { topic, bootstrap, more: peers_to_come, secret, here, learn, forget, connected };
        tokio::spawn(gossip::take_part(self.overlay.clone(), part, moved, self.stop.clone()));
        more
    }

    /// Fetches content by root, of `most` bytes, from several peers at once; see [`FetchError`] for going on later.
    pub async fn fetch<P: Place>(
        &self,
        root: Hash,
        most: u64,
        sources: &[NodeId],
        have: P,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Fetched<P>, FetchError<P>> {
        bulk::fetch(&self.pool, (root, most), sources, have, progress).await
    }

    /// Follows a chain that `peer` keeps.
    pub async fn follow(&self, peer: NodeId, follow: Follow) -> Result<LogClient, PeerError> {
        log::follow(&self.pool, peer, follow).await
    }

    /// The same with all peers with whom this node is connected, now and later.
    pub fn speak_to_all(&self, topic: Topic) {
        let (more, pool, stop) = (self.speak(topic, &[]), self.pool.clone(), self.stop.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(MEET_EVERY);
            while stop.run_until_cancelled(tick.tick()).await.is_some() {
                more.add(&pool.open().into_iter().map(|(peer, _)| peer).collect::<Vec<_>>());
            }
        });
    }

    /// A standing link to `peer`: frames put in are sent in order while it stands, dropped while it does not.
    pub fn link(&self, peer: NodeId) -> Link {
        links::keep(self.pool.clone(), peer, self.stop.clone())
    }

    /// Asks a peer for signs of life: the ways to it, one after the other, until packets go straight. A relayed one
    /// is given some time to become that.
    pub async fn ping(&self, peer: NodeId) -> Result<Vec<PeerInfo>, PeerError> {
        bulk::ping(&self.pool, peer).await?;
        let connection = self.pool.get(peer, alpn::BULK, 0).await?;
        let mut changes = connection.paths_stream();
        let mut ways = Vec::new();
        let deadline = tokio::time::Instant::now() + PUNCH_WITHIN;
        loop {
            let (direct, address) = way_of(&connection);
            let rtt = bulk::ping(&self.pool, peer).await?;
            ways.push(PeerInfo { rtt, direct, address: address.clone() });
            if direct {
                return Ok(ways);
            }
            loop {
                match tokio::time::timeout_at(deadline, changes.next()).await {
                    Ok(Some(_)) if way_of(&connection).1 == address => {}
                    Ok(Some(_)) => break,
                    _ => return Ok(ways),
                }
            }
        }
    }

    /// The ways to peers with whom this node is connected now.
    pub fn ways(&self) -> BTreeMap<NodeId, PeerInfo> {
        let way = |connection: &iroh::endpoint::Connection| {
            let (direct, address) = way_of(connection);
            let paths = connection.paths();
            let rtt = paths.iter().find(|path| path.is_selected()).map(|path| path.rtt()).unwrap_or_default();
            PeerInfo { rtt, direct, address }
        };
        self.pool.open().iter().map(|(peer, connection)| (*peer, way(connection))).collect()
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

/// The relays as the endpoint wants them: one port for both services.
pub(crate) fn relay_mode(relays: &[RelayAddr]) -> RelayMode {
    if relays.is_empty() {
        return RelayMode::Disabled;
    }
    let config = |relay: &RelayAddr| RelayConfig::new(relay.url().clone(), Some(RelayQuicConfig::new(relay.port())));
    RelayMode::Custom(relays.iter().map(config).collect::<RelayMap>())
}
