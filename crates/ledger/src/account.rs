//! What one key owns.

use crate::Credits;
use base::{Millis, NodeId, Reader, Wire, WireError, wire_struct};
use std::collections::{BTreeMap, VecDeque};

/// Unbondings of an account under way at a time.
pub const UNBONDINGS_MAX: usize = 8;
/// Providers to whom an account has allotted at a time.
pub const ALLOTMENTS_MAX: usize = 64;

/// Everything that belongs to one key. Its parts together with those of all others are the supply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Free to use.
    pub balance: Credits,
    /// Stands for good conduct.
    pub bond: Credits,
    /// On its way from the bond to the balance; may still be slashed.
    pub unbonding: Vec<Unbonding>,
    /// Earnings of the last units, oldest first, that may still be forfeited.
    pub locked: VecDeque<Credits>,
    /// Set aside for providers, not allotted.
    pub deposit: Credits,
    /// What each provider may redeem vouchers against.
    pub allotments: BTreeMap<NodeId, Allotment>,
    /// Serial of the next allotment.
    pub serial: u64,
    /// Running number of the next wallet transaction.
    pub wallet_nonce: u64,
}

/// A part of the bond that becomes free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unbonding {
    /// How much.
    pub amount: Credits,
    /// When.
    pub at: Millis,
}

wire_struct!(Unbonding { amount, at });

/// What one provider may redeem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allotment {
    /// Vouchers name it: those for an earlier allotment to the same provider are worth nothing here.
    pub serial: u64,
    /// Redeemed so far.
    pub paid: Credits,
    /// What is left.
    pub left: Credits,
    /// When what is left goes back to the client, who asked for it.
    pub closing: Option<Millis>,
}

wire_struct!(Allotment { serial, paid, left, closing });

impl Account {
    /// When something of it becomes free.
    pub(crate) fn due(&self) -> impl Iterator<Item = Millis> {
        let closing = self.allotments.values().filter_map(|allotment| allotment.closing);
        self.unbonding.iter().map(|part| part.at).chain(closing)
    }

    /// All of it.
    pub fn total(&self) -> u128 {
        let unbonding: u128 = self.unbonding.iter().map(|part| part.amount).sum();
        let locked: u128 = self.locked.iter().copied().sum();
        let allotted: u128 = self.allotments.values().map(|allotment| allotment.left).sum();
        let free: u128 = [self.balance, self.bond, self.deposit].into_iter().sum();
        [free, unbonding, locked, allotted].into_iter().sum()
    }
}

/// Units whose earnings stay locked, at most; a bound of the format.
pub(crate) const LOCKED_MAX: usize = 4096;

impl Wire for Account {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.balance, self.bond).encode(out);
        self.unbonding.encode(out);
        (self.locked.len() as u32).encode(out);
        self.locked.iter().for_each(|amount| amount.encode(out));
        self.deposit.encode(out);
        (self.allotments.len() as u32).encode(out);
        for (payee, allotment) in &self.allotments {
            payee.encode(out);
            allotment.encode(out);
        }
        (self.serial, self.wallet_nonce).encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (balance, bond) = Wire::decode(input)?;
        let unbonding = input.list(UNBONDINGS_MAX)?;
        let locked = input.list::<Credits>(LOCKED_MAX)?.into();
        let deposit = Wire::decode(input)?;
        let list: Vec<(NodeId, Allotment)> = input.list(ALLOTMENTS_MAX)?;
        if !list.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(WireError::Invalid("allotments"));
        }
        let (serial, wallet_nonce) = Wire::decode(input)?;
        let allotments = list.into_iter().collect();
        Ok(Self { balance, bond, unbonding, locked, deposit, allotments, serial, wallet_nonce })
    }
}
