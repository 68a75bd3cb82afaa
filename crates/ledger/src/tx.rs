//! What the owner of an account can say.

use crate::Credits;
use base::{Hash, NodeId, Reader, Signed, Wire, WireError, wire_enum, wire_struct};

/// Domain of signatures on transactions.
pub const DOMAIN: &str = "talkoo 2026 wallet transaction v1";
/// Domain of a validator key's signature on whose seat it is.
pub const SEAT_DOMAIN: &str = "talkoo 2026 seat claim v1";
/// Domain of signatures on vouchers.
pub const VOUCHER_DOMAIN: &str = "talkoo 2026 voucher v1";
/// Providers that one transaction allots to.
pub const ALLOT_MAX: usize = 32;

/// A transaction with its signer.
pub type SignedWalletTx = Signed<WalletEnvelope>;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletEnvelope {
    /// The chain it is meant for.
    pub chain: Hash,
    /// The account's running number: each is used once, in order.
    pub nonce: u64,
    /// What is to be done.
    pub tx: WalletTx,
}

wire_struct!(WalletEnvelope { chain, nonce, tx });

/// A wallet transaction. Each costs the fee, which is burned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalletTx {
    /// Balance to balance.
    Transfer {
        /// To whom.
        to: NodeId,
        /// How much.
        amount: Credits,
    },
    /// Balance to bond.
    Bond {
        /// How much.
        amount: Credits,
    },
    /// Bond to balance, after the unbonding delay; the fee is taken out of it.
    Unbond {
        /// How much.
        amount: Credits,
    },
    /// Balance to the budget of a run.
    Fund {
        /// The run.
        pot: Hash,
        /// How much.
        amount: Credits,
    },
    /// Balance to deposit.
    Deposit {
        /// How much.
        amount: Credits,
    },
    /// Deposit, as far as it is not allotted, to balance; the fee is taken out of it.
    Withdraw {
        /// How much.
        amount: Credits,
    },
    /// Parts of the deposit to providers, ahead of need.
    Allot {
        /// To whom, how much; each provider once.
        parts: Allotments,
    },
    /// Pays a provider what a voucher says beyond what was paid before. Anyone may. The fee is taken out of it where
    /// the provider signs, and is the signer's where somebody else does.
    Redeem {
        /// The client's word.
        voucher: Signed<Voucher>,
    },
    /// The client wants back what is left of an allotment; takes effect after a delay, in which vouchers are redeemed.
    Close {
        /// Allotted to whom.
        payee: NodeId,
    },
    /// A part of the bond stands for a validator's key, from the next epoch on.
    Seat {
        /// The key's own word that it is the signer's.
        claim: Signed<SeatClaim>,
    },
    /// A seat is given up at the end of the epoch.
    Unseat {
        /// The validator's key.
        key: NodeId,
    },
    /// The provider gives back at once what is left of its allotment.
    Release {
        /// Allotted by whom.
        client: NodeId,
    },
}

wire_enum!(WalletTx {
    0 => Transfer { to, amount },
    1 => Bond { amount },
    2 => Unbond { amount },
    3 => Fund { pot, amount },
    4 => Deposit { amount },
    5 => Withdraw { amount },
    6 => Allot { parts },
    7 => Redeem { voucher },
    8 => Close { payee },
    9 => Release { client },
    10 => Seat { claim },
    11 => Unseat { key },
});

/// A bounded list of providers and amounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allotments(pub Vec<(NodeId, Credits)>);

impl Wire for Allotments {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.list(ALLOT_MAX).map(Self)
    }
}

/// A validator key's word of whose bond stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatClaim {
    /// The chain.
    pub chain: Hash,
    /// The account.
    pub owner: NodeId,
    /// The node that will vote with it.
    pub node: NodeId,
}

wire_struct!(SeatClaim { chain, owner, node });

/// A client's word that a provider has earned so much, all in all. The last one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    /// The chain on which it is worth something.
    pub chain: Hash,
    /// Who has earned it.
    pub payee: NodeId,
    /// The allotment it is drawn on.
    pub serial: u64,
    /// Earned since that allotment was made.
    pub total: Credits,
}

wire_struct!(Voucher { chain, payee, serial, total });
