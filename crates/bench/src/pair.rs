//! Two nodes, of which one asks the other.

use anyhow::{Result, ensure};
use ledger::Credits;
use market::Price;
use node::{Node, NodeConfig};
use serving::{Local, OfferConfig, Trade, TradeConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use trainer::Limits;

/// Two nodes: one serves, the other one asks it over the encrypted link.
pub(crate) struct Pair {
    pub(crate) provider: (Arc<Node>, Arc<Trade>),
    pub(crate) client: (Arc<Node>, Arc<Trade>),
    _stage: tempfile::TempDir,
}

impl Pair {
    pub(crate) async fn new(local: Local, price: Price, relays: Vec<node::RelayAddr>) -> Result<Self> {
        let stage = tempfile::tempdir()?;
        let offer = OfferConfig { public: true, price, accept: Vec::new() };
        let serves = TradeConfig { offer, ..TradeConfig::default() };
        let provider = start(&stage.path().join("provider"), local, serves, &relays).await?;
        let asks = TradeConfig { price, budget: Credits::whole(100), ..TradeConfig::default() };
        let client = start(&stage.path().join("client"), Local::default(), asks, &relays).await?;
        let ticket = provider.1.ticket(provider.1.networks()[0]);
        client.1.join(&ticket)?;
        ensure!(client.1.wait_for(None, Duration::from_secs(30)).await, "no offer came");
        Ok(Self { provider, client, _stage: stage })
    }

    pub(crate) async fn close(self) -> Result<()> {
        for (node, trade) in [self.client, self.provider] {
            trade.close().await;
            node.close().await?;
        }
        Ok(())
    }
}

pub(crate) async fn start(
    dir: &Path,
    local: Local,
    config: TradeConfig,
    relays: &[node::RelayAddr],
) -> Result<(Arc<Node>, Arc<Trade>)> {
    let node_config = NodeConfig {
        dir: dir.to_owned(),
        bind: ([127, 0, 0, 1], 0).into(),
        mdns: false,
        relays: relays.to_vec(),
        rates: (0, 0),
        minded: false,
        limits: Limits { threads: 1, duty_percent: 100 },
        device: "cpu".into(),
        eval_tokens: 0,
    };
    let node = Node::start(node_config).await?;
    let trade = node.trade(local, config).await?;
    Ok((node, trade))
}
