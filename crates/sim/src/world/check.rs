//! The invariants: safety at every block, liveness after the faults stop.

use super::World;
use crate::node::Node;
use crate::report::{Struck, Violation};
use crate::scenario::Liar;
use base::{Hash, RejectCounts};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use swarm::{Closed, Commit, Run, RunsState, Standing, WorkBlock, WorkTx};

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Watch {
    /// The one root of each version among honest nodes.
    roots: BTreeMap<u64, Hash>,
    /// The log's state at some heights, to compare replicas with.
    states: BTreeMap<u64, RunsState>,
    /// Rounds closed, and of them void.
    pub closed: u64,
    pub voids: u64,
    /// Upheld and dismissed.
    pub disputes: (u64, u64),
    /// Processes that were ended, lies that were told, updates that were copied, and copies that were refused.
    pub crashes: u64,
    pub struck: Struck,
    pub lies: u64,
    pub copied: BTreeSet<(usize, Hash)>,
    pub copies: u64,
    /// Refused at the door of the log.
    pub refused: RejectCounts,
    /// Whether everybody took part again after the calm.
    recovered: bool,
    contributed: BTreeSet<usize>,
    /// When the warm-up was over.
    pub warm_ms: Option<u64>,
    /// When a newcomer first had weights to begin with, when the log first had it active and before which round,
    /// and the round of its first commit.
    ready_ms: BTreeMap<usize, u64>,
    active: BTreeMap<usize, (u64, u64)>,
    first_commit: BTreeMap<usize, u64>,
}

/// Replicas are compared at every so many-th height.
const COMPARE_HEIGHTS: u64 = 8;
/// The log's states of the last such heights are kept.
const STATES_KEPT: usize = 32;
/// A newcomer with weights is active after so long where nothing goes wrong: `Join` and `Ready`, each with a block.
const READY_MS: u64 = 3_000;

impl World {
    /// The log made a block.
    pub fn after_block(&mut self, block: &WorkBlock) -> Result<(), Violation> {
        let state = self.log.sequencer.state();
        if state.height.is_multiple_of(COMPARE_HEIGHTS) {
            self.watch.states.insert(state.height, state.clone());
            if self.watch.states.len() > STATES_KEPT {
                self.watch.states.pop_first();
            }
        }
        for tx in &block.txs {
            if let WorkTx::Commit { commit } = &tx.value.tx
                && taken(self.log_run(), commit)
                && let Some(i) = self.index.get(&tx.by).copied()
            {
                let may_lose = self.nodes[i].wiped || !self.nodes[i].honest();
                self.mass.take(i, commit, may_lose).map_err(|what| self.fail(what))?;
                self.watch.first_commit.entry(i).or_insert(commit.round.0);
            }
        }
        self.note_active();
        let first = self.watch.closed;
        let closed: Vec<Closed> =
            self.log_run().closed.iter().filter(|closed| closed.round.0 >= first).cloned().collect();
        for closed in closed {
            self.mass.close(&closed).map_err(|what| self.fail(what))?;
            self.note_closed(&closed);
        }
        Ok(())
    }

    fn note_active(&mut self) {
        let Some(run) = self.log.sequencer.state().runs.get(&self.run) else { return };
        for (id, _) in run.members.iter().filter(|(_, member)| member.status == Standing::Active) {
            if let Some(i) = self.index.get(id) {
                self.watch.active.entry(*i).or_insert((self.now, run.next.0));
            }
        }
    }

    fn note_closed(&mut self, closed: &Closed) {
        self.watch.closed = closed.round.0 + 1;
        self.watch.voids += u64::from(closed.void);
        if self.watch.closed == self.scenario.warm_rounds {
            self.watch.warm_ms = Some(self.now);
        }
        if self.stormy() || self.watch.recovered {
            return;
        }
        let plain = closed.plain.iter().map(|(member, _)| member);
        let members = closed.set.iter().map(|candidate| &candidate.member).chain(plain);
        // A third that attests to nothing of the others keeps them out of a set, but not out of the rounds.
        let outvoted = !self.may_lie() && self.nodes.iter().any(|node| node.lies(Liar::Stingy));
        let members = members.chain(closed.commits.keys().filter(|_| outvoted));
        let members: BTreeSet<usize> = members.filter_map(|id| self.index.get(id).copied()).collect();
        if self.scenario.turns() == 1 {
            self.watch.contributed = members;
        } else {
            self.watch.contributed.extend(members);
        }
        let recovered = self.wanted().all(|i| self.watch.contributed.contains(&i));
        self.watch.recovered = recovered;
    }

