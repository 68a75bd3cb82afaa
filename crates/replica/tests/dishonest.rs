//! Four validators as they ship (keeper, desk, engine, its real timing), one of them on a machine that tampers with
//! what it sends, and a network that is cut. There is one chain, nothing is lost, and it goes on after the cut.

use base::{Hash, Keypair, Millis, NodeId, Signed, Wire};
use chain::{Block, Tx};
use ledger::Credits;
use replica::local::{LocalNetwork, Tamper};
use replica::{Channel, Packet, Replica};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const N: usize = 4;
/// The dishonest one.
const LIAR: usize = 3;
/// Nothing here takes longer, whatever the machine does.
const DEADLINE: Duration = Duration::from_secs(120);
/// Long enough for a few blocks where any can be made.
const QUIET: Duration = Duration::from_secs(4);

/// What a dishonest machine does to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trick {
    /// Another block than the one that it proposes, to some.
    Twin,
    /// The block not at all, to others.
    Withheld,
    /// A vote or a certificate with a flipped bit.
    Forged,
    /// The same once more.
    Repeated,
    /// A transaction that is none of its signer's.
    Stolen,
    /// Questions for blocks that there are not.
    Flood,
}

type Counts = Arc<Mutex<BTreeMap<Trick, usize>>>;

/// Tampers with what `liar` sends, and counts it.
struct Machine {
    liar: NodeId,
    /// Of the others, in order: who is lied to in which way.
    others: Vec<NodeId>,
    counts: Counts,
}

impl Machine {
    fn count(&self, trick: Trick) -> usize {
        let mut counts = self.counts.lock().expect("nobody panics while holding it");
        let n = counts.entry(trick).or_default();
        *n += 1;
        *n
    }

    fn send(&self, from: &NodeId, to: &NodeId, packet: Packet) -> Vec<Packet> {
        if *from != self.liar {
            return vec![packet];
        }
        let place = self.others.iter().position(|id| id == to);
        match packet {
            Packet::Block(bytes) => match place {
                Some(0) => {
                    self.count(Trick::Twin);
                    vec![Packet::Block(twin(&bytes))]
                }
                Some(1) => {
                    self.count(Trick::Withheld);
                    Vec::new()
                }
                _ => vec![Packet::Block(bytes)],
            },
            // Only one of the others is sent what no honest engine sends: that one hears the liar no more.
            Packet::Engine { channel, epoch, mut bytes } if place == Some(0) && channel != Channel::Questions => {
                self.count(Trick::Forged);
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                vec![Packet::Engine { channel, epoch, bytes }]
            }
            Packet::Tx(bytes) => {
                self.count(Trick::Stolen);
                vec![Packet::Tx(stolen(&bytes)), Packet::Tx(bytes)]
            }
            packet if place == Some(1) => {
                let n = self.count(Trick::Flood) as u64;
                vec![Packet::Ask(Hash::of("nowhere", &n.to_le_bytes())), packet]
            }
            packet => {
                self.count(Trick::Repeated);
                vec![packet.clone(), packet]
            }
        }
    }
}

/// A block that differs in its time alone.
fn twin(bytes: &[u8]) -> Vec<u8> {
    let mut block = Block::from_bytes(bytes).expect("what it sends is a block");
    block.header.time = Millis(block.header.time.0 + 1);
    block.to_bytes()
}

/// The same transaction with another signature.
fn stolen(bytes: &[u8]) -> Vec<u8> {
    let mut tx = Tx::from_bytes(bytes).expect("what it sends is a transaction");
    if let Tx::Wallet { tx } = &mut tx {
        tx.signature.0[7] ^= 1;
    }
    tx.to_bytes()
}

fn user(i: usize) -> Keypair {
    Keypair::from_secret([1 + i as u8; 32])
}

struct Network {
    _stage: tempfile::TempDir,
    local: LocalNetwork,
    keepers: Vec<Replica>,
    counts: Counts,
    /// What the receiver has.
    balance: u64,
}

impl Network {
    fn new() -> Self {
        let stage = tempfile::tempdir().expect("a folder");
        let opening = (0..N).map(|i| (user(i).id(), Credits::whole(100))).collect();
        let local = LocalNetwork::new(N, stage.path().to_owned(), opening, 3_600_000);
        let others = (0..N).filter(|i| *i != LIAR).map(|i| local.keys[i].id()).collect();
        let counts = Counts::default();
        let machine = Machine { liar: local.keys[LIAR].id(), others, counts: counts.clone() };
        let tamper: Arc<Tamper> = Arc::new(move |from: &NodeId, to: &NodeId, packet| machine.send(from, to, packet));
        local.tamper(tamper);
        let keepers = (0..N).map(|i| local.start(i).expect("a validator starts")).collect();
        Self { _stage: stage, local, keepers, counts, balance: 0 }
    }

