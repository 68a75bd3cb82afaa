//! Who does how much in a round.

use super::member::{Member, Standing};
use crate::{Access, Spec};
use base::{Hash, NodeId, wire_struct};
use std::collections::BTreeMap;

/// One contributor's part of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Who.
    pub member: NodeId,
    /// Micro-batches per inner step, b.
    pub micro_batches: u32,
    /// First position of its windows in the run's order.
    pub position: u64,
    /// For a newcomer in local mode: the member whose optimiser moments it may go on from, and the
    /// private state that holds them.
    pub inherit: Option<(NodeId, Hash)>,
}

wire_struct!(Slot { member, micro_batches, position, inherit });

/// In an open run nobody counts for more than so many times the member in the middle: speed is the word of
/// a clock on work that nobody checked. Machines at home are 1 : 4 : 16, which still divides justly.
const RATE_TIMES_MAX: u64 = 4;
/// From so many measured members on there is one in the middle who is neither the slowest nor the fastest.
const MIDDLE_MIN: usize = 3;
/// In an open run, from so many contributors on nobody gets more than a third of what a round gives out: with fewer
/// a third would make all parts equal, and a laptop would decide how long a workstation waits.
const THIRDS_MIN: usize = 4;

/// The highest rate that counts: in an open run four times the middle one of those that take part.
pub(crate) fn rate_max(members: &BTreeMap<NodeId, Member>, spec: &Spec) -> u64 {
    let (middle, measured) = middle_rate(members);
    let judged = spec.access == Access::Open && measured >= MIDDLE_MIN;
    if judged { middle.saturating_mul(RATE_TIMES_MAX) } else { u64::MAX }
}

/// The middle rate of those that take part, of two the higher one; and how many of them were measured.
pub(crate) fn middle_rate(members: &BTreeMap<NodeId, Member>) -> (u64, usize) {
    let measured = members.values().filter(|m| m.status == Standing::Active && m.rate > 0);
    let mut rates: Vec<u64> = measured.map(|m| m.rate).collect();
    rates.sort_unstable();
    (rates.get(rates.len() / 2).copied().unwrap_or(0), rates.len())
}

/// Who has a place in a round: a window over the active members that moves by its own width each round, so
/// that no place stays empty and after as many rounds as there are members each had as many turns.
fn turn(members: &BTreeMap<NodeId, Member>, round: u64, places_max: usize) -> Vec<(NodeId, &Member)> {
    let active: Vec<(NodeId, &Member)> =
        members.iter().filter(|(_, m)| m.status == Standing::Active).map(|(id, m)| (*id, m)).collect();
    let places = places_max.min(active.len());
    let n = active.len() as u64;
    let place = round.checked_rem(n).unwrap_or(0).saturating_mul(places as u64);
    let first = place.checked_rem(n).unwrap_or(0);
    let mut chosen: Vec<(NodeId, &Member)> = active.iter().cycle().skip(first as usize).take(places).copied().collect();
    chosen.sort_unstable_by_key(|(id, _)| *id);
    chosen
}

