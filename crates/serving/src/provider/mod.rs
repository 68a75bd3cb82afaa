//! Answers the questions of peers, and of this node itself, with the models of this machine.

mod frames;
mod gate;
mod lines;
mod link;
mod paying;
mod stats;
mod trial;
mod writing;

use crate::books::{Answered, Books};
use crate::local::{Local, Ready, Served};
use base::{Hash, Keypair, Millis, NodeId, Reject, RejectCounts, Wire};
use engine::Pace;
use frames::{Break, send};
use gate::Gate;
use ledger::Credits;
use lines::{Asker, Lines, is_backed, line_of, stranger_of};
use market::{AnswerWriter, CHUNK, Frame, OFFER_MS, Offer, Offers, Price, Reason, Request, Runtime, Say, Terms, Tier};
use owner::OwnerSignal;
use paying::Paying;
use stats::ServingStats;
pub use stats::Speeds;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// What is asked for serving.
#[derive(Debug, Clone, Default)]
pub struct OfferConfig {
    /// Whether others are told, and may ask.
    pub public: bool,
    /// What it costs them.
    pub price: Price,
    /// Chains whose credits pay for it, beside the own and those that four and more validate.
    pub accept: Vec<Hash>,
}

/// The models of this machine, and those who may ask.
pub(crate) struct Provider {
    pub(crate) local: Local,
    key: Keypair,
    config: OfferConfig,
    books: Arc<Books>,
    class: String,
    refused: Mutex<RejectCounts>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    since: Millis,
    desks: Mutex<BTreeMap<Hash, ModelQueue>>,
    pub(crate) stats: ServingStats,
    /// The owner needs the machine: others are told so, and go on elsewhere.
    told: watch::Sender<OwnerSignal>,
    payers: Semaphore,
    strangers: Lines,
    /// Questions of others whose tokens are being counted.
    reading: Arc<Semaphore>,
    /// The same of grammars of others' questions.
    pub(crate) shaping: Arc<Semaphore>,
}

/// What a provider knows of a model that it serves.
struct ModelQueue {
    /// Tokens a second, of questions and of one answer.
    rates: (u32, u32),
    /// Its places, with those who wait for one.
    gate: Arc<Gate>,
}

/// A client pays what it owes within this.
pub(super) const PAY_WITHIN: Duration = Duration::from_secs(5);
/// Questions that wait to be paid, of clients with an allotment and of others; and of others from one network.
const PAYERS: usize = 64;
const STRANGERS: usize = 64;
const STRANGERS_EACH: usize = 4;
/// Questions of others that are rendered and tokenised at a time: it costs time before anything is paid.
const READING: usize = 4;
const SHAPING: usize = 2;
/// What was written is read within this after the engine has ended.
const READ_AFTER: Duration = Duration::from_secs(60);
/// Frames that wait for a slow reader; then its answer waits too.
pub(super) const FRAMES: usize = 64;

impl Provider {
    pub(crate) async fn new(
        local: Local,
        key: Keypair,
        config: OfferConfig,
        books: Arc<Books>,
        answering: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let class = format!("talkoo {} {}", env!("CARGO_PKG_VERSION"), engine::class());
        let (refused, counts) = Default::default();
        let (payers, strangers) = (Semaphore::new(PAYERS), Lines::new(STRANGERS, STRANGERS_EACH));
        let (reading, shaping) = (Arc::new(Semaphore::new(READING)), Arc::new(Semaphore::new(SHAPING)));
        let (desks, stats) = (Mutex::default(), ServingStats::new(answering));
        let told = watch::Sender::new(OwnerSignal::Works);
        let provider = Self {
            local,
            key,
            config,
            books,
            class,
            refused,
            counts,
            since: crate::clock::clock(),
            desks,
            stats,
            told,
            payers,
            strangers,
            reading,
            shaping,
        };
        for served in provider.local.all() {
            provider.open(&served).await;
        }
        Ok(provider)
    }

