//! Follows chains: from other nodes as far as certificates hold, and on to the driver of its runs.

use crate::log::{ChainLog, Kept};
use crate::outlets::shuffle;
use crate::submitting;
use base::{Hash, Millis, NodeId, Reject, Wire};
use chain::{BLOCK_BYTES_MAX, Block, State};
use net::{Follow, LogClient, LogEvent, Net};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Pause before what failed is tried again.
const RECONNECT: Duration = Duration::from_millis(500);

/// A validator that has no block for so long, and a source that brings the chain no nearer to now, is no use.
const SILENT: Duration = Duration::from_secs(30);
/// The first event may be a large snapshot.
const BEGINNING: Duration = Duration::from_secs(180);
/// An idle chain makes a block every five seconds.
const HEARTBEAT_MS: u64 = 5_000;
/// A newest block that is older than three heartbeats is not the newest.
const FRESH_MS: u64 = 3 * HEARTBEAT_MS;
/// Blocks that wait for a certificate, and their bytes: a certificate covers a few blocks.
const UNCERTIFIED_MAX: usize = 256;
const UNCERTIFIED_BYTES: usize = 16 * BLOCK_BYTES_MAX;
/// A source that sent what no honest node sends is not asked for so long.
const BARRED: Duration = Duration::from_secs(600);

/// Brings the chain here for as long as the node lives and does not validate itself: from one node after the
/// other that may keep it.
pub(crate) async fn sync(log: Arc<ChainLog>, net: Arc<Net>, stop: CancellationToken) {
    if log.stale.load(Ordering::Relaxed) {
        return;
    }
    let following = async {
        tokio::join!(blocks(&log, &net), submitting::submit(&log, &net));
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = following => {}
    }
}

async fn blocks(log: &ChainLog, net: &Net) {
    let (mut bars, mut still) = (Bars::default(), BTreeSet::new());
    while !log.has_failed() {
        validating(log).await;
        let mut sources = log.sources(&net.id());
        sources.retain(|source| bars.admit(source, Instant::now()));
        // In one order for all, everybody would ask the same node first.
        shuffle(&mut sources);
        // Those that held the chain still come last, until all of them did.
        if sources.iter().all(|source| still.contains(source)) {
            still.clear();
        }
        sources.sort_by_key(|source| still.contains(source));
        for source in sources {
            let Err(left) = from(log, net, source).await else { break };
            tracing::debug!(chain = %log.chain().short(), source = %source.short(), %left, "a source was left");
            match left {
                Left::Lied(reject) => {
                    bars.add(source, Instant::now());
                    if let Some(kept) = log.kept() {
                        kept.keeper.count(reject);
                    }
                }
                Left::Behind(_) | Left::NoBeginning => {
                    still.insert(source);
                }
                _ => {}
            }
            log.away.send_replace(Some(format!("{}: {left}", source.short())));
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Waits as long as this node validates the chain: then its blocks come from the engine.
async fn validating(log: &ChainLog) {
    let Some(kept) = log.kept() else { return };
    let mut height = kept.keeper.height();
    if kept.keeper.keeps_up() {
        log.away.send_if_modified(|away| away.take().is_some());
    }
    // A validator that was away catches up as a follower does.
    while kept.keeper.keeps_up() && !matches!(tokio::time::timeout(SILENT, height.changed()).await, Ok(Err(_))) {}
}

/// Why a source was left.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("cannot be reached; trying again (if this node, which keeps the chain, moved, ask for a fresh ticket)")]
    Unreachable,
    #[error("ended the connection; trying the next")]
    Ended,
    /// Seconds since the newest block.
    #[error("the newest block is {0} s old; trying another node (the chain stands still, or this clock is wrong)")]
    Behind(u64),
    #[error("gave no beginning of the chain in time; trying the next")]
    NoBeginning,
    #[error("sent what no honest node sends ({0}); it is not asked again for a while")]
    Lied(Reject),
    #[error("its blocks cannot be taken here: {0}")]
    Here(Reject),
    #[error(transparent)]
    Beginning(anyhow::Error),
}

/// Sources that are not asked for a while.
#[derive(Default)]
struct Bars(BTreeMap<NodeId, Instant>);

impl Bars {
    fn add(&mut self, source: NodeId, now: Instant) {
        self.0.insert(source, now);
    }

    fn admit(&mut self, source: &NodeId, now: Instant) -> bool {
        self.0.retain(|_, since| now.duration_since(*since) < BARRED);
        !self.0.contains_key(source)
    }
}

/// Until when a source is worth staying with: as long as it brings the chain nearer to now. Other events, and a trickle
/// of old blocks, do not count. It runs by a clock that nobody sets back.
#[derive(Debug, Clone, Copy)]
struct Patience {
    until: Instant,
    /// How old the newest block was when patience was last renewed.
    lag_ms: u64,
}

impl Patience {
    /// With a source that has to give the chain's beginning first.
    fn beginning(now: Instant) -> Self {
        Self { until: now + BEGINNING, lag_ms: u64::MAX }
    }

    /// With a source that goes on from a block of this age.
    fn new(now: Instant, lag_ms: u64) -> Self {
        Self { until: now + SILENT, lag_ms }
    }

    /// A block of this age is certified; whether that renews patience.
    fn progress(&mut self, now: Instant, lag_ms: u64) -> bool {
        if lag_ms <= FRESH_MS {
            // The next one may be on its way at the last moment.
            self.until = now + Duration::from_millis((FRESH_MS - lag_ms).max(HEARTBEAT_MS)).min(SILENT);
        } else if lag_ms.saturating_add(SILENT.as_millis() as u64) <= self.lag_ms {
            // It catches up at twice the speed at which the chain goes on, or faster.
            self.until = now + SILENT;
        } else {
            return false;
        }
        self.lag_ms = lag_ms;
        true
    }

    fn left(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }
}

/// How old a block of this time is.
fn age_ms(time: Millis) -> u64 {
    crate::clock::clock().since(time)
}

/// Blocks of a source that wait for the certificate which makes them final.
struct Uncertified {
    height: u64,
    tip: Hash,
    bytes: usize,
    blocks: Vec<Block>,
}

impl Uncertified {
    /// Those that follow a state.
    fn behind(state: &State) -> Self {
        Self { height: state.height(), tip: state.tip(), bytes: 0, blocks: Vec::new() }
    }

    /// Takes the next block, if it is one: its size, height and parent are looked at before it takes room.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(Reject::Oversized);
        }
        if self.blocks.len() >= UNCERTIFIED_MAX || self.bytes + bytes.len() > UNCERTIFIED_BYTES {
            return Err(Reject::TooMany);
        }
        let block = Block::from_bytes(bytes).map_err(|_| Reject::Malformed)?;
        if block.header.height != self.height + 1 {
            return Err(Reject::WrongShape);
        }
        if block.header.parent != self.tip {
            return Err(Reject::WrongHash);
        }
        (self.height, self.tip) = (block.header.height, block.hash());
        self.bytes += bytes.len();
        self.blocks.push(block);
        Ok(())
    }

    /// Those that a certificate came for.
    fn certified(&mut self) -> Vec<Block> {
        self.bytes = 0;
        std::mem::take(&mut self.blocks)
    }
}

