//! The engine on a simulated network in virtual time, with our own application behind it: four validators, one
//! of them dishonest in each of the known ways; partitions. Safety always, blocks go on afterwards, and what
//! can be proved costs a bond. The same seed gives the same run.

mod common;

use base::{Hash, Keypair, Millis, NodeId, Signed};
use chain::{Block, Evidence, Genesis, Happened, Judgement, Orderer, Turn, Tx};
use commonware_actor::Feedback;
use commonware_codec::{DecodeExt as _, Encode as _};
use commonware_consensus::simplex::elector::RoundRobin;
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use commonware_consensus::simplex::types::{Activity, Context};
use commonware_consensus::simplex::{self, Engine, Plan, mocks};
use commonware_consensus::types::{Epoch, Round, ViewDelta};
use commonware_consensus::{Automaton, CertifiableAutomaton, Relay, Reporter};
use commonware_cryptography::blake3::Digest;
use commonware_cryptography::ed25519::{PrivateKey, PublicKey};
use commonware_cryptography::{Blake3, Sha256};
use commonware_p2p::simulated::{Config as NetConfig, Link, Network, Oracle};
use commonware_p2p::{Recipients, Sender as _, max_message_size};
use commonware_parallel::Sequential;
use commonware_runtime::buffer::paged::CacheRef;
use commonware_runtime::{Clock as _, IoBuf, Quota, Runner as _, Spawner as _, Supervisor as _, deterministic};
use commonware_utils::channel::oneshot;
use commonware_utils::ordered::Set;
use commonware_utils::{NZDuration, NZU16, NZU32, NZUsize, probability};
use ledger::Credits;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

const N: usize = 4;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;
/// Blocks that must become final after the beginning, and after every fault.
const BLOCKS: u64 = 12;

/// What the validator with index 3 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fourth {
    Honest,
    /// Never says anything.
    Dead,
    /// Takes part in everything but never proposes.
    SilentLeader,
    /// Votes for blocks that it shows nobody.
    Withholds,
    /// Proposes blocks with a root of its own.
    WrongRoot,
    /// Sends everybody junk, and what it heard once more.
    Floods,
    /// Votes for two things.
    Conflicts,
    /// Votes to end a view and against that.
    Nulls,
    /// Votes for what is long past.
    Outdated,
    /// Votes in another epoch.
    OtherEpoch,
    /// Signs as another.
    Impersonates,
    /// Proposes two blocks.
    Equivocates,
}

type Shared = Arc<World>;

struct World {
    genesis: Genesis,
    nodes: Vec<Mutex<Node>>,
    now: Box<dyn Fn() -> Millis + Send + Sync>,
    fourth: Fourth,
}

struct Node {
    orderer: Orderer,
    /// Questions that wait for a block.
    verify: Vec<(Turn, Hash, Hash, oneshot::Sender<bool>)>,
    certify: Vec<(Hash, oneshot::Sender<bool>)>,
    /// Finalizations that wait for a block.
    finals: Vec<Hash>,
    chain: BTreeMap<u64, Hash>,
    slashed: Vec<NodeId>,
}

#[derive(Clone)]
struct Seat {
    me: usize,
    world: Shared,
}

fn key(i: usize) -> Keypair {
    common::key(i)
}

fn user(i: usize) -> Keypair {
    Keypair::from_secret([1 + i as u8; 32])
}

fn public(i: usize) -> PublicKey {
    PublicKey::decode(key(i).id().0.to_vec()).expect("a key")
}

fn index(key_of: &PublicKey) -> usize {
    (0..N).find(|i| public(*i) == *key_of).expect("one of the four")
}

