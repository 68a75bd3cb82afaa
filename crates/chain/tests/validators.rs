//! Real engines in one process: one validator and four, with a dead one, with two, with a restart.

use base::{Hash, Keypair, Millis, NodeId, Reject, Signed, Wire};
use chain::{Answer, Block, Connections, Disk, Genesis, Orderer, Packet, Timing, Tx, Validator, ValidatorConfig};
use ledger::{Credits, Issuance, Params};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Nothing here takes longer, whatever the machine does.
const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough for a few blocks where any can be made.
const QUIET: Duration = Duration::from_secs(4);

/// A disk that outlives its validator.
#[derive(Default)]
struct Memory {
    kept: Mutex<BTreeMap<Hash, Vec<u8>>>,
    finals: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl Disk for Memory {
    fn keep(&self, hash: &Hash, block: &[u8]) -> std::io::Result<()> {
        self.kept.lock().expect("whole").insert(*hash, block.to_vec());
        Ok(())
    }
    fn kept(&self) -> std::io::Result<Vec<Vec<u8>>> {
        Ok(self.kept.lock().expect("whole").values().cloned().collect())
    }
    fn finish(&self, blocks: &[Block], certificate: &[u8]) -> std::io::Result<()> {
        assert!(!certificate.is_empty());
        let mut finals = self.finals.lock().expect("whole");
        for block in blocks {
            let before = finals.insert(block.height, block.to_bytes());
            assert!(before.is_none(), "a final block is written once");
        }
        Ok(())
    }
    fn block(&self, height: u64) -> std::io::Result<Option<Vec<u8>>> {
        Ok(self.finals.lock().expect("whole").get(&height).cloned())
    }
}

type Inlets = Arc<Mutex<BTreeMap<NodeId, mpsc::Sender<(NodeId, Packet)>>>>;

struct Network {
    stage: tempfile::TempDir,
    genesis: Genesis,
    disks: Vec<Arc<Memory>>,
    inlets: Inlets,
}

fn seat(i: usize) -> Keypair {
    Keypair::from_secret([100 + i as u8; 32])
}

fn user(i: usize) -> Keypair {
    Keypair::from_secret([1 + i as u8; 32])
}

impl Network {
    fn new(n: usize) -> Self {
        let issuance = Issuance { per_hour: Credits::whole(1_000), era_hours: 1_000 };
        let genesis = Genesis {
            name: "test".into(),
            time: Millis(1),
            validators: (0..n).map(|i| seat(i).id()).collect(),
            opening: (0..4).map(|i| (user(i).id(), Credits::whole(100))).collect(),
            money: Params { issuance, locked_units: 0, ..Params::default() },
            per_pflop: Credits::whole(1),
        };
        let disks = (0..n).map(|_| Arc::default()).collect();
        Self { stage: tempfile::tempdir().expect("a folder"), genesis, disks, inlets: Inlets::default() }
    }

    fn journal(&self, i: usize) -> PathBuf {
        self.stage.path().join(format!("journal-{i}"))
    }

    fn start(&self, i: usize) -> Validator {
        let (out, mut outgoing) = mpsc::unbounded_channel::<(Vec<NodeId>, Packet)>();
        let (inlet, incoming) = mpsc::channel(4096);
        let me = seat(i).id();
        self.inlets.lock().expect("whole").insert(me, inlet);
        let inlets = self.inlets.clone();
        tokio::spawn(async move {
            while let Some((to, packet)) = outgoing.recv().await {
                // What a peer sends goes through its encoding.
                let packet = Packet::from_bytes(&packet.to_bytes()).expect("canonical");
                for id in to {
                    let inlet = inlets.lock().expect("whole").get(&id).cloned();
                    if let Some(inlet) = inlet {
                        let _ = inlet.send((me, packet.clone())).await;
                    }
                }
            }
        });
        let config = ValidatorConfig {
            genesis: self.genesis.clone(),
            key: seat(i),
            journal: self.journal(i),
            disk: self.disks[i].clone(),
            timing: Timing::of(self.disks.len()),
        };
        Validator::start(config, Connections { out, incoming }).expect("a validator starts")
    }

    fn stop(&self, i: usize, validator: Validator) {
        self.inlets.lock().expect("whole").remove(&seat(i).id());
        drop(validator);
    }

    fn transfer(&self, from: usize, nonce: u64, to: usize, amount: u64) -> Vec<u8> {
        let tx = ledger::Tx::Transfer { to: user(to).id(), amount: Credits(amount) };
        let envelope = ledger::Envelope { chain: self.genesis.chain(), nonce, tx };
        Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &user(from), envelope) }.to_bytes()
    }
}

fn balance(validator: &Validator, i: usize) -> u64 {
    validator.look(|orderer| orderer.state().money().account(&user(i).id()).map_or(0, |account| account.balance.0))
}

