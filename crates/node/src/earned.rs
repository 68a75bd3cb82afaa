//! What this node earned by day and model: read from its accounts' histories once, then only what is new.

use crate::Node;
use crate::chain_store::ChainStore;
use crate::history::Entry;
use crate::status::RunStatus;
use base::{Hash, NodeId};
use owner::DAY_MS;
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

/// Days of earnings that are shown.
pub(crate) const DAYS: u64 = 31;

/// Micro-credits by day since 1970, model and kind of work.
pub(crate) type ByDay = BTreeMap<(u64, String, &'static str), u64>;

/// What came in for training, by chain.
#[derive(Default)]
pub(crate) struct Earned(Mutex<BTreeMap<Hash, Tally>>);

/// What came in on a chain, as far as its blocks were read.
#[derive(Default)]
struct Tally {
    height: u64,
    /// By day and run.
    paid: BTreeMap<(u64, String), u64>,
}

impl Tally {
    /// Reads on, and forgets what is before the day `first`.
    fn read(&mut self, store: &ChainStore, account: &NodeId, first: u64) -> io::Result<()> {
        for Entry { height, time_ms, what, in_micro, other, .. } in
            store.history_since(account, self.height, first * DAY_MS)?
        {
            self.height = self.height.max(height);
            if ["paid", "issued"].contains(&what.as_str()) {
                *self.paid.entry((time_ms / DAY_MS, other)).or_default() += in_micro;
            }
        }
        self.paid = self.paid.split_off(&(first, String::new()));
        Ok(())
    }
}

impl Node {
    /// What it earned in the last [`DAYS`] days.
    pub(crate) fn earned(&self, runs: &[RunStatus]) -> ByDay {
        let names: BTreeMap<&str, &str> = runs.iter().map(|run| (run.run.as_str(), run.name.as_str())).collect();
        let first = (chain::clock().0 / DAY_MS).saturating_sub(DAYS);
        let mut earned = ByDay::new();
        let mut tallies = self.earned.0.lock().expect("nobody panics while holding it");
        for (chain, kept) in self.shared.chains.all().iter().filter_map(|log| Some((log.chain(), log.kept()?))) {
            let tally = tallies.entry(chain).or_default();
            if let Err(error) = tally.read(&kept.store, &self.id(), first) {
                tracing::warn!(%error, "the account's history is not read");
            }
            for ((day, run), micro) in &tally.paid {
                let short = || run[..8.min(run.len())].to_owned();
                let model = names.get(run.as_str()).map_or_else(short, |name| (*name).to_owned());
                *earned.entry((*day, model, "training")).or_default() += micro;
            }
        }
        #[cfg(feature = "serve")]
        if let Ok(trade) = self.in_market() {
            for ((day, model), micro) in trade.earned() {
                if day >= first {
                    *earned.entry((day, model, "serving")).or_default() += micro;
                }
            }
        }
        earned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_is_read_once() {
        let stage = tempfile::tempdir().expect("a folder");
        let store = ChainStore::open(stage.path()).expect("a store");
        let account = NodeId([7; 32]);
        let entry = |height: u64, day: u64, what: &str, in_micro: u64| Entry {
            height,
            time_ms: day * DAY_MS + height,
            what: what.into(),
            in_micro,
            other: "run".into(),
            ..Default::default()
        };
        let note = |height: u64, entries: &[Entry]| store.note(&account, height, entries).expect("written");
        note(1, &[entry(1, 99, "paid", 1000)]);
        note(2, &[entry(2, 100, "paid", 1), entry(2, 100, "received", 500), entry(2, 100, "issued", 2)]);
        let mut tally = Tally::default();
        let mut read = |first: u64, expect: &[(u64, u64)]| {
            tally.read(&store, &account, first).expect("read");
            let paid: Vec<_> = tally.paid.iter().map(|((day, _), micro)| (*day, *micro)).collect();
            assert_eq!(paid, expect);
        };
        read(100, &[(100, 3)]);
        read(100, &[(100, 3)]);
        note(5, &[entry(5, 101, "paid", 10)]);
        read(100, &[(100, 3), (101, 10)]);
        read(101, &[(101, 10)]);
    }
}
