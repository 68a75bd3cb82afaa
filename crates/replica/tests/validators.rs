//! Real engines in one process: one validator and four, with a dead one, with two, with a restart.

use base::{Hash, Keypair, Millis, Reject, Signed, Wire};
use chain::{Block, Genesis, Judgement, Orderer, Turn, Tx};
use ledger::Credits;
use replica::Replica;
use replica::local::LocalNetwork;
use std::time::Duration;

/// Nothing here takes longer, whatever the machine does.
const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough for a few blocks where any can be made.
const QUIET: Duration = Duration::from_secs(4);

struct Network {
    _stage: tempfile::TempDir,
    local: LocalNetwork,
    genesis: Genesis,
}

fn user(i: usize) -> Keypair {
    Keypair::from_secret([1 + i as u8; 32])
}

impl Network {
    fn new(n: usize) -> Self {
        Self::with_epochs(n, 3_600_000)
    }

    fn with_epochs(n: usize, epoch_ms: u64) -> Self {
        let stage = tempfile::tempdir().expect("a folder");
        let opening = (0..4).map(|i| (user(i).id(), Credits::whole(100))).collect();
        let local = LocalNetwork::new(n, stage.path().to_owned(), opening, epoch_ms);
        Self { _stage: stage, genesis: local.genesis.clone(), local }
    }

    fn start(&self, i: usize) -> Replica {
        self.local.start(i).expect("a validator starts")
    }

    async fn stop(&self, i: usize, keeper: Replica) {
        self.local.stop(i, keeper).await;
    }

    fn transfer(&self, from: usize, nonce: u64, to: usize, amount: u64) -> Vec<u8> {
        self.say(&user(from), nonce, ledger::WalletTx::Transfer { to: user(to).id(), amount: Credits(amount) })
    }

    fn say(&self, by: &Keypair, nonce: u64, tx: ledger::WalletTx) -> Vec<u8> {
        let envelope = ledger::WalletEnvelope { chain: self.genesis.chain(), nonce, tx };
        Tx::Wallet { tx: Signed::new(ledger::DOMAIN, by, envelope) }.to_bytes()
    }
}

fn balance(validator: &Replica, i: usize) -> u64 {
    validator.look(|orderer| orderer.state().money().account(&user(i).id()).map_or(0, |account| account.balance.0))
}

