//! Taking a question through to its answer: carries out what a [`Session`] decides.

use super::Trade;
use super::attempt::{Attempt, FRAMES};
use super::checking::Said;
use super::names::{Target, Whom};
use crate::receipt::receipt_text;
use base::{Hash, Machine, Millis, NodeId, Outbox, Wire};
use gateway::{Answer, AnswerOrigin};
use market::{
    Ask, AskInput, AttemptOutcome, FRAME_MAX, Need, Piece, Price, ProviderCandidate, Reason, Request, Say, Session,
    SessionEvent, SessionOrder,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Conversations whose reader is remembered.
const READERS_MAX: usize = 1024;
/// Who asked hears within this that it was taken, or until then still that all are busy.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

impl Trade {
    /// Asks for an owner, under a name by which the receipt is found; gives the pieces once somebody took it.
    pub async fn ask(
        self: &Arc<Self>,
        client: &[u8; 32],
        name: &str,
        ask: Ask,
    ) -> Result<UnboundedReceiver<Piece>, Reason> {
        Ok(self.answer(client, name, ask).await?.pieces)
    }

    /// The same, with who took it.
    pub(super) async fn answer(self: &Arc<Self>, client: &[u8; 32], name: &str, ask: Ask) -> Result<Answer, Reason> {
        let Target { whom, weights, context, name: model } = self.target(&ask.model)?;
        // Others know the model by its own name.
        let ask = Ask { model, ..ask };
        self.begin(client, (name.to_owned(), whom), (weights, context), ask, Vec::new()).await
    }

    /// The same of certain providers, of weights that take so many tokens, with the beginning of the answer.
    pub(super) async fn ask_whom(
        self: &Arc<Self>,
        client: &[u8; 32],
        named: (String, Whom),
        (model, context): (Hash, u64),
        ask: Ask,
        written: Vec<i32>,
    ) -> Result<UnboundedReceiver<Piece>, Reason> {
        Ok(self.begin(client, named, (model, context), ask, written).await?.pieces)
    }

    async fn begin(
        self: &Arc<Self>,
        client: &[u8; 32],
        named: (String, Whom),
        (model, context): (Hash, u64),
        ask: Ask,
        written: Vec<i32>,
    ) -> Result<Answer, Reason> {
        let id = host::random_secret().map_err(|error| Reason::Failed(error.to_string()))?;
        let own = Hash::keyed(&self.key.secret(), client);
        let conversation = beginning(&own, &ask);
        let knows = self.reader(&conversation);
        let read = about(&ask.input);
        let length = ask.max_tokens.unwrap_or(ABOUT).min(ABOUT);
        // What is only about right must not exclude anybody.
        let context = (read / 2).min(context);
        let need = Need { model, context, read, written: length, price: self.config.price, knows };
        // Nobody links what a user asks on two days.
        let owner =
            Hash::of("talkoo 2026 owner of a day v1", &(own, crate::clock::clock().0 / owner::DAY_MS).to_bytes());
        let request = Request { written, ..Request::new(Hash(id), model, owner, ask) };
        let bytes = Say::Ask { request: request.clone() }.to_bytes();
        if bytes.len() > FRAME_MAX || Say::from_bytes(&bytes).is_err() {
            let why = "it has more words, messages or parameters than can be asked at a time".into();
            return Err(Reason::Invalid { what: "messages".into(), why });
        }
        let session = Session::new(self.net.id(), request);
        let (pieces, receiver) = unbounded_channel();
        let (taken, answered) = oneshot::channel();
        tokio::spawn(self.clone().drive(session, need, conversation, named, pieces, taken));
        let origin = answered.await.unwrap_or_else(|_| Err(Reason::Failed("the node is stopping".into())))?;
        Ok(Answer { origin, pieces: receiver })
    }

    fn now(&self) -> Millis {
        Millis(self.begun.elapsed().as_millis() as u64)
    }

    fn choose(&self, need: &Need, without: &[NodeId], whom: &Whom) -> SessionEvent {
        let me = self.net.id();
        let mine = self.provider.local.of(&need.model).filter(|_| !without.contains(&me));
        if let (Some(served), Whom::Any | Whom::Own) = (mine, whom) {
            // One's own machine costs nothing.
            let offer = market::Offer { price: Price::default(), ..self.provider.offer(Hash::default(), &served) };
            let prompt_rate = u64::from(offer.prompt_rate).max(1);
            let own = ProviderCandidate { provider: me, offer, expected_ms: 0, prompt_rate, known: true };
            return SessionEvent::Chosen(Some(own));
        }
        if let Whom::Own = whom {
            return SessionEvent::Chosen(None);
        }
        let mut index = self.index.lock().expect("nobody panics while holding it");
        let mut without = without.to_vec();
        without.push(me);
        match whom {
            Whom::Any | Whom::Own | Whom::Others => {}
            Whom::Only(provider) => {
                let offer = index.providers(&need.model).find(|(known, _)| *known == provider);
                let offer = offer.filter(|_| !without.contains(provider)).map(|(_, offer)| offer.clone());
                let candidate = |offer: market::Offer| {
                    let prompt_rate = u64::from(offer.prompt_rate).max(1);
                    ProviderCandidate { provider: *provider, offer, expected_ms: 0, prompt_rate, known: false }
                };
                return SessionEvent::Chosen(offer.map(candidate));
            }
        }
        let now = crate::clock::clock();
        let mut rng = self.rng.lock().expect("nobody panics while holding it");
        let chosen = index.choose(now, need, &without, &mut rng).into_iter().next();
        match (chosen, index.busy_ms(now, need, &without)) {
            (None, Some(again_ms)) => SessionEvent::Full(again_ms),
            (chosen, _) => SessionEvent::Chosen(chosen),
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
        taken: oneshot::Sender<Result<AnswerOrigin, Reason>>,
    ) {
        let (events, mut happened) = mpsc::channel(FRAMES);
        let mut out = Outbox::default();
        let mut attempts: BTreeMap<u32, Attempt> = BTreeMap::new();
        let (mut taken, mut tell_at, mut cancelled) = (Some(taken), None, false);
        let (mut read, mut ids, mut text) = (0, Vec::new(), String::new());
        // Who took it and was not let go of, else who was last; and whether nobody else knows of the question.
        let (mut takers, mut before) = (Vec::<(u32, NodeId)>::new(), None);
        let (me, mut local) = (self.net.id(), true);
        session.step(self.now(), SessionEvent::Begin, &mut out);
        loop {
            let orders: Vec<SessionOrder> = out.drain().collect();
            for order in orders {
                match order {
                    SessionOrder::Choose(without) => {
                        let event = self.choose(&need, &without, &whom);
                        session.step(self.now(), event, &mut out);
                    }
                    SessionOrder::Open { attempt, provider, request } => {
                        tracing::debug!(attempt, provider = provider.short(), "asking");
                        local &= provider == me;
                        attempts.insert(attempt, self.attempt(attempt, provider, *request, &events));
                    }
                    SessionOrder::Stop { attempt, begun } => {
                        if let Some(open) = attempts.get(&attempt) {
                            open.unwanted.store(!begun, Ordering::Relaxed);
                            let _ = open.says.try_send(Say::Stop {});
                        }
                    }
                    SessionOrder::Close(attempt) => {
                        if let Some(at) = takers.iter().position(|(number, _)| *number == attempt) {
                            before = Some(takers.remove(at));
                        }
                        // A voucher may still be on its way; else it is let go of at once.
                        if let Some(attempt) = attempts.remove(&attempt).filter(|attempt| attempt.paid) {
                            tokio::spawn(attempt.finish());
                        }
                    }
                    SessionOrder::Taken(terms, attempt) => {
                        // It may still lose its place to somebody who had less.
                        tell_at.get_or_insert_with(|| Instant::now() + TOLD_WITHIN);
                        let Some(open) = attempts.get_mut(&attempt) else { continue };
                        takers.push((attempt, open.provider));
                        open.bound = open.costs_at_most(&terms);
                        if let Some(last) = &terms.last {
                            let _ = self.books.recall(&open.chain, &open.provider, last);
                        }
                    }
                    SessionOrder::Pay { attempt, provider, amount } => {
                        let Some(open) = attempts.get_mut(&attempt) else { continue };
                        open.paid = true;
                        // It may take a block or two: nobody waits for that but the provider.
                        let (trade, chain, says, events) =
                            (self.clone(), open.chain, open.says.clone(), events.clone());
                        let (amount, unwanted) = ((amount, open.bound), open.unwanted.clone());
                        tokio::spawn(async move {
                            let wanted = || !unwanted.load(Ordering::Relaxed);
                            match trade.pay(chain, provider, amount, wanted).await {
                                Ok(voucher) => drop(says.send(Say::Pay { voucher }).await),
                                Err(why) => drop(events.send(SessionEvent::Broke(attempt, why)).await),
                            }
                        });
                    }
                    SessionOrder::Note(provider, outcome) => self.note(provider, outcome, conversation).await,
                    SessionOrder::Show(piece) => {
                        let Piece::End { finish, text: last, .. } = &piece else {
                            let taker = takers.first().or(before.as_ref());
                            taken.take().map(|taken| taken.send(Ok(origin(me, taker, local))));
                            match &piece {
                                Piece::Read { tokens, .. } => read = *tokens,
                                Piece::Token(token) => {
                                    ids.push(token.id);
                                    text += &token.text;
                                }
                                Piece::End { .. } => {}
                            }
                            let _ = pieces.send(piece);
                            continue;
                        };
                        self.count(session.tries());
                        match (finish, taken.take()) {
                            (Err(reason), Some(taken)) => return drop(taken.send(Err(reason.clone()))),
                            (_, taken) => {
                                let taker = takers.first().or(before.as_ref());
                                drop(taken.map(|taken| taken.send(Ok(origin(me, taker, local)))));
                            }
                        }
                        if let (Ok(finish), false) = (finish, name.is_empty()) {
                            let receipts = session.receipts();
                            let kept = self.books.keep(&name, &receipt_text(&receipts));
                            if let Err(error) = kept {
                                tracing::warn!(%error, "the receipt could not be kept");
                            }
                            if let [one] = receipts.0.as_slice() {
                                let (ask, provider, finish) = (session.ask().clone(), one.by, *finish);
                                let (weights, ids) = ((need.model, need.context), std::mem::take(&mut ids));
                                let text = std::mem::take(&mut text) + last;
                                self.check_some(Said { ask, weights, provider, read, ids, text, finish });
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
                () = pieces.closed(), if due.is_some() && !cancelled => {
                    cancelled = true;
                    Some(SessionEvent::Cancel)
                }
                event = happened.recv() => event,
                () = at(due) => Some(SessionEvent::Tick),
                () = at(tell_at.filter(|_| taken.is_some())) => {
                    let taker = takers.first().or(before.as_ref());
                    taken.take().map(|taken| taken.send(Ok(origin(me, taker, local))));
                    continue;
                }
            };
            let Some(event) = event else { return };
            session.step(self.now(), event, &mut out);
            // Who says all the time that it lives keeps no clock from striking.
            if session.deadline().is_some_and(|due| due <= self.now()) {
                session.step(self.now(), SessionEvent::Tick, &mut out);
            }
        }
    }

    /// Who read the beginning of a conversation.
    fn reader(&self, conversation: &Hash) -> Option<NodeId> {
        let readers = self.readers.lock().expect("nobody panics while holding it");
        readers.iter().find(|(known, _)| known == conversation).map(|(_, provider)| *provider)
    }

    fn count(&self, tries: u32) {
        let mut counts = self.counts.lock().expect("nobody panics while holding it");
        if tries == 0 {
            counts.refused += 1;
        } else {
            (counts.asked, counts.tries) = (counts.asked + 1, counts.tries + u64::from(tries));
        }
    }

    async fn note(&self, provider: NodeId, outcome: AttemptOutcome, conversation: Hash) {
        tracing::debug!(provider = provider.short(), ?outcome, "stats");
        self.index.lock().expect("nobody panics while holding it").note(crate::clock::clock(), &provider, outcome);
        match outcome {
            AttemptOutcome::Answered { .. } => {
                let mut readers = self.readers.lock().expect("nobody panics while holding it");
                readers.retain(|(known, _)| *known != conversation);
                readers.push_back((conversation, provider));
                if readers.len() > READERS_MAX {
                    readers.pop_front();
                }
            }
            AttemptOutcome::Failed => self.net.forget(provider).await,
            AttemptOutcome::Lied(reject) => {
                tracing::warn!(provider = provider.short(), %reject, "a provider is dishonest")
            }
            AttemptOutcome::Busy { .. } => {}
        }
    }
}

/// Where an answer comes from: of whoever took the question first.
fn origin(me: NodeId, taker: Option<&(u32, NodeId)>, local: bool) -> AnswerOrigin {
    let other = taker.map(|(_, provider)| *provider).filter(|provider| *provider != me);
    AnswerOrigin { provider: other.map_or_else(|| AnswerOrigin::own().provider, |other| other.to_string()), local }
}

/// Waits until then, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Tokens of a text, about.
fn about(input: &AskInput) -> u64 {
    match input {
        AskInput::Tokens(ids) => ids.len() as u64,
        AskInput::Text(text) => text.len() as u64 / 4,
        AskInput::Chat { messages, tools } => {
            let bytes: usize = messages.iter().map(|message| message.content.len() + 16).sum();
            (bytes + tools.as_ref().map_or(0, String::len)) as u64 / 4
        }
    }
}

/// Names the beginning of a conversation: who read it before reads less of it now.
fn beginning(owner: &Hash, ask: &Ask) -> Hash {
    let mut bytes = owner.to_bytes();
    match &ask.input {
        AskInput::Chat { messages, .. } => messages.iter().take(2).for_each(|message| message.encode(&mut bytes)),
        AskInput::Text(text) => bytes.extend(text.bytes().take(256)),
        AskInput::Tokens(ids) => bytes.extend(ids.iter().take(64).flat_map(|id| id.to_le_bytes())),
    }
    Hash::of("talkoo 2026 conversation v1", &bytes)
}

/// Tokens of an answer where nothing is known.
const ABOUT: u64 = 256;