    /// Honest nodes whose owner wants to take part.
    fn wanted(&self) -> impl Iterator<Item = usize> + '_ {
        self.nodes.iter().enumerate().filter(|(_, node)| node.honest() && !node.quit).map(|(i, _)| i)
    }

    /// Whether all there was to see was seen.
    pub fn done(&self) -> bool {
        if self.stormy() {
            return false;
        }
        let run = self.log_run();
        if run.ended {
            let version = run.version();
            let newest = |node: &Node| node.peer.weights(&self.run).is_some_and(|(held, _)| held == version);
            let agreed = run.roots.contains_key(&version) || !self.may_lie();
            return agreed && self.wanted().all(|i| newest(&self.nodes[i]));
        }
        self.watch.recovered && self.watch.closed >= self.scenario.rounds.max(self.scenario.warm_rounds + 1)
    }

    /// The time for recovery is over.
    pub fn deadline(&self) -> Result<(), Violation> {
        if self.watch.recovered || self.log_run().ended {
            return Ok(());
        }
        let absent: Vec<usize> = self.wanted().filter(|i| !self.watch.contributed.contains(i)).collect();
        Err(self.fail(format!("nodes {absent:?} did not come back into a set after the faults stopped")))
    }

    /// Honest nodes hold one root per version.
    pub fn one_root(&mut self, i: usize, version: u64, root: Hash) -> Result<(), Violation> {
        let first = *self.watch.roots.entry(version).or_insert(root);
        if first != root {
            return Err(self.fail(format!("node {i} has {root:?} for version {version}, others {first:?}")));
        }
        if version + 2 >= self.log_run().version() {
            self.watch.ready_ms.entry(i).or_insert(self.now);
        }
        Ok(())
    }

    /// Replicas of the state are equal at equal heights.
    pub fn same_state(&self, i: usize) -> Result<(), Violation> {
        let own = self.nodes[i].peer.state();
        match self.watch.states.get(&own.height) {
            Some(state) if state != own => Err(self.fail(format!("node {i} differs from the log at {}", own.height))),
            _ => Ok(()),
        }
    }

    /// A newcomer's first unit is in the round after it has the weights, or the one after that. Promised
    /// where nothing goes wrong, there is a place for everybody and nobody has a share that it cannot do.
    pub fn joined_in_time(&self, i: usize, node: &Node) -> Result<(), String> {
        let scenario = &self.scenario;
        let promised = scenario.faults.none() && scenario.turns() == 1 && scenario.anyone_suffices();
        let ready = self.watch.ready_ms.get(&i).filter(|_| promised);
        let Some(ready) = ready.filter(|_| !node.quit && !self.log_run().ended) else { return Ok(()) };
        let late = |since: u64| self.now.saturating_sub(since) > READY_MS;
        let Some((active, before)) = self.watch.active.get(&i) else {
            return if late(*ready) { Err(format!("node {i} has weights and is not active")) } else { Ok(()) };
        };
        if active.saturating_sub(*ready) > READY_MS {
            return Err(format!("node {i} had weights at {ready} ms and was active at {active} ms"));
        }
        let first = self.watch.first_commit.get(&i).copied().unwrap_or(self.log_run().next.0.saturating_sub(1));
        if first > before + 1 {
            return Err(format!("node {i} was active before round {before}; its first commit is of round {first}"));
        }
        Ok(())
    }

    /// Where everybody stands, for whoever reads a violation.
    pub fn picture(&self) -> String {
        let mut out = String::new();
        let state = self.log.sequencer.state();
        if let Some(run) = state.runs.get(&self.run) {
            let root = run.roots.last_key_value();
            let _ = writeln!(out, "log: height {}, version {}, last root {root:?}", state.height, run.version());
            for open in &run.open {
                let (phase, plan, commits) = (open.phase, open.plan.len(), open.commits.len());
                let (round, until, of) = (open.round, open.until, open.committee.len());
                let attests = open.attests.len();
                let _ = writeln!(
                    out,
                    "  round {round}: {phase:?} until {until}, {commits}/{plan} commits, {attests}/{of} attests"
                );
            }
        }
        for (i, node) in self.nodes.iter().enumerate().take(16) {
            let (id, weights) = (node.id.short(), node.peer.weights(&self.run));
            let status = state.runs.get(&self.run).and_then(|run| run.members.get(&node.id)).map(|m| m.status);
            let (height, waiting) = (node.peer.state().height, node.peer.waiting(&self.run));
            let (up, liar) = (node.up, node.part.liar);
            let _ = writeln!(
                out,
                "  node {i} {id}: up {up}, height {height}, {status:?}, weights {weights:?}, {waiting:?}, liar {liar:?}"
            );
        }
        out
    }
}

/// Whether the log took this commit: it is in its round, open or just closed.
fn taken(run: &Run, commit: &Commit) -> bool {
    let open = run.open.iter().map(|open| &open.commits);
    let closed = run.closed.iter().rev().take(2).map(|closed| &closed.commits);
    open.chain(closed).any(|commits| commits.values().any(|other| other == commit))
}
