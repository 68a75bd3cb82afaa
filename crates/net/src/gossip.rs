//! Small signed messages to everybody in a topic: who is there, and where.
//!
//! A joiner knows one node from its ticket. Over the topic's overlay it tells everybody where it
//! is and learns where the others are, so that bulk transfers go straight from peer to peer.

use crate::overlay::Overlay;
use crate::ticket::Address;
use base::{Hash, Keypair, NodeId, Reader, Reject, Signed, Wire, WireError};
use bytes::Bytes;
use iroh::EndpointId;
use iroh_gossip::TopicId;
use iroh_gossip::api::{Event, GossipReceiver, GossipSender};
use n0_future::{Stream, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Names the protocol and its version.
pub(crate) const ALPN: &[u8] = b"talkoo/gossip/3";
/// Domain of signatures on beats.
const DOMAIN: &str = "talkoo 2026 beat v2";
/// The longest message that is sent or taken.
pub(crate) const MESSAGE_MAX: usize = 8192;
/// A node says where it is this often, and once more when it hears of somebody new or has something new to say.
const BEAT: Duration = Duration::from_secs(15);
/// But no more often than this: nobody makes others speak all the time.
const PAUSE: Duration = Duration::from_secs(1);
/// Nodes of a topic that are remembered.
const HEARD_MAX: usize = 16_384;
/// Nodes with whom to begin, at most.
const BOOTSTRAP_MAX: usize = 64;
/// Of these, tried at a time.
const TRIES: usize = 4;
/// Beats whose clock is further ahead are nobody's.
const AHEAD_MS: u64 = 3_600_000;

/// Where a node is, said by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Beat {
    address: Address,
    /// Rises with every beat of a node; older ones are stale.
    count: u64,
    /// What it has to say beside that.
    words: Vec<u8>,
}

impl Wire for Beat {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.address.clone(), self.count).encode(out);
        self.words.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (address, count) = Wire::decode(input)?;
        Ok(Self { address, count, words: input.bytes(MESSAGE_MAX)?.to_vec() })
    }
}

/// What is talked about.
pub struct Topic {
    /// Its name.
    pub topic: Hash,
    /// What this node says; when it changes, it is said at once.
    pub words: watch::Receiver<Vec<u8>>,
    /// Who hears what others say.
    pub hear: Arc<dyn Hears>,
}

/// Who hears the words of others in a topic.
pub trait Hears: Send + Sync + 'static {
    /// Takes the newest words of a node, signed by it.
    fn hear(&self, by: NodeId, words: &[u8]);
}

impl Hears for () {
    fn hear(&self, _: NodeId, _: &[u8]) {}
}

/// This node's part in a topic.
pub(crate) struct Part<H, L, F> {
    pub(crate) topic: Topic,
    /// With whom to begin.
    pub(crate) bootstrap: Vec<EndpointId>,
    /// Others who are there, as they become known.
    pub(crate) more: mpsc::Receiver<Vec<EndpointId>>,
    /// The key of who speaks.
    pub(crate) secret: [u8; 32],
    /// Where this node is.
    pub(crate) here: H,
    /// Takes what others say of where they are; whether nothing was known of that before.
    pub(crate) learn: L,
    /// Nobody remembers where these are any more.
    pub(crate) forget: F,
}

