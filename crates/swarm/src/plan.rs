//! Who does how much in a round.

use crate::state::{Member, Status};
use base::NodeId;
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
}

/// Divides `total` micro-batches among the active members in proportion to measured speed, so that
/// all finish together. A newcomer gets one. With more members than places, each takes its turn.
pub(crate) fn assign(members: &BTreeMap<NodeId, Member>, round: u64, slots: u16, total: u32) -> Vec<(NodeId, u32)> {
    let active: Vec<(&NodeId, &Member)> = members.iter().filter(|(_, m)| m.status == Status::Active).collect();
    let places = usize::from(slots).min(total as usize).min(active.len());
    if places == 0 {
        return Vec::new();
    }
    let turns = active.len().div_ceil(places) as u64;
    let chosen: Vec<_> =
        active.into_iter().enumerate().filter(|(i, _)| *i as u64 % turns == round % turns).map(|(_, m)| m).collect();
    let newcomers = chosen.iter().filter(|(_, m)| m.rate == 0).count() as u32;
    let speed: u128 = chosen.iter().map(|(_, m)| u128::from(m.rate)).sum();
    let all_new = speed == 0;
    // Each has one; the rest goes by speed, the remainders to the largest fractions.
    let rest = u128::from(total - chosen.len() as u32);
    let mut parts: Vec<(NodeId, u32, u128)> = Vec::with_capacity(chosen.len());
    for (id, member) in &chosen {
        let (weight, of) = if all_new { (1, u128::from(newcomers)) } else { (u128::from(member.rate), speed) };
        let (share, fraction) = (rest * weight / of, rest * weight % of);
        parts.push((**id, 1 + share as u32, fraction));
    }
    let given: u32 = parts.iter().map(|(_, n, _)| n).sum();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(parts[i].2), parts[i].0));
    for &i in order.iter().take((total - given) as usize) {
        parts[i].1 += 1;
    }
    parts.into_iter().map(|(id, n, _)| (id, n)).collect()
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
        check(&[1, 4, 16], 32, 24, &[2, 5, 17]);
        check(&[0, 0], 32, 5, &[3, 2]);
        check(&[0, 100], 32, 8, &[1, 7]);
        check(&[5], 32, 8, &[8]);
        check(&[], 32, 8, &[]);
        check(&[1, 1, 1], 32, 2, &[1, 1]);
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
