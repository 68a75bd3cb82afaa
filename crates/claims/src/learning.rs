//! Loss at equal tokens: several workers in one process with the real codec and the real apply.

use crate::{Bar, Book};
use anyhow::Result;
use data::{Corpus, Order, Split};
use model::update::Format;
use model::{
    AdamW, ApplyRule, Batch, Config, Contribution, Layout, Part, Private, Schedule, Trainer, UnitPlan, Weights, apply,
};
use std::convert::Infallible;

/// A setting of the frontier.
#[derive(Clone, Copy)]
struct Setting {
    workers: u64,
    gradients: bool,
    inner_steps: u64,
    format: Option<(u8, u8)>,
    lr: f32,
}

const SEQ_LEN: usize = 128;
const MICRO_BATCH: usize = 4;
/// Micro-batches of all workers together in one inner step: 4,096 tokens.
const MICRO_BATCHES: u64 = 8;
const BETA_LOCAL: f32 = 0.95;

/// Trains `tokens` tokens and gives held-out bits per byte.
fn train(corpus: &Corpus, setting: Setting, tokens: u64, seed: u64) -> Result<f64> {
    let config = Config::preset("tiny", 2048, SEQ_LEN)?;
    let layout = Layout::new(&config, &Part::whole(&config));
    let mut trainer = Trainer::new(&config, &model::open("cpu")?);
    let manifest = corpus.manifest();
    let order = Order::new(manifest.train_tokens(), SEQ_LEN as u64, &manifest.root(), seed).expect("windows");
    let mut weights = Weights::init(&layout, &config, seed, setting.gradients);
    let mut privates: Vec<Private> = (0..setting.workers).map(|_| Private::zero(&layout)).collect();
    let per_round = MICRO_BATCHES * setting.inner_steps * (MICRO_BATCH * SEQ_LEN) as u64;
    let (mut done, mut cursor, mut step) = (0, 0u64, 0);
    while done < tokens {
        let lr = Schedule::Wsd.lr(setting.lr, done, per_round, tokens, tokens / 20);
        step += 1;
        let rule = if setting.gradients {
            ApplyRule::Gradients { adam: AdamW::new(0.1), lr, step, clip: 1.0 }
        } else {
            ApplyRule::Local { alpha: 1.0, decay: lr * 0.1 * setting.inner_steps as f32 }
        };
        let (sparsity, bits) = setting.format.unwrap_or((0, 8));
        let plan = UnitPlan {
            gradients: setting.gradients,
            inner_steps: setting.inner_steps,
            micro_batches: MICRO_BATCHES / setting.workers,
            micro_batch: MICRO_BATCH,
            seq_len: SEQ_LEN,
            lr,
            adam: AdamW::new(0.0),
            clip: 1.0,
            format: Format::new(sparsity, bits).expect("known"),
            beta: if setting.gradients { 1.0 } else { BETA_LOCAL },
            pending: None,
        };
        let mut units = Vec::new();
        for private in &mut privates {
            let next = |_: u64| {
                let mut ids = Vec::new();
                for _ in 0..MICRO_BATCH {
                    let window = order.at(cursor).index;
                    corpus.window(Split::Train, window, SEQ_LEN as u64, &mut ids).expect("a window of the order");
                    cursor += 1;
                }
                Ok::<_, Infallible>(Batch { ids })
            };
            if setting.format.is_none() {
                weights = trainer.plain_unit(&weights, private, &plan, &rule, next, || false)?.0;
            } else {
                units.push(trainer.unit(&weights, private, &plan, next, || false)?);
            }
        }
        let set: Vec<Contribution<'_>> = (units.iter())
            .map(|u| Contribution { bytes: &u.update.bytes, tokens: u.tokens, norm_sq: u.update.norm_sq })
            .collect();
        apply(&layout, &mut weights, &set, &rule)?;
        done += per_round;
    }
    let bits = node::bits_per_byte(&mut trainer, weights.theta(), corpus, SEQ_LEN as u64, 40_000)?;
    Ok(bits.expect("the corpus has a held-out split"))
}

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    let names = [
        ("swarm.loss.gradients_8bit", "<= 1", "<= 0.3"),
        ("swarm.loss.local_2bit", "<= 6", "<= 2.5"),
        ("swarm.loss.local_0.42bit", "<= 10", "<= 4"),
    ];
    if !full {
        for (name, bar, goal) in names {
            book.keep(name, "% over one machine", bar, goal);
        }
        book.keep("swarm.loss.against_alone", "% better", ">= 1", ">= 6");
        book.keep("swarm.loss.density_64", "% over one machine", "printed", "<= 3");
        book.keep("swarm.utilisation.two_peers", "%", ">= 90", ">= 97");
        return Ok(());
    }
    let tokens = std::env::var("CLAIM_TOKENS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_500_000u64);
    let seeds: u64 = std::env::var("CLAIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let dir = tempfile::tempdir()?;
    data::shipped::build(dir.path())?;
    let corpus = Corpus::open(dir.path())?;
    let how = format!(
        "1.1 M parameters, {tokens} tokens, 4 workers in one process, {seeds} seeds, mean of held-out bits per byte"
    );
    let mean = |setting: Setting| -> Result<f64> {
        let mut sum = 0.0;
        for seed in 0..seeds {
            let bits = train(&corpus, setting, tokens, seed)?;
            eprintln!("  seed {seed}: {bits:.4} bits per byte");
            sum += bits;
        }
        Ok(sum / seeds as f64)
    };
    let alone = Setting { workers: 1, gradients: true, inner_steps: 1, format: None, lr: 0.0 };
    let mut best = (f64::MAX, 0.0);
    for lr in [2e-3, 4e-3, 6e-3] {
        let bits = mean(Setting { lr, ..alone })?;
        println!("one machine, lr {lr}: {bits:.4} bits per byte");
        best = if bits < best.0 { (bits, lr) } else { best };
    }
    let (one, lr) = best;
    let over = |bits: f64| 100.0 * (bits / one - 1.0);
    let settings = [
        (Setting { workers: 4, gradients: true, inner_steps: 1, format: Some((0, 8)), lr }, Bar::Most(1.0)),
        (Setting { workers: 4, gradients: false, inner_steps: 10, format: Some((0, 2)), lr }, Bar::Most(6.0)),
        (Setting { workers: 4, gradients: false, inner_steps: 10, format: Some((4, 1)), lr }, Bar::Most(10.0)),
    ];
    for ((setting, bar), (name, _, goal)) in settings.into_iter().zip(names) {
        let bits = mean(setting)?;
        book.add("full", name, (over(bits), "% over one machine"), bar, goal, &how);
    }
    book.keep("swarm.loss.against_alone", "% better", ">= 1", ">= 6");
    book.keep("swarm.loss.density_64", "% over one machine", "printed", "<= 3");
    book.keep("swarm.utilisation.two_peers", "%", ">= 90", ">= 97");
    Ok(())
}