/// Takes part until `stop`.
pub(crate) async fn take_part<H: Fn() -> Address, L: Fn(&Address) -> bool, F: Fn(&NodeId)>(
    overlay: Overlay,
    part: Part<H, L, F>,
    mut moved: impl Stream<Item = ()> + Unpin,
    stop: CancellationToken,
) {
    let Part { topic: Topic { topic, mut words, hear }, mut bootstrap, mut more, secret, here, learn, forget } = part;
    let Ok(subscribed) = overlay.subscribe(TopicId::from_bytes(topic.0)).await else { return };
    let (sender, mut receiver) = subscribed.split();
    bootstrap.iter().for_each(|peer| overlay.reach(*peer, &sender));
    let mut beats = Beats {
        key: Keypair::from_secret(secret),
        count: 0,
        heard: BTreeMap::new(),
        order: BTreeMap::new(),
        arrived: 0,
    };
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
    let mut next_word = tokio::time::Instant::now();
    let (mut news, mut changes) = (true, true);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next_word), if news => {
                news = false;
                next_word = tokio::time::Instant::now() + PAUSE;
                let said = words.borrow_and_update().clone();
                beats.say(&sender, here(), said).await;
            }
            _ = tick.tick() => {
                news = true;
                // Those with whom to begin may have come up only now.
                if receiver.neighbors().next().is_none() && !bootstrap.is_empty() {
                    // Some at a time, not always the same.
                    let step = TRIES.min(bootstrap.len());
                    bootstrap.rotate_left(step);
                    bootstrap.iter().take(TRIES).for_each(|peer| overlay.reach(*peer, &sender));
                }
            }
            changed = words.changed(), if changes => {
                changes = changed.is_ok();
                news |= changes;
            }
            Some(()) = moved.next() => news = true,
            Some(peers) = more.recv() => {
                let near: Vec<EndpointId> = receiver.neighbors().collect();
                for peer in peers.into_iter().filter(|peer| !near.contains(peer)) {
                    if !bootstrap.contains(&peer) && bootstrap.len() < BOOTSTRAP_MAX {
                        bootstrap.push(peer);
                    }
                    overlay.reach(peer, &sender);
                }
            }
            event = next(&mut receiver) => match event {
                None => return,
                Some(Event::NeighborUp(_)) => news = true,
                Some(Event::Received(message)) => match beats.hear(&message.content, now_ms()) {
                    Ok(Some(heard)) => {
                        if learn(&heard.beat.address) {
                            beats.found(&heard.beat.address.node);
                        }
                        heard.gone.iter().for_each(&forget);
                        hear.hear(heard.beat.address.node, &heard.beat.words);
                        news |= heard.new;
                    }
                    Ok(None) => {}
                    Err(reject) => tracing::debug!(%reject, "a beat was refused"),
                },
                Some(_) => {}
            },
        }
    }
}

async fn next(receiver: &mut GossipReceiver) -> Option<Event> {
    receiver.next().await?.ok()
}

struct Beats {
    key: Keypair,
    count: u64,
    /// The last beat of each node, without its words.
    heard: BTreeMap<NodeId, Last>,
    /// In the order in which they were heard: who was silent longest is forgotten first.
    order: BTreeMap<u64, NodeId>,
    /// Beats heard.
    arrived: u64,
}

/// The last that was heard of a node.
struct Last {
    count: u64,
    address: Address,
    /// Its place in the order.
    at: u64,
    /// Whether nobody had said before where it is: then that is forgotten with it.
    ours: bool,
}

struct HeardBeat {
    beat: Beat,
    /// Whether its node is new there, so that it has to be told where the others are.
    new: bool,
    /// Who was forgotten for it.
    gone: Option<NodeId>,
}

impl Beats {
    async fn say(&mut self, sender: &GossipSender, address: Address, words: Vec<u8>) {
        self.count = now_ms().max(self.count + 1);
        let beat = Signed::new(DOMAIN, &self.key, Beat { address, count: self.count, words });
        let _ = sender.broadcast(Bytes::from(beat.to_bytes())).await;
    }

    /// Where a node is was learned here first.
    fn found(&mut self, node: &NodeId) {
        if let Some(last) = self.heard.get_mut(node) {
            last.ours = true;
        }
    }

    /// What is new in a beat; `None` for an old one.
    fn hear(&mut self, bytes: &[u8], now_ms: u64) -> Result<Option<HeardBeat>, Reject> {
        let beat = Signed::<Beat>::from_bytes(bytes).map_err(|_| Reject::Malformed)?;
        if beat.by != beat.value.address.node || !beat.verify(DOMAIN) {
            return Err(Reject::BadSignature);
        }
        if beat.value.count > now_ms.saturating_add(AHEAD_MS) {
            return Err(Reject::Early);
        }
        let last = self.heard.get(&beat.by);
        if last.is_some_and(|last| last.count >= beat.value.count) {
            return Ok(None);
        }
        // A node that was restarted elsewhere has forgotten what it was told before.
        let new = last.is_none_or(|last| last.address != beat.value.address);
        let ours = last.is_some_and(|last| last.ours);
        if let Some(last) = last {
            self.order.remove(&last.at);
        }
        let mut gone = None;
        if self.heard.len() >= HEARD_MAX && last.is_none() {
            let oldest = self.order.pop_first().and_then(|(_, node)| Some((node, self.heard.remove(&node)?)));
            gone = oldest.filter(|(_, last)| last.ours).map(|(node, _)| node);
        }
        self.arrived += 1;
        self.order.insert(self.arrived, beat.by);
        let (count, address) = (beat.value.count, beat.value.address.clone());
        self.heard.insert(beat.by, Last { count, address, at: self.arrived, ours });
        Ok(Some(HeardBeat { beat: beat.value, new, gone }))
    }
}

