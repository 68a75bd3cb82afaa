//! `talkoo train replay`: does a whole run again in one process, from its log and its data alone.

use crate::content::Contents;
use crate::corpus;
use crate::store::Store;
use crate::work::{INITIAL, Limits, Work};
use anyhow::{Context, Result, ensure};
use base::{Hash, NodeId, Round, Wire};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use swarm::{Closed, Commit, Init, Run, RunEvent, RunId, RunsState, Train, WorkBlock};

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Rounds done again.
    pub rounds: u64,
    /// Units done again.
    pub units: u64,
    /// Units whose commit came out the same, to the last bit.
    pub equal: u64,
    /// Newcomers' units among them that went on from another member's moments.
    pub inherited: u64,
    /// Tokens that the run has learned from.
    pub tokens: u64,
    /// Members that it had at its end.
    pub members: u64,
    /// Root of the weights at the end.
    pub root: Hash,
    /// The last root that a quorum of the run reported, and its version.
    pub agreed: Option<(u64, Hash)>,
    /// Whether every root that a quorum reported came out the same.
    pub roots_equal: bool,
    /// Root of the weights of each version.
    pub roots: BTreeMap<u64, Hash>,
}

/// Replays run `id` from `blocks`; the data is at `corpus`, and `folder` is the run's folder of a node
/// that was there when it began. An update that comes out otherwise here, as on a machine of another numeric class,
/// is taken from there to be applied, while that node keeps it. `scratch` is an empty folder; what it holds
/// afterwards may be deleted. `progress` is told the version reached and the last one.
pub fn replay(
    blocks: &[WorkBlock],
    id: &RunId,
    corpus: &Path,
    folder: &Path,
    scratch: &Path,
    threads: usize,
    mut progress: impl FnMut(u64, u64),
) -> Result<Replayed> {
    let last = last_version(blocks, id)?;
    let store = Arc::new(Store::open(scratch)?);
    corpus::import(&store, corpus)?;
    let mut state = RunsState::new(chain_of(blocks), 0);
    let mut again: Option<Again> = None;
    for block in blocks {
        let events = state.apply(block).map_err(|e| anyhow::anyhow!("block {}: {e}", block.height))?;
        for event in events {
            match event {
                RunEvent::Created(run) if run == *id => {
                    again = Some(Again::new(&state.runs[id], folder, &store, threads)?)
                }
                RunEvent::Closed(run, round) if run == *id => {
                    let again = again.as_mut().context("a round before its run")?;
                    again.round(&state.runs[id], round)?;
                    progress(round.0 + 1, last);
                }
                _ => {}
            }
        }
    }
    let mut again = again.context(NO_RUN)?;
    again.compare(&state.runs[id]);
    Ok(Replayed { roots: again.roots, ..again.found })
}

/// The chain that the blocks are of: that of their transactions. Whether they are final was checked when they came.
fn chain_of(blocks: &[WorkBlock]) -> Hash {
    blocks.iter().flat_map(|block| &block.txs).map(|tx| tx.value.chain).next().unwrap_or_default()
}

/// How the file of a written log begins, and its bytes and blocks at most.
const LOG_MAGIC: &[u8] = b"talkoo log 1\n";
const LOG_MAX: u64 = 256 << 20;
const LOG_BLOCKS_MAX: usize = 4 << 20;

/// Writes the blocks of the chain of run `id`, up to the one after which nothing happens to it, into a file.
pub fn write_log(blocks: &[WorkBlock], id: &RunId, out: &Path) -> Result<()> {
    let mut state = RunsState::new(chain_of(blocks), 0);
    let mut last = 0;
    for (i, block) in blocks.iter().enumerate() {
        state.apply(block).map_err(|e| anyhow::anyhow!("block {}: {e}", block.height))?;
        last = if block.txs.is_empty() { last } else { i + 1 };
    }
    ensure!(state.runs.contains_key(id), NO_RUN);
    let mut bytes = LOG_MAGIC.to_vec();
    id.encode(&mut bytes);
    blocks[..last].to_vec().encode(&mut bytes);
    host::write_whole(out, &bytes, false)
}

