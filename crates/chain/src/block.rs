//! What validators put in order.

use base::{Hash, Millis, NodeId, Reader, Signed, Wire, WireError, wire_enum, wire_struct};
use ledger::Credits;

/// Domain of signatures on votes.
pub const VOTE_DOMAIN: &str = "talkoo 2026 vote v1";
/// A block carries at most this many transactions.
pub const BLOCK_TXS_MAX: usize = 4096;
/// And is at most this long.
pub const BLOCK_BYTES_MAX: usize = 4 << 20;
/// A transaction is at most this long: the longest carries a run with its configuration.
pub const TX_BYTES_MAX: usize = 1 << 18;

/// Anything that the chain orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tx {
    /// Of a run: the worker's lane, no fee.
    Work {
        /// With its signature.
        tx: swarm::SignedTx,
    },
    /// Of a wallet.
    Wallet {
        /// With its signature.
        tx: ledger::SignedTx,
    },
    /// A validator's vote on which runs earn new money.
    Vote {
        /// With its signature.
        vote: Signed<Vote>,
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

/// A block. Its place is fixed by its parent, its effect by the root behind the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// From 1; the genesis is 0.
    pub height: u64,
    /// Hash of the block before it.
    pub parent: Hash,
    /// Unix time that the proposer saw, strictly rising.
    pub time: Millis,
    /// Root of the state behind the parent.
    pub root: Hash,
    /// In order.
    pub txs: Vec<Tx>,
}

wire_enum!(Tx { 0 => Work { tx }, 1 => Wallet { tx }, 2 => Vote { vote } });
wire_struct!(Vote { chain, seq, run, share_permille });

impl Tx {
    /// Who signed it.
    pub fn by(&self) -> NodeId {
        match self {
            Self::Work { tx } => tx.by,
            Self::Wallet { tx } => tx.by,
            Self::Vote { vote } => vote.by,
        }
    }

    /// What kind of transaction it is, for displays.
    pub fn kind(&self) -> &'static str {
        use ledger::Tx as Wallet;
        use swarm::Tx as Work;
        match self {
            Self::Vote { .. } => "vote",
            Self::Work { tx } => match &tx.value.tx {
                Work::Create { .. } => "create",
                Work::Join { .. } => "join",
                Work::Ready { .. } => "ready",
                Work::Leave { .. } => "leave",
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
            },
        }
    }

    /// Whether its signature is its signer's.
    pub(crate) fn is_signed(&self) -> bool {
        match self {
            Self::Work { tx } => tx.verify(swarm::DOMAIN),
            Self::Wallet { tx } => tx.verify(ledger::DOMAIN),
            Self::Vote { vote } => vote.verify(VOTE_DOMAIN),
        }
    }

    /// Its name: equal bytes, equal transaction.
    pub fn hash(&self) -> Hash {
        Hash::of("talkoo 2026 chain transaction v1", &self.to_bytes())
    }
}

impl Block {
    /// The hash that validators vote on.
    pub fn hash(&self) -> Hash {
        Hash::of("talkoo 2026 block v1", &self.to_bytes())
    }

    /// The part that concerns runs.
    pub fn work(&self) -> swarm::Block {
        let work = |tx: &Tx| if let Tx::Work { tx } = tx { Some(tx.clone()) } else { None };
        swarm::Block { height: self.height, time: self.time, txs: self.txs.iter().filter_map(work).collect() }
    }
}

impl Wire for Block {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.height, self.parent).encode(out);
        (self.time, self.root).encode(out);
        self.txs.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (height, parent) = Wire::decode(input)?;
        let (time, root) = Wire::decode(input)?;
        Ok(Self { height, parent, time, root, txs: input.list(BLOCK_TXS_MAX)? })
    }
}

/// How a network begins. A genesis is a network: its hash names the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// For people.
    pub name: String,
    /// When it was made; no block is older.
    pub time: Millis,
    /// The first validators, one seat each: their consensus keys.
    pub validators: Vec<NodeId>,
    /// Opening balances, the faucet's among them.
    pub opening: Vec<(NodeId, Credits)>,
    /// Rules of the money; its chain id is that of this genesis.
    pub money: ledger::Params,
    /// Micro-credits of new money for 10^15 reference floating-point operations.
    pub per_pflop: Credits,
}

wire_struct!(Genesis { name, time, validators, opening, money, per_pflop });

impl Genesis {
    /// The chain's name.
    pub fn chain(&self) -> Hash {
        let money = ledger::Params { chain: Hash::default(), ..self.money.clone() };
        Hash::of("talkoo 2026 genesis v1", &Self { money, ..self.clone() }.to_bytes())
    }

    /// The block that stands for it: the parent of the first.
    pub fn block(&self) -> Block {
        Block { height: 0, parent: self.chain(), time: self.time, root: Hash::default(), txs: Vec::new() }
    }
}
