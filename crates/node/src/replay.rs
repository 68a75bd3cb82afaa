//! `talkoo train replay`: does a whole run again in one process, from its log and its data alone.

use crate::content::Contents;
use crate::corpus;
use crate::store::Store;
use crate::work::{INITIAL, Limits, Work};
use anyhow::{Context, Result, bail, ensure};
use base::{Hash, NodeId, Round};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use swarm::{Block, Closed, Commit, Event, Init, Run, RunId, State, Train};

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
/// that was there when it began. `scratch` is an empty folder; what it holds afterwards may be deleted. `progress` is told the version reached and the last one.
pub fn replay(
    blocks: &[Block],
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
    let mut state = State::new(chain_of(blocks), 0);
    let mut again: Option<Again> = None;
    for block in blocks {
        let events = state.apply(block).map_err(|e| anyhow::anyhow!("block {}: {e}", block.height))?;
        for event in events {
            match event {
                Event::Created(run) if run == *id => {
                    again = Some(Again::new(&state.runs[id], folder, &store, threads)?)
                }
                Event::Closed(run, round) if run == *id => {
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
fn chain_of(blocks: &[Block]) -> Hash {
    blocks.iter().flat_map(|block| &block.txs).map(|tx| tx.value.chain).next().unwrap_or_default()
}

const NO_RUN: &str =
    "the log on this node does not have this run: replay on the node that created it, which keeps its log";

fn last_version(blocks: &[Block], id: &RunId) -> Result<u64> {
    let mut state = State::new(chain_of(blocks), 0);
    for block in blocks {
        state.apply(block).map_err(|e| anyhow::anyhow!("block {}: {e}", block.height))?;
    }
    Ok(state.runs.get(id).context(NO_RUN)?.version())
}

/// Private states of all members together that are kept at a time.
const PRIVATES_KEPT: usize = 256;

/// The run, done again so far.
struct Again {
    work: Arc<Work>,
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
        let work = Work::new(run.id, &run.spec, using, "cpu", store.clone(), contents, PRIVATES_KEPT)?;
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
            root,
            agreed: None,
            roots_equal: true,
            roots: BTreeMap::new(),
        };
        Ok(Self { work, trainer, roots: BTreeMap::from([(version, root)]), unsettled: BTreeMap::new(), found })
    }

    /// Does every unit of a closed round again, then applies its set.
    fn round(&mut self, run: &Run, round: Round) -> Result<()> {
        let closed = run.closed_round(round.0).context("a closed round is kept when it closes")?.clone();
        for (member, commit) in &closed.commits {
            let train = self.train(run, &closed, member, commit)?;
            let unit = self.work.unit(&mut self.trainer, &train, u64::from(commit.steps))?;
            self.found.units += 1;
            let same = Commit { class: commit.class, ..unit } == *commit;
            self.found.equal += u64::from(same);
            if !same && closed.plain.is_none() && closed.set.iter().any(|c| c.update == commit.update) {
                bail!("round {round}: the unit of {} came out otherwise, so its set cannot be applied", member.short());
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
