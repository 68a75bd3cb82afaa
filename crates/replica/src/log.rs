//! The chains of a node. At home it keeps the one it has a seat in, or one of its own with one validator, made
//! on first use: that is its owner's own book-keeping. Others, to which a ticket led, it follows: it verifies
//! certificates, applies every block, and serves them on.

mod proofs;
mod validators;

use crate::chain_store::ChainStore;
use crate::crash;
use crate::disk::Disk;
use crate::network::NetworkFile;
use crate::outlets::{Outlets, Source};
use crate::own::Own;
use crate::paths::chain_dir;
use crate::pending::{Pending, Progress, ahead, free_number};
use crate::replica::{Connections, Replica, ReplicaConfig};
use crate::spend_error::{SpendError, Unsettled};
use crate::voting_key::{self, COPY, VotingKey};
use crate::wires::Packet;
use anyhow::{Context, Result, ensure};
use base::{Hash, Keypair, NodeId, Reject, Signed, Wire};
use chain::{Anchor, Happened, Snapshot, Tx};
use host::DataFolder;
use net::Ticket;
use proofs::Made;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};

/// A chain of this node.
pub struct ChainLog {
    chain: Hash,
    dir: PathBuf,
    pub(crate) own: Own,
    kept: watch::Sender<Option<Arc<Kept>>>,
    /// A block that somebody vouched for, until there is a state.
    pub(crate) anchor: Option<Anchor>,
    /// Nodes that may keep it, beside its validators.
    sources: Mutex<BTreeSet<NodeId>>,
    /// Where transactions go while others are followed.
    pub(crate) outlets: Outlets,
    /// Whether what there is of it is too old to go on from, or cannot be read.
    pub(crate) stale: AtomicBool,
    /// Whether this is a copy of a folder that votes alone.
    copy: bool,
    /// Why this node does not vote, though it may have a seat.
    silent: Option<String>,
    /// Why nothing comes, if nothing does.
    pub(crate) away: watch::Sender<Option<String>>,
}

/// A chain as far as it is here.
pub struct Kept {
    /// What is on disk of it.
    pub store: Arc<ChainStore>,
    /// Its state, and what holds it.
    pub keeper: Replica,
    /// Transactions of the owner on their way.
    pub(crate) pending: Arc<Pending>,
    /// What founded it.
    pub network: NetworkFile,
    /// Packets of validators on their way in and out.
    pub(crate) incoming: mpsc::Sender<(NodeId, Packet)>,
    outgoing: Mutex<Option<Outgoing>>,
    /// The key of the seat that a node has.
    seats: Mutex<(u64, BTreeMap<NodeId, NodeId>)>,
    /// The last snapshot that was made for others.
    made: Mutex<Option<Made>>,
    /// Bounds how many are made at a time.
    making: tokio::sync::Semaphore,
}

/// Packets on their way out, and whom they are for.
type Outgoing = mpsc::UnboundedReceiver<(Vec<NodeId>, Packet)>;

/// What a follower says that was away for too long.
const STALE: &str = "this node was away for longer than half the unbonding delay, so former validators \
    could deceive it: join again with a fresh ticket of a member that you trust, then restart the node";
const MAKING_MAX: usize = 8;
/// Numbers of one account that may wait: validators let no more wait.
const AHEAD_MAX: u64 = 64;
/// Nodes that a ticket names beside its writer.
const PEERS_MAX: usize = 8;
/// Packets that wait to be taken.
const QUEUE: usize = 4096;

impl ChainLog {
    /// The chain of the node's own network.
    pub(crate) fn home(data: &DataFolder, network: NetworkFile, own: Own) -> Result<Self> {
        let mut log = Self::named(data.dir(), network.genesis.chain(), None, own);
        let voter = voting_key::voter(data, &log.dir, &network)?;
        log.copy = matches!(voter, VotingKey::None);
        let (key, silent) = voter.parts();
        log.silent = silent;
        log.kept.send_replace(Some(Arc::new(Kept::open(&log.dir, network, key, &log.own, true)?)));
        Ok(log)
    }

