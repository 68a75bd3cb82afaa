//! The event queue, the log node and the order of things.

mod check;
mod drive;
mod lies;
mod wire;

use crate::mass::Mass;
use crate::node::{Disk, Node};
use crate::report::{Learning, Report, Violation};
use crate::scenario::{Scenario, Work};
use crate::tensors::Tensors;
use base::{Hash, Keypair, Machine, Millis, NodeId, Outbox, Rng, Round, Wire};
use check::Watch;
use std::collections::BTreeMap;
use std::sync::Arc;
use swarm::{
    Commit, Input, Intent, Outcome, Output, Peer, Run, RunId, RunsState, Sequencer, SignedWorkTx, Standing, WorkBlock,
    WorkTx,
};
use wire::Ask;

/// Runs a scenario to its end, or to the first invariant that does not hold.
pub fn run(scenario: &Scenario) -> Result<Report, Violation> {
    logged(scenario).map(|(report, _)| report)
}

/// The same, with the log that came of it.
pub fn logged(scenario: &Scenario) -> Result<(Report, Vec<WorkBlock>), Violation> {
    let mut world = World::new(scenario)?;
    let rounds = scenario.rounds + scenario.turns();
    let limit = scenario.calm_ms + scenario.recovery_ms() + rounds * scenario.round_ms();
    while let Some(((at, _), event)) = world.queue.pop_first() {
        world.now = at;
        world.dispatch(event)?;
        if world.done() {
            return Ok((world.finish()?, std::mem::take(&mut world.log.blocks)));
        }
        if at > limit {
            return Err(world.fail("the run does not come to its end".into()));
        }
    }
    Err(world.fail("nothing is left to happen".into()))
}

/// The place of the log in the network.
pub(crate) const LOG: usize = usize::MAX;
/// Transactions are gathered into a block for so long.
const BLOCK_MS: u64 = 10;
/// Who leaves stays reachable for so long.
const FAREWELL_MS: u64 = 5_000;
/// Forged transactions come at this pace.
const FORGE_MS: u64 = 700;

/// What happens.
pub(crate) enum What {
    Tx { from: usize, tx: Box<SignedWorkTx>, forged: bool },
    Make,
    Block { height: u64, stream: u64 },
    Reconnect { stream: u64 },
    Wake,
    Trained(Box<(Round, Option<Commit>)>),
    Ask(Box<Ask>),
    Serve(Box<Ask>),
    Got(Box<Ask>),
    Missed(Box<Ask>),
    Weights(Option<(u64, Hash)>),
    Differs(u64, Hash),
    Chunk(NodeId, Hash),
    Start,
    Crash { down_ms: u64, wipe: bool, whole_log: bool },
    Quit,
    Rest(Intent),
    Gone,
    Forge,
    Deadline,
}

impl What {
    /// Kind and one number, for the trace.
    fn label(&self) -> (u64, u64) {
        match self {
            Self::Tx { tx, .. } => (0, tx.value.seq),
            Self::Make => (1, 0),
            Self::Block { height, .. } => (2, *height),
            Self::Reconnect { stream } => (3, *stream),
            Self::Wake => (4, 0),
            Self::Trained(done) => (5, done.0.0),
            Self::Ask(ask) => (6, ask.next as u64),
            Self::Serve(ask) => (7, ask.next as u64),
            Self::Got(ask) => (8, ask.next as u64),
            Self::Missed(ask) => (9, ask.next as u64),
            Self::Weights(made) => (10, made.map_or(u64::MAX, |(version, _)| version)),
            Self::Start => (11, 0),
            Self::Crash { down_ms, .. } => (12, *down_ms),
            Self::Quit => (13, 0),
            Self::Gone => (14, 0),
            Self::Forge => (15, 0),
            Self::Deadline => (16, 0),
            Self::Differs(version, _) => (17, *version),
            Self::Chunk(..) => (18, 0),
            Self::Rest(will) => (19, *will as u64),
        }
    }
}

/// Something that will happen to a node, or to one process of it.
pub(crate) struct Event {
    node: usize,
    epoch: Option<u64>,
    what: What,
}

/// The log node: durable, sometimes absent.
#[derive(Default)]
pub(crate) struct Log {
    pub sequencer: Sequencer,
    pub blocks: Vec<WorkBlock>,
    /// What each of the last blocks made of the state, where nodes share it.
    pub applied: BTreeMap<u64, Applied>,
    /// When it next acts.
    due_ms: Option<u64>,
}