/// Follows one node until it is of no use any more; `Ok` when this node validates by itself.
async fn from(log: &ChainLog, net: &Net, source: NodeId) -> Result<(), Left> {
    let behind = |kept: Arc<Kept>| kept.keeper.look(|o| (Uncertified::behind(o.state()), o.state().time()));
    let begun = log.kept().map(behind);
    let follow = Follow {
        chain: log.chain(),
        from: begun.as_ref().map_or(0, |(blocks, _)| blocks.height + 1),
        anchor: log.anchor.map(|anchor| anchor.height),
    };
    let client = net.follow(source, follow).await.map_err(|_| Left::Unreachable)?;
    let LogClient { mut events, submit } = client;
    let _outlet = log.outlets.open(submit);
    let now = Instant::now();
    let mut patience = begun.as_ref().map_or(Patience::beginning(now), |(_, tip)| Patience::new(now, age_ms(*tip)));
    let mut blocks = begun.map(|(blocks, _)| blocks);
    loop {
        let event = tokio::time::timeout(patience.left(Instant::now()), events.recv()).await;
        let Ok(event) = event else {
            let time = log.kept().map(|kept| kept.keeper.look(|o| o.state().time()));
            return Err(time.map_or(Left::NoBeginning, |time| Left::Behind(age_ms(time) / 1_000)));
        };
        match event.ok_or(Left::Ended)? {
            // One that was not asked for would take the place of what is here.
            LogEvent::Snapshot(_) if blocks.is_some() => return Err(Left::Lied(Reject::Malformed)),
            LogEvent::Snapshot(bytes) => {
                let kept = tokio::task::block_in_place(|| log.begin(&bytes)).map_err(Left::Beginning)?;
                let (behind, tip) = behind(kept);
                (blocks, patience) = (Some(behind), Patience::new(Instant::now(), age_ms(tip)));
            }
            LogEvent::Block(bytes, certificate) => {
                let (Some(blocks), Some(kept)) = (&mut blocks, log.kept()) else {
                    return Err(Left::Lied(Reject::Early));
                };
                blocks.take(&bytes).map_err(Left::Lied)?;
                if !certificate.is_empty() && certify(&kept, blocks, certificate, &mut patience).await? {
                    log.away.send_if_modified(|away| away.take().is_some());
                }
                if kept.keeper.keeps_up() {
                    return Ok(());
                }
            }
            LogEvent::Refused(tx, reject) => match log.kept() {
                Some(kept) => kept.pending.refused(&tx, reject),
                None => return Err(Left::Lied(Reject::Early)),
            },
        }
    }
}

