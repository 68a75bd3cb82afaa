//! The chain that this node keeps: that of the network it has a seat in, or one of its own with one
//! validator, made on first use. The latter is its owner's own book-keeping; with four validators and more
//! the same path is nobody's.

use crate::network::{NetworkFile, private};
use crate::store::Store;
use anyhow::Result;
use base::{Hash, NodeId, Reject, Wire};
use bytes::Bytes;
use chain::{Connections, Disk, PACKET_MAX, Packet, Timing, Validator, ValidatorConfig};
use net::Net;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The chain of this node.
pub(crate) struct ChainLog {
    store: Arc<Store>,
    validator: Validator,
    network: NetworkFile,
    /// Packets of other validators on their way in.
    incoming: mpsc::Sender<(NodeId, Packet)>,
    /// Whose seat a node has.
    seats: BTreeMap<NodeId, NodeId>,
}

/// Packets on their way out, and whom they are for.
pub(crate) type Outgoing = mpsc::UnboundedReceiver<(Vec<NodeId>, Packet)>;

/// Packets that wait to be taken.
const QUEUE: usize = 4096;

impl ChainLog {
    /// Goes on with the chain on disk, or begins one whose first credits are `owner`'s.
    pub(crate) fn open(store: Arc<Store>, owner: NodeId) -> Result<(Self, Outgoing)> {
        let seat = store.secret("seat")?;
        let network = match NetworkFile::of(&store)? {
            Some(network) => network,
            None => {
                let network = private(owner, seat.id());
                network.put(&store)?;
                network
            }
        };
        let (out, outgoing) = mpsc::unbounded_channel();
        let (incoming, packets) = mpsc::channel(QUEUE);
        let genesis = network.genesis.clone();
        let timing = Timing::of(genesis.validators.len());
        let journal = store.dir().join("consensus");
        let config = ValidatorConfig { genesis, key: seat, journal, disk: store.clone(), timing };
        let validator = Validator::start(config, Connections { out, incoming: packets })?;
        let seats = network.seats.iter().map(|seat| (seat.address.node, seat.key)).collect();
        Ok((Self { store, validator, network, incoming, seats }, outgoing))
    }

    /// Names the chain.
    pub(crate) fn chain(&self) -> Hash {
        self.network.genesis.chain()
    }

    /// Why the chain stands still, if it does.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.validator.trouble()
    }

    /// The chain itself.
    pub(crate) fn validator(&self) -> &Validator {
        &self.validator
    }

    /// Sends what the validator has to say to the others.
    pub(crate) fn connect(&self, net: &Net, mut outgoing: Outgoing) {
        let others = self.network.seats.iter().filter(|seat| seat.address.node != net.id());
        let mut links = BTreeMap::new();
        for seat in others {
            net.know(&seat.address);
            links.insert(seat.key, net.link(seat.address.node));
        }
        if links.is_empty() {
            return;
        }
        let peers: Vec<NodeId> = self.network.seats.iter().map(|seat| seat.address.node).collect();
        net.meet(self.chain(), &peers);
        tokio::spawn(async move {
            while let Some((to, packet)) = outgoing.recv().await {
                let bytes = Arc::new(packet.to_bytes());
                for link in to.iter().filter_map(|seat| links.get(seat)) {
                    // A link that does not keep up loses frames; the engine asks again.
                    let _ = link.try_send(bytes.clone());
                }
            }
        });
    }
}

impl net::LogService for ChainLog {
    fn submit(&self, _from: NodeId, tx: Vec<u8>) -> Result<(), Reject> {
        self.validator.submit(&tx)
    }

    fn block(&self, height: u64) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send + '_>> {
        Box::pin(async move {
            let mut heights = self.validator.height();
            heights.wait_for(|newest| *newest >= height).await.ok()?;
            tokio::task::block_in_place(|| self.store.block(height)).ok().flatten().map(Bytes::from)
        })
    }
}

impl net::Listener for ChainLog {
    fn frame_max(&self, by: &NodeId) -> usize {
        if self.seats.contains_key(by) { PACKET_MAX } else { 0 }
    }

    fn take(&self, by: &NodeId, frame: Vec<u8>) {
        let Some(seat) = self.seats.get(by) else { return };
        match Packet::from_bytes(&frame) {
            Ok(packet) => {
                if self.incoming.try_send((*seat, packet)).is_err() {
                    self.validator.count(Reject::TooMany);
                }
            }
            Err(_) => self.validator.count(Reject::Malformed),
        }
    }
}
