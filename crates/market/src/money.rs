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
///
/// While an answer is written, half a [`CHUNK`](crate::CHUNK) may be unpaid when the next half is begun, and as much again in
/// all that answers before it left: a client that pays that often never waits, and one that does not costs a chunk at most
/// for each answer that it has open, and half of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Till {
    earned: Credits,
    voucher: Option<Signed<Voucher>>,
    /// Done, never paid and not waited for any more.
    lost: Credits,
    /// Answers under way; of this process, so not kept.
    open: u32,
}

impl Wire for Till {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.earned, self.lost).encode(out);
        self.voucher.encode(out);
    }
    fn decode(input: &mut base::Reader<'_>) -> Result<Self, base::WireError> {
        let (earned, lost) = Wire::decode(input)?;
        Ok(Self { earned, lost, voucher: Wire::decode(input)?, open: 0 })
    }
}

/// Answers that a client may have open before it has paid for any: four chunks unpaid at most.
const OPEN_NEW: u64 = 8;

impl Till {
    /// The client's last word.
    pub fn voucher(&self) -> Option<&Signed<Voucher>> {
        self.voucher.as_ref()
    }

    /// Promised in all.
    pub fn promised(&self) -> Credits {
        self.voucher.as_ref().map_or(Credits::ZERO, |voucher| voucher.value.total)
    }

    /// Done and not promised.
    pub fn owed(&self) -> Credits {
        self.earned.less(self.promised()).unwrap_or_default()
    }

    /// Done, never paid and not waited for any more.
    pub fn lost(&self) -> Credits {
        self.lost
    }

    /// Takes a voucher of `client` for `me`; `allotted` is what the chain says. Whether it was news: those of answers
    /// beside each other overtake each other.
    pub fn take(
        &mut self,
        chain: &Hash,
        me: &NodeId,
        client: &NodeId,
        allotted: Option<Allotted>,
        voucher: Signed<Voucher>,
    ) -> Result<bool, Reject> {
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
        if !voucher.verify(VOUCHER_DOMAIN) {
            return Err(Reject::BadSignature);
        }
        let same = self.voucher.as_ref().is_some_and(|old| old.value.serial == serial);
        if same && total <= self.promised() {
            return Ok(false);
        }
        // What was earned on an allotment before is paid by its own vouchers.
        if !same {
            self.earned = Credits::ZERO;
        }
        self.voucher = Some(voucher);
        Ok(true)
    }

    /// Whether another answer may be begun: each open one may owe half a chunk, and a client that has paid little yet
    /// is not trusted with many of these.
    pub fn may_begin(&self, chunk: Credits) -> bool {
        let earned_trust = self.promised().0 / chunk.0.saturating_mul(4).max(1);
        u64::from(self.open) < OPEN_NEW.saturating_add(earned_trust)
    }

    /// An answer is begun.
    pub fn begin(&mut self) {
        self.open += 1;
    }

    /// An answer is over for which so much is `owed`. What is not paid by then never will be: it is no debt of the answers
    /// beside it, whose next word would wait for it. Vouchers overtake each other, so that whose debt it is is not known to
    /// the last credit.
    pub fn end(&mut self, owed: Credits, chunk: Credits) {
        self.open = self.open.saturating_sub(1);
        let beyond = self.owed().less(self.unpaid_of_open(chunk)).unwrap_or_default();
        let owed = if self.open == 0 { self.owed() } else { self.owed().min(owed).max(beyond) };
        self.lost = Credits(self.lost.0.saturating_add(owed.0));
        self.earned = Credits(self.earned.0.saturating_sub(owed.0));
        if self.open == 0 {
            // What was paid beyond that came too late to be told from what is lost.
            let late = self.promised().less(self.earned).unwrap_or_default().min(self.lost);
            self.lost = Credits(self.lost.0.saturating_sub(late.0));
            self.earn(late);
        }
    }

    /// What open answers may owe together when the next half of a chunk is begun.
    fn unpaid_of_open(&self, chunk: Credits) -> Credits {
        Credits((chunk.0 / 2).saturating_mul(u64::from(self.open)))
    }

    /// Notes that a question is read, if that is paid but for half a chunk that nobody can say whose it is; what other
    /// answers may owe is left to them. A client that has promised nothing at all is not begun with.
    pub fn read(&mut self, cost: Credits, chunk: Credits) -> bool {
        let others = chunk.0.saturating_mul(u64::from(self.open.saturating_sub(1)).min(OPEN_NEW));
        let room = self.promised().0.saturating_add(others).saturating_add(chunk.0 / 2);
        let fits = self.voucher.is_some() && self.earned.plus(cost).is_ok_and(|sum| sum.0 <= room);
        if fits {
            self.earn(cost);
        }
        fits
    }

    /// Whether the next half of a chunk may be written: no more than half of one is owed for each open answer, and half of
    /// one that nobody can say whose it is.
    pub fn may_write(&self, chunk: Credits) -> bool {
        self.owed() <= Credits(self.unpaid_of_open(chunk).0.saturating_add(chunk.0 / 2))
    }

    /// Whether the client is trusted with another chunk: who breaks off now and then is, who never pays is not.
    pub fn trusts(&self, chunk: Credits) -> bool {
        self.lost.0 <= chunk.0.saturating_mul(2).saturating_add(self.promised().0 / 8)
    }

    /// Notes what was done.
    pub fn earn(&mut self, amount: Credits) {
        self.earned = Credits(self.earned.0.saturating_add(amount.0));
    }
}
