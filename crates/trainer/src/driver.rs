//! Carries out what the machines ask for, one driver per log. It translates and decides nothing:
//! results come back as inputs, in whatever order they finish.

use crate::event::{DriverEvent, RECONNECT};
use crate::feed::follow_log;
use crate::log::Log;
use crate::setup::Setup;
use crate::status::{Download, RoundLine, RunStatus};
use crate::work::{Meter, Work};
use crate::workers::{Checkpoint, Job, Workers};
use anyhow::Result;
use base::{Hash, Machine, Millis, NodeId, Outbox};
use net::Ticket;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use swarm::{Input, Intent, Memory, Outcome, Output, Peer, RunEvent, RunId, RunsState, SignedWorkTx, Waiting, WorkTx};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// What the node tells a driver.
pub enum DriverOrder {
    /// Takes part in a run.
    Follow(Ticket),
    /// Takes no part any more.
    Leave(RunId),
    /// Says something on the chain.
    Say(WorkTx),
}

/// Inputs that wait for the driver. Compute results and blocks only, so it does not fill.
const QUEUE: usize = 1024;
/// Private states kept on disk beside that of the last commit: those around it, for a restart.
pub(crate) const PRIVATES_KEPT: usize = 3;
/// Members of a run with whom to begin, beside those that its ticket names.
const MET: usize = 32;
/// Where a run's closed rounds and held-out figures are written down.
const ROUNDS_FILE: &str = "metrics.jsonl";
const HELDOUT_FILE: &str = "heldout.jsonl";
/// What the model wrote at each checkpoint.
pub const SAMPLES_FILE: &str = "samples.jsonl";
/// Closed rounds that a status shows.
const ROUNDS_SHOWN: usize = 4096;

pub(crate) struct Run {
    pub(crate) ticket: Ticket,
    pub(crate) work: Option<Workers>,
    pub(crate) preparing: bool,
    /// Ends what is fetched before its machine may begin.
    pub(crate) preparation: Option<AbortHandle>,
    /// What is being fetched, and how far it is.
    pub(crate) fetching: Option<Download>,
    pub(crate) trouble: Option<String>,
    /// Shared with displays; copied when a round closes while somebody looks.
    pub(crate) rounds: Arc<Vec<RoundLine>>,
    /// The trainer's counters when the last round closed.
    counted: (u64, u64),
    pub(crate) heldout: Vec<(u64, f64)>,
    pub(crate) begun: Instant,
    /// Whether the last weights of the ended run are on disk.
    saved: bool,
}

pub(crate) struct Driver {
    pub(crate) shared: Arc<Setup>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) peer: Peer,
    pub(crate) runs: BTreeMap<RunId, Run>,
    pub(crate) happenings: mpsc::Sender<DriverEvent>,
    pub(crate) to_log: mpsc::Sender<SignedWorkTx>,
    /// What was to be said before the chain was known.
    early: Vec<WorkTx>,
    known: bool,
    /// What machines asked for and the disk holds up.
    pub(crate) waiting: VecDeque<Output>,
    pub(crate) seqs: std::ops::Range<u64>,
    wake: Option<Millis>,
    started: Instant,
    pub(crate) status: watch::Sender<Vec<RunStatus>>,
    stop: CancellationToken,
}

/// Runs a driver for the runs of a chain until `stop`.
pub async fn drive(
    shared: Arc<Setup>,
    log: Arc<dyn Log>,
    mut orders: mpsc::Receiver<DriverOrder>,
    status: watch::Sender<Vec<RunStatus>>,
    stop: CancellationToken,
) -> Result<()> {
    let (happenings, mut happened) = mpsc::channel(QUEUE);
    let (to_log, from_driver) = mpsc::channel(QUEUE);
    tokio::spawn(follow_log(log.clone(), happenings.clone(), from_driver, stop.clone()));
    let (mut away, mut duty, mut drains) = (log.changes(), shared.duty.subscribe(), shared.drains.subscribe());
    duty.mark_changed();
    let peer = Peer::new(shared.net.id(), RunsState::new(log.chain(), 0));
    let mut driver = Driver {
        shared,
        log,
        peer,
        runs: BTreeMap::new(),
        happenings,
        to_log,
        early: Vec::new(),
        known: false,
        waiting: VecDeque::new(),
        seqs: 0..0,
        wake: None,
        started: Instant::now(),
        status,
        stop: stop.clone(),
    };
    loop {
        let wait = driver.wake.map(|at| Duration::from_millis(at.since(driver.now())));
        tokio::select! {
            () = stop.cancelled() => break,
            Some(order) = orders.recv() => driver.order(order)?,
            Some(happening) = happened.recv() => driver.happen(happening)?,
            Ok(()) = away.changed() => driver.show(),
            Ok(()) = duty.changed() => driver.obey()?,
            Ok(()) = drains.changed() => driver.obey()?,
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                driver.wake = None;
                driver.step(Input::Wake)?;
            }
        }
    }
    // Nobody hears the threads any more: none waits to be heard.
    drop(happened);
    let works: Vec<Arc<Work>> = driver.runs.values().filter_map(|run| Some(run.work.as_ref()?.work.clone())).collect();
    for work in works {
        work.end().await?;
    }
    Ok(())
}