    /// Serves another model.
    pub(crate) async fn add(&self, served: Arc<Served>) {
        self.open(&served).await;
        self.local.put(served);
    }

    /// A desk for a model, at which its places are handed out.
    async fn open(&self, served: &Arc<Served>) {
        let rates = trial::measure(served).await;
        let gate = Arc::new(Gate::new(places(served)));
        let mut desks = self.desks.lock().expect("nobody panics while holding it");
        desks.retain(|model, _| self.local.of(model).is_some());
        desks.insert(served.card().hash, ModelQueue { rates, gate });
    }

    /// Nothing new is taken of others unless it works for them, and nothing is answered while the owner needs the machine.
    pub(crate) fn tell(&self, told: OwnerSignal) {
        self.told.send_replace(told);
    }

    /// Whether peers are told of the models.
    pub(crate) fn is_public(&self) -> bool {
        self.config.public && *self.told.borrow() == OwnerSignal::Works && !self.local.all().is_empty()
    }

    /// What is offered on a chain, for the next minutes.
    pub(crate) fn offers(&self, chain: Hash) -> Offers {
        // Embeddings are for this machine's own clients: the protocol between peers carries answers only.
        let models = self.local.all().into_iter().filter(|served| !served.engine().info().embeds);
        Offers(models.take(market::OFFERS_MAX).map(|served| self.offer(chain, &served)).collect())
    }

    /// The same of one model.
    pub(crate) fn offer(&self, chain: Hash, served: &Served) -> Offer {
        let (info, card) = (served.engine().info(), served.card());
        let desks = self.desks.lock().expect("nobody panics while holding it");
        let (prompt_rate, decode_rate) = desks.get(&card.hash).map_or((1, 1), |desk| desk.rates);
        Offer {
            chain,
            model: card.hash,
            name: name_of(card),
            quantisation: info.quantisation.clone(),
            context: u32::try_from(card.context).unwrap_or(u32::MAX),
            tools: card.tools,
            price: self.config.price,
            tier: Tier::Open,
            slots: u16::try_from(places(served)).unwrap_or(u16::MAX),
            prompt_rate,
            decode_rate,
            since: self.since,
            until: crate::clock::clock().plus(OFFER_MS),
        }
    }

