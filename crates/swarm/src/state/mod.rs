//! The replicated state: what the log says, equal on every node.

mod closing;
mod dispute;
mod event;
mod member;
mod plan;
mod round;

use crate::tx::DOMAIN;
use crate::{Attest, Commit, Mode, RunId, SignedWorkTx, Spec, WorkBlock, WorkTx};
use base::{Hash, Millis, NodeId, Reject, RejectCounts, Round, wire_struct};
use round::two_thirds;
use std::collections::{BTreeMap, VecDeque};

pub use dispute::Dispute;
pub use event::{Outcome, RunEvent};
pub use member::{Member, Standing};
pub use plan::Slot;
pub use round::{Candidate, Closed, Phase, RoundState};

/// What became of an own update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// The update.
    pub update: Hash,
    /// The closed set it is in; empty: left out, all of it comes back.
    pub set: Vec<Candidate>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its name.
    pub id: RunId,
    /// What it is.
    pub spec: Spec,
    /// Who made it.
    pub creator: NodeId,
    /// Everybody who joined and did not leave.
    pub members: BTreeMap<NodeId, Member>,
    /// Faults of members that left, and the round in which their `Ready` counts again.
    pub gone: BTreeMap<NodeId, (u32, Round)>,
    /// Rounds that are not closed, oldest first: one, or two with delay.
    pub open: VecDeque<RoundState>,
    /// The number of the next round to open.
    pub next: Round,
    /// Next position of the run's order that is handed out.
    pub cursor: u64,
    /// Tokens applied in closed sets.
    pub tokens: u64,
    /// Closed rounds that changed the weights.
    pub steps: u64,
    /// The last closed rounds, oldest first.
    pub closed: VecDeque<Closed>,
    /// Roots of versions of the weights that a quorum reported.
    pub roots: BTreeMap<u64, Hash>,
    /// How long past exchanges took, newest last.
    pub exchanges: VecDeque<u64>,
    /// Whether all tokens are done.
    pub ended: bool,
    /// Roots of the last weights as members report them, until enough agree.
    pub finals: BTreeMap<NodeId, Hash>,
    /// The last disputes about roots, oldest first.
    pub disputes: VecDeque<Dispute>,
}

/// Closed rounds kept for members that catch up; older ones synchronise weights instead.
pub(crate) const CLOSED_KEPT: usize = 64;
/// Who comes back is behind by at most so many versions: eight more may close while it catches up with the
/// sets that are kept.
const BEHIND_MAX: u64 = CLOSED_KEPT as u64 - 8;
/// Roots kept.
const ROOTS_KEPT: usize = 128;
/// A network runs at most this many runs at a time.
const RUNS_MAX: usize = 1024;
/// A run has at most this many members.
pub(crate) const MEMBERS_MAX: usize = 65_536;

/// Everything the log decides. Applying the same blocks gives the same state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunsState {
    /// Transactions for another chain are refused.
    pub chain: Hash,
    /// Leading zero bits of the proof of work that creating and joining cost.
    pub work_bits: u32,
    /// Of the last block.
    pub height: u64,
    /// Of the last block.
    pub time: Millis,
    /// All runs.
    pub runs: BTreeMap<RunId, Run>,
    /// Last running number per signer.
    pub seqs: BTreeMap<NodeId, u64>,
    /// Refused transactions, by reason.
    pub rejects: RejectCounts,
}

impl RunsState {
    /// No runs yet, on `chain`, where creating and joining cost a proof of work of `work_bits`.
    pub fn new(chain: Hash, work_bits: u32) -> Self {
        Self { chain, work_bits, ..Self::default() }
    }

    /// Applies the next block. A block that does not follow is refused whole; a transaction that is
    /// refused changes nothing and is counted.
    pub fn apply(&mut self, block: &WorkBlock) -> Result<Vec<RunEvent>, Reject> {
        self.apply_with(block, true)
    }

    /// The same for a block whose signatures were checked before.
    pub fn apply_checked(&mut self, block: &WorkBlock) -> Result<Vec<RunEvent>, Reject> {
        self.apply_with(block, false)
    }

    fn apply_with(&mut self, block: &WorkBlock, verify: bool) -> Result<Vec<RunEvent>, Reject> {
        if self.height.checked_add(1) != Some(block.height) {
            return Err(if block.height <= self.height { Reject::Stale } else { Reject::Early });
        }
        if block.time < self.time {
            return Err(Reject::Stale);
        }
        self.height = block.height;
        self.time = block.time;
        let mut events = Vec::new();
        // What is said counts before what time decides: after a stall of the log, the commits that
        // waited for it are in time.
        for tx in &block.txs {
            if let Err(reject) = self.take(tx, verify, &mut events) {
                self.rejects.add(reject);
                events.push(RunEvent::Refused(tx.by, reject));
            }
        }
        for run in self.runs.values_mut() {
            run.tick(block.time, &mut events);
        }
        Ok(events)
    }

