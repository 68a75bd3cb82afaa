//! One pass over one run: what the state asks of this node now.

use super::{FETCH_RETRY_MS, Fetch, Intent, Making, Output, Part, Train, Update};
use crate::state::{Candidate, Member, RoundState, Run, Standing};
use crate::{Attest, Init, WorkTx};
use base::{Hash, Millis, NodeId, Outbox};
use std::collections::BTreeSet;
use std::ops::Bound;

/// Said again when the log has not taken it after so long.
const RETRY_MS: u64 = 3_000;
/// Versions by which who comes back may be behind one that trains alone: the log takes no more than 56.
const BEHIND_ALONE: u64 = 16;
/// Updates fetched at a time.
const FETCHES_MAX: usize = 16;
/// Sources named for a fetch.
const SOURCES_MAX: usize = 32;
/// Updates of closed rounds are kept for others this many rounds.
const UPDATES_KEPT: u64 = 24;

/// One pass over one run.
pub(super) struct Acting<'a> {
    pub(super) me: NodeId,
    pub(super) now: Millis,
    pub(super) will: Intent,
    pub(super) run: &'a Run,
    pub(super) part: &'a mut Part,
    pub(super) out: &'a mut Outbox<Output>,
}

impl Acting<'_> {
    pub(super) fn all(&mut self) {
        for round in &self.run.open {
            self.part.seen.entry(round.round).or_insert(self.now);
        }
        if self.part.quit {
            if self.run.members.contains_key(&self.me) {
                self.say("leave", 0, WorkTx::Leave { run: self.run.id });
            }
            return;
        }
        if self.rests() {
            let active = self.run.members.get(&self.me).is_some_and(|member| member.status == Standing::Active);
            if active && !self.run.ended {
                self.say("rest", 0, WorkTx::Rest { run: self.run.id });
            }
            return;
        }
        self.help_decide();
        if !self.run.spec.admits(&self.me) || self.disputed() {
            return;
        }
        // Before the weights move on: an owed unit begins from the version held now.
        self.train();
        self.weights();
        let Some(member) = self.run.members.get(&self.me) else {
            if !self.run.ended {
                self.say("join", 0, WorkTx::Join { run: self.run.id, class: self.part.class });
            }
            return;
        };
        if member.class != self.part.class && !self.run.ended {
            // Another program or device than the one that joined: what it computes is of another class.
            self.say("leave", 0, WorkTx::Leave { run: self.run.id });
            return;
        }
        if self.run.ended {
            self.finish(member);
        } else if member.status != Standing::Active {
            self.become_ready();
        } else if self.pauses() {
            self.say("rest", 0, WorkTx::Rest { run: self.run.id });
        }
        self.train();
        self.commit();
        for i in 0..self.run.open.len() {
            self.exchange(&self.run.open[i]);
        }
        self.forget();
    }

    /// Whether nothing is computed any more: at once, or when what was under way is done and said.
    fn rests(&self) -> bool {
        let said = self.part.memory.said.as_ref();
        let owed = |round: &RoundState| round.is_training() && round.owes(&self.me);
        let says = said.is_some_and(|said| self.run.open.iter().any(|r| r.round == said.round && owed(r)));
        match self.will {
            Intent::Work => false,
            Intent::Drain => self.part.training.is_none() && !says,
            Intent::Rest => true,
        }
    }

    /// Whether a failed unit keeps this node from beginning another; it follows the run meanwhile.
    fn pauses(&mut self) -> bool {
        let pauses = self.now < self.part.pause_until;
        if pauses {
            self.out.push(Output::Wake(self.part.pause_until));
        }
        pauses
    }

    /// Moves the weights towards the newest version.
    fn weights(&mut self) {
        if self.part.weights_busy.is_some() {
            return;
        }
        let Some((version, root)) = self.part.weights else { return self.first_weights() };
        // Roots of versions that this node never confirmed may be a restart's: believe the quorum.
        if self.run.roots.get(&version).is_some_and(|agreed| *agreed != root) && self.part.made(version).is_none() {
            self.part.weights = None;
            return self.first_weights();
        }
        if version >= self.run.version() {
            return;
        }
        let Some(closed) = self.run.closed_round(version) else {
            self.part.weights = None;
            return self.first_weights();
        };
        match closed.plain {
            // Nobody may hold that very version any more; the newest is as good.
            Some((member, _)) if member != self.me => self.newest(),
            _ if self.hold(&closed.set, None) => {
                self.part.weights_busy = Some(Making::Here);
                self.out.push(Output::Apply { run: self.run.id, closed: Box::new(closed.clone()) });
            }
            _ if closed.set.iter().any(|c| self.unobtainable(&c.update)) => self.newest(),
            _ => {}
        }
    }

    /// Without weights: the initial ones, or the newest that a quorum reported.
    fn first_weights(&mut self) {
        match (self.run.version(), self.run.spec.init) {
            (0, Init::Seed) => {
                self.part.weights_busy = Some(Making::Here);
                self.out.push(Output::Init(self.run.id));
            }
            (0, Init::Root(root)) => self.sync(0, root),
            _ => self.newest(),
        }
    }

    fn newest(&mut self) {
        let known = self.run.roots.last_key_value().map(|(version, root)| (*version, *root));
        let ahead = known.filter(|(version, _)| self.part.weights.is_none_or(|(held, _)| *version > held));
        if let Some((version, root)) = ahead {
            self.sync(version, root);
        } else if self.part.weights.is_none() && self.run.spec.init == Init::Seed && self.run.closed_round(0).is_some()
        {
            // No root is agreed yet, but every set is kept: from the beginning.
            self.part.weights_busy = Some(Making::Here);
            self.out.push(Output::Init(self.run.id));
        }
    }

    fn sync(&mut self, version: u64, root: Hash) {
        let sources = self.sources(None);
        if self.recently(("sync", version), FETCH_RETRY_MS) {
            return;
        }
        self.part.weights_busy = Some(Making::Elsewhere);
        self.out.push(Output::Sync { run: self.run.id, version, root, sources });
    }

    /// Says the root of the last weights: no later commit will.
    fn finish(&mut self, member: &Member) {
        let last = self.run.next.0;
        let own = self.part.made(last).filter(|_| member.status == Standing::Active);
        let missing = !self.run.roots.contains_key(&last) && !self.run.finals.contains_key(&self.me);
        if let Some(root) = own.filter(|_| missing) {
            self.say("final", last, WorkTx::Final { run: self.run.id, root });
        }
    }

    fn become_ready(&mut self) {
        if self.pauses() {
            return;
        }
        let Some((version, root)) = self.part.weights else { return };
        if self.run.aside(&self.me).is_some() {
            return;
        }
        // One that trains alone may be quicker than its weights can be fetched; it waits for whoever takes part.
        let next = self.run.closed_round(version).and_then(|closed| closed.plain);
        let alone = next.is_some_and(|(member, _)| member != self.me);
        let behind = self.run.version().saturating_sub(version);
        if behind <= if alone { BEHIND_ALONE } else { 1 } {
            self.say("ready", version, WorkTx::Ready { run: self.run.id, version, root });
        }
    }

    fn train(&mut self) {
        if self.will != Intent::Work || self.pauses() {
            return;
        }
        let Some(round) = self.run.owed(&self.me) else { return };
        let base = round.base;
        let busy = self.part.training.is_some()
            || self.part.failed.contains(&round.round)
            || self.part.memory.said.as_ref().is_some_and(|said| said.round == round.round);
        let Some((version, root)) = self.part.weights else { return };
        let Some(slot) = round.slot(&self.me).filter(|_| !busy && version == base && self.part.weights_busy.is_none())
        else {
            return;
        };
        let private = self.run.members.get(&self.me).map(|m| m.private).unwrap_or_default();
        // What this node has is not what the log expects (another process, a lost disk): declare it lost.
        let state = if private == self.part.memory.state { private } else { Hash::default() };
        let settled = self.run.settle(base, &mut self.part.memory.unsettled.clone());
        // Lost is lost: who begins with an empty state gets nothing back, the same for whoever replays it.
        let settle = if state == Hash::default() { Vec::new() } else { settled };
        let inherit = slot.inherit.filter(|_| state == Hash::default());
        let pending = self.run.pending(&self.me, round.round, base);
        let late = self.part.seen.get(&round.round).map_or(0, |seen| self.now.since(*seen));
        self.part.training = Some(round.round);
        self.out.push(Output::Train(Box::new(Train {
            run: self.run.id,
            round: round.round,
            base,
            root,
            micro_batches: slot.micro_batches,
            position: slot.position,
            tokens_before: round.tokens_before,
            steps_before: round.steps_before,
            window_ms: self.run.spec.train_window_ms.saturating_sub(late),
            plain: round.plan.len() == 1,
            state,
            inherit,
            settle,
            pending,
        })));
    }

    fn commit(&mut self) {
        let Some(said) = self.part.memory.said.clone() else { return };
        let owed = self.run.open.iter().any(|r| r.round == said.round && r.is_training() && r.owes(&self.me));
        if owed {
            self.say("commit", said.round.0, WorkTx::Commit { commit: said });
        }
    }

    /// Fetches what an exchange needs and attests when all is there, or when time runs out.
    fn exchange(&mut self, round: &RoundState) {
        if round.is_training() || round.plan.len() == 1 {
            return;
        }
        let complete = self.hold(&round.candidates, Some(round));
        if !round.committee.contains(&self.me) || round.attests.contains_key(&self.me) {
            return;
        }
        let window = round.until.since(round.since);
        let by = *self.part.attest_by.entry(round.round).or_insert(self.now.plus(window.saturating_sub(window / 4)));
        let final_word = round
            .candidates
            .iter()
            .all(|c| matches!(self.part.updates.get(&c.update), Some((_, Update::Held | Update::Refused))));
        if !(complete || final_word || self.now >= by) {
            self.out.push(Output::Wake(by));
            return;
        }
        let base = round.base;
        let root = self.part.roots.get(&base).map(|(root, _)| *root);
        let root = root.or(self.part.weights.filter(|(version, _)| *version == base).map(|(_, root)| root));
        let Some(root) = root else { return };
        let mut held = vec![0u8; round.candidates.len().div_ceil(8)];
        for (i, candidate) in round.candidates.iter().enumerate() {
            let have = matches!(self.part.updates.get(&candidate.update), Some((_, Update::Held)));
            held[i / 8] |= u8::from(have) << (i % 8);
        }
        self.say(
            "attest",
            round.round.0,
            WorkTx::Attest { attest: Attest { run: self.run.id, round: round.round, root, held } },
        );
    }

    /// Whether all of these updates are held; asks for those that are not.
    fn hold(&mut self, candidates: &[Candidate], round: Option<&RoundState>) -> bool {
        let mut all = true;
        let mut sources = None;
        let fetching = |part: &Part| part.updates.values().filter(|(_, state)| *state == Update::Fetching).count();
        let mut room = None;
        for candidate in candidates {
            let state = self.part.updates.get(&candidate.update).map(|(_, state)| *state);
            if state == Some(Update::Held) {
                continue;
            }
            all = false;
            let retry = match state {
                None => true,
                Some(Update::Missing(at)) if at <= self.now => true,
                Some(Update::Missing(at)) => {
                    self.out.push(Output::Wake(at));
                    false
                }
                _ => false,
            };
            if !retry {
                continue;
            }
            let room = room.get_or_insert_with(|| FETCHES_MAX.saturating_sub(fetching(self.part)));
            if *room > 0 {
                *room = room.saturating_sub(1);
                self.part.updates.insert(candidate.update, (candidate.round.0, Update::Fetching));
                let sources = sources.get_or_insert_with(|| self.sources(round));
                let others = sources.iter().filter(|id| **id != candidate.member);
                let first = std::iter::once(&candidate.member).filter(|id| **id != self.me);
                let sources = first.chain(others).copied().collect();
                self.out.push(Output::Fetch(Box::new(Fetch {
                    run: self.run.id,
                    candidate: candidate.clone(),
                    sources,
                })));
            }
        }
        all
    }

    fn unobtainable(&self, update: &Hash) -> bool {
        matches!(self.part.updates.get(update), Some((_, Update::Missing(_) | Update::Refused)))
    }

    /// Members that may have what this node lacks: those that attested first, then those that follow
    /// it in the ring of identities, so that load spreads.
    pub(super) fn sources(&self, round: Option<&RoundState>) -> Vec<NodeId> {
        let attested = round.into_iter().flat_map(|round| round.attests.keys());
        let mut out: Vec<NodeId> = attested.filter(|id| **id != self.me).copied().collect();
        let members = &self.run.members;
        let ring = members.range((Bound::Excluded(self.me), Bound::Unbounded)).chain(members.range(..self.me));
        let active = ring.filter(|(_, member)| member.status == Standing::Active).map(|(id, _)| *id);
        for id in active.take(SOURCES_MAX) {
            if out.len() >= SOURCES_MAX {
                break;
            }
            if !out.contains(&id) {
                out.push(id);
            }
        }
        out
    }

    /// Says something on the log, again after a while when the state does not show it.
    pub(super) fn say(&mut self, what: &'static str, of: u64, tx: WorkTx) {
        if !self.recently((what, of), RETRY_MS) {
            self.out.push(Output::Submit(tx));
        }
    }

    /// Whether `what` was done within `ms`; otherwise notes that it is done now.
    fn recently(&mut self, what: (&'static str, u64), ms: u64) -> bool {
        let due = self.part.said.get(&what).map_or(self.now, |at| at.plus(ms));
        if due > self.now {
            self.out.push(Output::Wake(due));
            return true;
        }
        self.part.said.insert(what, self.now);
        self.out.push(Output::Wake(self.now.plus(ms)));
        false
    }

    /// Lets go of updates that nobody will ask for any more.
    fn forget(&mut self) {
        let oldest = self.run.version().saturating_sub(UPDATES_KEPT);
        let unsettled: BTreeSet<Hash> = self.part.memory.unsettled.iter().map(|(_, update)| *update).collect();
        let gone: Vec<Hash> = (self.part.updates.iter())
            .filter(|(hash, (round, state))| *round < oldest && *state != Update::Fetching && !unsettled.contains(hash))
            .map(|(hash, _)| *hash)
            .collect();
        for hash in &gone {
            self.part.updates.remove(hash);
        }
        self.part.failed.retain(|round| round.0 >= oldest);
        self.part.seen.retain(|round, _| round.0 >= oldest);
        self.part.attest_by.retain(|round, _| round.0 >= oldest);
        self.part.said.retain(|(_, of), _| *of == 0 || *of >= oldest);
        if !gone.is_empty() {
            self.out.push(Output::Forget(self.run.id, gone));
        }
    }
}
