//! Error feedback without tensors. Every unit makes one grain of mass; grains wait in a private state, travel in
//! updates and end in the weights. A grain that is nowhere was lost, one that is in two places was doubled.

use base::Hash;
use std::collections::{BTreeMap, BTreeSet};
use swarm::{Closed, Commit, Train};

/// What one unit made.
#[derive(Debug)]
struct Unit {
    node: usize,
    /// The grain that it added.
    grain: u64,
    /// The grains that its update carries.
    grains: BTreeSet<u64>,
    /// Trained alone: from which version.
    plain_base: Option<u64>,
    /// Whether its commit is on the log.
    taken: bool,
}

/// A private state: the grains that wait, and the updates of its past that are not settled in it.
#[derive(Debug, Clone, Default)]
struct Private {
    waiting: BTreeSet<u64>,
    open: BTreeSet<Hash>,
}

/// All mass of a run, by the log's word.
#[derive(Debug, Default)]
pub(crate) struct Mass {
    units: BTreeMap<Hash, Unit>,
    states: BTreeMap<Hash, Private>,
    /// Grains in the weights.
    applied: BTreeSet<u64>,
    /// Of updates whose fate is known: the round that closed it and whether it was applied.
    fates: BTreeMap<Hash, (u64, bool)>,
    /// The private state behind each node's last commit on the log.
    current: BTreeMap<usize, Hash>,
    next: u64,
}

impl Mass {
    /// Does an honest unit: names of its update (or weights, when it trained alone) and of the state behind it.
    /// `all`: whether everything that waits is sent, or about half of it.
    pub fn train(&mut self, node: usize, train: &Train, all: bool) -> Result<(Hash, Hash), String> {
        let mut private = self.settled(node, train)?;
        let overdue =
            private.open.iter().find(|update| self.fates.get(*update).is_some_and(|(at, _)| *at < train.base));
        if let Some(update) = overdue {
            return Err(format!("node {node} in round {}: the fate of {update:?} is known, not settled", train.round));
        }
        let grain = self.next;
        private.waiting.insert(grain);
        let grains: BTreeSet<u64> = if train.plain {
            BTreeSet::from([grain])
        } else {
            private.waiting.iter().copied().filter(|other| all || (other ^ grain) & 1 == 0).collect()
        };
        private.waiting = &private.waiting - &grains;
        Ok(self.made(node, train, private, grains))
    }

    /// A liar's unit: it carries nothing that is accounted for.
    pub fn lie(&mut self, node: usize, train: &Train) -> (Hash, Hash) {
        self.made(node, train, Private::default(), BTreeSet::new())
    }

    fn made(&mut self, node: usize, train: &Train, mut private: Private, grains: BTreeSet<u64>) -> (Hash, Hash) {
        let grain = self.next;
        self.next += 1;
        let update = Hash::of("sim update", &grain.to_le_bytes());
        let state = Hash::of("sim private state", &grain.to_le_bytes());
        if !train.plain {
            private.open.insert(update);
        }
        let plain_base = train.plain.then_some(train.base);
        self.units.insert(update, Unit { node, grain, grains, plain_base, taken: false });
        self.states.insert(state, private);
        (update, state)
    }

    /// The private state from which a unit goes on, with what came back put into it.
    fn settled(&self, node: usize, train: &Train) -> Result<Private, String> {
        let at = format!("node {node} in round {}", train.round);
        let empty = train.state == Hash::default();
        let known = self.states.get(&train.state).cloned();
        let mut private = if empty { Private::default() } else { known.ok_or(format!("{at}: an unknown state"))? };
        for settle in &train.settle {
            let update = settle.update;
            let (Some(unit), Some((round, applied))) = (self.units.get(&update), self.fates.get(&update)) else {
                return Err(format!("{at}: settles {update:?}, whose fate is open"));
            };
            let listed = settle.set.iter().any(|c| c.update == update);
            if *applied != listed || *applied == settle.set.is_empty() || *round >= train.base {
                return Err(format!("{at}: settles {update:?} wrongly, closed in {round}, applied {applied}"));
            }
            if !private.open.remove(&update) && !empty {
                return Err(format!("{at}: settles {update:?} again"));
            }
            // What was applied is consumed; what was left out waits again.
            let mut back = unit.grains.iter().filter(|_| !*applied);
            if let Some(grain) = back.find(|grain| !private.waiting.insert(**grain)) {
                return Err(format!("{at}: grain {grain} of {update:?} came back twice"));
            }
        }
        Ok(private)
    }

