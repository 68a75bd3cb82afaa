//! Rules of the replicated state that keep it small and its numbers numbers: each at its edge.

mod common;

use base::{Hash, Keypair, Millis, Reject, Signed, Wire};
use chain::{Block, EVIDENCE_DOMAIN, Evidence, Genesis, Happened, State, Tx, VOTE_DOMAIN, Vote};
use ledger::Credits;
use sim::{Scenario, logged};

/// Votes of a validator in an epoch.
const VOTES: u64 = 256;

fn user() -> Keypair {
    Keypair::from_secret([1; 32])
}

fn genesis(n: usize) -> Genesis {
    let opening = vec![(user().id(), Credits::whole(100))];
    let genesis = common::genesis(n, opening, 3_600_000);
    Genesis { time: Millis(0), ..genesis }
}

fn fund(genesis: &Genesis, run: Hash, nonce: u64) -> Tx {
    let tx = ledger::WalletTx::Fund { pot: run, amount: Credits::whole(3) };
    Tx::Wallet {
        tx: Signed::new(ledger::DOMAIN, &user(), ledger::WalletEnvelope { chain: genesis.chain(), nonce, tx }),
    }
}

fn vote(genesis: &Genesis, seat: usize, run: Hash, seq: u64) -> Tx {
    let vote = Vote { chain: genesis.chain(), seq, run, share_permille: 100 };
    Tx::Vote { vote: Signed::new(VOTE_DOMAIN, &common::key(seat), vote) }
}

fn evidence(genesis: &Genesis, seat: usize, votes: Vec<u8>) -> Tx {
    let evidence = Evidence { chain: genesis.chain(), seq: 1, epoch: 0, votes };
    Tx::Evidence { evidence: Signed::new(EVIDENCE_DOMAIN, &common::key(seat), evidence) }
}

fn apply(state: &mut State, after_ms: u64, txs: Vec<Tx>) -> Vec<Happened> {
    let (by, time) = (state.validators()[0], state.time().plus(after_ms));
    let block = state.next(by, Vec::new(), time, txs);
    state.apply(&block).expect("it follows")
}

fn refused(happened: &[Happened]) -> Vec<Reject> {
    let reject = |h: &Happened| if let Happened::Refused(_, reject) = h { Some(*reject) } else { None };
    happened.iter().filter_map(reject).collect()
}

/// The blocks of a run from its creation to its end.
fn run(genesis: &Genesis) -> Vec<swarm::WorkBlock> {
    // Open rounds may be smaller than planned: it is over when its tokens are, not after so many rounds.
    let scenario = Scenario { tokens_rounds: 5, rounds: 99, chain: genesis.chain(), ..Scenario::calm(1, 5) };
    logged(&scenario).expect("calm").1
}

#[test]
fn money_for_a_run_that_does_not_go_on_is_refused() {
    let genesis = genesis(1);
    let mut state = State::new(&genesis);
    let free = |state: &State| state.money().account(&user().id()).map(|account| account.balance);
    let nowhere = Hash([7; 32]);
    assert_eq!(state.check(&fund(&genesis, nowhere, 0), 0), Err(Reject::UnknownRun), "a mempool is told");
    let happened = apply(&mut state, 1, vec![fund(&genesis, nowhere, 0)]);
    assert_eq!(refused(&happened), [Reject::UnknownRun], "and a proposer that carries it all the same");
    assert_eq!((free(&state), state.money().pot(&nowhere)), (Some(Credits::whole(100)), Credits::ZERO));

    let mut id = None;
    for block in run(&genesis) {
        let mut txs: Vec<Tx> = block.txs.iter().map(|tx| Tx::Work { tx: tx.clone() }).collect();
        // In the very block that creates the run.
        let created = block.txs.iter().find_map(|tx| match &tx.value.tx {
            swarm::WorkTx::Create { spec } => Some(spec.id(&tx.by)),
            _ => None,
        });
        txs.extend(created.map(|run| fund(&genesis, run, 0)));
        let by = state.validators()[0];
        let time = block.time.max(state.time().plus(1));
        let next = state.next(by, Vec::new(), time, txs);
        state.apply(&next).expect("it follows");
        if let Some(run) = created {
            assert_eq!(state.money().pot(&run), Credits::whole(3), "who creates a run can pay for it at once");
            id = Some(run);
        }
    }
    let id = id.expect("a run");
    assert!(state.runs().runs[&id].ended);
    assert_eq!(state.check(&fund(&genesis, id, 1), 0), Err(Reject::Ended));
    let happened = apply(&mut state, 1, vec![fund(&genesis, id, 1)]);
    assert_eq!(refused(&happened), [Reject::Ended]);
    assert_eq!(state.money().pot(&id), Credits::ZERO);
    assert_eq!(u128::from(state.money().supply().0), state.money().held());
}

