//! What is written on the log.

use crate::Spec;
use base::{Hash, Millis, NodeId, Reader, Round, Signed, Wire, WireError, wire_enum, wire_struct};

/// Domain of signatures on transactions.
pub const DOMAIN: &str = "talkoo 2026 transaction v1";

/// Names a run: [`Spec::id`].
pub type RunId = Hash;

/// A transaction with its signer and the signer's running number.
pub type SignedWorkTx = Signed<WorkEnvelope>;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkEnvelope {
    /// The chain it is meant for.
    pub chain: Hash,
    /// Strictly rising per signer: nothing counts twice.
    pub seq: u64,
    /// Proof of work of a transaction that anybody may send; 0 in others.
    pub work: u64,
    /// What is said.
    pub tx: WorkTx,
}

/// Everything a node can say on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkTx {
    /// Begins a run.
    Create {
        /// The run.
        spec: Spec,
    },
    /// Becomes a member, still without weights.
    Join {
        /// Which run.
        run: RunId,
        /// The numeric class in which it computes.
        class: Hash,
    },
    /// Has the agreed weights and takes part from the next round on.
    Ready {
        /// Which run.
        run: RunId,
        /// Version of the weights it holds.
        version: u64,
        /// Their root.
        root: Hash,
    },
    /// Takes no further part.
    Leave {
        /// Which run.
        run: RunId,
    },
    /// A finished unit.
    Commit {
        /// The commitment.
        commit: Commit,
    },
    /// What a committee member holds.
    Attest {
        /// The attestation.
        attest: Attest,
    },
    /// The sender's own apply contradicts a root that a quorum reported.
    Dispute {
        /// What it says.
        claim: Claim,
    },
    /// What the sender's own apply gave where another disputes.
    Verdict {
        /// What it says.
        verdict: DisputeVerdict,
    },
    /// Root of the last weights of a run that has all its tokens.
    Final {
        /// Which run.
        run: RunId,
        /// Their root.
        root: Hash,
    },
    /// Takes no part until its next [`WorkTx::Ready`]: its owner needs the machine.
    Rest {
        /// Which run.
        run: RunId,
    },
}

/// Commits to a unit before any byte of it moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Which run.
    pub run: RunId,
    /// Which round.
    pub round: Round,
    /// Root of the weights from which it trained.
    pub root: Hash,
    /// Numeric class.
    pub class: Hash,
    /// Tokens done.
    pub tokens: u64,
    /// Inner steps done.
    pub steps: u32,
    /// Chunk-tree root of the update; in a round of one member, root of the new weights.
    pub update: Hash,
    /// Bits of the update's squared norm (f64).
    pub norm_sq_bits: u64,
    /// Bytes of the update; 0 in a round of one member.
    pub size: u64,
    /// Private state before; zero where it is declared lost or empty.
    pub state: Hash,
    /// Private state after.
    pub state_next: Hash,
    /// Root of the step trace.
    pub trace: Hash,
    /// Mean loss in micro-nats per token, for the curve; believed by nobody.
    pub loss_micro: u64,
}

/// Says which updates of a round a committee member holds and found valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// Which run.
    pub run: RunId,
    /// Which round.
    pub round: Round,
    /// Root of the weights from which the round trained.
    pub root: Hash,
    /// Bit i = candidate i, least significant bit of the first byte first.
    pub held: Vec<u8>,
}

/// What the log orders at one height.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkBlock {
    /// From 1, without gaps.
    pub height: u64,
    /// Time of the log, never falling.
    pub time: Millis,
    /// In order.
    pub txs: Vec<SignedWorkTx>,
}

impl WorkEnvelope {
    /// An envelope that `by` may send on a chain whose proof of work has `bits` leading zero bits. Looks for
    /// one where the transaction needs it: about `2^bits` hashes.
    pub fn new(chain: Hash, bits: u32, by: &NodeId, seq: u64, tx: WorkTx) -> Self {
        let mut envelope = Self { chain, seq, work: 0, tx };
        // The transaction, which may be long, is hashed once, however many tries it takes.
        if let Some(said) = envelope.entry() {
            while !envelope.work_pays(&said, by, bits) {
                envelope.work = envelope.work.wrapping_add(1);
            }
        }
        envelope
    }

    /// Whether it costs nothing, for membership entitles to it, or carries its proof of work.
    pub fn is_paid(&self, by: &NodeId, bits: u32) -> bool {
        match self.entry() {
            Some(said) => self.work_pays(&said, by, bits),
            None => self.work == 0,
        }
    }

    /// The hash of a transaction that anybody may send.
    fn entry(&self) -> Option<Hash> {
        matches!(self.tx, WorkTx::Create { .. } | WorkTx::Join { .. })
            .then(|| Hash::of("talkoo 2026 entry v1", &self.tx.to_bytes()))
    }