/// Reads what [`write_log`] wrote; every transaction is signed by whom it names. Whether a chain ever agreed on these blocks
/// does not show in them.
pub fn read_log(path: &Path) -> Result<(RunId, Vec<WorkBlock>)> {
    let named = || format!("{} is no log that `talkoo train log` wrote", path.display());
    ensure!(std::fs::metadata(path).with_context(|| path.display().to_string())?.len() <= LOG_MAX, named());
    let bytes = std::fs::read(path)?;
    let mut reader = base::Reader::new(bytes.strip_prefix(LOG_MAGIC).with_context(named)?);
    let id = RunId::decode(&mut reader).with_context(named)?;
    let blocks: Vec<WorkBlock> = reader.list(LOG_BLOCKS_MAX).with_context(named)?;
    reader.end().with_context(named)?;
    for block in &blocks {
        ensure!(block.txs.iter().all(|tx| tx.verify(swarm::DOMAIN)), "a signature in block {} is wrong", block.height);
    }
    Ok((id, blocks))
}

const NO_RUN: &str =
    "the log on this node does not have this run: replay on the node that created it, which keeps its log";

fn last_version(blocks: &[WorkBlock], id: &RunId) -> Result<u64> {
    let mut state = RunsState::new(chain_of(blocks), 0);
    for block in blocks {
        state.apply(block).map_err(|e| anyhow::anyhow!("block {}: {e}", block.height))?;
    }
    Ok(state.runs.get(id).context(NO_RUN)?.version())
}

/// The private states that the log still names when `round` closes: one of each member, however long it rests, and
/// those of units and donors of this round and of later ones.
fn named(run: &Run, round: Round) -> BTreeSet<Hash> {
    let closed = run.closed.iter().filter(|closed| closed.round >= round).map(|closed| (&closed.plan, &closed.commits));
    let rounds = closed.chain(run.open.iter().map(|open| (&open.plan, &open.commits)));
    let mut named: BTreeSet<Hash> = run.members.values().map(|member| member.private).collect();
    for (plan, commits) in rounds {
        named.extend(plan.iter().filter_map(|slot| slot.inherit).map(|(_, state)| state));
        named.extend(commits.values().flat_map(|commit| [commit.state, commit.state_next]));
    }
    named
}

/// The run, done again so far.
struct Again {
    work: Arc<Work>,
    /// The run's folder of a node that took part.
    folder: PathBuf,
    trainer: model::Trainer,
    roots: BTreeMap<u64, Hash>,
    unsettled: BTreeMap<NodeId, Vec<(Round, Hash)>>,
    found: Replayed,
}

impl Again {
    fn new(run: &Run, folder: &Path, store: &Arc<Store>, threads: usize) -> Result<Self> {
        let limits = Limits { threads, duty_percent: 100 };
        let contents = Arc::new(Contents::default());
        let using = (limits, Arc::new(tokio::sync::watch::Sender::new(100)), Default::default());
        let work = Work::new(run.id, &run.spec, using, ("cpu", 0), store.clone(), contents, 0)?;
        let trainer = work.trainer()?;
        let (version, root) = match run.spec.init {
            Init::Seed => work.init()?,
            Init::Root(expected) => {
                let path = folder.join(INITIAL);
                let bytes = std::fs::read(&path).with_context(|| {
                    format!("{} is missing: replay on a node that was there when the run began", path.display())
                })?;
                let found = work.adopt_bytes(0, &bytes)?;
                ensure!(found.1 == expected, "{} is damaged", path.display());
                found
            }
        };
        let found = Replayed {
            rounds: 0,
            units: 0,
            equal: 0,
            inherited: 0,
            tokens: 0,
            members: 0,
            root,
            agreed: None,
            roots_equal: true,
            roots: BTreeMap::new(),
        };
        let (roots, unsettled) = (BTreeMap::from([(version, root)]), BTreeMap::new());
        Ok(Self { work, folder: folder.to_owned(), trainer, roots, unsettled, found })
    }

