//! Loss at equal tokens: several workers in one process with the real codec and the real apply,
//! against one machine with the same global batch and against one member alone.
//!
//! Writes `docs/frontier.md` and `docs/frontier.svg`: loss over bits per token, setting by setting.

mod frontier;

use crate::{Bar, Book, Figure};
use anyhow::{Context, Result, anyhow};
use data::{Corpus, Order, Split};
use model::update::Format;
use model::{
    AdamW, ApplyRule, Batch, Config, Contribution, Layout, Part, Private, Schedule, Trainer, UnitPlan, Weights, apply,
};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Instant;

/// How a run is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Setting {
    workers: u64,
    gradients: bool,
    /// H.
    inner_steps: u64,
    /// Sparsity and bits; `None` = one machine with plain AdamW.
    format: Option<(u8, u8)>,
    /// Micro-batches of all workers together in one inner step.
    micro_batches: u64,
    lr: f32,
    tokens: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    /// Held-out bits per byte.
    bits_per_byte: f64,
    /// Bits of an update per parameter, mean over rounds.
    bits_per_parameter: f64,
    /// Bits that all members send together (each update once) per token of training.
    bits_per_token: f64,
}

const SIZE: &str = "tiny";
const SEQ_LEN: usize = 128;
const MICRO_BATCH: usize = 4;
const MICRO_TOKENS: u64 = (SEQ_LEN * MICRO_BATCH) as u64;
const WORKERS: u64 = 4;
const BETA_LOCAL: f32 = 0.95;
const DECAY: f32 = 0.1;
const EVAL_TOKENS: u64 = 60_000;

const FIGURES: [Figure<'_>; 7] = [
    Figure { name: "swarm.loss.gradients_8bit", unit: "% over one machine", bar: Bar::Most(1.0), goal: "<= 0.3" },
    Figure { name: "swarm.loss.local_2bit", unit: "% over one machine", bar: Bar::Most(6.0), goal: "<= 2.5" },
    Figure { name: "swarm.loss.local_0.42bit", unit: "% over one machine", bar: Bar::Most(10.0), goal: "<= 4" },
    Figure { name: "swarm.alone.gradients_8bit", unit: "% better than alone", bar: Bar::Least(1.0), goal: ">= 6" },
    Figure { name: "swarm.alone.local_2bit", unit: "% better than alone", bar: Bar::Least(1.0), goal: ">= 6" },
    Figure { name: "swarm.alone.local_0.42bit", unit: "% better than alone", bar: Bar::Least(1.0), goal: ">= 6" },
    Figure { name: "swarm.loss.density_64", unit: "% over one machine", bar: Bar::Printed, goal: "<= 3" },
];

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    if !full {
        book.keep(&FIGURES);
        return Ok(());
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let tokens = number("CLAIM_TOKENS").unwrap_or(1_500_000u64);
    let seeds = number("CLAIM_SEEDS").unwrap_or(2u64);
    let threads = number("CLAIM_THREADS").unwrap_or(2u64) as usize;
    let dir = tempfile::tempdir()?;
    data::shipped::build(dir.path())?;
    let bench = Bench { corpus: Corpus::open(dir.path())?, threads };

    // One machine with the global batch, its learning rate the best of three.
    let one =
        Setting { workers: 1, gradients: true, inner_steps: 1, format: None, micro_batches: WORKERS, lr: 0.0, tokens };
    let rates = [2e-3, 4e-3, 8e-3];
    let (one, one_bits) = bench.best(rates.map(|lr| Setting { lr, ..one }), seeds)?;
    // One member alone for the same wall-clock: a quarter of the tokens, its own batch and rate.
    let alone = [1, 2, 4]
        .into_iter()
        .flat_map(|micro_batches| rates.map(|lr| Setting { micro_batches, lr, tokens: tokens / WORKERS, ..one }));
    let (alone, alone_bits) = bench.best(alone, seeds)?;

    let swarm = |gradients: bool, inner_steps: u64, sparsity: u8, bits: u8| Setting {
        workers: WORKERS,
        gradients,
        inner_steps,
        format: Some((sparsity, bits)),
        ..one
    };
    let named = [swarm(true, 1, 0, 8), swarm(false, 10, 0, 2), swarm(false, 10, 4, 1)];
    let more = [
        swarm(true, 1, 0, 2),
        swarm(true, 1, 4, 2),
        swarm(false, 10, 0, 8),
        swarm(false, 5, 0, 2),
        swarm(false, 30, 0, 2),
        swarm(false, 10, 2, 2),
        swarm(false, 5, 4, 1),
        swarm(false, 10, 4, 2),
        swarm(false, 10, 6, 1),
    ];
    let named = bench.mean(&named, seeds)?;
    let more = bench.mean(&more, 1)?;
    let how = format!(
        "1.1 M parameters ({SIZE}), {tokens} tokens, {WORKERS} workers in one process, step of {} tokens, H = 10 in \
         local mode, lr {} for all, {seeds} seeds, mean of held-out bits per byte; one machine {one_bits:.4}, one \
         member alone {alone_bits:.4} (batch {} tokens, lr {})",
        WORKERS * MICRO_TOKENS,
        one.lr,
        alone.micro_batches * MICRO_TOKENS,
        alone.lr,
    );
    for (i, (_, outcome)) in named.iter().enumerate() {
        book.full(FIGURES[i], 100.0 * (outcome.bits_per_byte / one_bits - 1.0), &how);
        book.full(FIGURES[i + 3], 100.0 * (1.0 - outcome.bits_per_byte / alone_bits), &how);
    }
    frontier::write(&named, &more, (one, one_bits), (alone, alone_bits), seeds, &book.stamp())?;

    // The thinnest updates need many rounds for the error feedback to send everything often.
    let long = Setting { tokens: tokens * 8 / 3, ..one };
    let thin = Setting { tokens: tokens * 8 / 3, ..swarm(false, 5, 6, 1) };
    let pair = bench.mean(&[long, thin], 1)?;
    let over = 100.0 * (pair[1].1.bits_per_byte / pair[0].1.bits_per_byte - 1.0);
    let how = format!("the same with {} tokens and H = 5, one seed; {:.3} bit per parameter", long.tokens, {
        pair[1].1.bits_per_parameter
    });
    book.full(FIGURES[6], over, &how);
    Ok(())
}

