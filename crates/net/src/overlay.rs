//! Connections of the overlay (iroh-gossip): one to a peer, however many topics are shared with it. A connection costs a
//! sign of life every two seconds, and the overlay keeps each that it is given.

use crate::gossip::{ALPN, MESSAGE_MAX};
use iroh::endpoint::{Connection, WeakConnectionHandle};
use iroh::{Endpoint, EndpointId};
use iroh_gossip::api::{ApiError, GossipSender, GossipTopic};
use iroh_gossip::{Gossip, TopicId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Peers whose connections are remembered; beyond it, those that ended are forgotten.
const WAYS: usize = 256;
const REACH_WITHIN: Duration = Duration::from_secs(8);
/// A peer that does not answer is tried so often: over a relay the other end may look first for a node that was there before.
const ATTEMPTS: usize = 2;

/// The connection to a peer; locked while one is being made.
type Way = Arc<tokio::sync::Mutex<Made>>;

#[derive(Default)]
struct Made {
    connection: Option<WeakConnectionHandle>,
    /// When the peer was last tried in vain.
    failed: Option<Instant>,
}

#[derive(Clone)]
pub(crate) struct Overlay {
    gossip: Gossip,
    endpoint: Endpoint,
    ways: Arc<Mutex<BTreeMap<EndpointId, Way>>>,
}

impl Overlay {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        let gossip = Gossip::builder().alpn(ALPN).max_message_size(MESSAGE_MAX).spawn(endpoint.clone());
        Self { gossip, endpoint, ways: Arc::default() }
    }

    /// Takes part in a topic, with nobody yet.
    pub(crate) async fn subscribe(&self, topic: TopicId) -> Result<GossipTopic, ApiError> {
        self.gossip.subscribe(topic, Vec::new()).await
    }

    /// A peer connected.
    pub(crate) async fn take_in(&self, connection: Connection) {
        // Where one is being made too, both stay.
        if let Ok(mut way) = self.way(connection.remote_id()).try_lock() {
            way.connection = Some(connection.weak_handle());
        }
        let _ = self.gossip.handle_connection(connection).await;
    }

    /// Has a topic begin with `peer`, over the connection that there is, or a new one: of itself the overlay dials a peer once
    /// and, after a failure, waits for that peer for ever (iroh-gossip 0.101).
    pub(crate) fn reach(&self, peer: EndpointId, topic: &GossipSender) {
        let (overlay, topic, way, asked) = (self.clone(), topic.clone(), self.way(peer), Instant::now());
        tokio::spawn(async move {
            let mut way = way.lock().await;
            if !way.stands() {
                // Who waited for an attempt that failed does not repeat it: attempts would pile up.
                if way.failed.is_some_and(|at| at >= asked) {
                    return;
                }
                let Some(connection) = overlay.connect(peer).await else {
                    way.failed = Some(Instant::now());
                    return;
                };
                way.connection = Some(connection.weak_handle());
                let _ = overlay.gossip.handle_connection(connection).await;
            }
            drop(way);
            let _ = topic.join_peers(vec![peer]).await;
        });
    }

    async fn connect(&self, peer: EndpointId) -> Option<Connection> {
        for _ in 0..ATTEMPTS {
            let connecting = self.endpoint.connect(peer, ALPN);
            if let Ok(Ok(connection)) = tokio::time::timeout(REACH_WITHIN, connecting).await {
                return Some(connection);
            }
        }
        None
    }

    fn way(&self, peer: EndpointId) -> Way {
        let mut ways = self.ways.lock().expect("nobody panics while holding it");
        if ways.len() >= WAYS {
            ways.retain(|_, way| way.try_lock().map_or(true, |way| way.stands()));
        }
        ways.entry(peer).or_default().clone()
    }
}

impl Made {
    fn stands(&self) -> bool {
        let connection = self.connection.as_ref().and_then(WeakConnectionHandle::upgrade);
        connection.is_some_and(|connection| connection.close_reason().is_none())
    }
}