    /// A chain to which a ticket led; what there is of it on disk is gone on with.
    pub(crate) fn followed(data: &Path, chain: Hash, anchor: Option<Anchor>, own: Own) -> Result<Self> {
        let log = Self::named(data, chain, anchor, own);
        let Some(network) = NetworkFile::of(&log.dir)? else { return Ok(log) };
        let kept = match guarded(|| {
            ensure!(!network.is_earlier(data), "this chain is of an earlier version");
            Kept::open(&log.dir, network, None, &log.own, false)
        }) {
            Ok(kept) => kept,
            Err(error) => {
                let text = format!("{error:#}; move {} away, then join with a fresh ticket", log.dir.display());
                tracing::error!(text, "a chain that is followed here is left out");
                log.away.send_replace(Some(text));
                log.stale.store(true, Ordering::Relaxed);
                return Ok(log);
            }
        };
        let (height, seen) = kept.keeper.look(|orderer| (orderer.state().height(), orderer.state().time()));
        let unbonding = kept.network.genesis.money.unbonding_ms;
        if crate::clock::clock().since(seen) <= unbonding / 2 {
            log.kept.send_replace(Some(Arc::new(kept)));
            return Ok(log);
        }
        // Former validators may have taken their bonds out by now: what they sign costs them nothing.
        drop(kept);
        if anchor.is_some_and(|anchor| anchor.height > height) {
            std::fs::remove_dir_all(&log.dir)?;
        } else {
            log.away.send_replace(Some(STALE.into()));
            log.stale.store(true, Ordering::Relaxed);
        }
        Ok(log)
    }

    fn named(data: &Path, chain: Hash, anchor: Option<Anchor>, own: Own) -> Self {
        let (kept, away) = (watch::Sender::default(), watch::Sender::default());
        let (sources, outlets) = (Mutex::default(), Outlets::default());
        Self {
            chain,
            dir: chain_dir(data, &chain),
            own,
            stale: AtomicBool::new(false),
            copy: false,
            silent: None,
            kept,
            anchor,
            sources,
            outlets,
            away,
        }
    }

    /// Names the chain.
    pub fn chain(&self) -> Hash {
        self.chain
    }

    /// Accounts of the owner, whose history is written down.
    pub fn own(&self) -> &[NodeId] {
        &self.own.accounts
    }

    /// What computes on this machine.
    pub fn device(&self) -> &str {
        &self.own.device
    }

    /// What there is of it.
    pub fn kept(&self) -> Option<Arc<Kept>> {
        self.kept.borrow().clone().filter(|kept| !kept.keeper.has_failed())
    }

    /// Whether it stopped for good: then there is nothing of it here until the node starts again.
    pub(crate) fn has_failed(&self) -> bool {
        self.kept.borrow().as_ref().is_some_and(|kept| kept.keeper.has_failed())
    }

    /// The same, as soon as there is something.
    pub async fn wait_kept(&self) -> Option<Arc<Kept>> {
        self.kept.subscribe().wait_for(Option::is_some).await.ok().and_then(|kept| kept.clone())
    }

    /// Why the chain stands still here, if it does.
    pub fn trouble(&self) -> Option<String> {
        if self.copy {
            return self.silent.clone();
        }
        let kept = self.kept.borrow().clone();
        kept.and_then(|kept| kept.keeper.trouble())
            .or_else(|| self.away.borrow().clone())
            .or_else(|| self.silent.clone())
    }

    /// Who takes part in a run, as far as the chain is here.
    pub fn members(&self, run: &Hash) -> impl Iterator<Item = NodeId> + use<> {
        let members = |kept: Arc<Kept>| -> Vec<NodeId> {
            let of = |o: &mut chain::Orderer| Some(o.state().runs().runs.get(run)?.members.keys().copied().collect());
            kept.keeper.look(of).unwrap_or_default()
        };
        self.kept().map(members).unwrap_or_default().into_iter()
    }

    /// Nodes that may keep the chain too.
    pub fn add_sources(&self, nodes: impl Iterator<Item = NodeId>) {
        self.sources.lock().expect("nobody panics while holding it").extend(nodes);
    }

    /// Nodes to follow, validators first.
    pub fn sources(&self, me: &NodeId) -> Vec<NodeId> {
        let mut sources: Vec<NodeId> = self.kept().map(|kept| kept.nodes()).unwrap_or_default();
        let others = self.sources.lock().expect("nobody panics while holding it");
        sources.extend(others.iter().filter(|node| !sources.contains(node)).copied().collect::<Vec<_>>());
        sources.retain(|node| node != me);
        sources
    }

    /// A ticket as it is now: the newest block, and the nodes as they are reached. `here`: this node, which keeps the chain
    /// too.
    pub fn fresh(&self, here: &net::Address, ticket: &Ticket) -> Ticket {
        let Some(kept) = self.kept().filter(|_| !here.sockets.is_empty()) else { return ticket.clone() };
        let anchor = kept.keeper.look(|orderer| (orderer.state().height(), orderer.state().tip()));
        let seats = kept.network.seats.iter().map(|seat| &seat.address);
        let others = seats.chain(&ticket.peers).filter(|address| address.node != here.node);
        let mut peers = vec![here.clone()];
        for other in others.take(PEERS_MAX) {
            if !peers.iter().any(|known| known.node == other.node) {
                peers.push(other.clone());
            }
        }
        Ticket { anchor: (anchor.0 > 0).then_some(anchor), peers, ..ticket.clone() }
    }

