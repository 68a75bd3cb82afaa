//! An answer on its way to who asked: no further than it is paid.

use super::frames::{Break, READ_WITHIN, send};
use super::gate::Place;
use super::paying::Paying;
use super::{PAY_WITHIN, Provider, READ_AFTER};
use market::{ALIVE_MS, AnswerWriter, CHUNK, Frame, Piece, Reason, Say, TOKENS_MAX};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Words go to others on a clock, not as they come: when a packet goes says nothing of the word in it.
pub(super) const FRAME_EVERY: Duration = Duration::from_millis(50);
/// In mid-answer a client may have to allot more first, which takes a few blocks; the engine waits meanwhile.
const ALLOT_WITHIN: Duration = Duration::from_secs(3 * PAY_WITHIN.as_secs());
/// A voucher is on its way for so long, in the mean.
const VOUCHER_WITHIN: Duration = Duration::from_millis(500);

/// How long an engine stood still because one answer was not paid, all in all: the answer keeps its place meanwhile, and
/// others wait for that.
#[derive(Debug)]
struct Waiting {
    before: Duration,
    since: Option<Instant>,
    /// Tokens up to which it may write.
    allowed: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { before: Duration::ZERO, since: None, allowed: CHUNK / 2 }
    }
}

impl Waiting {
    /// Notes whether it may write on after so many tokens.
    fn note(&mut self, may: bool, written: u64, now: Instant) {
        if may {
            self.allowed = written.saturating_add(CHUNK / 2);
            self.before += self.since.take().map_or(Duration::ZERO, |since| now - since);
        } else if written >= self.allowed {
            self.since.get_or_insert(now);
        }
    }

    /// Whether it has waited for longer than an answer of so many tokens may.
    fn is_over(&self, written: u64, now: Instant) -> bool {
        let vouchers = u32::try_from(written / (CHUNK / 2)).unwrap_or(u32::MAX);
        let most = ALLOT_WITHIN.saturating_add(VOUCHER_WITHIN.saturating_mul(vouchers));
        self.since.is_some_and(|since| self.before + (now - since) > most)
    }
}

impl Provider {
    /// Waits for somebody's turn.
    pub(super) async fn wait(
        &self,
        place: &mut Place,
        paying: Option<&Paying>,
        busy: &(dyn Fn() -> Reason + Sync),
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Break> {
        let mut alive = tokio::time::interval(Duration::from_millis(ALIVE_MS));
        alive.reset();
        loop {
            tokio::select! {
                biased;
                came = place.turn() => return if came { Ok(()) } else { Err(busy().into()) },
                say = says.recv() => self.heard(paying, say).await?,
                _ = alive.tick() => send(out, Frame::Alive {}).await?,
            }
        }
    }

    /// Sends pieces as they come, as far as they are paid.
    pub(super) async fn write(
        &self,
        mut telling: AnswerWriter,
        mut pieces: mpsc::UnboundedReceiver<Piece>,
        (paying, pause): (Option<&Paying>, Duration),
        engine: &engine::Engine,
        out: &mpsc::Sender<Frame>,
        says: &mut mpsc::Receiver<Say>,
    ) -> Result<(), Break> {
        let mut reader = Reader::new(out, if paying.is_some() { READ_AFTER } else { Duration::MAX });
        let mut next = Instant::now();
        let mut alive = tokio::time::interval(Duration::from_millis(ALIVE_MS));
        let mut waiting = Waiting::default();
        let mut writing = self.stats.begin(telling.receipt().read);
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                say = says.recv() => {
                    self.heard(paying, say).await?;
                    if let Some(paying) = paying {
                        let may = paying.allow(telling.receipt().written);
                        waiting.note(may, telling.receipt().written, Instant::now());
                        if may {
                            engine.wake();
                        }
                    }
                    continue;
                }
                _ = alive.tick() => {
                    if let Some(paying) = paying {
                        self.again(paying).await?;
                        let may = paying.allow(telling.receipt().written);
                        waiting.note(may, telling.receipt().written, Instant::now());
                        if may {
                            engine.wake();
                        } else if waiting.is_over(telling.receipt().written, Instant::now()) {
                            return Err(Reason::Unpaid("no voucher came in time".into()).into());
                        }
                    }
                    reader.send(Frame::Alive {}).await?;
                    continue;
                }
            };
            alive.reset();
            let token = match piece {
                Some(Piece::Token(token)) => token,
                Some(Piece::Read { cached, echo, .. }) => {
                    for frame in telling.read(cached, echo) {
                        reader.send(frame).await?;
                    }
                    continue;
                }
                Some(end) => return self.end(telling, end, reader).await,
                None => return Err(Reason::Failed("the model is not served any more".into()).into()),
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
            next = Instant::now() + pause;
            let before = telling.receipt().cost;
            writing.wrote(tokens.len());
            let frame = telling.written(&self.key, tokens);
            if let Some(paying) = paying {
                paying.earn(telling.receipt().cost.less(before).unwrap_or_default());
                let may = paying.allow(telling.receipt().written);
                waiting.note(may, telling.receipt().written, Instant::now());
                if may {
                    engine.wake();
                }
            }
            reader.send(frame).await?;
            if let Some(end) = end {
                return self.end(telling, end, reader).await;
            }
        }
    }

