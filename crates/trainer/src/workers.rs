//! The threads of a run: one trains, one follows the log, one measures.

use crate::event::DriverEvent;
use crate::work::{Resting, Step, Work};
use anyhow::{Result, anyhow};
use base::{ChunkTree, Hash, Reject};
use model::{Trainer, UnitError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use swarm::{Closed, Commit, Fetch, Input, RunId, Train};
use tokio::sync::mpsc;

/// The threads of a run, by what they take.
pub(crate) struct Workers {
    pub(crate) work: Arc<Work>,
    pub(crate) trainer: Sender<Box<Train>>,
    pub(crate) applier: Sender<Job>,
    pub(crate) evaluator: Sender<Checkpoint>,
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

/// Jobs of the second thread. An update that is to be verified arrived in its file, or nobody gave it.
pub(crate) enum Job {
    Init,
    Adopt(u64, Vec<u8>),
    Apply(Box<Closed>),
    Differs { version: u64, root: Hash, closed: Option<Box<Closed>>, theirs: Option<ChunkTree> },
    Verify(Box<Fetch>, Result<(), Reject>),
}

impl Workers {
    /// Begins the threads; they end when this is dropped.
    pub(crate) fn start(work: Arc<Work>, out: &mpsc::Sender<DriverEvent>) -> Self {
        let (trainer, trains) = channel();
        let (applier, jobs) = channel();
        let (evaluator, checkpoints) = channel();
        spawn_trainer(work.clone(), trains, out.clone());
        spawn_applier(work.clone(), jobs, out.clone());
        spawn_evaluator(work.clone(), checkpoints, out.clone());
        Self { work, trainer, applier, evaluator }
    }
}

/// Calls `work`; a panic in it is an error that says what the panic said, for a thread that ends is heard of by nobody.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // What it changes half is thrown away, or checked by its hash before it is used.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(anyhow!("a fault of this program: {}", said.unwrap_or("it panicked")))
    })
}

/// The trainer thread of a run; ends when its sender is dropped.
fn spawn_trainer(work: Arc<Work>, trains: Receiver<Box<Train>>, out: mpsc::Sender<DriverEvent>) {
    std::thread::spawn(move || {
        let mut kept = None;
        train_all(work.run, &trains, &out, |train| {
            let _computing = work.computing.blocking_lock();
            unit(&work, &mut kept, train)
        });
    });
}

/// Does a unit with the trainer that is kept; one that failed is not used again.
fn unit(work: &Work, kept: &mut Option<Trainer>, train: &Train) -> Result<Commit> {
    let mut trainer = match kept.take() {
        Some(trainer) => trainer,
        None => work.trainer()?,
    };
    let commit = work.unit(&mut trainer, train, u64::MAX);
    if commit.as_ref().err().is_none_or(|error| error.is::<Resting>()) {
        *kept = Some(trainer);
    }
    commit
}

/// Does unit after unit, and says of each what came of it.
fn train_all(
    run: RunId,
    trains: &Receiver<Box<Train>>,
    out: &mpsc::Sender<DriverEvent>,
    mut unit: impl FnMut(&Train) -> Result<Commit>,
) {
    while let Ok(train) = trains.recv() {
        let round = train.round;
        let input = match guarded(|| unit(&train)) {
            Ok(commit) => Input::Trained { run, round, result: Some(Box::new(commit)) },
            Err(error) if error.is::<Resting>() => Input::Trained { run, round, result: None },
            Err(error) => {
                let _ = out.blocking_send(DriverEvent::Trouble(run, format!("round {round}: {error:#}")));
                match error.downcast_ref::<UnitError<anyhow::Error>>() {
                    // The log is to see that its part was too much for this machine.
                    Some(UnitError::Stopped) => Input::Trained { run, round, result: None },
                    _ => Input::Failed { run, round },
                }
            }
        };
        if out.blocking_send(DriverEvent::Input(Box::new(input))).is_err() {
            return;
        }
    }
}

/// The second thread of a run.
fn spawn_applier(work: Arc<Work>, jobs: Receiver<Job>, out: mpsc::Sender<DriverEvent>) {
    std::thread::spawn(move || {
        while let Ok(job) = jobs.recv() {
            let Some(input) = job.done(&work, &out) else { continue };
            if out.blocking_send(DriverEvent::Input(Box::new(input))).is_err() {
                return;
            }
        }
    });
}

