//! The links between validators, and how they find each other.

use super::Kept;
use base::{NodeId, Wire};
use net::{Net, Topic};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

impl Kept {
    /// Nodes of the seats.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.keeper.look(|orderer| {
            let (set, money) = (orderer.state().validators(), orderer.state().money());
            set.iter().filter_map(|key| Some(money.seat(key)?.node)).collect()
        })
    }

    /// Sends what the validator of this node has to say to the others.
    pub fn connect(&self, net: &Arc<Net>) {
        for seat in self.network.seats.iter().filter(|seat| seat.address.node != net.id()) {
            net.know(&seat.address);
        }
        let mut peers = self.nodes();
        peers.extend(self.network.seats.iter().map(|seat| seat.address.node));
        peers.retain(|node| *node != net.id());
        net.expect(self.network.genesis.chain(), peers.iter().copied().collect());
        if !peers.is_empty() {
            self.meet(net, &peers);
        }
        let Some(mut outgoing) = self.outgoing.lock().expect("nobody panics while holding it").take() else { return };
        // Founders are known before the first block.
        let founders = self.network.genesis.validators.iter().map(|founder| (founder.key, founder.node));
        let mut nodes: BTreeMap<NodeId, NodeId> = founders.collect();
        let (net, seats) = (net.clone(), self.keeper.seats());
        tokio::spawn(async move {
            let mut links = BTreeMap::new();
            while let Some((to, packet)) = outgoing.recv().await {
                let bytes = Arc::new(packet.to_bytes());
                for seat in to {
                    if !nodes.contains_key(&seat) {
                        nodes.extend(seats());
                    }
                    let Some(node) = nodes.get(&seat).filter(|node| **node != net.id()) else { continue };
                    let link = links.entry(*node).or_insert_with(|| net.link(*node));
                    // A link that does not keep up loses frames; the engine asks again.
                    let _ = link.send(bytes.clone());
                }
            }
        });
    }

    /// Hears where the validators are; says where this node is only while it has a seat.
    fn meet(&self, net: &Arc<Net>, peers: &[NodeId]) {
        let (me, seats, mut height) = (net.id(), self.keeper.seats(), self.keeper.height());
        let role = move || seats().iter().any(|(_, node)| *node == me).then(Vec::new);
        let (sender, words) = watch::channel(role());
        let (chain, validators, expecting) = (self.network.genesis.chain(), self.keeper.seats(), net.clone());
        net.speak(Topic { topic: self.network.genesis.chain(), words, hear: Arc::new(()) }, peers);
        tokio::spawn(async move {
            // Ends with the keeper.
            while height.changed().await.is_ok() {
                expecting.expect(chain, validators().into_iter().map(|(_, node)| node).collect());
                let now = role();
                sender.send_if_modified(|words| {
                    let changes = *words != now;
                    *words = now;
                    changes
                });
            }
        });
    }
}
