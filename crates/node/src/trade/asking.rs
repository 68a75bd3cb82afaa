//! Taking a question through to its answer: carries out what a [`Session`] decides.

use super::Trade;
use super::checking::Said;
use crate::receipt::receipt_text;
use base::{Hash, Machine, Millis, NodeId, Outbox, Reject, Wire};
use market::{
    Ask, Candidate, Event, FRAME_MAX, Frame, Input, Need, Order, Outcome, Piece, Price, Reason, Request, Say, Session,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Frames that wait for a session.
const FRAMES: usize = 256;
/// Conversations whose reader is remembered.
const READERS_MAX: usize = 1024;
/// Who asked hears within this that it was taken, or until then still that all are busy.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// The last voucher of an answer goes out within this.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Who may be asked.
pub(super) enum Whom {
    /// This node itself, or whoever fits best.
    Any,
    /// Nobody but this one.
    Only(NodeId),
    /// Any other, but this one and this node itself.
    Not(NodeId),
}

impl Trade {
    /// Asks for an owner, under a name by which the receipt is found; gives the pieces once somebody took it.
    pub async fn ask(
        self: &Arc<Self>,
        client: &[u8; 32],
        name: &str,
        ask: Ask,
    ) -> Result<UnboundedReceiver<Piece>, Reason> {
        self.ask_whom(client, (name.to_owned(), Whom::Any), ask, Vec::new()).await
    }

    /// The same of certain providers, with the beginning of the answer.
    pub(super) async fn ask_whom(
        self: &Arc<Self>,
        client: &[u8; 32],
        named: (String, Whom),
        ask: Ask,
        written: Vec<i32>,
    ) -> Result<UnboundedReceiver<Piece>, Reason> {
        let (model, context) = self.weights(&ask.model).ok_or_else(|| Reason::Model(ask.model.clone()))?;
        let id = crate::platform::random_secret().map_err(|error| Reason::Failed(error.to_string()))?;
        let own = Hash::keyed(&self.shared.key.secret(), client);
        let conversation = beginning(&own, &ask);
        let knows = self.reader(&conversation);
        let read = about(&ask.input);
        let length = ask.max_tokens.unwrap_or(ABOUT).min(ABOUT);
        // What is only about right must not exclude anybody.
        let context = (read / 2).min(context);
        let need = Need { model, context, read, written: length, price: self.config.price, knows };
        let request = Request { written, ..Request::new(Hash(id), model, own, ask) };
        let bytes = Say::Ask { request: request.clone() }.to_bytes();
        if bytes.len() > FRAME_MAX || Say::from_bytes(&bytes).is_err() {
            let why = "it has more words, messages or parameters than can be asked at a time".into();
            return Err(Reason::Invalid { what: "messages".into(), why });
        }
        let session = Session::new(self.shared.net.id(), request);
        let (pieces, receiver) = unbounded_channel();
        let (taken, answered) = oneshot::channel();
        tokio::spawn(self.clone().drive(session, need, conversation, named, pieces, taken));
        answered.await.unwrap_or_else(|_| Err(Reason::Failed("the node is stopping".into())))?;
        Ok(receiver)
    }

    fn now(&self) -> Millis {
        Millis(self.begun.elapsed().as_millis() as u64)
    }

    fn choose(&self, need: &Need, without: &[NodeId], whom: &Whom) -> Event {
        let me = self.shared.net.id();
        let mine = self.provider.local.of(&need.model).filter(|_| !without.contains(&me));
        if let (Some(served), Whom::Any) = (mine, whom) {
            // One's own machine costs nothing.
            let offer = market::Offer { price: Price::default(), ..self.provider.offer(Hash::default(), &served) };
            return Event::Chosen(Some(Candidate { provider: me, offer, expected_ms: 0 }));
        }
        let mut index = self.index.lock().expect("nobody panics while holding it");
        let mut without = without.to_vec();
        without.push(me);
        match whom {
            Whom::Any => {}
            Whom::Not(provider) => without.push(*provider),
            Whom::Only(provider) => {
                let offer = index.providers(&need.model).find(|(known, _)| *known == provider);
                let offer = offer.filter(|_| !without.contains(provider)).map(|(_, offer)| offer.clone());
                let candidate = |offer| Candidate { provider: *provider, offer, expected_ms: 0 };
                return Event::Chosen(offer.map(candidate));
            }
        }
        let now = chain::clock();
        let mut rng = self.rng.lock().expect("nobody panics while holding it");
        let chosen = index.choose(now, need, &without, &mut rng).into_iter().next();
        match (chosen, index.busy_ms(now, need, &without)) {
            (None, Some(again_ms)) => Event::Full(again_ms),
            (chosen, _) => Event::Chosen(chosen),
        }
    }

    /// Takes a question through to its end.
    async fn drive(
        self: Arc<Self>,
        mut session: Session,
        need: Need,
        conversation: Hash,
        (name, whom): (String, Whom),
        pieces: UnboundedSender<Piece>,
        taken: oneshot::Sender<Result<(), Reason>>,
    ) {
        let (events, mut happened) = mpsc::channel(FRAMES);
        let mut out = Outbox::default();
        let mut attempts: BTreeMap<u32, Attempt> = BTreeMap::new();
        let (mut taken, mut tell_at) = (Some(taken), None);
        let (mut read, mut ids) = (0, Vec::new());
        session.step(self.now(), Event::Begin, &mut out);
        loop {
            let orders: Vec<Order> = out.drain().collect();
            for order in orders {
                match order {
                    Order::Choose(without) => {
                        let event = self.choose(&need, &without, &whom);
                        session.step(self.now(), event, &mut out);
                    }
                    Order::Open { attempt, provider, request } => {
                        tracing::debug!(attempt, provider = provider.short(), "asking");
                        attempts.insert(attempt, self.open(attempt, provider, *request, &events));
                    }
                    Order::Close(attempt) => {
                        // A voucher may still be on its way; else it is let go of at once.
                        if let Some(attempt) = attempts.remove(&attempt).filter(|attempt| attempt.paid) {
                            tokio::spawn(attempt.finish());
                        }
                    }
                    Order::Taken(terms, attempt) => {
                        // It may still lose its place to somebody who had less.
                        tell_at.get_or_insert_with(|| Instant::now() + TOLD_WITHIN);
                        if let (Some(last), Some(attempt)) = (&terms.last, attempts.get(&attempt)) {
                            let _ = self.books.recall(&attempt.chain, &attempt.provider, last);
                        }
                    }
                    Order::Pay { attempt, provider, amount } => {
                        let Some(open) = attempts.get_mut(&attempt) else { continue };
                        open.paid = true;
                        // It may take a block or two: nobody waits for that but the provider.
                        let (trade, chain, says, events) =
                            (self.clone(), open.chain, open.says.clone(), events.clone());
                        tokio::spawn(async move {
                            match trade.pay(chain, provider, amount).await {
                                Ok(voucher) => drop(says.send(Say::Pay { voucher }).await),
                                Err(why) => drop(events.send(Event::Broke(attempt, why)).await),
                            }
                        });
                    }
                    Order::Note(provider, outcome) => self.note(provider, outcome, conversation).await,
                    Order::Show(piece) => {
                        let Piece::End { finish, .. } = &piece else {
                            taken.take().map(|taken| taken.send(Ok(())));
                            match &piece {
                                Piece::Read { tokens, .. } => read = *tokens,
                                Piece::Token(token) => ids.push(token.id),
                                Piece::End { .. } => {}
                            }
                            let _ = pieces.send(piece);
                            continue;
                        };
                        self.count(session.tries());
                        match (finish, taken.take()) {
                            (Err(reason), Some(taken)) => return drop(taken.send(Err(reason.clone()))),
                            (_, taken) => drop(taken.map(|taken| taken.send(Ok(())))),
                        }
                        if let (Ok(finish), false) = (finish, name.is_empty()) {
                            let receipts = session.receipts();
                            let kept = self.books.keep(&name, &receipt_text(&receipts));
                            if let Err(error) = kept {
                                tracing::warn!(%error, "the receipt could not be kept");
                            }
                            if let [one] = receipts.0.as_slice() {
                                let (ask, provider, finish) = (session.ask().clone(), one.by, *finish);
                                self.check_some(Said { ask, provider, read, ids: std::mem::take(&mut ids), finish });
                            }
                        }
                        let _ = pieces.send(piece);
                        return;
                    }
                }
            }
            if !out.is_empty() {
                continue;
            }
            let due = session.deadline().map(|due| self.begun + Duration::from_millis(due.0));
            let event = tokio::select! {
                biased;
                event = happened.recv() => event,
                () = at(due) => Some(Event::Tick),
                () = at(tell_at.filter(|_| taken.is_some())) => {
                    taken.take().map(|taken| taken.send(Ok(())));
                    continue;
                }
                () = pieces.closed(), if due.is_some() => Some(Event::Cancel),
            };
            let Some(event) = event else { return };
            session.step(self.now(), event, &mut out);
        }
    }

    /// Who read the beginning of a conversation.
    fn reader(&self, conversation: &Hash) -> Option<NodeId> {
        let readers = self.readers.lock().expect("nobody panics while holding it");
        readers.iter().find(|(known, _)| known == conversation).map(|(_, provider)| *provider)
    }

    fn count(&self, tries: u32) {
        let mut counts = self.counts.lock().expect("nobody panics while holding it");
        *counts = (counts.0 + 1, counts.1 + u64::from(tries));
    }

    async fn note(&self, provider: NodeId, outcome: Outcome, conversation: Hash) {
        tracing::debug!(provider = provider.short(), ?outcome, "did");
        self.index.lock().expect("nobody panics while holding it").note(chain::clock(), &provider, outcome);
        match outcome {
            Outcome::Answered { .. } => {
                let mut readers = self.readers.lock().expect("nobody panics while holding it");
                readers.retain(|(known, _)| *known != conversation);
                readers.push_back((conversation, provider));
                if readers.len() > READERS_MAX {
                    readers.pop_front();
                }
            }
            Outcome::Failed => self.shared.net.forget(provider).await,
            Outcome::Lied(reject) => tracing::warn!(provider = provider.short(), %reject, "a provider is dishonest"),
            Outcome::Busy { .. } => {}
        }
    }

    /// Asks a provider: this node itself, or another.
    fn open(&self, number: u32, provider: NodeId, request: Request, events: &mpsc::Sender<Event>) -> Attempt {
        let chain = request.chain;
        let (says, mut said) = mpsc::channel(FRAMES);
        let events = events.clone();
        let mut tasks = JoinSet::new();
        if provider == self.shared.net.id() {
            let (out, mut frames) = mpsc::channel(FRAMES);
            let own = self.provider.clone();
            tasks.spawn(async move {
                let answer = own.answer(provider, request, out, said);
                let pass = async {
                    while let Some(frame) = frames.recv().await {
                        if events.send(Event::Frame(number, frame)).await.is_err() {
                            return;
                        }
                    }
                    let _ = events.send(Event::Lost(number)).await;
                };
                tokio::join!(answer, pass);
            });
            return Attempt { provider, chain, says, tasks, paid: false };
        }
        let net = self.shared.net.clone();
        tasks.spawn(async move {
            let first = Say::Ask { request }.to_bytes();
            let asked = async || {
                let mut talk = net.talk(provider, FRAME_MAX).await?;
                talk.say.frame(&first).await?;
                // The first word comes at once, or the connection is one to a process that is gone.
                let word = talk.hear.frame().await?.ok_or(Reject::NotHeld)?;
                Ok::<_, Reject>((talk, word))
            };
            let mut begun = asked().await;
            if let Err(Reject::NotHeld) = begun {
                tracing::debug!(number, provider = provider.short(), "not reached, once more");
                net.forget(provider).await;
                begun = asked().await;
            }
            let (net::Talk { mut say, mut hear }, word) = match begun {
                Ok(begun) => begun,
                Err(Reject::NotHeld) => return drop(events.send(Event::Lost(number)).await),
                Err(reject) => return drop(events.send(Event::Wrong(number, reject)).await),
            };
            let hearing = async {
                let mut word = Ok(Some(word));
                loop {
                    let event = match word {
                        Ok(Some(bytes)) => match Frame::from_bytes(&bytes) {
                            Ok(frame) => Event::Frame(number, frame),
                            Err(_) => Event::Wrong(number, Reject::Malformed),
                        },
                        Ok(None) | Err(Reject::NotHeld) => Event::Lost(number),
                        Err(reject) => Event::Wrong(number, reject),
                    };
                    let last = !matches!(event, Event::Frame(..));
                    if events.send(event).await.is_err() || last {
                        return;
                    }
                    word = hear.frame().await;
                }
            };
            let saying = async {
                while let Some(word) = said.recv().await {
                    if say.frame(&word.to_bytes()).await.is_err() {
                        return;
                    }
                }
                // Said to the end: the provider sees that nothing more comes, after the last voucher.
                say.finish();
                say.stopped().await;
            };
            tokio::join!(saying, hearing);
        });
        Attempt { provider, chain, says, tasks, paid: false }
    }
}

/// A provider that was asked. Dropped, it is let go of, and so cancelled.
struct Attempt {
    provider: NodeId,
    chain: Hash,
    says: mpsc::Sender<Say>,
    tasks: JoinSet<()>,
    paid: bool,
}

impl Attempt {
    /// Lets what was said go out.
    async fn finish(self) {
        let Self { says, mut tasks, .. } = self;
        drop(says);
        let _ = tokio::time::timeout(LAST_WORD, tasks.join_next()).await;
    }
}

/// Waits until then, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Tokens of a text, about.
fn about(input: &Input) -> u64 {
    match input {
        Input::Tokens(ids) => ids.len() as u64,
        Input::Text(text) => text.len() as u64 / 4,
        Input::Chat { messages, tools } => {
            let bytes: usize = messages.iter().map(|message| message.content.len() + 16).sum();
            (bytes + tools.as_ref().map_or(0, String::len)) as u64 / 4
        }
    }
}

/// Names the beginning of a conversation: who read it before reads less of it now.
fn beginning(owner: &Hash, ask: &Ask) -> Hash {
    let mut bytes = owner.to_bytes();
    match &ask.input {
        Input::Chat { messages, .. } => messages.iter().take(2).for_each(|message| message.encode(&mut bytes)),
        Input::Text(text) => bytes.extend(text.bytes().take(256)),
        Input::Tokens(ids) => bytes.extend(ids.iter().take(64).flat_map(|id| id.to_le_bytes())),
    }
    Hash::of("talkoo 2026 conversation v1", &bytes)
}

/// Tokens of an answer where nothing is known.
const ABOUT: u64 = 256;