/// Waits until the validator's state shows `what`.
async fn until(validator: &Validator, what: &str, done: impl Fn(&Validator) -> bool) {
    let mut height = validator.height();
    let waiting = async {
        while !done(validator) {
            height.changed().await.expect("it runs");
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come: {:?}", validator.trouble()));
}

/// Whether a block becomes final within a while.
async fn goes_on(validator: &Validator) -> bool {
    let mut height = validator.height();
    height.borrow_and_update();
    tokio::time::timeout(QUIET, height.changed()).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_validator_orders_and_goes_on_after_a_restart() {
    let network = Network::new(1);
    let validator = network.start(0);
    for nonce in 0..3 {
        validator.submit(&network.transfer(0, nonce, 1, 1_000_000)).expect("taken");
    }
    let fee = network.genesis.money.fee.0;
    until(&validator, "three transfers", |v| balance(v, 1) == 103_000_000).await;
    assert_eq!(balance(&validator, 0), 97_000_000 - 3 * fee);
    assert_eq!(validator.submit(&network.transfer(0, 0, 1, 1)), Err(Reject::Stale), "said twice, done once");
    assert_eq!(validator.submit(&network.transfer(2, 0, 1, u64::MAX)), Err(Reject::BadAmount));
    assert_eq!(validator.submit(&network.transfer(2, 0, 1, 200_000_000)), Err(Reject::Insufficient));
    assert_eq!(validator.submit(&[1, 2, 3]), Err(Reject::Malformed));
    let before = validator.look(|orderer| (orderer.state().height(), orderer.state().tip()));
    network.stop(0, validator);

    let validator = network.start(0);
    assert_eq!(validator.look(|orderer| (orderer.state().height(), orderer.state().tip())), before);
    validator.submit(&network.transfer(0, 3, 2, 5)).expect("taken");
    until(&validator, "a transfer after the restart", |v| balance(v, 2) == 100_000_005).await;
    let (supply, held) = validator.look(|o| (o.state().money().supply(), o.state().money().held()));
    assert_eq!(u128::from(supply.0), held);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_validators_go_on_without_one_stop_without_two_and_come_back() {
    let network = Network::new(4);
    let mut validators: Vec<Option<Validator>> = (0..4).map(|i| Some(network.start(i))).collect();
    let submit = |v: &Option<Validator>, nonce| {
        v.as_ref().expect("it runs").submit(&network.transfer(0, nonce, 1, 1_000_000)).expect("taken");
    };
    submit(&validators[2], 0);
    for validator in validators.iter().flatten() {
        until(validator, "the first transfer everywhere", |v| balance(v, 1) == 101_000_000).await;
    }
    let root = |v: &Validator| v.look(|o| (o.state().height(), o.state().tip()));
    network.stop(3, validators[3].take().expect("it ran"));
    submit(&validators[1], 1);
    for validator in validators.iter().flatten() {
        until(validator, "a transfer with one dead", |v| balance(v, 1) == 102_000_000).await;
    }
    network.stop(2, validators[2].take().expect("it ran"));
    submit(&validators[0], 2);
    assert!(!goes_on(validators[0].as_ref().expect("it runs")).await, "two of four do not decide");

    validators[3] = Some(network.start(3));
    for validator in validators.iter().flatten() {
        until(validator, "the third transfer, with one back", |v| balance(v, 1) == 103_000_000).await;
    }
    let heights: Vec<(u64, Hash)> = validators.iter().flatten().map(root).collect();
    let low = heights.iter().map(|(height, _)| *height).min().expect("three");
    let blocks: Vec<_> = [0, 1, 3].map(|i| network.disks[i].block(low).expect("read")).into_iter().collect();
    assert!(blocks.iter().all(|block| *block == blocks[0]), "one chain");
    assert!(validators.iter().flatten().all(|v| v.blocked().is_empty()), "nobody honest is blocked");
}

/// What is not valid for everybody is answered with a reason, and changes nothing.
#[test]
fn an_orderer_refuses_wrong_blocks_by_name() {
    let network = Network::new(4);
    let mut orderer = Orderer::new(&network.genesis);
    let genesis = orderer.state().tip();
    let now = Millis(1_000_000);
    let tx = |nonce| Tx::from_bytes(&network.transfer(0, nonce, 1, 1_000)).expect("a transaction");
    orderer.submit(tx(0)).expect("taken");
    orderer.submit(tx(0)).expect("taken again without effect");
    let good = orderer.propose(&genesis, now).expect("known").expect("something is due");
    assert_eq!(good.txs.len(), 1);
    let missing = good.hash();
    assert_eq!(orderer.verify(&genesis, &missing, now), Answer::Missing(missing));
    let hash = orderer.body(good.clone());
    assert_eq!(orderer.verify(&genesis, &hash, now), Answer::Valid);
    // The same transaction is not taken twice into one line of blocks.
    let next = orderer.propose(&hash, now.plus(6_000)).expect("known").expect("the heartbeat is due");
    assert!(next.txs.is_empty());
    let mut wrong = |change: &dyn Fn(&mut Block)| {
        let mut block = good.clone();
        change(&mut block);
        let hash = orderer.body(block);
        orderer.verify(&genesis, &hash, now)
    };
    assert_eq!(wrong(&|b| b.root = Hash::default()), Answer::Invalid(Reject::WrongRoot));
    assert_eq!(wrong(&|b| b.parent = Hash::default()), Answer::Invalid(Reject::Malformed));
    assert_eq!(wrong(&|b| b.time = Millis(1)), Answer::Invalid(Reject::Stale));
    assert_eq!(wrong(&|b| b.height = 2), Answer::Invalid(Reject::Early));
    let late = now.plus(5_000);
    assert_eq!(wrong(&|b| b.time = late), Answer::Later(Millis(late.0 - 1_000)), "the proposer's clock is ahead");
    assert_eq!(orderer.state().height(), 0);
    // After a fork the other branch becomes final all the same.
    let hash = orderer.body(good.clone());
    let done = orderer.finalized(&hash).expect("it follows");
    assert_eq!((done.len(), orderer.state().height()), (1, 1));
    assert!(orderer.finalized(&hash).expect("final already").is_empty());
}