impl Driver {
    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    /// Does as the owner wants.
    fn obey(&mut self) -> Result<()> {
        let (rests, drains) = (*self.shared.duty.borrow() == 0, *self.shared.drains.borrow());
        self.step(Input::Intent(match (rests, drains) {
            (true, _) => Intent::Rest,
            (false, true) => Intent::Drain,
            (false, false) => Intent::Work,
        }))?;
        self.show();
        Ok(())
    }

    fn order(&mut self, order: DriverOrder) -> Result<()> {
        match order {
            DriverOrder::Follow(ticket) => {
                for address in &ticket.peers {
                    self.shared.net.know(address);
                }
                let mut peers: Vec<NodeId> = ticket.peers.iter().map(|address| address.node).collect();
                // Who named it may be gone; whoever takes part is on the chain.
                let members: BTreeSet<NodeId> = self.log.members(&ticket.run).into_iter().collect();
                peers.extend(members.iter().take(MET));
                self.shared.net.expect(ticket.run, members);
                self.shared.net.meet(ticket.run, &peers);
                if let Err(error) = self.shared.store.follow(&ticket.run, &ticket) {
                    tracing::error!(%error, run = %ticket.run.short(), "the run is forgotten with the next start");
                }
                let mut rounds: Vec<RoundLine> = self.shared.store.metrics(&ticket.run, ROUNDS_FILE);
                rounds.drain(..rounds.len().saturating_sub(ROUNDS_SHOWN));
                let run = Run {
                    ticket: ticket.clone(),
                    work: None,
                    preparing: false,
                    preparation: None,
                    fetching: None,
                    trouble: None,
                    rounds: Arc::new(rounds),
                    counted: (0, 0),
                    heldout: self.shared.store.metrics(&ticket.run, HELDOUT_FILE),
                    begun: Instant::now(),
                    saved: false,
                };
                self.runs.entry(ticket.run).or_insert(run);
                self.prepare(ticket.run);
            }
            DriverOrder::Leave(run) => {
                let left = self.runs.remove(&run);
                self.forget_waiting(&run);
                let work = left.as_ref().and_then(|run| run.work.as_ref());
                let done = [self.shared.store.unfollow(&run), work.map_or(Ok(()), |workers| workers.work.leave())];
                for error in done.into_iter().filter_map(Result::err) {
                    tracing::error!(%error, run = %run.short(), "what was left is not all written down");
                }
                if let Some(preparation) = left.and_then(|run| run.preparation) {
                    preparation.abort();
                }
                self.step(Input::Quit(run))?;
            }
            DriverOrder::Say(tx) if !self.known => self.early.push(tx),
            DriverOrder::Say(tx) => self.submit(tx)?,
        }
        self.show();
        Ok(())
    }

    fn happen(&mut self, happening: DriverEvent) -> Result<()> {
        match happening {
            DriverEvent::Input(input) => {
                if let Input::Weights { run, result: Some((version, _)) } = &*input {
                    self.checkpoint(run, *version);
                }
                self.step(*input)?;
                self.save_ended();
                self.shared.contents.release(&self.peer.state().runs);
            }
            DriverEvent::Block(block) => {
                self.step(Input::Block(block))?;
                self.shared.contents.release(&self.peer.state().runs);
                let waiting: Vec<RunId> =
                    self.runs.iter().filter(|(_, run)| run.work.is_none()).map(|(id, _)| *id).collect();
                for run in waiting {
                    self.prepare(run);
                }
            }
            // Nothing is followed before the chain is known.
            DriverEvent::State(state) => {
                self.peer = Peer::new(self.shared.net.id(), *state);
                self.obey()?;
                self.known = true;
                for said in std::mem::take(&mut self.early) {
                    self.submit(said)?;
                }
                for run in self.runs.keys().copied().collect::<Vec<_>>() {
                    self.prepare(run);
                }
            }
            DriverEvent::Refused(reason) => tracing::debug!(reason, "the log refused a transaction"),
            DriverEvent::Fetching(id, what, done, of) => {
                if let Some(run) = self.runs.get_mut(&id) {
                    run.fetching = (done < of).then_some(Download { what, done, of });
                }
            }
            DriverEvent::Prepared(id, Ok(work)) => self.prepared(id, work)?,
            DriverEvent::Prepared(id, Err(error)) => {
                if let Some(run) = self.runs.get_mut(&id) {
                    run.trouble = Some(format!("{error:#}"));
                    // Tried again with the next block or wake.
                    run.preparing = false;
                    self.wake_in(RECONNECT);
                }
            }
            DriverEvent::Trouble(id, text) => {
                tracing::warn!(run = %id.short(), text, "trouble");
                if let Some(run) = self.runs.get_mut(&id) {
                    run.trouble = Some(text);
                }
            }
            DriverEvent::Heldout(id, version, bits) => {
                if let Some(run) = self.runs.get_mut(&id) {
                    run.heldout.push((version, bits));
                    self.shared.store.write_metrics(&id, HELDOUT_FILE, &(version, bits));
                }
            }
        }
        self.show();
        Ok(())
    }

