//! The chains of a node as its market sees them.

use crate::Node;
use crate::shared::Shared;
use anyhow::{Context, Result};
use base::{Hash, NodeId};
use ledger::{Account, Allotment, Credits, WalletTx};
use net::{BoxFuture, Ticket};
use replica::Kept;
use serving::{Accounts, Unspent};
use std::sync::{Arc, Weak};
use std::time::Duration;

pub(crate) struct NodeAccounts {
    pub(crate) node: Weak<Node>,
    pub(crate) shared: Arc<Shared>,
}

impl NodeAccounts {
    fn node(&self) -> Result<Arc<Node>> {
        self.node.upgrade().context("the node is stopping")
    }

    fn kept(&self, chain: &Hash) -> Option<Arc<Kept>> {
        self.shared.chains.get(chain)?.kept()
    }
}

impl Accounts for NodeAccounts {
    fn home(&self) -> Hash {
        self.shared.chains.home.chain()
    }

    fn chains(&self) -> Vec<(Hash, Vec<NodeId>)> {
        let me = self.shared.net.id();
        self.shared.chains.all().iter().map(|log| (log.chain(), log.sources(&me))).collect()
    }

    fn enter(&self, ticket: &Ticket) -> Result<()> {
        let anchor = ticket.anchor.map(|(height, hash)| chain::Anchor { height, hash });
        let log = self.shared.chains.enter(&self.shared.net, ticket.chain, anchor, &self.node()?.stop)?;
        log.add_sources(ticket.peers.iter().map(|address| address.node));
        Ok(())
    }

    fn fresh(&self, ticket: &Ticket) -> Ticket {
        self.shared.chains.fresh(&self.shared.net.address(), ticket)
    }

    fn validators(&self, chain: &Hash) -> Option<usize> {
        Some(self.kept(chain)?.keeper.look(|orderer| orderer.state().validators().len()))
    }

    fn bond(&self, chain: &Hash, key: &NodeId) -> Option<Credits> {
        let bond = |orderer: &mut chain::Orderer| orderer.state().money().account(key).map(|account| account.bond);
        Some(self.kept(chain)?.keeper.look(bond).unwrap_or_default())
    }

    fn allotment(&self, chain: &Hash, client: &NodeId, payee: &NodeId) -> Option<Allotment> {
        let look =
            |orderer: &mut chain::Orderer| orderer.state().money().account(client)?.allotments.get(payee).copied();
        self.kept(chain)?.keeper.look(look)
    }

    fn account(&self, chain: &Hash) -> Result<Option<Account>> {
        let (kept, me) = (self.kept(chain).context("the chain has not arrived yet; try again")?, self.shared.net.id());
        Ok(kept.keeper.look(|orderer| orderer.state().money().account(&me).cloned()))
    }

    fn fee(&self, chain: &Hash) -> Result<Credits> {
        self.node()?.fee(Some(&chain.to_string()))
    }

    fn arrived(&self, chain: Hash, within: Duration) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let log = self.shared.chains.get(&chain);
            let log = log.ok_or("this node is not in the provider's network; --ticket joins it")?;
            match tokio::time::timeout(within, log.wait_kept()).await {
                Ok(_) => Ok(()),
                Err(_) => {
                    Err(log.trouble().unwrap_or_else(|| "the provider's chain has not arrived yet; try again".into()))
                }
            }
        })
    }

    fn spend(&self, chain: Hash, tx: WalletTx) -> BoxFuture<'_, Result<u64, Unspent>> {
        Box::pin(async move {
            let node = self.node().map_err(|error| Unspent { no_effect: true, why: format!("{error:#}") })?;
            let spent = node.spend(Some(&chain.to_string()), tx).await;
            spent.map_err(|error| Unspent { no_effect: error.has_no_effect(), why: format!("{error:#}") })
        })
    }
}
