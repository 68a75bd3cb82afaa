//! What an answer is paid: vouchers as they come, and what is owed at its end.

use super::frames::{Break, send};
use super::{PAY_WITHIN, Provider};
use crate::books::{Answered, Books};
use base::{Hash, NodeId, Reject, Signed};
use engine::Pace;
use ledger::{Credits, Voucher};
use market::{ALIVE_MS, CHUNK, Frame, Reason, Say, Till};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Vouchers that a client may need for an answer, and for each chunk of it: each is written to disk.
const VOUCHERS_MAX: u64 = 24;
const VOUCHERS_PER_CHUNK: u64 = 8;

impl Provider {
    /// Waits until reading is paid, so that a client that does not pay costs nothing.
    pub(super) async fn paid_for_reading(
        &self,
        paying: &Paying,
        cost: Credits,
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Break> {
        // An allotment may have to become final first, here too.
        let deadline = Instant::now() + PAY_WITHIN * 6;
        while !paying.read(cost) {
            match tokio::time::timeout(Duration::from_millis(ALIVE_MS), says.recv()).await {
                Ok(Some(say)) => self.heard(Some(paying), Some(say)).await?,
                Ok(None) => return Err(Reason::Unpaid("it ended before it was paid".into()).into()),
                Err(_) if Instant::now() > deadline => {
                    return Err(Reason::Unpaid("no voucher came in time".into()).into());
                }
                Err(_) => {
                    send(out, Frame::Alive {}).await?;
                    self.again(paying).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes what a client says in the middle of its question: a voucher, or that it has hung up.
    pub(super) async fn heard(&self, paying: Option<&Paying>, say: Option<Say>) -> Result<(), Break> {
        let (Some(Say::Pay { voucher }), Some(paying)) = (say, paying) else { return Err(Break::Left) };
        if !paying.may_say_more() {
            return Err(Reason::Unpaid("more vouchers than there is to pay".into()).into());
        }
        self.take(paying, voucher).await
    }

    /// Takes vouchers until a client has said all it has to say. One that has hung up pays, too, and may say that it has
    /// before its last voucher.
    pub(super) async fn last_words(&self, paying: &Paying, says: &mut mpsc::Receiver<Say>) {
        let deadline = Instant::now() + PAY_WITHIN;
        // For what was never begun nobody waits. Else also where all seems to be paid: vouchers are sums, and one that came
        // with another answer may have paid this one, whose own then pays the other.
        let mut hears = paying.sum() > Credits::ZERO;
        while hears || paying.account.early().is_some() {
            let retry = Instant::now() + Duration::from_millis(ALIVE_MS);
            let taken = tokio::select! {
                say = says.recv(), if hears => match say {
                    Some(Say::Stop {}) => Ok(()),
                    None => {
                        hears = false;
                        Ok(())
                    }
                    say => self.heard(Some(paying), say).await,
                },
                () = tokio::time::sleep_until(retry.min(deadline)) => self.again(paying).await,
            };
            if taken.is_err() || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Takes a voucher that came too early, once more.
    pub(super) async fn again(&self, paying: &Paying) -> Result<(), Break> {
        let early = paying.account.early().take();
        match early {
            Some(voucher) => self.take(paying, voucher).await,
            None => Ok(()),
        }
    }

    async fn take(&self, paying: &Paying, voucher: Signed<Voucher>) -> Result<(), Break> {
        let (books, account) = (paying.books.clone(), paying.account.clone());
        let (chain, by) = (paying.chain, paying.by);
        // By itself: what the books took is counted here, whatever ends meanwhile.
        let taken = tokio::spawn(async move {
            match books.take(chain, by, voucher.clone()).await {
                // The chain here may be a block behind the client's.
                Err(Reject::NoAllotment | Reject::Insufficient) => account.keep(voucher),
                taken => drop(account.paid.fetch_add(taken?.0, Ordering::Relaxed)),
            }
            Ok(())
        });
        taken.await.unwrap_or(Err(Reject::NotHeld)).map_err(|reject| {
            self.refuse(reject);
            Reason::Unpaid(format!("the voucher is worth nothing here: {reject}")).into()
        })
    }
}

/// What came on the stream of an answer.
#[derive(Default)]
struct Account {
    /// In micro-credits.
    paid: AtomicU64,
    vouchers: AtomicU64,
    /// The largest voucher over more than the chain here knows of.
    early: Mutex<Option<Signed<Voucher>>>,
}

impl Account {
    fn early(&self) -> std::sync::MutexGuard<'_, Option<Signed<Voucher>>> {
        self.early.lock().expect("nobody panics while holding it")
    }

    fn keep(&self, voucher: Signed<Voucher>) {
        let mut early = self.early();
        if early.as_ref().is_none_or(|kept| kept.value.total < voucher.value.total) {
            *early = Some(voucher);
        }
    }
}

/// Who pays for an answer, on which chain. Dropped, the answer is over.
pub(super) struct Paying {
    chain: Hash,
    by: NodeId,
    pace: Pace,
    /// What a chunk costs.
    chunk: Credits,
    books: Arc<Books>,
    /// For which model, what it came to in micro-credits, reading too, and in tokens that were written.
    model: String,
    sum: AtomicU64,
    written: AtomicU64,
    account: Arc<Account>,
}

impl Paying {
    pub(super) fn new((chain, by): (Hash, NodeId), model: &str, pace: Pace, chunk: Credits, books: Arc<Books>) -> Self {
        books.with_till(&chain, &by, Till::begin);
        let ([sum, written], account) = ([0; 2].map(AtomicU64::new), Arc::default());
        Self { chain, by, pace, chunk, books, model: model.to_owned(), sum, written, account }
    }

    fn sum(&self) -> Credits {
        Credits(self.sum.load(Ordering::Relaxed))
    }

    fn paid(&self) -> Credits {
        Credits(self.account.paid.load(Ordering::Relaxed))
    }

    /// What was not paid with the answer.
    pub(super) fn owed(&self) -> Credits {
        self.sum().less(self.paid()).unwrap_or_default()
    }

    /// Counts a voucher; whether so many may be meant to pay.
    fn may_say_more(&self) -> bool {
        let chunks = self.written.load(Ordering::Relaxed) / CHUNK;
        let most = VOUCHERS_MAX.saturating_add(VOUCHERS_PER_CHUNK.saturating_mul(chunks));
        self.account.vouchers.fetch_add(1, Ordering::Relaxed) < most
    }

    fn read(&self, cost: Credits) -> bool {
        let allotted = self.books.allotted(&self.chain, &self.by, &self.books.me);
        let paid = self.books.with_till(&self.chain, &self.by, |till| till.read(cost, self.chunk, allotted));
        self.sum.fetch_add(if paid { cost.0 } else { 0 }, Ordering::Relaxed);
        paid
    }

    pub(super) fn earn(&self, amount: Credits) {
        self.sum.fetch_add(amount.0, Ordering::Relaxed);
        self.books.with_till(&self.chain, &self.by, |till| till.earn(amount));
    }

    /// Allows the next half of a chunk, if not too much is owed; whether it did.
    pub(super) fn allow(&self, written: u64) -> bool {
        self.written.store(written, Ordering::Relaxed);
        let may = self.books.with_till(&self.chain, &self.by, |till| till.may_write(self.chunk));
        if may {
            self.pace.allow((written + CHUNK / 2) as usize);
        }
        may
    }
}

impl Drop for Paying {
    fn drop(&mut self) {
        let (sum, paid) = (self.sum(), self.paid());
        let lost = self.books.with_till(&self.chain, &self.by, |till| till.end(sum, paid, self.chunk));
        if sum == Credits::ZERO {
            return;
        }
        let (books, chain, by) = (self.books.clone(), self.chain, self.by);
        let model = std::mem::take(&mut self.model);
        let note = move || {
            books.count(&model, Answered { earned_micro: sum.0, ..Answered::default() });
            if lost > Credits::ZERO {
                books.note_lost(&chain, &by);
            }
        };
        // The disk takes its time: nobody else waits for it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(note)),
            Err(_) => note(),
        }
    }
}