    /// The last weights of a run that has ended are on disk at once.
    fn save_ended(&mut self) {
        for (id, run) in &mut self.runs {
            let state = self.peer.state().runs.get(id).filter(|state| state.ended && !run.saved);
            let (Some(state), Some(workers)) = (state, &run.work) else { continue };
            if self.peer.weights(id).is_some_and(|(version, _)| version == state.version()) {
                run.saved = true;
                if let Err(error) = workers.work.save() {
                    run.trouble = Some(format!("{error:#}"));
                }
            }
        }
    }

    /// Steps the machine and carries out what it asks for.
    fn step(&mut self, input: Input) -> Result<()> {
        tracing::debug!(input = input.name(), "happened");
        let mut out = Outbox::default();
        let now = self.now();
        self.peer.step(now, input, &mut out);
        self.waiting.extend(out.drain());
        self.carry_on()
    }

    pub(crate) fn carry_out(&mut self, output: Output) -> Result<()> {
        match output {
            Output::Submit(tx) => self.submit(tx)?,
            Output::Remember(run, _) => anyhow::bail!("what run {} remembers is out of order", run.short()),
            Output::Wake(at) => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
            Output::Event(event) => self.note(event),
            Output::Init(run) => self.job(&run, Job::Init),
            Output::Apply { run, closed } => self.job(&run, Job::Apply(closed)),
            Output::Train(train) => self.train(train),
            Output::Fetch(fetch) => self.fetch(fetch),
            Output::Sync { run, version, root, sources } => self.sync(run, version, root, sources),
            Output::Forget(run, updates) => {
                if let Some(workers) = self.runs.get(&run).and_then(|run| run.work.as_ref()) {
                    workers.work.forget(&updates);
                }
            }
            Output::Differs { run, version, ours, theirs, closed, sources } => {
                let text = format!("version {version}: this node computed {ours:?}, the quorum {theirs:?}");
                tracing::error!(run = %run.short(), text, "roots differ");
                if let Some(run) = self.runs.get_mut(&run) {
                    run.trouble = Some(text);
                }
                self.differs(run, version, theirs, closed, sources);
            }
            Output::Chunk { run, by, version, chunk } => {
                let work = self.runs.get(&run).and_then(|run| run.work.as_ref()).map(|workers| &workers.work);
                if let Some(hash) = work.and_then(|work| work.chunk_hash(version, chunk)) {
                    let input = Input::Chunk { run, by, hash };
                    let _ = self.happenings.try_send(DriverEvent::Input(Box::new(input)));
                }
            }
        }
        Ok(())
    }

    fn job(&self, run: &RunId, job: Job) {
        if let Some(workers) = self.runs.get(run).and_then(|run| run.work.as_ref()) {
            let _ = workers.applier.send(job);
        }
    }

    pub(crate) fn wake_in(&mut self, wait: Duration) {
        let at = self.now().plus(wait.as_millis() as u64);
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn prepared(&mut self, id: RunId, work: Arc<Work>) -> Result<()> {
        // It may have been left meanwhile, and joined again.
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.work.is_none()) else { return Ok(()) };
        let weights = tokio::task::block_in_place(|| work.load_snapshot());
        let memory = self.shared.store.memory(&id)?;
        let known = self.peer.state().runs.get(&id).map(|run| known_updates(run, memory.as_ref()));
        let cleared = tokio::task::block_in_place(|| known.map_or(Ok(()), |known| work.clear_updates(&known)));
        if let Err(error) = cleared {
            tracing::warn!(%error, "updates of an earlier process stay on disk");
        }
        run.work = Some(Workers::start(work, &self.happenings));
        run.trouble = None;
        run.preparing = false;
        let class = crate::work::class(&self.shared.device);
        self.step(Input::Follow { run: id, class, memory, weights })
    }