    /// Changes when [`Self::trouble`] may have.
    pub fn changes(&self) -> watch::Receiver<Option<String>> {
        self.away.subscribe()
    }

    /// Takes a snapshot as the beginning of the chain here.
    pub(crate) fn begin(&self, bytes: &[u8]) -> Result<Arc<Kept>> {
        let snapshot = Snapshot::from_bytes(bytes).ok().context("a snapshot that is none")?;
        let unbonding = snapshot.genesis.money.unbonding_ms;
        let oldest = base::Millis(crate::clock::clock().0.saturating_sub(unbonding / 2));
        let checked = guarded(|| Ok(snapshot.check(&self.chain, self.anchor.as_ref(), oldest)))?;
        let (state, ends) = checked.map_err(|reject| match reject {
            Reject::Stale => anyhow::anyhow!(
                "the block that this ticket vouches for is older than half the unbonding delay, so former validators could \
                 make up what follows it: ask a member for a fresh ticket"
            ),
            other => anyhow::anyhow!("a snapshot that does not hold: {other}"),
        })?;
        let store = ChainStore::open(&self.dir)?;
        store.keep_state(&state.to_snapshot(), &ends)?;
        let network = NetworkFile { genesis: snapshot.genesis, seats: Vec::new(), state: None };
        network.write(&NetworkFile::path(&self.dir))?;
        drop(store);
        let kept = Arc::new(guarded(|| Kept::open(&self.dir, network, None, &self.own, false))?);
        self.kept.send_replace(Some(kept.clone()));
        Ok(kept)
    }

    /// Takes a transaction of anybody: for the next block where this node validates, else for those whom it follows.
    pub fn submit(&self, bytes: &[u8], from: Option<NodeId>) -> Result<(), Reject> {
        let kept = self.kept().ok_or(Reject::Early)?;
        if kept.keeper.validates() {
            kept.keeper.submit(bytes)?;
            crash::point("submitted");
            return Ok(());
        }
        let tx = Tx::from_bytes(bytes).map_err(|_| Reject::Malformed)?;
        kept.check(&tx)?;
        self.outlets.pass_on(bytes, Source { signer: tx.by(), from })
    }

    /// Signs a wallet transaction with the next free number, and submits it until a block settles it; its hash, too.
    pub(crate) fn begin_spend(
        &self,
        key: &Keypair,
        tx: ledger::WalletTx,
    ) -> Result<(Hash, watch::Receiver<Progress>), SpendError> {
        let kept = self.kept().context("the chain has not arrived yet; try again")?;
        let _turn = kept.pending.turn();
        // These are done once however often they are asked for.
        let once = matches!(
            tx,
            ledger::WalletTx::Redeem { .. }
                | ledger::WalletTx::Bond { .. }
                | ledger::WalletTx::Seat { .. }
                | ledger::WalletTx::Unseat { .. }
                | ledger::WalletTx::Close { .. }
                | ledger::WalletTx::Withdraw { .. }
        );
        let (chain, nonce) = (self.chain, kept.next_number(&key.id()));
        let like = || tokio::task::block_in_place(|| kept.pending.like(&key.id(), &tx, nonce));
        if let Some(waits) = once.then(like).flatten() {
            return Ok(waits);
        }
        let envelope = ledger::WalletEnvelope { chain, nonce, tx };
        let tx = Tx::Wallet { tx: Signed::new(ledger::DOMAIN, key, envelope) };
        Ok((tx.hash(), self.take_own(&kept, &tx)?))
    }

    /// Submits a transaction of the owner until a block settles it.
    pub(crate) fn begin_say(&self, tx: &Tx) -> Result<watch::Receiver<Progress>, SpendError> {
        let kept = self.kept().context("the chain has not arrived yet; try again")?;
        let _turn = kept.pending.turn();
        self.take_own(&kept, tx)
    }

