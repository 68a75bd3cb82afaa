//! What a driver fetches from peers for its machine; results come back as inputs or go to the run's threads.

use crate::corpus;
use crate::driver::{Driver, PRIVATES_KEPT};
use crate::event::DriverEvent;
use crate::work::Work;
use crate::workers::Job;
use base::{Hash, NodeId, Reject};
use std::time::{Duration, Instant};
use swarm::{Closed, Fetch, Input, RunId, Train};
use tokio::sync::mpsc;

/// A newcomer waits for another's moments for one of so many parts of its window.
const INHERIT_PART: u64 = 4;
/// The maker of an update gives it when it hears that the commits are closed, which may be this much later than here.
const EARLY: Duration = Duration::from_millis(400);
/// So long it is not asked again.
const EARLY_PAUSE: Duration = Duration::from_millis(40);

impl Driver {
    /// Fetches what a run needs before its machine may begin.
    pub(crate) fn prepare(&mut self, id: RunId) {
        let Some(known) = self.peer.state().runs.get(&id) else { return };
        let Some(run) = self.runs.get_mut(&id) else { return };
        if run.preparing || run.work.is_some() {
            return;
        }
        run.preparing = true;
        let spec = known.spec.clone();
        let mut sources: Vec<NodeId> = run.ticket.peers.iter().map(|address| address.node).collect();
        sources.extend(known.members.keys().filter(|id| !run.ticket.peers.iter().any(|a| a.node == **id)));
        sources.retain(|id| *id != self.shared.net.id());
        let (shared, happenings) = (self.shared.clone(), self.happenings.clone());
        let preparation = tokio::spawn(async move {
            let progress = fetching(&happenings, id, "the data");
            let work = async {
                let bounds = tokio::task::block_in_place(|| (shared.bounds)())?;
                let here = (&*shared.net, &*shared.store, &*shared.contents);
                corpus::obtain(here, &bounds, &id, &spec, &sources, &progress).await?;
                tokio::task::block_in_place(|| {
                    let (store, contents) = (shared.store.clone(), shared.contents.clone());
                    let using = (shared.limits, shared.duty.clone(), shared.answers.clone());
                    let device = (shared.device.as_str(), bounds.vram_mb);
                    Work::new(id, &spec, using, device, store, contents, PRIVATES_KEPT)
                })
            };
            let work = work.await;
            let _ = happenings.send(DriverEvent::Prepared(id, work)).await;
        });
        run.preparation = Some(preparation.abort_handle());
    }

    /// Fetches an update into a file, unless it is there: however many are on their way, memory is taken for chunks
    /// only, and no more comes than its commit said.
    pub(crate) fn fetch(&self, fetch: Box<Fetch>) {
        let Some(workers) = self.runs.get(&fetch.run).and_then(|run| run.work.as_ref()) else { return };
        let (work, applier) = (workers.work.clone(), workers.applier.clone());
        let (shared, happenings) = (self.shared.clone(), self.happenings.clone());
        tokio::spawn(async move {
            let (update, size) = (fetch.candidate.update, fetch.candidate.size);
            if tokio::task::block_in_place(|| work.holds(&update)) {
                let input = Input::Fetched { run: fetch.run, update, result: Ok(()) };
                let _ = happenings.send(DriverEvent::Input(Box::new(input))).await;
                return;
            }
            let mut file = match work.arriving(&update) {
                Ok(file) => file,
                Err(error) => {
                    tracing::warn!(%error, "an update is not fetched");
                    let _ = applier.send(Job::Verify(fetch, Err(Reject::NotHeld)));
                    return;
                }
            };
            let begun = Instant::now();
            let fetched = loop {
                match shared.net.fetch(update, size, &fetch.sources, file, &|_, _| {}).await {
                    Err(error) if error.absent() && begun.elapsed() < EARLY => {
                        tokio::time::sleep(EARLY_PAUSE).await;
                        file = error.partial;
                    }
                    fetched => break fetched,
                }
            };
            let arrived = fetched.map(drop).map_err(|error| {
                tracing::debug!(%error, failed = ?error.failed, "not fetched");
                error.failed.iter().for_each(|(_, error)| shared.contents.count(error.reject()));
                // What those did who were to give it is not held against whose update it is: it is asked for again.
                if error.longer { Reject::Oversized } else { Reject::NotHeld }
            });
            let _ = applier.send(Job::Verify(fetch, arrived));
        });
    }

