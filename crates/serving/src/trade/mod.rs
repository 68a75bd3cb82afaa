//! This node in the market: offers what it serves, knows who offers what, and takes questions through to answers.

mod allotments;
mod asking;
mod attempt;
mod checking;
mod money;
mod names;
mod open;

pub use checking::Check;
pub use names::NET;
pub use open::TradeSetup;

use crate::accounts::Accounts;
use crate::books::{Answered, Books};
use crate::local::Local;
use crate::provider::{OfferConfig, Provider, Speeds};
use anyhow::Result;
use base::{Hash, Keypair, NodeId, Reject, Rng, Wire};
use gateway::{Answer, Answers, Asked};
use ledger::Credits;
use market::{Ask, AskInput, Index, ModelCard, Offers, Price, Reason};
use net::Net;
use owner::OwnerSignal;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How a node takes part in the market.
#[derive(Debug, Clone, Default)]
pub struct TradeConfig {
    /// What it offers.
    pub offer: OfferConfig,
    /// What it pays at most.
    pub price: Price,
    /// Credits that it may allot to providers by itself, in all, restarts counted.
    pub budget: Credits,
    /// Of 100 answers that were really asked for, how many are shown to a second provider to be checked.
    pub check_percent: u32,
    /// Names for which other machines may be asked where no model of this one has them, or where it fails.
    pub for_names: Vec<String>,
    /// Nobody but these is asked; empty: everybody.
    pub providers: Vec<NodeId>,
}

/// A provider of a model, for displays.
#[derive(Debug, Clone)]
pub struct ProviderStatus {
    /// Who.
    pub provider: NodeId,
    /// What it offers.
    pub offer: market::Offer,
}

/// This node in the market.
pub struct Trade {
    pub(crate) net: Arc<Net>,
    key: Keypair,
    /// The data folder.
    dir: PathBuf,
    pub(crate) accounts: Arc<dyn Accounts>,
    pub(crate) provider: Arc<Provider>,
    pub(crate) books: Arc<Books>,
    index: Arc<Mutex<Index>>,
    rng: Mutex<Rng>,
    config: TradeConfig,
    /// Who read the beginning of a conversation before, newest last.
    readers: Mutex<VecDeque<(Hash, NodeId)>>,
    /// Topics in which this node speaks, by chain.
    topics: Mutex<BTreeMap<Hash, Speaker>>,
    /// Names of the models that were served here, loaded or not.
    own: Mutex<BTreeSet<String>>,
    pins: names::Pins,
    /// One allotment at a time: two would be made for one need.
    allotting: tokio::sync::Mutex<()>,
    /// What answers that wait for one may cost, by chain and provider.
    wanted: Mutex<BTreeMap<(Hash, NodeId), u64>>,
    /// When a provider was last promised something on its allotment, since the start.
    used: Mutex<BTreeMap<(Hash, NodeId), Instant>>,
    counts: Mutex<Counts>,
    /// Verdicts of spot checks, by name.
    checks: Mutex<BTreeMap<&'static str, u64>>,
    tasks: Mutex<JoinSet<()>>,
    begun: Instant,
}

/// Questions of this node.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Given to somebody, this node itself included.
    asked: u64,
    /// To so many in all.
    tries: u64,
    /// Given to nobody: all that could be asked were known to be busy.
    refused: u64,
}

/// Providers of a model that are looked at to know what it takes.
const SEEN: usize = 64;

/// The topic of a network's offers.
fn topic(chain: &Hash) -> Hash {
    Hash::of("talkoo 2026 offers topic v1", &chain.0)
}

/// This node in one topic.
struct Speaker {
    words: watch::Sender<Option<Vec<u8>>>,
    more: net::More,
}

struct Ear {
    index: Arc<Mutex<Index>>,
    accounts: Arc<dyn Accounts>,
    chain: Hash,
    /// Whose offers are taken; empty: everybody's.
    only: Vec<NodeId>,
}

impl net::Hears for Ear {
    fn hear(&self, by: NodeId, words: &[u8]) {
        let mut index = self.index.lock().expect("nobody panics while holding it");
        match Offers::from_bytes(words) {
            // Members of a topic that serve nothing say nothing.
            _ if words.is_empty() => {}
            // Who is not known is never asked, by no way through this node.
            _ if !self.only.is_empty() && !self.only.contains(&by) => {}
            Ok(offers) if offers.0.iter().any(|offer| offer.chain != self.chain) => index.refuse(Reject::WrongChain),
            Ok(offers) => {
                let Some((bond, public)) = self.standing(&by) else {
                    // Whether this network demands a bond is not known yet: it will be said again.
                    if offers.0.iter().all(|offer| offer.price.is_free()) {
                        let _ = index.offer(crate::clock::clock(), by, offers.0, 0);
                    }
                    return;
                };
                if public && bond == 0 {
                    return index.refuse(Reject::Insufficient);
                }
                // A bond in one owner's books binds nobody.
                let bond = if public { bond } else { 0 };
                if let Err(reject) = index.offer(crate::clock::clock(), by, offers.0, bond) {
                    tracing::debug!(by = by.short(), %reject, "an offer was refused");
                }
            }
            Err(_) => index.refuse(Reject::Malformed),
        }
    }
}