struct Bench {
    corpus: Corpus,
    threads: usize,
}

impl Bench {
    /// The setting with the lowest loss for the first seed, and its mean over all.
    fn best(&self, settings: impl IntoIterator<Item = Setting>, seeds: u64) -> Result<(Setting, f64)> {
        let settings: Vec<Setting> = settings.into_iter().collect();
        let first = self.mean(&settings, 1)?.into_iter();
        let best = first.min_by(|a, b| a.1.bits_per_byte.total_cmp(&b.1.bits_per_byte)).context("no settings")?.0;
        Ok((best, self.mean(&[best], seeds)?[0].1.bits_per_byte))
    }

    /// Trains each setting with each seed, one run per core, and takes means over seeds.
    fn mean(&self, settings: &[Setting], seeds: u64) -> Result<Vec<(Setting, Outcome)>> {
        let jobs = (0..settings.len()).flat_map(|i| (0..seeds).map(move |seed| (i, seed)));
        let queue: Mutex<VecDeque<(usize, u64)>> = Mutex::new(jobs.collect());
        let done: Mutex<Vec<(usize, Outcome)>> = Mutex::default();
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.threads).map(|_| scope.spawn(|| self.work(settings, &queue, &done))).collect();
            workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow!("a run panicked"))?)
        })?;
        let done = done.into_inner().expect("no run panicked");
        let mean = |i: usize, of: fn(&Outcome) -> f64| {
            done.iter().filter(|(at, _)| *at == i).map(|(_, outcome)| of(outcome)).sum::<f64>() / seeds as f64
        };
        let outcome = |i| Outcome {
            bits_per_byte: mean(i, |o| o.bits_per_byte),
            bits_per_parameter: mean(i, |o| o.bits_per_parameter),
            bits_per_token: mean(i, |o| o.bits_per_token),
        };
        Ok(settings.iter().enumerate().map(|(i, &setting)| (setting, outcome(i))).collect())
    }

    fn work(
        &self,
        settings: &[Setting],
        queue: &Mutex<VecDeque<(usize, u64)>>,
        done: &Mutex<Vec<(usize, Outcome)>>,
    ) -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        loop {
            let Some((i, seed)) = queue.lock().expect("no run panicked").pop_front() else { return Ok(()) };
            let begun = Instant::now();
            let outcome = pool.install(|| train(&self.corpus, settings[i], seed))?;
            let (rate, bits) = (settings[i].tokens as f64 / begun.elapsed().as_secs_f64(), outcome.bits_per_byte);
            eprintln!("  {:?} seed {seed}: {bits:.4} bits per byte, {rate:.0} tokens/s", settings[i]);
            done.lock().expect("no run panicked").push((i, outcome));
        }
    }
}

