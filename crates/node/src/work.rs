//! The compute of one run: a trainer thread for units and a second thread for everything that
//! follows from the log (initial weights, apply, verification), so that neither waits for the other.

mod kept;

use crate::content::Contents;
use crate::store::{Store, write_whole};
use crate::throttle::{Answers, Duty, Throttle, give_way};
use anyhow::{Context, Result, anyhow};
use base::{ChunkTree, Hash, Reject};
use data::{Corpus, Order, Split};
use model::update::Format;
use model::{
    Batch, Config, Contribution, Layout, Part, Private, Trainer, Weights, apply, restitution, shares, verify_update,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use swarm::{Candidate, Closed, Commit, Init, Mode, RunId, Spec, Train};

/// Versions of the weights that are kept for training and for others to fetch.
const VERSIONS_KEPT: usize = 4;
/// File of a run that began with published weights: those weights.
pub(crate) const INITIAL: &str = "initial";
/// Weights are written to disk at most this often.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(5);

/// How much of the machine a run may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Threads of the trainer.
    pub threads: usize,
    /// Of 100 parts of the time, how many the trainer computes.
    pub duty_percent: u32,
}

/// Everything that the two threads of a run share.
pub(crate) struct Work {
    pub(crate) run: RunId,
    pub(crate) spec: Spec,
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    duty: Duty,
    /// Where they use the processors that training may use, too.
    answers: Option<Answers>,
    device: String,
    class: Hash,
    pub(crate) store: Arc<Store>,
    contents: Arc<Contents>,
    pub(crate) corpus: Arc<Corpus>,
    order: Order,
    pub(crate) pool: rayon::ThreadPool,
    versions: Mutex<Versions>,
    private: Mutex<BTreeMap<Hash, Private>>,
    /// Private states kept on disk: the last few of one member, or those of all in a replay.
    privates_kept: usize,
    pub(crate) meter: Meter,
    /// What is under way is let go of.
    left: AtomicBool,
}

#[derive(Default)]
struct Versions {
    held: BTreeMap<u64, (Arc<Weights>, Arc<ChunkTree>)>,
    /// What a plain round made, until its round closes.
    made: Option<(u64, Arc<Weights>, Arc<ChunkTree>)>,
    saved: Option<Instant>,
    /// Memory of a version that is no longer held, for the next one: fresh memory costs more than the step.
    spare: Option<Weights>,
    /// Where the mean of a set is computed.
    mean: Vec<f32>,
}

/// What a step that was done again shows.
pub(crate) enum Step {
    /// It comes out as the quorum says: the first time was a fault of a moment.
    Repaired,
    /// It differs: the first chunk that does, and its hash here.
    Differs(u32, Hash),
}

/// A unit was let go of because the owner needs the machine.
#[derive(Debug, thiserror::Error)]
#[error("its owner needs the machine")]
pub(crate) struct Resting;

/// Counters for displays.
#[derive(Debug, Default)]
pub struct Meter {
    /// Milliseconds that the trainer computed, codec, hashing and disk not counted.
    pub busy_ms: AtomicU64,
    /// Tokens trained.
    pub tokens: AtomicU64,
    /// Bytes of own updates.
    pub update_bytes: AtomicU64,
    /// Milliseconds spent applying and hashing.
    pub apply_ms: AtomicU64,
}

impl Work {
    /// Prepares to take part: the corpus must be complete.
    pub(crate) fn new(
        run: RunId,
        spec: &Spec,
        (limits, duty, answers): (Limits, Duty, Answers),
        device: &str,
        store: Arc<Store>,
        contents: Arc<Contents>,
        privates_kept: usize,
    ) -> Result<Arc<Self>> {
        let config = Config::from_json(spec.config.as_bytes())?;
        let layout = Layout::new(&config, &Part::whole(&config));
        anyhow::ensure!(
            layout.len as u64 == spec.params,
            "the run states {} parameters, its model has {}",
            spec.params,
            layout.len
        );
        let step = config.step_bytes(spec.micro_batch.into(), spec.seq_len.into());
        crate::room::on_device(store.dir(), device, spec.params, step)?;
        let corpus = Arc::new(Corpus::open(&store.corpus_dir(&spec.manifest)?)?);
        anyhow::ensure!(
            corpus.manifest().vocab as usize <= config.vocab_size,
            "the corpus has ids up to {}, the model up to {}",
            corpus.manifest().vocab,
            config.vocab_size
        );
        let order = Order::new(corpus.manifest().train_tokens(), u64::from(spec.seq_len), &spec.manifest, spec.seed)
            .with_context(|| format!("the corpus has not one window of {} tokens", spec.seq_len))?;
        write_whole(&store.run_dir(&run)?.join("spec"), &base::Wire::to_bytes(spec), false)?;
        // Who may use all processors shares them as the system does.
        let few = limits.threads < crate::platform::processors();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(limits.threads.max(1)).build()?;
        Ok(Arc::new(Self {
            run,
            spec: spec.clone(),
            config,
            layout,
            duty,
            answers: few.then_some(answers),
            device: device.to_owned(),
            class: class(device),
            store,
            contents,
            corpus,
            order,
            pool,
            versions: Mutex::default(),
            private: Mutex::default(),
            privates_kept,
            meter: Meter::default(),
            left: AtomicBool::new(false),
        }))
    }