    /// Does a unit; a newcomer's begins when it has the moments to go on from, or cannot get them in time.
    pub(crate) fn train(&self, mut train: Box<Train>) {
        let Some(workers) = self.runs.get(&train.run).and_then(|run| run.work.as_ref()) else { return };
        let (work, trainer) = (workers.work.clone(), workers.trainer.clone());
        train.inherit = train.inherit.filter(|_| work.inherits());
        let Some((donor, state)) = train.inherit.filter(|(_, state)| !work.has_private(state)) else {
            let _ = trainer.send(train);
            return;
        };
        let net = self.shared.net.clone();
        let limit = Duration::from_millis(train.window_ms / INHERIT_PART);
        tokio::spawn(async move {
            let begun = Instant::now();
            let fetched =
                tokio::time::timeout(limit, net.fetch(state, work.bytes_max(), &[donor], Vec::new(), &|_, _| {})).await;
            let fetched = fetched.ok().and_then(Result::ok);
            let kept = fetched.is_some_and(|fetched| work.keep_inherited(&state, &fetched.bytes).is_ok());
            tracing::info!(donor = %donor.short(), kept, "moments of another member");
            train.inherit = train.inherit.filter(|_| kept);
            train.window_ms = train.window_ms.saturating_sub(begun.elapsed().as_millis() as u64);
            let _ = trainer.send(train);
        });
    }

    /// Checks an own step that the quorum contradicts, against its weights where anybody gives them.
    pub(crate) fn differs(
        &self,
        id: RunId,
        version: u64,
        root: Hash,
        closed: Option<Box<Closed>>,
        sources: Vec<NodeId>,
    ) {
        let Some(workers) = self.runs.get(&id).and_then(|run| run.work.as_ref()) else { return };
        let (net, work, applier) = (self.shared.net.clone(), workers.work.clone(), workers.applier.clone());
        tokio::spawn(async move {
            let theirs = net.fetch(root, work.bytes_max(), &sources, work.newest_bytes(), &|_, _| {}).await.ok();
            let _ = applier.send(Job::Differs { version, root, closed, theirs: theirs.map(|fetched| fetched.tree) });
        });
    }

    pub(crate) fn sync(&self, id: RunId, version: u64, root: Hash, sources: Vec<NodeId>) {
        let Some(workers) = self.runs.get(&id).and_then(|run| run.work.as_ref()) else { return };
        let (net, work, applier) = (self.shared.net.clone(), workers.work.clone(), workers.applier.clone());
        let happenings = self.happenings.clone();
        tokio::spawn(async move {
            let have = work.newest_bytes();
            let progress = fetching(&happenings, id, "the weights");
            match net.fetch(root, work.bytes_max(), &sources, have, &progress).await {
                Ok(fetched) => {
                    tracing::info!(version, chunks = fetched.moved, "weights fetched");
                    let _ = applier.send(Job::Adopt(version, fetched.bytes));
                }
                Err(error) => {
                    let _ = happenings.send(DriverEvent::Trouble(id, format!("weights: {error}"))).await;
                    let held = work.newest().map(|(version, _, root)| (version, root));
                    let input = Input::Weights { run: id, result: held };
                    let _ = happenings.send(DriverEvent::Input(Box::new(input))).await;
                }
            }
        });
    }
}

/// Tells displays how far a fetch is; when the queue is full they miss one.
pub(crate) fn fetching(
    out: &mpsc::Sender<DriverEvent>,
    run: RunId,
    what: &'static str,
) -> impl Fn(usize, usize) + Sync + use<> {
    let out = out.clone();
    move |done, of| drop(out.try_send(DriverEvent::Fetching(run, what, done, of)))
}
