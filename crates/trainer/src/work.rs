//! The compute of one run: a trainer thread for units, a second thread for everything that follows
//! from the log (initial weights, apply, verification), and one that measures; none waits for another.

mod kept;
mod rules;
mod unit;

pub(crate) use kept::INITIAL;
pub(crate) use unit::Resting;

use crate::content::Contents;
use crate::memory::{VERSIONS_KEPT, on_device};
use crate::store::Store;
use crate::throttle::{Answering, Duty};
use anyhow::{Context, Result};
use base::{ChunkTree, Hash};
use data::{Corpus, Order};
use host::write_whole;
use model::update::Format;
use model::{Applied, Contribution, Layout, ModelConfig, Part, Weights, apply};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use swarm::{Closed, Mode, RunId, Spec};

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

/// Everything that the threads of a run share.
pub(crate) struct Work {
    pub(crate) run: RunId,
    pub(crate) spec: Spec,
    pub(crate) config: ModelConfig,
    pub(crate) layout: Layout,
    duty: Duty,
    /// Where they use the processors that training may use, too.
    answers: Option<Answering>,
    device: String,
    class: Hash,
    pub(crate) store: Arc<Store>,
    contents: Arc<Contents>,
    pub(crate) corpus: Arc<Corpus>,
    order: Order,
    pub(crate) pool: rayon::ThreadPool,
    versions: Mutex<Versions>,
    /// The version of the weights on disk.
    disk: Mutex<u64>,
    /// The last private states so many of which are kept on disk beside the accepted one.
    privates_kept: usize,
    /// Private states of others that are kept, however old: in a replay, those that the log names.
    privates_named: Mutex<BTreeSet<Hash>>,
    /// Whether this node's units may go on from another member's moments.
    inherits: AtomicBool,
    pub(crate) meter: Meter,
    /// Held while a unit is computed.
    pub(crate) computing: tokio::sync::Mutex<()>,
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

/// Counters for displays.
#[derive(Debug, Default)]
pub struct Meter {
    /// Milliseconds that the trainer computed: its rests, codec, hashing and disk not counted.
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
        (limits, duty, answers): (Limits, Duty, Answering),
        (device, vram_mb): (&str, u64),
        store: Arc<Store>,
        contents: Arc<Contents>,
        privates_kept: usize,
    ) -> Result<Arc<Self>> {
        let config = ModelConfig::from_json(spec.config.as_bytes())?;
        rules::check(spec, &config)?;
        let layout = Layout::new(&config, &Part::whole(&config));
        anyhow::ensure!(
            layout.len as u64 == spec.params,
            "the run states {} parameters, its model has {}",
            spec.params,
            layout.len
        );
        rules::check_updates(spec, &layout)?;
        let step = config.step_bytes(spec.micro_batch.into(), spec.seq_len.into());
        on_device(vram_mb, device, spec.params, step)?;
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
        let few = limits.threads < host::processors();
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
            disk: Mutex::default(),
            privates_kept,
            privates_named: Mutex::default(),
            inherits: AtomicBool::new(true),
            meter: Meter::default(),
            computing: tokio::sync::Mutex::default(),
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

    /// What weights and private states of this run can be long, in bytes: three values for each parameter, and some.
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

    /// Weights that were fetched.
    pub(crate) fn adopt_bytes(&self, version: u64, bytes: &[u8]) -> Result<(u64, Hash)> {
        let weights = Weights::from_bytes(&self.layout, self.common_moments(), bytes)?;
        self.keep_initial(version, &weights)?;
        Ok(self.adopt(version, weights))
    }

    /// Applies a closed round to the version before it.
    pub(crate) fn apply(&self, closed: &Closed) -> Result<(u64, Hash)> {
        let begun = Instant::now();
        let version = closed.round.0;
        if let Some((_, root)) = &closed.plain {
            let (weights, tree) = self.take_made(version + 1, root)?;
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
        let rule = self.rule_of(closed);
        let applied = self.pool.install(|| apply(&self.layout, &mut weights, &set, &rule, &mut mean))?;
        self.versions().mean = mean;
        if applied == Applied::Void {
            tracing::warn!(run = %self.run.short(), round = %closed.round, "a step is not finite: the weights stay");
        }
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
                *self.disk() = 0;
                self.adopt(version, weights);
                return Ok(Step::Repaired);
            }
        }
        let (_, ours) = self.version(version)?;
        let chunk = theirs.and_then(|theirs| ours.differing(theirs).first().copied()).unwrap_or(0);
        let hash = ours.chunks.get(chunk).context("weights without a chunk")?;
        Ok(Step::Differs(chunk as u32, *hash))
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
            // What the log did not take in time it takes no more.
            versions.made.take_if(|(made, ..)| *made <= version);
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
}

/// The numeric class of this build on a device: equal classes are expected to compute equal bits.
pub(crate) fn class(device: &str) -> Hash {
    let build = format!("{} {} {device}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    Hash::of("talkoo 2026 numeric class v1", build.as_bytes())
}

#[cfg(test)]
mod tests;