    /// Does every unit of a closed round again, then applies its set.
    fn round(&mut self, run: &Run, round: Round) -> Result<()> {
        let closed = run.closed_round(round.0).context("a closed round is kept when it closes")?.clone();
        self.work.name_privates(named(run, round));
        for (member, commit) in &closed.commits {
            let train = self.train(run, &closed, member, commit)?;
            let unit = self.work.unit(&mut self.trainer, &train, u64::from(commit.steps))?;
            self.found.units += 1;
            let same = Commit { class: commit.class, ..unit } == *commit;
            self.found.equal += u64::from(same);
            if !same && closed.plain.is_none() && closed.set.iter().any(|c| c.update == commit.update) {
                let borrowed = self.work.borrow_update(&self.folder, &commit.update);
                borrowed.with_context(|| {
                    format!(
                        "round {round}: the unit of {} came out otherwise, and {} has not its update any more, so \
                         its set cannot be applied",
                        member.short(),
                        self.folder.display()
                    )
                })?;
            }
            if commit.size > 0 {
                self.unsettled.entry(*member).or_default().push((round, commit.update));
            }
        }
        let (version, root) = self.work.apply(&closed)?;
        self.roots.insert(version, root);
        self.found.rounds += 1;
        self.found.root = root;
        self.compare(run);
        Ok(())
    }

    fn compare(&mut self, run: &Run) {
        for (version, agreed) in &run.roots {
            self.found.roots_equal &= self.roots.get(version).is_none_or(|root| root == agreed);
        }
        (self.found.tokens, self.found.members) = (run.tokens, run.members.len() as u64);
        self.found.agreed = run.roots.last_key_value().map(|(version, root)| (*version, *root));
    }

