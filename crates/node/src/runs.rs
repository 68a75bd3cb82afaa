//! The chains of this node as drivers of runs see them.

use base::{Hash, NodeId, Reject, Wire};
use chain::{Block, Tx};
use net::{BoxFuture, Net, Ticket};
use replica::ChainLog;
use std::sync::Arc;
use swarm::{RunId, RunsState, SignedWorkTx};
use tokio::sync::watch;
use trainer::Log;

/// A chain, and where this node is reached.
pub(crate) struct RunLog {
    pub(crate) log: Arc<ChainLog>,
    pub(crate) net: Arc<Net>,
}

impl Log for RunLog {
    fn chain(&self) -> Hash {
        self.log.chain()
    }

    fn members(&self, run: &RunId) -> Vec<NodeId> {
        self.log.members(run).collect()
    }

    fn trouble(&self) -> Option<String> {
        self.log.trouble()
    }

    fn changes(&self) -> watch::Receiver<Option<String>> {
        self.log.changes()
    }

    fn fresh(&self, ticket: &Ticket) -> Ticket {
        self.log.fresh(&self.net.address(), ticket)
    }

    fn submit(&self, tx: SignedWorkTx) -> Result<(), Reject> {
        self.log.submit(&Tx::Work { tx }.to_bytes(), None)
    }

    fn state(&self) -> BoxFuture<'_, Option<(u64, RunsState)>> {
        // One that failed counts: the driver ends with it.
        Box::pin(async move {
            let kept = self.log.wait_kept().await?;
            Some(kept.keeper.look(|orderer| (orderer.state().height(), orderer.state().runs().clone())))
        })
    }

    fn block(&self, height: u64) -> BoxFuture<'_, Option<swarm::WorkBlock>> {
        Box::pin(async move {
            let kept = self.log.wait_kept().await?;
            Some(Block::from_bytes(&kept.block(height).await?.0).ok()?.work())
        })
    }
}