    fn take_own(&self, kept: &Kept, tx: &Tx) -> Result<watch::Receiver<Progress>, SpendError> {
        if self.copy {
            return Err(anyhow::anyhow!(COPY).into());
        }
        let hash = tx.hash();
        // Signed again with the same number it is the same one, which others have got before.
        let refused = |reject| match kept.pending.was_dropped(&hash) {
            true => SpendError::Unknown(Unsettled::Dropped(reject)),
            false => SpendError::Refused(reject),
        };
        kept.check(tx).map_err(refused)?;
        // Persist before sending.
        let (progress, new) = tokio::task::block_in_place(|| kept.pending.add(tx))?.map_err(refused)?;
        // One that waited already is submitted again later.
        if let Err(reject) = self.submit_own(kept, tx)
            && new
        {
            let error = refused(reject);
            kept.pending.end(&hash, Progress::Refused(reject));
            return Err(error);
        }
        Ok(progress)
    }

    /// Submits a transaction of the owner, for the first time or again.
    pub(crate) fn submit_own(&self, kept: &Kept, tx: &Tx) -> Result<(), Reject> {
        let bytes = tx.to_bytes();
        if kept.keeper.validates() {
            kept.keeper.submit(&bytes)?;
            crash::point("submitted");
        } else {
            // Where nobody is reached now, it is on disk and goes later.
            self.outlets.send(&bytes);
        }
        Ok(())
    }
}

/// Whatever strangers wrote, it is an error at most.
fn guarded<T>(open: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
    done.unwrap_or_else(|_| Err(anyhow::anyhow!("this chain does not add up, and this node cannot read it")))
}

impl Kept {
    /// A chain of strangers never `ends` the process.
    fn open(dir: &Path, network: NetworkFile, key: Option<Keypair>, own: &Own, ends: bool) -> Result<Self> {
        let store = Arc::new(ChainStore::open(dir)?);
        let (out, outgoing) = mpsc::unbounded_channel();
        let (incoming, packets) = mpsc::channel(QUEUE);
        let journal = dir.join(voting_key::JOURNAL);
        let pending = Arc::new(Pending::open(store.clone())?);
        let (write, settled) = (crate::history::writer(store.clone(), own.clone()), pending.clone());
        let note = Arc::new(move |block: &chain::Block, happened: &[Happened]| {
            write(block, happened);
            settled.settle(block, happened);
        });
        let config = ReplicaConfig { genesis: network.genesis.clone(), key, journal, disk: store.clone(), ends, note };
        let keeper = Replica::start(config, Connections { out, incoming: packets })?;
        let outgoing = Mutex::new(Some(outgoing));
        let (seats, made) = (Mutex::new((u64::MAX, BTreeMap::new())), Mutex::default());
        let making = tokio::sync::Semaphore::new(MAKING_MAX);
        Ok(Self { store, keeper, pending, network, incoming, outgoing, seats, made, making })
    }

    /// Whether the chain would take a transaction, as far as can be told now, after those with lower numbers.
    fn check(&self, tx: &Tx) -> Result<(), Reject> {
        self.keeper.look(|orderer| {
            let state = orderer.state();
            match ahead(state, tx) {
                before if before > AHEAD_MAX => Err(Reject::Early),
                before => state.check(tx, before),
            }
        })
    }

    /// The number of the next wallet transaction of `key`: from the final state and those that wait on disk.
    pub fn next_number(&self, key: &NodeId) -> u64 {
        // In this order: one that becomes final in between is seen by one of both.
        let taken = self.pending.numbers(key);
        let used = |o: &mut chain::Orderer| o.state().money().account(key).map_or(0, |account| account.wallet_nonce);
        free_number(self.keeper.look(used), &taken)
    }

    /// The key of the seat of `node`, as of the newest block.
    pub(crate) fn seat_of(&self, node: &NodeId) -> Option<NodeId> {
        let height = *self.keeper.height().borrow();
        let mut seats = self.seats.lock().expect("nobody panics while holding it");
        if seats.0 != height {
            // Of this set and the one before; others have nothing to say here.
            let now = |o: &mut chain::Orderer| {
                let (epoch, money) = (o.state().epoch(), o.state().money());
                let keys = epoch.before.iter().chain(&epoch.set);
                keys.filter_map(|key| Some((money.seat(key)?.node, *key))).collect()
            };
            *seats = (height, self.keeper.look(now));
        }
        seats.1.get(node).copied()
    }

    /// The block at `height` when there is one, with its certificate.
    pub async fn block(&self, height: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut heights = self.keeper.height();
        heights.wait_for(|newest| *newest >= height).await.ok()?;
        tokio::task::block_in_place(|| {
            let block = self.store.block(height).ok()??;
            Some((block, self.store.certificate(height).ok()?.unwrap_or_default()))
        })
    }
}
