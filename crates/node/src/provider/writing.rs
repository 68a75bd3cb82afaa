//! An answer on its way to who asked: no further than it is paid.

use super::gate::Place;
use super::{PAY_WITHIN, Provider};
use crate::books::{Answered, Books};
use base::{Hash, NodeId, Reject};
use engine::Pace;
use ledger::Credits;
use market::{ALIVE_MS, CHUNK, Frame, Piece, Reason, Say, TOKENS_MAX, Telling, Till, Tokens};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Who does not read for so long is gone.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(20);

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
        paying: Option<&Paying>,
        engine: &engine::Engine,
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Reason> {
        let mut alive = tokio::time::interval(Duration::from_millis(ALIVE_MS));
        let mut due = tokio::time::Instant::now() + PAY_WITHIN;
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
                            due = tokio::time::Instant::now() + PAY_WITHIN;
                        } else if tokio::time::Instant::now() > due {
                            return Err(Reason::Unpaid("no voucher came in time".into()));
                        }
                    }
                    send(out, Frame::Alive {}).await?;
                    continue;
                }
            };
            alive.reset();
            due = tokio::time::Instant::now() + PAY_WITHIN;
            let token = match piece {
                Some(Piece::Token(token)) => token,
                Some(Piece::Read { cached, echo, .. }) => {
                    send(out, Frame::Read { cached, echo: Tokens(echo) }).await?;
                    continue;
                }
                Some(end) => return self.end(telling, end, paying, out, says).await,
                None => return Err(Reason::Failed("the model is not served any more".into())),
            };
            let mut tokens = vec![token];
            let mut end = None;
            // What is there already goes with it.
            while tokens.len() < TOKENS_MAX && end.is_none() {
                match pieces.try_recv() {
                    Ok(Piece::Token(token)) => tokens.push(token),
                    Ok(other) => end = Some(other),
                    Err(_) => break,
                }
            }
            let before = telling.receipt().cost;
            writing.wrote(tokens.len());
            let frame = telling.written(&self.key, tokens);
            if let Some(paying) = paying {
                paying.earn(telling.receipt().cost.less(before).unwrap_or_default());
                if paying.allow(telling.receipt().written) {
                    engine.wake();
                }
            }
            send(out, frame).await?;
            if let Some(end) = end {
                return self.end(telling, end, paying, out, says).await;
            }
        }
    }

    /// The last frame, and the last voucher.
    async fn end(
        &self,
        mut telling: Telling,
        piece: Piece,
        paying: Option<&Paying>,
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Reason> {
        let Piece::End { finish, text, .. } = piece else {
            return Err(Reason::Failed("the model lost its place".into()));
        };
        send(out, telling.end(&self.key, finish?, text)).await?;
        let Some(paying) = paying else { return Ok(()) };
        // Until it has said all it has to say: what other answers owe is not this one's.
        let wait = async {
            while let Some(Say::Pay { voucher }) = says.recv().await {
                self.take(paying, voucher).await?;
            }
            Ok::<(), Reason>(())
        };
        // The answer is whole either way; a client that did not pay is remembered by what it owes.
        let _ = tokio::time::timeout(PAY_WITHIN, wait).await;
        if paying.owes() {
            self.refuse(Reject::Unpaid);
        }
        Ok(())
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
        let mut early = None;
        while !paying.read(cost) {
            let wait = tokio::time::timeout(Duration::from_millis(ALIVE_MS), says.recv());
            let voucher = match wait.await {
                Ok(Some(Say::Pay { voucher })) => Some(voucher),
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
                taken => self.told(taken)?,
            }
        }
        Ok(())
    }

    async fn take(&self, paying: &Paying, voucher: base::Signed<ledger::Voucher>) -> Result<(), Reason> {
        self.told(self.books.take(paying.chain, paying.by, voucher).await)
    }

    fn told(&self, taken: Result<(), Reject>) -> Result<(), Reason> {
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
    /// For which model, and what it came to, in micro-credits.
    model: String,
    sum: AtomicU64,
}

impl Paying {
    pub(super) fn new((chain, by): (Hash, NodeId), model: &str, pace: Pace, chunk: Credits, books: Arc<Books>) -> Self {
        books.with_till(&chain, &by, Till::begin);
        Self { chain, by, pace, chunk, books, model: model.to_owned(), sum: AtomicU64::new(0) }
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
        self.books.with_till(&self.chain, &self.by, Till::end);
        match Credits(self.sum.load(Ordering::Relaxed)) {
            Credits::ZERO => {}
            sum => self.books.count(&self.model, Answered { earned_micro: sum.0, ..Answered::default() }),
        }
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