    /// When the next block is due without any transaction: the first deadline of any run.
    pub fn deadline(&self) -> Option<Millis> {
        self.runs.values().filter_map(Run::deadline).min()
    }

    /// Whether `tx` would be taken now; what a mempool asks.
    pub fn check(&self, tx: &SignedWorkTx) -> Result<(), Reject> {
        self.check_envelope(tx, true)?;
        self.check_said(tx)
    }

    fn check_said(&self, tx: &SignedWorkTx) -> Result<(), Reject> {
        let run = |id: &RunId| self.runs.get(id).ok_or(Reject::UnknownRun);
        match &tx.value.tx {
            WorkTx::Create { spec } => self.check_create(spec, &tx.by),
            WorkTx::Join { run: id, .. } => run(id)?.check_join(&tx.by),
            WorkTx::Ready { run: id, version, root } => run(id)?.check_ready(&tx.by, *version, root),
            WorkTx::Leave { run: id } => run(id)?.member(&tx.by).map(|_| ()),
            WorkTx::Rest { run: id } => run(id)?.check_rest(&tx.by),
            WorkTx::Commit { commit } => run(&commit.run)?.check_commit(&tx.by, commit).map(|_| ()),
            WorkTx::Attest { attest } => run(&attest.run)?.check_attest(&tx.by, attest).map(|_| ()),
            WorkTx::Dispute { claim } => run(&claim.run)?.check_claim(&tx.by, claim),
            WorkTx::Verdict { verdict } => run(&verdict.run)?.check_verdict(&tx.by, verdict),
            WorkTx::Final { run: id, .. } => run(id)?.check_final(&tx.by),
        }
    }

    fn check_envelope(&self, tx: &SignedWorkTx, verify: bool) -> Result<(), Reject> {
        if tx.value.chain != self.chain {
            return Err(Reject::WrongChain);
        }
        if self.seqs.get(&tx.by).is_some_and(|&last| tx.value.seq <= last) {
            return Err(Reject::Duplicate);
        }
        if !tx.value.is_paid(&tx.by, self.work_bits) {
            return Err(Reject::NoWork);
        }
        if !verify || tx.verify(DOMAIN) { Ok(()) } else { Err(Reject::BadSignature) }
    }

    fn check_create(&self, spec: &Spec, by: &NodeId) -> Result<(), Reject> {
        if spec.check().is_err() {
            return Err(Reject::Malformed);
        }
        if self.runs.contains_key(&spec.id(by)) {
            return Err(Reject::DuplicateRun);
        }
        if self.runs.values().filter(|run| !run.ended).count() >= RUNS_MAX { Err(Reject::Full) } else { Ok(()) }
    }

    fn take(&mut self, tx: &SignedWorkTx, verify: bool, events: &mut Vec<RunEvent>) -> Result<(), Reject> {
        self.check_envelope(tx, verify)?;
        let said = self.check_said(tx);
        // Refused or not: what was said once is not said again by somebody else. But a key that never said
        // anything that was taken leaves nothing behind: keys cost nothing, and entries stay for ever.
        if said.is_ok() || self.seqs.contains_key(&tx.by) {
            self.seqs.insert(tx.by, tx.value.seq);
        }
        said?;
        let now = self.time;
        if let WorkTx::Create { spec } = &tx.value.tx {
            let id = spec.id(&tx.by);
            self.runs.insert(id, Run::new(id, spec.clone(), tx.by));
            events.push(RunEvent::Created(id));
            return Ok(());
        }
        let id = tx.value.tx.run().ok_or(Reject::UnknownRun)?;
        let run = self.runs.get_mut(&id).ok_or(Reject::UnknownRun)?;
        match &tx.value.tx {
            WorkTx::Create { .. } => {}
            WorkTx::Join { class, .. } => {
                run.join(&tx.by, *class);
                events.push(RunEvent::Joined(id, tx.by));
            }
            WorkTx::Ready { .. } => run.ready(&tx.by),
            WorkTx::Leave { .. } => run.leave(&tx.by, events),
            WorkTx::Rest { .. } => run.rest(&tx.by, events),
            WorkTx::Commit { commit } => run.commit(now, &tx.by, commit)?,
            WorkTx::Attest { attest } => run.attest(&tx.by, attest)?,
            WorkTx::Dispute { claim } => run.claim(now, &tx.by, claim),
            WorkTx::Verdict { verdict } => run.verdict(&tx.by, verdict),
            WorkTx::Final { root, .. } => run.finish(&tx.by, root),
        }
        Ok(())
    }
}

