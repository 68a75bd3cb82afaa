//! Small signed messages to everybody in a topic: who is there, and where.
//!
//! A joiner knows one node from its ticket. Over the topic's overlay it tells everybody where it
//! is and learns where the others are, so that bulk transfers go straight from peer to peer.

use crate::ticket::Address;
use base::{Hash, Keypair, Reject, Signed, Wire, wire_struct};
use bytes::Bytes;
use iroh::EndpointId;
use iroh_gossip::api::{Event, GossipReceiver, GossipSender};
use iroh_gossip::{Gossip, TopicId};
use n0_future::{Stream, StreamExt};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Names the protocol and its version.
pub(crate) const ALPN: &[u8] = b"talkoo/gossip/2";
/// Domain of signatures on beats.
const DOMAIN: &str = "talkoo 2026 beat v1";
/// The longest message that is sent or taken.
pub(crate) const MESSAGE_MAX: usize = 4096;
/// A node says where it is this often, and once more when it hears of somebody new.
const BEAT: Duration = Duration::from_secs(15);
/// Nodes of a topic that are remembered.
const HEARD_MAX: usize = 4096;

/// Where a node is, said by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Beat {
    address: Address,
    /// Rises with every beat of a node; older ones are stale.
    count: u64,
}

wire_struct!(Beat { address, count });

/// What is talked about, with whom to begin, and the key of who speaks.
pub(crate) struct Topic {
    pub(crate) topic: Hash,
    pub(crate) bootstrap: Vec<EndpointId>,
    pub(crate) secret: [u8; 32],
}

/// Takes part in `topic` until `stop`: says where `here` is, calls `learn` with what others say.
pub(crate) async fn take_part(
    gossip: Gossip,
    topic: Topic,
    here: impl Fn() -> Address,
    mut moved: impl Stream<Item = ()> + Unpin,
    learn: impl Fn(&Address),
    stop: CancellationToken,
) {
    let Ok(subscribed) = gossip.subscribe(TopicId::from_bytes(topic.topic.0), topic.bootstrap).await else { return };
    let (sender, mut receiver) = subscribed.split();
    let mut beats = Beats { key: Keypair::from_secret(topic.secret), count: now_ms(), heard: BTreeMap::new() };
    let mut tick = tokio::time::interval(BEAT);
    loop {
        let news = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => true,
            Some(()) = moved.next() => true,
            event = next(&mut receiver) => match event {
                None => return,
                Some(Event::NeighborUp(_)) => true,
                Some(Event::Received(message)) => match beats.hear(&message.content) {
                    Ok(Some(address)) => {
                        learn(&address.0);
                        address.1
                    }
                    Ok(None) => false,
                    Err(reject) => {
                        tracing::debug!(%reject, "a beat was refused");
                        false
                    }
                },
                Some(_) => false,
            },
        };
        if news {
            beats.say(&sender, here()).await;
        }
    }
}

async fn next(receiver: &mut GossipReceiver) -> Option<Event> {
    receiver.next().await?.ok()
}

struct Beats {
    key: Keypair,
    count: u64,
    /// The last beat of each node.
    heard: BTreeMap<base::NodeId, (u64, Address)>,
}

impl Beats {
    async fn say(&mut self, sender: &GossipSender, address: Address) {
        self.count += 1;
        let beat = Signed::new(DOMAIN, &self.key, Beat { address, count: self.count });
        let _ = sender.broadcast(Bytes::from(beat.to_bytes())).await;
    }

    /// The address in a beat and whether its node is new there, so that it has to be told where the
    /// others are; `None` for an old one.
    fn hear(&mut self, bytes: &[u8]) -> Result<Option<(Address, bool)>, Reject> {
        let beat = Signed::<Beat>::from_bytes(bytes).map_err(|_| Reject::Malformed)?;
        if beat.by != beat.value.address.node || !beat.verify(DOMAIN) {
            return Err(Reject::BadSignature);
        }
        let last = self.heard.get(&beat.by);
        if last.is_some_and(|(count, _)| *count >= beat.value.count) {
            return Ok(None);
        }
        // A node that was restarted elsewhere has forgotten what it was told before.
        let new = last.is_none_or(|(_, address)| *address != beat.value.address);
        if last.is_none() && self.heard.len() >= HEARD_MAX {
            self.heard.pop_first();
        }
        self.heard.insert(beat.by, (beat.value.count, beat.value.address.clone()));
        Ok(Some((beat.value.address, new)))
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
        Beats { key, count: 0, heard: BTreeMap::new() }
    }

    fn here(beats: &Beats) -> Address {
        Address { node: beats.key.id(), sockets: vec![], relay: None }
    }

    #[test]
    fn only_fresh_beats_of_the_node_itself_count() {
        let (mut hearer, speaker) = (beats(1), beats(2));
        let say = |address: &Address, count| {
            Signed::new(DOMAIN, &speaker.key, Beat { address: address.clone(), count }).to_bytes()
        };
        let at = here(&speaker);
        let first = say(&at, 1);
        assert_eq!(hearer.hear(&first), Ok(Some((at.clone(), true))));
        assert_eq!(hearer.hear(&first), Ok(None));
        assert_eq!(hearer.hear(&say(&at, 2)), Ok(Some((at.clone(), false))));
        let elsewhere = Address { sockets: vec![([127, 0, 0, 1], 9).into()], ..at.clone() };
        assert_eq!(hearer.hear(&say(&elsewhere, 3)), Ok(Some((elsewhere.clone(), true))), "restarted there");
        assert_eq!(hearer.hear(&say(&here(&beats(3)), 4)), Err(Reject::BadSignature));
        assert_eq!(hearer.hear(&first[1..]), Err(Reject::Malformed));
    }
}
