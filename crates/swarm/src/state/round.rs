//! A round: open with a plan, commit, exchange, close. Every rule of `training.md` §2 about order
//! and time is here; nobody sends "close", time and completeness do.

use super::Run;
use super::event::RunEvent;
use super::member::{Member, Standing};
use super::plan::{Slot, assign, middle_rate, rate_max};
use crate::{Attest, Commit};
use base::{Hash, Millis, NodeId, Reject, Round, Wire, wire_enum, wire_struct};
use std::collections::BTreeMap;

/// Where a round stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Units are computed and committed.
    Train,
    /// Bytes move and are attested.
    Exchange,
}

/// An update that may come into the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Whose.
    pub member: NodeId,
    /// The round for which it was computed (an earlier one after a void round).
    pub round: Round,
    /// Chunk-tree root of the bytes.
    pub update: Hash,
    /// Their number.
    pub size: u64,
    /// Weight.
    pub tokens: u64,
    /// Bits of the squared norm (f64).
    pub norm_sq_bits: u64,
}

/// An open round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundState {
    /// Its number.
    pub round: Round,
    /// Where it stands.
    pub phase: Phase,
    /// When the phase began.
    pub since: Millis,
    /// When the phase ends at the latest.
    pub until: Millis,
    /// When the round opened.
    pub opened: Millis,
    /// Who does what.
    pub plan: Vec<Slot>,
    /// The version of the weights from which it trains.
    pub base: u64,
    /// Tokens applied when it opened: what the learning rate follows.
    pub tokens_before: u64,
    /// Steps applied when it opened: what numbers the optimiser's.
    pub steps_before: u64,
    /// Units that came.
    pub commits: BTreeMap<NodeId, Commit>,
    /// What may come into the set, in order; complete when the exchange begins.
    pub candidates: Vec<Candidate>,
    /// Who attests, one vote each.
    pub committee: Vec<NodeId>,
    /// Attestations.
    pub attests: BTreeMap<NodeId, Attest>,
    /// Candidates of the void round before.
    pub(crate) carried: Vec<Candidate>,
    /// Members of the plan that left while it ran.
    pub(crate) excused: Vec<NodeId>,
}

/// What a closed round leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Which.
    pub round: Round,
    /// What is applied, in order of the candidates.
    pub set: Vec<Candidate>,
    /// What was not held by enough, or trained from other weights: its makers take it back.
    pub left_out: Vec<Candidate>,
    /// After a void round: what goes on to the next round's candidates.
    pub carried: Vec<Candidate>,
    /// In a round of one member: the root of the weights it trained, whose alone they are.
    pub plain: Option<(NodeId, Hash)>,
    /// No quorum attested: nothing changed, the candidates went on to the next round.
    pub void: bool,
    /// Who was to do what.
    pub plan: Vec<Slot>,
    /// The version of the weights from which it trained.
    pub base: u64,
    /// Every unit that came, so that anybody can do it again.
    pub commits: BTreeMap<NodeId, Commit>,
    /// Tokens applied.
    pub tokens: u64,
    /// Tokens applied before it, which fix the learning rate.
    pub tokens_before: u64,
    /// Steps before it, which number the optimiser's.
    pub steps_before: u64,
    /// Log time from opening to closing.
    pub took_ms: u64,
    /// Mean loss that the contributors reported, micro-nats per token.
    pub loss_micro: u64,
}

/// Committees have at most this many members.
const COMMITTEE_MAX: usize = 32;
/// Windows of the run's order that are handed out; then it begins anew. Members that take turns at leaving
/// hand out windows without training on them, and a counter that ends would end every node with it.
const CURSOR_MAX: u64 = 1 << 62;

/// `ms` after `now`, however late it is: the time of the log is a validator's word.
pub(crate) fn later(now: Millis, ms: u64) -> Millis {
    Millis(now.0.saturating_add(ms))
}

/// Whether `votes` are more than two thirds of `all`.
pub(crate) fn two_thirds(votes: usize, all: usize) -> bool {
    votes.saturating_mul(3) > all.saturating_mul(2)
}

impl RoundState {
    /// Whether units are still awaited.
    pub fn is_training(&self) -> bool {
        self.phase == Phase::Train
    }

    /// Whether `member` has a slot and has not committed.
    pub fn owes(&self, member: &NodeId) -> bool {
        self.slot(member).is_some() && !self.commits.contains_key(member)
    }

    /// The member's slot.
    pub fn slot(&self, member: &NodeId) -> Option<&Slot> {
        self.plan.iter().find(|slot| slot.member == *member)
    }

    /// Bit `i` of an attestation.
    pub(crate) fn bit(held: &[u8], i: usize) -> bool {
        held.get(i / 8).is_some_and(|byte| (*byte >> (i % 8)) & 1 == 1)
    }

    pub(crate) fn check_committer(&self, by: &NodeId) -> Result<&Slot, Reject> {
        let slot = self.slot(by).ok_or(Reject::NotMember)?;
        if self.commits.contains_key(by) {
            return Err(Reject::Duplicate);
        }
        if self.is_training() { Ok(slot) } else { Err(Reject::Stale) }
    }

