//! The run's settings as the model crate takes them.

use crate::work::Work;
use anyhow::Result;
use model::{AdamW, ApplyRule, Schedule, UnitPlan};
use swarm::{Mode, Train};

impl Work {
    /// What the log planned, with the run's settings.
    pub(crate) fn plan(&self, train: &Train) -> Result<UnitPlan> {
        let pending = match &train.pending {
            None => None,
            Some((update, tokens, of)) => {
                let share = (u128::from(*tokens) << 20) / u128::from(*of).max(1);
                let alpha = self.spec.alpha_milli as f32 / 1000.0;
                Some((self.update(update)?.to_vec(), share as u32, alpha))
            }
        };
        let gradients = self.spec.mode == Mode::Gradients;
        // Decay belongs to the outer step where there is one.
        let inner = AdamW::new(0.0);
        Ok(UnitPlan {
            gradients,
            inner_steps: u64::from(self.spec.inner_steps),
            micro_batches: u64::from(train.micro_batches),
            micro_batch: self.spec.micro_batch as usize,
            seq_len: self.spec.seq_len as usize,
            lr: self.lr(train.tokens_before),
            adam: inner,
            clip: self.clip(),
            format: self.format(),
            beta: self.spec.beta_milli as f32 / 1000.0,
            pending,
        })
    }

    fn clip(&self) -> f32 {
        self.spec.clip_milli as f32 / 1000.0
    }

    fn lr(&self, tokens_before: u64) -> f32 {
        let schedule = Schedule::parse(&self.spec.schedule).expect("checked when the run was created");
        let spec = &self.spec;
        let round = spec.tokens_per_round();
        schedule.lr(spec.lr_nano as f32 * 1e-9, tokens_before, round, spec.tokens, spec.warmup_tokens)
    }

    /// What a closed set of a round that opened at these counts is applied with.
    pub(crate) fn rule(&self, tokens_before: u64, steps_before: u64) -> ApplyRule {
        let lr = self.lr(tokens_before);
        let decay = self.spec.weight_decay_micro as f32 * 1e-6;
        match self.spec.mode {
            Mode::Gradients => {
                ApplyRule::Gradients { adam: AdamW::new(decay), lr, step: steps_before + 1, clip: self.clip() }
            }
            Mode::Local => ApplyRule::Local {
                alpha: self.spec.alpha_milli as f32 / 1000.0,
                decay: lr * decay * self.spec.inner_steps as f32,
            },
        }
    }
}
