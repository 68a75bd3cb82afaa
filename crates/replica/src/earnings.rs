//! What the owner's accounts did in runs, by day, and what came of it: counted as blocks become final.

use base::NodeId;
use chain::{Block, Fate, Happened, Tx};
use ledger::{PaySource, WalletTx as Wallet};
use owner::{DAY_MS, Unpaid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use swarm::RunId;

/// What an account did in a run on a day.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DailyWork {
    /// The newest block that is counted.
    pub height: u64,
    /// What computed on the machine last.
    pub device: String,
    /// Tokens that count.
    pub tokens: u64,
    /// Units that were paid.
    pub paid: u64,
    /// Units that were not, by reason.
    pub unpaid: BTreeMap<String, u64>,
    /// Micro-credits that came in, without those that came back.
    pub earned_micro: u64,
    /// Micro-credits that the account paid into the run's budget.
    pub funded_micro: u64,
    /// Those of them that came back as pay.
    pub back_micro: u64,
}

impl DailyWork {
    /// Both together.
    pub fn and(mut self, more: &Self) -> Self {
        self.height = self.height.max(more.height);
        self.device.clone_from(&more.device);
        self.tokens = self.tokens.saturating_add(more.tokens);
        self.paid += more.paid;
        self.earned_micro = self.earned_micro.saturating_add(more.earned_micro);
        self.funded_micro = self.funded_micro.saturating_add(more.funded_micro);
        self.back_micro = self.back_micro.saturating_add(more.back_micro);
        more.unpaid.iter().for_each(|(why, units)| *self.unpaid.entry(why.clone()).or_default() += units);
        self
    }
}

/// By account, day since 1970, and run.
pub type Days = BTreeMap<(NodeId, u64, RunId), DailyWork>;

/// One thing that an account did in a run, or got for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunDay {
    Funded(u64),
    Paid(u64, PaySource),
    DailyWork(u64, Fate),
}

/// What `account` did in a block, in order, by run.
pub(crate) fn deeds(account: &NodeId, block: &Block, happened: &[Happened]) -> BTreeMap<RunId, Vec<RunDay>> {
    let refused = crate::refusals::refused(block, happened);
    let mut deeds: BTreeMap<RunId, Vec<RunDay>> = BTreeMap::new();
    for tx in &block.txs {
        let Tx::Wallet { tx: signed } = tx else { continue };
        if let Wallet::Fund { pot, amount } = &signed.value.tx
            && signed.by == *account
            && !refused.contains_key(&tx.hash())
        {
            deeds.entry(*pot).or_default().push(RunDay::Funded(amount.0));
        }
    }
    for what in happened {
        match what {
            Happened::Paid { run, to, amount, from } if to == account => {
                deeds.entry(*run).or_default().push(RunDay::Paid(amount.0, *from));
            }
            Happened::Worked { run, by, tokens, fate } if by == account => {
                deeds.entry(*run).or_default().push(RunDay::DailyWork(*tokens, *fate));
            }
            _ => {}
        }
    }
    deeds
}

/// Counts the deeds of a block of a day: the rows of `account` that changed. A block that was counted changes nothing.
pub(crate) fn count(
    days: &Days,
    (account, device): (&NodeId, &str),
    (height, day): (u64, u64),
    deeds: &BTreeMap<RunId, Vec<RunDay>>,
) -> Days {
    let mut changed = Days::new();
    for (run, deeds) in deeds {
        let key = (*account, day, *run);
        let mut row = days.get(&key).cloned().unwrap_or_default();
        if row.height >= height {
            continue;
        }
        row.height = height;
        device.clone_into(&mut row.device);
        // Of what the account paid in itself, so much has not come back yet.
        let own = days.iter().filter(|((by, _, of), _)| by == account && of == run).map(|(_, row)| row);
        let mut left = own.fold(0u64, |left, row| left.saturating_add(row.funded_micro).saturating_sub(row.back_micro));
        let mut paid = false;
        for deed in deeds {
            match *deed {
                RunDay::Funded(micro) => {
                    row.funded_micro = row.funded_micro.saturating_add(micro);
                    left = left.saturating_add(micro);
                }
                RunDay::Paid(micro, from) => {
                    let back = if from == PaySource::Issuance { 0 } else { micro.min(left) };
                    left -= back;
                    row.back_micro = row.back_micro.saturating_add(back);
                    row.earned_micro = row.earned_micro.saturating_add(micro - back);
                    paid = true;
                }
                RunDay::DailyWork(tokens, fate) => {
                    row.tokens = row.tokens.saturating_add(tokens);
                    // What a round pays is told before what was done in it.
                    match unpaid(fate, std::mem::take(&mut paid)) {
                        None => row.paid += 1,
                        Some(why) => *row.unpaid.entry(why.code().to_owned()).or_default() += 1,
                    }
                }
            }
        }
        changed.insert(key, row);
    }
    changed
}