impl Ear {
    /// The bond of a provider in whole credits, and whether the network demands one; none: the chain is not here yet.
    fn standing(&self, provider: &NodeId) -> Option<(u64, bool)> {
        let bond = self.accounts.bond(&self.chain, provider)?;
        Some((bond.0 / Credits::whole(1).0, self.accounts.validators(&self.chain)? >= 4))
    }
}

impl Trade {
    /// Speaks and listens on a network's topic, beginning with `peers`.
    fn enter(&self, chain: Hash, peers: &[NodeId]) {
        let mut topics = self.topics.lock().expect("nobody panics while holding it");
        if let Some(speaker) = topics.get(&chain) {
            return speaker.more.add(peers);
        }
        let (sender, words) = watch::channel(self.words(&chain));
        let only = self.config.providers.clone();
        let hear = Arc::new(Ear { index: self.index.clone(), accounts: self.accounts.clone(), chain, only });
        let more = self.net.speak(net::Topic { topic: topic(&chain), words, hear }, peers);
        topics.insert(chain, Speaker { words: sender, more });
    }

    /// Takes part in the network of a ticket: follows its chain, hears its offers, says one's own.
    pub fn join(&self, ticket: &net::Ticket) -> Result<()> {
        ticket.peers.iter().for_each(|address| self.net.know(address));
        self.accounts.enter(ticket)?;
        let peers: Vec<NodeId> = ticket.peers.iter().map(|address| address.node).collect();
        self.enter(ticket.chain, &peers);
        Ok(())
    }

    /// The ticket by which others find what is offered on a network of this node.
    pub fn ticket(&self, chain: Hash) -> net::Ticket {
        let run = Hash::default();
        let peers = vec![self.net.address()];
        self.accounts.fresh(&net::Ticket { chain, run, anchor: None, peers })
    }

    /// A node that only asks says nothing: not even its key and where it is.
    pub(crate) fn words(&self, chain: &Hash) -> Option<Vec<u8>> {
        // Credits of a network of one validator are worth what that one says: they buy nothing here.
        let sells = self.config.offer.price.is_free() || self.books.is_money(chain);
        (self.provider.is_public() && sells).then(|| self.provider.offers(*chain).to_bytes())
    }

    fn renew(&self) {
        // Chains of runs that were joined meanwhile, and their members.
        for (chain, sources) in self.accounts.chains() {
            self.enter(chain, &sources);
        }
        let topics = self.topics.lock().expect("nobody panics while holding it");
        for (chain, speaker) in topics.iter() {
            speaker.words.send_replace(self.words(chain));
        }
    }

    /// Serves more models, each in the place of the one of its name.
    pub async fn serve(&self, models: &Local) {
        for served in models.all() {
            self.provider.add(served).await;
        }
        self.remember_own();
        self.renew();
    }

    /// Whether others may ask them.
    pub fn offers(&self) -> bool {
        self.config.offer.public
    }

    /// Models of this machine that are served.
    pub fn serves(&self) -> usize {
        self.provider.local.all().len()
    }

    /// The owner needs the machine, or not: then whoever is answered for goes on elsewhere. The owner's own questions are
    /// answered as long as a model is there.
    pub fn told(&self, told: OwnerSignal) {
        if told == OwnerSignal::Sheds {
            self.provider.local.clear();
        }
        self.provider.tell(told);
        self.renew();
    }

    /// Providers of all models on offer.
    pub fn providers(&self) -> Vec<ProviderStatus> {
        let mut index = self.index.lock().expect("nobody panics while holding it");
        index.advance(crate::clock::clock());
        let models: Vec<Hash> = index.models().map(|(offer, _)| offer.model).collect();
        let all = models.iter().flat_map(|model| index.providers(model));
        all.map(|(provider, offer)| ProviderStatus { provider: *provider, offer: offer.clone() }).collect()
    }

    /// How questions of peers ended here, and what was refused, by reason.
    pub fn served(&self) -> BTreeMap<String, u64> {
        let index = self.index.lock().expect("nobody panics while holding it");
        let offers = index.refused().iter().map(|(reject, n)| (format!("offer_{}", reject.name()), n)).collect();
        let mut all: BTreeMap<String, u64> = offers;
        all.extend(self.provider.counts());
        all
    }

    /// Answers that are being written here.
    pub fn answering(&self) -> u64 {
        self.provider.stats.now()
    }

