//! One question on its way: asks a provider, asks another one where that one is busy, silent, dead or dishonest, and
//! goes on in the middle of an answer from the last word that was signed.

use crate::talk::{ALIVE_MS, CHUNK, Heard, Hearing, Request};
use crate::{Candidate, Frame, Outcome, Piece, Reason, Receipt};
use base::{Machine, Millis, NodeId, Outbox, Reject, Signed};
use ledger::Credits;

/// A provider that was reached and says nothing for so long is taken for dead, and another one is asked beside it.
pub const SILENT_MS: u64 = 4 * ALIVE_MS;
/// So long for one that has to be reached first.
pub const REACH_MS: u64 = 1_500;
/// What is silent for so long is let go of.
const DEAD_MS: u64 = 10_000;
/// A provider takes a question or not within this; then another one is asked beside it, and after twice that it is left.
const TAKE_MS: u64 = 5_000;
/// The same from one piece of an answer to the next: a long question on a slow machine takes its time.
const PIECE_MS: u64 = 60_000;
/// Providers asked for one answer.
const TRIES_MAX: u32 = 8;

/// What happens to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// It is asked.
    Begin,
    /// Whom to ask, after [`Output::Choose`].
    Chosen(Option<Candidate>),
    /// Instead: everybody who could be asked is known to be busy for so many milliseconds.
    Full(u64),
    /// What a provider said, by the number of the attempt.
    Frame(u32, Frame),
    /// What it sent was no frame.
    Wrong(u32, Reject),
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
pub enum Output {
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
    Note(NodeId, Outcome),
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
    ended: bool,
}

struct Attempt {
    number: u32,
    hearing: Hearing,
    provider: NodeId,
    opened: Millis,
    /// Its last sign of life.
    heard: Option<Millis>,
    /// When it last did something.
    moved: Millis,
    first: Option<Millis>,
    paid: Credits,
    /// Tokens that are paid.
    paid_written: u64,
    /// Somebody else was asked because it was silent.
    doubted: bool,
}