    /// Takes what displays show out of the events.
    fn note(&mut self, event: RunEvent) {
        if let RunEvent::Disputed(id, by, outcome) = event {
            return self.note_dispute(&id, by, outcome);
        }
        let RunEvent::Closed(id, round) = event else { return };
        let (Some(state), Some(run)) = (self.peer.state().runs.get(&id), self.runs.get_mut(&id)) else { return };
        let Some(closed) = state.closed_round(round.0) else { return };
        // The log is read again after a restart; what an earlier process wrote down stays.
        if run.rounds.last().is_some_and(|line| line.round >= round.0) {
            return;
        }
        // What made the last unit fail is shown until the next one.
        if self.peer.waiting(&id) != Waiting::Pausing {
            run.trouble = None;
        }
        let meter = run.work.as_ref().map(|workers| &workers.work.meter);
        let read = |of: fn(&Meter) -> &AtomicU64| meter.map_or(0, |meter| of(meter).load(Ordering::Relaxed));
        let counted = (read(|m| &m.busy_ms), read(|m| &m.update_bytes));
        let busy = counted.0 - run.counted.0;
        let line = RoundLine {
            round: round.0,
            loss: closed.loss_micro as f64 / 1e6,
            tokens: closed.tokens,
            set: closed.set.len() + usize::from(closed.plain.is_some()),
            left_out: closed.left_out.len(),
            void: closed.void,
            took_ms: closed.took_ms,
            total: state.tokens,
            // A unit that is late goes on after its round closed.
            utilisation: (100.0 * busy as f64 / closed.took_ms.max(1) as f64).min(100.0),
            update_bytes: counted.1 - run.counted.1,
        };
        run.counted = counted;
        self.shared.net.expect(id, state.members.keys().copied().collect());
        self.shared.store.write_metrics(&id, ROUNDS_FILE, &line);
        let rounds = Arc::make_mut(&mut run.rounds);
        if rounds.len() >= ROUNDS_SHOWN {
            rounds.remove(0);
        }
        rounds.push(line);
    }

    fn note_dispute(&mut self, id: &RunId, by: NodeId, outcome: Outcome) {
        let own = by == self.shared.net.id();
        let text = match outcome {
            Outcome::Dismissed if own => {
                "the other members computed the same weights, this machine others: check its memory; \
                 restarted, the node fetches the weights anew"
            }
            Outcome::Undecided if own => "too few members could check who is right; restart to fetch the weights anew",
            Outcome::Upheld => "the weights that a quorum had reported were proved false and are struck",
            _ => return,
        };
        tracing::error!(run = %id.short(), by = %by.short(), text, "dispute decided");
        if let Some(run) = self.runs.get_mut(id) {
            run.trouble = Some(text.into());
        }
    }

    /// Weights of a version that is to be kept are there: measure and write them beside the run.
    fn checkpoint(&self, id: &RunId, version: u64) {
        let (Some(state), Some(run)) = (self.peer.state().runs.get(id), self.runs.get(id)) else { return };
        let checkpoint = Checkpoint {
            tokens: state.tokens,
            members: state.members.len() as u64,
            eval_tokens: self.shared.eval_tokens.min(state.spec.eval_tokens),
        };
        let due = version > 0 && version.is_multiple_of(u64::from(state.spec.checkpoint_rounds));
        let wanted = checkpoint.eval_tokens > 0 || state.spec.checkpoints_kept > 0;
        if let Some(workers) = run.work.as_ref().filter(|_| due && wanted) {
            let _ = workers.evaluator.send(checkpoint);
        }
    }
}

/// Updates that somebody may need still: of rounds that the log has, and own ones whose fate is open.
fn known_updates(run: &swarm::Run, memory: Option<&Memory>) -> BTreeSet<Hash> {
    let rounds = run.open.iter().map(|round| &round.commits).chain(run.closed.iter().map(|closed| &closed.commits));
    let mut known: BTreeSet<Hash> = rounds.flat_map(|commits| commits.values()).map(|commit| commit.update).collect();
    if let Some(memory) = memory {
        known.extend(memory.unsettled.iter().map(|(_, update)| *update));
        known.extend(memory.said.iter().map(|commit| commit.update));
    }
    known
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