impl World {
    fn node(&self, i: usize) -> std::sync::MutexGuard<'_, Node> {
        self.nodes[i].lock().expect("nobody panics while holding it")
    }

    fn height(&self, i: usize) -> u64 {
        self.node(i).orderer.state().height()
    }

    /// Hands a block to a node and answers what waited for it.
    fn give(&self, i: usize, block: Block) {
        let now = (self.now)();
        let node = &mut *self.node(i);
        node.orderer.body(block);
        let waiting = std::mem::take(&mut node.verify);
        for (turn, parent, hash, answer) in waiting {
            node.answer(&turn, &parent, &hash, now, answer);
        }
        node.certify.retain_mut(|(hash, answer)| {
            let known = node.orderer.block(hash).is_some();
            if known {
                let (gone, _) = oneshot::channel();
                let _ = std::mem::replace(answer, gone).send(true);
            }
            !known
        });
        for hash in std::mem::take(&mut node.finals) {
            node.finish(hash);
        }
    }
}

impl Node {
    fn answer(&mut self, turn: &Turn, parent: &Hash, hash: &Hash, now: Millis, answer: oneshot::Sender<bool>) {
        match self.orderer.verify(turn, parent, hash, now) {
            Judgement::Valid => drop(answer.send(true)),
            Judgement::Invalid(_) => drop(answer.send(false)),
            Judgement::Missing(_) | Judgement::Later(_) => self.verify.push((turn.clone(), *parent, *hash, answer)),
        }
    }

    fn finish(&mut self, hash: Hash) {
        match self.orderer.finalized(&hash) {
            Ok(done) => {
                for (block, happened) in done {
                    self.chain.insert(block.header.height, block.hash());
                    let slashed =
                        |h: &Happened| if let Happened::Slashed { seat, .. } = h { Some(*seat) } else { None };
                    self.slashed.extend(happened.iter().filter_map(slashed));
                }
            }
            Err(Judgement::Missing(_)) => self.finals.push(hash),
            Err(answer) => panic!("a final block does not follow: {answer:?}"),
        }
    }
}

impl Automaton for Seat {
    type Context = Context<Digest, PublicKey>;
    type Digest = Digest;

    async fn propose(&mut self, context: Self::Context) -> oneshot::Receiver<Digest> {
        let (answer, receiver) = oneshot::channel();
        let (world, me) = (&self.world, self.me);
        if me == 3 && world.fourth == Fourth::SilentLeader {
            return receiver;
        }
        let mut node = world.node(me);
        // There is always something to put in order.
        let nonce = node.orderer.state().money().account(&user(me).id()).map_or(0, |account| account.wallet_nonce);
        let tx = ledger::WalletTx::Transfer { to: user(9).id(), amount: Credits(1_000) };
        let envelope = ledger::WalletEnvelope { chain: world.genesis.chain(), nonce, tx };
        let _ = node.orderer.submit(Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &user(me), envelope) });
        let turn = Turn { epoch: 0, leader: key(me).id(), missing: Vec::new() };
        let parent = Hash(context.parent.1.0);
        if let Ok(Ok(mut block)) = node.orderer.propose(&turn, &parent, (world.now)()) {
            if me == 3 && world.fourth == Fourth::WrongRoot {
                block.header.root = Hash::of("mine", b"");
            }
            let hash = node.orderer.body(block);
            let _ = answer.send(Digest(hash.0));
        }
        receiver
    }

    async fn verify(&mut self, context: Self::Context, payload: Digest) -> oneshot::Receiver<bool> {
        let (answer, receiver) = oneshot::channel();
        let turn = Turn { epoch: 0, leader: key(index(&context.leader)).id(), missing: Vec::new() };
        let (parent, hash) = (Hash(context.parent.1.0), Hash(payload.0));
        self.world.node(self.me).answer(&turn, &parent, &hash, (self.world.now)(), answer);
        receiver
    }
}

impl CertifiableAutomaton for Seat {
    async fn certify(&mut self, _round: Round, payload: Digest) -> oneshot::Receiver<bool> {
        let (answer, receiver) = oneshot::channel();
        let mut node = self.world.node(self.me);
        let hash = Hash(payload.0);
        if node.orderer.block(&hash).is_some() || node.orderer.height_of(&hash).is_some() {
            let _ = answer.send(true);
        } else {
            node.certify.push((hash, answer));
        }
        receiver
    }
}

