//! Seats of validators: for each a fixed part of somebody's bond stands.

use super::Ledger;
use crate::Credits;
use crate::tx::{SEAT_DOMAIN, SeatClaim};
use base::{Hash, NodeId, Reject, Signed, wire_struct};

/// Seats that a network has at most, those that wait for a place included.
pub const SEATS_MAX: usize = 256;

/// A validator's key that may order blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Whose bond stands for it.
    pub owner: NodeId,
    /// The node that votes with it, to find it by.
    pub node: NodeId,
    /// Taken in this order.
    pub serial: u64,
    /// Given up, or dropped: out at the end of the epoch.
    pub leaving: bool,
}

wire_struct!(Seat { owner, node, serial, leaving });

impl Ledger {
    /// Every seat by its key.
    pub fn seats(&self) -> impl Iterator<Item = (&NodeId, &Seat)> {
        self.seats.iter()
    }

    /// The seat of a validator's key.
    pub fn seat(&self, key: &NodeId) -> Option<&Seat> {
        self.seats.get(key)
    }

    /// A seat is to go at the end of the epoch, whatever its owner says.
    pub fn drop_seat(&mut self, key: &NodeId) {
        if let Some(seat) = self.seats.get(key).copied() {
            self.set_seat(*key, Some(Seat { leaving: true, ..seat }));
        }
    }

    /// A seat is out of the set: its bond is free for other use.
    pub fn free_seat(&mut self, key: &NodeId) {
        if self.seats.contains_key(key) {
            self.set_seat(*key, None);
        }
    }

    /// Every seat is given up at once, and the books are those of another chain: a network that goes on after its
    /// validators are gone.
    pub fn begin_anew(&mut self, chain: Hash) {
        let keys: Vec<NodeId> = self.seats.keys().copied().collect();
        keys.iter().for_each(|key| self.free_seat(key));
        self.params.chain = chain;
    }

    /// A seat of the genesis: its bond is taken from the opening balance of its owner.
    pub fn found_seat(&mut self, key: NodeId, owner: NodeId, node: NodeId) -> Result<(), Reject> {
        let bond = self.params.seat_bond;
        if self.seats.contains_key(&key) || self.seats.len() >= SEATS_MAX {
            return Err(Reject::Duplicate);
        }
        // What is bonded already, and stands for no other seat, counts.
        let needed = self.bond_of_seats(self.seats_of(&owner).count().saturating_add(1));
        let lacking = Credits(needed.0.saturating_sub(self.of(&owner).bond.0).min(bond.0));
        let balance = self.of(&owner).balance.less(lacking)?;
        let account = self.account_mut(&owner);
        (account.balance, account.bond) = (balance, account.bond.joined(lacking));
        let serial = self.seats.len() as u64;
        self.set_seat(key, Some(Seat { owner, node, serial, leaving: false }));
        Ok(())
    }

    pub(crate) fn take_seat(&mut self, by: &NodeId, claim: &Signed<SeatClaim>) -> Result<(), Reject> {
        if claim.value.chain != self.params.chain {
            return Err(Reject::WrongChain);
        }
        // The owner votes itself: nobody can have a seat point at another's node.
        if claim.value.owner != *by || claim.value.node != *by || !claim.verify(SEAT_DOMAIN) {
            return Err(Reject::BadSignature);
        }
        if self.seats.contains_key(&claim.by) {
            return Err(Reject::Duplicate);
        }
        if self.seats.len() >= SEATS_MAX {
            return Err(Reject::Full);
        }
        let balance = self.of(by).balance.less(self.params.fee)?;
        // One that is leaving hands its bond on to the new one.
        let standing = self.seats_of(by).filter(|seat| !seat.leaving).count();
        self.of(by).bond.less(self.bond_of_seats(standing.saturating_add(1)))?;
        // Once: a bond that is handed on again and again would fill the table.
        if self.seats_of(by).count() > standing.saturating_mul(2).saturating_add(1) {
            return Err(Reject::TooMany);
        }
        let serial = match self.seats.values().map(|seat| seat.serial).max() {
            Some(last) => last.checked_add(1).ok_or(Reject::Full)?,
            None => 0,
        };
        self.spend(by, balance);
        self.set_seat(claim.by, Some(Seat { owner: *by, node: claim.value.node, serial, leaving: false }));
        Ok(())
    }

    pub(crate) fn leave_seat(&mut self, by: &NodeId, key: &NodeId) -> Result<(), Reject> {
        let balance = self.of(by).balance.less(self.params.fee)?;
        let seat = self.seats.get(key).copied().filter(|seat| seat.owner == *by).ok_or(Reject::NotMember)?;
        if seat.leaving {
            return Err(Reject::Duplicate);
        }
        self.spend(by, balance);
        self.set_seat(*key, Some(Seat { leaving: true, ..seat }));
        Ok(())
    }

    pub(crate) fn seats_of(&self, owner: &NodeId) -> impl Iterator<Item = &Seat> {
        self.seats.values().filter(move |seat| seat.owner == *owner)
    }

    /// What must stay bonded for `n` seats.
    pub(crate) fn bond_of_seats(&self, n: usize) -> Credits {
        Credits(self.params.seat_bond.0.saturating_mul(n as u64))
    }
}
