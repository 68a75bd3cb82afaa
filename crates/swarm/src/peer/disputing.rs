//! A node's part in disputes about roots.

use super::acting::Acting;
use super::{Differs, Output};
use crate::state::Dispute;
use crate::{Claim, DisputeVerdict, WorkTx};

impl Acting<'_> {
    /// Own weights against the quorum's. A node that made a version itself never adopts another root for
    /// it: it has the step done again, then opens a dispute and takes no part until that is decided.
    pub(super) fn disputed(&mut self) -> bool {
        let differs = self.part.roots.keys().find_map(|version| {
            let (ours, theirs) = (self.part.made(*version)?, *self.run.roots.get(version)?);
            (theirs != ours).then_some((*version, ours, theirs))
        });
        let Some((version, ours, theirs)) = differs else {
            self.part.differs = None;
            return false;
        };
        let known =
            self.part.differs.filter(|known| (known.version, known.ours, known.theirs) == (version, ours, theirs));
        let Some(known) = known else {
            self.part.differs = Some(Differs { version, ours, theirs, chunk: None });
            let closed = version.checked_sub(1).and_then(|before| self.run.closed_round(before));
            let closed = closed.filter(|closed| closed.plain.is_none()).cloned().map(Box::new);
            let (run, sources) = (self.run.id, self.sources(None));
            self.out.push(Output::Differs { run, version, ours, theirs, closed, sources });
            return true;
        };
        if let Some((chunk, hash)) = known.chunk {
            let same = |dispute: &&Dispute| dispute.claim.version == version && dispute.claim.root == theirs;
            let said = |dispute: &Dispute| dispute.by == self.me || (dispute.is_open() && dispute.claim.hash == hash);
            if !self.run.disputes.iter().filter(same).any(said) {
                let claim = Claim { run: self.run.id, version, root: theirs, own: ours, chunk, hash };
                self.say("dispute", version, WorkTx::Dispute { claim });
            }
        }
        true
    }

    /// Says what the own apply gave where others dispute.
    pub(super) fn help_decide(&mut self) {
        let run = self.run;
        self.part.chunks.retain(|by, _| run.dispute(by).is_some());
        for dispute in run.disputes.iter().filter(|dispute| dispute.is_open()) {
            let (by, version) = (dispute.by, dispute.claim.version);
            let Some(root) = self.part.made(version) else { continue };
            if dispute.verdicts.contains_key(&self.me) {
                continue;
            }
            match self.part.chunks.get(&by) {
                None => {
                    self.part.chunks.insert(by, None);
                    self.out.push(Output::Chunk { run: run.id, by, version, chunk: dispute.claim.chunk });
                }
                Some(None) => {}
                Some(Some(hash)) => {
                    let verdict = DisputeVerdict { run: run.id, by, version, root, hash: *hash };
                    self.say("verdict", version, WorkTx::Verdict { verdict });
                }
            }
        }
    }
}