    /// Whether the owner needs the machine, or the run was left.
    pub(crate) fn rests(&self) -> bool {
        *self.duty.borrow() == 0 || self.left.load(Ordering::Relaxed)
    }

    fn common_moments(&self) -> bool {
        self.spec.mode == Mode::Gradients
    }

    pub(crate) fn format(&self) -> Format {
        Format::new(self.spec.sparsity, self.spec.bits).expect("checked when the run was created")
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, Versions> {
        self.versions.lock().expect("nobody panics while holding the versions")
    }

    /// The newest weights: version, values, root.
    pub(crate) fn newest(&self) -> Option<(u64, Arc<Weights>, Hash)> {
        let versions = self.versions();
        let (version, (weights, tree)) = versions.held.last_key_value()?;
        Some((*version, weights.clone(), tree.root()))
    }

    /// What weights, private states and updates of this run can be long, in bytes: three values for each parameter, and some.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.spec.params.saturating_mul(16).saturating_add(1 << 20)
    }

    /// The bytes of the newest weights, as a base for fetching newer ones.
    pub(crate) fn newest_bytes(&self) -> Vec<u8> {
        self.newest().map(|(_, weights, _)| weights.bytes().into_owned()).unwrap_or_default()
    }

    // --- what follows from the log -------------------------------------------------------------

    /// Weights of version 0 from the run's seed.
    pub(crate) fn init(&self) -> Result<(u64, Hash)> {
        let weights =
            self.pool.install(|| Weights::init(&self.layout, &self.config, self.spec.seed, self.common_moments()));
        Ok(self.adopt(0, weights))
    }

    /// Weights that were fetched, or published ones with which the run begins; those stay for replays.
    pub(crate) fn adopt_bytes(&self, version: u64, bytes: &[u8]) -> Result<(u64, Hash)> {
        let weights = Weights::from_bytes(&self.layout, self.common_moments(), bytes)?;
        if version == 0 && self.spec.init != Init::Seed {
            let initial = self.store.run_dir(&self.run)?.join(INITIAL);
            if !initial.exists() {
                write_whole(&initial, bytes, false)?;
            }
        }
        Ok(self.adopt(version, weights))
    }

    /// Weights on disk: version and root.
    pub(crate) fn load_snapshot(&self) -> Option<(u64, Hash)> {
        let bytes = std::fs::read(self.snapshot_path().ok()?).ok()?;
        let (version, rest) = bytes.split_at_checked(8)?;
        let version = u64::from_le_bytes(version.try_into().ok()?);
        let (root, rest) = rest.split_at_checked(32)?;
        let found = self.adopt_bytes(version, rest).ok()?;
        // Damaged on disk: as if it were not there.
        if found.1.0 != root {
            self.versions().held.clear();
            return None;
        }
        Some(found)
    }

