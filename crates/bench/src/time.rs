//! Time to a loss: four real processes on home lines, one killed and one joining, against the best single machine that a
//! grid finds, for the same wall-clock time and with the same share of a processor each.

mod alone;
mod shelf;

use crate::grid::{Found, Point, search};
use crate::star::{LINES, Star};
use crate::{Bar, Book, Figure, Process, network};
use alone::{Setting, setting};
use anyhow::{Context, Result, ensure};
use data::Corpus;
use node::ControlRequest;
use serde_json::Value;
use shelf::Shelf;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const RATIO: Figure<'_> = Figure {
    name: "swarm.time_to_loss",
    unit: "of one machine's time",
    bar: Bar::Most(0.5),
    goal: "<= 0.3 (0.25 is the limit)",
};
const LOSS: Figure<'_> =
    Figure { name: "swarm.time_to_loss.loss", unit: "% under one machine", bar: Bar::Printed, goal: ">= 6" };
const BYTES: Figure<'_> =
    Figure { name: "swarm.time_to_loss.bytes", unit: "MB/member/hour", bar: Bar::Printed, goal: "-" };

/// Members of the group, and processes that train alone at a time.
const MEMBERS: usize = 4;
/// The home of the one that joins.
const NEWCOMER: usize = MEMBERS;
const SEEDS: u64 = 3;
/// Wall-clock time of one alone, and of the group that is compared with it at the end.
const TIME: Duration = Duration::from_secs(150);
/// A group of which only the speed is measured.
const PROBE: Duration = Duration::from_secs(45);
/// What is waited for is looked for this often.
const LOOK: Duration = Duration::from_millis(500);
/// What is on disk at an end is there within this.
const WRITTEN: Duration = Duration::from_secs(2);
const SEQ_LEN: u64 = 128;
/// Parts of the time with which schedules of the group end: its loss is lowest at the end of one. The first is compared at
/// the same time.
const SCHEDULES: [f64; 3] = [1.0, 0.5, 0.3];
/// Where the search of the group's setting begins: 2,048 and 1,024 tokens of a step of all members together, 4e-3.
const START: [Point; 2] = [(3, 1), (2, 1)];
/// How often that grid may grow.
const GROWTHS: usize = 2;
/// Of what a group does in a time, how much its schedule is made for: it should end a little before, and for a sixth of
/// the time it is one member short.
const FINISHED: f64 = 0.92;

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    let star = match full.then(|| Star::new(MEMBERS + 1)) {
        Some(Ok(star)) => star,
        kept => {
            if let Some(Err(why)) = kept {
                eprintln!("time: {why:#}; these figures need root and iproute2");
            }
            book.keep(&[RATIO, LOSS, BYTES]);
            return Ok(());
        }
    };
    let place = Place::new(star)?;
    let found = alone::best(&place)?;
    let best = setting(found.best);
    let ends = alone::ends(&place, best, SEEDS)?;
    let mut speeds = BTreeMap::new();
    let tuned = place.tuned(&mut speeds)?;
    let shared = setting(tuned.best);
    let (mut ratios, mut losses, mut bytes) = (Vec::<f64>::new(), Vec::<f64>::new(), Vec::<f64>::new());
    let (mut unreached, mut said, mut spec) = (0, Vec::<String>::new(), String::new());
    for (seed, (alone_s, alone_bits)) in ends.into_iter().enumerate() {
        let mut groups = Vec::new();
        for part in SCHEDULES {
            let time = TIME.mul_f64(part);
            let tokens = place.tokens(&mut speeds, shared, time)?;
            groups.push(place.group(seed as u64, tokens, time, shared, true)?);
        }
        let bits = groups[0].shelf.last()?.bits(&place.corpus)?;
        let times = groups.iter().map(|group| group.shelf.reached(alone_bits, &place.corpus));
        let times = times.filter_map(Result::transpose).collect::<Result<Vec<f64>>>()?;
        let reached = times.into_iter().min_by(f64::total_cmp);
        unreached += usize::from(reached.is_none());
        // What was not reached takes longer than was looked: a lower bound.
        ratios.push(reached.unwrap_or(TIME.as_secs_f64().max(alone_s)) / alone_s);
        losses.push(100.0 * (1.0 - bits / alone_bits));
        bytes.extend(groups.iter().map(Group::mb_per_hour));
        said.push(format!("{bits:.3} against {alone_bits:.3}"));
        spec = groups[0].spec()?;
    }
    let how = format!(
        "1.1 M parameters; four processes {LINES}, one thread with {} % of its time each, `talkoo train create` with no mode \
         named, which chose {spec}; steps of {} tokens, rate {}, the best of {} points of a grid of its own \
         whose best {}; the fourth is killed at a third of the time and a fifth \
         joins at half. Alone: four at a time with as much of a processor, {} tokens, rate {}, the best of {} points of a grid \
         whose best {}, for {} s. When weights on disk (written every 5 s) of the group were first no worse than one alone's \
         last, over one alone's time; the best of schedules that end with {SCHEDULES:?} of the time; \
         {SEEDS} seeds, the median; {unreached} did not come to it and count as the whole time",
        place.duty,
        shared.batch,
        shared.lr,
        tuned.measured,
        lies(&tuned),
        best.batch,
        best.lr,
        found.measured,
        lies(&found),
        TIME.as_secs(),
    );
    book.full(RATIO, ratios, &how);
    let how = format!("the same groups at the end of the same time, held-out bits per byte: {}", said.join(", "));
    book.full(LOSS, losses, &how);
    let how = "all bytes that left the interfaces of all members in the same groups, headers and the newcomer's weights too, over \
               the time that members were there; the median of all groups";
    book.full(BYTES, bytes, how);
    Ok(())
}