/// A state and what happened in the block that made it.
pub(crate) type Applied = (Arc<RunsState>, Arc<Vec<swarm::RunEvent>>);

pub(crate) struct World {
    pub scenario: Scenario,
    pub rng: Rng,
    pub now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    order: u64,
    pub nodes: Vec<Node>,
    pub index: BTreeMap<NodeId, usize>,
    pub log: Log,
    pub run: RunId,
    pub mass: Mass,
    /// Where members really train.
    pub tensors: Option<Box<Tensors>>,
    /// The root of version 0.
    pub first: Hash,
    pub watch: Watch,
    trace: Hash,
    pub messages: u64,
}

impl World {
    fn new(scenario: &Scenario) -> Result<Self, Violation> {
        let key = |i: usize| Keypair::from_secret(Hash::of("sim key", &(scenario.seed, i as u64).to_bytes()).0);
        let mut keys: Vec<Keypair> = (0..scenario.members.len()).map(key).collect();
        keys.sort_by_key(Keypair::id);
        let nodes: Vec<Node> = keys
            .into_iter()
            .zip(&scenario.members)
            .map(|(key, part)| Node::new(key, part.clone(), scenario.chain))
            .collect();
        let index = nodes.iter().enumerate().map(|(i, node)| (node.id, i)).collect();
        let mut world = Self {
            scenario: scenario.clone(),
            rng: Rng::keyed(scenario.seed, 2),
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            nodes,
            index,
            log: Log { sequencer: Sequencer::new(scenario.chain), ..Log::default() },
            run: RunId::default(),
            mass: Mass::default(),
            tensors: (scenario.work != Work::Grains).then(|| Box::new(Tensors::new(scenario.spec()))),
            first: scenario.first_root(),
            watch: Watch::default(),
            trace: Hash::default(),
            messages: 0,
        };
        let create = world.nodes[0].sign(WorkTx::Create { spec: scenario.spec() });
        let taken = world.log.sequencer.submit(create);
        taken.map_err(|reject| world.fail(format!("the run was refused: {reject}")))?;
        world.make()?;
        world.schedule_scenario();
        Ok(world)
    }

    fn schedule_scenario(&mut self) {
        let scenario = self.scenario.clone();
        for (i, part) in scenario.members.iter().enumerate() {
            self.at(part.start_ms, i, What::Start);
            if let Some(quit_ms) = part.quit_ms {
                self.at(quit_ms, i, What::Quit);
            }
            if part.liar == Some(crate::Liar::Forger) {
                self.at(part.start_ms + FORGE_MS, i, What::Forge);
            }
        }
        for crash in &scenario.faults.crashes {
            let (down_ms, wipe, whole_log) = (crash.down_ms, crash.wipe, crash.whole_log);
            self.at(crash.at_ms, crash.node, What::Crash { down_ms, wipe, whole_log });
        }
        for rest in &scenario.faults.rests {
            // Every other one ends what is under way first.
            let will = if rest.from_ms.is_multiple_of(2) { Intent::Rest } else { Intent::Drain };
            self.at(rest.from_ms, rest.node, What::Rest(will));
            self.at(rest.to_ms, rest.node, What::Rest(Intent::Work));
        }
        self.at(scenario.calm_ms + scenario.recovery_ms(), LOG, What::Deadline);
    }

    /// Something happens at a time, whatever process runs then.
    pub fn at(&mut self, at: u64, node: usize, what: What) {
        self.order += 1;
        self.queue.insert((at.max(self.now), self.order), Event { node, epoch: None, what });
    }

    /// Something happens to the process that runs now, after a while.
    pub fn after(&mut self, ms: u64, node: usize, what: What) {
        self.order += 1;
        let epoch = Some(self.nodes[node].epoch);
        self.queue.insert((self.now + ms, self.order), Event { node, epoch, what });
    }

    /// A violation here and now.
    pub fn fail(&self, what: String) -> Violation {
        Violation { seed: self.scenario.seed, at: Millis(self.now), what: format!("{what}\n{}", self.picture()) }
    }

    /// Whether things may still go wrong.
    pub fn stormy(&self) -> bool {
        self.now < self.scenario.calm_ms
    }

    /// The run as the log has it.
    pub fn log_run(&self) -> &Run {
        self.log.sequencer.state().runs.get(&self.run).expect("the first block made it")
    }