    /// The last frame.
    async fn end(&self, mut telling: AnswerWriter, piece: Piece, mut reader: Reader<'_>) -> Result<(), Break> {
        let Piece::End { finish, text, .. } = piece else {
            return Err(Reason::Failed("the model lost its place".into()).into());
        };
        reader.send(telling.end(&self.key, finish?, text)).await
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

    async fn send(&mut self, frame: Frame) -> Result<(), Break> {
        let begun = Instant::now();
        let sent = tokio::time::timeout(READ_WITHIN.min(self.left), self.out.send(frame)).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(Break::Left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_pays_each_word_late_does_not_keep_its_place() {
        let (mut waiting, mut written, begun) = (Waiting::default(), CHUNK / 2, Instant::now());
        let mut now = begun;
        waiting.note(false, written, now);
        // Each voucher comes a moment before it would be too late for that one.
        while !waiting.is_over(written, now) {
            waiting.note(true, written, now);
            written += CHUNK / 2;
            waiting.note(false, written, now);
            now += ALLOT_WITHIN - Duration::from_millis(1);
        }
        assert!(now - begun < 3 * ALLOT_WITHIN, "{:?}", now - begun);
        // Who is far away and pays at once goes on for ever, after one allotment on the way.
        let (mut waiting, mut written) = (Waiting::default(), CHUNK / 2);
        for _ in 0..10_000 {
            waiting.note(false, written, now);
            now += Duration::from_millis(if written == 800 { 14_000 } else { 300 });
            assert!(!waiting.is_over(written, now), "{written}");
            waiting.note(true, written, now);
            written += CHUNK / 2;
        }
        // While the engine has something to write nobody waits for a voucher.
        let (mut waiting, mut written) = (Waiting::default(), 0);
        for _ in 0..1_000 {
            for _ in 0..CHUNK / 2 - 1 {
                written += 1;
                waiting.note(false, written, now);
                now += Duration::from_secs(1);
            }
            assert_eq!(waiting.since, None);
            waiting.note(true, written, now);
        }
    }

    #[tokio::test]
    async fn frames_wait_for_a_slow_reader_for_so_long_in_all() {
        let (out, mut frames) = mpsc::channel(1);
        let mut reader = Reader::new(&out, Duration::from_millis(60));
        let begun = Instant::now();
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
        assert_eq!(reason, Break::Left);
        assert!(begun.elapsed() < READ_WITHIN);
        // Who reads in time is never cut off.
        let (out, _frames) = mpsc::channel(1_000);
        let mut reader = Reader { out: &out, left: Duration::ZERO };
        for _ in 0..1_000 {
            assert_eq!(reader.send(Frame::Alive {}).await, Ok(()));
        }
    }
}
