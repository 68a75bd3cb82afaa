//! An answer on its way to who asked: no further than it is paid.

use super::gate::Place;
use super::{PAY_WITHIN, Provider, READ_AFTER};
use crate::books::{Answered, Books};
use base::{Hash, NodeId, Reject};
use engine::Pace;
use ledger::Credits;
use market::{ALIVE_MS, CHUNK, Frame, Piece, Reason, Say, TOKENS_MAX, Telling, Till};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Who does not read for so long is gone.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(20);
/// Words go to others on a clock, not as they come: when a packet goes says nothing of the word in it.
pub(super) const FRAME_EVERY: Duration = Duration::from_millis(50);
/// In mid-answer a client may have to allot more first, which takes a few blocks; the engine waits meanwhile.
const ALLOT_WITHIN: Duration = Duration::from_secs(3 * PAY_WITHIN.as_secs());
/// Vouchers that somebody may need to pay for reading: each is written to disk.
const READING_VOUCHERS_MAX: usize = 16;
/// The same once an answer is over.
const LAST_VOUCHERS_MAX: usize = 16;

impl Provider {
    /// Waits for somebody's turn.
    pub(super) async fn wait(
        &self,
        place: &mut Place,
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
                said = says.recv() => if said.is_none() { return Err(gone()) },
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
        let (mut vouchers, mut writing) = (0, self.did.begin(telling.receipt().read));
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                say = says.recv() => {
                    let (Some(Say::Pay { voucher }), Some(paying)) = (say, paying) else { return Err(gone()) };
                    vouchers += 1;
                    // Each is written to disk: more than half a dozen for a chunk are not meant to pay.
                    if vouchers > 8 + telling.receipt().written / 4 {
                        return Err(Reason::Unpaid("more vouchers than words".into()));
                    }
                    self.take(paying, voucher).await?;
                    if paying.allow(telling.receipt().written) {
                        engine.wake();
                    }
                    continue;
                }
                _ = alive.tick() => {
                    if let Some(paying) = paying {
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
        if paying.owes() {
            self.refuse(Reject::Unpaid);
        }
        Ok(())
    }

    /// Takes vouchers until a client has said all it has to say, which it does when it has hung up, too: what other answers
    /// owe is not this one's.
    pub(super) async fn last_words(&self, paying: &Paying, says: &mut mpsc::Receiver<Say>) {
        let said = async {
            for _ in 0..LAST_VOUCHERS_MAX {
                let Some(Say::Pay { voucher }) = says.recv().await else { return };
                if self.take(paying, voucher).await.is_err() {
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
        let (mut early, mut vouchers) = (None, 0);
        while !paying.read(cost) {
            let wait = tokio::time::timeout(Duration::from_millis(ALIVE_MS), says.recv());
            let voucher = match wait.await {
                Ok(Some(Say::Pay { .. })) if vouchers == READING_VOUCHERS_MAX => {
                    return Err(Reason::Unpaid("more vouchers than reading needs".into()));
                }
                Ok(Some(Say::Pay { voucher })) => {
                    vouchers += 1;
                    Some(voucher)
                }
                Ok(_) => return Err(Reason::Unpaid("it ended before it was paid".into())),
                Err(_) if tokio::time::Instant::now() > deadline => {
                    return Err(Reason::Unpaid("no voucher came in time".into()));
                }
                Err(_) => {
                    send(out, Frame::Alive {}).await?;
                    early.take()
                }
            };
            let Some(voucher) = voucher else { continue };
            match self.books.take(paying.chain, paying.by, voucher.clone()).await {
                // The chain here may be a block behind the client's.
                Err(Reject::NoAllotment | Reject::Insufficient) => early = Some(voucher),
                taken => paying.is_paid(self.told(taken)?),
            }
        }
        Ok(())
    }

    async fn take(&self, paying: &Paying, voucher: base::Signed<ledger::Voucher>) -> Result<(), Reason> {
        paying.is_paid(self.told(self.books.take(paying.chain, paying.by, voucher).await)?);
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
}

impl Paying {
    pub(super) fn new((chain, by): (Hash, NodeId), model: &str, pace: Pace, chunk: Credits, books: Arc<Books>) -> Self {
        books.with_till(&chain, &by, Till::begin);
        Self { chain, by, pace, chunk, books, model: model.to_owned(), sum: AtomicU64::new(0), paid: AtomicU64::new(0) }
    }

    fn read(&self, cost: Credits) -> bool {
        let paid = self.books.with_till(&self.chain, &self.by, |till| till.read(cost, self.chunk));
        self.sum.fetch_add(if paid { cost.0 } else { 0 }, Ordering::Relaxed);
        paid
    }

    fn earn(&self, amount: Credits) {
        self.sum.fetch_add(amount.0, Ordering::Relaxed);
        self.books.with_till(&self.chain, &self.by, |till| till.earn(amount));
    }

    fn is_paid(&self, more: Credits) {
        self.paid.fetch_add(more.0, Ordering::Relaxed);
    }

    fn owes(&self) -> bool {
        self.books.with_till(&self.chain, &self.by, |till| till.owed() > Credits::ZERO)
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
        let sum = Credits(self.sum.load(Ordering::Relaxed));
        let owed = sum.less(Credits(self.paid.load(Ordering::Relaxed))).unwrap_or_default();
        self.books.with_till(&self.chain, &self.by, |till| till.end(owed, self.chunk));
        match sum {
            Credits::ZERO => {}
            sum => self.books.count(&self.model, Answered { earned_micro: sum.0, ..Answered::default() }),
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