    fn dispatch(&mut self, event: Event) -> Result<(), Violation> {
        let Event { node: i, epoch, what } = event;
        if epoch.is_some_and(|epoch| self.nodes[i].epoch != epoch || !self.nodes[i].up) {
            return Ok(());
        }
        let label = what.label();
        self.trace = Hash::of("sim trace", &((self.trace, self.now), (i as u64, label)).to_bytes());
        match what {
            What::Tx { from, tx, forged } => self.arrives(from, *tx, forged),
            What::Make => self.make_if_due(),
            What::Block { height, stream } => self.block(i, height, stream),
            What::Reconnect { stream } => {
                self.reconnect(i, stream);
                Ok(())
            }
            What::Wake if self.nodes[i].wake_ms != Some(self.now) => Ok(()),
            What::Wake => {
                self.nodes[i].wake_ms = None;
                self.step(i, Input::Wake)
            }
            What::Trained(done) => self.trained(i, done.0, done.1),
            What::Ask(ask) => {
                self.ask(i, ask);
                Ok(())
            }
            What::Serve(ask) => {
                self.serve(i, ask);
                Ok(())
            }
            What::Got(ask) => self.got(i, *ask),
            What::Missed(ask) => self.missed(i, *ask),
            What::Weights(made) => self.weights(i, made),
            What::Differs(version, hash) => self.step(i, Input::Differs { run: self.run, version, chunk: 0, hash }),
            What::Chunk(by, hash) => self.step(i, Input::Chunk { run: self.run, by, hash }),
            What::Start => self.start(i),
            What::Crash { down_ms, wipe, whole_log } => {
                self.crash(i, down_ms, wipe, whole_log);
                Ok(())
            }
            What::Quit => self.quit(i),
            What::Rest(will) if self.nodes[i].up => self.step(i, Input::Intent(will)),
            What::Rest(_) => Ok(()),
            What::Gone => {
                self.nodes[i].stop(self.now);
                Ok(())
            }
            What::Forge => {
                self.forge(i);
                self.at(self.now + FORGE_MS, i, What::Forge);
                Ok(())
            }
            What::Deadline => self.deadline(),
        }
    }

    /// When the log acts next.
    pub fn schedule_make(&mut self) {
        let Some(due) = self.log.sequencer.due() else { return };
        let at = due.0.max(self.now + BLOCK_MS);
        if self.log.due_ms.is_none_or(|before| at < before) {
            self.log.due_ms = Some(at);
            self.at(at, LOG, What::Make);
        }
    }

    fn make_if_due(&mut self) -> Result<(), Violation> {
        if self.log.due_ms != Some(self.now) {
            return Ok(());
        }
        self.log.due_ms = None;
        if let Some(until) = self.stalled() {
            self.watch.struck.absent += 1;
            self.log.due_ms = Some(until);
            self.at(until, LOG, What::Make);
            return Ok(());
        }
        if self.log.sequencer.due().is_some_and(|due| due.0 <= self.now) {
            return self.make();
        }
        self.schedule_make();
        Ok(())
    }

    fn make(&mut self) -> Result<(), Violation> {
        let (block, events) = self.log.sequencer.make(Millis(self.now));
        if block.txs.is_empty() && events.is_empty() {
            return Err(self.fail("the log was due and nothing was to be done".into()));
        }
        for event in &events {
            match event {
                swarm::RunEvent::Created(run) => self.run = *run,
                swarm::RunEvent::Disputed(_, _, Outcome::Upheld) => self.watch.disputes.0 += 1,
                swarm::RunEvent::Disputed(_, _, Outcome::Dismissed) => self.watch.disputes.1 += 1,
                _ => {}
            }
        }
        self.after_block(&block)?;
        self.log.blocks.push(block);
        if self.scenario.shared_state {
            let state = Arc::new(self.log.sequencer.state().clone());
            let oldest = self.nodes.iter().filter(|node| node.up).map(|node| node.peer.state().height).min();
            self.log.applied = self.log.applied.split_off(&oldest.unwrap_or(state.height - 1));
            self.log.applied.insert(state.height, (state, Arc::new(events)));
        }
        for i in 0..self.nodes.len() {
            self.pump(i);
        }
        self.schedule_make();
        Ok(())
    }

