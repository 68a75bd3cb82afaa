//! Budgets of runs: what is left of each, and whose it is.

use super::Ledger;
use crate::Credits;
use base::{Hash, NodeId, Reader, Reject, Wire, WireError};
use std::collections::BTreeMap;

/// Payers that one budget remembers: 2.5 kB of state for a run, however many pay in. When a budget has so many, a
/// newcomer takes the place of the one with the smallest share, if it pays more than that share is: that one gets its
/// share back at once. So dust keeps nobody from paying, and nobody loses anything.
pub const PAYERS_MAX: usize = 64;

/// A budget. Where nothing is left there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pot {
    pub(crate) left: Credits,
    /// What each payer would have got back when the last one paid in. Pay takes from all alike, so that these stay the
    /// proportions of what is left.
    shares: BTreeMap<NodeId, Credits>,
}

impl Pot {
    /// What each payer would get back now, to the last micro-credit.
    fn parts(&self) -> Vec<(NodeId, Credits)> {
        let shares: Vec<(NodeId, u64)> = self.shares.iter().map(|(payer, share)| (*payer, share.0)).collect();
        divide(self.left, &shares)
    }
}

impl Wire for Pot {
    fn encode(&self, out: &mut Vec<u8>) {
        self.left.encode(out);
        self.shares.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (left, shares): (Credits, BTreeMap<NodeId, Credits>) = Wire::decode(input)?;
        // What is left is somebody's.
        let known = shares.len() <= PAYERS_MAX && shares.values().any(|share| *share > Credits::ZERO);
        if left > Credits::ZERO && known { Ok(Self { left, shares }) } else { Err(WireError::Invalid("budget")) }
    }
}

impl Ledger {
    /// The budget of a run.
    pub fn pot(&self, id: &Hash) -> Credits {
        self.pots.get(id).map_or(Credits::ZERO, |pot| pot.left)
    }

    /// Pays `amount` of `by` into a budget.
    pub(crate) fn fund(&mut self, by: &NodeId, id: &Hash, amount: Credits) -> Result<(), Reject> {
        let balance = self.after(by, amount)?;
        let old = self.pots.get(id).cloned().unwrap_or_default();
        let mut pot = Pot { left: old.left, shares: BTreeMap::new() };
        pot.shares.extend(old.parts().into_iter().filter(|(_, share)| *share > Credits::ZERO));
        let mut displaced = None;
        if pot.shares.len() >= PAYERS_MAX && !pot.shares.contains_key(by) {
            let smallest = pot.shares.iter().min_by_key(|(_, share)| **share).map(|(payer, share)| (*payer, *share));
            let (payer, share) = smallest.filter(|(_, share)| *share < amount).ok_or(Reject::Full)?;
            pot.shares.remove(&payer);
            pot.left = pot.left.less(share)?;
            displaced = Some((payer, share));
        }
        pot.left = pot.left.plus(amount)?;
        let share = pot.shares.entry(*by).or_default();
        *share = share.plus(amount)?;
        self.spend(by, balance);
        self.set_pot(*id, Some(pot));
        if let Some((payer, share)) = displaced {
            let account = self.account_mut(&payer);
            account.balance = account.balance.joined(share);
        }
        Ok(())
    }

    /// Takes `amount` out of a budget, from the shares of all who paid in.
    pub(crate) fn draw(&mut self, id: &Hash, amount: Credits) -> Result<(), Reject> {
        let left = self.pot(id).less(amount)?;
        let pot = self.pots.remove(id).filter(|_| left > Credits::ZERO);
        self.set_pot(*id, pot.map(|pot| Pot { left, ..pot }));
        Ok(())
    }

    /// A budget is closed: what is left goes back to who paid it in, by their shares. Gives who got how much.
    pub fn refund(&mut self, id: &Hash) -> Vec<(NodeId, Credits)> {
        let parts = self.pots.get(id).map(Pot::parts).unwrap_or_default();
        self.set_pot(*id, None);
        for (payer, part) in &parts {
            let account = self.account_mut(payer);
            account.balance = account.balance.joined(*part);
        }
        parts
    }
}

/// Divides `amount` in proportion to shares, to the last micro-credit: what rounding leaves over goes to
/// the largest remainders, the first of equals first. Where there are no shares nobody gets anything.
pub fn divide(amount: Credits, shares: &[(NodeId, u64)]) -> Vec<(NodeId, Credits)> {
    let total: u128 = shares.iter().map(|(_, share)| u128::from(*share)).sum();
    if total == 0 {
        return Vec::new();
    }
    // 64 bits by 64: a product has its place in 128.
    let product = |share: u64| u128::from(amount.0).saturating_mul(u128::from(share));
    let whole = |share: u64| product(share).checked_div(total).unwrap_or_default();
    // A share is at most all of them, and so a part at most the amount.
    let part = |share: u64| Credits(u64::try_from(whole(share)).unwrap_or(amount.0));
    let mut parts: Vec<(NodeId, Credits)> = shares.iter().map(|(id, share)| (*id, part(*share))).collect();
    let given: u128 = parts.iter().map(|(_, part)| *part).sum();
    let over = u128::from(amount.0).saturating_sub(given);
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(product(shares[i].1).checked_rem(total)));
    // Fewer than there are shares.
    for &i in order.iter().take(usize::try_from(over).unwrap_or_default()) {
        parts[i].1 = parts[i].1.joined(Credits(1));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_in_dividing() {
        let id = |i: u8| NodeId([i; 32]);
        let shares = [(id(1), 3), (id(2), 2), (id(3), 2)];
        for amount in 0..200 {
            let parts = divide(Credits(amount), &shares);
            assert_eq!(parts.iter().map(|(_, part)| part.0).sum::<u64>(), amount);
            for ((_, part), (_, share)) in parts.iter().zip(shares) {
                assert!((part.0 * 7).abs_diff(amount * share) < 7, "{amount}: {parts:?}");
            }
        }
        assert_eq!(divide(Credits(u64::MAX), &[(id(1), u64::MAX)]), [(id(1), Credits(u64::MAX))]);
        assert!(divide(Credits(5), &[]).is_empty());
    }
}