/// Beats of a restarted node count on from the clock, so that they are newer than those before.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(secret: u8) -> Beats {
        let key = Keypair::from_secret([secret; 32]);
        Beats { key, count: 0, heard: BTreeMap::new(), order: BTreeMap::new(), arrived: 0 }
    }

    fn here(beats: &Beats) -> Address {
        Address { node: beats.key.id(), sockets: vec![], relay: None }
    }

    fn say(speaker: &Beats, address: &Address, count: u64) -> Vec<u8> {
        let beat = Beat { address: address.clone(), count, words: b"words".to_vec() };
        Signed::new(DOMAIN, &speaker.key, beat).to_bytes()
    }

    /// Whether a beat was news, and of a node that is new there.
    fn heard(hearer: &mut Beats, bytes: &[u8]) -> Result<Option<bool>, Reject> {
        hearer.hear(bytes, 1_000).map(|heard| heard.map(|heard| heard.new))
    }

    #[test]
    fn only_fresh_beats_of_the_node_itself_count() {
        let (mut hearer, speaker) = (beats(1), beats(2));
        let at = here(&speaker);
        let first = say(&speaker, &at, 1);
        assert_eq!(heard(&mut hearer, &first), Ok(Some(true)));
        assert_eq!(heard(&mut hearer, &first), Ok(None));
        assert_eq!(heard(&mut hearer, &say(&speaker, &at, 2)), Ok(Some(false)));
        let elsewhere = Address { sockets: vec![([127, 0, 0, 1], 9).into()], ..at.clone() };
        assert_eq!(heard(&mut hearer, &say(&speaker, &elsewhere, 3)), Ok(Some(true)), "restarted there");
        assert_eq!(heard(&mut hearer, &say(&speaker, &here(&beats(3)), 4)), Err(Reject::BadSignature));
        assert_eq!(heard(&mut hearer, &first[1..]), Err(Reject::Malformed));
        assert_eq!(heard(&mut hearer, &say(&speaker, &at, u64::MAX)), Err(Reject::Early));
    }

    #[test]
    fn who_was_silent_longest_is_forgotten_first() {
        let mut hearer = beats(0);
        let speaker = |i: usize| {
            let mut secret = [7; 32];
            secret[..8].copy_from_slice(&(i as u64).to_le_bytes());
            let key = Keypair::from_secret(secret);
            Beats { key, ..beats(0) }
        };
        for i in 0..HEARD_MAX {
            let one = speaker(i);
            let (at, address) = (1 + i as u64, here(&one));
            hearer.heard.insert(one.key.id(), Last { count: 1, address, at, ours: i != 2 });
            hearer.order.insert(at, one.key.id());
        }
        hearer.arrived = HEARD_MAX as u64;
        // The first one speaks again: the second is now the one that was silent longest.
        assert_eq!(heard(&mut hearer, &say(&speaker(0), &here(&speaker(0)), 900_000)), Ok(Some(false)));
        let new = speaker(HEARD_MAX);
        let gone = hearer.hear(&say(&new, &here(&new), 900_000), 1_000).expect("heard").expect("news").gone;
        assert_eq!(gone, Some(speaker(1).key.id()));
        let new = speaker(HEARD_MAX + 1);
        let gone = hearer.hear(&say(&new, &here(&new), 5), 1_000).expect("heard").expect("news").gone;
        assert_eq!(gone, None, "where that one is was known from elsewhere");
        assert_eq!((hearer.heard.len(), hearer.order.len()), (HEARD_MAX, HEARD_MAX));
    }
}
