//! The engine's network traits over plain channels: whoever owns the real connections moves [`Packet`]s.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use base::{Hash, NodeId, Reader, Wire, WireError};
use chain::{BLOCK_BYTES_MAX, CERTIFICATE_MAX, TX_BYTES_MAX, engine_key, node_of as node};
use commonware_actor::{Feedback, Unreliable};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{BlockedSubscription, Blocker, CheckedSender, LimitedSender, Message, Receiver, Recipients};
use commonware_runtime::{IoBuf, IoBufs};
use commonware_utils::channel::ring;
use commonware_utils::ordered::Set;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::sync::mpsc;

/// What validators send each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A message of the engine.
    Engine {
        /// Votes, certificates, or questions for certificates.
        channel: Channel,
        /// Of which set of validators.
        epoch: u64,
        /// The engine's own encoding.
        bytes: Vec<u8>,
    },
    /// An encoded block.
    Block(Vec<u8>),
    /// Asks for a block.
    Ask(Hash),
    /// An encoded transaction.
    Tx(Vec<u8>),
    /// Asks what ended an epoch.
    End(u64),
    /// A certificate: that a block is final.
    Final(Vec<u8>),
}

/// The engine's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Votes.
    Votes,
    /// Certificates.
    Certificates,
    /// Questions for certificates.
    Questions,
}

/// A packet is at most this long.
pub const PACKET_MAX: usize = BLOCK_BYTES_MAX + 64;
/// Messages of the engine that wait to be taken.
const QUEUE: usize = 4096;
/// An engine's message is at most this long.
const ENGINE_MAX: usize = 1 << 18;

impl Wire for Packet {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Engine { channel, epoch, bytes } => {
                out.push(*channel as u8);
                (*epoch, bytes.clone()).encode(out);
            }
            Self::Block(bytes) => {
                out.push(3);
                bytes.encode(out);
            }
            Self::Ask(hash) => {
                out.push(4);
                hash.encode(out);
            }
            Self::Tx(bytes) => {
                out.push(5);
                bytes.encode(out);
            }
            Self::End(epoch) => {
                out.push(6);
                epoch.encode(out);
            }
            Self::Final(bytes) => {
                out.push(7);
                bytes.encode(out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let channel = match <u8 as Wire>::decode(input)? {
            0 => Channel::Votes,
            1 => Channel::Certificates,
            2 => Channel::Questions,
            3 => return Ok(Self::Block(input.bytes(BLOCK_BYTES_MAX)?.to_vec())),
            4 => return Ok(Self::Ask(Wire::decode(input)?)),
            5 => return Ok(Self::Tx(input.bytes(TX_BYTES_MAX)?.to_vec())),
            6 => return Ok(Self::End(Wire::decode(input)?)),
            7 => return Ok(Self::Final(input.bytes(CERTIFICATE_MAX)?.to_vec())),
            _ => return Err(WireError::Invalid("kind of packet")),
        };
        let epoch = <u64 as Wire>::decode(input)?;
        Ok(Self::Engine { channel, epoch, bytes: input.bytes(ENGINE_MAX)?.to_vec() })
    }
}

/// Packets on their way out, each with whom it is for.
pub type Outgoing = mpsc::UnboundedSender<(Vec<NodeId>, Packet)>;

/// One of the engine's channels, outgoing.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    channel: Channel,
    epoch: u64,
    peers: Arc<[PublicKey]>,
    out: Outgoing,
}

pub(crate) struct Checked {
    sender: Sender,
    to: Vec<PublicKey>,
}

impl LimitedSender for Sender {
    type PublicKey = PublicKey;
    type Checked<'a> = Checked;

    fn check(&mut self, recipients: Recipients<PublicKey>) -> Result<Checked, SystemTime> {
        let to = match recipients {
            Recipients::All => self.peers.to_vec(),
            Recipients::Some(some) => some,
            Recipients::One(one) => vec![one],
        };
        Ok(Checked { sender: self.clone(), to })
    }
}