    pub(crate) fn check_attester(&self, by: &NodeId) -> Result<(), Reject> {
        if self.is_training() {
            return Err(Reject::Early);
        }
        if !self.committee.contains(by) {
            return Err(Reject::NotCommittee);
        }
        if self.attests.contains_key(by) { Err(Reject::Duplicate) } else { Ok(()) }
    }

    /// Whether others have committed, or spoken, and all but `member` need not any more.
    pub(crate) fn waits_only_for(&self, member: &NodeId) -> bool {
        if !self.is_training() {
            // Who committed had the weights, and could say what came of the round.
            let able = |id: &NodeId| self.commits.contains_key(id) && !self.excused.contains(id);
            let said = |id: &NodeId| self.attests.contains_key(id) || id == member || !able(id);
            return self.committee.contains(member)
                && able(member)
                && !self.attests.contains_key(member)
                && !self.attests.is_empty()
                && self.committee.iter().all(said);
        }
        let done = |id: &NodeId| self.commits.contains_key(id) || self.excused.contains(id);
        let others = |slot: &Slot| slot.member == *member || done(&slot.member);
        self.owes(member) && !done(member) && !self.commits.is_empty() && self.plan.iter().all(others)
    }

    fn all_committed(&self) -> bool {
        self.plan.iter().all(|slot| self.commits.contains_key(&slot.member) || self.excused.contains(&slot.member))
    }

    /// Whether more than two thirds of the committee list candidate `i`.
    pub(crate) fn held(&self, i: usize) -> bool {
        let votes = self.attests.values().filter(|attest| Self::bit(&attest.held, i)).count();
        two_thirds(votes, self.committee.len())
    }

    /// Whether most of the committee say that they do not hold candidate `i`. A third keeps an update out of the set
    /// by its silence alone, and must not put its maker at fault by it.
    pub(crate) fn missing(&self, i: usize) -> bool {
        let votes = self.attests.values().filter(|attest| !Self::bit(&attest.held, i)).count();
        votes.saturating_mul(2) > self.committee.len()
    }

    pub(crate) fn quorum(&self) -> bool {
        two_thirds(self.attests.len(), self.committee.len())
    }

    /// Whether nothing more can come: a round of one member moves no bytes.
    fn complete(&self) -> bool {
        let all_held = || (0..self.candidates.len()).all(|i| self.held(i)) && self.quorum();
        let all_said = || self.attests.len() >= self.committee.len();
        self.plan.len() == 1 || self.candidates.is_empty() || all_said() || all_held()
    }

    /// The root that more than two thirds of the committee reported for the round's base weights.
    pub(crate) fn agreed_root(&self) -> Option<Hash> {
        let mut votes: BTreeMap<Hash, usize> = BTreeMap::new();
        for member in &self.committee {
            let root = self.attests.get(member).map(|a| a.root).or(self.commits.get(member).map(|c| c.root));
            if let Some(root) = root {
                let votes = votes.entry(root).or_default();
                *votes = votes.saturating_add(1);
            }
        }
        votes.into_iter().find(|(_, n)| two_thirds(*n, self.committee.len())).map(|(root, _)| root)
    }
}

