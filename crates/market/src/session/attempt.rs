//! One provider that was asked a question: how long it is waited for, and what it is paid.

use super::SessionOrder;
use crate::talk::{ALIVE_MS, AnswerReader, CHUNK};
use crate::{AttemptOutcome, ProviderCandidate};
use base::{Millis, NodeId, Outbox};
use ledger::Credits;

/// A provider that was reached and says nothing for so long is taken for dead, and another one is asked beside it.
pub const SILENT_MS: u64 = 4 * ALIVE_MS;
/// So long for one that has to be reached first.
pub const REACH_MS: u64 = 1_500;
/// What is silent for so long is let go of.
const DEAD_MS: u64 = 10_000;
/// A provider takes a question or not within this; then another one is asked beside it, and after twice that it is left.
const TAKE_MS: u64 = 5_000;
/// The same from one piece of an answer to the next: a long question on a slow machine takes its time, and so does the
/// answer before it.
const PIECE_MS: u64 = 60_000;
/// Somebody else is asked beside a provider that took a question and has no turn for it so long, whatever reading
/// takes.
const TURN_MS: u64 = 10_000;
/// Reading takes so many times what was measured or claimed, or somebody else is asked beside it.
const READING_TIMES: u64 = 3;
/// What a provider had begun when it was told to stop is heard and paid if it comes within this.
pub(crate) const LEAVE_MS: u64 = 2_000;
/// Tokens that an honest one is ahead at most where this is the only answer: what it writes before it is paid, and what is
/// on its way. Beside others it may write more, which is its loss.
const RUN_AHEAD: u64 = 2 * CHUNK;

/// A provider that was asked.
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) hearing: AnswerReader,
    pub(crate) provider: NodeId,
    pub(crate) opened: Millis,
    /// Its last sign of life.
    pub(crate) heard: Option<Millis>,
    /// When it last did something.
    pub(crate) moved: Millis,
    pub(crate) first: Option<Millis>,
    pub(crate) paid: Credits,
    /// Tokens that are paid.
    pub(crate) paid_written: u64,
    /// Somebody else was asked because it was silent.
    pub(crate) doubted: bool,
    /// It got the question.
    pub(crate) reached: bool,
    /// It got the question and says nothing, or ended over it.
    pub(crate) quiet: bool,
    /// It has answered well before.
    pub(crate) known: bool,
    /// It is this node's own: its queue is the owner's, and its turn comes.
    pub(crate) own: bool,
    /// Tokens that it reads in a second, as far as known.
    pub(crate) prompt_rate: u64,
    /// What it is paid at most, once it was told to stop.
    pub(crate) cap: Option<Credits>,
}

impl Attempt {
    /// One that is asked now; `own` where it is this node itself.
    pub(crate) fn new(
        number: u32,
        now: Millis,
        candidate: &ProviderCandidate,
        hearing: AnswerReader,
        own: bool,
    ) -> Self {
        Self {
            number,
            hearing,
            provider: candidate.provider,
            opened: now,
            heard: None,
            moved: now,
            first: None,
            paid: Credits::ZERO,
            paid_written: 0,
            doubted: false,
            reached: false,
            quiet: false,
            known: candidate.known,
            own,
            prompt_rate: candidate.prompt_rate,
            cap: None,
        }
    }

    /// Whether it got the question and was not heard of since, or failed at it, before it was read.
    pub(crate) fn is_lost_over_it(&self) -> bool {
        self.quiet && !self.hearing.is_read()
    }

    /// How much it says that the question ends whoever reads it. Strangers end at will, and cost nothing.
    pub(crate) fn death(&self) -> usize {
        match (self.is_lost_over_it(), self.known || self.own) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
    }

    /// When it is taken for silent, or for one that only says that it lives.
    pub(crate) fn silent(&self) -> Millis {
        self.unheard().min(self.moved.plus(self.patience()))
    }

    /// When it has not been heard for too long.
    pub(crate) fn unheard(&self) -> Millis {
        self.heard.map_or(self.opened.plus(REACH_MS), |heard| heard.plus(SILENT_MS))
    }

    /// When it is taken for dead. Long after it was doubted: it costs little to wait for who says that it is there, and
    /// whoever is left has waited in its line for nothing.
    pub(crate) fn dead(&self) -> Millis {
        let unheard = self.heard.unwrap_or(self.opened).plus(DEAD_MS);
        match self.hearing.sum() {
            _ if self.own => unheard,
            None => unheard.min(self.moved.plus(2 * TAKE_MS)),
            Some(_) => unheard.min(self.moved.plus(2 * PIECE_MS)),
        }
    }

    fn patience(&self) -> u64 {
        match self.hearing.sum() {
            None => TAKE_MS,
            Some(_) if self.hearing.is_read() => PIECE_MS,
            // Whoever says that it lives and reads nothing is not waited for as one that reads a long question.
            Some(sum) => {
                let reading = (sum.read + sum.from).saturating_mul(1000) / self.prompt_rate.max(1);
                TURN_MS.saturating_add(reading.saturating_mul(READING_TIMES)).min(PIECE_MS)
            }
        }
    }

    /// Pays what was delivered and not paid.
    pub(crate) fn pay(&mut self, out: &mut Outbox<SessionOrder>) {
        let Some(receipt) = self.hearing.sum() else { return };
        let cost = self.cap.map_or(receipt.cost, |cap| receipt.cost.min(cap));
        let due = cost.less(self.paid).unwrap_or_default();
        self.paid_written = receipt.written;
        if due > Credits::ZERO {
            self.paid = cost;
            out.push(SessionOrder::Pay { attempt: self.number, provider: self.provider, amount: due });
        }
    }

    /// Pays what was delivered, and tells it to stop: whether more is on its way that is to be paid.
    pub(crate) fn stop(&mut self, out: &mut Outbox<SessionOrder>) -> bool {
        self.pay(out);
        let Some(receipt) = self.hearing.sum() else { return false };
        let cap = receipt.cost.plus(receipt.price.of(0, RUN_AHEAD)).unwrap_or(receipt.cost);
        let more = !self.own && cap > receipt.cost;
        if more {
            self.cap = Some(cap);
            out.push(SessionOrder::Stop { attempt: self.number, begun: self.hearing.is_read() });
        }
        more
    }

    /// Whether nothing more of it is to be paid.
    pub(crate) fn is_capped(&self) -> bool {
        let cost = self.hearing.sum().map(|receipt| receipt.cost);
        self.cap.zip(cost).is_some_and(|(cap, cost)| cost >= cap)
    }

    pub(crate) fn answered(&self, now: Millis) -> AttemptOutcome {
        let first = self.first.unwrap_or(now);
        let (read, written) = self.hearing.sum().map_or((0, 0), |sum| (sum.read + sum.from, sum.written));
        AttemptOutcome::Answered { first_ms: first.since(self.opened), read, rest_ms: now.since(first), written }
    }
}
