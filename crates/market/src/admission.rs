//! Who gets a place where more is asked than can be answered: whoever had least of late.
//!
//! A provider answers so many at a time, and as many may wait. First come, first served would favour whoever asks most
//! often. Here each client's time of late is remembered, halved every half minute (start-time fair queueing with a
//! memory that fades): the next free place goes to whoever had least, and where all are taken, a client that has had less
//! takes the place of one that waits and has had more. A client of which nothing is known begins with the mean of those
//! who were served of late, so that a new key for each question is no way to the front. Keys cost nothing: among those who pay
//! nothing this is fairness between keys, unless the caller names clients by something that costs more, as networks do.

use base::{Millis, NodeId};
use std::collections::BTreeMap;

/// The door of a model at a provider.
#[derive(Debug)]
pub struct FairQueue {
    places: usize,
    /// Let in beside those, so that a place that becomes free is taken at once.
    ahead: usize,
    next: u64,
    /// Who is inside, since when, and what it had had before.
    inside: BTreeMap<u64, (NodeId, Millis, u64)>,
    waiting: BTreeMap<u64, Waits>,
    had: BTreeMap<NodeId, Had>,
    /// With what a client begins of which nothing is known: what those had who were served of late, on average.
    fresh: Had,
    /// How long an answer takes here, on average.
    answer_ms: u64,
}

/// What happens to somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceTurn {
    /// It is its turn.
    In(u64),
    /// Another client, which had less, has its place now.
    Out(u64),
}

#[derive(Debug)]
struct Waits {
    who: NodeId,
    /// Nobody takes its place.
    firm: bool,
}

#[derive(Debug, Clone, Copy)]
struct Had {
    ms: u64,
    at: Millis,
}

/// What a client had counts half after this.
const HALF_MS: u64 = 30_000;
/// Clients that are remembered; whoever had least is forgotten first.
const CLIENTS_MAX: usize = 4096;
/// One answer counts so much in what a new client begins with.
const FRESH_PARTS: u64 = 8;
/// A place that was taken counts for so long at least.
const ANSWER_MS_MIN: u64 = 100;
/// How long an answer takes before one was measured.
const ANSWER_MS: u64 = 2_000;
/// Who finds everything taken comes back when a place may be free, but in these bounds.
const AGAIN_MS: (u64, u64) = (100, 20_000);

impl FairQueue {
    /// A door to so many places; as many may wait. `ahead` more are let in to stand ready behind it.
    pub fn new(places: usize, ahead: usize) -> Self {
        let (inside, waiting, had) = Default::default();
        let fresh = Had { ms: 0, at: Millis(0) };
        Self { places: places.max(1), ahead, next: 0, inside, waiting, had, fresh, answer_ms: ANSWER_MS }
    }

    /// Somebody wants a place. Gives its ticket, or none where everything is taken by those who had no more; and what
    /// changes for others. Its own turn may be among the changes. `firm`: it waits as long as it takes.
    pub fn knock(&mut self, now: Millis, who: NodeId, firm: bool) -> (Option<u64>, Vec<PlaceTurn>) {
        let mut turns = Vec::new();
        if !firm && self.waiting.len() >= self.places {
            let Some(out) = self.less_than_somebody(now, &who) else { return (None, turns) };
            self.waiting.remove(&out);
            turns.push(PlaceTurn::Out(out));
        }
        let ticket = self.next;
        self.next += 1;
        self.waiting.insert(ticket, Waits { who, firm });
        self.admit(now, &mut turns);
        (Some(ticket), turns)
    }

    /// Whether somebody who knocked now would be let wait.
    pub fn has_room(&self, now: Millis, who: &NodeId) -> bool {
        self.waiting.len() < self.places || self.less_than_somebody(now, who).is_some()
    }

    /// Somebody goes, answered or not, from inside or from before the door; gives who comes in.
    pub fn leave(&mut self, now: Millis, ticket: u64) -> Vec<PlaceTurn> {
        self.waiting.remove(&ticket);
        if let Some((who, since, before)) = self.inside.remove(&ticket) {
            let took = now.since(since);
            // Who comes and goes at once is no answer, and not for nothing.
            let took = took.max(ANSWER_MS_MIN);
            self.answer_ms = (self.answer_ms * 7 + took) / 8;
            let fresh =
                self.fresh.faded(now).saturating_mul(FRESH_PARTS - 1).saturating_add(before.saturating_add(took));
            self.fresh = Had { ms: fresh / FRESH_PARTS, at: now };
            let known = self.had.get(&who).map_or(0, |had| had.faded(now));
            let ms = known.saturating_add(took);
            self.had.insert(who, Had { ms, at: now });
            self.forget(now);
        }
        let mut turns = Vec::new();
        self.admit(now, &mut turns);
        turns
    }

    /// Milliseconds until there may be a place for one more, about.
    pub fn again_ms(&self) -> u64 {
        let before = self.waiting.len().saturating_sub(self.places) as u64 + 1;
        (self.answer_ms * before / self.places as u64).clamp(AGAIN_MS.0, AGAIN_MS.1)
    }

    /// Lets in those who had least, while there are places.
    fn admit(&mut self, now: Millis, turns: &mut Vec<PlaceTurn>) {
        while self.inside.len() < self.places + self.ahead {
            let had = |ticket: &u64, waits: &Waits| (self.share(now, &waits.who, false), *ticket);
            let first = self.waiting.iter().min_by_key(|(ticket, waits)| had(ticket, waits));
            let Some(ticket) = first.map(|(ticket, _)| *ticket) else { return };
            if let Some(waits) = self.waiting.remove(&ticket) {
                let before = self.faded(now, &waits.who);
                self.inside.insert(ticket, (waits.who, now, before));
                turns.push(PlaceTurn::In(ticket));
            }
        }
    }

    /// Who waits of the client that had most, if `who` would still have had less with one more. The last to come goes.
    fn less_than_somebody(&self, now: Millis, who: &NodeId) -> Option<u64> {
        let own = self.share(now, who, true) + self.answer_ms;
        let firm = |waits: &&Waits| !waits.firm;
        let shares = self.waiting.iter().filter(|(_, waits)| firm(waits) && waits.who != *who);
        let shares = shares.map(|(ticket, waits)| (self.share(now, &waits.who, true), *ticket));
        shares.max().filter(|(most, _)| *most > own).map(|(_, ticket)| ticket)
    }

    /// What a client had of late, in milliseconds: what is under way counts as an answer, what waits too where asked for.
    fn share(&self, now: Millis, who: &NodeId, waiting: bool) -> u64 {
        let inside = self.inside.values().filter(|(other, ..)| other == who).count();
        let waiting = if waiting { self.waiting.values().filter(|waits| waits.who == *who).count() } else { 0 };
        self.faded(now, who) + self.answer_ms * (inside + waiting) as u64
    }

    fn faded(&self, now: Millis, who: &NodeId) -> u64 {
        self.had.get(who).unwrap_or(&self.fresh).faded(now)
    }

    fn forget(&mut self, now: Millis) {
        if self.had.len() > CLIENTS_MAX {
            let least = self.had.iter().min_by_key(|(_, had)| had.faded(now)).map(|(who, _)| *who);
            least.and_then(|who| self.had.remove(&who));
        }
    }
}

impl Had {
    /// Halved every half-life, on a straight line between.
    fn faded(&self, now: Millis) -> u64 {
        let past = now.since(self.at);
        let half = self.ms.checked_shr(u32::try_from(past / HALF_MS).unwrap_or(u32::MAX)).unwrap_or(0);
        half - half.saturating_mul(past % HALF_MS) / (2 * HALF_MS)
    }
}
