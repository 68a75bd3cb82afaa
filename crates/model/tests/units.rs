//! Units over many rounds: what the error feedback keeps, and what a unit that was cut short decays.

use model::update::Format;
use model::{AdamW, ApplyRule, Batch, Layout, ModelConfig, Part, Private, Trainer, UnitPlan, Weights, verify_update};
use std::convert::Infallible;

const T: usize = 16;
const ROWS: usize = 20;

fn plan() -> UnitPlan {
    UnitPlan {
        gradients: true,
        inner_steps: 1,
        micro_batches: 1,
        micro_batch: ROWS,
        seq_len: T,
        lr: 0.0,
        adam: AdamW::new(0.0),
        clip: 1.0,
        format: Format::new(0, 8).expect("known"),
        beta: 1.0,
        pending: None,
    }
}

/// Rows over the first `vocab` ids.
fn batch(vocab: u32) -> Result<Batch, Infallible> {
    Ok(Batch { ids: (0..(ROWS * (T + 1)) as u32).map(|i| i % vocab).collect() })
}

#[test]
fn rows_without_a_gradient_leave_the_error_feedback_finite_over_forty_rounds() {
    let config = ModelConfig { tie_word_embeddings: false, ..ModelConfig::preset("nano", 300, T).expect("nano") };
    let layout = Layout::new(&config, &Part::whole(&config));
    let mut trainer = Trainer::new(&config, &model::open("cpu").expect("always there"));
    let weights = Weights::init(&layout, &config, 1, true);
    for sparsity in [0, 2] {
        for beta in [1.0, 0.95] {
            let plan = UnitPlan { beta, format: Format::new(sparsity, 8).expect("known"), ..plan() };
            let mut private = Private::zero(&layout);
            for round in 0..40 {
                // Each row of the embedding is met once, most of them never again.
                let vocab = if round == 0 { 300 } else { 60 };
                let unit = trainer.unit(&weights, &mut private, &plan, |_| batch(vocab), || false).expect("a unit");
                let finite = private.e.iter().all(|e| e & 0x7f80 != 0x7f80);
                assert!(finite, "1/{} dense, beta {beta}, round {round}: NaN in e", 1 << sparsity);
                verify_update(&layout, &unit.update.bytes, plan.format, unit.update.norm_sq).expect("a valid update");
            }
        }
    }
}

#[test]
fn a_unit_that_was_cut_short_decays_by_the_steps_it_did() {
    let config = ModelConfig::preset("nano", 300, T).expect("nano");
    let layout = Layout::new(&config, &Part::whole(&config));
    let mut trainer = Trainer::new(&config, &model::open("cpu").expect("always there"));
    let weights = Weights::init(&layout, &config, 1, false);
    let plan = UnitPlan { gradients: false, inner_steps: 10, ..plan() };
    let rule = ApplyRule::Local { alpha: 1.0, decay: 0.01, steps: 10.0, reach: 1.0 };
    let mut left = 3;
    let stop = || {
        left -= 1;
        left < 0
    };
    let mut private = Private::zero(&layout);
    let done = trainer.plain_unit(&weights, &mut private, &plan, &rule, |_| batch(300), stop);
    let (result, unit) = done.expect("a unit");
    assert_eq!(unit.steps, 3);
    // The learning rate is zero, so decay is all that moves a matrix.
    let keep = 1.0 - 0.01f32 * 3.0;
    for param in &layout.params {
        let factor = if param.is_matrix() { keep } else { 1.0 };
        let pairs = weights.theta()[param.range()].iter().zip(&result.theta()[param.range()]);
        pairs.for_each(|(before, after)| assert_eq!(*after, factor * before, "{}", param.name));
    }
}
