//! Both sides of the money between one client and one provider: vouchers over the sum of everything earned since an
//! allotment was made. Said twice, or after a crash, a sum is the same sum.

use base::{Hash, Keypair, NodeId, Reject, Signed, Wire, wire_struct};
use ledger::{Credits, VOUCHER_DOMAIN, Voucher};

/// What the chain says a client has allotted to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allotted {
    /// Of the allotment.
    pub serial: u64,
    /// All of it: redeemed and left.
    pub total: Credits,
    /// Whether the client wants the rest back: nothing new is done for it.
    pub closing: bool,
}

/// A client's side: what it has promised to a provider. Kept on disk before a voucher is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purse {
    serial: u64,
    promised: Credits,
}

wire_struct!(Purse { serial, promised });

impl Purse {
    /// What was promised on the allotment.
    pub fn promised(&self) -> Credits {
        self.promised
    }

    /// Takes note of a voucher of one's own that the provider shows: a client that lost its disk goes on from there.
    pub fn recall(&mut self, me: &NodeId, voucher: &Signed<Voucher>) -> Result<(), Reject> {
        if voucher.by != *me || !voucher.verify(VOUCHER_DOMAIN) {
            return Err(Reject::BadSignature);
        }
        if voucher.value.serial == self.serial {
            self.promised = self.promised.max(voucher.value.total);
        } else if voucher.value.serial > self.serial {
            *self = Self { serial: voucher.value.serial, promised: voucher.value.total };
        }
        Ok(())
    }

    /// Promises `amount` more, out of what is allotted: what is to be kept and then sent.
    pub fn promise(
        &mut self,
        allotted: Option<Allotted>,
        key: &Keypair,
        chain: Hash,
        payee: NodeId,
        amount: Credits,
    ) -> Result<Signed<Voucher>, Reject> {
        let allotted = allotted.filter(|allotted| !allotted.closing).ok_or(Reject::NoAllotment)?;
        let before = if allotted.serial == self.serial { self.promised } else { Credits::ZERO };
        let total = before.plus(amount)?;
        if total > allotted.total {
            return Err(Reject::Insufficient);
        }
        *self = Self { serial: allotted.serial, promised: total };
        let voucher = Voucher { chain, payee, serial: allotted.serial, total };
        Ok(Signed::new(VOUCHER_DOMAIN, key, voucher))
    }
}

/// A provider's side: what a client has been given and what it has promised. Kept on disk before what a voucher pays
/// for is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Till {
    earned: Credits,
    voucher: Option<Signed<Voucher>>,
    /// Done, never paid and not waited for any more.
    lost: Credits,
}

impl Wire for Till {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.earned, self.lost).encode(out);
        self.voucher.encode(out);
    }
    fn decode(input: &mut base::Reader<'_>) -> Result<Self, base::WireError> {
        let (earned, lost) = Wire::decode(input)?;
        Ok(Self { earned, lost, voucher: Wire::decode(input)? })
    }
}

impl Till {
    /// The client's last word.
    pub fn voucher(&self) -> Option<&Signed<Voucher>> {
        self.voucher.as_ref()
    }

    /// Done for the client on the allotment of its last voucher.
    pub fn earned(&self) -> Credits {
        self.earned
    }

    /// Promised in all.
    pub fn promised(&self) -> Credits {
        self.voucher.as_ref().map_or(Credits::ZERO, |voucher| voucher.value.total)
    }

    /// Takes a voucher of `client` for `me`; `allotted` is what the chain says.
    pub fn take(
        &mut self,
        chain: &Hash,
        me: &NodeId,
        client: &NodeId,
        allotted: Option<Allotted>,
        voucher: Signed<Voucher>,
    ) -> Result<(), Reject> {
        let allotted = allotted.filter(|allotted| !allotted.closing).ok_or(Reject::NoAllotment)?;
        let Voucher { chain: on, payee, serial, total } = voucher.value;
        if on != *chain {
            return Err(Reject::WrongChain);
        }
        if voucher.by != *client || payee != *me {
            return Err(Reject::WrongWork);
        }
        if serial != allotted.serial {
            return Err(Reject::NoAllotment);
        }
        if total > allotted.total {
            return Err(Reject::Insufficient);
        }
        let same = self.voucher.as_ref().is_some_and(|old| old.value.serial == serial);
        if same && total <= self.promised() {
            return Err(Reject::Stale);
        }
        if !voucher.verify(VOUCHER_DOMAIN) {
            return Err(Reject::BadSignature);
        }
        // What was earned on an allotment before is paid by its own vouchers.
        if !same {
            self.earned = Credits::ZERO;
        }
        self.voucher = Some(voucher);
        Ok(())
    }

    /// Whether `amount` may be done: it is promised.
    pub fn covers(&self, amount: Credits) -> bool {
        self.earned.plus(amount).is_ok_and(|sum| sum <= self.promised())
    }

    /// An answer is over, and what is not paid of it never will be: at most a chunk, which the next one does not owe.
    pub fn close(&mut self) {
        let owed = self.earned.less(self.promised()).unwrap_or_default();
        self.lost = Credits(self.lost.0.saturating_add(owed.0));
        self.earned = Credits(self.earned.0 - owed.0);
    }

    /// Whether the client has earned another chunk in advance: who breaks off now and then has, who never pays has not.
    pub fn trusts(&self, chunk: Credits) -> bool {
        self.lost.0 <= chunk.0.saturating_mul(2).saturating_add(self.promised().0 / 8)
    }

    /// Notes what was done.
    pub fn earn(&mut self, amount: Credits) {
        self.earned = Credits(self.earned.0.saturating_add(amount.0));
    }
}
