//! Where a node takes part without being told: runs of its network that pay and have a place free.

use crate::Node;
use crate::driver::Order;
use anyhow::{Result, anyhow};
use base::NodeId;
use ledger::Credits;
use net::Ticket;
use std::sync::Arc;
use swarm::{Access, Run, RunId};

/// Memory that training takes for each parameter: weights, gradient, two moments, error feedback, the last update and
/// copies on their way, in single precision.
const BYTES_PER_PARAMETER: u64 = 32;

/// A run that wants somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    run: RunId,
    name: String,
    /// Contributors of a round, and how many there may be.
    taken: usize,
    places: usize,
    memory_mb: u64,
    pays: bool,
}

impl Place {
    /// A run as `me` sees it; none where it is not for `me`.
    fn of(run: &Run, budget: Credits, me: &NodeId) -> Option<Self> {
        let welcome = match &run.spec.access {
            Access::Open => true,
            Access::Invited(keys) => keys.contains(me),
        };
        (welcome && !run.ended).then(|| Self {
            run: run.id,
            name: run.spec.name.clone(),
            taken: run.active(),
            places: run.spec.slots.into(),
            memory_mb: run.spec.params.saturating_mul(BYTES_PER_PARAMETER) >> 20,
            pays: budget > Credits::ZERO,
        })
    }
}

/// The place to take: one that pays, is free, fits and is not `known`, where the fewest of the wanted are.
fn best(places: Vec<Place>, memory_mb: u64, known: impl Fn(&RunId) -> bool) -> Option<Place> {
    let fits = |place: &Place| place.pays && place.taken < place.places && place.memory_mb <= memory_mb;
    // Whether a run is known is asked of the disk: last.
    let open = places.into_iter().filter(|place| fits(place) && !known(&place.run));
    open.min_by_key(|place| (place.taken * 1000 / place.places.max(1), place.run))
}

impl Node {
    /// Takes a place in an open run of the network at home that pays, in which it never was; the run's name.
    /// `memory_mb`: what there is for training.
    pub async fn take_place(self: &Arc<Self>, memory_mb: u64) -> Result<Option<String>> {
        let home = self.shared.chains.home.clone();
        let Some(kept) = home.kept() else { return Ok(None) };
        let me = self.id();
        let places: Vec<Place> = kept.keeper.look(|orderer| {
            let state = orderer.state();
            let runs = state.runs().runs.values();
            runs.filter_map(|run| Place::of(run, state.money().pot(&run.id), &me)).collect()
        });
        // What its owner left stays left.
        let known = |run: &RunId| self.shared.store.dir().join("runs").join(run.to_string()).exists();
        let Some(place) = best(places, memory_mb, known) else { return Ok(None) };
        // Where its members are it knows from its network.
        let ticket = Ticket { chain: home.chain(), run: place.run, anchor: None, peers: vec![self.address()] };
        let driver = self.driver(home).await;
        driver.send(Order::Follow(ticket)).await.map_err(|_| anyhow!("the node is stopping"))?;
        Ok(Some(place.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Hash;

    #[test]
    fn a_place_pays_is_free_and_fits() {
        let place = |id: u8, taken: usize, memory_mb: u64, pays: bool| Place {
            run: Hash([id; 32]),
            name: id.to_string(),
            taken,
            places: 4,
            memory_mb,
            pays,
        };
        let check = |places: &[Place], expect: Option<u8>| {
            let best = best(places.to_vec(), 1000, |run| run.0[0] == 9).map(|place| place.run.0[0]);
            assert_eq!(best, expect, "{places:?}");
        };
        check(&[], None);
        check(&[place(1, 0, 10, true)], Some(1));
        check(&[place(1, 0, 10, false)], None);
        check(&[place(1, 4, 10, true)], None);
        check(&[place(1, 0, 1001, true)], None);
        check(&[place(9, 0, 10, true)], None);
        check(&[place(1, 2, 10, true), place(2, 1, 10, true), place(3, 1, 10, true)], Some(2));
    }
}
