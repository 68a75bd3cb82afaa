//! The virtual driver: carries out what a peer asks for, in order, and brings back what became of it.

use super::wire::Want;
use super::{What, World};
use crate::report::Violation;
use crate::scenario::Liar;
use crate::tensors::Tensors;
use base::{Hash, Machine, Millis, NodeId, Outbox, Round, Wire};
use swarm::{Candidate, Closed, Commit, Fetch, Input, Output, RunEvent, Train};

impl World {
    /// One input, and everything that the peer asks for because of it.
    pub fn step(&mut self, i: usize, input: Input) -> Result<(), Violation> {
        let now = self.nodes[i].part.clock.local(self.now);
        let mut out = Outbox::default();
        self.nodes[i].peer.step(now, input, &mut out);
        let outputs: Vec<Output> = out.drain().collect();
        for output in outputs {
            let counts = !matches!(output, Output::Wake(_) | Output::Event(_));
            self.carry_out(i, output)?;
            self.nodes[i].outputs += u64::from(counts);
            let crash = self.scenario.faults.crash_after.filter(|crash| crash.node == i && counts);
            if let Some(crash) = crash.filter(|crash| crash.output == self.nodes[i].outputs && self.stormy()) {
                self.crash(i, crash.down_ms, false, crash.whole_log);
                break;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, i: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Submit(tx) => {
                if let Some(tx) = self.bear_false_witness(i, tx) {
                    self.submit(i, tx);
                }
            }
            Output::Init(_) => {
                let ms = self.scenario.costs.apply_ms;
                self.after(ms, i, What::Weights(Some((0, self.first))));
            }
            Output::Sync { version, root, sources, .. } => self.fetch(i, Want::Weights(version, root), &sources),
            Output::Train(train) => return self.train(i, &train),
            Output::Fetch(fetch) => {
                let Fetch { candidate, sources, .. } = *fetch;
                self.fetch(i, Want::Update(Box::new(candidate)), &sources);
            }
            Output::Apply { closed, .. } => return self.apply(i, &closed),
            Output::Remember(..) => self.nodes[i].disk.remembered = Some(output),
            Output::Forget(_, hashes) => {
                for hash in &hashes {
                    self.nodes[i].disk.updates.remove(hash);
                }
            }
            Output::Wake(at) => self.wake(i, at),
            Output::Event(event) => self.noticed(i, &event),
            Output::Differs { version, ours, theirs, .. } => return self.differs(i, version, ours, theirs),
            Output::Chunk { by, version, .. } => {
                let held = self.nodes[i].held.iter().find(|(held, _)| *held == version);
                if let Some((_, hash)) = held.copied() {
                    self.after(1, i, What::Chunk(by, hash));
                }
            }
        }
        Ok(())
    }

    fn wake(&mut self, i: usize, at: Millis) {
        let at = self.nodes[i].part.clock.global(at).max(self.now + 1);
        if self.nodes[i].wake_ms.is_none_or(|before| at < before) {
            self.nodes[i].wake_ms = Some(at);
            self.after(at - self.now, i, What::Wake);
        }
    }

    fn noticed(&mut self, i: usize, event: &RunEvent) {
        if let RunEvent::Committed(_, round) = event
            && self.nodes[i].lies(Liar::BlindAttest)
        {
            self.attest_blindly(i, *round);
        }
    }

    /// Computes as many inner steps as fit into the window.
    fn train(&mut self, i: usize, train: &Train) -> Result<(), Violation> {
        let node = &self.nodes[i];
        if train.state != Hash::default() && !node.disk.states.contains(&train.state) {
            return Err(self.fail(format!("node {i} is to go on from a state that its disk does not have")));
        }
        if !node.held.contains(&(train.base, train.root)) {
            return Err(self.fail(format!("node {i} is to train from version {} and does not hold it", train.base)));
        }
        let (speed, inner_steps) = (node.part.speed_milli, u64::from(self.scenario.inner_steps));
        let lie = node.part.liar.filter(|_| self.may_lie());
        if lie == Some(Liar::Instant) {
            self.watch.lies += 1;
            let commit = self.unit(i, train, inner_steps)?;
            self.after(1, i, What::Trained(Box::new((train.round, Some(commit)))));
            return Ok(());
        }
        if lie == Some(Liar::Stalling) {
            self.watch.lies += 1;
            self.after(1, i, What::Trained(Box::new((train.round, None))));
            return Ok(());
        }
        let budget = train.window_ms * 3 / 4;
        let work = u64::from(train.micro_batches) * 1_000_000;
        let steps = (budget * speed / work).min(inner_steps);
        if steps == 0 {
            self.after(budget.max(1), i, What::Trained(Box::new((train.round, None))));
            return Ok(());
        }
        let took = steps * work / speed;
        let commit = self.unit(i, train, steps)?;
        // What its processor did for others meanwhile, it did not train.
        let owed = std::mem::take(&mut self.nodes[i].owed_ms);
        let (from, encode_ms) = (self.now + owed, self.scenario.costs.encode_ms);
        self.nodes[i].busy.push((from, from + took));
        self.after(owed + took + encode_ms, i, What::Trained(Box::new((train.round, Some(commit)))));
        Ok(())
    }

    /// A node computes something else than a unit for a while.
    pub fn computes(&mut self, i: usize, ms: u64) {
        let training = self.nodes[i].busy.last().is_some_and(|(_, end)| self.now < *end);
        if self.scenario.costs.one_processor && training {
            self.nodes[i].owed_ms += ms;
        }
    }

    fn unit(&mut self, i: usize, train: &Train, steps: u64) -> Result<Commit, Violation> {
        let Some(mut tensors) = self.tensors.take() else { return self.grains(i, train, steps) };
        let commit = self.learn(&mut tensors, i, train, steps);
        self.tensors = Some(tensors);
        commit.map_err(|what| self.fail(format!("node {i} in round {}: {what}", train.round)))
    }

    fn grains(&mut self, i: usize, train: &Train, steps: u64) -> Result<Commit, Violation> {
        let all = self.rng.chance(1, 2);
        // Another's moments arrive in time, or not.
        let inherited = train.inherit.filter(|_| self.rng.chance(1, 2)).map(|(_, state)| state);
        let (update, state_next) = if self.nodes[i].honest() {
            self.mass.train(i, train, all).map_err(|what| self.fail(what))?
        } else {
            self.mass.lie(i, train)
        };
        Ok(Commit {
            run: train.run,
            round: train.round,
            root: train.root,
            class: Hash::default(),
            tokens: steps * u64::from(train.micro_batches) * self.log_run().spec.tokens_per_micro_batch(),
            steps: steps as u32,
            update,
            norm_sq_bits: 1f64.to_bits(),
            size: if train.plain { 0 } else { self.scenario.costs.update_bytes },
            state: inherited.unwrap_or(train.state),
            state_next,
            trace: Hash::default(),
            loss_micro: 1_000_000,
        })
    }

    /// A unit of the model, as it is computed; a liar changes it before it commits.
    fn learn(&mut self, tensors: &mut Tensors, i: usize, train: &Train, steps: u64) -> Result<Commit, String> {
        let node = &self.nodes[i];
        let serves = |(donor, state): &(NodeId, Hash)| {
            let donor = self.index.get(donor).map(|j| &self.nodes[*j]);
            donor.is_some_and(|donor| donor.up && donor.disk.states.contains(state))
        };
        let donated = train.inherit.filter(serves).map(|(_, state)| state);
        // A liar takes nothing back: what it sent was never learned.
        let own = node.honest().then_some(&node.disk.updates);
        let mut commit = tensors.unit(train, steps, own, donated)?;
        let liar = node.part.liar.filter(|_| self.may_lie());
        if let Some(liar) = liar {
            let id = node.id;
            let last = self.log_run().closed.back();
            let other = last.and_then(|closed| closed.set.iter().find(|c| c.member != id)).map(|c| c.update);
            let lied = tensors.lie(&mut commit, liar, other, &mut self.rng);
            // That it commits at once is counted already.
            self.watch.lies += u64::from(lied && liar != Liar::Instant);
        }
        Ok(commit)
    }

    /// The quorum contradicts a node: never an honest one, unless false witnesses are among the members.
    fn differs(&mut self, i: usize, version: u64, ours: Hash, theirs: Hash) -> Result<(), Violation> {
        let ms = self.scenario.costs.apply_ms;
        match self.nodes[i].part.liar {
            Some(Liar::Flipped) => {
                self.nodes[i].held.retain(|(held, _)| *held < version);
                self.after(ms, i, What::Weights(Some((version, theirs))));
            }
            None if !self.nodes.iter().any(|node| node.lies(Liar::FalseRoot)) => {
                let what = format!("node {i} disputes version {version}: its {ours:?} against {theirs:?}");
                return Err(self.fail(what));
            }
            None | Some(Liar::Broken) => self.after(ms, i, What::Differs(version, ours)),
            Some(_) => {}
        }
        Ok(())
    }

    /// A unit is done: the disk has it before the peer knows.
    pub fn trained(&mut self, i: usize, round: Round, mut commit: Option<Commit>) -> Result<(), Violation> {
        if let Some(commit) = &mut commit {
            self.falsify(i, commit);
            let disk = &mut self.nodes[i].disk;
            disk.states.insert(commit.state_next);
            let store = if commit.size == 0 { &mut disk.plain } else { &mut disk.updates };
            store.insert(commit.update);
        }
        self.step(i, Input::Trained { run: self.run, round, result: commit.map(Box::new) })
    }

    fn apply(&mut self, i: usize, closed: &Closed) -> Result<(), Violation> {
        let node = &self.nodes[i];
        let Some((version, root)) = node.held.back().copied().filter(|(held, _)| *held == closed.round.0) else {
            return Err(self.fail(format!("node {i} is to apply round {} to other weights", closed.round)));
        };
        if let Some(missing) = closed.set.iter().find(|c| !node.disk.updates.contains(&c.update)) {
            return Err(self.fail(format!("node {i} is to apply {:?}, which it does not have", missing.update)));
        }
        let faulty = matches!(node.part.liar, Some(Liar::Broken | Liar::Flipped)) && version % 5 == 3;
        let made = match (closed.plain, &mut self.tensors) {
            (Some((_, root)), _) => Ok(Some(root).filter(|_| node.disk.plain.contains(&root))),
            (None, Some(tensors)) => tensors.apply(&root, closed).map(Some),
            (None, None) => Ok(Some(applied_root(root, &closed.set))),
        };
        let made = made.map_err(|what| self.fail(format!("node {i} applies round {}: {what}", closed.round)))?;
        self.watch.lies += u64::from(faulty);
        let made = match &mut self.tensors {
            _ if !faulty => made,
            Some(tensors) => made.map(|root| tensors.damaged(&root)),
            None => made.map(|root| Hash::of("sim fault", &root.0)),
        };
        let made = made.map(|root| (version + 1, root));
        let ms = self.scenario.costs.apply_ms;
        self.computes(i, ms);
        self.after(ms, i, What::Weights(made));
        Ok(())
    }

    /// Weights were made or fetched: honest nodes hold one root per version.
    pub fn weights(&mut self, i: usize, made: Option<(u64, Hash)>) -> Result<(), Violation> {
        match made {
            Some((version, root)) => {
                self.nodes[i].hold(version, root);
                if self.nodes[i].honest() && !self.nodes[i].lies(Liar::Flipped) {
                    self.one_root(i, version, root)?;
                }
            }
            None => self.nodes[i].held.clear(),
        }
        self.step(i, Input::Weights { run: self.run, result: made })
    }
}

/// The weights that a set makes; an empty one leaves them as they are.
fn applied_root(root: Hash, set: &[Candidate]) -> Hash {
    if set.is_empty() {
        return root;
    }
    let updates: Vec<Hash> = set.iter().map(|candidate| candidate.update).collect();
    Hash::of("sim weights", &(root, updates).to_bytes())
}
