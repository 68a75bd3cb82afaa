//! What this node did and earned, by day and model: training as its chains say, serving as its books do.

use crate::Node;
use crate::view::panel::WorkDone;
use base::NodeId;
use replica::ChainStore;
use std::collections::BTreeMap;
use trainer::RunStatus;

/// Days of earnings that are shown.
pub(crate) const DAYS: u64 = 31;

/// Micro-credits by day since 1970, model, kind of work, and what computed.
pub(crate) type ByDay = BTreeMap<(u64, String, &'static str, String), u64>;

/// What a node did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Of that day and the [`DAYS`] before it.
    pub(crate) earned: ByDay,
    /// On the day that was asked for.
    pub(crate) on_day: WorkDone,
    /// Since it was started.
    pub(crate) since_start: WorkDone,
}

impl Done {
    /// Adds what a chain says that `account` did in runs of these names.
    fn train(&mut self, store: &ChainStore, account: &NodeId, asked: u64, names: &BTreeMap<&str, &str>) {
        let (tokens, earned) = store.since_open(account);
        self.since_start.tokens_trained += tokens;
        self.since_start.earned_micro += earned;
        store.days(|days| {
            for ((by, day, run), worked) in days {
                if by != account || *day + DAYS < asked {
                    continue;
                }
                if *day == asked {
                    self.on_day.tokens_trained += worked.tokens;
                    self.on_day.earned_micro += worked.earned_micro;
                }
                if worked.earned_micro > 0 {
                    let run = run.to_string();
                    let model = names.get(run.as_str()).map_or_else(|| run[..8].to_owned(), |name| (*name).to_owned());
                    let key = (*day, model, "training", worked.device.clone());
                    *self.earned.entry(key).or_default() += worked.earned_micro;
                }
            }
        });
    }

    /// Adds what the books say of answers.
    #[cfg(feature = "serve")]
    fn serve(&mut self, trade: &serving::Trade, asked: u64) {
        use serving::Answered;
        let add = |sum: &mut WorkDone, answered: Answered, before: Answered| {
            // Books that cannot be read now hold less than before.
            sum.earned_micro += answered.earned_micro.saturating_sub(before.earned_micro);
            sum.questions_answered += answered.others.saturating_sub(before.others);
            sum.own_questions += answered.own.saturating_sub(before.own);
        };
        let all = trade.answered();
        let total = all.values().fold(Answered::default(), |all, more| all.and(*more));
        add(&mut self.since_start, total, trade.answered_before());
        for ((day, model, device), answered) in all.into_iter().filter(|((day, ..), _)| *day + DAYS >= asked) {
            if day == asked {
                add(&mut self.on_day, answered, Answered::default());
            }
            if answered.earned_micro > 0 {
                *self.earned.entry((day, model, "serving", device)).or_default() += answered.earned_micro;
            }
        }
    }
}

impl Node {
    /// What it did on a day, since it was started, and what it earned in the days before.
    pub(crate) fn done(&self, day: u64, runs: &[RunStatus]) -> Done {
        let names: BTreeMap<&str, &str> = runs.iter().map(|run| (run.run.as_str(), run.name.as_str())).collect();
        let mut done = Done::default();
        for kept in self.shared.chains.all().iter().filter_map(|log| log.kept()) {
            done.train(&kept.store, &self.id(), day, &names);
        }
        #[cfg(feature = "serve")]
        if let Ok(trade) = self.in_market() {
            done.serve(&trade, day);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Hash;
    use owner::DAY_MS;
    use replica::{DailyWork, Entry, Notes};

    #[test]
    fn what_was_done_is_found_again_and_counted_since_the_start() {
        let stage = tempfile::tempdir().expect("a folder");
        let (me, other, run) = (NodeId([7; 32]), NodeId([8; 32]), Hash([9; 32]));
        let row = |height: u64, tokens: u64, earned_micro: u64| DailyWork {
            height,
            tokens,
            earned_micro,
            device: "cpu".into(),
            ..DailyWork::default()
        };
        let note = |store: &ChainStore, day: u64, row: DailyWork| {
            let entries = vec![(me, vec![Entry { height: row.height, time_ms: day * DAY_MS, ..Entry::default() }])];
            let paid = vec![(run, me, 5), (run, other, 6)];
            let days = [((me, day, run), row.clone())].into();
            store.note(row.height, &Notes { entries, days, paid }).expect("written");
        };
        let seen = |store: &ChainStore, today: u64| {
            let mut done = Done::default();
            done.train(store, &me, today, &BTreeMap::new());
            let earned: Vec<(u64, u64)> = done.earned.iter().map(|((day, ..), micro)| (*day, *micro)).collect();
            (done.on_day.tokens_trained, done.since_start.earned_micro, earned)
        };
        let store = ChainStore::open(stage.path()).expect("a store");
        note(&store, 99, row(1, 10, 100));
        note(&store, 100, row(2, 20, 200));
        assert_eq!(seen(&store, 100), (20, 300, vec![(99, 100), (100, 200)]));
        drop(store);
        let store = ChainStore::open(stage.path()).expect("a store");
        assert_eq!(seen(&store, 100), (20, 0, vec![(99, 100), (100, 200)]));
        note(&store, 100, row(3, 25, 250));
        // Said again it changes nothing.
        note(&store, 100, row(3, 25, 250));
        assert_eq!(seen(&store, 100), (25, 50, vec![(99, 100), (100, 250)]));
        assert_eq!(seen(&store, 99 + DAYS), (0, 50, vec![(99, 100), (100, 250)]));
        assert_eq!(seen(&store, 100 + DAYS), (0, 50, vec![(100, 250)]));
        assert_eq!(store.paid(&run).expect("read"), BTreeMap::from([(me, 15), (other, 18)]));
        assert!(store.paid(&Hash([1; 32])).expect("read").is_empty());
    }
}
