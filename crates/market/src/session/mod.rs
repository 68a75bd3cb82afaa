//! One question on its way: asks a provider, asks another one where that one is busy, silent, dead or dishonest, and
//! goes on in the middle of an answer from the last word that was signed.

mod attempt;

pub use attempt::{REACH_MS, SILENT_MS};

use self::attempt::{Attempt, LEAVE_MS};
use crate::rendering::Rendering;
use crate::talk::{AnswerReader, CHUNK, Received, Request};
use crate::{AttemptOutcome, Frame, Piece, ProviderCandidate, Reason, Receipt};
use base::{Hash, Machine, Millis, NodeId, Outbox, Reject, Signed, Wire};
use ledger::Credits;

/// Providers asked for one answer.
const TRIES_MAX: u32 = 8;
/// Providers that may end, or fall silent, over one question before it is read: it may be what ends them. Two that have
/// answered well before, or four strangers: these end whenever they like, to end the question.
const DEATHS_MAX: usize = 4;

/// What happens to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// It is asked.
    Begin,
    /// Whom to ask, after [`SessionOrder::Choose`].
    Chosen(Option<ProviderCandidate>),
    /// Instead: everybody who could be asked is known to be busy for so many milliseconds.
    Full(u64),
    /// What a provider said, by the number of the attempt.
    Frame(u32, Frame),
    /// What it sent was no frame.
    Wrong(u32, Reject),
    /// The question is on its way to it, over a connection that stands.
    Reached(u32),
    /// There is no way to it: it never got the question.
    Unreachable(u32),
    /// This node has no room for a way to it, which says nothing of the provider.
    NoRoom(u32),
    /// The way to it broke, or it ended without a word.
    Lost(u32),
    /// It cannot be paid.
    Broke(u32, String),
    /// Nobody wants the answer any more.
    Cancel,
    /// Time went on.
    Tick,
}

/// What is to be done for it.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionOrder {
    /// Choose a provider, not one of these.
    Choose(Vec<NodeId>),
    /// Ask a provider.
    Open {
        /// Number of the attempt.
        attempt: u32,
        /// Whom.
        provider: NodeId,
        /// What.
        request: Box<Request>,
    },
    /// A provider will answer.
    Taken(Box<crate::Terms>, u32),
    /// Tell a provider that nobody wants its answer any more.
    Stop {
        /// The attempt.
        attempt: u32,
        /// Whether it has begun to read: if not, what is not promised yet is not promised any more.
        begun: bool,
    },
    /// Let go of an attempt.
    Close(u32),
    /// The provider has earned so much more.
    Pay {
        /// The attempt.
        attempt: u32,
        /// To whom.
        provider: NodeId,
        /// How much.
        amount: Credits,
    },
    /// For who asked. After [`Piece::End`] nothing more comes.
    Show(Piece),
    /// How a provider did.
    Note(NodeId, AttemptOutcome),
}

/// One question.
pub struct Session {
    client: NodeId,
    request: Request,
    attempts: Vec<Attempt>,
    /// Whom it was sent to.
    asked: Vec<NodeId>,
    tries: u32,
    /// Whether a choice is under way.
    choosing: bool,
    /// Whether who asked knows that the question was read.
    read: bool,
    /// Receipts of those who wrote a part and were left.
    parts: Vec<Signed<Receipt>>,
    /// The best reason so far why there is no answer.
    reason: Option<Reason>,
    /// Who said that the question itself is wrong: one alone may be wrong itself.
    objected: Option<NodeId>,
    /// Providers that ended before they had read the question: two for each that is known, one for each stranger.
    deaths: usize,
    /// The text that was shown, by the bytes of its tokens.
    rendering: Rendering,
    /// Nobody wants the answer any more: until then what is on its way is heard, and paid.
    leaving: Option<Millis>,
    ended: bool,
}

