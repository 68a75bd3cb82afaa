//! What a market needs of the chains of its node.

use base::{Hash, NodeId};
use ledger::{Account, Allotment, Credits, WalletTx};
use net::{BoxFuture, Ticket};
use std::time::Duration;

/// Accounts on the chains that a node keeps or follows, and what it submits to them.
pub trait Accounts: Send + Sync + 'static {
    /// The chain at home.
    fn home(&self) -> Hash;
    /// All of them, each with the nodes that may be asked there.
    fn chains(&self) -> Vec<(Hash, Vec<NodeId>)>;
    /// Follows the chain of a ticket from now on.
    fn enter(&self, ticket: &Ticket) -> anyhow::Result<()>;
    /// A ticket as it is now.
    fn fresh(&self, ticket: &Ticket) -> Ticket;
    /// How many validate a chain; `None`: it is not here.
    fn validators(&self, chain: &Hash) -> Option<usize>;
    /// What an account has bonded; `None`: the chain is not here.
    fn bond(&self, chain: &Hash, key: &NodeId) -> Option<Credits>;
    /// What `client` has allotted to `payee`.
    fn allotment(&self, chain: &Hash, client: &NodeId, payee: &NodeId) -> Option<Allotment>;
    /// This node's own account, where it has one.
    fn account(&self, chain: &Hash) -> anyhow::Result<Option<Account>>;
    /// What a transaction costs.
    fn fee(&self, chain: &Hash) -> anyhow::Result<Credits>;
    /// Waits until a chain is here, or says why it is not.
    fn arrived(&self, chain: Hash, within: Duration) -> BoxFuture<'_, Result<(), String>>;
    /// Signs a transaction, submits it and waits until it is final: the height of its block.
    fn spend(&self, chain: Hash, tx: WalletTx) -> BoxFuture<'_, Result<u64, Unspent>>;
}

/// A transaction that is not final.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Unspent {
    /// Whether it certainly has no effect.
    pub no_effect: bool,
    /// What happened.
    pub why: String,
}
