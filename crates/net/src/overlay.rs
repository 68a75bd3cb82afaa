//! Connections of the overlay (iroh-gossip): one to a peer, however many topics are shared with it. A connection costs a
//! sign of life every two seconds, and the overlay keeps each that it is given.

use crate::alpn;
use iroh::endpoint::{Connection, WeakConnectionHandle};
use iroh::{Endpoint, EndpointId};
use iroh_gossip::api::{ApiError, GossipSender, GossipTopic};
use iroh_gossip::{Gossip, TopicId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Peers whose connections are remembered; beyond it, those that ended are forgotten.
const WAYS: usize = 256;
/// The longest message that is sent or taken.
pub(crate) const MESSAGE_MAX: usize = 8192;
const REACH_WITHIN: Duration = Duration::from_secs(8);
/// A peer that does not answer is tried so often: over a relay the other end may look first for a node that was there before.
const ATTEMPTS: usize = 2;
/// Bytes a second of a neighbour that are judged, and at once. The beats of a full topic are two thirds of that. What
/// is more is dropped and costs its neighbour nothing: the overlay passes on what it gets before anybody has judged it,
/// so an honest neighbour brings what strangers sent through it.
const FLOW: f64 = 1_048_576.0;
const FLOW_BURST: f64 = 8.0 * FLOW;
/// A message costs so many bytes more: its signature is checked.
const MESSAGE_COST: usize = 256;
/// Neighbours whose flow is counted; more than the overlay has at a time.
const FLOWS_MAX: usize = 1024;

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
    flows: Arc<Mutex<Flows>>,
}

/// What came of each neighbour of late.
#[derive(Default)]
struct Flows(BTreeMap<EndpointId, Flow>);

struct Flow {
    /// Bytes that it may still send.
    left: f64,
    at: Instant,
}

impl Flows {
    /// Counts a message; whether it is to be judged.
    fn admit(&mut self, peer: EndpointId, bytes: usize, now: Instant) -> bool {
        if self.0.len() >= FLOWS_MAX && !self.0.contains_key(&peer) {
            // Full again: nothing is lost with these.
            self.0.retain(|_, flow| flow.refilled(now) < FLOW_BURST);
        }
        if self.0.len() >= FLOWS_MAX && !self.0.contains_key(&peer) {
            return false;
        }
        let flow = self.0.entry(peer).or_insert(Flow { left: FLOW_BURST, at: now });
        let (left, cost) = (flow.refilled(now), (bytes + MESSAGE_COST) as f64);
        let admitted = left >= cost;
        // What is dropped costs nothing here: a flood cannot keep the bucket empty.
        (flow.left, flow.at) = (if admitted { left - cost } else { left }, now);
        admitted
    }
}

impl Flow {
    fn refilled(&self, now: Instant) -> f64 {
        (self.left + now.saturating_duration_since(self.at).as_secs_f64() * FLOW).min(FLOW_BURST)
    }
}

impl Overlay {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        let gossip = Gossip::builder().alpn(alpn::GOSSIP).max_message_size(MESSAGE_MAX).spawn(endpoint.clone());
        Self { gossip, endpoint, ways: Arc::default(), flows: Arc::default() }
    }

    /// Takes part in a topic, with nobody yet.
    pub(crate) async fn subscribe(&self, topic: TopicId) -> Result<GossipTopic, ApiError> {
        self.gossip.subscribe(topic, Vec::new()).await
    }

    /// Counts a message of a neighbour; whether it is to be judged.
    pub(crate) fn admit(&self, neighbour: EndpointId, bytes: usize) -> bool {
        self.flows.lock().expect("nobody panics while holding it").admit(neighbour, bytes, Instant::now())
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
            let connecting = self.endpoint.connect(peer, alpn::GOSSIP);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(i: u8) -> EndpointId {
        iroh::SecretKey::from_bytes(&[i; 32]).public()
    }

    #[test]
    fn a_neighbour_that_carries_a_flood_is_heard_again_and_the_others_all_the_time() {
        let (mut flows, begun) = (Flows::default(), Instant::now());
        let (honest, flooder) = (peer(1), peer(2));
        // A topic of 16,384 nodes, each of which speaks every 15 seconds.
        for second in 0..30 {
            let now = begun + Duration::from_secs(second);
            assert!((0..1_093).all(|_| flows.admit(honest, 400, now)), "second {second}");
        }
        let flood = (0..10_000).filter(|_| flows.admit(flooder, MESSAGE_MAX, begun)).count();
        assert_eq!(flood, (FLOW_BURST / (MESSAGE_MAX + MESSAGE_COST) as f64) as usize);
        // While the flood lasts, it is heard as far as its bucket refills.
        let later = begun + Duration::from_secs(1);
        let heard = (0..10_000).filter(|_| flows.admit(flooder, MESSAGE_MAX, later)).count();
        assert!(heard >= (FLOW / (MESSAGE_MAX + MESSAGE_COST) as f64) as usize, "{heard} in a second");
        assert!(!flows.admit(flooder, MESSAGE_MAX, later));
        assert!(flows.admit(flooder, 400, later + Duration::from_millis(10)));
        assert!(flows.admit(honest, 400, begun + Duration::from_secs(30)));
    }

    #[test]
    fn neighbours_that_come_and_go_take_no_more_room() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        let id = |i: usize| {
            let mut secret = [3; 32];
            secret[..8].copy_from_slice(&(i as u64).to_le_bytes());
            iroh::SecretKey::from_bytes(&secret).public()
        };
        for i in 0..FLOWS_MAX {
            assert!(flows.admit(id(i), 1, now));
        }
        assert!(!flows.admit(id(FLOWS_MAX), 1, now), "all of them speak at once");
        assert!(flows.admit(id(FLOWS_MAX), 1, now + Duration::from_secs(1)));
        assert_eq!(flows.0.len(), 1);
    }
}
