//! How the phases of a round end: commits close, then the set is made.

use super::Run;
use super::event::RunEvent;
use super::member::Standing;
use super::round::{Candidate, Closed, Phase, RoundState, later};
use base::{Millis, NodeId};

/// In a window of this length, or the longest that the run allows, an honest member is heard: a quarter of it is left for its
/// word to come into a block.
const SILENT_MS: u64 = 8_000;
/// Exchange times remembered for the next deadline.
const EXCHANGES_KEPT: usize = 16;

impl Run {
    /// Ends the training phase of open round `i`: who did not commit is away.
    pub(crate) fn close_commits(&mut self, i: usize, now: Millis, events: &mut Vec<RunEvent>) {
        let absent: Vec<NodeId> = {
            let round = &self.open[i];
            let owing = round.plan.iter().map(|slot| slot.member).filter(|id| !round.commits.contains_key(id));
            owing.filter(|id| !round.excused.contains(id)).collect()
        };
        for id in absent {
            if let Some(member) = self.members.get_mut(&id) {
                member.status = Standing::Away;
                member.missed = member.missed.saturating_add(1);
                // Its part may have been too much for it. Given the same again it would miss again, and two that
                // can do the work only together would take turns at missing it alone.
                member.most = Some(1);
                events.push(RunEvent::Gone(self.id, id));
            }
            // Everybody waited for it.
            self.fault(&id, 1, events);
        }
        let deadline = later(now, self.exchange_limit());
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
        events.push(RunEvent::Committed(self.id, round.round));
        self.adopt_carried(i);
    }

    /// The candidates of a void round before this one come first.
    fn adopt_carried(&mut self, i: usize) {
        let carried = match self.closed.back() {
            Some(last) if last.round.plus(1) == self.open[i].round => last.carried.clone(),
            _ => return,
        };
        let round = &mut self.open[i];
        if round.plan.len() > 1 {
            round.candidates = carried.iter().cloned().chain(round.candidates.drain(..)).collect();
        }
        round.carried = carried;
    }

    /// Median + 4 × median absolute deviation of past exchanges, inside the spec's limits and at
    /// most half as long again as the longest of the last.
    fn exchange_limit(&self) -> u64 {
        let (low, high) = self.spec.exchange_ms;
        let Some(last) = self.exchanges.back().copied() else { return high };
        let median = |values: &mut Vec<u64>| {
            values.sort_unstable();
            values[values.len() / 2]
        };
        let mut times: Vec<u64> = self.exchanges.iter().copied().collect();
        let middle = median(&mut times);
        let mut deviations: Vec<u64> = times.iter().map(|t| t.abs_diff(middle)).collect();
        let limit = middle.saturating_add(median(&mut deviations).saturating_mul(4));
        limit.max(last.saturating_add(last / 2)).clamp(low, high)
    }

    /// Closes the oldest round.
    pub(crate) fn close_round(&mut self, now: Millis, events: &mut Vec<RunEvent>) {
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
        if void {
            self.fault_silent(&round, now, events);
        }
        let (set, mut left_out) = self.divide(&round, void);
        if plain.is_none() && !void {
            // Everybody waited for bytes that did not come. Who began from other weights than a quorum reports has
            // nobody wait, and the quorum may be the one that lies.
            let unserved = |(i, candidate): &(usize, &Candidate)| candidate.round == round.round && round.missing(*i);
            let makers = round.candidates.iter().enumerate().filter(unserved).map(|(_, candidate)| candidate.member);
            makers.for_each(|id| self.fault(&id, 1, events));
        }
        set.iter().map(|c| c.member).chain(plain.map(|(member, _)| member)).for_each(|id| self.forgive(&id));
        // The next round can still take them only while its own bytes do not move yet.
        let takes = void && self.open.front().is_none_or(RoundState::is_training);
        let carried = left_out.extract_if(.., |c| takes && c.round == round.round).collect();
        let counted = if plain.is_some() { &round.candidates } else { &set };
        let tokens = counted.iter().map(|c| c.tokens).fold(0, u64::saturating_add);
        let after = round.round.plus(1).0;
        let unchanged = self.roots.get(&round.round.0).copied().filter(|_| plain.is_none() && set.is_empty());
        if let Some(root) = plain.map(|(_, root)| root).or(unchanged) {
            self.agree(after, root);
        }
        if plain.is_none() && !nobody {
            // A void one counts with its whole window: the next may be half as long again.
            self.exchanges.push_back(now.since(round.since));
            if self.exchanges.len() > EXCHANGES_KEPT {
                self.exchanges.pop_front();
            }
        }
        // Reported, and believed by nobody: any number may be there.
        let reported = round.commits.values().map(|c| u128::from(c.loss_micro)).fold(0, u128::saturating_add);
        let loss_micro = reported.checked_div(round.commits.len() as u128).unwrap_or(0) as u64;
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
        events.push(RunEvent::Closed(self.id, round.round));
    }

    /// A round is void because some of its committee said nothing, while more than half did: each that could have is at
    /// fault. Whoever disputes a root says nothing as long as that is open. And a short window is no one's fault: what an
    /// honest member says at three quarters of it may be a moment too late, and void rounds make the window longer.
    fn fault_silent(&mut self, round: &RoundState, now: Millis, events: &mut Vec<RunEvent>) {
        let window = round.until.since(round.since);
        let long = window >= SILENT_MS.min(self.spec.exchange_ms.1);
        let most = round.attests.len().saturating_mul(2) > round.committee.len();
        if now < round.until || !long || !most {
            return;
        }
        let disputes = |id: &NodeId| self.disputes.iter().any(|dispute| dispute.is_open() && dispute.by == *id);
        // Who committed had the weights; who did not was at fault for that.
        let able = |id: &&NodeId| round.commits.contains_key(id) && !round.attests.contains_key(id) && !disputes(id);
        let silent: Vec<NodeId> = round.committee.iter().filter(able).copied().collect();
        silent.iter().for_each(|id| self.fault(id, 1, events));
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