impl Run {
    /// When the log must act without anybody saying anything.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        let disputes = self.disputes.iter().filter(|dispute| dispute.is_open()).map(|dispute| dispute.until);
        // A later round that exchanges waits for the front one, whatever its own time says.
        let due = self.open.iter().enumerate().filter(|(i, round)| *i == 0 || round.is_training());
        due.map(|(_, round)| round.until).chain(disputes).min()
    }

    /// Does what time alone decides.
    pub(crate) fn tick(&mut self, now: Millis, events: &mut Vec<RunEvent>) {
        self.decide(now, events);
        // Again after each round that closed: who sits out because of it is not waited for in the next one.
        loop {
            for i in 0..self.open.len() {
                let round = &self.open[i];
                if round.is_training() && (round.until <= now || round.all_committed()) {
                    self.close_commits(i, now, events);
                }
            }
            let over = |round: &RoundState| !round.is_training() && (round.until <= now || round.complete());
            if !self.open.front().is_some_and(over) {
                break;
            }
            self.close_round(now, events);
        }
        self.open_rounds(now, events);
    }

    /// A member that left owes nothing any more, and its voice goes with its seat.
    pub(crate) fn excuse(&mut self, member: &NodeId) {
        for round in &mut self.open {
            if round.owes(member) {
                round.excused.push(*member);
            }
            round.committee.retain(|id| id != member);
            round.attests.remove(member);
        }
    }

    pub(crate) fn commit(&mut self, now: Millis, by: &NodeId, commit: &Commit) -> Result<(), Reject> {
        let at = self.check_commit(by, commit)?;
        let (window_ms, middle) = (self.spec.train_window_ms, middle_rate(&self.members).0);
        let round = &mut self.open[at];
        let micro_batches = round.slot(by).map_or(0, |slot| slot.micro_batches);
        let ms = now.since(round.opened).max(1);
        round.commits.insert(*by, commit.clone());
        if let Some(member) = self.members.get_mut(by) {
            member.measure(micro_batches, commit.steps, ms, window_ms, middle);
            member.private = commit.state_next;
            member.units = member.units.saturating_add(1);
            member.last = Some(commit.round);
            member.loss_micro = commit.loss_micro;
        }
        Ok(())
    }

    pub(crate) fn attest(&mut self, by: &NodeId, attest: &Attest) -> Result<(), Reject> {
        let at = self.check_attest(by, attest)?;
        self.open[at].attests.insert(*by, attest.clone());
        Ok(())
    }

    /// Opens rounds while the rules allow: the commits of the one before are closed, and so are all
    /// sets below the version from which it trains.
    pub(crate) fn open_rounds(&mut self, now: Millis, events: &mut Vec<RunEvent>) {
        if self.tokens >= self.spec.tokens {
            if !self.ended && self.open.is_empty() {
                self.ended = true;
                events.push(RunEvent::Ended(self.id));
            }
            return;
        }
        if self.ended || self.open.iter().any(RoundState::is_training) {
            return;
        }
        let parts = assign(&self.members, self.next.0, &self.spec);
        // Alone there is nothing to overlap with: each round begins where the last one ended.
        let base = if parts.len() == 1 { self.next.0 } else { self.spec.base_of(self.next.0) };
        if parts.is_empty() || self.version() < base {
            return;
        }
        // What is not believed is not remembered either: the next measurement goes on from here.
        let rate_max = rate_max(&self.members, &self.spec);
        self.members.values_mut().for_each(|member| member.rate = member.rate.min(rate_max));
        let mut plan = Vec::with_capacity(parts.len());
        for (member, micro_batches) in parts {
            let inherit = self.donor(&member);
            plan.push(Slot { member, micro_batches, position: self.cursor, inherit });
            let windows = self.spec.windows(micro_batches);
            self.cursor = self.cursor.checked_add(windows).filter(|cursor| *cursor <= CURSOR_MAX).unwrap_or(0);
        }
        let round = self.next;
        self.next = self.next.plus(1);
        self.open.push_back(RoundState {
            round,
            phase: Phase::Train,
            since: now,
            until: later(now, self.spec.train_window_ms),
            opened: now,
            plan,
            base,
            tokens_before: self.tokens,
            steps_before: self.steps,
            commits: BTreeMap::new(),
            candidates: Vec::new(),
            committee: self.committee(round),
            attests: BTreeMap::new(),
            carried: Vec::new(),
            excused: Vec::new(),
        });
        events.push(RunEvent::Opened(self.id, round));
    }

    /// Whose moments a member without a private state goes on from: those of the member in the middle by
    /// units done. Without any it learns worse for as long as they take to form.
    fn donor(&self, member: &NodeId) -> Option<(NodeId, Hash)> {
        let empty = |m: &Member| m.private == Hash::default();
        if self.common_moments() || !self.members.get(member).is_some_and(empty) {
            return None;
        }
        let able = self.members.iter().filter(|(_, m)| m.status == Standing::Active && !empty(m));
        let mut able: Vec<(u64, NodeId, Hash)> = able.map(|(id, m)| (m.units, *id, m.private)).collect();
        able.sort_unstable();
        able.get(able.len() / 2).map(|(_, id, private)| (*id, *private))
    }

    /// Up to 32 active members, a different stretch of them each round. A hash says where it begins: neighbours
    /// that share the places of one round are not always the ones that attest it.
    fn committee(&self, round: Round) -> Vec<NodeId> {
        let active = self.members.iter().filter(|(_, m)| m.status == Standing::Active).map(|(id, _)| *id);
        let active: Vec<NodeId> = active.collect();
        let drawn = Hash::of("talkoo 2026 committee v1", &(self.id, round).to_bytes());
        let drawn = u64::from_be_bytes(drawn.0[..8].try_into().expect("eight bytes"));
        let start = drawn.checked_rem(active.len() as u64).unwrap_or(0) as usize;
        active.iter().cycle().skip(start).take(active.len().min(COMMITTEE_MAX)).copied().collect()
    }
}

wire_enum!(Phase { 0 => Train {}, 1 => Exchange {} });
wire_struct!(Candidate { member, round, update, size, tokens, norm_sq_bits });
wire_struct!(RoundState {
    round,
    phase,
    since,
    until,
    opened,
    plan,
    base,
    tokens_before,
    steps_before,
    commits,
    candidates,
    committee,
    attests,
    carried,
    excused,
});
wire_struct!(Closed {
    round,
    set,
    left_out,
    carried,
    plain,
    void,
    plan,
    base,
    commits,
    tokens,
    tokens_before,
    steps_before,
    took_ms,
    loss_micro,
});
