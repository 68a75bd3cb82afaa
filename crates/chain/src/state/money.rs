//! What follows for the books from what happens to runs.

use super::{Happened, State};
use crate::pay::{fates, units};
use base::Reject;
use ledger::{Credits, PaySource, divide};
use swarm::RunId;

/// Of 1,000 parts of new money, how many one run may get at most, whatever was voted.
const SHARE_MAX: u16 = 500;
const PFLOP: u128 = 1_000_000_000_000_000;

impl State {
    /// Whether a budget may be paid into: that of a run which goes on. What another gets would never come back.
    pub(super) fn check_budget(&self, tx: &ledger::SignedWalletTx) -> Result<(), Reject> {
        let ledger::WalletTx::Fund { pot, .. } = &tx.value.tx else { return Ok(()) };
        let run = self.runs.runs.get(pot).ok_or(Reject::UnknownRun)?;
        if run.ended { Err(Reject::Ended) } else { Ok(()) }
    }

    /// Pays a closed round: from the run's budget, spread evenly over its tokens, and of new money as far
    /// as the validators admitted it.
    pub(super) fn pay(&mut self, run: &RunId, version: u64, happened: &mut Vec<Happened>) {
        let state = &self.runs.runs[run];
        let Some(closed) = state.closed_round(version) else { return };
        let (units, fates) = (units(closed), fates(closed));
        let tokens = units.iter().fold(0u64, |all, (_, tokens)| all.saturating_add(*tokens));
        let left = state.spec.tokens.saturating_sub(closed.tokens_before).max(tokens);
        let budget = self.money.pot(run);
        // These tokens are a part of what is left, so their pay is a part of the budget.
        let from_pot = per(u128::from(budget.0).saturating_mul(u128::from(tokens)), u128::from(left));
        let from_pot = Credits(u64::try_from(from_pot).unwrap_or(budget.0));
        let sources = [(PaySource::Pot(*run), from_pot), (PaySource::Issuance, self.new_money(run, tokens))];
        for (from, amount) in sources {
            for (to, amount) in divide(amount, &units).into_iter().filter(|(_, amount)| *amount > Credits::ZERO) {
                match self.money.pay(from, &to, amount) {
                    Ok(()) => happened.push(Happened::Paid { run: *run, to, amount, from }),
                    // Between the look and the payment nothing else was paid.
                    Err(reject) => self.rejects.add(reject),
                }
            }
        }
        let worked = fates.into_iter().map(|(by, tokens, fate)| Happened::Worked { run: *run, by, tokens, fate });
        happened.extend(worked);
    }

    /// New money for `tokens` of a run: by operations, up to the run's part of what the schedule allows now.
    fn new_money(&self, run: &RunId, tokens: u64) -> Credits {
        // Work that nobody checks is paid by those who asked for it, or on a network of one owner.
        if self.epoch.set.len() > 1 {
            return Credits::ZERO;
        }
        let share = u128::from(self.share_permille(run));
        let work = u128::from(self.flops.get(run).copied().unwrap_or(0)).saturating_mul(u128::from(tokens));
        let worth = per(work.saturating_mul(u128::from(self.genesis.per_pflop.0)), PFLOP);
        let cap = u128::from(self.money.issuable().0).saturating_mul(share) / 1000;
        Credits(u64::try_from(worth.min(cap)).unwrap_or(u64::MAX))
    }

    /// What the next round of a run pays for 10¹⁵ reference operations, as a closed round is paid but without rounding: its
    /// budget is spread evenly over the tokens that are left, or those of a round where they are more; new money is there where
    /// one validator admits it, as far as there is any. Nothing where its model cannot be told.
    pub fn pay_per_pflop(&self, run: &RunId) -> Credits {
        let (Some(state), Some(&flops)) = (self.runs.runs.get(run), self.flops.get(run).filter(|flops| **flops > 0))
        else {
            return Credits::ZERO;
        };
        let (flops, round) = (u128::from(flops), u128::from(state.spec.tokens_per_round()));
        let left = u128::from(state.spec.tokens.saturating_sub(state.tokens)).max(round);
        let budget = u128::from(self.money.pot(run).0);
        let from_pot = per(budget.saturating_mul(PFLOP), left.saturating_mul(flops));
        let share = if self.epoch.set.len() == 1 { self.share_permille(run) } else { 0 };
        let there = u128::from(self.money.issuable().0).saturating_mul(u128::from(share)) / 1000;
        let most = per(there.saturating_mul(PFLOP), round.saturating_mul(flops));
        let issued = u128::from(self.genesis.per_pflop.0).min(most);
        Credits(u64::try_from(from_pot.saturating_add(issued)).unwrap_or(u64::MAX))
    }

    /// Of 1,000 parts of new money, how many `run` may get: the lower median of the votes, if more than two
    /// thirds of the validators voted for it.
    pub fn share_permille(&self, run: &RunId) -> u16 {
        let votes = self.votes.get(run).into_iter().flatten();
        let seats = &self.epoch.set;
        let mut shares: Vec<u16> =
            votes.filter(|(by, share)| **share > 0 && seats.contains(by)).map(|(_, share)| *share).collect();
        if shares.len().saturating_mul(3) <= seats.len().saturating_mul(2) {
            return 0;
        }
        shares.sort_unstable();
        shares[shares.len().saturating_sub(1) / 2].min(SHARE_MAX)
    }
}

/// `amount` for each of `n`; all of it where there is none.
fn per(amount: u128, n: u128) -> u128 {
    amount.checked_div(n).unwrap_or(amount)
}