impl Session {
    /// A question of `client`.
    pub fn new(client: NodeId, request: Request) -> Self {
        let (attempts, asked, parts) = (Vec::new(), Vec::new(), Vec::new());
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

    fn choose(&mut self, out: &mut Outbox<Output>) {
        if self.choosing || self.ended {
            return;
        }
        if self.tries >= TRIES_MAX {
            return self.give_up(out);
        }
        self.choosing = true;
        out.push(Output::Choose(self.asked.clone()));
    }

    fn chosen(&mut self, now: Millis, candidate: Option<Candidate>, out: &mut Outbox<Output>) {
        self.choosing = false;
        let Some(candidate) = candidate else { return self.give_up(out) };
        let (provider, offer) = (candidate.provider, candidate.offer);
        self.tries += 1;
        self.asked.push(provider);
        (self.request.chain, self.request.price) = (offer.chain, offer.price);
        let request = self.request.clone();
        let hearing = Hearing::new(provider, self.client, request.clone(), u64::from(offer.context));
        let number = self.tries;
        self.attempts.push(Attempt {
            number,
            hearing,
            provider,
            opened: now,
            heard: None,
            moved: now,
            first: None,
            paid: Credits::ZERO,
            paid_written: 0,
            doubted: false,
        });
        out.push(Output::Open { attempt: number, provider, request: Box::new(request) });
    }

    /// Nobody is left who could be asked. One that is only silent may still speak.
    fn give_up(&mut self, out: &mut Outbox<Output>) {
        if !self.attempts.is_empty() {
            return;
        }
        let model = self.request.ask.model.clone();
        let reason = self.reason.take().unwrap_or(Reason::Model(model));
        self.end(Err(reason), String::new(), out);
    }

    fn end(&mut self, finish: Result<crate::Finish, Reason>, text: String, out: &mut Outbox<Output>) {
        self.ended = true;
        for attempt in self.attempts.drain(..) {
            out.push(Output::Close(attempt.number));
        }
        let tokens = self.request.written.len() as u64;
        out.push(Output::Show(Piece::End { finish, text, tokens }));
    }

    /// An attempt is over without an answer; the question goes to somebody else.
    fn drop_attempt(&mut self, number: u32, outcome: Option<Outcome>, out: &mut Outbox<Output>) {
        let Some(at) = self.attempts.iter().position(|attempt| attempt.number == number) else { return };
        let attempt = self.attempts.remove(at);
        self.parts.extend(attempt.hearing.receipt().cloned());
        out.push(Output::Close(number));
        if let Some(outcome) = outcome {
            out.push(Output::Note(attempt.provider, outcome));
        }
        // One that is silent may be dead: it is not waited for.
        if self.attempts.iter().all(|attempt| attempt.doubted) {
            self.choose(out);
        }
    }

    fn frame(&mut self, now: Millis, number: u32, frame: Frame, out: &mut Outbox<Output>) {
        let Some(at) = self.attempts.iter().position(|attempt| attempt.number == number) else { return };
        let attempt = &mut self.attempts[at];
        attempt.heard = Some(now);
        let provider = attempt.provider;
        let terms = if let Frame::Taken { terms } = &frame { Some(Box::new(terms.clone())) } else { None };
        match attempt.hearing.take(frame) {
            Err(reject) => {
                self.remember(Reason::Failed(format!(
                    "{} sent what no honest provider sends: {reject}",
                    provider.short()
                )));
                self.drop_attempt(number, Some(Outcome::Lied(reject)), out);
            }
            Ok(Heard::Nothing) => {}
            Ok(Heard::Taken(cost)) => {
                attempt.moved = now;
                if let Some(terms) = terms {
                    out.push(Output::Taken(terms, number));
                }
                // What is read is paid before it is read; an answer by chunks after they came.
                if !self.request.price.is_free() {
                    attempt.paid = cost;
                    out.push(Output::Pay { attempt: number, provider, amount: cost });
                }
            }
            Ok(Heard::Refused(reason)) => self.refused(number, reason, out),
            Ok(Heard::Pieces(pieces)) => self.pieces(now, number, pieces, out),
        }
    }

    fn refused(&mut self, number: u32, reason: Reason, out: &mut Outbox<Output>) {
        let Some(attempt) = self.attempts.iter().find(|attempt| attempt.number == number) else { return };
        let provider = attempt.provider;
        // Who took a question has nothing to say against it any more, but that somebody else's turn came first: not when
        // it has a fee or has begun to write.
        let begun = attempt.hearing.sum().is_some_and(|sum| sum.cost > Credits::ZERO || sum.written > 0);
        let outcome = match &reason {
            Reason::Busy(_) if begun => Some(Outcome::Failed),
            _ if attempt.hearing.sum().is_some() && !matches!(reason, Reason::Busy(_)) => Some(Outcome::Failed),
            Reason::Busy(again_ms) => Some(Outcome::Busy { again_ms: *again_ms }),
            // Another one may take more.
            Reason::TooLong { .. } => None,
            Reason::Unsupported { .. } | Reason::Invalid { .. } => {
                if self.objected.is_some_and(|other| other != provider) {
                    return self.end(Err(reason), String::new(), out);
                }
                self.objected = Some(provider);
                None
            }
            _ => Some(Outcome::Failed),
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

    fn pieces(&mut self, now: Millis, number: u32, pieces: Vec<Piece>, out: &mut Outbox<Output>) {
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
                    out.push(Output::Show(piece));
                }
                Piece::Token(token) => {
                    attempt.first.get_or_insert(now);
                    self.request.written.push(token.id);
                    out.push(Output::Show(Piece::Token(token)));
                }
                Piece::End { finish, text, .. } => {
                    attempt.first.get_or_insert(now);
                    attempt.pay(out);
                    self.parts.extend(attempt.hearing.receipt().cloned());
                    let outcome = attempt.answered(now);
                    out.push(Output::Note(attempt.provider, outcome));
                    if let Some(objected) = self.objected.take() {
                        out.push(Output::Note(objected, Outcome::Failed));
                    }
                    return self.end(finish, text, out);
                }
            }
        }
        let Some(receipt) = attempt.hearing.sum() else { return };
        self.request.before = receipt.words;
        if receipt.written - attempt.paid_written >= CHUNK / 2 {
            attempt.pay(out);
        }
    }

    /// The first that speaks is heard to the end; who was asked beside it is let go of.
    fn alone(&mut self, number: u32, out: &mut Outbox<Output>) {
        let others = self.attempts.extract_if(.., |attempt| attempt.number != number);
        for other in others {
            out.push(Output::Close(other.number));
            match other.hearing.receipt().cloned() {
                // It had begun, and fell silent.
                Some(part) => {
                    self.parts.push(part);
                    out.push(Output::Note(other.provider, Outcome::Failed));
                }
                // It never said anything, and may be gone.
                None if other.doubted && other.heard.is_none() => {
                    out.push(Output::Note(other.provider, Outcome::Failed))
                }
                None if other.doubted => {}
                // It was there in case, and may be asked again.
                None => self.asked.retain(|asked| *asked != other.provider),
            }
        }
    }