    /// What answers came to, by day since 1970, model and device.
    pub fn answered(&self) -> BTreeMap<(u64, String, String), Answered> {
        self.books.answered().unwrap_or_default()
    }

    /// The same all together, when the node was started.
    pub fn answered_before(&self) -> Answered {
        self.books.before()
    }

    /// Whether a model of this name is on this machine.
    pub fn is_local(&self, model: &str) -> bool {
        self.provider.local.named(model).is_some()
    }

    /// How much was answered here since the start, and how fast.
    pub fn speeds(&self) -> Speeds {
        self.provider.stats.speeds()
    }

    /// Questions that were given to somebody, and providers asked for them.
    pub fn asked(&self) -> (u64, u64) {
        let counts = *self.counts.lock().expect("nobody panics while holding it");
        (counts.asked, counts.tries)
    }

    /// Questions that ended here, before anybody was asked.
    pub fn refused(&self) -> u64 {
        self.counts.lock().expect("nobody panics while holding it").refused
    }

    /// Waits until somebody else offers a model, or `model` itself; whether that came in time.
    pub async fn wait_for(&self, model: Option<&str>, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let there = self.models().iter().any(|card| model.is_none_or(|name| name == card.name));
            if there || Instant::now() > deadline {
                return there;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A trade as the gateway asks it.
pub struct Asker(Arc<Trade>);

impl Trade {
    /// As the gateway asks it.
    pub fn asker(self: &Arc<Self>) -> Asker {
        Asker(self.clone())
    }

    /// What this node has promised to a provider on its last allotment.
    pub fn promised(&self, chain: &Hash, provider: &NodeId) -> Credits {
        self.books.promised(chain, provider)
    }

    /// The receipt of an answer, as JSON.
    pub fn receipt(&self, name: &str) -> Option<String> {
        self.books.receipt(name).ok().flatten()
    }

    /// Chains on which this node hears offers, that at home first.
    pub fn networks(&self) -> Vec<Hash> {
        let home = self.accounts.home();
        let topics = self.topics.lock().expect("nobody panics while holding it");
        let others = topics.keys().copied().filter(|chain| *chain != home);
        std::iter::once(home).chain(others).collect()
    }

    /// Redeems what clients have promised, and says that nothing is offered any more.
    pub async fn close(&self) {
        for speaker in self.topics.lock().expect("nobody panics while holding it").values() {
            // Whoever never offered anything has nothing to take back.
            speaker.words.send_if_modified(|words| {
                let said = words.as_mut().map(|words| *words = Offers::default().to_bytes());
                said.is_some()
            });
        }
        self.redeem().await;
        self.tasks.lock().expect("nobody panics while holding it").abort_all();
    }
}

impl Asker {
    fn served(&self, model: &str) -> Result<Arc<crate::local::Served>, Reason> {
        let local = self.0.provider.local.named(model);
        local.ok_or_else(|| match self.0.target(model) {
            Ok(_) => Reason::Unsupported {
                what: "model".into(),
                why: "it is served by others, and its vocabulary is not on this machine".into(),
            },
            Err(reason) => reason,
        })
    }
}

impl Answers for Asker {
    fn models(&self) -> Vec<ModelCard> {
        self.0.models()
    }

    fn unlisted(&self, model: &str) -> Reason {
        // One that came since is listed the next time.
        self.0.target(model).err().unwrap_or_else(|| Reason::Away(format!("`{model}` was not offered a moment ago")))
    }

    fn ask(&self, client: &[u8; 32], name: &str, ask: Ask) -> Asked<'_, Answer> {
        let (client, name) = (*client, name.to_owned());
        Box::pin(async move { self.0.answer(&client, &name, ask).await })
    }

    fn receipt(&self, name: &str) -> Option<String> {
        self.0.receipt(name)
    }

    fn embed(&self, model: &str, texts: Vec<AskInput>) -> Asked<'_, (Vec<Vec<f32>>, u64)> {
        let served = self.served(model);
        Box::pin(async move {
            let served = served?;
            let (mut vectors, mut read) = (Vec::new(), 0);
            for text in texts {
                let (vector, tokens) = served.embed(text).await?;
                vectors.push(vector);
                read += tokens;
            }
            Ok((vectors, read))
        })
    }

    fn tokenize(&self, model: &str, text: &str) -> Asked<'_, Vec<i32>> {
        let (served, text) = (self.served(model), text.to_owned());
        Box::pin(async move {
            let served = served?;
            let ids = tokio::task::spawn_blocking(move || served.tokens(&text)).await;
            ids.map_err(|_| Reason::Failed("the text could not be read".into()))?
        })
    }

    fn detokenize(&self, model: &str, ids: &[i32]) -> Asked<'_, String> {
        let text = self.served(model).map(|served| served.engine().detokenize(ids));
        Box::pin(async move { text })
    }
}