/// Takes blocks with the certificate of the last one; whether that is progress.
async fn certify(
    kept: &Kept,
    blocks: &mut Uncertified,
    certificate: Vec<u8>,
    patience: &mut Patience,
) -> Result<bool, Left> {
    let (blocks, newest) = (blocks.certified(), kept.keeper.look(|o| o.state().height()));
    let Some(last) = blocks.last().map(|block| block.header.clone()) else { return Ok(false) };
    // A validator that catches up may have got them from the others meanwhile.
    if last.height <= newest {
        return Ok(false);
    }
    match kept.keeper.offer(blocks, certificate).await {
        Ok(()) => Ok(patience.progress(Instant::now(), age_ms(last.time))),
        // The disk is full, or the keeper stops.
        Err(reject @ (Reject::Full | Reject::Ended)) => Err(Left::Here(reject)),
        // The set of validators changed meanwhile.
        Err(reject) if kept.keeper.look(|o| o.state().height()) >= last.height => Err(Left::Here(reject)),
        Err(reject) => Err(Left::Lied(reject)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain_store::ChainStore;
    use crate::disk::Disk;
    use crate::network::NetworkFile;
    use crate::own::Owned;
    use base::Keypair;

    #[test]
    fn a_source_that_holds_the_chain_still_or_trickles_old_blocks_is_left() {
        let (begun, hour) = (Instant::now(), 3_600_000);
        let at = |ms: u64| begun + Duration::from_millis(ms);
        // It stands an hour back and says one thing after the other, but no block: nothing renews patience.
        let mut patience = Patience::new(begun, hour);
        assert_eq!(patience.left(begun), SILENT);
        assert_eq!(patience.left(begun + SILENT), Duration::ZERO);
        // One old block every 29 seconds is not catching up.
        assert!(!patience.progress(at(29_000), hour + 28_999));
        assert_eq!(patience.left(begun + SILENT), Duration::ZERO);
        // A minute of the chain in a second is, and then fresh blocks are.
        assert!(patience.progress(at(1_000), hour - 59_000));
        assert!(patience.progress(at(2_000), 1_000));
        assert_eq!(patience.left(at(2_000)), Duration::from_millis(FRESH_MS - 1_000));
        // It withholds what comes after: three heartbeats after its newest block it is left.
        assert_eq!(patience.left(at(1_000 + FRESH_MS)), Duration::ZERO);
    }

    #[test]
    fn a_followed_chain_that_cannot_be_read_is_left_out_and_says_so() {
        let dir = tempfile::tempdir().expect("a folder");
        let (owner, seat) = (Keypair::from_secret([1; 32]).id(), Keypair::from_secret([2; 32]).id());
        let network = crate::network::private(owner, seat);
        let folder = crate::paths::chain_dir(dir.path(), &network.genesis.chain());
        let disk = ChainStore::open(&folder).expect("a store");
        disk.keep_state(b"what a stranger wrote", &[]).expect("written");
        drop(disk);
        network.write(&NetworkFile::path(&folder)).expect("written");
        let own = Arc::new(Owned { accounts: Vec::new(), device: "cpu".into() });
        let log = ChainLog::followed(dir.path(), network.genesis.chain(), None, own).expect("the node starts");
        assert!(log.kept().is_none() && log.stale.load(Ordering::Relaxed));
        assert!(log.trouble().is_some_and(|trouble| trouble.contains("away")), "{:?}", log.trouble());
    }

    #[test]
    fn a_block_out_of_place_or_too_large_takes_no_room() {
        let (owner, seat) = (Keypair::from_secret([1; 32]).id(), Keypair::from_secret([2; 32]).id());
        let mut state = State::new(&crate::network::private(owner, seat).genesis);
        let mut waiting = Uncertified::behind(&state);
        let next = |state: &mut State| {
            let block = state.next(seat, Vec::new(), state.time().plus(5_000), Vec::new());
            state.apply(&block).expect("it follows");
            block
        };
        let (first, second) = (next(&mut state), next(&mut state));
        assert_eq!(waiting.take(&second.to_bytes()), Err(Reject::WrongShape), "ahead of its turn");
        let mut astray = first.clone();
        astray.header.parent = Hash([7; 32]);
        assert_eq!(waiting.take(&astray.to_bytes()), Err(Reject::WrongHash), "linked to nothing here");
        assert_eq!(waiting.take(&vec![0; BLOCK_BYTES_MAX + 1]), Err(Reject::Oversized));
        assert_eq!((waiting.bytes, waiting.blocks.len()), (0, 0));
        assert_eq!((waiting.take(&first.to_bytes()), waiting.take(&second.to_bytes())), (Ok(()), Ok(())));
        assert_eq!(waiting.certified(), [first, second]);
        // No certificate ever comes: the blocks that wait are bounded in bytes.
        waiting.bytes = UNCERTIFIED_BYTES;
        assert_eq!(waiting.take(&next(&mut state).to_bytes()), Err(Reject::TooMany));
    }

    #[test]
    fn a_barred_source_comes_back_after_a_while() {
        let (mut bars, source, now) = (Bars::default(), NodeId([1; 32]), Instant::now());
        bars.add(source, now);
        assert!(!bars.admit(&source, now + BARRED / 2));
        assert!(bars.admit(&NodeId([2; 32]), now));
        assert!(bars.admit(&source, now + BARRED));
    }
}
