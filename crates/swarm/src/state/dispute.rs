//! Root disputes. A node that applied the whole set and got other weights than the quorum reports does
//! not adopt theirs: it names one chunk that differs, on the log, and members that applied the set
//! themselves say what they got. More than two thirds of the active members decide; the chunk and the
//! hashes on the log let anybody else do that one chunk again.

use super::Run;
use super::event::{Outcome, RunEvent};
use super::member::{FAULTS_MIN, Standing};
use super::round::{later, two_thirds};
use crate::{Claim, DisputeVerdict};
use base::{CHUNK_BYTES, Hash, Millis, NodeId, Reject, wire_struct};
use std::collections::{BTreeMap, BTreeSet};

/// A dispute on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// Who opened it.
    pub by: NodeId,
    /// What it says.
    pub claim: Claim,
    /// Root and chunk by member, the claim's own among them.
    pub verdicts: BTreeMap<NodeId, (Hash, Hash)>,
    /// When it ends without a decision.
    pub until: Millis,
    /// How it stands.
    pub outcome: Outcome,
}

/// Disputes that are open at a time, and kept for displays.
const OPEN_MAX: usize = 8;
const KEPT: usize = 16;
/// Verdicts are awaited so long.
const WAIT_MS: u64 = 30_000;

impl Dispute {
    /// Whether verdicts are awaited.
    pub fn is_open(&self) -> bool {
        self.outcome == Outcome::Open
    }

    fn decide(&self, active: usize, now: Millis) -> Outcome {
        let claim = &self.claim;
        let most = |says: &dyn Fn(&(Hash, Hash)) -> bool| {
            two_thirds(self.verdicts.values().filter(|verdict| says(verdict)).count(), active)
        };
        if most(&|(root, hash)| *root != claim.root && *hash == claim.hash) {
            Outcome::Upheld
        } else if most(&|(root, _)| *root == claim.root) {
            Outcome::Dismissed
        } else if self.until <= now {
            Outcome::Undecided
        } else {
            Outcome::Open
        }
    }
}

impl Run {
    /// The open dispute of `by`.
    pub fn dispute(&self, by: &NodeId) -> Option<&Dispute> {
        self.disputes.iter().find(|dispute| dispute.by == *by && dispute.is_open())
    }

    pub(crate) fn check_claim(&self, by: &NodeId, claim: &Claim) -> Result<(), Reject> {
        if self.member(by)?.status != Standing::Active {
            return Err(Reject::NotMember);
        }
        match self.roots.get(&claim.version) {
            Some(agreed) if *agreed == claim.root && claim.own != claim.root => {}
            Some(_) => return Err(Reject::WrongRoot),
            None => return Err(Reject::Stale),
        }
        let bytes = self.spec.params.saturating_mul(if self.common_moments() { 12 } else { 4 });
        if u64::from(claim.chunk) >= bytes.div_ceil(CHUNK_BYTES as u64) {
            return Err(Reject::WrongShape);
        }
        let (version, root) = (claim.version, claim.root);
        let same = |d: &&Dispute| d.claim.version == version && d.claim.root == root;
        if self.disputes.iter().filter(same).any(|d| d.by == *by || (d.is_open() && d.claim.hash == claim.hash)) {
            return Err(Reject::Duplicate);
        }
        if self.dispute(by).is_some() {
            return Err(Reject::TooMany);
        }
        if self.disputes.iter().filter(|dispute| dispute.is_open()).count() >= OPEN_MAX {
            return Err(Reject::Full);
        }
        Ok(())
    }

    pub(crate) fn claim(&mut self, now: Millis, by: &NodeId, claim: &Claim) {
        let verdicts = BTreeMap::from([(*by, (claim.own, claim.hash))]);
        let until = later(now, WAIT_MS);
        self.disputes.push_back(Dispute { by: *by, claim: claim.clone(), verdicts, until, outcome: Outcome::Open });
        // An open one is never the oldest of so many.
        if self.disputes.len() > KEPT {
            self.disputes.pop_front();
        }
    }

    pub(crate) fn check_verdict(&self, by: &NodeId, verdict: &DisputeVerdict) -> Result<(), Reject> {
        if self.member(by)?.status != Standing::Active {
            return Err(Reject::NotMember);
        }
        let dispute = self.dispute(&verdict.by).filter(|dispute| dispute.claim.version == verdict.version);
        let dispute = dispute.ok_or(Reject::Stale)?;
        if dispute.verdicts.contains_key(by) { Err(Reject::Duplicate) } else { Ok(()) }
    }

    pub(crate) fn verdict(&mut self, by: &NodeId, verdict: &DisputeVerdict) {
        let open = self.disputes.iter_mut().find(|dispute| dispute.by == verdict.by && dispute.is_open());
        if let Some(dispute) = open {
            dispute.verdicts.insert(*by, (verdict.root, verdict.hash));
        }
    }

    /// Decides what can be decided.
    pub(crate) fn decide(&mut self, now: Millis, events: &mut Vec<RunEvent>) {
        for i in 0..self.disputes.len() {
            let dispute = &self.disputes[i];
            if !dispute.is_open() {
                continue;
            }
            let (by, version, root) = (dispute.by, dispute.claim.version, dispute.claim.root);
            let outcome = dispute.decide(self.active(), now);
            match outcome {
                Outcome::Open => continue,
                Outcome::Upheld => self.strike(version, &root, events),
                // Everybody had to answer: a machine that computes wrongly is not asked again at once.
                Outcome::Dismissed => self.fault(&by, FAULTS_MIN, events),
                Outcome::Undecided => {}
            }
            self.disputes[i].outcome = outcome;
            events.push(RunEvent::Disputed(self.id, by, outcome));
        }
    }

    /// A root was proved false, and with it what was built on it.
    fn strike(&mut self, version: u64, root: &Hash, events: &mut Vec<RunEvent>) {
        if self.roots.get(&version) == Some(root) {
            self.roots.split_off(&version);
        }
        let open = self.open.iter().map(|round| (round.base, &round.commits));
        let rounds = open.chain(self.closed.iter().map(|closed| (closed.base, &closed.commits)));
        let commits = rounds.filter(|(base, _)| *base == version).flat_map(|(_, commits)| commits);
        let attests = self.open.iter().filter(|round| round.base == version).flat_map(|round| &round.attests);
        let by_commit = commits.filter(|(_, commit)| commit.root == *root).map(|(id, _)| *id);
        let by_attest = attests.filter(|(_, attest)| attest.root == *root).map(|(id, _)| *id);
        // By commit and by attestation: it is one fault.
        let false_witnesses: BTreeSet<NodeId> = by_commit.chain(by_attest).collect();
        for id in false_witnesses {
            self.fault(&id, FAULTS_MIN, events);
        }
    }
}

wire_struct!(Dispute { by, claim, verdicts, until, outcome });
