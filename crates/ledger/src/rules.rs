//! What a wallet transaction does. Each rule looks first and changes then: what is refused changes nothing.

use crate::account::{ALLOTMENTS_MAX, Account, Allotment, UNBONDINGS_MAX, Unbonding};
use crate::tx::{DOMAIN, SignedWalletTx, VOUCHER_DOMAIN, Voucher, WalletTx};
use crate::{Credits, Ledger};
use base::{NodeId, Reject, Signed};

/// Asserts that `nonce` is the `next` one.
pub(crate) fn follows(nonce: u64, next: u64) -> Result<(), Reject> {
    match nonce.cmp(&next) {
        std::cmp::Ordering::Less => Err(Reject::Stale),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Reject::Early),
    }
}

impl Ledger {
    /// Carries out a transaction.
    pub fn take(&mut self, tx: &SignedWalletTx) -> Result<(), Reject> {
        if !tx.verify(DOMAIN) {
            return Err(Reject::BadSignature);
        }
        self.take_checked(tx)
    }

    /// The same for a transaction whose own signature was checked before.
    pub fn take_checked(&mut self, tx: &SignedWalletTx) -> Result<(), Reject> {
        if tx.value.chain != self.params.chain {
            return Err(Reject::WrongChain);
        }
        let nonce = tx.value.nonce;
        follows(nonce, self.account(&tx.by).map_or(0, |account| account.wallet_nonce))?;
        let next = nonce.checked_add(1).ok_or(Reject::BadAmount)?;
        self.carry_out(&tx.by, &tx.value.tx)?;
        self.account_mut(&tx.by).wallet_nonce = next;
        Ok(())
    }

    /// Whether a transaction would be taken after `ahead` others of the same account, as far as can be
    /// told now: what a mempool asks.
    pub fn check(&self, tx: &SignedWalletTx, ahead: u64) -> Result<(), Reject> {
        let next = self.account(&tx.by).map_or(0, |account| account.wallet_nonce);
        follows(tx.value.nonce, next.saturating_add(ahead))?;
        let other = match &tx.value.tx {
            WalletTx::Redeem { voucher } => Some((voucher.by, Some(voucher.value.payee))),
            WalletTx::Release { client } => Some((*client, None)),
            _ => None,
        };
        let others = other.into_iter().flat_map(|(one, two)| std::iter::once(one).chain(two));
        let pot = if let WalletTx::Fund { pot, .. } = &tx.value.tx { Some(pot) } else { None };
        let mut trial = self.part(std::iter::once(tx.by).chain(others), pot);
        trial.account_mut(&tx.by).wallet_nonce = tx.value.nonce;
        trial.take(tx)
    }

    fn carry_out(&mut self, by: &NodeId, tx: &WalletTx) -> Result<(), Reject> {
        match tx {
            WalletTx::Transfer { to, amount } => {
                let balance = self.after(by, *amount)?;
                self.spend(by, balance);
                let to = self.account_mut(to);
                to.balance = to.balance.joined(*amount);
            }
            WalletTx::Bond { amount } => {
                let balance = self.after(by, *amount)?;
                let account = self.spend(by, balance);
                account.bond = account.bond.joined(*amount);
            }
            WalletTx::Unbond { amount } => self.unbond(by, *amount)?,
            WalletTx::Fund { pot, amount } => self.fund(by, pot, *amount)?,
            WalletTx::Deposit { amount } => {
                let balance = self.after(by, *amount)?;
                let account = self.spend(by, balance);
                account.deposit = account.deposit.joined(*amount);
            }
            WalletTx::Withdraw { amount } => {
                let gain = self.without_fee(*amount)?;
                let deposit = self.of(by).deposit.less(*amount)?;
                let account = self.account_mut(by);
                account.deposit = deposit;
                account.balance = account.balance.joined(gain);
                self.burn(self.params.fee);
            }
            WalletTx::Allot { parts } => self.allot(by, &parts.0)?,
            WalletTx::Redeem { voucher } => self.redeem(by, voucher)?,
            WalletTx::Close { payee } => self.close(by, payee)?,
            WalletTx::Seat { claim } => self.take_seat(by, claim)?,
            WalletTx::Unseat { key } => self.leave_seat(by, key)?,
            WalletTx::Release { client } => {
                let balance = self.of(by).balance.less(self.params.fee)?;
                let allotment = *self.of(client).allotments.get(by).ok_or(Reject::NoAllotment)?;
                self.spend(by, balance);
                let client = self.account_mut(client);
                client.allotments.remove(by);
                client.deposit = client.deposit.joined(allotment.left);
            }
        }
        Ok(())
    }

    fn unbond(&mut self, by: &NodeId, amount: Credits) -> Result<(), Reject> {
        let amount_free = self.without_fee(amount)?;
        let account = self.of(by);
        let bond = account.bond.less(amount)?;
        // A bond stands for its seats until they are out of the set.
        if bond < self.bond_of_seats(self.seats_of(by).count()) {
            return Err(Reject::Insufficient);
        }
        if account.unbonding.len() >= UNBONDINGS_MAX {
            return Err(Reject::Full);
        }
        let at = self.later(self.params.unbonding_ms)?;
        let account = self.account_mut(by);
        account.bond = bond;
        account.unbonding.push(Unbonding { amount: amount_free, at });
        self.due.insert((at, *by));
        self.burn(self.params.fee);
        Ok(())
    }