impl Relay for Seat {
    type Digest = Digest;
    type PublicKey = PublicKey;
    type Plan = Plan<PublicKey>;

    fn broadcast(&mut self, payload: Digest, _plan: Plan<PublicKey>) -> Feedback {
        let block = self.world.node(self.me).orderer.block(&Hash(payload.0)).cloned();
        if self.me == 3 && self.world.fourth == Fourth::Withholds {
            return Feedback::Ok;
        }
        for i in (0..N).filter(|i| *i != self.me) {
            block.clone().into_iter().for_each(|block| self.world.give(i, block));
        }
        Feedback::Ok
    }
}

impl Reporter for Seat {
    type Activity = Activity<Scheme, Digest>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        match &activity {
            Activity::Finalization(found) => self.world.node(self.me).finish(Hash(found.proposal.payload.0)),
            Activity::ConflictingNotarize(_) | Activity::ConflictingFinalize(_) | Activity::NullifyFinalize(_) => {
                let votes = activity.encode().as_ref().to_vec();
                let seq = (self.world.now)().0;
                let evidence = Evidence { chain: self.world.genesis.chain(), seq, epoch: 0, votes };
                let evidence = Signed::new(chain::EVIDENCE_DOMAIN, &key(self.me), evidence);
                let _ = self.world.node(self.me).orderer.submit(Tx::Evidence { evidence });
            }
            _ => {}
        }
        Feedback::Ok
    }
}

