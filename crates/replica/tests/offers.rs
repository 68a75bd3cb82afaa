//! What a follower takes of whoever offers it blocks, and a light one of whoever makes up headers.

use base::{Hash, Millis, Reject, Signed};
use chain::{Anchor, BLOCK_BYTES_MAX, Block, EVIDENCE_DOMAIN, Evidence, Light, State, Step, Tx, certify};
use replica::local::LocalNetwork;
use replica::{Packet, Replica};
use std::time::Duration;

struct Chain {
    _stage: tempfile::TempDir,
    local: LocalNetwork,
    blocks: Vec<Block>,
}

impl Chain {
    /// The first blocks of a network of four, and a follower.
    fn new() -> (Self, Replica) {
        let stage = tempfile::tempdir().expect("a folder");
        let mut local = LocalNetwork::new(4, stage.path().to_owned(), Vec::new(), 3_600_000);
        let follower = local.add();
        let mut state = State::new(&local.genesis);
        let mut blocks = Vec::new();
        for i in 1..=4 {
            let by = state.validators()[0];
            blocks.push(state.next(by, Vec::new(), local.genesis.time.plus(i), Vec::new()));
            state.apply(&blocks[blocks.len() - 1]).expect("it follows");
        }
        let keeper = local.start(follower).expect("it starts");
        (Self { _stage: stage, local, blocks }, keeper)
    }

    fn certificate(&self, epoch: u64, block: &Hash) -> Vec<u8> {
        let set = chain::first_set(&self.local.genesis);
        let keys = &self.local.keys[..3];
        certify(&self.local.genesis.chain(), &set, keys, (epoch, 9), block).expect("a quorum")
    }

    async fn offer(&self, keeper: &Replica, blocks: &[Block]) -> Result<(), Reject> {
        let last = blocks.last().expect("one").hash();
        keeper.offer(blocks.to_vec(), self.certificate(0, &last)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_keeps_nothing_that_does_not_lie_on_the_certified_path() {
    let (chain, keeper) = Chain::new();
    let has = |block: &Block| keeper.look(|orderer| orderer.block(&block.hash()).is_some());
    let [one, two, three, four] = &chain.blocks[..] else { panic!("four blocks") };
    // A block far ahead that leads nowhere, before one that is certified.
    let mut stray = one.clone();
    stray.header.height = 60_000;
    assert_eq!(chain.offer(&keeper, &[stray.clone(), one.clone()]).await, Err(Reject::OutOfOrder));
    // A twin of a block that is on the path.
    let mut twin = one.clone();
    twin.header.time = Millis(one.header.time.0 + 1);
    assert_eq!(chain.offer(&keeper, &[twin.clone(), two.clone()]).await, Err(Reject::OutOfOrder));
    assert_eq!(chain.offer(&keeper, &[three.clone(), four.clone()]).await, Err(Reject::NotHeld), "two are missing");
    let forged = keeper.offer(vec![one.clone()], chain.certificate(0, &two.hash())).await;
    assert_eq!(forged, Err(Reject::WrongHash));
    for block in [&stray, &twin, one, two, three, four] {
        assert!(!has(block), "nothing is kept of what was refused");
    }
    assert_eq!(chain.offer(&keeper, &[one.clone(), two.clone()]).await, Ok(()));
    // What is final already may come again before what is new.
    assert_eq!(chain.offer(&keeper, &chain.blocks).await, Ok(()));
    assert_eq!(*keeper.height().borrow(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_no_block_that_is_too_long() {
    let (chain, keeper) = Chain::new();
    let key = &chain.local.keys[0];
    let evidence = |seq| {
        let evidence = Evidence { chain: chain.local.genesis.chain(), seq, epoch: 0, votes: vec![0; 250_000] };
        Tx::Evidence { evidence: Signed::new(EVIDENCE_DOMAIN, key, evidence) }
    };
    let long = Block::new(chain.blocks[0].header.clone(), (0..18).map(evidence).collect());
    assert!(base::Wire::to_bytes(&long).len() > BLOCK_BYTES_MAX);
    assert_eq!(chain.offer(&keeper, std::slice::from_ref(&long)).await, Err(Reject::Oversized));
    assert!(keeper.look(|orderer| orderer.block(&long.hash()).is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_the_last_epoch_that_can_be_counted_is_refused() {
    let (chain, _keeper) = Chain::new();
    let (id, set) = (chain.local.genesis.chain(), chain::first_set(&chain.local.genesis));
    let crafted = |next: bool, height: u64| {
        let mut header = chain.blocks[0].header.clone();
        (header.epoch, header.height, header.next) = (u64::MAX, height, next.then(|| set.clone()));
        header
    };
    let anchored = |header: chain::Header| {
        Light::anchored(id, &Anchor { height: header.height, hash: header.hash() }, header, set.clone())
    };
    assert_eq!(anchored(crafted(true, 1)).err(), Some(Reject::WrongShape), "a ticket may name any block");
    let mut light = anchored(crafted(false, 1)).expect("it fits");
    let header = crafted(true, 2);
    let certificate = chain.certificate(u64::MAX, &header.hash());
    let before = light.clone();
    assert_eq!(light.advance(&Step { header, certificate }), Err(Reject::WrongShape));
    assert_eq!(light, before, "and changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_has_so_many_certificates_checked_in_a_second_and_no_more() {
    const SENT: u64 = 64;
    let (chain, keeper) = Chain::new();
    let (from, to) = (chain.local.keys[0].id(), chain.local.keys[4].id());
    for _ in 0..SENT {
        chain.local.send(&from, &to, &Packet::Final(vec![1; 8]));
    }
    let read = async {
        while keeper.refused().total() < SENT {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("all are read");
    let counted =
        |reject: Reject| keeper.refused().iter().filter(|(why, _)| *why == reject).map(|(_, n)| n).sum::<u64>();
    // Sixteen in a second; a machine that takes two seconds for it checks twice as many.
    let (checked, not) = (counted(Reject::Malformed), counted(Reject::TooMany));
    assert!(checked >= 16 && not >= SENT / 4 && checked + not == SENT, "{checked} checked, {not} not");
}
