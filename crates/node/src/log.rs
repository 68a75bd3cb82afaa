//! The chains of a node. At home it keeps the one it has a seat in, or one of its own with one validator, made
//! on first use: that is its owner's own book-keeping. Others, to which a ticket led, it follows: it verifies
//! certificates, applies every block, and serves them on.

use crate::chain_store::ChainStore;
use crate::crash;
use crate::mark::{self, Voter};
use crate::network::NetworkFile;
use crate::store::Store;
use anyhow::{Context, Result, bail};
use base::{Hash, Keypair, NodeId, Reject, Wire};
use bytes::Bytes;
use chain::{
    AccountProof, Anchor, Block, Connections, Disk, Keeper, KeeperConfig, PACKET_MAX, Packet, RootProof, Snapshot, Step,
};
use net::{Net, Served};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A chain of this node.
pub(crate) struct ChainLog {
    chain: Hash,
    dir: PathBuf,
    own: Own,
    kept: watch::Sender<Option<Arc<Kept>>>,
    /// A block that somebody vouched for, until there is a state.
    pub(crate) anchor: Option<Anchor>,
    /// Nodes that may keep it, beside its validators.
    sources: Mutex<BTreeSet<NodeId>>,
    /// Where transactions go while another node is followed.
    pub(crate) upstream: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    /// Whether what there is of it is too old to go on from.
    pub(crate) stale: AtomicBool,
    /// Whether this is a copy of a folder that votes alone.
    copy: bool,
    /// Why nothing comes, if nothing does.
    pub(crate) away: watch::Sender<Option<String>>,
}

/// A chain as far as it is here.
pub(crate) struct Kept {
    pub(crate) store: Arc<ChainStore>,
    pub(crate) keeper: Keeper,
    pub(crate) network: NetworkFile,
    /// Packets of validators on their way in and out.
    incoming: mpsc::Sender<(NodeId, Packet)>,
    outgoing: Mutex<Option<Outgoing>>,
    /// The key of the seat that a node has.
    seats: Mutex<(u64, BTreeMap<NodeId, NodeId>)>,
    /// The last snapshot that was made for others.
    made: Mutex<Option<Made>>,
    /// Bounds how many are made at a time.
    making: tokio::sync::Semaphore,
}

/// A snapshot for who begins at a block, the height of its state, and when it was made.
struct Made {
    anchor: Option<u64>,
    height: u64,
    at: Instant,
    bytes: Bytes,
}

/// What is the owner's: the history of its accounts is kept.
pub(crate) type Own = Arc<Owned>;

/// The owner's accounts, and what works for them.
#[derive(Debug)]
pub(crate) struct Owned {
    /// That of the node itself comes first.
    pub(crate) accounts: Vec<NodeId>,
    /// What computes on this machine, as in `talkoo.toml`.
    pub(crate) device: String,
}

/// Packets on their way out, and whom they are for.
type Outgoing = mpsc::UnboundedReceiver<(Vec<NodeId>, Packet)>;

/// What a follower says that was away for too long.
const STALE: &str = "this node was away for longer than half the unbonding delay, so former validators could deceive \
    it: join again with a fresh ticket of a member that you trust, then restart the node";
/// What a copy of the folder of a network of one says.
const COPY: &str = "this folder is a copy of one whose key votes, or was restored from a backup: it does not vote, \
    for two that vote with one key could contradict each other; `talkoo network recover` goes on as a network of its own";
/// A snapshot is given out for so long: blocks lead on from it.
const MADE_FOR: Duration = Duration::from_secs(20);
const MAKING_MAX: usize = 8;
/// Packets that wait to be taken.
const QUEUE: usize = 4096;

/// The folder of a chain in a data folder.
pub(crate) fn chain_dir(data: &Path, chain: &Hash) -> PathBuf {
    data.join("chains").join(chain.to_string())
}

impl ChainLog {
    /// The chain of the node's own network.
    pub(crate) fn home(store: &Store, network: NetworkFile, own: Own) -> Result<Self> {
        let mut log = Self::named(store.dir(), network.genesis.chain(), None, own);
        let key = match mark::voter(store, &log.dir, &network)? {
            Voter::Own(key) | Voter::New(key) => Some(key),
            Voter::None => {
                log.copy = true;
                None
            }
        };
        log.kept.send_replace(Some(Arc::new(Kept::open(&log.dir, network, key, &log.own)?)));
        Ok(log)
    }