    /// The unit as the log planned it; steps are those that were done.
    fn train(&mut self, run: &Run, closed: &Closed, member: &NodeId, commit: &Commit) -> Result<Box<Train>> {
        let base = closed.base;
        let slot = closed.plan.iter().find(|slot| slot.member == *member).context("a commit without a slot")?;
        let unsettled = self.unsettled.entry(*member).or_default();
        let settled = run.settle(base, unsettled);
        let inherit = slot.inherit.filter(|(_, state)| commit.state == *state);
        self.found.inherited += u64::from(inherit.is_some());
        let fresh = commit.state == Hash::default() || inherit.is_some();
        if fresh {
            unsettled.clear();
        }
        Ok(Box::new(Train {
            run: run.id,
            round: closed.round,
            base,
            root: *self.roots.get(&base).context("the base of a round is a version before it")?,
            micro_batches: slot.micro_batches,
            position: slot.position,
            tokens_before: closed.tokens_before,
            steps_before: closed.steps_before,
            window_ms: u64::MAX / 4,
            plain: closed.plan.len() == 1,
            state: if fresh { Hash::default() } else { commit.state },
            inherit,
            settle: if fresh { Vec::new() } else { settled },
            pending: run.pending(member, closed.round, base),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::class;
    use base::{Keypair, Signed};
    use model::{Layout, ModelConfig, Part, Trainer};
    use swarm::{Attest, DOMAIN, RoundState, Spec, WorkEnvelope, WorkTx};

    /// A run of two, done by one process that keeps the states of both, and its log.
    struct Played {
        work: Arc<Work>,
        trainer: Trainer,
        keys: [Keypair; 2],
        state: RunsState,
        blocks: Vec<WorkBlock>,
        run: RunId,
        roots: Vec<Hash>,
        unsettled: BTreeMap<NodeId, Vec<(Round, Hash)>>,
    }

    impl Played {
        fn new(store: Arc<Store>, spec: &Spec) -> Self {
            let keys = [1, 2].map(|i| Keypair::from_secret([i; 32]));
            let run = spec.id(&keys[0].id());
            let using = (
                Limits { threads: 1, duty_percent: 100 },
                Arc::new(tokio::sync::watch::Sender::new(100)),
                Default::default(),
            );
            let work = Work::new(run, spec, using, ("cpu", 0), store, Arc::default(), 64).expect("the corpus is there");
            let trainer = work.trainer().expect("a processor");
            let (_, root) = work.init().expect("made");
            let (state, blocks, roots) = (RunsState::new(Hash::default(), 0), Vec::new(), vec![root]);
            let mut played = Self { work, trainer, keys, state, blocks, run, roots, unsettled: BTreeMap::new() };
            played.order(vec![(0, WorkTx::Create { spec: spec.clone() })]);
            let join = |i| (i, WorkTx::Join { run, class: class("cpu") });
            let ready = |i| (i, WorkTx::Ready { run, version: 0, root });
            played.order(vec![join(0), join(1), ready(0), ready(1)]);
            played
        }

        fn order(&mut self, said: Vec<(usize, WorkTx)>) {
            let mut txs = Vec::new();
            for (at, (who, tx)) in said.into_iter().enumerate() {
                let (key, seq) = (&self.keys[who], 1 + self.blocks.len() as u64 * 8 + at as u64);
                txs.push(Signed::new(DOMAIN, key, WorkEnvelope::new(Hash::default(), 0, &key.id(), seq, tx)));
            }
            let block = WorkBlock { height: self.state.height + 1, time: self.state.time.plus(10), txs };
            let events = self.state.apply(&block).expect("it follows");
            assert!(!events.iter().any(|event| matches!(event, RunEvent::Refused(..))), "{events:?}");
            self.blocks.push(block);
        }

        fn run(&self) -> &Run {
            &self.state.runs[&self.run]
        }

        fn commit(&mut self, open: &RoundState, who: usize) -> WorkTx {
            let id = self.keys[who].id();
            let slot = open.slot(&id).expect("it has a place");
            let (run, unsettled) = (&self.state.runs[&self.run], self.unsettled.entry(id).or_default());
            let train = Train {
                run: self.run,
                round: open.round,
                base: open.base,
                root: self.roots[open.base as usize],
                micro_batches: slot.micro_batches,
                position: slot.position,
                tokens_before: open.tokens_before,
                steps_before: open.steps_before,
                window_ms: u64::MAX / 4,
                plain: open.plan.len() == 1,
                state: run.members[&id].private,
                inherit: None,
                settle: run.settle(open.base, unsettled),
                pending: run.pending(&id, open.round, open.base),
            };
            let commit = self.work.unit(&mut self.trainer, &train, u64::MAX).expect("a unit");
            if commit.size > 0 {
                unsettled.push((open.round, commit.update));
            }
            WorkTx::Commit { commit }
        }

        /// The round that is open, by those who take part in it: all of them have a place.
        fn round(&mut self) {
            let open = self.run().open[0].clone();
            let present: Vec<usize> = (0..2).filter(|i| open.committee.contains(&self.keys[*i].id())).collect();
            for &who in &present {
                let commit = self.commit(&open, who);
                self.order(vec![(who, commit)]);
            }
            if open.plan.len() > 1 {
                let held = vec![0xff; self.run().open[0].candidates.len().div_ceil(8)];
                let root = self.roots[open.base as usize];
                let attest = Attest { run: self.run, round: open.round, root, held };
                self.order(present.iter().map(|who| (*who, WorkTx::Attest { attest: attest.clone() })).collect());
            }
            let closed = self.run().closed_round(open.round.0).expect("it is closed").clone();
            let (_, root) = self.work.apply(&closed).expect("applied");
            self.roots.push(root);
        }
    }

    #[test]
    fn a_replay_finds_the_private_state_of_a_member_that_rested_for_twelve_rounds() {
        let dir = tempfile::tempdir().expect("a folder");
        let corpus = dir.path().join("corpus");
        let built = data::shipped::build(&corpus).expect("built");
        let store = Arc::new(Store::open(&dir.path().join("node")).expect("a store"));
        corpus::import(&store, &corpus).expect("imported");
        let config = ModelConfig::preset("nano", 2048, 16).expect("a preset");
        let params = Layout::new(&config, &Part::whole(&config)).len as u64;
        let text = String::from_utf8(config.to_json(0)).expect("utf-8");
        let spec = Spec { micro_batches: 2, ..Spec::plain("rests", text, params, built.manifest.root()) };
        let mut played = Played::new(store.clone(), &spec);
        let run = played.run;
        for round in 0..15 {
            match round {
                1 => played.order(vec![(1, WorkTx::Rest { run })]),
                13 => {
                    let (version, root) = (played.run().version(), played.roots[round]);
                    played.order(vec![(1, WorkTx::Ready { run, version, root })]);
                }
                _ => {}
            }
            played.round();
        }
        let rested = &played.run().closed_round(14).expect("closed").commits[&played.keys[1].id()];
        assert_ne!(rested.state, Hash::default(), "it goes on from where it was");
        let folder = store.run_dir(&run).expect("a folder");
        let scratch = dir.path().join("scratch");
        let found = replay(&played.blocks, &run, &corpus, &folder, &scratch, 1, |_, _| {}).expect("replayed");
        assert_eq!((found.rounds, found.units, found.equal), (15, 17, 17));
        assert!(found.roots_equal && found.root == played.roots[15]);
    }
}