fn lies(found: &Found) -> &'static str {
    if found.inside { "lies inside" } else { "lies on its border still" }
}

/// Where all of it happens.
struct Place {
    stage: tempfile::TempDir,
    star: Star,
    corpus: Corpus,
    /// Of a hundred parts of its time, how many each process computes: four of them do not fill the machine.
    duty: u32,
    runtime: tokio::runtime::Runtime,
    named: Cell<u32>,
}

impl Place {
    fn new(star: Star) -> Result<Self> {
        let stage = tempfile::tempdir()?;
        data::shipped::build(&stage.path().join("corpus"))?;
        let corpus = Corpus::open(&stage.path().join("corpus"))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let duty = (cores * 80 / MEMBERS).clamp(1, 100) as u32;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { stage, star, corpus, duty, runtime, named: Cell::new(0) })
    }

    /// A path that nothing has.
    fn fresh(&self, what: &str) -> PathBuf {
        self.named.set(self.named.get() + 1);
        self.stage.path().join(format!("{what}-{}", self.named.get()))
    }

    /// Writes a run file.
    fn run_file(
        &self,
        seed: u64,
        tokens: u64,
        Setting { batch, lr }: Setting,
        micro_batch: u64,
        round: &str,
    ) -> Result<String> {
        // The corpus lies beside it.
        let path = self.fresh("run").with_extension("toml");
        let text = format!(
            "[run]\nname = \"time\"\nseed = {seed}\n[model]\nsize = \"tiny\"\n[data]\nmanifest = \"corpus\"\nseq_len = {SEQ_LEN}\n\
             [train]\ntokens = {tokens}\nbatch_tokens = {batch}\nmicro_batch = {micro_batch}\nlr = {lr}\nwarmup = 0.05\n\
             [round]\n{round}\n[out]\nevery_rounds = 1000000\n"
        );
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("UTF-8")?.to_owned())
    }

    fn bytes_sent(&self) -> Result<u64> {
        (0..=MEMBERS).map(|i| self.star.bytes_sent(i)).sum()
    }

    /// The best setting of a group for the first seed, with the same trouble as later.
    fn tuned(&self, speeds: &mut BTreeMap<u64, (f64, f64)>) -> Result<Found> {
        // Every member has one window of a step at least.
        let may_be = |point: Point| setting(point).batch >= MEMBERS as u64 * SEQ_LEN;
        search(&START, GROWTHS, may_be, |points| {
            let bits = points.iter().map(|point| {
                let tokens = self.tokens(speeds, setting(*point), TIME)?;
                self.group(0, tokens, TIME, setting(*point), true)?.shelf.last()?.bits(&self.corpus)
            });
            bits.collect()
        })
    }

    /// Tokens with which a schedule of the group ends in time.
    fn tokens(&self, speeds: &mut BTreeMap<u64, (f64, f64)>, shared: Setting, time: Duration) -> Result<u64> {
        let (speed, start) = match speeds.get(&shared.batch) {
            Some(known) => *known,
            None => self.group(0, 1_000_000_000, PROBE, shared, false)?.speed()?,
        };
        speeds.insert(shared.batch, (speed, start));
        Ok((speed * (time.as_secs_f64() - start) * FINISHED) as u64)
    }

    /// Four train together until their schedule or the time ends; with `trouble` one is killed and another one joins.
    fn group(&self, seed: u64, tokens: u64, time: Duration, shared: Setting, trouble: bool) -> Result<Group> {
        let file = self.run_file(seed, tokens, shared, 1, "target_seconds = 1")?;
        let dirs: Vec<PathBuf> = (0..=MEMBERS).map(|_| self.fresh("member")).collect();
        let sent = self.bytes_sent()?;
        let members = MEMBERS.to_string();
        let create = ["train", "create", &file, "--members", &members, "--mbit", "50", "--rtt-ms", "50"];
        let (begun, mut shelf) = (Instant::now(), Shelf::new(&dirs[0]));
        let mut first = self.star.talkoo(0, &dirs[0], self.duty, &create)?;
        let mut line = String::new();
        BufReader::new(first.0.stdout.take().context("piped")?).read_line(&mut line)?;
        let created: Value = serde_json::from_str(&line).context("talkoo train create")?;
        let ticket = created["ticket"].as_str().context("a ticket")?.to_owned();
        let join = |i: usize| self.star.talkoo(i, &dirs[i], self.duty, &["train", "join", &ticket]);
        let mut others = (1..MEMBERS).map(join).collect::<Result<Vec<Process>>>()?;
        let (mut killed, mut joined, mut done) = (None, None, Vec::new());
        loop {
            std::thread::sleep(LOOK);
            let shown = self.runtime.block_on(network::answer(&dirs[0], &ControlRequest::Status))?;
            let (run, at) = (&shown["runs"][0], begun.elapsed());
            done.push((at.as_secs_f64(), run["tokens"][0].as_u64().unwrap_or_default()));
            shelf.look()?;
            if run["ended"] == true || at > time {
                break;
            }
            if trouble && killed.is_none() && at > time / 3 {
                killed = Some(at);
                drop(others.pop());
            }
            if trouble && joined.is_none() && at > time / 2 {
                joined = Some(at);
                others.push(join(NEWCOMER)?);
            }
        }
        let took = begun.elapsed();
        let there = took * MEMBERS as u32 - killed.map_or(Duration::ZERO, |at| took - at)
            + joined.map_or(Duration::ZERO, |at| took - at);
        let bytes = self.bytes_sent()? - sent;
        if took < time {
            std::thread::sleep(WRITTEN);
            shelf.look()?;
        }
        eprintln!("  group seed {seed}: {:?} in {:.0} s", done.last(), took.as_secs_f64());
        Ok(Group { shelf, done, bytes, there })
    }
}

/// What a group did.
struct Group {
    shelf: Shelf,
    /// Tokens at some times, in seconds.
    done: Vec<(f64, u64)>,
    bytes: u64,
    /// Time of all members together.
    there: Duration,
}

impl Group {
    /// Tokens per second in the second half, and when it began to train.
    fn speed(&self) -> Result<(f64, f64)> {
        let start = self.done.iter().find(|(_, tokens)| *tokens > 0).context("the group trained nothing")?.0;
        let (half, last) = (self.done[self.done.len() / 2], self.done[self.done.len() - 1]);
        ensure!(last.1 > half.1, "the group stands still: {:?}", self.done);
        Ok(((last.1 - half.1) as f64 / (last.0 - half.0), start))
    }

    fn mb_per_hour(&self) -> f64 {
        self.bytes as f64 / 1e6 / (self.there.as_secs_f64() / 3600.0)
    }

    /// What the planner chose.
    fn spec(&self) -> Result<String> {
        let spec = self.shelf.last()?.saved()?.spec;
        Ok(format!(
            "{:?} rounds of {} steps, density 1/{}, {} bits, delay {}",
            spec.mode,
            spec.inner_steps,
            1u32 << spec.sparsity,
            spec.bits,
            spec.delay
        ))
    }
}
