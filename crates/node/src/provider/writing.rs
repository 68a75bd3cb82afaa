//! An answer on its way to who asked: no further than it is paid.

use super::gate::Place;
use super::{PAY_WITHIN, Provider, READ_AFTER};
use crate::books::{Answered, Books};
use base::{Hash, NodeId, Reject, Signed};
use engine::Pace;
use ledger::{Credits, Voucher};
use market::{ALIVE_MS, CHUNK, Frame, Piece, Reason, Say, TOKENS_MAX, Telling, Till};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Who does not read for so long is gone.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(20);
/// Words go to others on a clock, not as they come: when a packet goes says nothing of the word in it.
pub(super) const FRAME_EVERY: Duration = Duration::from_millis(50);
/// In mid-answer a client may have to allot more first, which takes a few blocks; the engine waits meanwhile.
const ALLOT_WITHIN: Duration = Duration::from_secs(3 * PAY_WITHIN.as_secs());
/// Vouchers that somebody may need for an answer, and for each chunk that it comes to: each is written to disk.
const VOUCHERS_MAX: u64 = 24;
const VOUCHERS_PER_CHUNK: u64 = 8;

impl Provider {
    /// Waits for somebody's turn.
    pub(super) async fn wait(
        &self,
        place: &mut Place,
        paying: Option<&Paying>,
        busy: &(dyn Fn() -> Reason + Sync),
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Reason> {
        let mut alive = tokio::time::interval(Duration::from_millis(ALIVE_MS));
        alive.reset();
        loop {
            tokio::select! {
                biased;
                came = place.turn() => return if came { Ok(()) } else { Err(busy()) },
                say = says.recv() => self.paid(paying, say).await?,
                _ = alive.tick() => send(out, Frame::Alive {}).await?,
            }
        }
    }

    /// Sends pieces as they come, as far as they are paid.
    pub(super) async fn write(
        &self,
        mut telling: Telling,
        mut pieces: mpsc::UnboundedReceiver<Piece>,
        (paying, pause): (Option<&Paying>, Duration),
        engine: &engine::Engine,
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Reason> {
        let mut reader = Reader::new(out, if paying.is_some() { READ_AFTER } else { Duration::MAX });
        let mut next = tokio::time::Instant::now();
        let mut alive = tokio::time::interval(Duration::from_millis(ALIVE_MS));
        let mut due = tokio::time::Instant::now() + ALLOT_WITHIN;
        let mut writing = self.did.begin(telling.receipt().read);
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                say = says.recv() => {
                    self.paid(paying, say).await?;
                    if paying.is_some_and(|paying| paying.allow(telling.receipt().written)) {
                        engine.wake();
                    }
                    continue;
                }
                _ = alive.tick() => {
                    if let Some(paying) = paying {
                        self.again(paying).await?;
                        if paying.allow(telling.receipt().written) {
                            engine.wake();
                            due = tokio::time::Instant::now() + ALLOT_WITHIN;
                        } else if tokio::time::Instant::now() > due {
                            return Err(Reason::Unpaid("no voucher came in time".into()));
                        }
                    }
                    reader.send(Frame::Alive {}).await?;
                    continue;
                }
            };
            alive.reset();
            due = tokio::time::Instant::now() + ALLOT_WITHIN;
            let token = match piece {
                Some(Piece::Token(token)) => token,
                Some(Piece::Read { cached, echo, .. }) => {
                    for frame in telling.read(cached, echo) {
                        reader.send(frame).await?;
                    }
                    continue;
                }
                Some(end) => return self.end(telling, end, paying, reader, says).await,
                None => return Err(Reason::Failed("the model is not served any more".into())),
            };
            let mut tokens = vec![token];
            let mut end = None;
            // What comes until the clock strikes goes with it.
            while tokens.len() < TOKENS_MAX && end.is_none() {
                match tokio::time::timeout_at(next, pieces.recv()).await {
                    Ok(Some(Piece::Token(token))) => tokens.push(token),
                    Ok(Some(other)) => end = Some(other),
                    Ok(None) | Err(_) => break,
                }
            }
            next = tokio::time::Instant::now() + pause;
            let before = telling.receipt().cost;
            writing.wrote(tokens.len());
            let frame = telling.written(&self.key, tokens);
            if let Some(paying) = paying {
                paying.earn(telling.receipt().cost.less(before).unwrap_or_default());
                if paying.allow(telling.receipt().written) {
                    engine.wake();
                }
            }
            reader.send(frame).await?;
            if let Some(end) = end {
                return self.end(telling, end, paying, reader, says).await;
            }
        }
    }

