//! A member of a run: where it stands, how fast it is, and what failing costs it.

use super::event::RunEvent;
use super::{MEMBERS_MAX, Run};
use base::{Hash, NodeId, Round, wire_enum, wire_struct};

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Joined, without the current weights.
    #[default]
    Syncing,
    /// Takes part.
    Active,
    /// Missed a unit, sits out, or rests; comes back with `Ready`.
    Away,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Syncing => "syncing",
            Self::Active => "active",
            Self::Away => "away",
        })
    }
}

/// A member of a run, as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Where it stands.
    pub status: Standing,
    /// Numeric class.
    pub class: Hash,
    /// Measured speed in micro-batches per 1,000 s, by the log's clock; 0 = not measured yet. Beyond the
    /// middle one it rises by half from unit to unit at most, and in an open run to four times the middle one.
    pub rate: u64,
    /// What the speed is measured by: micro-batches × 128 done and milliseconds taken, the last unit
    /// whole, each one before it half as much.
    pub recent: (u64, u64),
    /// Micro-batches that it can do in a window, as far as its last unit showed; not known before.
    pub most: Option<u32>,
    /// Private state after its last commit; zero before the first.
    pub private: Hash,
    /// Units committed.
    pub units: u64,
    /// Tokens in units that were applied: in a closed set, or alone.
    pub tokens: u64,
    /// Units planned and not committed.
    pub missed: u64,
    /// Units that did not count: not committed, or committed and not held by most of the committee. Eight in a row
    /// that counted take one back. From two on, each further one makes it sit out. A false claim about a root
    /// counts for two.
    pub faults: u32,
    /// Units in a row that counted since the last fault, or since the last one that was taken back.
    pub clean: u32,
    /// The first round in which its `Ready` counts again.
    pub aside_until: Round,
    /// Round of the last commit.
    pub last: Option<Round>,
    /// Last reported mean loss, micro-nats per token.
    pub loss_micro: u64,
}

/// One unit may fail, as everybody's does now and then; from here on a member that fails sits out.
pub(crate) const FAULTS_MIN: u32 = 2;
/// The longest pause is 2^5 = 32 rounds: five hours of rounds of ten minutes. Who stalls for ever costs the others
/// one window in 33 rounds then. A machine that was repaired comes back without anybody's help, and catches up with
/// the rounds that are kept, which a pause must not outlive.
const PAUSE_LOG2_MAX: u32 = 5;
/// So many units in a row that count take one fault back: who misses every other one, or one in seven, still sits out.
const CLEAN_UNITS: u32 = 8;
/// A run remembers the faults of at most so many members that left, as many as it may have.
const GONE_MAX: usize = MEMBERS_MAX;

impl Member {
    /// Takes the speed from a unit of `micro_batches` × `steps` that took `ms`, and what fits into `window_ms`.
    /// `middle`: the rate of the member in the middle.
    pub(crate) fn measure(&mut self, micro_batches: u32, steps: u32, ms: u64, window_ms: u64, middle: u64) {
        let work = u64::from(micro_batches).saturating_mul(u64::from(steps));
        // By work: a newcomer's single micro-batch, which is mostly waiting, hardly counts beside what follows.
        let (done, took) = (self.recent.0 / 2, self.recent.1 / 2);
        self.recent = (done.saturating_add(work.saturating_mul(128)), took.saturating_add(ms));
        let measured = scaled(self.recent.0, 1_000_000, self.recent.1.saturating_mul(128)).max(1);
        // Nobody checks what was done in that time: up to the middle it is believed at once, so that a newcomer has
        // its part in the second round, and beyond step by step. Where nobody was measured there is no middle.
        let believed = scaled(self.rate, 3, 2).max(self.rate.saturating_add(1)).max(middle);
        self.rate = if self.rate == 0 && middle == 0 { measured } else { measured.min(believed) };
        // What it did it can do again; more, while an inner step fits into half the window: it may come late.
        let fits = scaled(self.rate, window_ms / 2, 1_000_000);
        self.most = Some(u32::try_from(fits).unwrap_or(u32::MAX).max(micro_batches).max(1));
    }
}

/// `value` × `times` / `by`, as far as 64 bits go.
fn scaled(value: u64, times: u64, by: u64) -> u64 {
    let product = u128::from(value).saturating_mul(u128::from(times));
    product.checked_div(u128::from(by)).and_then(|whole| u64::try_from(whole).ok()).unwrap_or(u64::MAX)
}

impl Run {
    /// Before which round the `Ready` of `member` does not count: it sits out. Where nobody takes part
    /// there are no rounds to sit out, and whoever comes back is welcome.
    pub fn aside(&self, member: &NodeId) -> Option<Round> {
        let member = self.members.get(member).filter(|member| member.status != Standing::Active)?;
        (self.next < member.aside_until && self.active() > 0).then_some(member.aside_until)
    }

    /// A unit of a member did not count, or (`least` = 2) it said on the log what is not so. From the second
    /// on it sits out 2, 4, 8, … rounds.
    pub(crate) fn fault(&mut self, id: &NodeId, least: u32, events: &mut Vec<RunEvent>) {
        let next = self.next;
        let Some(member) = self.members.get_mut(id) else { return };
        member.faults = member.faults.saturating_add(1).max(least);
        member.clean = 0;
        let Some(beyond) = member.faults.checked_sub(FAULTS_MIN) else { return };
        let rounds = 1u64 << beyond.saturating_add(1).min(PAUSE_LOG2_MAX);
        member.aside_until = Round(next.0.saturating_add(rounds));
        self.set_aside(id, events);
    }

