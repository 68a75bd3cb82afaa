//! The run's settings as the model crate takes them.

use super::Work;
use anyhow::{Result, ensure};
use model::update::Format;
use model::{AdamW, ApplyRule, Layout, ModelConfig, Schedule, UnitPlan};
use swarm::{Closed, Mode, Spec, Train};

/// Refuses a run whose settings its model would learn nothing good from.
pub(crate) fn check(spec: &Spec, config: &ModelConfig) -> Result<()> {
    config.check_length(spec.seq_len as usize)?;
    let format = Format::new(spec.sparsity, spec.bits)?;
    ensure!(
        spec.mode == Mode::Local || format.carries_gradients(),
        "gradients in {} bits train worse than one machine alone: make the run with `bits = 8`, or with `mode = \"local\"`",
        spec.bits
    );
    Ok(())
}

/// Refuses a run whose members may make updates that are longer than the log takes.
pub(crate) fn check_updates(spec: &Spec, layout: &Layout) -> Result<()> {
    let (most, taken) = (Format::new(spec.sparsity, spec.bits)?.bytes_max(layout), spec.update_bytes_max());
    ensure!(
        most <= taken,
        "an update of this model may have {most} bytes and the log takes {taken}: make the model wider, so that its \
         vectors and its many small matrices are less of it"
    );
    Ok(())
}

impl Work {
    /// What the log planned, with the run's settings.
    pub(crate) fn plan(&self, train: &Train) -> Result<UnitPlan> {
        let pending = match &train.pending {
            None => None,
            Some((update, tokens, of)) => {
                let share = (u128::from(*tokens) << 20) / u128::from(*of).max(1);
                let alpha = self.spec.alpha_milli as f32 / 1000.0;
                Some((self.update(update)?, share as u32, alpha))
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

    /// Longest gradient of an inner step.
    pub(crate) fn clip(&self) -> f32 {
        self.spec.clip_milli as f32 / 1000.0
    }

    fn lr(&self, tokens_before: u64) -> f32 {
        let schedule = Schedule::parse(&self.spec.schedule).expect("checked when the run was created");
        let spec = &self.spec;
        let round = spec.tokens_per_round();
        schedule.lr(spec.lr_nano as f32 * 1e-9, tokens_before, round, spec.tokens, spec.warmup_tokens)
    }

    /// What a closed set is applied with.
    pub(crate) fn rule_of(&self, closed: &Closed) -> ApplyRule {
        let mut rule = self.rule(closed.tokens_before, closed.steps_before);
        if let ApplyRule::Local { steps, .. } = &mut rule {
            *steps = self.steps_behind(closed);
        }
        rule
    }

    /// Inner steps behind a closed set. What an earlier round left over counts as whole.
    fn steps_behind(&self, closed: &Closed) -> f32 {
        mean_steps(closed.set.iter().map(|candidate| {
            let commit = closed.commits.get(&candidate.member).filter(|commit| commit.update == candidate.update);
            (candidate.tokens, commit.map_or(self.spec.inner_steps, |commit| commit.steps))
        }))
    }

    /// What a round that opened at these counts is applied with, if all its steps are done.
    pub(crate) fn rule(&self, tokens_before: u64, steps_before: u64) -> ApplyRule {
        let lr = self.lr(tokens_before);
        let decay = self.spec.weight_decay_micro as f32 * 1e-6;
        match self.spec.mode {
            Mode::Gradients => {
                ApplyRule::Gradients { adam: AdamW::new(decay), lr, step: steps_before + 1, clip: self.clip() }
            }
            Mode::Local => ApplyRule::Local {
                alpha: self.spec.alpha_milli as f32 / 1000.0,
                decay: lr * decay,
                steps: self.spec.inner_steps as f32,
                reach: self.spec.lr_nano as f32 * 1e-9 * self.spec.inner_steps as f32,
            },
        }
    }
}

/// The mean of steps, weighted by tokens.
fn mean_steps(units: impl Iterator<Item = (u64, u32)>) -> f32 {
    let (mut sum, mut all) = (0u128, 0u128);
    for (tokens, steps) in units {
        sum += u128::from(tokens) * u128::from(steps);
        all += u128::from(tokens);
    }
    (sum as f64 / all.max(1) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Part;

    #[test]
    fn a_member_that_did_fewer_steps_makes_a_set_decay_less() {
        assert_eq!(mean_steps([(300, 10), (100, 10)].into_iter()), 10.0);
        assert_eq!(mean_steps([(300, 10), (100, 2)].into_iter()), 8.0);
        assert_eq!(mean_steps([].into_iter()), 0.0);
    }

    #[test]
    fn runs_that_would_train_worse_than_one_machine_are_refused() {
        let config = ModelConfig::preset("nano", 64, 16).expect("a preset");
        let json = String::from_utf8(config.to_json(0)).expect("utf-8");
        let spec = Spec::plain("test", json, 1, base::Hash::default());
        assert!(check(&spec, &config).is_ok());
        for bits in [1, 2] {
            assert!(check(&Spec { bits, ..spec.clone() }, &config).is_err(), "gradients in {bits} bits");
            let local = Spec { bits, mode: Mode::Local, ..spec.clone() };
            assert!(check(&local, &config).is_ok(), "differences in {bits} bits");
        }
        assert!(check(&Spec { seq_len: 17, ..spec.clone() }, &config).is_err(), "longer than its positions");
    }

    #[test]
    fn the_log_takes_the_updates_of_every_preset_and_a_run_of_slivers_is_refused() {
        let checked = |config: &ModelConfig, mode, sparsity, bits| {
            let layout = Layout::new(config, &Part::whole(config));
            let plain = Spec::plain("test", String::new(), layout.len as u64, base::Hash::default());
            check_updates(&Spec { mode, sparsity, bits, ..plain }, &layout)
        };
        for size in model::SIZES {
            let config = ModelConfig::preset(size, 2048, 16).expect("a preset");
            let formats = [0u8, 2, 4, 6].into_iter().flat_map(|sparsity| [1u8, 2, 8].map(|bits| (sparsity, bits)));
            for (sparsity, bits) in formats {
                let checked = checked(&config, Mode::Local, sparsity, bits);
                assert!(checked.is_ok(), "{size}, 1/{} at {bits} bits: {checked:?}", 1 << sparsity);
            }
        }
        let nano = ModelConfig::preset("nano", 64, 16).expect("a preset");
        let (hidden_size, intermediate_size, heads, head_dim) = (2, 1, 1, 2);
        let slivers = ModelConfig {
            hidden_size,
            intermediate_size,
            num_hidden_layers: 10_000,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim,
            ..nano
        };
        assert!(slivers.check().is_ok() && checked(&slivers, Mode::Gradients, 0, 8).is_err());
    }
}