/// Runs four validators; the fourth is as said. With `parted`, the network is cut in two for a while.
fn run(seed: u64, fourth: Fourth, parted: bool) -> Vec<Hash> {
    let runner = deterministic::Config::new().with_seed(seed).with_timeout(Some(Duration::from_secs(600)));
    deterministic::Runner::new(runner).start(|context| async move {
        let opening = (0..N).map(|i| (user(i).id(), Credits::whole(100))).collect();
        let mut genesis = common::genesis(N, opening, YEAR_MS);
        genesis.time = Millis(0);
        let clock = context.child("clock");
        let now = move || Millis(1 + clock.current().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64);
        let node = || Node {
            orderer: Orderer::new(&genesis),
            verify: Vec::new(),
            certify: Vec::new(),
            finals: Vec::new(),
            chain: BTreeMap::new(),
            slashed: Vec::new(),
        };
        let nodes = (0..N).map(|_| Mutex::new(node())).collect();
        let world: Shared = Arc::new(World { genesis: genesis.clone(), nodes, now: Box::new(now), fourth });
        let participants: Vec<PublicKey> = Set::from_iter_dedup((0..N).map(public)).into_iter().collect();
        let max_size = max_message_size(&[simplex::max_payload_size::<Scheme, Digest>(N as u32)]);
        let config = NetConfig {
            max_size,
            max_peers_per_set: NZUsize!(5),
            disconnect_on_block: true,
            tracked_peer_sets: NZUsize!(1),
        };
        let (network, oracle) = Network::new_with_peers(context.child("network"), config, participants.clone()).await;
        network.start();
        let namespace = [b"talkoo 2026 consensus v1 ".as_slice(), &genesis.chain().0].concat();
        let set: Set<PublicKey> = Set::from_iter_dedup(participants.iter().cloned());
        let quota = Quota::per_second(NZU32!(10_000));
        for i in 0..N {
            let control = oracle.control(public(i));
            let mut channels = Vec::new();
            for channel in 0..3 {
                channels.push(control.register(channel, quota).await.expect("registered"));
            }
            let Ok([vote, certificate, question]) = <[_; 3]>::try_from(channels) else { panic!("three channels") };
            let secret = PrivateKey::decode(key(i).secret().to_vec()).expect("a key");
            let scheme = Scheme::signer(&namespace, set.clone(), secret).expect("a seat");
            let child = context.child("validator").with_attribute("i", i);
            if i == 3 {
                match fourth {
                    Fourth::Dead => continue,
                    Fourth::Conflicts => {
                        let config = mocks::conflicter::Config { scheme };
                        mocks::conflicter::Conflicter::<_, _, Blake3>::new(child, config).start(vote);
                        continue;
                    }
                    Fourth::Nulls => {
                        let config = mocks::nuller::Config { scheme };
                        mocks::nuller::Nuller::<_, _, Blake3>::new(child, config).start(vote);
                        continue;
                    }
                    Fourth::Outdated => {
                        let config = mocks::outdated::Config { scheme, view_delta: ViewDelta::new(5) };
                        mocks::outdated::Outdated::<_, _, Blake3>::new(child, config).start(vote);
                        continue;
                    }
                    Fourth::OtherEpoch => {
                        let config = mocks::reconfigurer::Config { scheme };
                        mocks::reconfigurer::Reconfigurer::<_, _, Blake3>::new(child, config).start(vote);
                        continue;
                    }
                    Fourth::Impersonates => {
                        let config = mocks::impersonator::Config { scheme };
                        mocks::impersonator::Impersonator::<_, _, Blake3>::new(child, config).start(vote);
                        continue;
                    }
                    Fourth::Equivocates => {
                        let relay = Arc::new(mocks::relay::Relay::<Digest, PublicKey>::new());
                        let config = mocks::equivocator::Config::<_, _, Blake3> {
                            scheme,
                            elector: RoundRobin::<Sha256>::default(),
                            epoch: Epoch::new(0),
                            relay,
                        };
                        mocks::equivocator::Equivocator::new(child, config).start(vote, certificate);
                        continue;
                    }
                    Fourth::Floods => {
                        let (mut out, mut heard) = vote;
                        child.spawn(move |context| async move {
                            use commonware_p2p::Receiver as _;
                            let mut last = IoBuf::from(vec![0xff; 300]);
                            for n in 0..u64::MAX {
                                let _ = out.send(Recipients::All, last.clone(), false);
                                let junk = Hash::of("junk", &n.to_le_bytes()).0.to_vec();
                                let _ = out.send(Recipients::All, IoBuf::from(junk), false);
                                let wait = context.sleep(Duration::from_millis(2));
                                tokio::select! {
                                    got = heard.recv() => if let Ok((_, message)) = got { last = message },
                                    () = wait => {}
                                }
                            }
                        });
                        continue;
                    }
                    Fourth::Honest | Fourth::SilentLeader | Fourth::Withholds | Fourth::WrongRoot => {}
                }
            }
            let seat = Seat { me: i, world: world.clone() };
            let config = simplex::Config {
                scheme,
                elector: RoundRobin::<Sha256>::default(),
                blocker: oracle.control(public(i)),
                automaton: seat.clone(),
                relay: seat.clone(),
                reporter: seat,
                track_historical_votes: true,
                strategy: Sequential,
                partition: format!("seat-{i}"),
                mailbox_size: NZUsize!(1024),
                epoch: Epoch::new(0),
                floor: simplex::Floor::Genesis(Digest(genesis.block().hash().0)),
                replay_buffer: NZUsize!(1 << 20),
                write_buffer: NZUsize!(1 << 16),
                page_cache: CacheRef::new(NZU16!(1024), NZUsize!(64)),
                leader_timeout: Duration::from_millis(1_000),
                certification_timeout: Duration::from_millis(1_500),
                timeout_retry: Duration::from_millis(1_000),
                view_retention: ViewDelta::new(32),
                skip: simplex::SkipPolicy::Enabled {
                    timeout: Duration::from_millis(2_500),
                    budget: simplex::SkipBudget::Fixed(NonZeroU64::new(64).expect("not zero")),
                },
                fetch_timeout: NZDuration!(Duration::from_millis(500)),
                fetch_retry_delay: Duration::from_millis(50),
                forward: simplex::ForwardPolicy::SilentVoters,
            };
            Engine::new(child, config).start(vote, certificate, question);
        }
        link(&oracle, |_, _| true).await;
        let honest = if fourth == Fourth::Honest { N } else { N - 1 };
        reach(&context, &world, honest, BLOCKS).await;
        if parted {
            link(&oracle, |i, j| (i < 2) == (j < 2)).await;
            context.sleep(Duration::from_secs(5)).await;
            let before: Vec<u64> = (0..honest).map(|i| world.height(i)).collect();
            context.sleep(Duration::from_secs(30)).await;
            let after: Vec<u64> = (0..honest).map(|i| world.height(i)).collect();
            assert_eq!(before, after, "two of four decide nothing");
            link(&oracle, |_, _| true).await;
            let top = after.iter().max().expect("some");
            reach(&context, &world, honest, top + BLOCKS).await;
        }
        // Safety: nobody honest has another block at any height, and all books add up.
        let chains: Vec<BTreeMap<u64, Hash>> = (0..honest).map(|i| world.node(i).chain.clone()).collect();
        for chain in &chains {
            for (height, hash) in chain {
                assert!(chains.iter().all(|other| other.get(height).is_none_or(|o| o == hash)), "one chain");
            }
        }
        for i in 0..honest {
            let node = world.node(i);
            let money = node.orderer.state().money();
            assert_eq!(u128::from(money.supply().0), money.held());
            if matches!(fourth, Fourth::Conflicts | Fourth::Nulls) {
                assert_eq!(node.slashed, [key(3).id()], "what can be proved costs the bond, once");
                assert_eq!(money.account(&key(3).id()).map(|a| a.bond), Some(Credits::ZERO));
            } else {
                assert!(node.slashed.is_empty(), "{fourth:?}");
            }
        }
        chains[0].values().copied().collect()
    })
}