    /// Asks somebody else beside who is silent, and lets go of who is silent for too long.
    fn tick(&mut self, now: Millis, out: &mut Outbox<Output>) {
        let dead: Vec<u32> = self.attempts.iter().filter(|a| a.dead() <= now).map(|attempt| attempt.number).collect();
        for number in dead {
            self.remember(Reason::Failed("nobody answers".into()));
            self.drop_attempt(number, Some(Outcome::Failed), out);
        }
        let mut silent = false;
        for attempt in self.attempts.iter_mut().filter(|attempt| !attempt.doubted && attempt.silent() <= now) {
            (attempt.doubted, silent) = (true, true);
        }
        if silent && self.attempts.iter().all(|attempt| attempt.doubted) {
            self.choose(out);
        }
    }

    /// When it wants an [`Input::Tick`].
    pub fn deadline(&self) -> Option<Millis> {
        self.attempts.iter().map(|attempt| if attempt.doubted { attempt.dead() } else { attempt.silent() }).min()
    }
}

impl Attempt {
    /// When it is taken for silent, or for one that only says that it lives.
    fn silent(&self) -> Millis {
        let silent = self.heard.map_or(self.opened.plus(REACH_MS), |heard| heard.plus(SILENT_MS));
        silent.min(self.moved.plus(self.patience()))
    }

    /// When it is taken for dead.
    fn dead(&self) -> Millis {
        self.heard.unwrap_or(self.opened).plus(DEAD_MS).min(self.moved.plus(2 * self.patience()))
    }

    fn patience(&self) -> u64 {
        if self.hearing.sum().is_some() { PIECE_MS } else { TAKE_MS }
    }

    /// Pays what was delivered and not paid.
    fn pay(&mut self, out: &mut Outbox<Output>) {
        let Some(receipt) = self.hearing.sum() else { return };
        let due = receipt.cost.less(self.paid).unwrap_or_default();
        self.paid_written = receipt.written;
        if due > Credits::ZERO {
            self.paid = receipt.cost;
            out.push(Output::Pay { attempt: self.number, provider: self.provider, amount: due });
        }
    }

    fn answered(&self, now: Millis) -> Outcome {
        let first = self.first.unwrap_or(now);
        let (read, written) = self.hearing.sum().map_or((0, 0), |sum| (sum.read + sum.from, sum.written));
        Outcome::Answered { first_ms: first.since(self.opened), read, rest_ms: now.since(first), written }
    }
}

impl Machine for Session {
    type Input = Input;
    type Output = Output;

    fn step(&mut self, now: Millis, input: Input, out: &mut Outbox<Output>) {
        if self.ended {
            return;
        }
        match input {
            Input::Begin => self.choose(out),
            Input::Chosen(candidate) => self.chosen(now, candidate, out),
            Input::Full(again_ms) => {
                self.remember(Reason::Busy(again_ms));
                self.chosen(now, None, out);
            }
            Input::Frame(number, frame) => self.frame(now, number, frame, out),
            Input::Wrong(number, reject) => {
                self.remember(Reason::Failed(format!("what came was no answer: {reject}")));
                self.drop_attempt(number, Some(Outcome::Lied(reject)), out);
            }
            Input::Lost(number) => {
                self.remember(Reason::Failed("the way to the provider broke".into()));
                self.drop_attempt(number, Some(Outcome::Failed), out);
            }
            Input::Broke(number, why) => {
                let others = self.attempts.iter().any(|attempt| attempt.number != number);
                match self.attempts.iter().any(|attempt| attempt.number == number) {
                    // Another one may still be paid.
                    true if others => self.drop_attempt(number, None, out),
                    true => self.end(Err(Reason::Unpaid(why)), String::new(), out),
                    false => {}
                }
            }
            Input::Cancel => {
                // What came is paid, what would have come is not.
                self.attempts.iter_mut().for_each(|attempt| attempt.pay(out));
                self.end(Err(Reason::Failed("it was cancelled".into())), String::new(), out);
            }
            Input::Tick => self.tick(now, out),
        }
    }
}