impl Run {
    fn new(id: RunId, spec: Spec, creator: NodeId) -> Self {
        Self {
            id,
            spec,
            creator,
            members: BTreeMap::new(),
            gone: BTreeMap::new(),
            open: VecDeque::new(),
            next: Round(0),
            cursor: 0,
            tokens: 0,
            steps: 0,
            closed: VecDeque::new(),
            roots: BTreeMap::new(),
            exchanges: VecDeque::new(),
            ended: false,
            finals: BTreeMap::new(),
            disputes: VecDeque::new(),
        }
    }

    /// The newest version of the weights: the number of closed rounds.
    pub fn version(&self) -> u64 {
        self.open.front().map_or(self.next.0, |round| round.round.0)
    }

    /// The closed set that makes version `version + 1` out of `version`, while it is kept.
    pub fn closed_round(&self, version: u64) -> Option<&Closed> {
        let first = self.closed.front()?.round.0;
        self.closed.get(usize::try_from(version.checked_sub(first)?).ok()?)
    }

    /// The version from which a round that is open or kept trains.
    pub fn base(&self, round: Round) -> Option<u64> {
        let open = self.open.iter().find(|open| open.round == round).map(|open| open.base);
        open.or_else(|| self.closed_round(round.0).map(|closed| closed.base))
    }

    /// The open round in which `member` has a slot and still owes a commit.
    pub fn owed(&self, member: &NodeId) -> Option<&RoundState> {
        self.open.iter().find(|round| round.is_training() && round.owes(member))
    }

    /// Takes out of `unsettled` the updates whose fate was on the log when version `base` was made,
    /// with that fate. Whoever replays the log finds the same.
    pub fn settle(&self, base: u64, unsettled: &mut Vec<(Round, Hash)>) -> Vec<Settle> {
        let known = || self.closed.iter().filter(|closed| closed.round.0 < base);
        let mut settled = Vec::new();
        unsettled.retain(|(_, update)| {
            let has = |list: &[Candidate]| list.iter().any(|c| c.update == *update);
            let set = match known().find(|closed| has(&closed.set) || has(&closed.left_out)) {
                Some(closed) if has(&closed.set) => closed.set.clone(),
                Some(_) => Vec::new(),
                None => return true,
            };
            settled.push(Settle { update: *update, set });
            false
        });
        settled
    }

    /// With delay: the update of `member` in the round that `round` runs ahead of, its tokens, and
    /// those of all units of that round.
    pub fn pending(&self, member: &NodeId, round: Round, base: u64) -> Option<(Hash, u64, u64)> {
        let before = Some(base).filter(|base| *base < round.0)?;
        let open = self.open.iter().find(|open| open.round.0 == before).map(|open| &open.commits);
        let commits = open.or_else(|| self.closed_round(before).map(|closed| &closed.commits))?;
        let own = commits.get(member).filter(|own| own.size > 0)?;
        Some((own.update, own.tokens, commits.values().map(|commit| commit.tokens).sum()))
    }

    /// How many members take part.
    pub fn active(&self) -> usize {
        self.members.values().filter(|m| m.status == Standing::Active).count()
    }

    pub(crate) fn member(&self, id: &NodeId) -> Result<&Member, Reject> {
        self.members.get(id).ok_or(Reject::NotMember)
    }

    fn check_join(&self, by: &NodeId) -> Result<(), Reject> {
        if self.ended {
            return Err(Reject::Ended);
        }
        if self.members.contains_key(by) {
            return Err(Reject::Duplicate);
        }
        if !self.spec.admits(by) {
            return Err(Reject::NotInvited);
        }
        if self.members.len() >= MEMBERS_MAX { Err(Reject::Full) } else { Ok(()) }
    }

    fn check_ready(&self, by: &NodeId, version: u64, root: &Hash) -> Result<(), Reject> {
        if self.ended {
            return Err(Reject::Ended);
        }
        if self.member(by)?.status == Standing::Active {
            return Err(Reject::Duplicate);
        }
        if self.aside(by).is_some() {
            return Err(Reject::Early);
        }
        // The weights must be recent enough to go on from with the sets that are kept.
        if version > self.version() {
            return Err(Reject::Early);
        }
        if self.version().saturating_sub(version) > BEHIND_MAX {
            return Err(Reject::Stale);
        }
        match self.roots.get(&version) {
            Some(agreed) if agreed != root => Err(Reject::WrongRoot),
            _ => Ok(()),
        }
    }

    /// The last weights have no round after them whose commits would name their root.
    fn check_final(&self, by: &NodeId) -> Result<(), Reject> {
        if !self.ended {
            return Err(Reject::Early);
        }
        if self.member(by)?.status != Standing::Active {
            return Err(Reject::NotMember);
        }
        let known = self.finals.contains_key(by) || self.roots.contains_key(&self.next.0);
        if known { Err(Reject::Duplicate) } else { Ok(()) }
    }

