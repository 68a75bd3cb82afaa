//! What validators put in order.

use crate::limits::{BLOCK_TXS_MAX, SET_MAX};
use base::{Hash, Millis, NodeId, Reader, Signed, Wire, WireError, wire_enum, wire_struct};

/// Domain of signatures on votes.
pub const VOTE_DOMAIN: &str = "talkoo 2026 vote v1";
/// Domain of signatures on evidence.
pub const EVIDENCE_DOMAIN: &str = "talkoo 2026 evidence v1";
/// Anything that the chain orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tx {
    /// Of a run: the worker's lane, no fee.
    Work {
        /// With its signature.
        tx: swarm::SignedWorkTx,
    },
    /// Of a wallet.
    Wallet {
        /// With its signature.
        tx: ledger::SignedWalletTx,
    },
    /// A validator's vote on which runs earn new money.
    Vote {
        /// With its signature.
        vote: Signed<Vote>,
    },
    /// Evidence against a validator.
    Evidence {
        /// Told by a validator.
        evidence: Signed<Evidence>,
    },
}

/// A validator's word on a run's part of new money. The last one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// On which chain.
    pub chain: Hash,
    /// Strictly rising per validator.
    pub seq: u64,
    /// Which run.
    pub run: Hash,
    /// Of 1,000 parts of what may be issued in a round's time, at most how many go to it; 0 = none.
    pub share_permille: u16,
}

/// Two votes of one validator that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// On which chain.
    pub chain: Hash,
    /// Strictly rising per validator, with its votes.
    pub seq: u64,
    /// Of which epoch: this one or the one before.
    pub epoch: u64,
    /// Both votes, in the engine's encoding.
    pub votes: Vec<u8>,
}

/// A block: what validators sign, and what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its place and its maker; names the transactions.
    pub header: Header,
    /// In order.
    pub txs: Vec<Tx>,
}

/// What validators sign of a block, by its hash. Its place is fixed by its parent, its effect by the root
/// behind the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// From 1; the genesis is 0.
    pub height: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Names the validators of that epoch.
    pub set: Hash,
    /// Hash of the block before it.
    pub parent: Hash,
    /// Unix time that the proposer saw, strictly rising.
    pub time: Millis,
    /// Root of the state behind the parent.
    pub root: Hash,
    /// The validator that proposed it.
    pub by: NodeId,
    /// Validators from which that one heard nothing of late, sorted.
    pub missing: Vec<NodeId>,
    /// In the last block of an epoch: the validators of the next one, sorted.
    pub next: Option<Vec<NodeId>>,
    /// Hash of the transactions.
    pub txs: Hash,
}

wire_enum!(Tx { 0 => Work { tx }, 1 => Wallet { tx }, 2 => Vote { vote }, 3 => Evidence { evidence } });

impl Tx {
    /// Who signed it.
    pub fn by(&self) -> NodeId {
        match self {
            Self::Work { tx } => tx.by,
            Self::Wallet { tx } => tx.by,
            Self::Vote { vote } => vote.by,
            Self::Evidence { evidence } => evidence.by,
        }
    }

    /// What kind of transaction it is, for displays.
    pub fn kind(&self) -> &'static str {
        use ledger::WalletTx as Wallet;
        use swarm::WorkTx as Work;
        match self {
            Self::Vote { .. } => "vote",
            Self::Evidence { .. } => "evidence",
            Self::Work { tx } => match &tx.value.tx {
                Work::Create { .. } => "create",
                Work::Join { .. } => "join",
                Work::Ready { .. } => "ready",
                Work::Leave { .. } => "leave",
                Work::Rest { .. } => "rest",
                Work::Commit { .. } => "commit",
                Work::Attest { .. } => "attest",
                Work::Dispute { .. } => "dispute",
                Work::Verdict { .. } => "verdict",
                Work::Final { .. } => "final",
            },
            Self::Wallet { tx } => match &tx.value.tx {
                Wallet::Transfer { .. } => "transfer",
                Wallet::Bond { .. } => "bond",
                Wallet::Unbond { .. } => "unbond",
                Wallet::Fund { .. } => "fund",
                Wallet::Deposit { .. } => "deposit",
                Wallet::Withdraw { .. } => "withdraw",
                Wallet::Allot { .. } => "allot",
                Wallet::Redeem { .. } => "redeem",
                Wallet::Close { .. } => "close",
                Wallet::Release { .. } => "release",
                Wallet::Seat { .. } => "seat",
                Wallet::Unseat { .. } => "unseat",
            },
        }
    }

    /// Whether its signature is its signer's.
    pub(crate) fn is_signed(&self) -> bool {
        match self {
            Self::Work { tx } => tx.verify(swarm::DOMAIN),
            Self::Wallet { tx } => tx.verify(ledger::DOMAIN),
            Self::Vote { vote } => vote.verify(VOTE_DOMAIN),
            Self::Evidence { evidence } => evidence.verify(EVIDENCE_DOMAIN),
        }
    }

    /// Its name: equal bytes, equal transaction.
    pub fn hash(&self) -> Hash {
        Hash::of("talkoo 2026 chain transaction v1", &self.to_bytes())
    }
}

impl Block {
    /// A block of these transactions; the header is made to name them.
    pub fn new(header: Header, txs: Vec<Tx>) -> Self {
        Self { header: Header { txs: txs_hash(&txs), ..header }, txs }
    }

    /// The hash that validators vote on.
    pub fn hash(&self) -> Hash {
        self.header.hash()
    }

    /// The part that concerns runs.
    pub fn work(&self) -> swarm::WorkBlock {
        let work = |tx: &Tx| if let Tx::Work { tx } = tx { Some(tx.clone()) } else { None };
        let txs = self.txs.iter().filter_map(work).collect();
        swarm::WorkBlock { height: self.header.height, time: self.header.time, txs }
    }
}

fn txs_hash(txs: &Vec<Tx>) -> Hash {
    Hash::of("talkoo 2026 block transactions v1", &txs.to_bytes())
}

impl Header {
    /// The hash that validators vote on.
    pub fn hash(&self) -> Hash {
        Hash::of("talkoo 2026 block v2", &self.to_bytes())
    }
}

impl Wire for Header {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.height, self.epoch).encode(out);
        (self.set, self.parent).encode(out);
        (self.time, self.root).encode(out);
        (self.by, self.missing.clone()).encode(out);
        (self.next.clone(), self.txs).encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (height, epoch) = Wire::decode(input)?;
        let (set, parent) = Wire::decode(input)?;
        let (time, root) = Wire::decode(input)?;
        let by = Wire::decode(input)?;
        let missing = input.list(SET_MAX)?;
        let next = if bool::decode(input)? { Some(input.list(SET_MAX)?) } else { None };
        Ok(Self { height, epoch, set, parent, time, root, by, missing, next, txs: Wire::decode(input)? })
    }
}

impl Wire for Block {
    fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        self.txs.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let header = Header::decode(input)?;
        let txs = input.list(BLOCK_TXS_MAX)?;
        // Whoever has a block has the transactions that its header names.
        if txs_hash(&txs) == header.txs { Ok(Self { header, txs }) } else { Err(WireError::Invalid("block")) }
    }
}

wire_struct!(Vote { chain, seq, run, share_permille });
wire_struct!(Evidence { chain, seq, epoch, votes });
