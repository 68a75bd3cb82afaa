//! What a driver of runs needs of a chain.

use base::{Hash, NodeId, Reject};
use net::{BoxFuture, Ticket};
use swarm::{RunId, RunsState, SignedWorkTx, WorkBlock};
use tokio::sync::watch;

/// The order of one chain, as a driver of its runs needs it.
pub trait Log: Send + Sync + 'static {
    /// Names the chain.
    fn chain(&self) -> Hash;
    /// Members of a run, as far as the chain is here.
    fn members(&self, run: &RunId) -> Vec<NodeId>;
    /// Why the chain stands still here, if it does.
    fn trouble(&self) -> Option<String>;
    /// Changes when [`Self::trouble`] may have.
    fn changes(&self) -> watch::Receiver<Option<String>>;
    /// A ticket as it is now.
    fn fresh(&self, ticket: &Ticket) -> Ticket;
    /// Takes a signed transaction of work, or refuses it.
    fn submit(&self, tx: SignedWorkTx) -> Result<(), Reject>;
    /// Its height and what it says of runs, as soon as it is here; `None`: it never will be.
    fn state(&self) -> BoxFuture<'_, Option<(u64, RunsState)>>;
    /// What the final block at `height` says of runs, as soon as it is final; `None`: the chain ended.
    fn block(&self, height: u64) -> BoxFuture<'_, Option<WorkBlock>>;
}