/// The next `n` windows of an order.
pub(crate) fn batch(corpus: &Corpus, order: &Order, cursor: &mut u64, n: usize, seq_len: usize) -> Batch {
    let mut ids = Vec::new();
    for _ in 0..n {
        let window = order.at(*cursor).index;
        corpus.window(Split::Train, window, seq_len as u64, &mut ids).expect("a window of the order");
        *cursor += 1;
    }
    Batch { ids }
}

fn train(corpus: &Corpus, setting: Setting, seed: u64) -> Result<Outcome> {
    let config = Config::preset(SIZE, 2048, SEQ_LEN)?;
    let layout = Layout::new(&config, &Part::whole(&config));
    let mut trainer = Trainer::new(&config, &model::open("cpu")?);
    let manifest = corpus.manifest();
    let order = Order::new(manifest.train_tokens(), SEQ_LEN as u64, &manifest.root(), seed).context("no windows")?;
    let mut weights = Weights::init(&layout, &config, seed, setting.gradients);
    let mut privates: Vec<Private> = (0..setting.workers).map(|_| Private::zero(&layout)).collect();
    let per_round = setting.micro_batches * setting.inner_steps * MICRO_TOKENS;
    let mut mean = Vec::new();
    let (mut done, mut cursor, mut step, mut sent) = (0, 0u64, 0u64, 0u64);
    while done < setting.tokens {
        let lr = Schedule::Wsd.lr(setting.lr, done, per_round, setting.tokens, setting.tokens / 20);
        step += 1;
        let rule = if setting.gradients {
            ApplyRule::Gradients { adam: AdamW::new(DECAY), lr, step, clip: 1.0 }
        } else {
            ApplyRule::Local { alpha: 1.0, decay: lr * DECAY * setting.inner_steps as f32 }
        };
        let (sparsity, bits) = setting.format.unwrap_or((0, 8));
        let plan = UnitPlan {
            gradients: setting.gradients,
            inner_steps: setting.inner_steps,
            micro_batches: setting.micro_batches / setting.workers,
            micro_batch: MICRO_BATCH,
            seq_len: SEQ_LEN,
            lr,
            adam: AdamW::new(0.0),
            clip: 1.0,
            format: Format::new(sparsity, bits).map_err(|reject| anyhow!("format: {reject}"))?,
            beta: if setting.gradients { 1.0 } else { BETA_LOCAL },
            pending: None,
        };
        let mut units = Vec::new();
        for private in &mut privates {
            let next = |_: u64| Ok::<_, Infallible>(batch(corpus, &order, &mut cursor, MICRO_BATCH, SEQ_LEN));
            if setting.format.is_none() {
                weights = trainer.plain_unit(&weights, private, &plan, &rule, next, || false)?.0;
            } else {
                units.push(trainer.unit(&weights, private, &plan, next, || false)?);
            }
        }
        let set: Vec<Contribution<'_>> = (units.iter())
            .map(|u| Contribution { bytes: &u.update.bytes, tokens: u.tokens, norm_sq: u.update.norm_sq })
            .collect();
        sent += set.iter().map(|c| c.bytes.len() as u64 * 8).sum::<u64>();
        apply(&layout, &mut weights, &set, &rule, &mut mean)?;
        done += per_round;
    }
    let bits = node::bits_per_byte(&mut trainer, weights.theta(), corpus, (SEQ_LEN as u64, EVAL_TOKENS), || false)?;
    Ok(Outcome {
        bits_per_byte: bits.context("the corpus has no held-out split")?,
        bits_per_parameter: sent as f64 / (step * setting.workers * layout.len as u64) as f64,
        bits_per_token: sent as f64 / done as f64,
    })
}
