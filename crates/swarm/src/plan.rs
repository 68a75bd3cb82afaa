//! Who does how much in a round.

use crate::state::{Member, Status};
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

/// Divides `total` micro-batches among the active members in proportion to measured speed, so that
/// all finish together; nobody gets more than it can do, a round may be smaller for it. A newcomer
/// gets one. With more members than places, each takes its turn.
pub(crate) fn assign(members: &BTreeMap<NodeId, Member>, round: u64, slots: u16, total: u32) -> Vec<(NodeId, u32)> {
    let active: Vec<(&NodeId, &Member)> = members.iter().filter(|(_, m)| m.status == Status::Active).collect();
    let places = usize::from(slots).min(total as usize).min(active.len());
    if places == 0 {
        return Vec::new();
    }
    let turns = active.len().div_ceil(places) as u64;
    let chosen: Vec<_> =
        active.into_iter().enumerate().filter(|(i, _)| *i as u64 % turns == round % turns).map(|(_, m)| m).collect();
    let all_new = chosen.iter().all(|(_, m)| m.rate == 0);
    // A newcomer beside measured members gets one; it takes no part in the division.
    let speed = |m: &Member| if all_new { 1 } else { u128::from(m.rate) };
    let most = |m: &Member| if speed(m) == 0 { 1 } else { m.most.unwrap_or(total) };
    // Who cannot do its part does what it can; the others divide the rest.
    let mut dividing: Vec<&Member> = chosen.iter().map(|(_, m)| *m).collect();
    let (mut left, mut sum) = (total, dividing.iter().map(|m| speed(m)).sum::<u128>());
    loop {
        let full = dividing.extract_if(.., |m| u128::from(left) * speed(m) > u128::from(most(m)) * sum);
        let full: Vec<&Member> = full.collect();
        if full.is_empty() {
            break;
        }
        left -= full.iter().map(|m| most(m)).sum::<u32>();
        sum -= full.iter().map(|m| speed(m)).sum::<u128>();
    }
    let part = |m: &Member| {
        let share = (u128::from(left) * speed(m)).checked_div(sum).unwrap_or(u128::MAX);
        share.min(u128::from(most(m))).max(1) as u32
    };
    let mut parts: Vec<(NodeId, u128, u32, u32)> =
        chosen.iter().map(|(id, m)| (**id, speed(m), part(m), most(m))).collect();
    // Rounding left some over, or the ones for newcomers are too many: whoever ends first takes
    // the next, whoever ends last gives one back.
    let mut given: u32 = parts.iter().map(|(_, _, n, _)| n).sum();
    while given < total {
        let able = parts.iter_mut().filter(|(_, _, n, most)| n < most);
        let first = able.min_by(|a, b| (u128::from(a.2 + 1) * b.1).cmp(&(u128::from(b.2 + 1) * a.1)));
        let Some(first) = first else { break };
        first.2 += 1;
        given += 1;
    }
    while given > total {
        let able = parts.iter_mut().filter(|(_, speed, n, _)| *speed > 0 && *n > 1);
        let Some(last) = able.max_by(|a, b| (u128::from(a.2) * b.1).cmp(&(u128::from(b.2) * a.1))) else { break };
        last.2 -= 1;
        given -= 1;
    }
    parts.into_iter().map(|(id, _, n, _)| (id, n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(rates: &[u64]) -> BTreeMap<NodeId, Member> {
        (rates.iter().enumerate())
            .map(|(i, &rate)| {
                let member = Member { status: Status::Active, rate, ..Member::default() };
                (NodeId([i as u8; 32]), member)
            })
            .collect()
    }

    fn check(rates: &[u64], slots: u16, total: u32, expected: &[u32]) {
        let plan = assign(&members(rates), 0, slots, total);
        assert_eq!(plan.iter().map(|(_, n)| *n).collect::<Vec<_>>(), expected, "{rates:?} {slots} {total}");
    }

    #[test]
    fn work_is_proportional_to_speed() {
        check(&[100, 100, 100, 100], 32, 8, &[2, 2, 2, 2]);
        check(&[1, 4, 16], 32, 24, &[1, 4, 19]);
        check(&[0, 0], 32, 5, &[3, 2]);
        check(&[0, 100], 32, 8, &[1, 7]);
        check(&[5], 32, 8, &[8]);
        check(&[], 32, 8, &[]);
        check(&[1, 1, 1], 32, 2, &[1, 1]);
    }

    #[test]
    fn nobody_gets_more_than_it_can_do() {
        let parts = |rates: &[u64], most: &[Option<u32>], total| {
            let mut members = members(rates);
            members.values_mut().zip(most).for_each(|(member, most)| member.most = *most);
            assign(&members, 0, 32, total).iter().map(|(_, n)| *n).collect::<Vec<_>>()
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
    fn with_more_members_than_places_each_takes_its_turn() {
        let members = members(&[1; 10]);
        let mut turns = BTreeMap::new();
        for round in 0..10 {
            for (id, n) in assign(&members, round, 5, 20) {
                assert!(n >= 4);
                *turns.entry(id).or_insert(0) += 1;
            }
        }
        assert!(turns.len() == 10 && turns.values().all(|&n| n == 5));
    }
}
