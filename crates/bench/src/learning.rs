//! Loss at equal tokens: several workers in one process with the real codec and the real apply,
//! against one machine with the same global batch and against one member alone.
//!
//! Writes `docs/frontier.md` and `docs/frontier.svg`: loss over bits per token, setting by setting.

mod frontier;

use crate::grid::{Point, search};
use crate::{Bar, Book, Figure, Measured};
use anyhow::{Context, Result, anyhow};
use data::{Corpus, Order, Split};
use model::update::Format;
use model::{
    AdamW, Applied, ApplyRule, Batch, Contribution, Layout, ModelConfig, Part, Private, Schedule, Trainer, Unit,
    UnitPlan, Weights, apply,
};
use std::collections::{BTreeMap, VecDeque};
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
    /// Sequences of all workers together in one inner step.
    rows: u64,
    lr: f32,
    tokens: u64,
    /// Whether a round begins before what came of the last one is applied.
    delay: bool,
}

impl Setting {
    /// Sequences of a micro-batch: as many at a time as there are, up to four.
    fn micro_batch(&self) -> u64 {
        (self.rows / self.workers).clamp(1, MICRO_BATCH)
    }
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
const MICRO_BATCH: u64 = 4;
const WORKERS: u64 = 4;
/// Sequences of the group's step.
const ROWS: u64 = WORKERS * MICRO_BATCH;
/// Where searches begin: a step of one member alone, and a learning rate.
const ALONE_ROWS: u64 = 4;
const RATE: f32 = 2e-3;
/// How often a grid may grow.
const GROWTHS: usize = 6;
const BETA_LOCAL: f32 = 0.95;
/// The outer step.
const ALPHA: f32 = 1.0;
const DECAY: f32 = 0.1;
const EVAL_TOKENS: u64 = 60_000;

const FIGURES: [Figure<'_>; 8] = [
    Figure { name: "swarm.loss.gradients_8bit", unit: "% over one machine", bar: Bar::Most(1.0), goal: "<= 0.3" },
    Figure { name: "swarm.loss.local_2bit", unit: "% over one machine", bar: Bar::Most(6.0), goal: "<= 2.5" },
    Figure { name: "swarm.loss.local_0.42bit", unit: "% over one machine", bar: Bar::Most(10.0), goal: "<= 4" },
    Figure { name: "swarm.alone.gradients_8bit", unit: "% better than alone", bar: Bar::Least(1.0), goal: ">= 6" },
    Figure { name: "swarm.alone.local_2bit", unit: "% better than alone", bar: Bar::Least(1.0), goal: ">= 6" },
    Figure { name: "swarm.alone.local_0.42bit", unit: "% better than alone", bar: Bar::Least(1.0), goal: ">= 6" },
    Figure { name: "swarm.loss.density_64", unit: "% over one machine", bar: Bar::Printed, goal: "<= 3" },
    Figure { name: "swarm.loss.local_2bit_delay_1", unit: "% over one machine", bar: Bar::Printed, goal: "<= 5" },
];

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    if !full {
        book.keep(&FIGURES);
        return Ok(());
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let tokens = number("CLAIM_TOKENS").unwrap_or(1_000_000u64);
    let seeds = number("CLAIM_SEEDS").unwrap_or(3u64);
    let threads = number("CLAIM_THREADS").unwrap_or(2u64) as usize;
    let dir = tempfile::tempdir()?;
    data::shipped::build(dir.path())?;
    let bench = Bench { corpus: Corpus::open(dir.path())?, threads };

    // One machine with the global batch, its learning rate the best of a row that grows until its best lies inside.
    let whole = Setting {
        workers: 1,
        gradients: true,
        inner_steps: 1,
        format: None,
        rows: ROWS,
        lr: RATE,
        tokens,
        delay: false,
    };
    let one = bench.best(whole, &[(0, 0), (0, 1), (0, 2)], |(batch, _)| batch == 0, seeds)?;
    // The same with as many tokens and whatever batch suits it.
    let from = (f64::from(one.row.setting.lr) / f64::from(RATE)).log2().round() as i32;
    let own = bench.best(whole, &[(-1, from), (-2, from)], |_| true, seeds)?;
    // One member alone for the same wall-clock: a quarter of the tokens, its own batch and rate.
    let alone = Setting { rows: ALONE_ROWS, tokens: tokens / WORKERS, ..whole };
    let alone = bench.best(alone, &[(0, 0), (0, 1), (-1, 0), (-1, 1)], |_| true, seeds)?;

    let lr = one.row.setting.lr;
    let swarm = |gradients: bool, inner_steps: u64, sparsity: u8, bits: u8| Setting {
        workers: WORKERS,
        gradients,
        inner_steps,
        format: Some((sparsity, bits)),
        lr,
        ..whole
    };
    let delayed = Setting { delay: true, ..swarm(false, 10, 0, 2) };
    let named = [swarm(true, 1, 0, 8), swarm(false, 10, 0, 2), swarm(false, 10, 4, 1), delayed];
    let more = [
        swarm(true, 1, 0, 2),
        swarm(false, 10, 0, 8),
        swarm(false, 30, 0, 2),
        swarm(false, 10, 2, 2),
        swarm(false, 10, 6, 1),
    ];
    let named = bench.rows(&named, seeds)?;
    let more = bench.rows(&more, 1)?;
    let how = format!(
        "1.1 M parameters ({SIZE}), {tokens} tokens, {WORKERS} workers in one process, no network, step of {} tokens, H = 10 in local \
         mode, lr {lr} for all, {seeds} seeds, mean of held-out bits per byte; one machine with the same step {}; with its own best \
         step {}; one member alone with a quarter of the tokens, as if four were four times as fast, {}",
        ROWS * SEQ_LEN as u64,
        one.text(),
        own.text(),
        alone.text(),
    );
    let over = |row: &Row, other: &Row| -> Measured {
        let each: Vec<f64> = row.bits().zip(other.bits()).map(|(a, b)| 100.0 * (a / b - 1.0)).collect();
        Measured::out_of(100.0 * (row.mean().bits_per_byte / other.mean().bits_per_byte - 1.0), &each)
    };
    let better = |row: &Row, other: &Row| -> Measured {
        let each: Vec<f64> = row.bits().zip(other.bits()).map(|(a, b)| 100.0 * (1.0 - a / b)).collect();
        Measured::out_of(100.0 * (1.0 - row.mean().bits_per_byte / other.mean().bits_per_byte), &each)
    };
    for (i, row) in named.iter().take(3).enumerate() {
        book.full(FIGURES[i], over(row, &one.row), &how);
        book.full(FIGURES[i + 3], better(row, &alone.row), &how);
    }
    book.full(
        FIGURES[7],
        over(&named[3], &one.row),
        &format!("each round begins before the last one is applied; {how}"),
    );
    frontier::write(&[named, more].concat(), (&one, &own, &alone), &book.stamp())?;

    // The thinnest updates need many rounds for the error feedback to send everything often.
    let long = Setting { tokens: tokens * 8 / 3, lr, ..whole };
    let thin = Setting { tokens: tokens * 8 / 3, ..swarm(false, 5, 6, 1) };
    let pair = bench.rows(&[long, thin], 1)?;
    let how = format!(
        "the same with {} tokens, more than the corpus has, and H = 5, one seed; {:.3} bit per parameter",
        long.tokens,
        pair[1].mean().bits_per_parameter
    );
    book.full(FIGURES[6], over(&pair[1], &pair[0]), &how);
    Ok(())
}

/// A setting, and what came of it with each seed.
#[derive(Debug, Clone)]
struct Row {
    setting: Setting,
    outcomes: Vec<Outcome>,
}

impl Row {
    fn bits(&self) -> impl Iterator<Item = f64> {
        self.outcomes.iter().map(|outcome| outcome.bits_per_byte)
    }

