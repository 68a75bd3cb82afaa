//! This node in the market: what `serving` needs of it, and how other processes of its owner ask.

mod accounts;
mod ask;
mod share;

pub(crate) use ask::answer;
pub use ask::{AnswerStream, Said, tell};
pub(crate) use share::Shares;

use crate::Node;
use accounts::NodeAccounts;
use anyhow::{Context, Result};
use serving::{Local, Trade, TradeConfig, TradeSetup};
use std::sync::{Arc, Weak};

impl Node {
    /// Takes part in the market: serves `local`, asks others for the rest. At most once in the life of a node.
    pub async fn trade(self: &Arc<Self>, local: Local, config: TradeConfig) -> Result<Arc<Trade>> {
        let shared = &self.shared;
        let setup = TradeSetup {
            dir: shared.store.dir().to_owned(),
            key: base::Keypair::from_secret(shared.key.secret()),
            device: shared.device.clone(),
            net: shared.net.clone(),
            accounts: Arc::new(NodeAccounts { node: Arc::downgrade(self), shared: shared.clone() }),
            answering: shared.answers.clone(),
            rests: *shared.duty.borrow() == 0,
        };
        let trade = Trade::open(setup, local, config).await?;
        let _ = self.trade.set(Arc::downgrade(&trade));
        Ok(trade)
    }

    /// This node's part in the market.
    pub(crate) fn in_market(&self) -> Result<Arc<Trade>> {
        let trade = self.trade.get().and_then(Weak::upgrade);
        trade.context("the node that runs here asks and serves nobody; `talkoo up` and `talkoo serve` do")
    }
}