    fn allot(&mut self, by: &NodeId, parts: &[(NodeId, Credits)]) -> Result<(), Reject> {
        let account = self.of(by);
        let balance = account.balance.less(self.params.fee)?;
        let mut deposit = account.deposit;
        for (i, (payee, amount)) in parts.iter().enumerate() {
            if *amount == Credits::ZERO || payee == by {
                return Err(Reject::BadAmount);
            }
            if parts[..i].iter().any(|(other, _)| other == payee) {
                return Err(Reject::Duplicate);
            }
            deposit = deposit.less(*amount)?;
            // What is on its way back is not added to; the next one has a serial of its own.
            if account.allotments.get(payee).is_some_and(|allotment| allotment.closing.is_some()) {
                return Err(Reject::Ended);
            }
        }
        let new = parts.iter().filter(|(payee, _)| !account.allotments.contains_key(payee)).count();
        if account.allotments.len().saturating_add(new) > ALLOTMENTS_MAX {
            return Err(Reject::Full);
        }
        let mut serials = account.serial..account.serial.checked_add(new as u64).ok_or(Reject::BadAmount)?;
        let account = self.spend(by, balance);
        account.deposit = deposit;
        account.serial = serials.end;
        for (payee, amount) in parts {
            let fresh = || Allotment {
                serial: serials.next().expect("there is one for each that is new"),
                paid: Credits::ZERO,
                left: Credits::ZERO,
                closing: None,
            };
            let allotment = account.allotments.entry(*payee).or_insert_with(fresh);
            allotment.left = allotment.left.joined(*amount);
        }
        Ok(())
    }

    fn redeem(&mut self, by: &NodeId, voucher: &Signed<Voucher>) -> Result<(), Reject> {
        let (client, Voucher { chain, payee, serial, total }) = (&voucher.by, &voucher.value);
        if *chain != self.params.chain {
            return Err(Reject::WrongChain);
        }
        let allotment = *self.of(client).allotments.get(payee).ok_or(Reject::NoAllotment)?;
        if allotment.serial != *serial {
            return Err(Reject::NoAllotment);
        }
        // Cumulative: said again it is worth nothing more, and an older one nothing at all.
        let due = total.less(allotment.paid).map_err(|_| Reject::Stale)?.min(allotment.left);
        if due == Credits::ZERO {
            return Err(Reject::Stale);
        }
        // The payee chooses when a redemption is worth its fee. Who redeems for it pays the fee: else a client could
        // burn what it owes in slices of little more than a fee each.
        let (gain, balance) = if by == payee {
            (self.without_fee(due)?, None)
        } else {
            (due, Some(self.of(by).balance.less(self.params.fee)?))
        };
        if !voucher.verify(VOUCHER_DOMAIN) {
            return Err(Reject::BadSignature);
        }
        let left = allotment.left.less(due)?;
        let paid = allotment.paid.joined(due);
        self.account_mut(client).allotments.insert(*payee, Allotment { left, paid, ..allotment });
        let account = self.account_mut(payee);
        account.balance = account.balance.joined(gain);
        match balance {
            Some(balance) => {
                self.spend(by, balance);
            }
            None => self.burn(self.params.fee),
        }
        Ok(())
    }

    fn close(&mut self, by: &NodeId, payee: &NodeId) -> Result<(), Reject> {
        let account = self.of(by);
        let balance = account.balance.less(self.params.fee)?;
        let allotment = *account.allotments.get(payee).ok_or(Reject::NoAllotment)?;
        if allotment.closing.is_some() {
            return Err(Reject::Duplicate);
        }
        let at = self.later(self.params.close_ms)?;
        let account = self.spend(by, balance);
        account.allotments.insert(*payee, Allotment { closing: Some(at), ..allotment });
        self.due.insert((at, *by));
        Ok(())
    }

    /// What is known of `id`; nothing is an account of zeros.
    pub(crate) fn of(&self, id: &NodeId) -> &Account {
        static NOTHING: std::sync::LazyLock<Account> = std::sync::LazyLock::new(Account::default);
        self.account(id).unwrap_or(&NOTHING)
    }

    /// The balance of `by` after `amount` and the fee.
    pub(crate) fn after(&self, by: &NodeId, amount: Credits) -> Result<Credits, Reject> {
        if amount == Credits::ZERO {
            return Err(Reject::BadAmount);
        }
        self.of(by).balance.less(amount.plus(self.params.fee)?)
    }

    /// `amount` less the fee; something must be left.
    fn without_fee(&self, amount: Credits) -> Result<Credits, Reject> {
        if amount <= self.params.fee { Err(Reject::BadAmount) } else { amount.less(self.params.fee) }
    }

    /// Burns the fee and sets the balance of `by` to what is left.
    pub(crate) fn spend(&mut self, by: &NodeId, balance: Credits) -> &mut Account {
        self.burn(self.params.fee);
        let account = self.account_mut(by);
        account.balance = balance;
        account
    }
}
