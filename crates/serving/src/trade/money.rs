//! Vouchers: promising them to providers, redeeming those of clients.

use super::Trade;
use base::{Hash, NodeId, Reject, Signed};
use ledger::{Credits, Voucher};
use std::time::Duration;

/// Allotted at a time beyond one answer, in parts of the budget, at most.
const ALLOT_PARTS: u64 = 8;
/// Vouchers are redeemed when they are worth so many fees more than before.
const REDEEM_FEES: u64 = 20;
/// The chain of a provider's network comes within this.
const CHAIN_WITHIN: Duration = Duration::from_secs(25);

/// What answers that wait for an allotment to one provider may cost, together. Dropped, it is not waited for any more.
struct Wanted<'a> {
    trade: &'a Trade,
    of: (Hash, NodeId),
    bound: Credits,
}

impl<'a> Wanted<'a> {
    fn new(trade: &'a Trade, of: (Hash, NodeId), bound: Credits) -> Self {
        let mut wanted = trade.wanted.lock().expect("nobody panics while holding it");
        let all = wanted.entry(of).or_default();
        *all = all.saturating_add(bound.0);
        Self { trade, of, bound }
    }

    fn all(&self) -> u64 {
        let wanted = self.trade.wanted.lock().expect("nobody panics while holding it");
        wanted.get(&self.of).copied().unwrap_or_default()
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut wanted = self.trade.wanted.lock().expect("nobody panics while holding it");
        if let Some(all) = wanted.get_mut(&self.of) {
            *all = all.saturating_sub(self.bound.0);
        }
        wanted.retain(|_, all| *all > 0);
    }
}

impl Trade {
    /// Redeems what clients have promised, where it is worth the fee, or where the client wants its money back.
    pub(super) async fn redeem(&self) {
        let me = self.net.id();
        for (chain, client, till) in self.books.tills() {
            let Some(voucher) = till.voucher().cloned() else { continue };
            let Ok(fee) = self.accounts.fee(&chain) else { continue };
            let Some(allotment) = self.accounts.allotment(&chain, &client, &me) else { continue };
            let due = voucher.value.total.less(allotment.paid).unwrap_or_default().min(allotment.left);
            let worth = due.0 > fee.0 * REDEEM_FEES || allotment.closing.is_some() && due > fee;
            if allotment.serial != voucher.value.serial || !worth {
                continue;
            }
            match self.accounts.spend(chain, ledger::WalletTx::Redeem { voucher }).await {
                Ok(_) => tracing::info!(client = client.short(), %due, "a voucher was redeemed"),
                Err(error) => tracing::warn!(%error, "a voucher is not redeemed yet"),
            }
        }
    }

    /// A voucher for `amount` more of an answer that costs at most `bound`; allots to the provider first where the budget
    /// allows it. Promises and allots nothing once it is not `wanted` any more.
    pub(super) async fn pay(
        &self,
        chain: Hash,
        provider: NodeId,
        (amount, bound): (Credits, Credits),
        wanted: impl Fn() -> bool,
    ) -> Result<Signed<Voucher>, String> {
        let promise = || match wanted() {
            true => self.books.promise(&self.key, chain, provider, amount),
            false => Err(Reject::Ended),
        };
        self.use_allotment(chain, provider);
        match promise() {
            Err(Reject::NoAllotment | Reject::Insufficient) => {}
            promised => return promised.map_err(|why| why.to_string()),
        }
        let waiting = Wanted::new(self, (chain, provider), bound.max(amount));
        let _one = self.allotting.lock().await;
        // Nobody takes the deposit back while it is needed.
        self.use_allotment(chain, self.net.id());
        // Somebody else may have allotted meanwhile.
        match promise() {
            Err(Reject::NoAllotment | Reject::Insufficient) => {}
            promised => return promised.map_err(|why| why.to_string()),
        }
        // The chain of a network that was just joined is on its way.
        self.accounts.arrived(chain, CHAIN_WITHIN).await?;
        let spent = self.books.set_aside();
        let left = self.config.budget.less(spent).unwrap_or_default();
        // A stranger gets what this answer may cost, one that has been paid before as much again as it was promised.
        let grown = self.books.promised(&chain, &provider).0.min(self.config.budget.0 / ALLOT_PARTS);
        // Those who wait for their turn here are served with it: each allotment takes blocks.
        let part = Credits(waiting.all().saturating_add(grown)).max(amount).min(left);
        if part < amount {
            return Err(format!(
                "it costs {amount} credits more, {left} are left of the budget of {}, which counts from the first start; `--budget` sets it",
                self.config.budget
            ));
        }
        let told = |error: anyhow::Error| format!("{error:#}");
        let account = self.accounts.account(&chain).map_err(told)?.unwrap_or_default();
        let fee = self.accounts.fee(&chain).map_err(told)?;
        let free = account.balance.0.saturating_sub(2 * fee.0);
        let part = part.min(Credits(account.deposit.0.saturating_add(free)));
        if part < amount || account.balance.0 < 2 * fee.0 {
            let (me, have) = (self.net.id(), account.balance);
            return Err(format!("it costs {amount} credits and fees, the account {} has {have}", me.short()));
        }
        if account.deposit < part {
            let amount = Credits(part.0 - account.deposit.0);
            let done = self.accounts.spend(chain, ledger::WalletTx::Deposit { amount }).await;
            done.map_err(|error| format!("the deposit: {error}"))?;
        }
        let parts = ledger::Allotments(vec![(provider, part)]);
        // Counted before it is done: who is killed in between has less to give, never more.
        self.books.set_aside_more(part).map_err(told)?;
        let done = self.accounts.spend(chain, ledger::WalletTx::Allot { parts }).await;
        if let Err(error) = done {
            // What has no effect is not spent; what is not final yet may be.
            if error.no_effect {
                self.books.set_aside_less(part).map_err(told)?;
            }
            return Err(format!("the allotment: {error}"));
        }
        promise().map_err(|why| why.to_string())
    }
}
