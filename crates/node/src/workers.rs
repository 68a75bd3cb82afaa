//! The threads of a run: one trains, one follows the log, one measures.

use crate::driver::Happening;
use crate::work::{Resting, Step, Work};
use anyhow::Result;
use base::{ChunkTree, Hash, Reject};
use std::sync::Arc;
use swarm::{Closed, Fetch, Input, Train};
use tokio::sync::mpsc;

/// The threads of a run, by what they take.
pub(crate) struct Workers {
    pub(crate) work: Arc<Work>,
    pub(crate) trainer: std::sync::mpsc::Sender<Box<Train>>,
    pub(crate) applier: std::sync::mpsc::Sender<Job>,
    pub(crate) evaluator: std::sync::mpsc::Sender<Checkpoint>,
}

/// What belongs to a checkpoint beside the weights.
pub(crate) struct Checkpoint {
    /// Tokens applied.
    pub(crate) tokens: u64,
    /// Members of the run.
    pub(crate) members: u64,
    /// Held-out tokens to measure; 0 = none.
    pub(crate) eval_tokens: u64,
}

/// Jobs of the second thread.
pub(crate) enum Job {
    Init,
    Adopt(u64, Vec<u8>),
    Apply(Box<Closed>),
    Differs { version: u64, root: Hash, closed: Option<Box<Closed>>, theirs: Option<ChunkTree> },
    Verify(Box<Fetch>, Result<Vec<u8>, Reject>),
}

impl Workers {
    /// Begins the threads; they end when this is dropped.
    pub(crate) fn start(work: Arc<Work>, out: &mpsc::Sender<Happening>) -> Self {
        let (trainer, trains) = std::sync::mpsc::channel();
        let (applier, jobs) = std::sync::mpsc::channel();
        let (evaluator, checkpoints) = std::sync::mpsc::channel();
        spawn_trainer(work.clone(), trains, out.clone());
        spawn_applier(work.clone(), jobs, out.clone());
        spawn_evaluator(work.clone(), checkpoints, out.clone());
        Self { work, trainer, applier, evaluator }
    }
}

/// The trainer thread of a run; ends when its sender is dropped.
fn spawn_trainer(work: Arc<Work>, trains: std::sync::mpsc::Receiver<Box<Train>>, out: mpsc::Sender<Happening>) {
    std::thread::spawn(move || {
        let mut trainer = match work.trainer() {
            Ok(trainer) => trainer,
            Err(error) => {
                let _ = out.blocking_send(Happening::Trouble(work.run, format!("{error:#}")));
                return;
            }
        };
        while let Ok(train) = trains.recv() {
            let result = match work.unit(&mut trainer, &train, u64::MAX) {
                Ok(commit) => Some(Box::new(commit)),
                Err(error) if error.is::<Resting>() => None,
                Err(error) => {
                    let text = format!("round {}: {error:#}", train.round);
                    let _ = out.blocking_send(Happening::Trouble(work.run, text));
                    None
                }
            };
            let input = Input::Trained { run: work.run, round: train.round, result };
            if out.blocking_send(Happening::Input(Box::new(input))).is_err() {
                return;
            }
        }
    });
}

/// The second thread of a run.
fn spawn_applier(work: Arc<Work>, jobs: std::sync::mpsc::Receiver<Job>, out: mpsc::Sender<Happening>) {
    std::thread::spawn(move || {
        let run = work.run;
        while let Ok(job) = jobs.recv() {
            let weights = |result: Result<(u64, Hash)>| match result {
                Ok(found) => Happening::Input(Box::new(Input::Weights { run, result: Some(found) })),
                Err(error) => {
                    let _ = out.blocking_send(Happening::Trouble(run, format!("{error:#}")));
                    Happening::Input(Box::new(Input::Weights { run, result: None }))
                }
            };
            let happening = match job {
                Job::Init => weights(work.init()),
                Job::Adopt(version, bytes) => weights(work.adopt_bytes(version, &bytes)),
                Job::Apply(closed) => weights(work.apply(&closed)),
                Job::Differs { version, root, closed, theirs } => {
                    let input = match work.differs(version, &root, closed.as_deref(), theirs.as_ref()) {
                        Ok(Step::Repaired) => Input::Weights { run, result: Some((version, root)) },
                        Ok(Step::Differs(chunk, hash)) => Input::Differs { run, version, chunk, hash },
                        Err(error) => {
                            tracing::warn!(%error, "a step cannot be checked");
                            continue;
                        }
                    };
                    Happening::Input(Box::new(input))
                }
                Job::Verify(fetch, bytes) => {
                    let result = bytes.and_then(|bytes| work.verify(&fetch.candidate, bytes));
                    let update = fetch.candidate.update;
                    Happening::Input(Box::new(Input::Fetched { run, update, result }))
                }
            };
            if out.blocking_send(happening).is_err() {
                return;
            }
        }
    });
}

/// Measures held-out loss and writes checkpoints beside the run; nothing waits for it.
fn spawn_evaluator(work: Arc<Work>, due: std::sync::mpsc::Receiver<Checkpoint>, out: mpsc::Sender<Happening>) {
    std::thread::spawn(move || {
        let mut trainer = None;
        while let Ok(checkpoint) = due.recv() {
            if trainer.is_none() {
                trainer = work.trainer().ok();
            }
            let Some(trainer) = &mut trainer else { continue };
            let happening = match work.checkpoint(trainer, &checkpoint) {
                Ok(Some((version, bits))) => Happening::Heldout(work.run, version, bits),
                Ok(None) => continue,
                Err(error) => Happening::Trouble(work.run, format!("checkpoint: {error:#}")),
            };
            if out.blocking_send(happening).is_err() {
                return;
            }
        }
    });
}