    /// A process begins: it reads the log, then goes on from what its disk has.
    fn start(&mut self, i: usize) -> Result<(), Violation> {
        if self.nodes[i].up {
            return Ok(());
        }
        let node = &mut self.nodes[i];
        let seen = if node.whole_log { self.log.blocks.len() } else { node.height as usize };
        let (now, mut ignored) = (node.part.clock.local(self.now), Outbox::default());
        node.peer = Peer::new(node.id, RunsState::new(node.chain, 0));
        let shared = self.log.applied.get(&(seen as u64)).cloned();
        if let Some((state, events)) = shared.clone() {
            node.peer.step(now, Input::Applied { state, events }, &mut ignored);
        }
        for block in self.log.blocks[..seen].iter().filter(|_| shared.is_none()) {
            node.peer.step(now, Input::Block(block.clone()), &mut ignored);
        }
        let last = node.peer.state().seqs.get(&node.id).copied().unwrap_or(0);
        node.disk.seq = node.disk.seq.max(last);
        node.up = true;
        node.streaming = true;
        node.stream_next = seen as u64 + 1;
        node.stream_ms = self.now;
        node.held.extend(node.disk.weights);
        let memory = match &node.disk.remembered {
            Some(Output::Remember(_, memory)) => Some(memory.clone()),
            _ => None,
        };
        let weights = node.disk.weights;
        self.step(i, Input::Follow { run: self.run, class: Hash::default(), memory, weights })?;
        self.pump(i);
        Ok(())
    }

    /// A process ends; another one begins later.
    pub fn crash(&mut self, i: usize, down_ms: u64, wipe: bool, whole_log: bool) {
        if !self.nodes[i].up || self.nodes[i].quit {
            return;
        }
        let wipe = wipe && self.may_vanish(i);
        self.watch.crashes += 1;
        let node = &mut self.nodes[i];
        node.stop(self.now);
        node.whole_log = whole_log || wipe;
        if wipe {
            node.disk = Disk::default();
            node.wiped = true;
        }
        let back = (self.now + down_ms).min(self.scenario.calm_ms);
        self.at(back.max(self.now + 1), i, What::Start);
    }

    fn quit(&mut self, i: usize) -> Result<(), Violation> {
        if !self.stormy() {
            return Ok(());
        }
        if !self.nodes[i].up || !self.may_vanish(i) {
            self.at(self.now + 500, i, What::Quit);
            return Ok(());
        }
        self.nodes[i].quit = true;
        self.at(self.scenario.calm_ms.max(self.now) + FAREWELL_MS, i, What::Gone);
        self.step(i, Input::Quit(self.run))
    }

    /// Whether the run goes on without this node's disk: another active member has the newest weights, and
    /// this one is not about to make newer ones alone.
    fn may_vanish(&self, i: usize) -> bool {
        let (run, id) = (self.log_run(), self.nodes[i].id);
        let version = run.version();
        let another = self.nodes.iter().enumerate().any(|(j, node)| {
            let newest = node.held.back().is_some_and(|(held, _)| *held >= version);
            let active = run.members.get(&node.id).is_some_and(|member| member.status == Standing::Active);
            j != i && node.up && !node.quit && node.honest() && newest && active
        });
        another && !run.open.iter().any(|round| round.plan.len() == 1 && round.slot(&id).is_some())
    }

    /// What the newest weights of an honest member make of text that nobody trained on.
    fn learning(&mut self) -> Option<Learning> {
        let held = self.nodes.iter().filter(|node| node.honest()).filter_map(|node| node.held.back());
        let (_, newest) = held.max().copied()?;
        let first = self.first;
        let tensors = self.tensors.as_mut()?;
        let (before, after) = (tensors.held_out(&first)?, tensors.held_out(&newest)?);
        Some(Learning { before, after, inherited: tensors.inherited, refused: tensors.refused })
    }

    fn finish(&mut self) -> Result<Report, Violation> {
        let learning = self.learning();
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.honest() && !node.wiped) {
            self.mass.balance(i).map_err(|what| self.fail(what))?;
            self.joined_in_time(i, node).map_err(|what| self.fail(what))?;
        }
        let (from, to) = (self.watch.warm_ms.unwrap_or(0), self.now);
        let part = |(start, end): &(u64, u64)| (*end).min(to).saturating_sub((*start).max(from));
        let honest: Vec<&Node> = self.nodes.iter().filter(|node| node.honest() && !node.quit).collect();
        let busy: u64 = honest.iter().flat_map(|node| &node.busy).map(part).sum();
        Ok(Report {
            trace: self.trace,
            rounds: self.watch.closed,
            voids: self.watch.voids,
            disputes: self.watch.disputes,
            crashes: self.watch.crashes,
            struck: self.watch.struck,
            lies: self.watch.lies,
            copies: self.watch.copies,
            blocks: self.log.blocks.len() as u64,
            messages: self.messages,
            refused: self.watch.refused.clone(),
            virtual_ms: self.now,
            utilisation: busy as f64 / (honest.len() as u64 * (to - from)).max(1) as f64,
            learning,
        })
    }
}