/// Waits until the validator's state shows `what`.
async fn until(validator: &Replica, what: &str, done: impl Fn(&Replica) -> bool) {
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
async fn goes_on(validator: &Replica) -> bool {
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
    network.stop(0, validator).await;

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
    let mut validators: Vec<Option<Replica>> = (0..4).map(|i| Some(network.start(i))).collect();
    let submit = |v: &Option<Replica>, nonce| {
        v.as_ref().expect("it runs").submit(&network.transfer(0, nonce, 1, 1_000_000)).expect("taken");
    };
    submit(&validators[2], 0);
    for validator in validators.iter().flatten() {
        until(validator, "the first transfer everywhere", |v| balance(v, 1) == 101_000_000).await;
    }
    let root = |v: &Replica| v.look(|o| (o.state().height(), o.state().tip()));
    network.stop(3, validators[3].take().expect("it ran")).await;
    submit(&validators[1], 1);
    for validator in validators.iter().flatten() {
        until(validator, "a transfer with one dead", |v| balance(v, 1) == 102_000_000).await;
    }
    network.stop(2, validators[2].take().expect("it ran")).await;
    submit(&validators[0], 2);
    assert!(!goes_on(validators[0].as_ref().expect("it runs")).await, "two of four do not decide");

    validators[3] = Some(network.start(3));
    for validator in validators.iter().flatten() {
        until(validator, "the third transfer, with one back", |v| balance(v, 1) == 103_000_000).await;
    }
    let heights: Vec<(u64, Hash)> = validators.iter().flatten().map(root).collect();
    let low = heights.iter().map(|(height, _)| *height).min().expect("three");
    let blocks: Vec<_> = [0, 1, 3].map(|i| network.local.disks[i].block(low).expect("read")).into_iter().collect();
    assert!(blocks.iter().all(|block| *block == blocks[0]), "one chain");
    assert!(validators.iter().flatten().all(|v| v.blocked().is_empty()), "nobody honest is blocked");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_halves_of_four_decide_nothing_and_go_on_when_they_meet_again() {
    let network = Network::new(4);
    let keepers: Vec<Replica> = (0..4).map(|i| network.start(i)).collect();
    keepers[0].submit(&network.transfer(0, 0, 1, 1_000_000)).expect("taken");
    for keeper in &keepers {
        until(keeper, "the first transfer everywhere", |v| balance(v, 1) == 101_000_000).await;
    }
    network.local.part(&[0, 1]);
    keepers[0].submit(&network.transfer(0, 1, 1, 1_000_000)).expect("taken");
    keepers[3].submit(&network.transfer(2, 0, 1, 1_000_000)).expect("taken");
    // What was certified before the cut may still become final in one half, nothing after it.
    goes_on(&keepers[0]).await;
    assert!(!goes_on(&keepers[0]).await && !goes_on(&keepers[3]).await, "half of the validators do not decide");
    network.local.heal();
    for keeper in &keepers {
        until(keeper, "both transfers after the halves met", |v| balance(v, 1) == 103_000_000).await;
        assert!(keeper.blocked().is_empty(), "nobody honest is blocked");
    }
    let low = keepers.iter().map(|keeper| *keeper.height().borrow()).min().expect("four");
    let blocks: Vec<_> = (0..4).map(|i| network.local.disks[i].block(low).expect("read")).collect();
    assert!(blocks.iter().all(|block| *block == blocks[0]), "one chain");
}

/// A fifth validator bonds and takes a seat; it votes from the next epoch on. One that is silent loses its
/// seat; one that gives its own up is out, and its bond is free.
#[tokio::test(flavor = "multi_thread")]
async fn seats_come_and_go_at_the_ends_of_epochs() {
    let mut network = Network::with_epochs(4, 8_000);
    let fifth = network.local.add();
    let mut keepers: Vec<Option<Replica>> = (0..4).map(|i| Some(network.start(i))).collect();
    let first = |keepers: &[Option<Replica>]| keepers[0].as_ref().expect("it runs").height();
    let wallet = LocalNetwork::key(fifth);
    let at = |keepers: &[Option<Replica>], bytes: &[u8]| keepers[0].as_ref().expect("it runs").submit(bytes);
    at(&keepers, &network.say(&user(0), 0, ledger::WalletTx::Transfer { to: wallet.id(), amount: Credits::whole(99) }))
        .expect("taken");
    at(&keepers, &network.say(&user(1), 0, ledger::WalletTx::Transfer { to: wallet.id(), amount: Credits::whole(99) }))
        .expect("taken");
    let zero = keepers[0].as_ref().expect("it runs");
    let owns = |v: &Replica, of: &Keypair| v.look(|o| o.state().money().account(&of.id()).map_or(0, |a| a.balance.0));
    until(zero, "the wallet's credits", |v| owns(v, &wallet) == Credits::whole(198).0).await;
    let claim = ledger::SeatClaim { chain: network.genesis.chain(), owner: wallet.id(), node: wallet.id() };
    let claim = Signed::new(ledger::SEAT_DOMAIN, &wallet, claim);
    at(&keepers, &network.say(&wallet, 0, ledger::WalletTx::Bond { amount: Credits::whole(150) })).expect("taken");
    until(zero, "the bond", |v| v.look(|o| o.state().money().account(&wallet.id()).is_some_and(|a| a.bond.0 > 0)))
        .await;
    at(&keepers, &network.say(&wallet, 1, ledger::WalletTx::Seat { claim })).expect("taken");
    until(zero, "the next epoch", |v| v.look(|o| o.state().epoch().number == 1)).await;
    assert_eq!(zero.look(|o| o.state().validators().len()), 5);

    // The newcomer follows until it votes itself.
    let newcomer = network.start(fifth);
    let mut heights = first(&keepers);
    while !newcomer.validates() {
        network.local.follow(0, &newcomer).await.expect("certified");
        if !newcomer.validates() {
            heights.changed().await.expect("it runs");
        }
    }
    keepers.push(Some(newcomer));
    // With the fifth in the set one of the others may be silent, and is dropped for it.
    network.stop(3, keepers[3].take().expect("it ran")).await;
    let zero = keepers[0].as_ref().expect("it runs");
    let gone = LocalNetwork::key(3).id();
    let mut nonce = 0;
    let mut heights = zero.height();
    while zero.look(|o| o.state().validators().contains(&gone)) {
        zero.submit(&network.transfer(2, nonce, 1, 1_000)).expect("taken");
        nonce += 1;
        tokio::time::timeout(DEADLINE, heights.changed()).await.expect("in time").expect("it runs");
    }
    assert_eq!(zero.look(|o| o.state().validators().len()), 4);
    assert!(zero.look(|o| o.state().money().seat(&gone).is_none()), "its seat is free");
    let newcomer = keepers[4].as_ref().expect("it runs");
    let height = *zero.height().borrow();
    until(newcomer, "the newest block at the newcomer's", |v| *v.height().borrow() >= height).await;
    let (ours, theirs) = (network.local.disks[0].block(height), network.local.disks[fifth].block(height));
    assert_eq!(ours.expect("read"), theirs.expect("read"), "one chain");
    for keeper in keepers.iter().flatten() {
        assert!(keeper.blocked().is_empty(), "nobody honest is blocked");
        let (supply, held) = keeper.look(|o| (o.state().money().supply(), o.state().money().held()));
        assert_eq!(u128::from(supply.0), held);
    }
}

/// What a block carried and refused is done with: it does not come into every block after it.
#[test]
fn a_refused_transaction_leaves_the_mempool() {
    let network = Network::new(4);
    let mut orderer = Orderer::new(&network.genesis);
    let turn = Turn { epoch: 0, leader: LocalNetwork::key(0).id(), missing: Vec::new() };
    let tx = |nonce| Tx::from_bytes(&network.transfer(0, nonce, 1, 99_000_000)).expect("a transaction");
    assert_eq!(orderer.submit(tx(0)), Ok(true));
    assert_eq!(orderer.submit(tx(0)), Ok(false), "said twice, it waits once");
    assert_eq!(orderer.submit(tx(1)), Ok(true), "as far as can be told now");
    let (parent, now) = (orderer.state().tip(), network.genesis.time.plus(1_000));
    let block = orderer.propose(&turn, &parent, now).expect("known").expect("something is due");
    assert_eq!(block.txs.len(), 2);
    let hash = orderer.body(block);
    orderer.finalized(&hash).expect("it follows");
    let next = orderer.propose(&turn, &hash, now.plus(1)).expect("known");
    assert!(next.is_err(), "nothing is due before the heartbeat");
    assert_eq!(orderer.waiting(&user(0).id()), 0);
    assert_eq!(orderer.submit(tx(1)), Err(Reject::Insufficient), "now it can be told");
}

/// Several validators never become one or three, whoever gives up a seat.
#[test]
fn a_set_of_four_stays_when_too_many_leave() {
    let network = Network::with_epochs(4, 1_000);
    let mut state = chain::State::new(&network.genesis);
    let set = state.validators().to_vec();
    let leave = |i: usize| {
        let key = LocalNetwork::key(i);
        Tx::from_bytes(&network.say(&key, 0, ledger::WalletTx::Unseat { key: key.id() })).expect("a transaction")
    };
    let block = state.next(set[0], Vec::new(), network.genesis.time.plus(10), (0..3).map(leave).collect());
    assert!(state.apply(&block).expect("it follows").is_empty(), "all three are taken");
    let end = state.next(set[0], Vec::new(), network.genesis.time.plus(5_000), Vec::new());
    assert_eq!(end.header.next.as_ref(), Some(&set), "it stays as it was");
    state.apply(&end).expect("it follows");
    assert_eq!((state.epoch().number, state.validators()), (1, set.as_slice()));
    assert!(set.iter().all(|key| state.money().seat(key).is_some()), "bonds stand as long as they vote");
}

/// What is not valid for everybody is answered with a reason, and changes nothing.
#[test]
fn an_orderer_refuses_wrong_blocks_by_name() {
    let network = Network::new(4);
    let mut orderer = Orderer::new(&network.genesis);
    let genesis = orderer.state().tip();
    let now = network.genesis.time.plus(1_000_000);
    let leader = LocalNetwork::key(0).id();
    let turn = Turn { epoch: 0, leader, missing: Vec::new() };
    let tx = |nonce| Tx::from_bytes(&network.transfer(0, nonce, 1, 1_000)).expect("a transaction");
    orderer.submit(tx(0)).expect("taken");
    orderer.submit(tx(0)).expect("taken again without effect");
    let good = orderer.propose(&turn, &genesis, now).expect("known").expect("something is due");
    assert_eq!(good.txs.len(), 1);
    let missing = good.hash();
    assert_eq!(orderer.verify(&turn, &genesis, &missing, now), Judgement::Missing(missing));
    let hash = orderer.body(good.clone());
    assert_eq!(orderer.verify(&turn, &genesis, &hash, now), Judgement::Valid);
    // The same transaction is not taken twice into one line of blocks.
    let next = orderer.propose(&turn, &hash, now.plus(6_000)).expect("known").expect("the heartbeat is due");
    assert!(next.txs.is_empty());
    let mut wrong = |change: &dyn Fn(&mut Block)| {
        let mut block = good.clone();
        change(&mut block);
        let hash = orderer.body(block);
        orderer.verify(&turn, &genesis, &hash, now)
    };
    assert_eq!(wrong(&|b| b.header.root = Hash::default()), Judgement::Invalid(Reject::WrongRoot));
    assert_eq!(wrong(&|b| b.header.parent = Hash::default()), Judgement::Invalid(Reject::Malformed));
    assert_eq!(wrong(&|b| b.header.time = Millis(1)), Judgement::Invalid(Reject::Stale));
    assert_eq!(wrong(&|b| b.header.height = 2), Judgement::Invalid(Reject::Early));
    assert_eq!(wrong(&|b| b.header.by = user(0).id()), Judgement::Invalid(Reject::NotCommittee), "not its turn");
    assert_eq!(wrong(&|b| b.header.epoch = 1), Judgement::Invalid(Reject::NotCommittee));
    assert_eq!(wrong(&|b| b.header.set = Hash::default()), Judgement::Invalid(Reject::NotCommittee));
    assert_eq!(wrong(&|b| b.header.missing = vec![user(0).id()]), Judgement::Invalid(Reject::NotCommittee));
    assert_eq!(wrong(&|b| b.header.next = Some(Vec::new())), Judgement::Invalid(Reject::WrongShape), "no epoch ends");
    let late = now.plus(5_000);
    assert_eq!(
        wrong(&|b| b.header.time = late),
        Judgement::Later(Millis(late.0 - 1_000)),
        "the proposer's clock is ahead"
    );
    assert_eq!(orderer.state().height(), 0);
    // After a fork the other branch becomes final all the same.
    let hash = orderer.body(good.clone());
    let done = orderer.finalized(&hash).expect("it follows");
    assert_eq!((done.len(), orderer.state().height()), (1, 1));
    assert!(orderer.finalized(&hash).expect("final already").is_empty());
}
