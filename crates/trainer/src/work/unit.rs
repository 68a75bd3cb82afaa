//! A unit: from the weights and the private state that the log names to what is committed.

use super::Work;
use crate::throttle::{Throttle, give_way};
use anyhow::{Context, Result, anyhow, ensure};
use base::Hash;
use data::Split;
use model::{Batch, Private, Trainer, Unit, UnitError, Weights, restitution, shares};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use swarm::{Commit, Train};

/// A unit was let go of because the owner needs the machine.
#[derive(Debug, thiserror::Error)]
#[error("its owner needs the machine")]
pub(crate) struct Resting;

impl Work {
    /// A new trainer on the run's device.
    pub(crate) fn trainer(&self) -> Result<Trainer> {
        let device = model::open(&self.device).map_err(|e| anyhow!("{e}"))?;
        Ok(self.pool.install(|| Trainer::new(&self.config, &device)))
    }

    /// Does a unit and gives what is to be committed.
    /// At most `steps_max` inner steps: the plan's, or what a replay knows to have been done.
    pub(crate) fn unit(&self, trainer: &mut Trainer, train: &Train, steps_max: u64) -> Result<Commit> {
        let begun = Instant::now();
        let weights = self.versions().held.get(&train.base).map(|(weights, _)| weights.clone());
        let weights = weights.with_context(|| format!("version {} of the weights is gone", train.base))?;
        let (state, mut private) = self.begin(train);
        // Lost is lost: who finds its state gone gets nothing back, the same for whoever replays it.
        if state == train.state {
            self.settle(train, &mut private)?;
        }
        let computed = self.compute(trainer, train, steps_max, &weights, &mut private, begun);
        let (unit, made, busy) = computed.inspect_err(|error| {
            // The donor's moments may be why: the next unit begins from none, whoever offers any.
            if is_not_finite(error) && train.inherit.is_some_and(|(_, donated)| donated == state) {
                self.inherits.store(false, Ordering::Relaxed);
            }
        })?;
        ensure!(unit.update.norm_sq.is_finite(), "the update is not finite");
        let size = unit.update.bytes.len() as u64;
        // The private state first: an update that nobody commits to would stay, and would be served.
        let state_next = self.keep_private(train.round, &private, &train.state)?;
        let update = match made {
            Some(made) => self.keep_made(train.base + 1, made)?,
            None => self.keep_own(train.round, &unit.update.bytes)?,
        };
        self.meter.busy_ms.fetch_add(busy.as_millis() as u64, Ordering::Relaxed);
        self.meter.tokens.fetch_add(unit.tokens, Ordering::Relaxed);
        self.meter.update_bytes.fetch_add(size, Ordering::Relaxed);
        Ok(Commit {
            run: self.run,
            round: train.round,
            root: train.root,
            class: self.class,
            tokens: unit.tokens,
            steps: unit.steps as u32,
            update,
            norm_sq_bits: unit.update.norm_sq.to_bits(),
            size,
            state,
            state_next,
            trace: unit.trace,
            loss_micro: (unit.nats / unit.tokens.max(1) as f64 * 1e6) as u64,
        })
    }

    /// The unit, the weights that it made where it trained alone, and how long it computed.
    fn compute(
        &self,
        trainer: &mut Trainer,
        train: &Train,
        steps_max: u64,
        weights: &Weights,
        private: &mut Private,
        begun: Instant,
    ) -> Result<(Unit, Option<Weights>, Duration)> {
        let mut plan = self.plan(train)?;
        plan.inner_steps = plan.inner_steps.min(steps_max);
        let mut window = Vec::new();
        let window_end = Duration::from_millis(train.window_ms / 4 * 3);
        let throttle = Throttle::new(self.duty.clone());
        let (per_batch, rested) = (u64::from(self.spec.micro_batch), AtomicBool::new(false));
        let waited_us = AtomicU64::new(0);
        let wait = |waiting: &dyn Fn()| {
            let waits = Instant::now();
            waiting();
            waited_us.fetch_add(waits.elapsed().as_micros() as u64, Ordering::Relaxed);
        };
        let next = |i: u64| -> Result<Batch> {
            window.clear();
            for row in 0..per_batch {
                let at = self.order.at(train.position + i * per_batch + row);
                self.corpus.window(Split::Train, at.index, u64::from(self.spec.seq_len), &mut window)?;
            }
            wait(&|| {
                throttle.rest();
                if let Some(answers) = &self.answers {
                    give_way(answers, begun + window_end, || self.rests());
                    throttle.resume();
                }
            });
            // What is begun is let go of: nobody waits for who rests.
            rested.store(self.rests(), Ordering::Relaxed);
            ensure!(!rested.load(Ordering::Relaxed), Resting);
            Ok(Batch { ids: window.clone() })
        };
        let stop = || begun.elapsed() > window_end;
        let computing = Instant::now();
        let done = self.pool.install(|| -> Result<_> {
            let done = if train.plain {
                // A plain round applies no set, and its result takes as much memory as the spare has.
                self.versions().spare = None;
                let rule = self.rule(train.tokens_before, train.steps_before);
                let (made, unit) = trainer.plain_unit(weights, private, &plan, &rule, next, stop)?;
                (unit, Some(made))
            } else {
                (trainer.unit(weights, private, &plan, next, stop)?, None)
            };
            wait(&|| throttle.rest());
            Ok(done)
        });
        let (unit, made) = done.map_err(|error| if rested.load(Ordering::Relaxed) { Resting.into() } else { error })?;
        let waited = Duration::from_micros(waited_us.load(Ordering::Relaxed));
        let busy = computing.elapsed().saturating_sub(unit.codec_time + waited);
        Ok((unit, made, busy))
    }

    /// Whether a unit may go on from another member's moments: one that did so did not end in infinite values.
    pub(crate) fn inherits(&self) -> bool {
        self.inherits.load(Ordering::Relaxed)
    }

    /// The private state from which a unit goes on: one's own; a newcomer's is another's moments and none
    /// of its feedback; else none.
    fn begin(&self, train: &Train) -> (Hash, Private) {
        if let Some(private) = self.private_state(&train.state) {
            return (train.state, private);
        }
        let none = Private::zero(&self.layout);
        let offered = train.inherit.filter(|_| self.inherits());
        let donor = offered.and_then(|(_, state)| Some((state, self.private_state(&state)?)));
        let donor = donor.filter(|(_, donor)| donor.plausible(self.clip()));
        match donor {
            Some((state, donor)) => (state, Private { moments: donor.moments, ..none }),
            None => (Hash::default(), none),
        }
    }

    /// Gives back to the error feedback what was left out or scaled down.
    fn settle(&self, train: &Train, private: &mut Private) -> Result<()> {
        for settle in &train.settle {
            let scale = match settle.set.iter().position(|c| c.update == settle.update) {
                None => 0,
                Some(own) => {
                    let set: Vec<(u64, f64)> =
                        settle.set.iter().map(|c| (c.tokens, f64::from_bits(c.norm_sq_bits))).collect();
                    shares(&set)[own].0
                }
            };
            if scale < 1 << 16 {
                let bytes = self.update(&settle.update)?;
                restitution(&self.layout, &mut private.e, &bytes, scale)?;
            }
        }
        Ok(())
    }
}

/// Whether a unit left the finite numbers.
fn is_not_finite(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<UnitError<anyhow::Error>>(), Some(UnitError::NotFinite))
}