    /// A chain to which a ticket led; what there is of it on disk is gone on with.
    pub(crate) fn followed(data: &Path, chain: Hash, anchor: Option<Anchor>, own: Own) -> Result<Self> {
        let log = Self::named(data, chain, anchor, own);
        let Some(network) = NetworkFile::of(&log.dir)? else { return Ok(log) };
        let kept = Kept::open(&log.dir, network, None, &log.own)?;
        let (height, seen) = kept.keeper.look(|orderer| (orderer.state().height(), orderer.state().time()));
        let unbonding = kept.network.genesis.money.unbonding_ms;
        if chain::clock().since(seen) <= unbonding / 2 {
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
        let (sources, upstream) = (Mutex::default(), Mutex::default());
        Self {
            chain,
            dir: chain_dir(data, &chain),
            own,
            stale: AtomicBool::new(false),
            copy: false,
            kept,
            anchor,
            sources,
            upstream,
            away,
        }
    }

    /// Names the chain.
    pub(crate) fn chain(&self) -> Hash {
        self.chain
    }

    /// Accounts of the owner, whose history is written down.
    pub(crate) fn own(&self) -> &[NodeId] {
        &self.own.accounts
    }

    /// What computes on this machine.
    #[cfg(feature = "serve")]
    pub(crate) fn device(&self) -> &str {
        &self.own.device
    }

    /// What there is of it.
    pub(crate) fn kept(&self) -> Option<Arc<Kept>> {
        self.kept.borrow().clone()
    }

    /// The same, as soon as there is something.
    pub(crate) async fn wait_kept(&self) -> Option<Arc<Kept>> {
        self.kept.subscribe().wait_for(Option::is_some).await.ok().and_then(|kept| kept.clone())
    }

    /// Why the chain stands still here, if it does.
    pub(crate) fn trouble(&self) -> Option<String> {
        if self.copy {
            return Some(COPY.into());
        }
        self.kept().and_then(|kept| kept.keeper.trouble()).or_else(|| self.away.borrow().clone())
    }

    /// Who takes part in a run, as far as the chain is here.
    pub(crate) fn members(&self, run: &Hash) -> impl Iterator<Item = NodeId> + use<> {
        let members = |kept: Arc<Kept>| -> Vec<NodeId> {
            let of = |o: &mut chain::Orderer| Some(o.state().runs().runs.get(run)?.members.keys().copied().collect());
            kept.keeper.look(of).unwrap_or_default()
        };
        self.kept().map(members).unwrap_or_default().into_iter()
    }

    /// Nodes that may keep the chain too.
    pub(crate) fn add_sources(&self, nodes: impl Iterator<Item = NodeId>) {
        self.sources.lock().expect("nobody panics while holding it").extend(nodes);
    }

    /// Nodes to follow, validators first.
    pub(crate) fn sources(&self, me: &NodeId) -> Vec<NodeId> {
        let mut sources: Vec<NodeId> = self.kept().map(|kept| kept.nodes()).unwrap_or_default();
        let others = self.sources.lock().expect("nobody panics while holding it");
        sources.extend(others.iter().filter(|node| !sources.contains(node)).copied().collect::<Vec<_>>());
        sources.retain(|node| node != me);
        sources
    }

    /// Takes a snapshot as the beginning of the chain here.
    pub(crate) fn begin(&self, bytes: &[u8]) -> Result<Arc<Kept>> {
        let snapshot = Snapshot::from_bytes(bytes).ok().context("a snapshot that is none")?;
        let unbonding = snapshot.genesis.money.unbonding_ms;
        let oldest = base::Millis(chain::clock().0.saturating_sub(unbonding / 2));
        let (state, ends) = snapshot.check(&self.chain, self.anchor.as_ref(), oldest).map_err(|reject| match reject {
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
        let kept = Arc::new(Kept::open(&self.dir, network, None, &self.own)?);
        self.kept.send_replace(Some(kept.clone()));
        Ok(kept)
    }

    /// Takes a transaction: for the next block where this node validates, else for whom it follows.
    pub(crate) fn submit(&self, tx: &[u8]) -> Result<(), Reject> {
        let kept = self.kept().ok_or(Reject::Early)?;
        if kept.keeper.validates() {
            kept.keeper.submit(tx)?;
            crash::point("submitted");
            return Ok(());
        }
        // Nobody to give it to: who said it says it again.
        let upstream = self.upstream.lock().expect("nobody panics while holding it").clone().ok_or(Reject::NotHeld)?;
        let room = upstream.try_reserve().map_err(|_| Reject::TooMany)?;
        if kept.keeper.submit(tx)? {
            room.send(tx.to_vec());
        }
        Ok(())
    }
}

impl Kept {
    fn open(dir: &Path, network: NetworkFile, key: Option<Keypair>, own: &Own) -> Result<Self> {
        let store = Arc::new(ChainStore::open(dir)?);
        let (out, outgoing) = mpsc::unbounded_channel();
        let (incoming, packets) = mpsc::channel(QUEUE);
        let journal = dir.join(mark::JOURNAL);
        let note = crate::history::writer(store.clone(), own.clone());
        let config = KeeperConfig { genesis: network.genesis.clone(), key, journal, disk: store.clone(), note };
        let keeper = Keeper::start(config, Connections { out, incoming: packets })?;
        let outgoing = Mutex::new(Some(outgoing));
        let (seats, made) = (Mutex::new((u64::MAX, BTreeMap::new())), Mutex::default());
        let making = tokio::sync::Semaphore::new(MAKING_MAX);
        Ok(Self { store, keeper, network, incoming, outgoing, seats, made, making })
    }

    /// Nodes of the seats.
    fn nodes(&self) -> Vec<NodeId> {
        self.keeper.look(|orderer| {
            let (set, money) = (orderer.state().validators(), orderer.state().money());
            set.iter().filter_map(|key| Some(money.seat(key)?.node)).collect()
        })
    }

    /// The key of the seat of `node`, as of the newest block.
    fn seat_of(&self, node: &NodeId) -> Option<NodeId> {
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

    /// Sends what the validator of this node has to say to the others.
    pub(crate) fn connect(&self, net: &Arc<Net>) {
        for seat in self.network.seats.iter().filter(|seat| seat.address.node != net.id()) {
            net.know(&seat.address);
        }
        let mut peers = self.nodes();
        peers.extend(self.network.seats.iter().map(|seat| seat.address.node));
        peers.retain(|node| *node != net.id());
        if !peers.is_empty() {
            net.meet(self.network.genesis.chain(), &peers);
        }
        let Some(mut outgoing) = self.outgoing.lock().expect("nobody panics while holding it").take() else { return };
        // Founders are known before the first block.
        let founders = self.network.genesis.validators.iter().map(|founder| (founder.key, founder.node));
        let mut nodes: BTreeMap<NodeId, NodeId> = founders.collect();
        let (net, seats) = (net.clone(), self.keeper.seats());
        tokio::spawn(async move {
            let mut links = BTreeMap::new();
            while let Some((to, packet)) = outgoing.recv().await {
                let bytes = Arc::new(packet.to_bytes());
                for seat in to {
                    if !nodes.contains_key(&seat) {
                        nodes.extend(seats());
                    }
                    let Some(node) = nodes.get(&seat).filter(|node| **node != net.id()) else { continue };
                    let link = links.entry(*node).or_insert_with(|| net.link(*node));
                    // A link that does not keep up loses frames; the engine asks again.
                    let _ = link.send(bytes.clone());
                }
            }
        });
    }

    /// The block at `height` when there is one, with its certificate.
    pub(crate) async fn block(&self, height: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut heights = self.keeper.height();
        heights.wait_for(|newest| *newest >= height).await.ok()?;
        tokio::task::block_in_place(|| {
            let block = self.store.block(height).ok()??;
            Some((block, self.store.certificate(height).ok()?.unwrap_or_default()))
        })
    }

    fn header(&self, height: u64) -> Result<chain::Header> {
        let bytes = self.store.block(height)?.with_context(|| format!("block {height} is not kept here"))?;
        Ok(Block::from_bytes(&bytes)?.header)
    }

    /// Waits for the block that certifies the state at `height`, and gathers what proves it from the epoch `since` on.
    async fn root_proof(&self, height: u64, since: u64) -> Result<RootProof> {
        self.keeper.height().wait_for(|newest| *newest > height).await?;
        tokio::task::block_in_place(|| {
            let newest = *self.keeper.height().borrow();
            let mut between = Vec::new();
            for at in height + 1..=newest {
                let header = self.header(at)?;
                let Some(certificate) = self.store.certificate(at)? else {
                    between.push(header);
                    continue;
                };
                let mut steps = Vec::new();
                for epoch in since..header.epoch {
                    steps.push(
                        self.store.end(epoch)?.with_context(|| format!("the end of epoch {epoch} is not kept here"))?,
                    );
                }
                steps.push(Step { header, certificate });
                return Ok(RootProof { between, steps });
            }
            bail!("the newest block has no certificate yet; try again")
        })
    }

    /// Proves what `owner` holds: waits for the next block, which certifies it.
    pub(crate) async fn prove(&self, owner: &NodeId) -> Result<AccountProof> {
        let mut proof = self.keeper.look(|orderer| orderer.prove(owner));
        proof.root = self.root_proof(proof.height, 0).await?;
        Ok(proof)
    }

    /// The same for several that ask: the same one for a while.
    async fn snapshot_bytes(&self, anchor: Option<u64>) -> Result<(u64, Bytes)> {
        let held = || self.made.lock().expect("nobody panics while holding it");
        if let Some(last) = held().as_ref().filter(|last| last.anchor == anchor && last.at.elapsed() < MADE_FOR) {
            return Ok((last.height, last.bytes.clone()));
        }
        let _turn = self.making.acquire().await?;
        let (height, snapshot) = self.snapshot(anchor).await?;
        let bytes = Bytes::from(snapshot.to_bytes());
        *held() = Some(Made { anchor, height, at: Instant::now(), bytes: bytes.clone() });
        Ok((height, bytes))
    }

    /// The state now, for who begins at the block `anchor`.
    async fn snapshot(&self, anchor: Option<u64>) -> Result<(u64, Snapshot)> {
        let genesis = self.network.genesis.clone();
        let begin = |height| -> Result<_> {
            let header = self.header(height)?;
            let set = match (&header.next, header.epoch.checked_sub(1)) {
                (Some(next), _) => next.clone(),
                (None, Some(before)) => self.store.end(before)?.and_then(|step| step.header.next).unwrap_or_default(),
                (None, None) => chain::first_set(&genesis),
            };
            Ok((header, set))
        };
        let anchor = anchor.filter(|height| *height > 0).map(begin).transpose()?;
        let since = anchor.as_ref().map_or(0, |(header, _)| header.epoch);
        let (height, state) = self.keeper.look(|orderer| (orderer.state().height(), orderer.state().to_snapshot()));
        let proof = self.root_proof(height, since).await?;
        Ok((height, Snapshot { genesis, anchor, state, proof }))
    }
}

/// Every chain of the node.
pub(crate) struct Chains {
    data: PathBuf,
    own: Own,
    pub(crate) home: Arc<ChainLog>,
    logs: Mutex<BTreeMap<Hash, Arc<ChainLog>>>,
    following: Mutex<tokio::task::JoinSet<()>>,
}

impl Chains {
    pub(crate) fn new(data: &Path, home: ChainLog) -> Self {
        let own = home.own.clone();
        let home = Arc::new(home);
        let logs = Mutex::new(BTreeMap::from([(home.chain(), home.clone())]));
        Self { data: data.to_owned(), own, home, logs, following: Mutex::default() }
    }

    pub(crate) fn get(&self, chain: &Hash) -> Option<Arc<ChainLog>> {
        self.logs.lock().expect("nobody panics while holding it").get(chain).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<ChainLog>> {
        self.logs.lock().expect("nobody panics while holding it").values().cloned().collect()
    }

    /// The chain of a ticket, followed from now on.
    pub(crate) fn enter(
        &self,
        net: &Arc<Net>,
        chain: Hash,
        anchor: Option<Anchor>,
        stop: &CancellationToken,
    ) -> Result<Arc<ChainLog>> {
        let mut logs = self.logs.lock().expect("nobody panics while holding it");
        if let Some(log) = logs.get(&chain) {
            return Ok(log.clone());
        }
        let log = Arc::new(ChainLog::followed(&self.data, chain, anchor, self.own.clone())?);
        logs.insert(chain, log.clone());
        self.follow(log.clone(), net, stop);
        Ok(log)
    }

    /// Brings a chain here until `stop`.
    pub(crate) fn follow(&self, log: Arc<ChainLog>, net: &Arc<Net>, stop: &CancellationToken) {
        let mut following = self.following.lock().expect("nobody panics while holding it");
        following.spawn(crate::follow::sync(log, net.clone(), stop.child_token()));
    }

    /// Waits until no chain is followed any more.
    pub(crate) async fn stopped(&self) {
        let mut following = std::mem::take(&mut *self.following.lock().expect("nobody panics while holding it"));
        while let Some(ended) = following.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a chain was not followed to the end");
            }
        }
    }
}

impl net::LogService for Chains {
    fn submit(&self, chain: &Hash, _from: NodeId, tx: Vec<u8>) -> Result<(), Reject> {
        self.get(chain).ok_or(Reject::WrongChain)?.submit(&tx)
    }

    fn block(&self, chain: Hash, height: u64) -> Served<'_, Option<(Bytes, Bytes)>> {
        Box::pin(async move {
            let (block, certificate) = self.get(&chain)?.kept()?.block(height).await?;
            Some((block.into(), certificate.into()))
        })
    }

    fn snapshot(&self, chain: Hash, anchor: Option<u64>) -> Served<'_, Option<(u64, Bytes)>> {
        Box::pin(async move { self.get(&chain)?.kept()?.snapshot_bytes(anchor).await.ok() })
    }
}

impl net::Listener for Chains {
    fn frame_max(&self, by: &NodeId) -> usize {
        if self.home.kept().is_some_and(|kept| kept.seat_of(by).is_some()) { PACKET_MAX } else { 0 }
    }

    fn take(&self, by: &NodeId, frame: Vec<u8>) {
        let Some(kept) = self.home.kept() else { return };
        let Some(seat) = kept.seat_of(by) else { return };
        match Packet::from_bytes(&frame) {
            Ok(packet) => {
                if kept.incoming.try_send((seat, packet)).is_err() {
                    kept.keeper.count(Reject::TooMany);
                }
            }
            Err(_) => kept.keeper.count(Reject::Malformed),
        }
    }
}
