//! Every chain of a node: the one at home, and those to which tickets led.

use crate::follow;
use crate::log::ChainLog;
use crate::own::Own;
use crate::wires::{PACKET_MAX, Packet};
use anyhow::Result;
use base::{Hash, NodeId, Reject, Wire};
use bytes::Bytes;
use chain::Anchor;
use net::{BoxFuture, Net, Ticket};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// Every chain of the node.
pub struct Chains {
    data: PathBuf,
    own: Own,
    /// The chain of the node's own network.
    pub home: Arc<ChainLog>,
    logs: Mutex<BTreeMap<Hash, Arc<ChainLog>>>,
    following: Mutex<tokio::task::JoinSet<()>>,
}

impl Chains {
    /// The chains of the data folder `data`, with that at home; others come as they are followed.
    pub fn new(data: &Path, home: ChainLog) -> Self {
        let own = home.own.clone();
        let home = Arc::new(home);
        let logs = Mutex::new(BTreeMap::from([(home.chain(), home.clone())]));
        Self { data: data.to_owned(), own, home, logs, following: Mutex::default() }
    }

    /// One of them, by its hash.
    pub fn get(&self, chain: &Hash) -> Option<Arc<ChainLog>> {
        self.logs.lock().expect("nobody panics while holding it").get(chain).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<ChainLog>> {
        self.logs.lock().expect("nobody panics while holding it").values().cloned().collect()
    }

    /// A ticket as it is now; where its chain is not here, as it was.
    pub fn fresh(&self, here: &net::Address, ticket: &Ticket) -> Ticket {
        self.get(&ticket.chain).map_or_else(|| ticket.clone(), |log| log.fresh(here, ticket))
    }

    /// The chain of a ticket, followed from now on.
    pub fn enter(
        &self,
        net: &Arc<Net>,
        chain: Hash,
        anchor: Option<Anchor>,
        stop: &CancellationToken,
    ) -> Result<Arc<ChainLog>> {
        let mut logs = self.logs.lock().expect("nobody panics while holding it");
        if let Some(log) = logs.get(&chain) {
            return Ok(log.clone());
        }
        let log = Arc::new(ChainLog::followed(&self.data, chain, anchor, self.own.clone())?);
        logs.insert(chain, log.clone());
        self.follow(log.clone(), net, stop);
        Ok(log)
    }

    /// Brings a chain here until `stop`.
    pub fn follow(&self, log: Arc<ChainLog>, net: &Arc<Net>, stop: &CancellationToken) {
        let mut following = self.following.lock().expect("nobody panics while holding it");
        following.spawn(follow::sync(log, net.clone(), stop.child_token()));
    }

    /// Waits until no chain is followed any more.
    pub async fn stopped(&self) {
        let mut following = std::mem::take(&mut *self.following.lock().expect("nobody panics while holding it"));
        while let Some(ended) = following.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a chain was not followed to the end");
            }
        }
    }
}

impl net::LogService for Chains {
    fn submit(&self, chain: &Hash, from: NodeId, tx: Vec<u8>) -> Result<(), Reject> {
        self.get(chain).ok_or(Reject::WrongChain)?.submit(&tx, Some(from))
    }

    fn block(&self, chain: Hash, height: u64) -> BoxFuture<'_, Option<(Bytes, Bytes)>> {
        Box::pin(async move {
            let (block, certificate) = self.get(&chain)?.kept()?.block(height).await?;
            Some((block.into(), certificate.into()))
        })
    }

    fn snapshot(&self, chain: Hash, anchor: Option<u64>) -> BoxFuture<'_, Option<(u64, Bytes)>> {
        Box::pin(async move { self.get(&chain)?.kept()?.snapshot_bytes(anchor).await.ok() })
    }
}

impl net::Listener for Chains {
    fn frame_max(&self, by: &NodeId) -> usize {
        if self.home.kept().is_some_and(|kept| kept.seat_of(by).is_some()) { PACKET_MAX } else { 0 }
    }

    fn take(&self, by: &NodeId, frame: Vec<u8>) {
        let Some(kept) = self.home.kept() else { return };
        let Some(seat) = kept.seat_of(by) else { return };
        match Packet::from_bytes(&frame) {
            Ok(packet) => {
                if kept.incoming.try_send((seat, packet)).is_err() {
                    kept.keeper.count(Reject::TooMany);
                }
            }
            Err(_) => kept.keeper.count(Reject::Malformed),
        }
    }
}