    /// A unit of a member counted: the eighth in a row takes one fault back.
    pub(crate) fn forgive(&mut self, id: &NodeId) {
        let Some(member) = self.members.get_mut(id).filter(|member| member.faults > 0) else { return };
        member.clean = member.clean.saturating_add(1);
        if member.clean >= CLEAN_UNITS {
            (member.clean, member.faults) = (0, member.faults.saturating_sub(1));
        }
    }

    /// A member that comes again finds its faults and its pause as it left them.
    pub(crate) fn join(&mut self, by: &NodeId, class: Hash) {
        let (faults, aside_until) = self.gone.remove(by).unwrap_or_default();
        self.members.insert(*by, Member { class, faults, aside_until, ..Member::default() });
    }

    pub(crate) fn ready(&mut self, by: &NodeId) {
        if let Some(member) = self.members.get_mut(by) {
            member.status = Standing::Active;
            // Its speed is measured anew: it may be another machine's share of another day.
            (member.rate, member.recent) = (0, (0, 0));
        }
    }

    /// Nobody waits for who rests, and nothing is held against it, unless the others have waited already: resting
    /// at the end of each window would be stalling under another name.
    pub(crate) fn rest(&mut self, by: &NodeId, events: &mut Vec<RunEvent>) {
        // Whoever disputes a root says nothing as long as that is open.
        let disputes = self.disputes.iter().any(|dispute| dispute.is_open() && dispute.by == *by);
        let waited = self.open.iter().any(|round| round.waits_only_for(by) && (round.is_training() || !disputes));
        if let Some(member) = self.members.get_mut(by) {
            member.status = Standing::Away;
        }
        self.excuse(by);
        if waited {
            self.fault(by, 1, events);
        }
    }

    /// A member is gone, and its voice with it. What it was faulted for stays: else leaving and joining would be
    /// cheaper than sitting out.
    pub(crate) fn leave(&mut self, by: &NodeId, events: &mut Vec<RunEvent>) {
        self.rest(by, events);
        self.finals.remove(by);
        events.push(RunEvent::Gone(self.id, *by));
        let Some(member) = self.members.remove(by) else { return };
        if member.faults == 0 && member.aside_until <= self.next {
            return;
        }
        self.gone.insert(*by, (member.faults, member.aside_until));
        if self.gone.len() > GONE_MAX {
            // Whose pause ends first has the least to lose by being forgotten.
            let first = self.gone.iter().min_by_key(|(_, (_, until))| *until).map(|(id, _)| *id);
            if let Some(first) = first {
                self.gone.remove(&first);
            }
        }
    }

    /// A member takes no part until its next `Ready`.
    pub(crate) fn set_aside(&mut self, id: &NodeId, events: &mut Vec<RunEvent>) {
        let member = self.members.get_mut(id).filter(|member| member.status == Standing::Active);
        if let Some(member) = member {
            member.status = Standing::Away;
            events.push(RunEvent::Gone(self.id, *id));
        }
        // It owes nothing, and its voice is not waited for.
        self.excuse(id);
    }
}

wire_enum!(Standing { 0 => Syncing {}, 1 => Active {}, 2 => Away {} });
wire_struct!(Member {
    status,
    class,
    rate,
    recent,
    most,
    private,
    units,
    tokens,
    missed,
    faults,
    clean,
    aside_until,
    last,
    loss_micro,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rises_by_half_at_most_from_unit_to_unit_and_falls_at_once() {
        let mut member = Member::default();
        member.measure(10, 2, 10_000, 40_000, 0);
        assert_eq!((member.rate, member.most), (2_000, Some(40)));
        for expected in [3_000, 4_500, 6_750] {
            member.measure(10, 2, 1, 40_000, 2_000);
            assert_eq!(member.rate, expected);
        }
        member.measure(10, 2, 1_000_000, 40_000, 2_000);
        assert!(member.rate < 50, "{}", member.rate);
    }

    #[test]
    fn a_newcomer_is_believed_up_to_the_middle_at_once() {
        let mut member = Member::default();
        // A single micro-batch, and mostly waiting.
        member.measure(1, 2, 4_000, 40_000, 2_000);
        assert_eq!(member.rate, 500);
        member.measure(10, 2, 8_000, 40_000, 2_000);
        assert_eq!(member.rate, 2_000);
        member.measure(20, 2, 8_000, 40_000, 2_000);
        assert_eq!(member.rate, 3_000);
    }

    #[test]
    fn a_fast_first_unit_beside_measured_members_counts_as_the_middle_one() {
        let mut member = Member::default();
        member.measure(1, 2, 1, 40_000, 2_000);
        assert_eq!(member.rate, 2_000);
        member.measure(1, 2, 1, 40_000, 2_000);
        assert_eq!(member.rate, 3_000, "and rises from there like any other");
    }

    #[test]
    fn no_clock_and_no_work_overflow_a_rate() {
        let mut member = Member { rate: u64::MAX, recent: (u64::MAX, u64::MAX), ..Member::default() };
        for ms in [1, u64::MAX] {
            member.measure(u32::MAX, u32::MAX, ms, u64::MAX, u64::MAX);
            assert!(member.rate >= 1 && member.most.is_some_and(|most| most >= 1));
        }
    }
}