/// Connects the pairs that `wanted` says, and disconnects the others.
async fn link(oracle: &Oracle<PublicKey, deterministic::Context>, wanted: impl Fn(usize, usize) -> bool) {
    for i in 0..N {
        for j in (0..N).filter(|j| *j != i) {
            let link = Link {
                latency: Duration::from_millis(10),
                jitter: Duration::from_millis(5),
                success_rate: probability!(0.98),
            };
            let _ = oracle.remove_link(public(i), public(j)).await;
            if wanted(i, j) {
                oracle.add_link(public(i), public(j), link).await.expect("linked");
            }
        }
    }
}

/// Waits, in virtual time, until the first `n` validators have `height` blocks; the runner's deadline ends it.
async fn reach(context: &deterministic::Context, world: &World, n: usize, height: u64) {
    while (0..n).any(|i| world.height(i) < height) {
        context.sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn every_known_kind_of_dishonesty_leaves_one_chain_that_goes_on() {
    use Fourth::*;
    for fourth in [
        Honest,
        Dead,
        SilentLeader,
        Withholds,
        WrongRoot,
        Floods,
        Conflicts,
        Nulls,
        Outdated,
        OtherEpoch,
        Impersonates,
        Equivocates,
    ] {
        for seed in 0..seeds(2) {
            eprintln!("{fourth:?}, seed {seed}");
            run(seed, fourth, false);
        }
    }
}

#[test]
fn two_halves_decide_nothing_and_go_on_together() {
    for seed in 0..seeds(3) {
        run(seed, Fourth::Honest, true);
        run(seed, Fourth::WrongRoot, true);
    }
}

#[test]
fn the_same_seed_gives_the_same_chain() {
    assert_eq!(run(7, Fourth::Withholds, false), run(7, Fourth::Withholds, false));
}

/// How many seeds: a few in every test, `TALKOO_SEEDS` at night.
fn seeds(few: u64) -> u64 {
    std::env::var("TALKOO_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}
