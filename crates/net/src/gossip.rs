//! Small signed messages to everybody in a topic: who is there, and where.
//!
//! A joiner knows one node from its ticket. Over the topic's overlay it tells everybody where it
//! is and learns where the others are, so that bulk transfers go straight from peer to peer. A node
//! that only listens tells nobody its key or its addresses.

use crate::overlay::{MESSAGE_MAX, Overlay};
use crate::ticket::Address;
use base::{Hash, Keypair, NodeId, Reader, Reject, Signed, Wire, WireError};
use bytes::Bytes;
use iroh::EndpointId;
use iroh_gossip::TopicId;
use iroh_gossip::api::{Event, GossipReceiver, GossipSender};
use n0_future::{Stream, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Domain of signatures on beats.
const DOMAIN: &str = "talkoo 2026 beat v2";
/// A node says where it is this often, and once more when it hears of somebody new or has something new to say.
const BEAT: Duration = Duration::from_secs(15);
/// But no more often than this: nobody makes others speak all the time.
const PAUSE: Duration = Duration::from_secs(1);
/// Nodes of a topic that are remembered.
const HEARD_MAX: usize = 16_384;
/// A node that was heard again after so long is known; keys made a moment ago do not push it out.
const KNOWN_AFTER_MS: u64 = 60_000;
/// Nodes that others named, such as validators, whom strangers do not push out.
const NAMED_MAX: usize = 1024;
/// Names keys of the moment, with which those who listen ask where the others are.
const GREETING: &str = "talkoo 2026 greeting v1";
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
    /// What this node says; when it changes, it is said at once. `None`: it only listens, and its key and addresses
    /// are told to nobody.
    pub words: watch::Receiver<Option<Vec<u8>>>,
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
pub(crate) struct Part<H, L, F, C> {
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
    /// With whom this node is connected now.
    pub(crate) connected: C,
}

/// Takes part until `stop`.
pub(crate) async fn take_part<H, L, F, C>(
    overlay: Overlay,
    part: Part<H, L, F, C>,
    mut moved: impl Stream<Item = ()> + Unpin,
    stop: CancellationToken,
) where
    H: Fn() -> Address,
    L: Fn(&Address) -> bool,
    F: Fn(&NodeId),
    C: Fn() -> Vec<NodeId>,
{
    let Part { topic, mut bootstrap, mut more, secret, here, learn, forget, connected } = part;
    let Topic { topic, mut words, hear } = topic;
    let Ok(subscribed) = overlay.subscribe(TopicId::from_bytes(topic.0)).await else { return };
    let (sender, mut receiver) = subscribed.split();
    bootstrap.iter().for_each(|peer| overlay.reach(*peer, &sender));
    let mut beats = Beats::new(Keypair::from_secret(secret));
    let mut named: BTreeSet<NodeId> = bootstrap.iter().take(NAMED_MAX).map(node).collect();
    beats.keep(&named, connected());
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
    let mut next_word = tokio::time::Instant::now();
    let (mut news, mut changes, mut greeted) = (true, true, false);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next_word), if news => {
                news = false;
                next_word = tokio::time::Instant::now() + PAUSE;
                let said = words.borrow_and_update().clone();
                match said {
                    Some(said) => beats.say(&sender, here(), said).await,
                    None if !greeted && receiver.neighbors().next().is_some() => {
                        greeted = true;
                        greet(&secret, &topic, &sender).await;
                    }
                    None => {}
                }
            }
            _ = tick.tick() => {
                news = true;
                let near = receiver.neighbors().map(|peer| node(&peer));
                beats.keep(&named, connected().into_iter().chain(near));
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
                for peer in peers {
                    if named.len() < NAMED_MAX {
                        named.insert(node(&peer));
                    }
                    if near.contains(&peer) {
                        continue;
                    }
                    if !bootstrap.contains(&peer) && bootstrap.len() < BOOTSTRAP_MAX {
                        bootstrap.push(peer);
                    }
                    overlay.reach(peer, &sender);
                }
            }
            event = next(&mut receiver) => match event {
                None => return,
                Some(Event::NeighborUp(_)) => news = true,
                // Too much of one neighbour is not judged.
                Some(Event::Received(message)) if !overlay.admit(message.delivered_from, message.content.len()) => {}
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

fn node(peer: &EndpointId) -> NodeId {
    NodeId(*peer.as_bytes())
}

/// Has everybody say where it is, without a word of who asks: whoever hears of somebody new speaks, and this is the
/// beat of a key of the moment, which is nowhere.
async fn greet(secret: &[u8; 32], topic: &Hash, sender: &GossipSender) {
    let seed = [secret.as_slice(), topic.0.as_slice(), &now_ms().to_le_bytes()].concat();
    let mut nobody = Beats::new(Keypair::from_secret(Hash::of(GREETING, &seed).0));
    let address = Address { node: nobody.key.id(), sockets: Vec::new(), relay: None };
    nobody.say(sender, address, Vec::new()).await;
}

async fn next(receiver: &mut GossipReceiver) -> Option<Event> {
    receiver.next().await?.ok()
}

struct Beats {
    key: Keypair,
    count: u64,
    /// The last beat of each node, without its words.
    heard: BTreeMap<NodeId, Last>,
    /// In the order in which they were heard, those that are not known yet and those that are: a stranger of a moment
    /// is forgotten before a known node, and of each kind who was silent longest.
    order: [BTreeMap<u64, NodeId>; 2],
    /// Beats heard.
    arrived: u64,
    /// Never forgotten: nodes that others named, and with whom this node is connected.
    kept: BTreeSet<NodeId>,
}

/// The last that was heard of a node.
struct Last {
    count: u64,
    address: Address,
    /// Its place in the order.
    at: u64,
    /// When it was first heard, by this node's clock.
    since_ms: u64,
    /// Whether it is known: it was heard again after a while.
    known: bool,
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
    fn new(key: Keypair) -> Self {
        let (heard, order, kept) = (BTreeMap::new(), Default::default(), BTreeSet::new());
        Self { key, count: 0, heard, order, arrived: 0, kept }
    }

    /// These are not forgotten, until it is said again.
    fn keep(&mut self, named: &BTreeSet<NodeId>, connected: impl IntoIterator<Item = NodeId>) {
        self.kept = named.iter().copied().chain(connected).collect();
    }

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
        let gone = if last.is_none() && self.heard.len() >= HEARD_MAX { Some(self.make_room()?) } else { None };
        let last = self.heard.remove(&beat.by);
        // A node that was restarted elsewhere has forgotten what it was told before.
        let new = last.as_ref().is_none_or(|last| last.address != beat.value.address);
        let ours = last.as_ref().is_some_and(|last| last.ours);
        let since_ms = last.as_ref().map_or(now_ms, |last| last.since_ms);
        if let Some(last) = &last {
            self.order[usize::from(last.known)].remove(&last.at);
        }
        let known = now_ms.saturating_sub(since_ms) >= KNOWN_AFTER_MS;
        self.arrived += 1;
        self.order[usize::from(known)].insert(self.arrived, beat.by);
        let (count, address) = (beat.value.count, beat.value.address.clone());
        self.heard.insert(beat.by, Last { count, address, at: self.arrived, since_ms, known, ours });
        Ok(Some(HeardBeat { beat: beat.value, new, gone: gone.flatten() }))
    }

    /// Forgets one for a new one; gives it where what is known of its place came from here. Where all are kept, there
    /// is no room.
    fn make_room(&mut self) -> Result<Option<NodeId>, Reject> {
        let free = |order: &BTreeMap<u64, NodeId>| {
            order.iter().find(|(_, node)| !self.kept.contains(*node)).map(|(at, node)| (*at, *node))
        };
        let (at, node) = self.order.iter().find_map(free).ok_or(Reject::Full)?;
        for order in &mut self.order {
            order.remove(&at);
        }
        Ok(self.heard.remove(&node).filter(|last| last.ours).map(|_| node))
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
        Beats::new(Keypair::from_secret([secret; 32]))
    }

    fn speaker(i: usize) -> Beats {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&(i as u64).to_le_bytes());
        Beats::new(Keypair::from_secret(secret))
    }

    /// Has heard of as many as it remembers, one after the other; the first `known` ones of them are known.
    fn full(known: usize) -> Beats {
        let mut hearer = beats(0);
        for i in 0..HEARD_MAX {
            let one = speaker(i);
            let (at, address) = (1 + i as u64, here(&one));
            let last = Last { count: 1, address, at, since_ms: 1_000, known: i < known, ours: i != 2 };
            hearer.heard.insert(one.key.id(), last);
            hearer.order[usize::from(i < known)].insert(at, one.key.id());
        }
        hearer.arrived = HEARD_MAX as u64;
        hearer
    }

    /// Who is forgotten for one that was never heard before.
    fn pushed_out(hearer: &mut Beats, i: usize) -> Result<Option<NodeId>, Reject> {
        let new = speaker(i);
        Ok(hearer.hear(&say(&new, &here(&new), 5), 1_000)?.expect("news").gone)
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
        let mut hearer = full(0);
        // The first one speaks again: the second is now the one that was silent longest.
        assert_eq!(heard(&mut hearer, &say(&speaker(0), &here(&speaker(0)), 900_000)), Ok(Some(false)));
        assert_eq!(pushed_out(&mut hearer, HEARD_MAX), Ok(Some(speaker(1).key.id())));
        assert_eq!(pushed_out(&mut hearer, HEARD_MAX + 1), Ok(None), "where that one is was known from elsewhere");
        assert_eq!((hearer.heard.len(), hearer.order[0].len()), (HEARD_MAX, HEARD_MAX));
    }

    #[test]
    fn a_flood_of_fresh_keys_pushes_out_neither_known_nor_named_nodes() {
        let known = 64;
        let mut hearer = full(known);
        // A validator that was silent for long, and one with whom there is a connection.
        let (validator, connected) = (speaker(known).key.id(), speaker(known + 1).key.id());
        hearer.keep(&BTreeSet::from([validator]), [connected]);
        for i in 0..256 {
            let gone = pushed_out(&mut hearer, HEARD_MAX + i);
            assert_eq!(gone, Ok(Some(speaker(known + 2 + i).key.id())), "a stranger goes");
        }
        assert!((0..known).all(|i| hearer.heard.contains_key(&speaker(i).key.id())));
        assert!([validator, connected].iter().all(|kept| hearer.heard.contains_key(kept)));
        hearer.keep(&hearer.heard.keys().copied().collect(), []);
        assert_eq!(pushed_out(&mut hearer, 2 * HEARD_MAX), Err(Reject::Full), "there is no stranger to forget");
    }

    #[test]
    fn a_node_that_is_heard_for_a_while_is_known() {
        let (mut hearer, speaker) = (beats(1), beats(2));
        let at = here(&speaker);
        let mut known = |count: u64, now: u64| {
            hearer.hear(&say(&speaker, &at, count), now).expect("heard");
            hearer.heard[&speaker.key.id()].known
        };
        assert!(!known(1, 1_000));
        assert!(!known(2, 16_000));
        assert!(known(3, 1_000 + KNOWN_AFTER_MS));
        assert_eq!((hearer.order[0].len(), hearer.order[1].len()), (0, 1));
    }
}
