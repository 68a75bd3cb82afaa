//! Submitting transactions, and what becomes of them.

use crate::Node;
use base::{Hash, NodeId};
use chain::Tx;
use replica::SpendError;

impl Node {
    /// What the next wallet transaction of `key` has to carry: the chain, and its running number.
    pub fn next_of(&self, network: Option<&str>, key: &NodeId) -> anyhow::Result<(Hash, u64)> {
        let kept = self.picked(network)?;
        Ok((kept.network.genesis.chain(), kept.next_number(key)))
    }

    /// Submits a wallet transaction of this node's own account; gives the height of the block it is final in.
    pub async fn spend(&self, network: Option<&str>, tx: ledger::WalletTx) -> Result<u64, SpendError> {
        self.spend_named(network, tx).await.map(|(height, _)| height)
    }

    /// The same; the transaction's hash, too.
    pub(crate) async fn spend_named(
        &self,
        network: Option<&str>,
        tx: ledger::WalletTx,
    ) -> Result<(u64, Hash), SpendError> {
        self.pick(network)?.spend(&self.shared.key, tx).await
    }

    /// Submits a transaction and waits until it is final.
    pub async fn say(&self, network: Option<&str>, tx: &Tx) -> Result<u64, SpendError> {
        self.pick(network)?.say(tx).await
    }
}