impl Job {
    /// Does it, and gives what the machine is told; trouble goes to `out`.
    fn done(self, work: &Work, out: &mpsc::Sender<DriverEvent>) -> Option<Input> {
        let run = work.run;
        let weights = |made: Result<(u64, Hash)>| {
            let trouble = |error: &anyhow::Error| {
                let _ = out.blocking_send(DriverEvent::Trouble(run, format!("{error:#}")));
            };
            Some(Input::Weights { run, result: made.inspect_err(trouble).ok() })
        };
        match self {
            Self::Init => weights(guarded(|| work.init())),
            Self::Adopt(version, bytes) => weights(guarded(|| work.adopt_bytes(version, &bytes))),
            Self::Apply(closed) => weights(guarded(|| work.apply(&closed))),
            Self::Differs { version, root, closed, theirs } => {
                match guarded(|| work.differs(version, &root, closed.as_deref(), theirs.as_ref())) {
                    Ok(Step::Repaired) => Some(Input::Weights { run, result: Some((version, root)) }),
                    Ok(Step::Differs(chunk, hash)) => Some(Input::Differs { run, version, chunk, hash }),
                    Err(error) => {
                        tracing::warn!(%error, "a step cannot be checked");
                        None
                    }
                }
            }
            Self::Verify(fetch, arrived) => {
                let verified = arrived.and_then(|()| {
                    guarded(|| Ok(work.verify(&fetch.candidate))).unwrap_or_else(|error| {
                        tracing::error!(%error, update = ?fetch.candidate.update, "an update cannot be checked");
                        Err(Reject::Malformed)
                    })
                });
                Some(Input::Fetched { run, update: fetch.candidate.update, result: verified })
            }
        }
    }
}

/// Measures held-out loss and writes checkpoints beside the run; nothing waits for it.
fn spawn_evaluator(work: Arc<Work>, due: Receiver<Checkpoint>, out: mpsc::Sender<DriverEvent>) {
    std::thread::spawn(move || {
        let mut kept = None;
        while let Ok(checkpoint) = due.recv() {
            let measured = guarded(|| {
                let mut trainer = match kept.take() {
                    Some(trainer) => trainer,
                    None => work.trainer()?,
                };
                let measured = work.checkpoint(&mut trainer, &checkpoint);
                kept = Some(trainer);
                measured
            });
            let happening = match measured {
                Ok(Some((version, bits))) => DriverEvent::Heldout(work.run, version, bits),
                Ok(None) => continue,
                Err(error) => DriverEvent::Trouble(work.run, format!("checkpoint: {error:#}")),
            };
            if out.blocking_send(happening).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Round;

    fn train(round: u64) -> Box<Train> {
        Box::new(Train {
            run: Hash::default(),
            round: Round(round),
            base: 0,
            root: Hash::default(),
            micro_batches: 1,
            position: 0,
            tokens_before: 0,
            steps_before: 0,
            window_ms: 1,
            plain: false,
            state: Hash::default(),
            inherit: None,
            settle: Vec::new(),
            pending: None,
        })
    }

    /// What the driver hears of units that end so, in order of their rounds.
    fn heard(mut unit: impl FnMut(u64) -> Result<Commit>, units: u64) -> Vec<String> {
        let (sender, trains) = channel();
        (0..units).for_each(|round| sender.send(train(round)).expect("the receiver is there"));
        drop(sender);
        let (out, mut happened) = mpsc::channel(64);
        train_all(Hash::default(), &trains, &out, |train| unit(train.round.0));
        drop(out);
        let mut heard = Vec::new();
        while let Some(happening) = happened.blocking_recv() {
            heard.push(match happening {
                DriverEvent::Trouble(_, text) => text,
                DriverEvent::Input(input) => match *input {
                    Input::Trained { round, result, .. } => format!("trained {round}: {}", result.is_some()),
                    Input::Failed { round, .. } => format!("failed {round}"),
                    other => other.name().into(),
                },
                _ => "something else".into(),
            });
        }
        heard
    }

    #[test]
    fn a_panic_of_the_trainer_is_said_with_its_reason_and_the_next_unit_is_done() {
        let unit = |round: u64| -> Result<Commit> {
            match round {
                0 => panic!("shape {round} is wrong"),
                1 => Err(Resting.into()),
                2 => Err(UnitError::<anyhow::Error>::Stopped.into()),
                _ => Err(anyhow!("the disk is full")),
            }
        };
        let expect = [
            "round 0: a fault of this program: shape 0 is wrong",
            "failed 0",
            "trained 1: false",
            "round 2: stopped before the first step was done",
            "trained 2: false",
            "round 3: the disk is full",
            "failed 3",
        ];
        assert_eq!(heard(unit, 4), expect);
    }
}