fn unpaid(fate: Fate, paid: bool) -> Option<Unpaid> {
    match fate {
        Fate::Counted => (!paid).then_some(Unpaid::NoBudget),
        Fate::LeftOut => Some(Unpaid::LeftOut),
        Fate::Void => Some(Unpaid::VoidRound),
        Fate::Missed => Some(Unpaid::Missed),
    }
}

/// What members were paid in a block, of the runs that are `wanted`, each member once.
pub(crate) fn paid(happened: &[Happened], wanted: impl Fn(&RunId) -> bool) -> Vec<(RunId, NodeId, u64)> {
    let mut paid: BTreeMap<(RunId, NodeId), u64> = BTreeMap::new();
    for what in happened {
        if let Happened::Paid { run, to, amount, .. } = what {
            *paid.entry((*run, *to)).or_default() += amount.0;
        }
    }
    paid.into_iter().filter(|((run, _), _)| wanted(run)).map(|((run, to), micro)| (run, to, micro)).collect()
}

/// The day of a block.
pub(crate) fn day(block: &Block) -> u64 {
    block.header.time.0 / DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Hash;

    const ME: NodeId = NodeId([1; 32]);
    const RUN: RunId = Hash([7; 32]);

    fn counted(days: &mut Days, at: (u64, u64), deeds: &[RunDay]) {
        let changed = count(days, (&ME, "cpu"), at, &BTreeMap::from([(RUN, deeds.to_vec())]));
        days.extend(changed);
    }

    #[test]
    fn each_block_is_counted_once_under_its_day() {
        let mut days = Days::new();
        let unit = [RunDay::Paid(5, PaySource::Issuance), RunDay::DailyWork(100, Fate::Counted)];
        counted(&mut days, (1, 9), &unit);
        counted(&mut days, (1, 9), &unit);
        counted(&mut days, (2, 9), &[RunDay::DailyWork(100, Fate::Counted), RunDay::DailyWork(0, Fate::Missed)]);
        counted(&mut days, (3, 10), &unit);
        let row = &days[&(ME, 9, RUN)];
        assert_eq!((row.tokens, row.paid, row.earned_micro), (200, 1, 5));
        assert_eq!(row.unpaid, BTreeMap::from([("missed".into(), 1), ("no_budget".into(), 1)]));
        assert_eq!(days[&(ME, 10, RUN)].tokens, 100);
    }

    #[test]
    fn what_was_paid_in_and_comes_back_is_not_earned() {
        let mut days = Days::new();
        let pot = PaySource::Pot(RUN);
        let pay = |micro| [RunDay::Paid(micro, pot), RunDay::DailyWork(1, Fate::Counted)];
        counted(&mut days, (1, 9), &[RunDay::Funded(10)]);
        counted(&mut days, (2, 9), &pay(4));
        // New credits are earned whoever paid in, and what others paid in after the own part is back.
        counted(&mut days, (3, 10), &[RunDay::Paid(3, PaySource::Issuance), pay(5)[0], pay(0)[1]]);
        counted(&mut days, (4, 10), &pay(7));
        let row = |day| &days[&(ME, day, RUN)];
        assert_eq!((row(9).earned_micro, row(9).back_micro), (0, 4));
        assert_eq!((row(10).earned_micro, row(10).back_micro, row(10).paid), (3 + 6, 6, 2));
    }
}
