//! What happened to the owner's accounts, written down as blocks become final.

use crate::chain_store::ChainStore;
use crate::crash;
use crate::disk::Note;
use crate::earnings::{self, Days};
use crate::notes::{Entry, Notes};
use crate::own::Own;
use crate::refusals::refused;
use base::{NodeId, Signed};
use chain::{Block, Happened, Tx};
use ledger::{PaySource, Voucher, WalletTx as Wallet};
use std::sync::Arc;
use swarm::{RunEvent, RunId};

/// Writes down what concerns `own`.
pub(crate) fn writer(store: Arc<ChainStore>, own: Own) -> Arc<Note> {
    Arc::new(move |block: &Block, happened: &[Happened]| {
        crash::point("applied");
        let height = block.header.height;
        let mut notes = Notes::default();
        for account in &own.accounts {
            let entries = entries(account, block, happened);
            if !entries.is_empty() {
                notes.entries.push((*account, entries));
            }
            let deeds = earnings::deeds(account, block, happened);
            notes
                .days
                .extend(store.days(|days| {
                    earnings::count(days, (account, &own.device), (height, earnings::day(block)), &deeds)
                }));
        }
        let takes_part = |run: &RunId| {
            let of = |days: &Days| days.keys().any(|(.., known)| known == run);
            of(&notes.days) || store.days(of)
        };
        notes.paid = earnings::paid(happened, takes_part);
        if notes == Notes::default() {
            return;
        }
        if let Err(error) = store.note(height, &notes) {
            tracing::warn!(%error, "the account's history was not written down");
        }
    })
}

fn entries(account: &NodeId, block: &Block, happened: &[Happened]) -> Vec<Entry> {
    let (height, time_ms) = (block.header.height, block.header.time.0);
    let entry = |what: &str, coming: u64, going: u64, other: String, tx: &str| Entry {
        height,
        time_ms,
        what: what.into(),
        in_micro: coming,
        out_micro: going,
        other,
        tx: tx.into(),
        round: None,
    };
    let refused = refused(block, happened);
    let mut out = Vec::new();
    for tx in &block.txs {
        let Tx::Wallet { tx: signed } = tx else { continue };
        let (own, hash) = (signed.by == *account, tx.hash());
        let name = hash.to_string();
        if refused.contains_key(&hash) {
            continue;
        }
        match &signed.value.tx {
            Wallet::Transfer { to, amount } if *to == *account && !own => {
                out.push(entry("received", amount.0, 0, signed.by.to_string(), &name));
            }
            Wallet::Redeem { voucher: Signed { by, value: Voucher { payee, total, .. }, .. } }
                if *payee == *account =>
            {
                // What came in is less where earlier vouchers were redeemed: this is the total of all.
                out.push(entry(&format!("redeemed to {total}"), 0, 0, by.to_string(), &name));
            }
            _ if !own => {}
            Wallet::Transfer { to, amount } => out.push(entry("sent", 0, amount.0, to.to_string(), &name)),
            Wallet::Fund { pot, amount } => out.push(entry("funded", 0, amount.0, pot.to_string(), &name)),
            Wallet::Bond { amount } | Wallet::Deposit { amount } => {
                out.push(entry(tx.kind(), 0, amount.0, String::new(), &name));
            }
            Wallet::Unbond { amount } | Wallet::Withdraw { amount } => {
                out.push(entry(tx.kind(), amount.0, 0, String::new(), &name));
            }
            _ => out.push(entry(tx.kind(), 0, 0, String::new(), &name)),
        }
    }
    for (i, what) in happened.iter().enumerate() {
        match what {
            Happened::Paid { run, to, amount, from } if to == account => {
                let what = if *from == PaySource::Issuance { "issued" } else { "paid" };
                let round = closed(&happened[i..], run);
                out.push(Entry { round, ..entry(what, amount.0, 0, run.to_string(), "") });
            }
            Happened::Slashed { seat, owner, amount } if owner == account => {
                out.push(entry("slashed", 0, amount.0, seat.to_string(), ""));
            }
            _ => {}
        }
    }
    out
}

/// The round of `run` that paid: what it pays is told before that it closed.
fn closed(happened: &[Happened], run: &RunId) -> Option<u64> {
    happened.iter().find_map(|what| match what {
        Happened::Run(RunEvent::Closed(id, round)) if id == run => Some(round.0),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Hash;
    use base::{Millis, Round};
    use chain::Header;
    use ledger::Credits;

    #[test]
    fn each_payment_names_the_round_that_paid_it() {
        let (me, other, run) = (NodeId([1; 32]), NodeId([2; 32]), Hash([7; 32]));
        let zero = Hash::default();
        let header = Header {
            height: 5,
            epoch: 0,
            set: zero,
            parent: zero,
            time: Millis(9),
            root: zero,
            by: other,
            missing: Vec::new(),
            next: None,
            txs: zero,
        };
        let block = Block::new(header, Vec::new());
        let paid = |run: RunId, to: NodeId, micro: u64| {
            let (amount, from) = (Credits(micro), PaySource::Pot(run));
            Happened::Paid { run, to, amount, from }
        };
        let closed = |run: RunId, round: u64| Happened::Run(RunEvent::Closed(run, Round(round)));
        let next = Hash([8; 32]);
        let happened = [
            paid(run, me, 3),
            paid(run, other, 4),
            closed(run, 11),
            paid(run, me, 5),
            closed(next, 1),
            closed(run, 12),
        ];
        let rounds: Vec<_> = entries(&me, &block, &happened).iter().map(|e| (e.in_micro, e.round)).collect();
        assert_eq!(rounds, [(3, Some(11)), (5, Some(12))]);
        // What was written down before rounds were is read still.
        let old = r#"{"height":1,"time_ms":2,"what":"paid","in_micro":3,"out_micro":0,"other":"","tx":""}"#;
        assert_eq!(serde_json::from_str::<Entry>(old).expect("an entry").round, None);
    }
}