    /// Whether the proof of work is enough for a transaction with the hash `said`.
    fn work_pays(&self, said: &Hash, by: &NodeId, bits: u32) -> bool {
        let hash = Hash::keyed(
            b"talkoo 2026 entry proof of work.",
            &(*by, ((self.chain, *said), (self.seq, self.work))).to_bytes(),
        );
        // The bits of a hash in order, from the first byte.
        u64::from_be_bytes(hash.0[..8].try_into().expect("eight bytes")).leading_zeros() >= bits
    }
}

impl WorkTx {
    /// The run it is about, where it exists already.
    pub fn run(&self) -> Option<RunId> {
        match self {
            WorkTx::Create { .. } => None,
            WorkTx::Join { run, .. } | WorkTx::Ready { run, .. } | WorkTx::Leave { run } | WorkTx::Rest { run } => {
                Some(*run)
            }
            WorkTx::Commit { commit } => Some(commit.run),
            WorkTx::Attest { attest } => Some(attest.run),
            WorkTx::Dispute { claim } => Some(claim.run),
            WorkTx::Verdict { verdict } => Some(verdict.run),
            WorkTx::Final { run, .. } => Some(*run),
        }
    }
}

/// A block carries at most this many transactions.
pub(crate) const BLOCK_TXS_MAX: usize = 4096;

wire_struct!(WorkEnvelope { chain, seq, work, tx });
wire_enum!(WorkTx {
    0 => Create { spec },
    1 => Join { run, class },
    2 => Ready { run, version, root },
    3 => Leave { run },
    4 => Commit { commit },
    5 => Attest { attest },
    6 => Dispute { claim },
    7 => Verdict { verdict },
    8 => Final { run, root },
    9 => Rest { run },
});
wire_struct!(Commit {
    run,
    round,
    root,
    class,
    tokens,
    steps,
    update,
    norm_sq_bits,
    size,
    state,
    state_next,
    trace,
    loss_micro,
});

impl Wire for Attest {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.run, self.round).encode(out);
        (self.root, self.held.clone()).encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (run, round) = Wire::decode(input)?;
        let root = Wire::decode(input)?;
        // Two rounds of candidates at most: those of the round and those carried over a void one.
        let held = input.bytes(usize::from(crate::spec::SLOTS_MAX) / 4)?.to_vec();
        Ok(Self { run, round, root, held })
    }
}

impl Wire for WorkBlock {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.height, self.time).encode(out);
        self.txs.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (height, time) = Wire::decode(input)?;
        Ok(Self { height, time, txs: input.list(BLOCK_TXS_MAX)? })
    }
}

/// Says that the root that a quorum reported is not what the set makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which run.
    pub run: RunId,
    /// Version of the weights.
    pub version: u64,
    /// The quorum's root.
    pub root: Hash,
    /// What the sender computed.
    pub own: Hash,
    /// The first chunk that differs; 0 where nobody gave the quorum's.
    pub chunk: u32,
    /// Its hash as the sender computed it.
    pub hash: Hash,
}

/// What another member got by its own apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisputeVerdict {
    /// Which run.
    pub run: RunId,
    /// Whose claim.
    pub by: NodeId,
    /// Version of the weights.
    pub version: u64,
    /// Their root.
    pub root: Hash,
    /// Hash of the disputed chunk.
    pub hash: Hash,
}

wire_struct!(Claim { run, version, root, own, chunk, hash });
wire_struct!(DisputeVerdict { run, by, version, root, hash });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_of_work_is_found_for_what_anybody_may_send_and_holds_for_its_sender_only() {
        let (ann, bob) = (NodeId([1; 32]), NodeId([2; 32]));
        let spec = Spec::plain("x", "c".repeat(1 << 16), 1, Hash::default());
        for tx in [WorkTx::Create { spec }, WorkTx::Join { run: Hash::default(), class: Hash::default() }] {
            let paid = WorkEnvelope::new(Hash::default(), 12, &ann, 1, tx);
            assert!(paid.work > 0 && paid.is_paid(&ann, 12), "{} tries", paid.work);
            assert!(!paid.is_paid(&bob, 12) && !WorkEnvelope { seq: 2, ..paid.clone() }.is_paid(&ann, 12));
            assert!(!WorkEnvelope { chain: Hash([1; 32]), ..paid }.is_paid(&ann, 12));
        }
        let rest = WorkEnvelope::new(Hash::default(), 12, &ann, 1, WorkTx::Rest { run: Hash::default() });
        assert!(rest.work == 0 && rest.is_paid(&ann, 12) && !WorkEnvelope { work: 1, ..rest }.is_paid(&ann, 12));
    }
}
