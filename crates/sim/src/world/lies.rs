//! Dishonest members, each a few lines over an honest machine.

use super::World;
use crate::scenario::Liar;
use base::{Hash, Reject, Round, Signed};
use swarm::{Attest, Candidate, Commit, DOMAIN, DisputeVerdict, SignedWorkTx, Standing, WorkEnvelope, WorkTx};

/// The lie about a root.
fn false_root(root: &Hash) -> Hash {
    Hash::of("sim lie", &root.0)
}

impl World {
    /// Whether honest members are more than two thirds of the active ones: nothing is promised otherwise.
    pub fn may_lie(&self) -> bool {
        let (honest, active) = self.honest_of_active();
        honest > 2 * (active - honest)
    }

    /// Whether most active members are honest: whoever says nothing is put out by more than half.
    fn may_be_mute(&self) -> bool {
        let (honest, active) = self.honest_of_active();
        2 * honest > active
    }

    fn honest_of_active(&self) -> (usize, usize) {
        let active = self.log_run().members.iter().filter(|(_, member)| member.status == Standing::Active);
        let active: Vec<usize> = active.filter_map(|(id, _)| self.index.get(id).copied()).collect();
        let honest = active.iter().filter(|i| self.nodes[**i].honest()).count();
        (honest, active.len())
    }

    /// Changes what a liar commits to.
    pub fn falsify(&mut self, i: usize, commit: &mut Commit) {
        if commit.size == 0 || !self.may_lie() {
            return;
        }
        match self.nodes[i].part.liar {
            Some(Liar::WrongRoot | Liar::FalseRoot) => {
                commit.root = false_root(&commit.root);
                self.watch.lies += 1;
            }
            Some(Liar::Copier) => {
                let open = self.log_run().open.iter().find(|open| open.round == commit.round);
                let other = open.and_then(|open| open.commits.values().next()).map(|other| other.update);
                if let Some(update) = other {
                    commit.update = update;
                    self.watch.copied.insert((i, update));
                    self.watch.lies += 1;
                }
            }
            _ => {}
        }
    }

    /// How a liar answers who wants an update that an honest member would give.
    pub fn withholds(&self, i: usize, candidate: &Candidate) -> Option<Reject> {
        let node = &self.nodes[i];
        let lie = match node.part.liar {
            Some(Liar::Silent) if candidate.member == node.id => Reject::NotHeld,
            Some(Liar::WrongBytes) => Reject::WrongHash,
            _ => return None,
        };
        self.may_lie().then_some(lie)
    }

    /// What a false witness says in place of what its machine would say, if anything.
    pub fn bear_false_witness(&mut self, i: usize, tx: WorkTx) -> Option<WorkTx> {
        Some(match tx {
            WorkTx::Attest { .. } if self.nodes[i].lies(Liar::Mute) && self.may_be_mute() => {
                self.watch.lies += 1;
                return None;
            }
            WorkTx::Attest { attest } if self.nodes[i].lies(Liar::Stingy) => {
                self.watch.lies += 1;
                let held = self.own_alone(i, &attest);
                WorkTx::Attest { attest: Attest { held, ..attest } }
            }
            WorkTx::Attest { attest } if self.nodes[i].lies(Liar::FalseRoot) && self.may_lie() => {
                WorkTx::Attest { attest: Attest { root: false_root(&attest.root), ..attest } }
            }
            WorkTx::Verdict { verdict } if self.nodes[i].lies(Liar::FalseRoot) => {
                let (root, hash) = (false_root(&verdict.root), false_root(&verdict.hash));
                WorkTx::Verdict { verdict: DisputeVerdict { root, hash, ..verdict } }
            }
            tx => tx,
        })
    }

    /// The bits of an attestation that lists nothing but its sender's own update.
    fn own_alone(&self, i: usize, attest: &Attest) -> Vec<u8> {
        let node = &self.nodes[i];
        let run = node.peer.state().runs.get(&self.run);
        let open = run.and_then(|run| run.open.iter().find(|open| open.round == attest.round));
        let mut held = vec![0u8; attest.held.len()];
        for (at, candidate) in open.iter().flat_map(|open| &open.candidates).enumerate().take(8 * held.len()) {
            held[at / 8] |= u8::from(candidate.member == node.id) << (at % 8);
        }
        held
    }

    /// Says that everything is held, as soon as there is something to hold.
    pub fn attest_blindly(&mut self, i: usize, round: Round) {
        let node = &self.nodes[i];
        let Some(run) = node.peer.state().runs.get(&self.run) else { return };
        let Some(open) = run.open.iter().find(|open| open.round == round && open.committee.contains(&node.id)) else {
            return;
        };
        let base = run.spec.base_of(round.0);
        let root = node.held.iter().find(|(version, _)| *version == base).map(|(_, root)| *root);
        let held = vec![0xff; open.candidates.len().div_ceil(8)];
        if let Some(root) = root.filter(|_| self.may_lie()) {
            self.watch.lies += 1;
            self.submit(i, WorkTx::Attest { attest: Attest { run: self.run, round, root, held } });
        }
    }

    /// Sends one of each kind that the log must refuse.
    pub fn forge(&mut self, i: usize) {
        if !self.nodes[i].up {
            return;
        }
        self.watch.lies += 1;
        let (run, next) = (self.run, self.log_run().next);
        let root = Hash::of("sim lie", b"root");
        let far = next.plus(3 + self.rng.below(5));
        let commit = Commit {
            run,
            round: far,
            root,
            class: Hash::default(),
            tokens: 16,
            steps: 1,
            update: root,
            norm_sq_bits: 1f64.to_bits(),
            size: 1,
            state: Hash::default(),
            state_next: root,
            trace: Hash::default(),
            loss_micro: 0,
        };
        let own = [
            WorkTx::Ready { run: root, version: 0, root },
            WorkTx::Join { run: root, class: root },
            WorkTx::Commit { commit },
            WorkTx::Attest { attest: Attest { run, round: far, root, held: vec![0xff] } },
        ];
        for tx in own {
            let tx = self.nodes[i].sign(tx);
            self.send(i, tx, true);
        }
        let victim = self.rng.below(self.nodes.len() as u64) as usize;
        let victim = self.nodes[victim].id;
        let leave = WorkEnvelope { chain: self.scenario.chain, seq: 1 << 60, work: 0, tx: WorkTx::Leave { run } };
        let mine: SignedWorkTx = Signed::new(DOMAIN, &self.nodes[i].key, leave);
        if victim != mine.by {
            self.send(i, Signed { by: victim, ..mine }, true);
        }
        let block = self.rng.below(self.log.blocks.len() as u64) as usize;
        if let Some(heard) = self.log.blocks[block].txs.first().cloned() {
            let mut altered = heard.clone();
            altered.value.seq += 1 << 50;
            self.send(i, heard, true);
            self.send(i, altered, true);
        }
    }
}
