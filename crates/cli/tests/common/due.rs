//! What the accounts of a run's members hold to the last micro-credit, told by the blocks of a stopped node: its
//! books are not asked.

#![allow(dead_code)]

use crate::common::json;
use base::{Hash, NodeId, Wire};
use chain::{Block, Genesis, Tx};
use replica::ChainStore;
use replica::Disk;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use swarm::{Closed, RunEvent};

/// Micro-credits that a wallet transaction costs.
const FEE: u64 = 1_000;

/// Micro-credits that came and went by the blocks, by account.
#[derive(Debug, Default)]
pub struct Due {
    /// With what the network began.
    opening: BTreeMap<NodeId, u64>,
    /// Paid into the run's budget.
    paid_in: BTreeMap<NodeId, u64>,
    /// Fees of wallet transactions.
    fees: BTreeMap<NodeId, u64>,
    /// For units that count.
    earned: BTreeMap<NodeId, u64>,
    /// Left of the budget when the run ended: it goes back.
    back: u64,
    /// What is left of it.
    budget: u64,
    /// Whether the run ended.
    ended: bool,
}

/// Reads the blocks of a node that does not run: what follows from them for the members of one run.
pub fn due(dir: &Path, chain: &Value, run: &Value) -> Due {
    let (chain, run) = (name(chain), name(run));
    let genesis = genesis(dir, &chain);
    let store = ChainStore::of(dir, &chain).expect("no node runs here");
    let opening = genesis.opening.iter().map(|(account, amount)| (*account, amount.0)).collect();
    let mut due = Due { opening, ..Due::default() };
    let mut log = swarm::RunsState::new(chain, genesis.work_bits);
    for height in 1u64.. {
        let Some(bytes) = store.block(height).expect("read") else { break };
        let block = Block::from_bytes(&bytes).expect("a block");
        for event in log.apply_checked(&block.work()).expect("the next block") {
            match event {
                RunEvent::Closed(id, round) if id == run => {
                    let state = &log.runs[&run];
                    due.pay(state.spec.tokens, state.closed_round(round.0).expect("it closed just now"));
                }
                RunEvent::Ended(id) if id == run => {
                    due.ended = true;
                    due.back = std::mem::take(&mut due.budget);
                }
                _ => {}
            }
        }
        // What is paid in counts for rounds that close later.
        for tx in &block.txs {
            let Tx::Wallet { tx } = tx else { continue };
            *due.fees.entry(tx.by).or_default() += FEE;
            if let ledger::WalletTx::Fund { pot, amount } = &tx.value.tx {
                assert_eq!(*pot, run, "one run has a budget");
                *due.paid_in.entry(tx.by).or_default() += amount.0;
                due.budget += amount.0;
            }
        }
    }
    assert!(due.ended, "the blocks tell the run to its end");
    due
}

impl Due {
    /// Pays a closed round, of a run `of` so many tokens: of the budget its tokens' part of those that were left, and
    /// of that to each member its tokens' part. Amounts are whole micro-credits: what rounding leaves over goes one by
    /// one to the largest remainders, the first of equals first.
    fn pay(&mut self, of: u64, closed: &Closed) {
        let alone = closed.plain.map(|(member, _)| vec![(member, u128::from(closed.commits[&member].tokens))]);
        let together = || closed.set.iter().map(|unit| (unit.member, u128::from(unit.tokens))).collect();
        let units: Vec<(NodeId, u128)> = alone.unwrap_or_else(together);
        let done: u128 = units.iter().map(|(_, tokens)| *tokens).sum();
        if done == 0 {
            return;
        }
        let left = u128::from(of.saturating_sub(closed.tokens_before)).max(done);
        let amount = u128::from(self.budget) * done / left;
        let part = |(member, tokens): &(NodeId, u128)| (amount * tokens % done, *member, amount * tokens / done);
        let mut parts: Vec<(u128, NodeId, u128)> = units.iter().map(part).collect();
        parts.sort_by_key(|(remainder, ..)| Reverse(*remainder));
        let over = amount - parts.iter().map(|(_, _, whole)| *whole).sum::<u128>();
        for (i, (_, member, whole)) in (0u128..).zip(parts) {
            let paid = u64::try_from(whole + u128::from(i < over)).expect("a part of the budget");
            *self.earned.entry(member).or_default() += paid;
            self.budget -= paid;
        }
    }

    /// What a member earned.
    pub fn earned(&self, member: &NodeId) -> u64 {
        self.earned.get(member).copied().unwrap_or(0)
    }

    /// What all members earned, and what went back.
    pub fn spent(&self) -> (u64, u64) {
        (self.earned.values().sum(), self.back)
    }

    /// What an account holds when the run has ended.
    fn holds(&self, account: &NodeId) -> u64 {
        let of = |amounts: &BTreeMap<NodeId, u64>| amounts.get(account).copied().unwrap_or(0);
        // One account paid in: all that is left is its own.
        let back = if self.paid_in.keys().eq([account]) { self.back } else { 0 };
        of(&self.opening) + of(&self.earned) + back - of(&self.paid_in) - of(&self.fees)
    }

    /// Demands that accounts hold what is due, to the last micro-credit.
    pub fn is_held(&self, held: &BTreeMap<NodeId, u64>) {
        assert_eq!(self.paid_in.len(), 1, "one account pays the budget");
        let due: BTreeMap<NodeId, u64> = held.keys().map(|account| (*account, self.holds(account))).collect();
        assert_eq!(*held, due, "{self:#?}");
        assert!(self.earned.keys().all(|member| held.contains_key(member)), "nobody is left out: {held:?}, {self:#?}");
    }
}

/// What each account holds, as a running node says it: those with which its network began, and members of a run.
pub fn held(node: &Path, chain: &Value, run: &Value) -> BTreeMap<NodeId, u64> {
    let members = run["members"].as_array().expect("members").iter();
    let members = members.map(|member| member["node"].as_str().expect("a key").parse::<NodeId>().expect("64 digits"));
    let opening = genesis(node, &name(chain)).opening.into_iter().map(|(account, _)| account);
    let hold = |key: NodeId| {
        let account = json(node, &["chain", "account", &key.to_string()]);
        let micro = |name: &str| account[name].as_u64().expect("an amount");
        (key, micro("balance_micro") + micro("bond_micro"))
    };
    members.chain(opening).map(hold).collect()
}

fn name(value: &Value) -> Hash {
    value.as_str().expect("a name").parse().expect("64 digits")
}

fn genesis(dir: &Path, chain: &Hash) -> Genesis {
    replica::network_of(dir, chain).expect("read").expect("the folder's network").genesis
}