impl CheckedSender for Checked {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        self.to.clone()
    }

    fn send(self, message: impl Into<IoBufs> + Send, _priority: bool) -> Unreliable<Feedback> {
        let bytes = message.into().coalesce().as_ref().to_vec();
        let packet = Packet::Engine { channel: self.sender.channel, epoch: self.sender.epoch, bytes };
        let sent = self.sender.out.send((self.to.iter().map(node).collect(), packet));
        Unreliable::new(if sent.is_ok() { Feedback::Ok } else { Feedback::Closed })
    }
}

/// One of the engine's channels, incoming. It stays open while the engine lives.
#[derive(Debug)]
pub(crate) struct Incoming {
    messages: mpsc::Receiver<(PublicKey, IoBuf)>,
    _open: mpsc::Sender<(PublicKey, IoBuf)>,
}

/// The channel is gone.
#[derive(Debug, thiserror::Error)]
#[error("the channel is closed")]
pub(crate) struct Gone;

impl Receiver for Incoming {
    type Error = Gone;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<Message<PublicKey>, Gone> {
        self.messages.recv().await.ok_or(Gone)
    }

    fn capacity(&self) -> NonZeroUsize {
        NonZeroUsize::new(QUEUE).expect("not zero")
    }
}

/// Where packets for the engine go in.
#[derive(Clone)]
pub(crate) struct Inlet {
    epoch: u64,
    channels: [mpsc::Sender<(PublicKey, IoBuf)>; 3],
    blocked: Blocked,
}

impl Inlet {
    /// Hands a message of `from` to the engine; of another epoch or of one that was blocked it is dropped.
    pub(crate) fn take(&self, from: &NodeId, channel: Channel, epoch: u64, bytes: Vec<u8>) {
        let Some(key) = engine_key(from).filter(|key| epoch == self.epoch && !self.blocked.has(key)) else { return };
        // A full queue drops: votes are repeated.
        let _ = self.channels[channel as usize].try_send((key, IoBuf::from(bytes)));
    }
}

/// Both ends of the engine's channels.
pub(crate) fn wires(
    peers: Vec<PublicKey>,
    epoch: u64,
    out: &Outgoing,
    blocked: Blocked,
) -> ([(Sender, Incoming); 3], Inlet) {
    let peers: Arc<[PublicKey]> = peers.into();
    let made = [Channel::Votes, Channel::Certificates, Channel::Questions].map(|channel| {
        let (inlet, messages) = mpsc::channel(QUEUE);
        let sender = Sender { channel, epoch, peers: peers.clone(), out: out.clone() };
        ((sender, Incoming { messages, _open: inlet.clone() }), inlet)
    });
    let channels = made.each_ref().map(|(_, inlet)| inlet.clone());
    (made.map(|(ends, _)| ends), Inlet { epoch, channels, blocked })
}

/// Peers that sent what no honest one sends; for as long as this process lives.
#[derive(Clone, Default)]
pub(crate) struct Blocked {
    inner: Arc<Mutex<BlockedInner>>,
}

#[derive(Default)]
struct BlockedInner {
    peers: BTreeSet<PublicKey>,
    watchers: Vec<ring::Sender<Set<PublicKey>>>,
}

impl Blocked {
    fn has(&self, key: &PublicKey) -> bool {
        self.lock().peers.contains(key)
    }

    /// Who is blocked.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.lock().peers.iter().map(node).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BlockedInner> {
        self.inner.lock().expect("nobody panics while holding it")
    }
}

impl Blocker for Blocked {
    type PublicKey = PublicKey;

    fn block(&mut self, peer: PublicKey) -> Feedback {
        tracing::warn!(peer = %node(&peer).short(), "a validator is blocked");
        let mut inner = self.lock();
        inner.peers.insert(peer);
        let now = Set::from_iter_dedup(inner.peers.iter().cloned());
        inner.watchers.retain(|watcher| watcher.send_lossy(now.clone()));
        Feedback::Ok
    }

    fn blocked(&mut self) -> BlockedSubscription<PublicKey> {
        let (sender, receiver) = ring::channel(NonZeroUsize::MIN);
        let mut inner = self.lock();
        sender.send_lossy(Set::from_iter_dedup(inner.peers.iter().cloned()));
        inner.watchers.push(sender);
        receiver
    }
}