    /// The log took a commit. `may_lose`: whether this node may declare its feedback lost.
    pub fn take(&mut self, node: usize, commit: &Commit, may_lose: bool) -> Result<(), String> {
        let before = self.current.insert(node, commit.state_next);
        if before == Some(commit.state_next) {
            return Ok(());
        }
        if let Some(unit) = self.units.get_mut(&commit.update) {
            unit.taken = true;
        }
        if commit.state == Hash::default() && before.is_some() && !may_lose {
            let round = commit.round;
            return Err(format!("node {node} declared its feedback lost in round {round}, but its disk has it"));
        }
        Ok(())
    }

    /// A round closed.
    pub fn close(&mut self, closed: &Closed) -> Result<(), String> {
        let round = closed.round.0;
        for (update, applied) in
            closed.set.iter().map(|c| (c.update, true)).chain(closed.left_out.iter().map(|c| (c.update, false)))
        {
            if let Some((before, _)) = self.fates.insert(update, (round, applied)) {
                return Err(format!("{update:?} was decided in round {before} and again in {round}"));
            }
            if applied {
                self.apply(&update, round)?;
            }
        }
        let Some((_, root)) = closed.plain else { return Ok(()) };
        match self.units.get(&root).and_then(|unit| unit.plain_base) {
            Some(base) if base != round => {
                Err(format!("round {round} replaces the weights by some trained from version {base}: a set is lost"))
            }
            _ => self.apply(&root, round),
        }
    }

    fn apply(&mut self, update: &Hash, round: u64) -> Result<(), String> {
        let grains = self.units.get(update).map(|unit| &unit.grains);
        match grains.into_iter().flatten().find(|grain| !self.applied.insert(**grain)) {
            Some(grain) => Err(format!("grain {grain} is applied again, by {update:?} in round {round}")),
            None => Ok(()),
        }
    }

    /// Every grain of `node`'s units on the log is in exactly one place.
    pub fn balance(&self, node: usize) -> Result<(), String> {
        let private = self.current.get(&node).and_then(|state| self.states.get(state)).cloned().unwrap_or_default();
        let flying = private.open.iter().filter(|update| !self.fates.get(*update).is_some_and(|(_, applied)| *applied));
        let flying: Vec<&Unit> = flying.filter_map(|update| self.units.get(update)).collect();
        for unit in self.units.values().filter(|unit| unit.node == node && unit.taken) {
            let grain = &unit.grain;
            let in_flight = flying.iter().filter(|unit| unit.grains.contains(grain)).count();
            let places =
                usize::from(self.applied.contains(grain)) + usize::from(private.waiting.contains(grain)) + in_flight;
            if places != 1 {
                return Err(format!("node {node}: grain {grain} is in {places} places"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Round;

    fn unit(round: u64, state: Hash) -> Train {
        Train {
            run: Hash::default(),
            round: Round(round),
            base: round,
            root: Hash::default(),
            micro_batches: 1,
            position: 0,
            tokens_before: 0,
            steps_before: 0,
            window_ms: 1,
            plain: false,
            state,
            inherit: None,
            settle: Vec::new(),
            pending: None,
        }
    }

    #[test]
    fn a_fate_that_is_not_settled_is_seen() {
        let mut mass = Mass::default();
        let (update, state) = mass.train(0, &unit(0, Hash::default()), true).expect("the first unit");
        mass.fates.insert(update, (0, false));
        assert!(mass.train(0, &unit(1, state), true).is_err(), "it was left out and did not come back");
        let settle = vec![swarm::Settle { update, set: Vec::new() }];
        assert!(mass.train(0, &Train { settle, ..unit(1, state) }, true).is_ok());
    }
}