    fn mean(&self) -> Outcome {
        let mean =
            |of: fn(&Outcome) -> f64| self.outcomes.iter().map(of).sum::<f64>() / self.outcomes.len().max(1) as f64;
        Outcome {
            bits_per_byte: mean(|o| o.bits_per_byte),
            bits_per_parameter: mean(|o| o.bits_per_parameter),
            bits_per_token: mean(|o| o.bits_per_token),
        }
    }

    /// Least and most bits per byte.
    fn spread(&self) -> (f64, f64) {
        self.bits().fold((f64::INFINITY, 0.0), |(least, most), bits| (least.min(bits), most.max(bits)))
    }
}

/// The best setting of a grid.
struct Best {
    row: Row,
    measured: usize,
    inside: bool,
}

impl Best {
    fn text(&self) -> String {
        let (Setting { rows, lr, tokens, .. }, (least, most)) = (self.row.setting, self.row.spread());
        format!(
            "{:.4} ({least:.4} to {most:.4}; {tokens} tokens in steps of {}, lr {lr}, the best of {} points{})",
            self.row.mean().bits_per_byte,
            rows * SEQ_LEN as u64,
            self.measured,
            if self.inside { "" } else { ", on the border of their grid" }
        )
    }
}

struct Bench {
    corpus: Corpus,
    threads: usize,
}

impl Bench {
    /// The best batch and rate for the first seed, doubled and halved from those of `from`, with each seed.
    fn best(&self, from: Setting, start: &[Point], may_be: impl Fn(Point) -> bool, seeds: u64) -> Result<Best> {
        let at = |(batch, rate): Point| Setting {
            rows: (from.rows as f64 * 2f64.powi(batch)) as u64,
            lr: from.lr * 2f32.powi(rate),
            ..from
        };
        let may_be = |point: Point| may_be(point) && at(point).rows > 0;
        let found = search(start, GROWTHS, may_be, |points| {
            let settings: Vec<Setting> = points.iter().map(|point| at(*point)).collect();
            Ok(self.rows(&settings, 1)?.iter().map(|row| row.mean().bits_per_byte).collect())
        })?;
        let row = self.rows(&[at(found.best)], seeds)?.pop().context("one row")?;
        Ok(Best { row, measured: found.measured, inside: found.inside })
    }

