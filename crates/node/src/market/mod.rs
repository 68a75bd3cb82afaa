//! This node in the market: what `serving` needs of it, and how other processes of its owner ask.

mod accounts;
mod ask;
mod share;

pub(crate) use ask::answer;
pub use ask::{AnswerStream, Said, tell};
pub(crate) use share::Shares;

use crate::Node;
use crate::view::panel::{FirstWord, ModelView, ServingView};
use accounts::NodeAccounts;
use anyhow::{Context, Result};
use serving::{Local, Trade, TradeConfig, TradeSetup};
use std::sync::{Arc, Weak};

/// What an owner is shown of it.
pub(crate) fn view(trade: &Trade) -> ServingView {
    let models = trade.models().into_iter().map(|card| ModelView {
        local: trade.is_local(&card.name),
        name: card.name,
        hash: card.hash.to_string(),
        context: card.context,
        providers: card.providers,
    });
    let speeds = trade.speeds();
    ServingView {
        models: models.collect(),
        asked: trade.asked().0 + trade.refused(),
        counts: trade.served().into_iter().collect(),
        checks: Some(trade.checks().into_iter().map(|(how, n)| (how.to_owned(), n)).collect()),
        tokens_in: speeds.tokens_in,
        tokens_out: speeds.tokens_out,
        first_ms: speeds.first_ms.map(|(p50, p95)| FirstWord { p50, p95 }),
        tokens_per_s: speeds.tokens_per_s,
        now: speeds.now,
    }
}

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