    /// What was refused of peers, and how questions ended, by reason.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let refused = self.refused.lock().expect("nobody panics while holding it");
        let counts = self.counts.lock().expect("nobody panics while holding it");
        let mut all: BTreeMap<String, u64> = refused.iter().map(|(reject, n)| (reject.name().to_owned(), n)).collect();
        // Answers that were not paid and questions that were not have one name.
        counts.iter().for_each(|(name, n)| *all.entry((*name).to_owned()).or_default() += n);
        all
    }

    fn gate(&self, model: &Hash) -> Option<Arc<Gate>> {
        self.desks.lock().expect("nobody panics while holding it").get(model).map(|desk| desk.gate.clone())
    }

    pub(super) fn refuse(&self, reject: Reject) {
        self.refused.lock().expect("nobody panics while holding it").add(reject);
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.counts.lock().expect("nobody panics while holding it").entry(what).or_default() += 1;
    }

    /// Answers a question of the owner: nothing is paid. Frames go to `out` until the answer ends or nobody takes them any
    /// more.
    pub(crate) async fn answer(
        &self,
        by: NodeId,
        request: Request,
        out: mpsc::Sender<Frame>,
        says: mpsc::Receiver<Say>,
    ) {
        self.answer_to(Asker { by, origin: None, room: None }, request, out, says).await;
    }

    /// The same of a peer beside this machine.
    pub(crate) async fn answer_near(
        &self,
        by: NodeId,
        request: Request,
        out: mpsc::Sender<Frame>,
        says: mpsc::Receiver<Say>,
    ) {
        self.answer_to(Asker { by, origin: Some(net::Origin::Near), room: None }, request, out, says).await;
    }

    /// The same of anybody.
    async fn answer_to(&self, asker: Asker, request: Request, out: mpsc::Sender<Frame>, mut says: mpsc::Receiver<Say>) {
        let by = asker.by;
        let model = self.local.of(&request.model);
        let mut paying = None;
        // Whoever asks knows from here on that the question was heard: if nothing follows, it may be why.
        let _ = out.try_send(Frame::Alive {});
        let outcome = tokio::select! {
            outcome = self.try_answer(asker, request, &out, &mut says, &mut paying) => Some(outcome),
            () = out.closed() => None,
            () = self.needed(&by) => Some(Err(Reason::Owner("its owner needs the machine".into()).into())),
        };
        let unpaid = matches!(outcome, Some(Err(Break::Why(Reason::Unpaid(_)))));
        match outcome {
            None | Some(Err(Break::Left)) => self.count("cancelled"),
            Some(Ok(())) => {
                self.count("answered");
                let own = u64::from(by == self.key.id());
                if let Some(model) = &model {
                    self.books.count(&model.card().name, Answered { earned_micro: 0, own, others: 1 - own });
                }
            }
            Some(Err(Break::Why(reason))) => {
                self.count(name(&reason));
                // Who does not read does not read this either.
                let _ = out.try_send(Frame::Refused { reason });
            }
        }
        drop((out, model));
        // An answer is paid after its end, and as far as it came where it broke off.
        if let Some(paying) = paying.filter(|_| !unpaid) {
            self.last_words(&paying, &mut says).await;
            // Remembered by what it owes.
            if paying.owed() > Credits::ZERO {
                self.refuse(Reject::Unpaid);
            }
        }
    }

    /// Waits until the owner needs the machine; never for the owner's own questions.
    async fn needed(&self, by: &NodeId) {
        let mut told = self.told.subscribe();
        let rests = |told: &OwnerSignal| matches!(told, OwnerSignal::Rests | OwnerSignal::Sheds);
        if *by == self.key.id() || told.wait_for(rests).await.is_err() {
            std::future::pending().await
        }
    }

    async fn try_answer(
        &self,
        asker: Asker,
        request: Request,
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
        account: &mut Option<Paying>,
    ) -> Result<(), Break> {
        let by = asker.by;
        // A grammar takes longer than a text: these wait for each other, and no other question for them.
        let shaped = asker.origin.is_some() && request.ask.sampling.format != market::AnswerFormat::Free;
        let own = by == self.key.id();
        let served = self.local.of(&request.model).ok_or_else(|| Reason::Model(request.ask.model.clone()))?;
        let price = if own { Price::default() } else { self.config.price };
        let money = price.is_free() || self.books.is_money(&request.chain);
        if !own && (!self.config.public || request.price != price || !money) {
            return Err(Reason::Price.into());
        }
        let info = served.engine().info();
        let unknown = || Reason::Model(request.ask.model.clone());
        let gate = self.gate(&request.model).ok_or_else(unknown)?;
        let busy = || Reason::Busy(gate.again_ms());
        // What is set aside on a chain of somebody's own costs nothing.
        let counts = !price.is_free() || self.books.is_home(&request.chain);
        let allotted = self.books.allotted(&request.chain, &by, &self.key.id());
        let known = counts && allotted.is_some_and(|allotted| is_backed(&allotted, price));
        let line = line_of(&asker, known);
        // Whoever pays gets a place when it has paid, and whose question has a shape when that is made; the owner has the
        // engine's own queue.
        let at_once = price.is_free() && !shaped;
        let mut place = match () {
            () if own => None,
            () if at_once => Some(gate.knock(line, false).ok_or_else(busy)?),
            () if gate.has_room(&line) => None,
            () => return Err(busy().into()),
        };
        // Reading and shapes take time before anything is paid: until then a question holds a place of those that have not.
        // Those of whom the chain knows nothing yet have places of their own.
        let unpaid = match () {
            () if own || at_once => (None, None),
            () if known => (Some(self.payers.try_acquire().map_err(|_| busy())?), None),
            () => (None, Some(self.strangers.enter(stranger_of(&asker)).ok_or_else(busy)?)),
        };
        let prompt = self.prompt_of(asker, &served, &request, out).await?;
        let read = prompt.len() as u64;
        let pace = (!price.is_free()).then(Pace::default);
        let (asked, model, paced) = (request.clone(), served.clone(), pace.clone());
        let prepare = move || {
            let Request { owner, ask, written, .. } = asked;
            let client = Hash::of("talkoo 2026 reader v1", &(by, owner).to_bytes()).0;
            model.prepare(&client, own, &ask, prompt, written, paced)
        };
        let runtime = Runtime {
            model: request.model,
            template: info.template_hash,
            tokenizer: info.vocabulary_hash,
            // Whose answers depend on its threads and its neighbours is in no class with anybody.
            class: if info.exact {
                self.class.clone()
            } else {
                format!("{} alone {}", self.class, self.key.id().short())
            },
        };
        let till = self.books.till(&request.chain, &by);
        let last = till.voucher().filter(|_| !price.is_free()).cloned();
        if !till.trusts(price.of(0, CHUNK)) {
            let (lost, paid) = (till.lost(), till.promised());
            let why = format!("of what this account was given, {lost} credits were never paid and {paid} were");
            return Err(Reason::Unpaid(why).into());
        }
        if !own && !price.is_free() && !till.may_begin(price.of(0, CHUNK)) {
            return Err(busy().into());
        }
        let terms = Terms { runtime, time: crate::clock::clock(), read, context: info.context as u64, last };
        let telling = AnswerWriter::new(&request, by, &terms);
        let (books, chunk) = (self.books.clone(), price.of(0, CHUNK));
        let (payer, name) = ((request.chain, by), &served.card().name);
        *account = pace.map(|pace| Paying::new(payer, name, pace, chunk, books));
        let paying = account.as_ref();
        // A shape is made into a grammar after it was paid for, or by whom it costs a place.
        let (mut later, mut ready) = (Some(prepare), None);
        if paying.is_none() {
            ready = self.prepared(later.take(), shaped, out).await?;
            if place.is_none() && !own {
                place = Some(gate.knock(line, false).ok_or_else(busy)?);
            }
        }
        send(out, Frame::Taken { terms }).await?;
        if let Some(paying) = paying {
            self.paid_for_reading(paying, telling.receipt().cost, out, says).await?;
            ready = self.prepared(later.take(), shaped, out).await?;
            place = gate.knock(line, true);
        }
        drop(unpaid);
        if let Some(place) = &mut place {
            self.wait(place, paying, &busy, out, says).await?;
        }
        if let Some(paying) = paying {
            paying.allow(0);
        }
        let ready = ready.ok_or_else(|| Reason::Failed("the question was not prepared".into()))?;
        let engine = served.engine().clone();
        // The place is for the engine's time: it is free with the last token, whenever that is read.
        let (written, ended) = tokio::sync::oneshot::channel::<()>();
        let pieces = served.start(ready, Some(Box::new((place, written))))?;
        let pause = if own { Duration::ZERO } else { writing::FRAME_EVERY };
        tokio::select! {
            written = self.write(telling, pieces, (paying, pause), &engine, out, says) => written,
            () = async { let _ = ended.await; tokio::time::sleep(READ_AFTER).await } => Err(Break::Left),
        }
    }

    /// The tokens of a question. Before anything is paid it costs time, so few are read at once.
    async fn prompt_of(
        &self,
        asker: Asker,
        served: &Arc<Served>,
        request: &Request,
        out: &mpsc::Sender<Frame>,
    ) -> Result<Vec<i32>, Break> {
        let permit = match asker.origin {
            None => None,
            Some(_) => Some(self.permit(&self.reading, out).await?),
        };
        let (model, ask, written, room) =
            (served.clone(), request.ask.clone(), request.written.len() as u64, asker.room);
        let read = move || {
            // Kept until it was read, also when nobody waits for it any more.
            let _kept = (permit, room);
            let prompt = model.prompt(&ask.input)?;
            let (all, max) = (prompt.len() as u64 + written, model.card().context);
            // A whole answer of another provider may fill it to the last token.
            if all > max || all == max && written == 0 && ask.max_tokens != Some(0) {
                return Err(Reason::TooLong { asked: all, max });
            }
            Ok(prompt)
        };
        let read = self.alive_until(tokio::task::spawn_blocking(read), out).await?;
        Ok(read.map_err(|_| Reason::Failed("the question could not be read".into()))??)
    }

    /// Leave to compute with what somebody sent: few do at a time, whether they still wait for it or not.
    async fn permit(&self, of: &Arc<Semaphore>, out: &mpsc::Sender<Frame>) -> Result<OwnedSemaphorePermit, Break> {
        let permit = self.alive_until(of.clone().acquire_owned(), out).await?;
        Ok(permit.map_err(|_| Reason::Failed("the node is stopping".into()))?)
    }

    /// Waits for something, and says meanwhile that somebody is there.
    async fn alive_until<T>(&self, what: impl Future<Output = T>, out: &mpsc::Sender<Frame>) -> Result<T, Break> {
        let mut what = std::pin::pin!(what);
        let mut alive = tokio::time::interval(Duration::from_millis(market::ALIVE_MS));
        alive.reset();
        loop {
            tokio::select! {
                done = &mut what => return Ok(done),
                _ = alive.tick() => send(out, Frame::Alive {}).await?,
            }
        }
    }

    /// Looks whether a question can be answered, where that takes nobody's time but its own.
    async fn prepared(
        &self,
        prepare: Option<impl FnOnce() -> Result<Ready, Reason> + Send + 'static>,
        shaped: bool,
        out: &mpsc::Sender<Frame>,
    ) -> Result<Option<Ready>, Break> {
        let Some(prepare) = prepare else { return Ok(None) };
        let permit = if shaped { Some(self.permit(&self.shaping, out).await?) } else { None };
        let prepare = move || {
            // Kept until it is done, also when nobody waits for it any more.
            let _permit = permit;
            prepare()
        };
        let prepared = self.alive_until(tokio::task::spawn_blocking(prepare), out).await?;
        Ok(Some(prepared.map_err(|_| Reason::Failed("the question could not be prepared".into()))??))
    }
}