    /// Applies a closed round to the version before it.
    pub(crate) fn apply(&self, closed: &Closed) -> Result<(u64, Hash)> {
        let begun = Instant::now();
        let version = closed.round.0;
        if closed.plain.is_some() {
            let made = self.versions().made.take();
            let (made_version, weights, tree) = made.context("the weights of this plain round are gone")?;
            anyhow::ensure!(made_version == version + 1, "another plain round's weights");
            return Ok(self.adopt_tree(version + 1, weights, tree));
        }
        let (before, tree) = self.version(version)?;
        if closed.set.is_empty() {
            return Ok(self.adopt_tree(version + 1, before, tree));
        }
        let weights = self.stepped(&before, closed)?;
        let out = self.adopt(version + 1, weights);
        self.meter.apply_ms.fetch_add(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        Ok(out)
    }

    fn version(&self, version: u64) -> Result<(Arc<Weights>, Arc<ChunkTree>)> {
        let held = self.versions().held.get(&version).map(|(weights, tree)| (weights.clone(), tree.clone()));
        held.with_context(|| format!("version {version} of the weights is gone"))
    }

    /// The weights that a closed set makes of those before it.
    fn stepped(&self, before: &Weights, closed: &Closed) -> Result<Weights> {
        let updates = closed.set.iter().map(|c| self.update(&c.update)).collect::<Result<Vec<_>>>()?;
        let set: Vec<Contribution<'_>> = (closed.set.iter().zip(&updates))
            .map(|(c, bytes)| Contribution { bytes, tokens: c.tokens, norm_sq: f64::from_bits(c.norm_sq_bits) })
            .collect();
        let (mut weights, mut mean) = {
            let mut versions = self.versions();
            (versions.spare.take().unwrap_or_default(), std::mem::take(&mut versions.mean))
        };
        weights.copy_from(before);
        let rule = self.rule(closed.tokens_before, closed.steps_before);
        self.pool.install(|| apply(&self.layout, &mut weights, &set, &rule, &mut mean))?;
        self.versions().mean = mean;
        Ok(weights)
    }

    /// Hash of a chunk of a version that is held.
    pub(crate) fn chunk_hash(&self, version: u64, chunk: u32) -> Option<Hash> {
        self.versions().held.get(&version)?.1.chunks.get(chunk as usize).copied()
    }

    /// Does a step again that a quorum contradicts. A fault of a moment is gone the second time; otherwise
    /// gives the first chunk that differs from `theirs`, or chunk 0 where nobody gave those.
    pub(crate) fn differs(
        &self,
        version: u64,
        root: &Hash,
        closed: Option<&Closed>,
        theirs: Option<&ChunkTree>,
    ) -> Result<Step> {
        if let Some(closed) = closed
            && let Ok((before, tree)) = self.version(closed.round.0)
            && before.tree().root() == tree.root()
        {
            let weights = self.stepped(&before, closed)?;
            if weights.tree().root() == *root {
                // What was made of the damaged weights goes with them.
                self.versions().held.split_off(&version);
                self.adopt(version, weights);
                return Ok(Step::Repaired);
            }
        }
        let (_, ours) = self.version(version)?;
        let chunk = theirs.and_then(|theirs| ours.differing(theirs).first().copied()).unwrap_or(0);
        let hash = ours.chunks.get(chunk).context("weights without a chunk")?;
        Ok(Step::Differs(chunk as u32, *hash))
    }

    /// Checks a fetched update completely and keeps it.
    pub(crate) fn verify(&self, candidate: &Candidate, bytes: Vec<u8>) -> Result<(), Reject> {
        if bytes.len() as u64 != candidate.size {
            return Err(Reject::WrongSize);
        }
        verify_update(&self.layout, &bytes, self.format(), f64::from_bits(candidate.norm_sq_bits))?;
        self.keep_update(&candidate.update, bytes.into());
        Ok(())
    }

    /// Lets go of updates.
    pub(crate) fn forget(&self, updates: &[Hash]) {
        for update in updates {
            self.contents.remove(update);
            if let Ok(path) = self.update_path(update) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn adopt(&self, version: u64, weights: Weights) -> (u64, Hash) {
        let tree = Arc::new(weights.tree());
        self.adopt_tree(version, Arc::new(weights), tree)
    }

    fn adopt_tree(&self, version: u64, weights: Arc<Weights>, tree: Arc<ChunkTree>) -> (u64, Hash) {
        let root = tree.root();
        if !self.left.load(Ordering::Relaxed) {
            self.contents.add_weights(self.run, weights.clone(), tree.clone());
        }
        let due = {
            let mut versions = self.versions();
            versions.held.insert(version, (weights.clone(), tree));
            while versions.held.len() > VERSIONS_KEPT {
                let Some((_, (weights, old))) = versions.held.pop_first() else { break };
                if !versions.held.values().any(|(_, tree)| tree.root() == old.root()) {
                    self.contents.remove(&old.root());
                }
                versions.spare = Arc::into_inner(weights).or(versions.spare.take());
            }
            let due = versions.saved.is_none_or(|at| at.elapsed() >= SNAPSHOT_EVERY);
            if due {
                versions.saved = Some(Instant::now());
            }
            due
        };
        if due && let Err(error) = self.snapshot(version, &weights, &root) {
            tracing::warn!(%error, "the weights could not be written");
        }
        (version, root)
    }

    /// Writes the newest weights to disk now.
    pub(crate) fn save(&self) -> Result<()> {
        match self.newest() {
            Some((version, weights, root)) => self.snapshot(version, &weights, &root),
            None => Ok(()),
        }
    }

    fn snapshot(&self, version: u64, weights: &Weights, root: &Hash) -> Result<()> {
        let mut bytes = version.to_le_bytes().to_vec();
        bytes.extend_from_slice(&root.0);
        bytes.extend_from_slice(&weights.bytes());
        write_whole(&self.snapshot_path()?, &bytes, false)
    }

    fn snapshot_path(&self) -> Result<PathBuf> {
        Ok(self.store.run_dir(&self.run)?.join("weights"))
    }

    // --- units ---------------------------------------------------------------------------------

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
        let mut plan = self.plan(train)?;
        plan.inner_steps = plan.inner_steps.min(steps_max);
        let mut window = Vec::new();
        let window_end = Duration::from_millis(train.window_ms / 4 * 3);
        let throttle = Throttle::new(self.duty.clone());
        let (per_batch, rested) = (u64::from(self.spec.micro_batch), AtomicBool::new(false));
        let next = |i: u64| -> Result<Batch> {
            window.clear();
            for row in 0..per_batch {
                let at = self.order.at(train.position + i * per_batch + row);
                self.corpus.window(Split::Train, at.index, u64::from(self.spec.seq_len), &mut window)?;
            }
            throttle.rest();
            if let Some(answers) = &self.answers {
                give_way(answers, begun + window_end, || self.rests());
            }
            // What is begun is let go of: nobody waits for who rests.
            rested.store(self.rests(), Ordering::Relaxed);
            anyhow::ensure!(!rested.load(Ordering::Relaxed), Resting);
            Ok(Batch { ids: window.clone() })
        };
        let stop = || begun.elapsed() > window_end;
        let computing = Instant::now();
        let done = self.pool.install(|| -> Result<_> {
            let done = if train.plain {
                let rule = self.rule(train.tokens_before, train.steps_before);
                let (made, unit) = trainer.plain_unit(&weights, &mut private, &plan, &rule, next, stop)?;
                (unit, Some(made))
            } else {
                (trainer.unit(&weights, &mut private, &plan, next, stop)?, None)
            };
            throttle.rest();
            Ok(done)
        });
        let (unit, made) = done.map_err(|error| if rested.load(Ordering::Relaxed) { Resting.into() } else { error })?;
        let busy = computing.elapsed().saturating_sub(unit.codec_time);
        let size = unit.update.bytes.len() as u64;
        let update = match made {
            Some(made) => self.keep_made(train.base + 1, made)?,
            None => {
                let root = ChunkTree::of(&unit.update.bytes).root();
                self.keep_update(&root, unit.update.bytes.clone().into());
                root
            }
        };
        let state_next = self.keep_private(private)?;
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

    /// The private state from which a unit goes on: one's own; a newcomer's is another's moments and none
    /// of its feedback; else none.
    fn begin(&self, train: &Train) -> (Hash, Private) {
        if let Some(private) = self.private_state(&train.state) {
            return (train.state, private);
        }
        let none = Private::zero(&self.layout);
        let donor = train.inherit.and_then(|(_, state)| Some((state, self.private_state(&state)?)));
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

    /// A new trainer on the run's device.
    pub(crate) fn trainer(&self) -> Result<Trainer> {
        let device = model::open(&self.device).map_err(|e| anyhow!("{e}"))?;
        Ok(self.pool.install(|| Trainer::new(&self.config, &device)))
    }
}

/// The numeric class of this build on a device: equal classes are expected to compute equal bits.
pub(crate) fn class(device: &str) -> Hash {
    let build = format!("{} {} {device}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    Hash::of("talkoo 2026 numeric class v1", build.as_bytes())
}