    fn tried(&self, trick: Trick) -> bool {
        self.counts.lock().expect("nobody panics while holding it").contains_key(&trick)
    }

    fn honest(&self) -> impl Iterator<Item = (usize, &Replica)> {
        self.keepers.iter().enumerate().filter(|(i, _)| *i != LIAR)
    }

    /// Has user `i` transfer something, said at keeper `at`.
    fn transfer(&mut self, at: usize, i: usize, nonce: u64) {
        let amount = 1_000 + nonce;
        let tx = ledger::WalletTx::Transfer { to: receiver(), amount: Credits(amount) };
        let envelope = ledger::WalletEnvelope { chain: self.local.genesis.chain(), nonce, tx };
        let tx = Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &user(i), envelope) };
        self.keepers[at].submit(&tx.to_bytes()).expect("taken");
        self.balance += amount;
    }

    /// Waits until every honest validator has what was transferred.
    async fn arrives(&self, what: &str) {
        for (i, keeper) in self.honest() {
            let mut height = keeper.height();
            let waiting = async {
                while received(keeper) != self.balance {
                    height.changed().await.expect("it runs");
                }
            };
            let waited = tokio::time::timeout(DEADLINE, waiting).await;
            waited.unwrap_or_else(|_| panic!("{what} did not come to {i}: {:?}", keeper.trouble()));
        }
    }

    /// There is one chain, whole, and nothing was made or lost.
    fn holds(&self) {
        let low = self.honest().map(|(_, keeper)| *keeper.height().borrow()).min().expect("three");
        assert!(low > 0);
        for height in 1..=low {
            let blocks: BTreeSet<Option<Vec<u8>>> =
                self.honest().map(|(i, _)| self.local.disks[i].block(height).expect("read")).collect();
            assert!(blocks.len() == 1 && !blocks.contains(&None), "one block at {height}");
        }
        for (_, keeper) in self.honest() {
            let (supply, held) = keeper.look(|o| (o.state().money().supply(), o.state().money().held()));
            assert_eq!(u128::from(supply.0), held);
            let liar = self.local.keys[LIAR].id();
            assert!(keeper.blocked().iter().all(|id| *id == liar), "nobody honest is blocked");
        }
    }
}

fn receiver() -> NodeId {
    user(50).id()
}

fn received(keeper: &Replica) -> u64 {
    keeper.look(|o| o.state().money().account(&receiver()).map_or(0, |account| account.balance.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dishonest_machine_and_a_cut_network_leave_one_chain_that_goes_on() {
    let mut network = Network::new();
    // Said at each, the dishonest one among them, so that it has something to propose and to pass on.
    for i in 0..N {
        network.transfer(i, i, 0);
    }
    network.arrives("a transfer, with one dishonest").await;
    // Until its turn to propose came with something to put in order: one of four is its own.
    let mut nonce = 1;
    while !network.tried(Trick::Twin) || !network.tried(Trick::Withheld) {
        assert!(nonce < 100, "the dishonest one proposed nothing");
        network.transfer(LIAR, LIAR, nonce);
        network.arrives("a transfer said at the dishonest one").await;
        nonce += 1;
    }
    network.holds();

    // The dishonest one is on a side with one honest validator, and with two, with which it is a quorum.
    let cuts: [&[usize]; 3] = [&[0], &[1, LIAR], &[2]];
    for (nonce, cut) in (1..).zip(cuts) {
        network.local.part(cut);
        network.transfer(cut[0], 0, nonce);
        network.transfer((cut[0] + 1) % LIAR, 1, nonce);
        let mut height = network.keepers[cut[0]].height();
        height.borrow_and_update();
        // Those cut off come to a standstill: what was under way when the cut was made is done.
        while tokio::time::timeout(QUIET, height.changed()).await.is_ok() {}
        network.holds();
        network.local.heal();
        network.arrives("what was said during the cut").await;
        network.holds();
    }

    for trick in [Trick::Forged, Trick::Repeated, Trick::Stolen, Trick::Flood] {
        assert!(network.tried(trick), "{trick:?} was not tried");
    }
    let refused = network.honest().map(|(_, keeper)| keeper.refused().total()).sum::<u64>();
    assert!(refused > 0, "forged transactions are refused and counted");
}
