//! Allotments that are not used any more: they go back to the deposit, and a deposit that nobody needs to the balance.

use super::Trade;
use base::{Hash, NodeId};
use ledger::{Credits, WalletTx};
use std::time::Duration;
use tokio::time::Instant;

/// An allotment is closed when nothing was promised on it for so long.
const UNUSED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// A deposit goes back when it is worth so many fees.
const WITHDRAW_FEES: u64 = 20;

/// What is to be done about the allotments on a chain.
struct Due {
    /// These are being closed.
    closing: Vec<NodeId>,
    unused: Vec<NodeId>,
    /// Nobody needs it.
    deposit: Option<Credits>,
}

impl Trade {
    /// Notes that a provider was promised something.
    pub(super) fn use_allotment(&self, chain: Hash, provider: NodeId) {
        self.used.lock().expect("nobody panics while holding it").insert((chain, provider), Instant::now());
    }

    /// Closes what was not used for a day, and takes back a deposit of which nothing is allotted.
    pub(super) async fn close_unused(&self) {
        for (chain, _) in self.accounts.chains() {
            let Ok(fee) = self.accounts.fee(&chain) else { continue };
            let Some(due) = self.due(chain, fee).await else { continue };
            // Also what became final after nobody waited for it any more.
            due.closing.iter().for_each(|payee| self.note_closed(&chain, payee));
            for payee in due.unused {
                // The one before may have taken long.
                if !self.is_unused(chain, payee) {
                    continue;
                }
                match self.accounts.spend(chain, WalletTx::Close { payee }).await {
                    Ok(_) => self.note_closed(&chain, &payee),
                    Err(error) => tracing::debug!(%error, "an allotment is not closed yet"),
                }
            }
            let Some(amount) = due.deposit.filter(|_| self.is_unused(chain, self.net.id())) else { continue };
            if let Err(error) = self.accounts.spend(chain, WalletTx::Withdraw { amount }).await {
                tracing::debug!(%error, "a deposit is not taken back yet");
            }
        }
    }

    /// What is to be done about the allotments on a chain. An allotment that is being made is waited for, so that it is
    /// not closed, nor its deposit taken; nobody waits for what is done then, which may take half a minute each.
    async fn due(&self, chain: Hash, fee: Credits) -> Option<Due> {
        let _one = self.allotting.lock().await;
        let me = self.net.id();
        let account = self.accounts.account(&chain).ok()??;
        let (closing, open): (Vec<_>, Vec<_>) = account.allotments.iter().partition(|(_, a)| a.closing.is_some());
        let unused = open.into_iter().map(|(payee, _)| *payee).filter(|payee| self.is_unused(chain, *payee)).collect();
        let closing = closing.into_iter().map(|(payee, _)| *payee).collect();
        let idle = account.allotments.is_empty() && account.deposit.0 > fee.0.saturating_mul(WITHDRAW_FEES);
        if !idle {
            // Its own key stands for the deposit.
            self.use_allotment(chain, me);
        }
        Some(Due { closing, unused, deposit: idle.then_some(account.deposit) })
    }

    fn is_unused(&self, chain: Hash, provider: NodeId) -> bool {
        let mut used = self.used.lock().expect("nobody panics while holding it");
        // Whatever was before the start, the day begins with it.
        used.entry((chain, provider)).or_insert_with(Instant::now).elapsed() >= UNUSED_AFTER
    }

    /// The budget gets back what a closed allotment had and nobody was promised, however often this is noted.
    pub fn note_closed(&self, chain: &Hash, provider: &NodeId) {
        self.used.lock().expect("nobody panics while holding it").remove(&(*chain, *provider));
        let allotted = self.books.allotted(chain, &self.net.id(), provider).filter(|allotted| allotted.closing);
        let Some(allotted) = allotted else { return };
        let unpromised = allotted.total.less(self.books.promised(chain, provider)).unwrap_or(Credits::ZERO);
        if let Err(error) = self.books.give_back(chain, provider, allotted.serial, unpromised) {
            tracing::warn!(%error, "the budget does not count what came back");
        }
    }
}