    /// The last frame, and the last voucher.
    async fn end(
        &self,
        mut telling: Telling,
        piece: Piece,
        paying: Option<&Paying>,
        mut reader: Reader<'_>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Reason> {
        let Piece::End { finish, text, .. } = piece else {
            return Err(Reason::Failed("the model lost its place".into()));
        };
        reader.send(telling.end(&self.key, finish?, text)).await?;
        let Some(paying) = paying else { return Ok(()) };
        // The answer is whole either way; a client that did not pay is remembered by what it owes.
        self.last_words(paying, says).await;
        if paying.owed() > Credits::ZERO {
            self.refuse(Reject::Unpaid);
        }
        Ok(())
    }

    /// Takes vouchers until a client has said all it has to say, which it does when it has hung up, too.
    pub(super) async fn last_words(&self, paying: &Paying, says: &mut mpsc::Receiver<Say>) {
        // For what was never begun nobody waits: the client's next voucher is over this money, too.
        if paying.sum() == Credits::ZERO {
            return;
        }
        let said = async {
            while let Some(say) = says.recv().await {
                if self.paid(Some(paying), Some(say)).await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(PAY_WITHIN, said).await;
    }

    /// Waits until reading is paid, so that one who does not pay costs nothing.
    pub(super) async fn paid_for_reading(
        &self,
        paying: &Paying,
        cost: Credits,
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Reason> {
        // An allotment may have to become final first, here too.
        let deadline = tokio::time::Instant::now() + PAY_WITHIN * 6;
        while !paying.read(cost) {
            match tokio::time::timeout(Duration::from_millis(ALIVE_MS), says.recv()).await {
                Ok(Some(say)) => self.paid(Some(paying), Some(say)).await?,
                Ok(None) => return Err(Reason::Unpaid("it ended before it was paid".into())),
                Err(_) if tokio::time::Instant::now() > deadline => {
                    return Err(Reason::Unpaid("no voucher came in time".into()));
                }
                Err(_) => {
                    send(out, Frame::Alive {}).await?;
                    self.again(paying).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes what a client says in the middle of a question: a voucher, or that it has hung up.
    async fn paid(&self, paying: Option<&Paying>, say: Option<Say>) -> Result<(), Reason> {
        let (Some(Say::Pay { voucher }), Some(paying)) = (say, paying) else { return Err(gone()) };
        if !paying.may_say_more() {
            return Err(Reason::Unpaid("more vouchers than there is to pay".into()));
        }
        self.take(paying, voucher).await
    }

    /// Takes a voucher that came too early, once more.
    async fn again(&self, paying: &Paying) -> Result<(), Reason> {
        let early = paying.early.lock().expect("nobody panics while holding it").take();
        match early {
            Some(voucher) => self.take(paying, voucher).await,
            None => Ok(()),
        }
    }

    async fn take(&self, paying: &Paying, voucher: Signed<Voucher>) -> Result<(), Reason> {
        match self.books.take(paying.chain, paying.by, voucher.clone()).await {
            // The chain here may be a block behind the client's.
            Err(Reject::NoAllotment | Reject::Insufficient) => {
                *paying.early.lock().expect("nobody panics while holding it") = Some(voucher);
            }
            taken => {
                paying.paid.fetch_add(self.told(taken)?.0, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn told<T>(&self, taken: Result<T, Reject>) -> Result<T, Reason> {
        taken.map_err(|reject| {
            self.refuse(reject);
            Reason::Unpaid(format!("the voucher is worth nothing here: {reject}"))
        })
    }
}

/// Who pays for an answer, on which chain.
pub(super) struct Paying {
    chain: Hash,
    by: NodeId,
    pace: Pace,
    /// What a chunk costs.
    chunk: Credits,
    books: Arc<Books>,
    /// For which model, what it came to, and what was paid on its stream, in micro-credits.
    model: String,
    sum: AtomicU64,
    paid: AtomicU64,
    /// Vouchers that came, and the last one over more than the chain here knows of.
    vouchers: AtomicU64,
    early: Mutex<Option<Signed<Voucher>>>,
}

impl Paying {
    pub(super) fn new((chain, by): (Hash, NodeId), model: &str, pace: Pace, chunk: Credits, books: Arc<Books>) -> Self {
        books.with_till(&chain, &by, Till::begin);
        let [sum, paid, vouchers] = [0; 3].map(AtomicU64::new);
        let (model, early) = (model.to_owned(), Mutex::default());
        Self { chain, by, pace, chunk, books, model, sum, paid, vouchers, early }
    }

    /// What the answer has come to.
    fn sum(&self) -> Credits {
        Credits(self.sum.load(Ordering::Relaxed))
    }

    /// What of it was not paid with it.
    fn owed(&self) -> Credits {
        self.sum().less(Credits(self.paid.load(Ordering::Relaxed))).unwrap_or_default()
    }

    /// Counts a voucher; whether so many may be meant to pay.
    fn may_say_more(&self) -> bool {
        let chunks = self.sum().0 / self.chunk.0.max(1);
        self.vouchers.fetch_add(1, Ordering::Relaxed)
            < VOUCHERS_MAX.saturating_add(VOUCHERS_PER_CHUNK.saturating_mul(chunks))
    }

    fn read(&self, cost: Credits) -> bool {
        let allotted = self.books.allotted(&self.chain, &self.by, &self.books.me);
        let paid = self.books.with_till(&self.chain, &self.by, |till| till.read(cost, self.chunk, allotted));
        self.sum.fetch_add(if paid { cost.0 } else { 0 }, Ordering::Relaxed);
        paid
    }

    fn earn(&self, amount: Credits) {
        self.sum.fetch_add(amount.0, Ordering::Relaxed);
        self.books.with_till(&self.chain, &self.by, |till| till.earn(amount));
    }

    /// Allows the next half of a chunk, if not too much is owed; whether it did.
    pub(super) fn allow(&self, written: u64) -> bool {
        let may = self.books.with_till(&self.chain, &self.by, |till| till.may_write(self.chunk));
        if may {
            self.pace.allow((written + CHUNK / 2) as usize);
        }
        may
    }
}

impl Drop for Paying {
    fn drop(&mut self) {
        let (sum, paid) = (self.sum(), Credits(self.paid.load(Ordering::Relaxed)));
        let lost = self.books.with_till(&self.chain, &self.by, |till| till.end(sum, paid, self.chunk));
        if lost > Credits::ZERO {
            self.books.note_lost(&self.chain, &self.by);
        }
        if sum > Credits::ZERO {
            self.books.count(&self.model, Answered { earned_micro: sum.0, ..Answered::default() });
        }
    }
}

/// Who reads an answer. One that is paid by pieces keeps its place while it is read, so it is not waited for without
/// end.
struct Reader<'a> {
    out: &'a mpsc::Sender<Frame>,
    /// How long frames may wait for it, all of them together.
    left: Duration,
}

impl<'a> Reader<'a> {
    fn new(out: &'a mpsc::Sender<Frame>, left: Duration) -> Self {
        Self { out, left }
    }

    async fn send(&mut self, frame: Frame) -> Result<(), Reason> {
        let begun = tokio::time::Instant::now();
        let sent = tokio::time::timeout(READ_WITHIN.min(self.left), self.out.send(frame)).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(gone()) }
    }
}

pub(super) async fn send(out: &mpsc::Sender<Frame>, frame: Frame) -> Result<(), Reason> {
    match tokio::time::timeout(READ_WITHIN, out.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(gone()),
    }
}

/// Nobody is there to hear it.
pub(super) fn gone() -> Reason {
    Reason::Failed("nobody reads any more".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_wait_for_a_slow_reader_for_so_long_in_all() {
        let (out, mut frames) = mpsc::channel(1);
        let mut reader = Reader::new(&out, Duration::from_millis(60));
        let begun = std::time::Instant::now();
        // Each frame is read long before it would be too late for that one.
        let reading = async {
            let mut late = tokio::time::interval(Duration::from_millis(20));
            while frames.recv().await.is_some() {
                late.tick().await;
            }
        };
        let sending = async {
            loop {
                if let Err(reason) = reader.send(Frame::Alive {}).await {
                    return reason;
                }
            }
        };
        let reason = tokio::select! {
            reason = sending => reason,
            () = reading => unreachable!("it reads on"),
        };
        assert_eq!(reason, gone());
        assert!(begun.elapsed() < READ_WITHIN);
        // Who reads in time is never cut off.
        let (out, _frames) = mpsc::channel(1_000);
        let mut reader = Reader { out: &out, left: Duration::ZERO };
        for _ in 0..1_000 {
            assert_eq!(reader.send(Frame::Alive {}).await, Ok(()));
        }
    }
}
