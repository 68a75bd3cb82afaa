//! What validators say beside blocks: votes on new money, and evidence against each other.

use super::{Entry, Happened, State};
use crate::block::{Block, EVIDENCE_DOMAIN, Evidence, Tx, VOTE_DOMAIN, Vote};
use crate::certificate::accused;
use base::{NodeId, Reject, Signed};

/// Votes of a validator in one epoch: enough for a word on a quarter of all runs that there may be, every hour.
/// Votes are free, and stay on every disk.
const VOTES_MAX: u64 = 256;

impl State {
    /// Whether a validator's key may have voted on blocks of this epoch already: it proposed a final one, or was in
    /// the set of the epoch before, too; or it signed a vote on new money or evidence at any time. A machine that has
    /// this key but no record of its votes must not go on with it. An epoch's votes bind in that epoch alone. To be
    /// asked when the state has caught up with the chain.
    pub fn has_voted(&self, key: &NodeId) -> bool {
        self.epoch.has_proposed(key) || self.epoch.before.contains(key) || self.vote_seqs.contains_key(key)
    }

    /// Pieces of evidence that a block carries at most: as many as validators of the set can be dishonest. Each costs
    /// everybody several signatures to check.
    pub(crate) fn evidence_max(&self) -> usize {
        (self.epoch.set.len().saturating_sub(1) / 3).max(1)
    }

    /// Asserts that a block carries no more evidence than it may, and none that proves nothing: that is wrong for
    /// everybody and for ever, so its proposer is wrong with all of the block.
    pub(super) fn check_accusations(&self, block: &Block) -> Result<(), Reject> {
        let accusations = block.txs.iter().filter(|tx| matches!(tx, Tx::Evidence { .. })).count();
        if accusations > self.evidence_max() {
            return Err(Reject::TooMany);
        }
        for tx in &block.txs {
            let Tx::Evidence { evidence } = tx else { continue };
            // What came too late, or was said before, is refused alone.
            if let Err(reject @ (Reject::Malformed | Reject::Oversized | Reject::WrongShape | Reject::BadSignature)) =
                self.check_evidence(evidence)
            {
                return Err(reject);
            }
        }
        Ok(())
    }

    pub(super) fn check_vote(&self, vote: &Signed<Vote>) -> Result<(), Reject> {
        if vote.value.chain != self.chain {
            return Err(Reject::WrongChain);
        }
        self.check_voter(&vote.by, vote.value.seq)?;
        if self.epoch.votes(&vote.by) >= VOTES_MAX {
            return Err(Reject::TooMany);
        }
        if !self.runs.runs.contains_key(&vote.value.run) {
            return Err(Reject::UnknownRun);
        }
        if vote.verify(VOTE_DOMAIN) { Ok(()) } else { Err(Reject::BadSignature) }
    }

    pub(super) fn vote(&mut self, vote: &Signed<Vote>) -> Result<(), Reject> {
        self.check_vote(vote)?;
        let Vote { seq, run, share_permille, .. } = vote.value;
        self.vote_seqs.insert(vote.by, seq);
        self.epoch.count_vote(&vote.by);
        self.votes.entry(run).or_default().insert(vote.by, share_permille);
        self.touched.extend([Entry::Votes(run), Entry::Voter(vote.by), Entry::Epoch]);
        Ok(())
    }

    /// Validators speak in a lane of their own.
    fn check_voter(&self, by: &NodeId, seq: u64) -> Result<(), Reject> {
        if !self.epoch.set.contains(by) {
            return Err(Reject::NotCommittee);
        }
        if self.vote_seqs.get(by).is_some_and(|last| seq <= *last) { Err(Reject::Stale) } else { Ok(()) }
    }

    /// Whom the evidence convicts, and whose bond that is.
    pub(super) fn check_evidence(&self, evidence: &Signed<Evidence>) -> Result<(NodeId, NodeId), Reject> {
        if evidence.value.chain != self.chain {
            return Err(Reject::WrongChain);
        }
        self.check_voter(&evidence.by, evidence.value.seq)?;
        if !evidence.verify(EVIDENCE_DOMAIN) {
            return Err(Reject::BadSignature);
        }
        let Evidence { epoch, votes, .. } = &evidence.value;
        let set = match self.epoch.number.checked_sub(*epoch) {
            Some(0) => &self.epoch.set,
            Some(1) => &self.epoch.before,
            _ => return Err(Reject::Stale),
        };
        let key = accused(&self.chain, *epoch, set, votes)?;
        // Once for each seat, also for one that is leaving or left: the bond is still on its way out.
        let owner = self.epoch.accountable(&key).ok_or(Reject::Duplicate)?;
        Ok((key, owner))
    }

    pub(super) fn convict(&mut self, evidence: &Signed<Evidence>) -> Result<Happened, Reject> {
        let (key, owner) = self.check_evidence(evidence)?;
        self.vote_seqs.insert(evidence.by, evidence.value.seq);
        self.touched.insert(Entry::Voter(evidence.by));
        let prover = self.money.seat(&evidence.by).map(|seat| seat.owner);
        let bond = self.money.params().seat_bond;
        self.money.drop_seat(&key);
        self.epoch.convict(key);
        self.touched.insert(Entry::Epoch);
        let amount = self.money.slash(&owner, bond, None, prover.as_ref());
        Ok(Happened::Slashed { seat: key, owner, amount })
    }
}