/// Divides the run's micro-batches among the active members in proportion to measured speed, so that all
/// finish together; nobody gets more than it can do or may have, a round may be smaller for it. A newcomer
/// gets one. With more members than places, each takes its turn.
pub(crate) fn assign(members: &BTreeMap<NodeId, Member>, round: u64, spec: &Spec) -> Vec<(NodeId, u32)> {
    let total = spec.micro_batches;
    let chosen = turn(members, round, usize::from(spec.slots).min(total as usize));
    let all_new = chosen.iter().all(|(_, m)| m.rate == 0);
    let rate_max = rate_max(members, spec);
    // A newcomer beside measured members gets one; it takes no part in the division.
    let speed = |m: &Member| if all_new { 1 } else { u128::from(m.rate.min(rate_max)) };
    let thirds = spec.access == Access::Open && chosen.len() >= THIRDS_MIN;
    let may_have = if thirds { total.div_ceil(3) } else { total };
    let most = |m: &Member| if speed(m) == 0 { 1 } else { m.most.unwrap_or(total).min(may_have) };
    // Who cannot do its part does what it can; the others divide the rest.
    let mut dividing: Vec<&Member> = chosen.iter().map(|(_, m)| *m).collect();
    let (mut left, mut sum) = (total, dividing.iter().map(|m| speed(m)).fold(0, u128::saturating_add));
    let product = |n: u32, speed: u128| u128::from(n).saturating_mul(speed);
    loop {
        let full = dividing.extract_if(.., |m| product(left, speed(m)) > product(most(m), sum));
        let full: Vec<&Member> = full.collect();
        if full.is_empty() {
            break;
        }
        left = left.saturating_sub(full.iter().map(|m| most(m)).fold(0, u32::saturating_add));
        sum = sum.saturating_sub(full.iter().map(|m| speed(m)).fold(0, u128::saturating_add));
    }
    let part = |m: &Member| {
        let share = product(left, speed(m)).checked_div(sum).unwrap_or(u128::MAX);
        share.min(u128::from(most(m))).max(1) as u32
    };
    let mut parts: Vec<(NodeId, u128, u32, u32)> =
        chosen.iter().map(|(id, m)| (*id, speed(m), part(m), most(m))).collect();
    // Rounding left some over, or the ones for newcomers are too many: whoever ends first takes
    // the next, whoever ends last gives one back.
    let mut given = parts.iter().map(|(_, _, n, _)| *n).fold(0, u32::saturating_add);
    while given < total {
        let able = parts.iter_mut().filter(|(_, _, n, most)| n < most);
        let next = |n: u32, speed: u128| product(n.saturating_add(1), speed);
        let Some(first) = able.min_by(|a, b| next(a.2, b.1).cmp(&next(b.2, a.1))) else { break };
        first.2 = first.2.saturating_add(1);
        given = given.saturating_add(1);
    }
    while given > total {
        let able = parts.iter_mut().filter(|(_, speed, n, _)| *speed > 0 && *n > 1);
        let Some(last) = able.max_by(|a, b| product(a.2, b.1).cmp(&product(b.2, a.1))) else { break };
        last.2 = last.2.saturating_sub(1);
        given = given.saturating_sub(1);
    }
    // What nobody could take is not there to take a third of.
    loop {
        let cap = parts.iter().map(|(_, _, n, _)| *n).fold(0, u32::saturating_add).div_ceil(3);
        if !thirds || parts.iter().all(|(_, _, n, _)| *n <= cap) {
            break;
        }
        parts.iter_mut().for_each(|(_, _, n, _)| *n = cap.min(*n));
    }
    parts.into_iter().map(|(id, _, n, _)| (id, n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn key(i: usize) -> NodeId {
        NodeId([i as u8; 32])
    }

    fn members(rates: &[u64]) -> BTreeMap<NodeId, Member> {
        let member = |&rate| Member { status: Standing::Active, rate, ..Member::default() };
        rates.iter().enumerate().map(|(i, rate)| (key(i), member(rate))).collect()
    }

    /// A run of members who know each other, unless it is open.
    fn run(open: bool, slots: u16, micro_batches: u32) -> Spec {
        let access = if open { Access::Open } else { Access::Invited(Vec::new()) };
        let plain = Spec::plain("x", String::new(), 1, Hash::default());
        Spec { access, slots, micro_batches, ..plain }
    }

    fn parts(rates: &[u64], spec: &Spec) -> Vec<u32> {
        assign(&members(rates), 0, spec).iter().map(|(_, n)| *n).collect()
    }

    #[test]
    fn work_is_proportional_to_speed() {
        let check = |rates: &[u64], total, expected: &[u32]| {
            for open in [false, true] {
                assert_eq!(parts(rates, &run(open, 32, total)), expected, "{rates:?} {total} open {open}");
            }
        };
        check(&[100, 100, 100, 100], 8, &[2, 2, 2, 2]);
        check(&[1, 4, 16], 24, &[1, 4, 19]);
        check(&[0, 0], 5, &[3, 2]);
        check(&[0, 100], 8, &[1, 7]);
        check(&[5], 8, &[8]);
        check(&[], 8, &[]);
        check(&[1, 1, 1], 2, &[1, 1]);
    }

    #[test]
    fn in_an_open_run_no_word_counts_for_more_than_four_middle_ones_or_a_third_of_a_round() {
        assert_eq!(parts(&[10, 10, 1_000_000], &run(true, 32, 60)), [10, 10, 40]);
        assert_eq!(parts(&[10, 10, 10, 1_000_000], &run(true, 32, 60)), [14, 13, 13, 20]);
        assert_eq!(parts(&[0, 0, 0, 1_000_000], &run(true, 32, 60)), [1, 1, 1, 2], "newcomers cannot take the rest");
        assert_eq!(parts(&[10, 10, 10, 1_000_000], &run(false, 32, 60)), [1, 1, 1, 57], "friends are believed");
        assert_eq!(parts(&[10, 1_000_000], &run(true, 32, 60)), [1, 59], "of two nobody is in the middle");
        assert_eq!(parts(&[1_000_000], &run(true, 32, 60)), [60]);
    }

    #[test]
    fn nobody_gets_more_than_it_can_do() {
        let parts = |rates: &[u64], most: &[Option<u32>], total| {
            let mut members = members(rates);
            members.values_mut().zip(most).for_each(|(member, most)| member.most = *most);
            assign(&members, 0, &run(true, 32, total)).iter().map(|(_, n)| *n).collect::<Vec<_>>()
        };
        assert_eq!(parts(&[0], &[Some(1)], 6), [1]);
        assert_eq!(parts(&[5], &[Some(3)], 6), [3]);
        assert_eq!(parts(&[0, 0], &[Some(1), None], 6), [1, 5]);
        assert_eq!(parts(&[0, 0], &[Some(1), Some(1)], 6), [1, 1]);
        assert_eq!(parts(&[0, 5], &[Some(1), Some(3)], 6), [1, 3]);
        assert_eq!(parts(&[100, 100, 200], &[Some(1), None, Some(3)], 12), [1, 8, 3]);
        assert_eq!(parts(&[100, 100, 100], &[Some(2), Some(3), None], 8), [2, 3, 3]);
    }

    #[test]
    fn every_place_is_taken_in_every_round_and_turns_are_equal() {
        for (n, slots) in [(10, 5), (33, 32), (64, 32), (65, 32), (7, 3), (3, 2), (2, 1), (5, 8), (1, 4)] {
            let (members, spec) = (members(&vec![1; n]), run(true, slots, 64));
            let mut turns = BTreeMap::new();
            for round in 0..3 * n as u64 {
                let plan = assign(&members, u64::MAX - round, &spec);
                assert_eq!(plan.len(), n.min(usize::from(slots)), "{n} members on {slots} slots");
                assert_eq!(plan.iter().map(|(_, n)| n).sum::<u32>(), 64);
                plan.into_iter().for_each(|(id, _)| *turns.entry(id).or_insert(0) += 1);
            }
            let each = 3 * n.min(usize::from(slots));
            assert!(turns.len() == n && turns.values().all(|&turns| turns == each), "{n} on {slots}: {turns:?}");
        }
    }

    #[test]
    fn nobody_waits_longer_than_it_takes_to_come_round() {
        let (members, spec) = (members(&[1; 33]), run(true, 32, 64));
        let plays = |round| assign(&members, round, &spec).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        for round in 0..100 {
            let (now, then) = (plays(round), plays(round + 1));
            assert!(members.keys().all(|id| now.contains(id) || then.contains(id)));
        }
    }

    proptest! {
        #[test]
        fn no_speed_breaks_a_plan(
            rates in vec(any::<u64>(), 1..40),
            (slots, total) in (1u16..=1024, 1u32..=1 << 20),
            (round, open) in (any::<u64>(), any::<bool>()),
        ) {
            let plan = assign(&members(&rates), round, &run(open, slots, total));
            prop_assert_eq!(plan.len(), rates.len().min(usize::from(slots)).min(total as usize));
            let thirds = open && plan.len() >= THIRDS_MIN;
            let all = plan.iter().map(|(_, n)| u64::from(*n)).sum::<u64>();
            let bounded = |n: u32| !thirds || 3 * u64::from(n) <= all + 2;
            prop_assert!(all <= u64::from(total) && plan.iter().all(|(_, n)| *n > 0 && bounded(*n)));
        }
    }
}