impl Session {
    /// A question of `client`.
    pub fn new(client: NodeId, request: Request) -> Self {
        let (attempts, asked, parts) = (Vec::new(), Vec::new(), Vec::new());
        let rendering = Rendering::after(&request.written);
        Self {
            client,
            request,
            attempts,
            asked,
            tries: 0,
            choosing: false,
            read: false,
            parts,
            reason: None,
            objected: None,
            deaths: 0,
            rendering,
            leaving: None,
            ended: false,
        }
    }

    /// The receipts, after the end.
    pub fn receipts(&self) -> crate::Receipts {
        crate::Receipts(self.parts.clone())
    }

    /// What is asked.
    pub fn ask(&self) -> &crate::Ask {
        &self.request.ask
    }

    /// How many providers were asked.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    fn choose(&mut self, out: &mut Outbox<SessionOrder>) {
        if self.choosing || self.ended {
            return;
        }
        let quiet: usize = self.attempts.iter().map(Attempt::death).sum();
        // Once somebody has read it, it is no question that ends whoever does.
        let deadly = !self.read && self.deaths + quiet >= DEATHS_MAX;
        if self.tries >= TRIES_MAX || deadly {
            return self.give_up(out);
        }
        self.choosing = true;
        out.push(SessionOrder::Choose(self.asked.clone()));
    }

    fn chosen(&mut self, now: Millis, candidate: Option<ProviderCandidate>, out: &mut Outbox<SessionOrder>) {
        self.choosing = false;
        let Some(candidate) = candidate else { return self.give_up(out) };
        let (provider, offer) = (candidate.provider, &candidate.offer);
        self.tries += 1;
        self.asked.push(provider);
        (self.request.chain, self.request.price) = (offer.chain, offer.price);
        let mut request = self.request.clone();
        // Providers that compare what they are asked do not find that it is one user's.
        request.owner = Hash::of("talkoo 2026 owner v1", &(request.owner, provider).to_bytes());
        let hearing = AnswerReader::new(provider, self.client, request.clone(), u64::from(offer.context));
        let hearing = hearing.going_on(self.rendering.clone());
        let number = self.tries;
        self.attempts.push(Attempt::new(number, now, &candidate, hearing, provider == self.client));
        out.push(SessionOrder::Open { attempt: number, provider, request: Box::new(request) });
    }

    /// Nobody is left who could be asked. One that is only silent may still speak.
    fn give_up(&mut self, out: &mut Outbox<SessionOrder>) {
        if !self.attempts.is_empty() {
            return;
        }
        let model = self.request.ask.model.clone();
        let reason = self.reason.take().unwrap_or(Reason::Model(model));
        self.end(Err(reason), String::new(), out);
    }

    fn end(&mut self, finish: Result<crate::Finish, Reason>, text: String, out: &mut Outbox<SessionOrder>) {
        (self.ended, self.leaving) = (true, None);
        for attempt in self.attempts.drain(..) {
            out.push(SessionOrder::Close(attempt.number));
        }
        let tokens = self.request.written.len() as u64;
        out.push(SessionOrder::Show(Piece::End { finish, text, tokens }));
    }

    /// An attempt is over without an answer; the question goes to somebody else.
    fn drop_attempt(&mut self, number: u32, outcome: Option<AttemptOutcome>, out: &mut Outbox<SessionOrder>) {
        let Some(at) = self.attempts.iter().position(|attempt| attempt.number == number) else { return };
        let attempt = self.attempts.remove(at);
        self.deaths += attempt.death();
        self.parts.extend(attempt.hearing.receipt().cloned());
        out.push(SessionOrder::Close(number));
        if let Some(outcome) = outcome {
            out.push(SessionOrder::Note(attempt.provider, outcome));
        }
        // One that is silent may be dead: it is not waited for.
        if self.attempts.iter().all(|attempt| attempt.doubted) {
            self.choose(out);
        }
    }

    fn frame(&mut self, now: Millis, number: u32, frame: Frame, out: &mut Outbox<SessionOrder>) {
        let Some(at) = self.attempts.iter().position(|attempt| attempt.number == number) else { return };
        let attempt = &mut self.attempts[at];
        attempt.heard = Some(now);
        (attempt.reached, attempt.quiet) = (true, false);
        let provider = attempt.provider;
        let terms = if let Frame::Taken { terms } = &frame { Some(Box::new(terms.clone())) } else { None };
        match attempt.hearing.take(frame) {
            Err(reject) => {
                self.remember(Reason::Failed(format!(
                    "{} sent what no honest provider sends: {reject}",
                    provider.short()
                )));
                self.drop_attempt(number, Some(AttemptOutcome::Lied(reject)), out);
            }
            Ok(Received::Nothing) => {}
            Ok(Received::Taken(cost)) => {
                attempt.moved = now;
                if let Some(terms) = terms {
                    out.push(SessionOrder::Taken(terms, number));
                }
                // What is read is paid before it is read; an answer by chunks after they came.
                if attempt.hearing.sum().is_some_and(|sum| !sum.price.is_free()) {
                    attempt.paid = cost;
                    out.push(SessionOrder::Pay { attempt: number, provider, amount: cost });
                }
            }
            Ok(Received::Refused(reason)) => self.refused(number, reason, out),
            Ok(Received::Pieces(pieces)) => self.pieces(now, number, pieces, out),
        }
    }

    fn refused(&mut self, number: u32, reason: Reason, out: &mut Outbox<SessionOrder>) {
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.number == number) else { return };
        // Its owner came back: what it delivered is paid all the same.
        attempt.pay(out);
        let (provider, known) = (attempt.provider, attempt.known);
        // What only this node says is not said by somebody else in its name.
        let reason = match reason {
            Reason::Away(why) => Reason::Failed(why),
            Reason::Model(_) => Reason::Model(self.request.ask.model.clone()),
            other => other,
        };
        // Who took a question has nothing to say against it any more, but that somebody else's turn came first: not when
        // it has a fee or has begun to write.
        let begun = attempt.hearing.sum().is_some_and(|sum| sum.cost > Credits::ZERO || sum.written > 0);
        let outcome = match &reason {
            Reason::Busy(_) if begun => Some(AttemptOutcome::Failed),
            _ if attempt.hearing.sum().is_some() && !matches!(reason, Reason::Busy(_)) => Some(AttemptOutcome::Failed),
            Reason::Busy(again_ms) => Some(AttemptOutcome::Busy { again_ms: *again_ms }),
            // Another one may take more.
            Reason::TooLong { .. } => None,
            // A stranger's objection ends nothing: two keys of one owner would agree.
            Reason::Unsupported { .. } | Reason::Invalid { .. } if !known => None,
            Reason::Unsupported { .. } | Reason::Invalid { .. } => {
                if self.objected.is_some_and(|other| other != provider) {
                    return self.end(Err(reason), String::new(), out);
                }
                self.objected = Some(provider);
                None
            }
            _ => Some(AttemptOutcome::Failed),
        };
        self.remember(reason);
        self.drop_attempt(number, outcome, out);
    }

    /// What is wrong with the question says more than who is busy, and that more than who failed.
    fn remember(&mut self, reason: Reason) {
        let weight = |reason: &Reason| match reason {
            Reason::Invalid { .. } | Reason::Unsupported { .. } | Reason::TooLong { .. } => 4,
            Reason::Unpaid(_) => 3,
            Reason::Busy(_) => 2,
            Reason::Model(_) => 0,
            _ => 1,
        };
        self.reason = Some(match (self.reason.take(), reason) {
            (Some(Reason::Busy(a)), Reason::Busy(b)) => Reason::Busy(a.min(b)),
            (Some(old), new) if weight(&old) > weight(&new) => old,
            (_, new) => new,
        });
    }

    fn pieces(&mut self, now: Millis, number: u32, pieces: Vec<Piece>, out: &mut Outbox<SessionOrder>) {
        if pieces.iter().any(|piece| !matches!(piece, Piece::Read { .. })) {
            self.alone(number, out);
        }
        let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.number == number) else { return };
        (attempt.moved, attempt.doubted) = (now, false);
        for piece in pieces {
            match piece {
                Piece::Read { .. } if self.read => {}
                Piece::Read { .. } => {
                    self.read = true;
                    out.push(SessionOrder::Show(piece));
                }
                Piece::Token(token) => {
                    attempt.first.get_or_insert(now);
                    self.request.written.push(token.id);
                    out.push(SessionOrder::Show(Piece::Token(token)));
                }
                Piece::End { finish, text, .. } => {
                    attempt.first.get_or_insert(now);
                    attempt.pay(out);
                    self.parts.extend(attempt.hearing.receipt().cloned());
                    let outcome = attempt.answered(now);
                    out.push(SessionOrder::Note(attempt.provider, outcome));
                    if let Some(objected) = self.objected.take() {
                        out.push(SessionOrder::Note(objected, AttemptOutcome::Failed));
                    }
                    return self.end(finish, text, out);
                }
            }
        }
        let Some(receipt) = attempt.hearing.sum() else { return };
        self.request.before = receipt.words;
        self.rendering = attempt.hearing.rendering().clone();
        if receipt.written - attempt.paid_written >= CHUNK / 2 {
            attempt.pay(out);
        }
    }

    /// The first that speaks is heard to the end; who was asked beside it is let go of.
    fn alone(&mut self, number: u32, out: &mut Outbox<SessionOrder>) {
        let others = self.attempts.extract_if(.., |attempt| attempt.number != number);
        for other in others {
            out.push(SessionOrder::Close(other.number));
            match other.hearing.receipt().cloned() {
                // It had begun, and fell silent.
                Some(part) => {
                    self.parts.push(part);
                    out.push(SessionOrder::Note(other.provider, AttemptOutcome::Failed));
                }
                // It never said anything, and may be gone.
                None if other.doubted && other.heard.is_none() => {
                    out.push(SessionOrder::Note(other.provider, AttemptOutcome::Failed))
                }
                None if other.doubted => {}
                // It was there in case, and may be asked again.
                None => self.asked.retain(|asked| *asked != other.provider),
            }
        }
    }

    /// Asks somebody else beside who is silent, and lets go of who is silent for too long.
    fn tick(&mut self, now: Millis, out: &mut Outbox<SessionOrder>) {
        let dead: Vec<u32> = self.attempts.iter().filter(|a| a.dead() <= now).map(|attempt| attempt.number).collect();
        for number in dead {
            self.remember(Reason::Failed("nobody answers".into()));
            self.drop_attempt(number, Some(AttemptOutcome::Failed), out);
        }
        let mut silent = false;
        for attempt in self.attempts.iter_mut().filter(|attempt| !attempt.doubted && attempt.silent() <= now) {
            (attempt.doubted, silent) = (true, true);
            attempt.quiet = attempt.reached && attempt.unheard() <= now;
        }
        if silent && self.attempts.iter().all(|attempt| attempt.doubted) {
            self.choose(out);
        }
    }

    /// What came is paid, and so is what a provider wrote until it was told to stop; what would have come is not.
    fn cancel(&mut self, now: Millis, out: &mut Outbox<SessionOrder>) {
        let gone: Vec<Attempt> = self.attempts.extract_if(.., |attempt| !attempt.stop(out)).collect();
        gone.iter().for_each(|attempt| out.push(SessionOrder::Close(attempt.number)));
        self.leaving = Some(now.plus(LEAVE_MS));
        self.end_if_left(out);
    }

    /// Takes the last words of those who were told to stop.
    fn leave(&mut self, now: Millis, input: SessionEvent, out: &mut Outbox<SessionOrder>) {
        let mut over = None;
        match input {
            SessionEvent::Frame(number, frame) => {
                if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.number == number) {
                    let more = match attempt.hearing.take(frame) {
                        Ok(Received::Nothing) => true,
                        Ok(Received::Pieces(pieces)) => !pieces.iter().any(|piece| matches!(piece, Piece::End { .. })),
                        Ok(_) => false,
                        Err(reject) => {
                            out.push(SessionOrder::Note(attempt.provider, AttemptOutcome::Lied(reject)));
                            false
                        }
                    };
                    over = (!more || attempt.is_capped()).then_some(number);
                }
            }
            SessionEvent::Wrong(number, _) | SessionEvent::Lost(number) => over = Some(number),
            // It cannot be paid: nobody waits for that.
            SessionEvent::Broke(number, _) => {
                let broke = self.attempts.extract_if(.., |attempt| attempt.number == number);
                broke.for_each(|attempt| out.push(SessionOrder::Close(attempt.number)));
            }
            _ => {}
        }
        let late = self.leaving.is_some_and(|until| until <= now);
        for mut attempt in self.attempts.extract_if(.., |attempt| late || over == Some(attempt.number)) {
            attempt.pay(out);
            out.push(SessionOrder::Close(attempt.number));
        }
        self.end_if_left(out);
    }

    fn end_if_left(&mut self, out: &mut Outbox<SessionOrder>) {
        if self.attempts.is_empty() {
            self.end(Err(Reason::Failed("it was cancelled".into())), String::new(), out);
        }
    }

    /// When it wants an [`SessionEvent::Tick`].
    pub fn deadline(&self) -> Option<Millis> {
        if self.leaving.is_some() {
            return self.leaving;
        }
        self.attempts.iter().map(|attempt| if attempt.doubted { attempt.dead() } else { attempt.silent() }).min()
    }
}