    /// Trains each setting with each seed, one run per core.
    fn rows(&self, settings: &[Setting], seeds: u64) -> Result<Vec<Row>> {
        let jobs = (0..settings.len()).flat_map(|i| (0..seeds).map(move |seed| (i, seed)));
        let queue: Mutex<VecDeque<(usize, u64)>> = Mutex::new(jobs.collect());
        let done: Mutex<BTreeMap<(usize, u64), Outcome>> = Mutex::default();
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.threads).map(|_| scope.spawn(|| self.work(settings, &queue, &done))).collect();
            workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow!("a run panicked"))?)
        })?;
        let done = done.into_inner().expect("no run panicked");
        let outcomes = |i: usize| done.range((i, 0)..=(i, u64::MAX)).map(|(_, outcome)| *outcome).collect();
        Ok(settings.iter().enumerate().map(|(i, &setting)| Row { setting, outcomes: outcomes(i) }).collect())
    }

    fn work(
        &self,
        settings: &[Setting],
        queue: &Mutex<VecDeque<(usize, u64)>>,
        done: &Mutex<BTreeMap<(usize, u64), Outcome>>,
    ) -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        loop {
            let Some((i, seed)) = queue.lock().expect("no run panicked").pop_front() else { return Ok(()) };
            let begun = Instant::now();
            let outcome = pool.install(|| train(&self.corpus, settings[i], seed))?;
            let (rate, bits) = (settings[i].tokens as f64 / begun.elapsed().as_secs_f64(), outcome.bits_per_byte);
            eprintln!("  {:?} seed {seed}: {bits:.4} bits per byte, {rate:.0} tokens/s", settings[i]);
            done.lock().expect("no run panicked").insert((i, seed), outcome);
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
    let config = ModelConfig::preset(SIZE, 2048, SEQ_LEN)?;
    let layout = Layout::new(&config, &Part::whole(&config));
    let mut trainer = Trainer::new(&config, &model::open("cpu")?);
    let manifest = corpus.manifest();
    let order = Order::new(manifest.train_tokens(), SEQ_LEN as u64, &manifest.root(), seed).context("no windows")?;
    let mut weights = Weights::init(&layout, &config, seed, setting.gradients);
    let mut privates: Vec<Private> = (0..setting.workers).map(|_| Private::zero(&layout)).collect();
    let per_round = setting.rows * setting.inner_steps * SEQ_LEN as u64;
    let micro_batch = setting.micro_batch();
    // Of its set, in parts of 2^20.
    let share = ((1 << 20) / setting.workers) as u32;
    // With delay: what came of a round and is not applied yet.
    let mut waiting: Option<(Vec<Unit>, ApplyRule)> = None;
    let mut mean = Vec::new();
    let (mut done, mut cursor, mut step, mut sent) = (0, 0u64, 0u64, 0u64);
    while done < setting.tokens {
        let lr = Schedule::Wsd.lr(setting.lr, done, per_round, setting.tokens, setting.tokens / 20);
        step += 1;
        let rule = if setting.gradients {
            ApplyRule::Gradients { adam: AdamW::new(DECAY), lr, step, clip: 1.0 }
        } else {
            let steps = setting.inner_steps as f32;
            ApplyRule::Local { alpha: ALPHA, decay: lr * DECAY, steps, reach: setting.lr * steps }
        };
        let (sparsity, bits) = setting.format.unwrap_or((0, 8));
        let mut plan = UnitPlan {
            gradients: setting.gradients,
            inner_steps: setting.inner_steps,
            micro_batches: setting.rows / setting.workers / micro_batch,
            micro_batch: micro_batch as usize,
            seq_len: SEQ_LEN,
            lr,
            adam: AdamW::new(0.0),
            clip: 1.0,
            format: Format::new(sparsity, bits).map_err(|reject| anyhow!("format: {reject}"))?,
            beta: if setting.gradients { 1.0 } else { BETA_LOCAL },
            pending: None,
        };
        let mut units = Vec::new();
        for (k, private) in privates.iter_mut().enumerate() {
            let next = |_: u64| Ok::<_, Infallible>(batch(corpus, &order, &mut cursor, micro_batch as usize, SEQ_LEN));
            plan.pending = waiting.as_ref().map(|(units, _)| (units[k].update.bytes.clone(), share, ALPHA));
            if setting.format.is_none() {
                weights = trainer.plain_unit(&weights, private, &plan, &rule, next, || false)?.0;
            } else {
                units.push(trainer.unit(&weights, private, &plan, next, || false)?);
            }
        }
        sent += units.iter().map(|unit| unit.update.bytes.len() as u64 * 8).sum::<u64>();
        let made = (units, rule);
        let due = if setting.delay { waiting.replace(made) } else { Some(made) };
        if let Some((units, rule)) = due.filter(|_| setting.format.is_some()) {
            close(&layout, &mut weights, &units, &rule, &mut mean)?;
        }
        done += per_round;
    }
    if let Some((units, rule)) = waiting {
        close(&layout, &mut weights, &units, &rule, &mut mean)?;
    }
    let heldout = trainer::Heldout { rows: MICRO_BATCH, seq_len: SEQ_LEN as u64, tokens: EVAL_TOKENS };
    let bits = trainer::bits_per_byte(&mut trainer, weights.theta(), corpus, heldout, || false)?;
    Ok(Outcome {
        bits_per_byte: bits.context("the corpus has no held-out split")?,
        bits_per_parameter: sent as f64 / (step * setting.workers * layout.len as u64) as f64,
        bits_per_token: sent as f64 / done as f64,
    })
}

/// Applies what a round made.
fn close(layout: &Layout, weights: &mut Weights, units: &[Unit], rule: &ApplyRule, mean: &mut Vec<f32>) -> Result<()> {
    let set: Vec<Contribution<'_>> = (units.iter())
        .map(|u| Contribution { bytes: &u.update.bytes, tokens: u.tokens, norm_sq: u.update.norm_sq })
        .collect();
    anyhow::ensure!(apply(layout, weights, &set, rule, mean)? == Applied::Stepped, "a round was void");
    Ok(())
}