    fn check_rest(&self, by: &NodeId) -> Result<(), Reject> {
        if self.ended {
            return Err(Reject::Ended);
        }
        if self.member(by)?.status == Standing::Active { Ok(()) } else { Err(Reject::Duplicate) }
    }

    fn finish(&mut self, by: &NodeId, root: &Hash) {
        self.finals.insert(*by, *root);
        let votes = self.finals.values().filter(|other| *other == root).count();
        if two_thirds(votes, self.active()) {
            self.finals.clear();
            self.agree(self.next.0, *root);
        }
    }

    /// Notes that a quorum reported `root` for `version`.
    pub(crate) fn agree(&mut self, version: u64, root: Hash) {
        self.roots.insert(version, root);
        while self.roots.len() > ROOTS_KEPT {
            self.roots.pop_first();
        }
    }

    /// Learning happens once per closed set that changed the weights; local mode counts it the same.
    pub(crate) fn applied(&mut self, closed: Closed) {
        if closed.plain.is_some() || !closed.set.is_empty() {
            self.steps = self.steps.saturating_add(1);
        }
        self.tokens = self.tokens.saturating_add(closed.tokens);
        let alone = closed.plain.map(|(member, _)| (member, closed.tokens));
        let set = closed.set.iter().filter(|_| alone.is_none()).map(|candidate| (candidate.member, candidate.tokens));
        for (id, tokens) in set.chain(alone) {
            if let Some(member) = self.members.get_mut(&id) {
                member.tokens = member.tokens.saturating_add(tokens);
            }
        }
        self.closed.push_back(closed);
        if self.closed.len() > CLOSED_KEPT {
            self.closed.pop_front();
        }
    }

    pub(crate) fn check_commit(&self, by: &NodeId, commit: &Commit) -> Result<usize, Reject> {
        let member = self.member(by)?;
        let at = self.open.iter().position(|round| round.round == commit.round);
        let at = at.ok_or(if commit.round < self.next { Reject::Stale } else { Reject::Early })?;
        let round = &self.open[at];
        let slot = round.check_committer(by)?;
        let inherited = slot.inherit.is_some_and(|(_, state)| commit.state == state);
        if commit.state != Hash::default() && commit.state != member.private && !inherited {
            return Err(Reject::WrongRoot);
        }
        if self.knows_update(commit) {
            return Err(Reject::Duplicate);
        }
        if self.roots.get(&round.base).is_some_and(|agreed| *agreed != commit.root) {
            return Err(Reject::WrongRoot);
        }
        let per_step = u64::from(slot.micro_batches).saturating_mul(self.spec.tokens_per_micro_batch());
        let tokens = u64::from(commit.steps).saturating_mul(per_step);
        let whole = (1..=self.spec.inner_steps).contains(&commit.steps) && commit.tokens == tokens;
        let norm = f64::from_bits(commit.norm_sq_bits);
        let plain = round.plan.len() == 1;
        // What moves nothing is no work, however many ways there are to write it.
        let moves = norm.is_finite() && (norm > 0.0 || plain && norm == 0.0);
        // A plain round moves no update.
        let size = if plain { commit.size == 0 } else { (1..=self.spec.update_bytes_max()).contains(&commit.size) };
        let own = commit.class == member.class;
        if whole && own && moves && size { Ok(at) } else { Err(Reject::WrongWork) }
    }

    /// Whether somebody committed the same bytes before: a copy is no work.
    fn knows_update(&self, commit: &Commit) -> bool {
        let open = self.open.iter().map(|round| &round.commits);
        let mut commits = open.chain(self.closed.iter().map(|closed| &closed.commits)).flat_map(|c| c.values());
        commit.size > 0 && commits.any(|other| other.update == commit.update)
    }

    pub(crate) fn check_attest(&self, by: &NodeId, attest: &Attest) -> Result<usize, Reject> {
        let at = self.open.iter().position(|round| round.round == attest.round);
        let at = at.ok_or(if attest.round < self.next { Reject::Stale } else { Reject::Early })?;
        let round = &self.open[at];
        round.check_attester(by)?;
        if attest.held.len() == round.candidates.len().div_ceil(8) { Ok(at) } else { Err(Reject::WrongShape) }
    }

    /// Whether AdamW's moments are part of the agreed weights.
    pub fn common_moments(&self) -> bool {
        self.spec.mode == Mode::Gradients
    }
}

wire_struct!(Run {
    id,
    spec,
    creator,
    members,
    gone,
    open,
    next,
    cursor,
    tokens,
    steps,
    closed,
    roots,
    exchanges,
    ended,
    finals,
    disputes,
});