impl Machine for Session {
    type Input = SessionEvent;
    type Output = SessionOrder;

    fn step(&mut self, now: Millis, input: SessionEvent, out: &mut Outbox<SessionOrder>) {
        if self.ended {
            return;
        }
        if self.leaving.is_some() {
            return self.leave(now, input, out);
        }
        match input {
            SessionEvent::Begin => self.choose(out),
            SessionEvent::Chosen(candidate) => self.chosen(now, candidate, out),
            SessionEvent::Full(again_ms) => {
                self.remember(Reason::Busy(again_ms));
                self.chosen(now, None, out);
            }
            SessionEvent::Frame(number, frame) => self.frame(now, number, frame, out),
            SessionEvent::Wrong(number, reject) => {
                self.remember(Reason::Failed(format!("what came was no answer: {reject}")));
                self.drop_attempt(number, Some(AttemptOutcome::Lied(reject)), out);
            }
            SessionEvent::Reached(number) => {
                if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.number == number) {
                    attempt.reached = true;
                }
            }
            SessionEvent::Unreachable(number) => {
                self.remember(Reason::Failed("there is no way to the provider".into()));
                // Who is not reached has not fallen silent over the question.
                self.attempts.iter_mut().filter(|a| a.number == number).for_each(|a| a.quiet = false);
                self.drop_attempt(number, Some(AttemptOutcome::Failed), out);
            }
            SessionEvent::NoRoom(number) => {
                self.remember(Reason::Failed("this node has no room for more connections; try again soon".into()));
                self.drop_attempt(number, None, out);
            }
            SessionEvent::Lost(number) => {
                // Its process ended, or the way to it did: before the question was read it may have been the question.
                self.attempts.iter_mut().filter(|a| a.number == number).for_each(|a| a.quiet = true);
                self.remember(Reason::Failed("the way to the provider broke".into()));
                self.drop_attempt(number, Some(AttemptOutcome::Failed), out);
            }
            SessionEvent::Broke(number, why) => {
                let others = self.attempts.iter().any(|attempt| attempt.number != number);
                match self.attempts.iter().any(|attempt| attempt.number == number) {
                    // Another one may still be paid.
                    true if others => self.drop_attempt(number, None, out),
                    true => self.end(Err(Reason::Unpaid(why)), String::new(), out),
                    false => {}
                }
            }
            SessionEvent::Cancel => self.cancel(now, out),
            SessionEvent::Tick => self.tick(now, out),
        }
    }
}
