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
/// Reading is paid before it is done. While an answer is written, half a [`CHUNK`](crate::CHUNK) may be unpaid when the next
/// half is begun: a client that pays that often never waits, and one that does not costs a chunk at most for each answer that
/// it has open. Where answers are beside each other, half a chunk more: vouchers are sums and overtake each other, so that
/// nobody can say to the last credit which of them one pays for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Till {
    earned: Credits,
    voucher: Option<Signed<Voucher>>,
    /// Done, never paid and not waited for any more.
    lost: Credits,
    /// Answers under way; of this process, so not kept, and neither is what follows.
    open: u32,
    /// What they have come to.
    under_way: Credits,
    /// Whether there were more than one at a time since there was none.
    beside: bool,
}

impl Wire for Till {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.earned, self.lost).encode(out);
        self.voucher.encode(out);
    }
    fn decode(input: &mut base::Reader<'_>) -> Result<Self, base::WireError> {
        let (earned, lost) = Wire::decode(input)?;
        Ok(Self { earned, lost, voucher: Wire::decode(input)?, ..Self::default() })
    }
}

/// Answers that a client may have open before it has paid for any: a chunk is unpaid of each at most.
const OPEN_NEW: u64 = 8;
/// So many times what is lost a client has to have paid.
const TRUST: u64 = 8;

impl Till {
    /// The same after a restart: what was owed belonged to answers that ended with the process.
    pub fn restarted(mut self) -> Self {
        self.earned = self.earned.min(self.promised());
        self.find_late();
        self
    }

    /// What was promised beyond what was done.
    fn ahead(&self) -> Credits {
        self.promised().less(self.earned).unwrap_or_default()
    }

    /// What was paid too late to be told from what is lost is not lost.
    fn find_late(&mut self) {
        let late = self.ahead().min(self.lost);
        self.lost = Credits(self.lost.0.saturating_sub(late.0));
        self.earned = Credits(self.earned.0.saturating_add(late.0));
    }

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

    /// Takes a voucher of `client` for `me`; `allotted` is what the chain says. How much it promises beyond the last one, or
    /// nothing where it is no news: those of answers beside each other overtake each other.
    pub fn take(
        &mut self,
        chain: &Hash,
        me: &NodeId,
        client: &NodeId,
        allotted: Option<Allotted>,
        voucher: Signed<Voucher>,
    ) -> Result<Option<Credits>, Reject> {
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
        let last = self.voucher.as_ref().filter(|last| last.value.serial == serial).map(|last| last.value.total);
        if last.is_some_and(|last| total <= last) {
            return Ok(None);
        }
        if last.is_none() {
            // What was earned on an allotment before is paid by its own vouchers, and its trust goes with it.
            self.earned = Credits::ZERO;
            self.lost = Credits(self.lost.0.saturating_sub(self.promised().0 / TRUST));
        }
        self.voucher = Some(voucher);
        Ok(Some(total.less(last.unwrap_or_default()).unwrap_or_default()))
    }

    /// Whether another answer may be begun: each open one may owe a chunk, and a client that has paid little yet is not
    /// trusted with many of these.
    pub fn may_begin(&self, chunk: Credits) -> bool {
        let earned_trust = self.promised().0 / chunk.0.saturating_mul(4).max(1);
        u64::from(self.open) < OPEN_NEW.saturating_add(earned_trust)
    }

    /// An answer is begun.
    pub fn begin(&mut self) {
        self.open += 1;
        self.beside |= self.open > 1;
    }

    /// An answer is over that came to `sum`, of which `paid` came with it. What is not paid by then never will be, and is no
    /// debt of the answers beside it, whose next word would wait for it. How much was lost with it.
    pub fn end(&mut self, sum: Credits, paid: Credits, chunk: Credits) -> Credits {
        self.open = self.open.saturating_sub(1);
        self.under_way = self.under_way.less(sum).unwrap_or_default();
        let theirs = self.unpaid_of_open(chunk).min(self.under_way);
        let beyond = self.owed().less(theirs).unwrap_or_default();
        let own = sum.less(paid).unwrap_or_default();
        let lost = if self.open == 0 { self.owed() } else { self.owed().min(own.max(beyond)) };
        self.lost = Credits(self.lost.0.saturating_add(lost.0));
        self.earned = Credits(self.earned.0.saturating_sub(lost.0));
        if self.open == 0 {
            self.find_late();
            (self.under_way, self.beside) = (Credits::ZERO, false);
        }
        lost
    }

    /// What open answers may owe together when the next half of a chunk is begun.
    fn unpaid_of_open(&self, chunk: Credits) -> Credits {
        let halves = u64::from(self.open) + u64::from(self.beside);
        Credits((chunk.0 / 2).saturating_mul(halves))
    }

    /// Notes that a question is read, if that is paid; what other answers may owe is left to them, as far as the client has
    /// set aside for it. A client that has promised nothing at all is not begun with.
    pub fn read(&mut self, cost: Credits, chunk: Credits, allotted: Option<Allotted>) -> bool {
        let Some(Voucher { serial, total, .. }) = self.voucher.as_ref().map(|voucher| &voucher.value) else {
            return false;
        };
        let backed = allotted.filter(|allotted| !allotted.closing && allotted.serial == *serial);
        let others = chunk.0.saturating_mul(u64::from(self.open.saturating_sub(1)).min(OPEN_NEW));
        let others = others.saturating_add(chunk.0 / 2).min(self.under_way.0);
        let room = Credits(total.0.saturating_add(others)).min(backed.map_or(*total, |allotted| allotted.total));
        let fits = self.earned.plus(cost).is_ok_and(|sum| sum <= room.max(*total));
        if fits {
            self.earn(cost);
        }
        fits
    }

    /// Whether the next half of a chunk may be written.
    pub fn may_write(&self, chunk: Credits) -> bool {
        self.owed() <= self.unpaid_of_open(chunk)
    }

    /// Whether the client is trusted with another chunk: who breaks off now and then is, who never pays is not.
    pub fn trusts(&self, chunk: Credits) -> bool {
        // While answers are beside each other, what counts as lost may be on its way yet; what came counts.
        let lost = self.lost.less(self.ahead()).unwrap_or_default();
        lost.0 <= chunk.0.saturating_mul(2).saturating_add(self.promised().0 / TRUST)
    }

    /// Notes what was done for an open answer.
    pub fn earn(&mut self, amount: Credits) {
        self.earned = Credits(self.earned.0.saturating_add(amount.0));
        self.under_way = Credits(self.under_way.0.saturating_add(amount.0));
    }
}
