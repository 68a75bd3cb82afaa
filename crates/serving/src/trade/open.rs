//! How a node enters the market.

use super::{Trade, TradeConfig, names};
use crate::accounts::Accounts;
use crate::books::Books;
use crate::local::Local;
use crate::provider::Provider;
use anyhow::Result;
use base::{Hash, Keypair, Rng};
use net::Net;
use owner::OwnerSignal;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// An offer is said again this often, before it ends.
const OFFER_EVERY: Duration = Duration::from_secs(45);
const REDEEM_EVERY: Duration = Duration::from_secs(30);

/// What a node brings to the market.
pub struct TradeSetup {
    /// Its data folder.
    pub dir: PathBuf,
    /// Its key.
    pub key: Keypair,
    /// What answers are written on.
    pub device: String,
    /// The ways to peers.
    pub net: Arc<Net>,
    /// Its chains.
    pub accounts: Arc<dyn Accounts>,
    /// Answers that are written now.
    pub answering: Arc<AtomicU64>,
    /// Whether the owner needs the machine.
    pub rests: bool,
}

impl Trade {
    /// Takes part in the market: serves `local`, asks others for the rest. At most once in the life of a node.
    pub async fn open(setup: TradeSetup, local: Local, config: TradeConfig) -> Result<Arc<Self>> {
        let TradeSetup { dir, key, device, net, accounts, answering, rests } = setup;
        let accept = config.offer.accept.clone();
        let books = Arc::new(Books::open(&dir, accounts.clone(), key.id(), device, accept)?);
        let offer = config.offer.clone();
        let provider =
            Arc::new(Provider::new(local, Keypair::from_secret(key.secret()), offer, books.clone(), answering).await?);
        if rests {
            provider.tell(OwnerSignal::Rests);
        }
        net.answer(provider.clone());
        let seed = Hash::of("talkoo 2026 choice v1", &host::random_secret()?).seed();
        let pins = names::Pins::open(&dir);
        let trade = Arc::new(Self {
            net,
            key,
            dir,
            accounts,
            provider,
            books,
            index: Arc::default(),
            rng: Mutex::new(Rng::new(seed)),
            config,
            readers: Mutex::default(),
            topics: Mutex::default(),
            own: Mutex::default(),
            pins,
            allotting: tokio::sync::Mutex::default(),
            wanted: Mutex::default(),
            used: Mutex::default(),
            checks: Mutex::default(),
            counts: Mutex::default(),
            tasks: Mutex::default(),
            begun: Instant::now(),
        });
        trade.remember_own();
        for (chain, sources) in trade.accounts.chains() {
            trade.enter(chain, &sources);
        }
        let (renewing, redeeming) = (Arc::downgrade(&trade), Arc::downgrade(&trade));
        let mut tasks = trade.tasks.lock().expect("nobody panics while holding it");
        tasks.spawn(async move {
            let mut tick = tokio::time::interval(OFFER_EVERY);
            loop {
                tick.tick().await;
                let Some(trade) = renewing.upgrade() else { return };
                trade.renew();
            }
        });
        tasks.spawn(async move {
            let mut tick = tokio::time::interval(REDEEM_EVERY);
            loop {
                tick.tick().await;
                let Some(trade) = redeeming.upgrade() else { return };
                trade.redeem().await;
                trade.close_unused().await;
            }
        });
        drop(tasks);
        Ok(trade)
    }
}
