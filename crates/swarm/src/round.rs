//! A round: open with a plan, commit, exchange, close. Every rule of `training.md` §2 about order
//! and time is here; nobody sends "close", time and completeness do.

use crate::event::Event;
use crate::plan::{Slot, assign};
use crate::state::{Member, Run, Status};
use crate::{Attest, Commit};
use base::{Hash, Millis, NodeId, Reject, Round, wire_enum, wire_struct};
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
    carried: Vec<Candidate>,
    /// Members of the plan that left while it ran.
    excused: Vec<NodeId>,
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
/// Exchange times remembered for the next deadline.
const EXCHANGES_KEPT: usize = 16;

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
        held.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
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

    fn all_committed(&self) -> bool {
        self.plan.iter().all(|slot| self.commits.contains_key(&slot.member) || self.excused.contains(&slot.member))
    }

    /// Whether more than two thirds of the committee list candidate `i`.
    fn held(&self, i: usize) -> bool {
        let votes = self.attests.values().filter(|attest| Self::bit(&attest.held, i)).count();
        3 * votes > 2 * self.committee.len()
    }

    fn quorum(&self) -> bool {
        3 * self.attests.len() > 2 * self.committee.len()
    }

    /// Whether nothing more can come: a round of one member moves no bytes.
    fn complete(&self) -> bool {
        let all_held = || (0..self.candidates.len()).all(|i| self.held(i)) && self.quorum();
        let all_said = || self.attests.len() >= self.committee.len();
        self.plan.len() == 1 || self.candidates.is_empty() || all_said() || all_held()
    }

    /// The root that more than two thirds of the committee reported for the round's base weights.
    fn agreed_root(&self) -> Option<Hash> {
        let mut votes: BTreeMap<Hash, usize> = BTreeMap::new();
        for member in &self.committee {
            let root = self.attests.get(member).map(|a| a.root).or(self.commits.get(member).map(|c| c.root));
            if let Some(root) = root {
                *votes.entry(root).or_default() += 1;
            }
        }
        votes.into_iter().find(|(_, n)| 3 * n > 2 * self.committee.len()).map(|(root, _)| root)
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
    pub(crate) fn tick(&mut self, now: Millis, events: &mut Vec<Event>) {
        self.decide(now, events);
        for i in 0..self.open.len() {
            let round = &self.open[i];
            if round.is_training() && (round.until <= now || round.all_committed()) {
                self.close_commits(i, now, events);
            }
        }
        while let Some(round) = self.open.front() {
            let over = !round.is_training() && (round.until <= now || round.complete());
            if !over {
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
        let round = &mut self.open[at];
        let micro_batches = round.slot(by).map_or(0, |slot| slot.micro_batches);
        let work = u64::from(micro_batches) * u64::from(commit.steps);
        let ms = now.since(round.opened).max(1);
        round.commits.insert(*by, commit.clone());
        if let Some(member) = self.members.get_mut(by) {
            // By work: a newcomer's single micro-batch, which is mostly waiting, hardly counts beside what follows.
            member.recent = (member.recent.0 / 2 + work.saturating_mul(128), member.recent.1 / 2 + ms);
            let rate = u128::from(member.recent.0) * 1_000_000 / 128 / u128::from(member.recent.1);
            member.rate = u64::try_from(rate).unwrap_or(u64::MAX).max(1);
            // What it did it can do again; more, while an inner step fits into half the window: it may come late.
            let fits = u128::from(member.rate) * u128::from(self.spec.train_window_ms / 2) / 1_000_000;
            member.most = Some(u32::try_from(fits).unwrap_or(u32::MAX).max(micro_batches).max(1));
            member.private = commit.state_next;
            member.units += 1;
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
    pub(crate) fn open_rounds(&mut self, now: Millis, events: &mut Vec<Event>) {
        if self.tokens >= self.spec.tokens {
            if !self.ended && self.open.is_empty() {
                self.ended = true;
                events.push(Event::Ended(self.id));
            }
            return;
        }
        if self.ended || self.open.iter().any(RoundState::is_training) {
            return;
        }
        let parts = assign(&self.members, self.next.0, self.spec.slots, self.spec.micro_batches);
        // Alone there is nothing to overlap with: each round begins where the last one ended.
        let base = if parts.len() == 1 { self.next.0 } else { self.spec.base_of(self.next.0) };
        if parts.is_empty() || self.version() < base {
            return;
        }
        let mut plan = Vec::with_capacity(parts.len());
        for (member, micro_batches) in parts {
            let inherit = self.donor(&member);
            plan.push(Slot { member, micro_batches, position: self.cursor, inherit });
            self.cursor +=
                u64::from(micro_batches) * u64::from(self.spec.inner_steps) * u64::from(self.spec.micro_batch);
        }
        let round = self.next;
        self.next = self.next.plus(1);
        self.open.push_back(RoundState {
            round,
            phase: Phase::Train,
            since: now,
            until: now.plus(self.spec.train_window_ms),
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
        events.push(Event::Opened(self.id, round));
    }

    /// Ends the training phase of open round `i`: who did not commit is away.
    fn close_commits(&mut self, i: usize, now: Millis, events: &mut Vec<Event>) {
        let absent: Vec<NodeId> = {
            let round = &self.open[i];
            let owing = round.plan.iter().map(|slot| slot.member).filter(|id| !round.commits.contains_key(id));
            owing.filter(|id| !round.excused.contains(id)).collect()
        };
        for id in absent {
            if let Some(member) = self.members.get_mut(&id) {
                member.status = Status::Away;
                member.missed += 1;
                // Its part may have been too much for it. Given the same again it would miss again, and two that
                // can do the work only together would take turns at missing it alone.
                member.most = Some(1);
                events.push(Event::Gone(self.id, id));
            }
        }
        let deadline = now.plus(self.exchange_limit());
        let round = &mut self.open[i];
        let fresh = round.plan.iter().filter_map(|slot| round.commits.get(&slot.member).map(|c| (slot.member, c)));
        let fresh = fresh.map(|(member, commit)| Candidate {
            member,
            round: commit.round,
            update: commit.update,
            size: commit.size,
            tokens: commit.tokens,
            norm_sq_bits: commit.norm_sq_bits,
        });
        round.candidates = fresh.collect();
        round.phase = Phase::Exchange;
        round.since = now;
        round.until = deadline;
        events.push(Event::Committed(self.id, round.round));
        self.adopt_carried(i);
    }

    /// The candidates of a void round before this one come first.
    fn adopt_carried(&mut self, i: usize) {
        let carried = match self.closed.back() {
            Some(last) if last.round.0 + 1 == self.open[i].round.0 => last.carried.clone(),
            _ => return,
        };
        let round = &mut self.open[i];
        if round.plan.len() > 1 {
            round.candidates = carried.iter().cloned().chain(round.candidates.drain(..)).collect();
        }
        round.carried = carried;
    }

    /// Whose moments a member without a private state goes on from: those of the member in the middle by
    /// units done. Without any it learns worse for as long as they take to form.
    fn donor(&self, member: &NodeId) -> Option<(NodeId, Hash)> {
        let empty = |m: &Member| m.private == Hash::default();
        if self.common_moments() || !self.members.get(member).is_some_and(empty) {
            return None;
        }
        let able = self.members.iter().filter(|(_, m)| m.status == Status::Active && !empty(m));
        let mut able: Vec<(u64, NodeId, Hash)> = able.map(|(id, m)| (m.units, *id, m.private)).collect();
        able.sort_unstable();
        able.get(able.len() / 2).map(|(_, id, private)| (*id, *private))
    }

    /// Up to 32 active members, a different stretch of them each round.
    fn committee(&self, round: Round) -> Vec<NodeId> {
        let active = self.members.iter().filter(|(_, m)| m.status == Status::Active).map(|(id, _)| *id);
        let active: Vec<NodeId> = active.collect();
        let n = active.len();
        let start = round.0 as usize * COMMITTEE_MAX % n.max(1);
        (0..n.min(COMMITTEE_MAX)).map(|i| active[(start + i) % n]).collect()
    }

    /// Median + 4 × median absolute deviation of past exchanges, inside the spec's limits and at
    /// most half as long again as the longest of the last.
    fn exchange_limit(&self) -> u64 {
        let (low, high) = self.spec.exchange_ms;
        let Some(last) = self.exchanges.back() else { return high };
        let median = |values: &mut Vec<u64>| {
            values.sort_unstable();
            values[values.len() / 2]
        };
        let mut times: Vec<u64> = self.exchanges.iter().copied().collect();
        let middle = median(&mut times);
        let mut deviations: Vec<u64> = times.iter().map(|t| t.abs_diff(middle)).collect();
        let limit = middle + 4 * median(&mut deviations);
        limit.max(last + last / 2).clamp(low, high)
    }

    /// Closes the oldest round.
    fn close_round(&mut self, now: Millis, events: &mut Vec<Event>) {
        let round = self.open.pop_front().expect("the caller saw it");
        if let Some(root) = round.agreed_root() {
            self.agree(round.base, root);
        }
        let plain = match (round.plan.as_slice(), round.candidates.as_slice()) {
            ([_], [only]) => Some((only.member, only.update)),
            _ => None,
        };
        let nobody = round.candidates.is_empty();
        let void = plain.is_none() && !nobody && !round.quorum();
        let (set, mut left_out) = self.divide(&round, void);
        // The next round can still take them only while its own bytes do not move yet.
        let takes = void && self.open.front().is_none_or(RoundState::is_training);
        let carried = left_out.extract_if(.., |c| takes && c.round == round.round).collect();
        let tokens = if plain.is_some() {
            round.candidates.iter().map(|c| c.tokens).sum()
        } else {
            set.iter().map(|c| c.tokens).sum()
        };
        if let Some((_, root)) = plain {
            self.agree(round.round.0 + 1, root);
        } else if !nobody {
            // A void one counts with its whole window: the next may be half as long again.
            self.exchanges.push_back(now.since(round.since));
            if self.exchanges.len() > EXCHANGES_KEPT {
                self.exchanges.pop_front();
            }
        }
        // Reported, and believed by nobody: any number may be there.
        let reported = round.commits.values().map(|c| u128::from(c.loss_micro));
        let loss_micro = (reported.sum::<u128>() / (round.commits.len() as u128).max(1)) as u64;
        let closed = Closed {
            round: round.round,
            set,
            left_out,
            carried,
            plain,
            void,
            plan: round.plan,
            base: round.base,
            commits: round.commits,
            tokens,
            tokens_before: round.tokens_before,
            steps_before: round.steps_before,
            took_ms: now.since(round.opened),
            loss_micro,
        };
        self.applied(closed);
        events.push(Event::Closed(self.id, round.round));
    }

    /// The set, and what stays out of it.
    fn divide(&self, round: &RoundState, void: bool) -> (Vec<Candidate>, Vec<Candidate>) {
        if round.plan.len() == 1 {
            return (Vec::new(), round.carried.clone());
        }
        let agreed = self.roots.get(&round.base);
        let honest = |candidate: &Candidate| match round.commits.get(&candidate.member) {
            Some(commit) if candidate.round == round.round => agreed.is_none_or(|root| *root == commit.root),
            _ => true,
        };
        let (mut set, mut left_out) = (Vec::new(), Vec::new());
        for (i, candidate) in round.candidates.iter().enumerate() {
            let side = if !void && round.held(i) && honest(candidate) { &mut set } else { &mut left_out };
            side.push(candidate.clone());
        }
        (set, left_out)
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
