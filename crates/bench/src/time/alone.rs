//! One machine alone, at its best: batch and learning rate out of a grid, four such processes at a time.

use super::shelf::Shelf;
use super::{LOOK, MEMBERS, Place, SEQ_LEN, TIME};
use crate::grid::{Found, Point, search};
use crate::{Process, network};
use anyhow::{Context, Result, ensure};
use node::ControlRequest;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the search begins: 256 and 512 tokens of a step, 2e-3 and 4e-3. Four points, as many as run at a time.
const START: [Point; 4] = [(0, 0), (1, 0), (0, 1), (1, 1)];
/// Waves beyond the first.
const GROWTHS: usize = 5;
/// Speed is measured over the second part of this.
const CALIBRATED: Duration = Duration::from_secs(24);
/// A schedule is made for so much of what the time allows: it should end a little before.
const FINISHED: f64 = 0.96;

/// How one machine trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Setting {
    /// Tokens of a step.
    pub(super) batch: u64,
    pub(super) lr: f64,
}

pub(super) fn setting((batch, rate): Point) -> Setting {
    Setting { batch: (256.0 * 2f64.powi(batch)) as u64, lr: 2e-3 * 2f64.powi(rate) }
}

/// A step has one window at least.
fn may_be(point: Point) -> bool {
    setting(point).batch >= SEQ_LEN
}

/// Tokens per second of a process, and when it began to train.
type Speed = (f64, f64);

/// The best setting for the first seed.
pub(super) fn best(place: &Place) -> Result<Found> {
    let mut speeds = BTreeMap::new();
    search(&START, GROWTHS, may_be, |points| {
        let batches: Vec<u64> = points.iter().map(|point| setting(*point).batch).collect();
        calibrate(place, &batches, &mut speeds)?;
        let jobs: Vec<(Setting, u64)> = points.iter().map(|point| (setting(*point), 0)).collect();
        let shelves = wave(place, &jobs, &speeds)?;
        shelves.iter().map(|shelf| shelf.last()?.bits(&place.corpus)).collect()
    })
}

/// The end of one alone with each seed: when its last weights were written, and their bits per byte.
pub(super) fn ends(place: &Place, best: Setting, seeds: u64) -> Result<Vec<(f64, f64)>> {
    let mut speeds = BTreeMap::new();
    calibrate(place, &[best.batch], &mut speeds)?;
    let mut out = Vec::new();
    let jobs: Vec<(Setting, u64)> = (0..seeds).map(|seed| (best, seed)).collect();
    for some in jobs.chunks(MEMBERS) {
        for shelf in wave(place, some, &speeds)? {
            let last = shelf.last()?;
            out.push((last.at, last.bits(&place.corpus)?));
        }
    }
    Ok(out)
}

/// A process that trains alone.
struct Alone {
    _process: Process,
    dir: PathBuf,
}

impl Alone {
    fn start(place: &Place, (setting, seed): (Setting, u64), tokens: u64) -> Result<Self> {
        let dir = place.fresh("alone");
        let micro_batch = (setting.batch / SEQ_LEN).min(4);
        let round = "mode = \"gradients\"\nbits = 8\ntarget_seconds = 1";
        let file = place.run_file(seed, tokens, setting, micro_batch, round)?;
        let duty = place.duty.to_string();
        let arguments = ["--duty", &duty, "train", "create", &file];
        Ok(Self { _process: network::talkoo(&dir, "127.0.0.1:0", &arguments)?, dir })
    }

    fn tokens(&self, place: &Place) -> Result<u64> {
        let shown = place.runtime.block_on(network::answer(&self.dir, &ControlRequest::Status))?;
        Ok(shown["runs"][0]["tokens"][0].as_u64().unwrap_or_default())
    }
}

/// Trains these, at most as many as run at a time. Places that are left are filled with the same once more, so that each
/// process has the same neighbours.
fn wave(place: &Place, jobs: &[(Setting, u64)], speeds: &BTreeMap<u64, Speed>) -> Result<Vec<Shelf>> {
    ensure!(!jobs.is_empty() && jobs.len() <= MEMBERS, "{} at a time", jobs.len());
    let begun = Instant::now();
    let (mut running, mut shelves) = (Vec::new(), Vec::new());
    for job in jobs.iter().cycle().take(MEMBERS) {
        let (speed, start) = speeds.get(&job.0.batch).context("a batch without a speed")?;
        let tokens = speed * (TIME.as_secs_f64() - start) * FINISHED;
        running.push(Alone::start(place, *job, tokens as u64)?);
    }
    for alone in running.iter().take(jobs.len()) {
        shelves.push(Shelf::new(&alone.dir));
    }
    while begun.elapsed() < TIME {
        std::thread::sleep(LOOK);
        for shelf in &mut shelves {
            shelf.look()?;
        }
    }
    drop(running);
    for ((setting, seed), shelf) in jobs.iter().zip(&shelves) {
        eprintln!("  alone {setting:?} seed {seed}: weights until {:.0} s", shelf.last()?.at);
    }
    Ok(shelves)
}

/// Speeds of batches that are not known yet, with as many neighbours as later.
fn calibrate(place: &Place, batches: &[u64], speeds: &mut BTreeMap<u64, Speed>) -> Result<()> {
    let mut unknown: Vec<u64> = batches.iter().copied().filter(|batch| !speeds.contains_key(batch)).collect();
    unknown.sort_unstable();
    unknown.dedup();
    for some in unknown.chunks(MEMBERS) {
        let begun = Instant::now();
        let start = |batch: &u64| Alone::start(place, (Setting { batch: *batch, lr: 2e-3 }, 0), 1_000_000_000);
        let running = some.iter().cycle().take(MEMBERS).map(start).collect::<Result<Vec<_>>>()?;
        let mut first = vec![None; some.len()];
        let mut half = vec![(0.0, 0); some.len()];
        while begun.elapsed() < CALIBRATED {
            std::thread::sleep(LOOK);
            for (i, alone) in running.iter().take(some.len()).enumerate() {
                let (tokens, at) = (alone.tokens(place)?, begun.elapsed().as_secs_f64());
                if tokens > 0 {
                    first[i].get_or_insert(at);
                }
                if at < CALIBRATED.as_secs_f64() / 2.0 {
                    half[i] = (at, tokens);
                }
            }
        }
        for (i, (alone, batch)) in running.iter().zip(some).enumerate() {
            let (tokens, at) = (alone.tokens(place)?, begun.elapsed().as_secs_f64());
            let speed = (tokens - half[i].1) as f64 / (at - half[i].0);
            ensure!(speed > 0.0, "one alone with steps of {batch} tokens trains nothing");
            speeds.insert(*batch, (speed, first[i].unwrap_or_default()));
        }
    }
    Ok(())
}