#[test]
fn a_state_whose_books_do_not_add_up_is_none() {
    let genesis = genesis(1);
    let state = State::new(&genesis);
    let (mut forged, rules) = (state.to_snapshot(), state.money().params().to_bytes());
    assert!(State::from_snapshot(&genesis, &forged).is_ok());
    // What there was at first is behind the rules and two times.
    let at = forged.windows(rules.len()).position(|bytes| bytes == rules).expect("the rules") + rules.len() + 16;
    forged[at..at + 8].copy_from_slice(&u64::MAX.to_bytes());
    assert_eq!(State::from_snapshot(&genesis, &forged).err(), Some(Reject::Malformed));
}

#[test]
fn a_validator_votes_so_often_in_an_epoch_and_no_more() {
    let genesis = genesis(4);
    let mut state = State::new(&genesis);
    let blocks = run(&genesis);
    let txs = blocks[0].txs.iter().map(|tx| Tx::Work { tx: tx.clone() }).collect();
    apply(&mut state, 1, txs);
    let id = *state.runs().runs.keys().next().expect("created in the first block");
    let votes = (1..=VOTES + 1).map(|seq| vote(&genesis, 0, id, seq)).collect();
    assert_eq!(refused(&apply(&mut state, 1, votes)), [Reject::TooMany]);
    assert_eq!(state.check(&vote(&genesis, 0, id, 1_000), 0), Err(Reject::TooMany));
    assert_eq!(state.check(&vote(&genesis, 1, id, 1), 0), Ok(()), "the others have their own");
    let again = State::from_snapshot(&genesis, &state.to_snapshot()).expect("read back");
    assert_eq!(again.check(&vote(&genesis, 0, id, 1_000), 0), Err(Reject::TooMany), "also where it travelled");
    // The next epoch begins behind this block.
    apply(&mut state, genesis.epoch_ms, Vec::new());
    assert_eq!(state.epoch().number, 1);
    assert_eq!(state.check(&vote(&genesis, 0, id, 1_000), 0), Ok(()));
}

#[test]
fn a_block_of_evidence_that_proves_nothing_is_no_block() {
    let genesis = genesis(4);
    let mut state = State::new(&genesis);
    let (before, by) = (state.root(), state.validators()[0]);
    let mut refuses = |txs: Vec<Tx>, why: Reject| {
        let block: Block = state.next(by, Vec::new(), Millis(10), txs);
        assert_eq!(state.apply(&block), Err(why));
        assert_eq!((state.root(), state.height()), (before, 0), "nothing changed");
    };
    refuses(vec![evidence(&genesis, 0, vec![1, 2, 3])], Reject::Malformed);
    refuses(vec![evidence(&genesis, 0, vec![0; chain::EVIDENCE_MAX + 1])], Reject::Oversized);
    // One of four can be dishonest: two pieces are not looked at.
    refuses(vec![evidence(&genesis, 0, vec![1]), evidence(&genesis, 1, vec![1])], Reject::TooMany);
    // What comes too late costs nothing to see, and is refused alone.
    let late = Evidence { chain: genesis.chain(), seq: 1, epoch: 7, votes: vec![1] };
    let late = Tx::Evidence { evidence: Signed::new(EVIDENCE_DOMAIN, &common::key(0), late) };
    let happened = apply(&mut state, 10, vec![late]);
    assert_eq!(refused(&happened), [Reject::Stale]);
    assert_eq!(state.epoch().number, 0);
}

#[test]
fn a_time_to_which_nothing_can_be_added_is_no_blocks() {
    let genesis = genesis(1);
    let mut state = State::new(&genesis);
    let by = state.validators()[0];
    for time in [Millis((1 << 48) + 1), Millis(u64::MAX)] {
        let mut block = state.next(by, Vec::new(), Millis(10), Vec::new());
        block.header.time = time;
        assert_eq!(state.apply(&block), Err(Reject::Expired));
    }
}

#[test]
fn the_state_knows_whose_key_may_have_voted() {
    let genesis = genesis(4);
    let mut state = State::new(&genesis);
    let keys: Vec<_> = state.validators().to_vec();
    assert!(keys.iter().all(|key| !state.has_voted(key)), "a network that begins");
    apply(&mut state, 1, Vec::new());
    assert_eq!(keys.iter().filter(|key| state.has_voted(key)).collect::<Vec<_>>(), [&keys[0]], "it proposed a block");
    apply(&mut state, genesis.epoch_ms, Vec::new());
    assert_eq!(state.epoch().number, 1);
    assert!(keys.iter().all(|key| state.has_voted(key)), "a seat that is older than the epoch");
    assert!(!state.has_voted(&user().id()));
}
