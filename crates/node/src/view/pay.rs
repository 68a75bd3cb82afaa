//! What a run pays, and what its members got of it, for displays.

use crate::Node;
use owner::Unpaid;
use replica::ChainStore;
use replica::DailyWork;
use replica::Kept;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use swarm::RunId;

impl Node {
    /// Of a run on a chain: what it pays, and what was paid since an account here takes part in it. Null where the chain is not
    /// here yet.
    pub(crate) fn pay(&self, chain: &str, run: &RunId) -> Value {
        let kept = chain.parse().ok().and_then(|chain| self.shared.chains.get(&chain)?.kept());
        kept.map(|kept| self.paid(&kept, run)).unwrap_or_default()
    }

    /// What this node got for its units of a run, and how many were not paid, by reason.
    pub(crate) fn got(&self, chain: &str, run: &str) -> Option<(u64, BTreeMap<String, u64>)> {
        let kept = self.shared.chains.get(&chain.parse().ok()?)?.kept()?;
        let own = self.own_part(&kept.store, &run.parse().ok()?);
        Some((own.earned_micro, own.unpaid))
    }

    fn own_part(&self, store: &ChainStore, run: &RunId) -> DailyWork {
        store.days(|days| {
            let own = days.iter().filter(|((by, _, of), _)| *by == self.id() && of == run).map(|(_, worked)| worked);
            own.fold(DailyWork::default(), DailyWork::and)
        })
    }

    fn paid(&self, kept: &Arc<Kept>, run: &RunId) -> Value {
        let (budget, admitted) = kept.keeper.look(|orderer| {
            let state = orderer.state();
            (state.money().pot(run), if state.validators().len() == 1 { state.share_permille(run) } else { 0 })
        });
        let members = kept.store.paid(run).unwrap_or_default();
        let own = self.own_part(&kept.store, run);
        json!({
            "budget_micro": budget.0, "admitted_permille": admitted, "paid_micro": members.values().sum::<u64>(),
            "members": members.iter().map(|(node, micro)| (node.to_string(), *micro)).collect::<BTreeMap<_, _>>(),
            "own": {
                "tokens": own.tokens, "units_paid": own.paid, "earned_micro": own.earned_micro,
                "funded_micro": own.funded_micro, "back_micro": own.back_micro,
                "unpaid": Unpaid::ALL.iter().filter_map(|why| {
                    let units = own.unpaid.get(why.code())?;
                    Some(json!({ "code": why.code(), "text": why.text(), "mend": why.mend(), "units": units }))
                }).collect::<Vec<_>>(),
            },
        })
    }
}