/// A model's name as others may see it, or what stands for it where nothing is left.
fn name_of(card: &market::ModelCard) -> String {
    let name: String = card.name.chars().filter(|c| !c.is_control() && *c != market::AT).take(64).collect();
    if name.is_empty() { card.hash.short() } else { name }
}

/// How many answers others get at a time: one slot is the owner's own.
fn places(served: &Served) -> usize {
    served.engine().info().slots.saturating_sub(1).max(1)
}

fn name(reason: &Reason) -> &'static str {
    match reason {
        Reason::Model(_) => "unknown_model",
        Reason::Busy(_) => "busy",
        Reason::TooLong { .. } => "too_long",
        Reason::Unsupported { .. } | Reason::Invalid { .. } => "invalid",
        Reason::Price => "price",
        Reason::Unpaid(_) => "unpaid",
        Reason::Owner(_) => "owner",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_how_questions_end() {
        let words = include_str!("../../../gateway/src/page/words.js");
        let text = String::new;
        let reasons = [
            Reason::Model(text()),
            Reason::Busy(1),
            Reason::TooLong { asked: 2, max: 1 },
            Reason::Unsupported { what: text(), why: text() },
            Reason::Invalid { what: text(), why: text() },
            Reason::Failed(text()),
            Reason::Price,
            Reason::Unpaid(text()),
            Reason::Owner(text()),
        ];
        for code in reasons.iter().map(name).chain(["answered", "cancelled"]) {
            assert!(words.contains(&format!("\n  {code}: \"")), "{code}");
        }
    }
}
