//! Money follows work: simulated runs with faults and liars, their logs applied to the replicated state.

use base::{Hash, Keypair, Millis, NodeId, Signed};
use chain::{Block, Fate, Founder, Genesis, Happened, State, Tx, VOTE_DOMAIN, Vote, reference_flops};
use ledger::{Credits, Issuance, Params, PaySource};
use sim::{Scenario, logged};
use std::collections::BTreeMap;
use swarm::RunEvent;

const SCHEDULES: u64 = 60;
const BUDGET: Credits = Credits::whole(7);

fn key(i: u8) -> Keypair {
    Keypair::from_secret([200 + i; 32])
}

fn genesis(seats: u8) -> Genesis {
    let issuance = Issuance { per_hour: Credits::whole(36_000), era_hours: 1_000 };
    Genesis {
        name: "test".into(),
        time: Millis(0),
        validators: (0..seats).map(|i| Founder { key: key(i).id(), owner: key(8).id(), node: key(8).id() }).collect(),
        opening: vec![(key(9).id(), Credits::whole(100)), (key(8).id(), Credits::whole(1_000))],
        money: Params { issuance, locked_units: 3, ..Params::default() },
        per_pflop: Credits::whole(1_000_000_000),
        epoch_ms: 20_000,
        work_bits: 0,
        recovers: None,
    }
}

/// The log of a simulated run as blocks of a chain, with the budget paid in and the votes cast in the block
/// after the one that creates the run.
fn chain_of(genesis: &Genesis, blocks: &[swarm::WorkBlock]) -> (State, Vec<Vec<Happened>>) {
    let mut state = State::new(genesis);
    let mut done = Vec::new();
    let mut run = None;
    for (i, block) in blocks.iter().enumerate() {
        let mut txs: Vec<Tx> = block.txs.iter().map(|tx| Tx::Work { tx: tx.clone() }).collect();
        if let Some(run) = run.filter(|_| i == 1) {
            txs.splice(0..0, money(genesis, run));
        }
        let by = state.validators()[i % state.validators().len()];
        let block = state.next(by, Vec::new(), block.time, txs);
        let mut again = state.clone();
        let happened = state.apply(&block).expect("it follows");
        assert_eq!(again.apply(&block).as_ref(), Ok(&happened));
        assert_eq!(again.root(), state.root(), "the same block, the same root");
        assert_eq!(state.apply(&block), Err(base::Reject::Stale), "no block is applied twice");
        let money = state.money();
        assert_eq!(u128::from(money.supply().0), money.held(), "what is held is what was issued and not burned");
        run = run.or(happened
            .iter()
            .find_map(|h| if let Happened::Run(RunEvent::Created(id)) = h { Some(*id) } else { None }));
        done.push(happened);
    }
    (state, done)
}

fn money(genesis: &Genesis, run: Hash) -> Vec<Tx> {
    let chain = genesis.chain();
    let fund = ledger::WalletEnvelope { chain, nonce: 0, tx: ledger::WalletTx::Fund { pot: run, amount: BUDGET } };
    let vote = |i| Signed::new(VOTE_DOMAIN, &key(i), Vote { chain, seq: 1, run, share_permille: 400 });
    let votes = (0..genesis.validators.len() as u8).map(|i| Tx::Vote { vote: vote(i) });
    std::iter::once(Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &key(9), fund) }).chain(votes).collect()
}

/// Paid by purse, in all and by member; and the tokens of each member in closed sets.
#[derive(Default)]
struct Account {
    pot: BTreeMap<NodeId, u64>,
    issued: BTreeMap<NodeId, u64>,
}

fn account(done: &[Vec<Happened>]) -> Account {
    let mut account = Account::default();
    for happened in done.iter().flatten() {
        if let Happened::Paid { to, amount, from, .. } = happened {
            let purse = if *from == PaySource::Issuance { &mut account.issued } else { &mut account.pot };
            *purse.entry(*to).or_default() += amount.0;
        }
    }
    account
}

#[test]
fn members_are_paid_by_tokens_whatever_befalls_the_run() {
    let genesis = genesis(1);
    let mut issued = 0;
    for seed in 0..SCHEDULES {
        // A run that ends, so that its budget is spent.
        let scenario = Scenario { tokens_rounds: 5, rounds: 5, chain: genesis.chain(), ..Scenario::random(seed) };
        let Ok((_, blocks)) = logged(&scenario) else { panic!("seed {seed}: the schedule itself fails") };
        let (state, done) = chain_of(&genesis, &blocks);
        let Some((id, run)) = state.runs().runs.iter().next() else { panic!("seed {seed}: no run") };
        let paid = account(&done);
        let (spent, left): (u64, Credits) = (paid.pot.values().sum(), state.money().pot(id));
        assert_eq!(if run.ended { Credits::ZERO } else { Credits(BUDGET.0 - spent) }, left, "seed {seed}");
        let worth = reference_flops(&run.spec.config, run.spec.seq_len).expect("a model");
        for member in paid.pot.keys().chain(paid.issued.keys()) {
            assert!(run.members.contains_key(member) || scenario.members.iter().any(|part| part.quit_ms.is_some()));
        }
        let all: u64 = paid.issued.values().sum();
        let most = u128::from(worth) * u128::from(run.tokens) * u128::from(genesis.per_pflop.0) / 1_000_000_000_000_000;
        assert!(u128::from(all) <= most, "seed {seed}: {all} issued, {most} earned");
        issued += all;
        for closed in run.closed.iter().filter(|closed| !closed.set.is_empty()) {
            let of = |happened: &Vec<Happened>| happened.contains(&Happened::Run(RunEvent::Closed(*id, closed.round)));
            let block = done.iter().find(|happened| of(happened)).expect("it closed in some block");
            proportional(seed, closed, block, *id);
        }
    }
    assert!(issued > 0, "admitted work earns new money");
}

/// Each member's part of a round's pay is its part of the tokens, to the last micro-credit.
fn proportional(seed: u64, closed: &swarm::Closed, happened: &[Happened], id: Hash) {
    let (mut amounts, mut told) = (BTreeMap::<NodeId, u64>::new(), BTreeMap::new());
    // Two rounds may close in one block: what is paid between their events is the second's.
    let at = happened.iter().position(|h| *h == Happened::Run(RunEvent::Closed(id, closed.round))).expect("there");
    for paid in happened[..at].iter().rev() {
        match paid {
            Happened::Paid { to, amount, from: PaySource::Pot(_), .. } => {
                *amounts.entry(*to).or_default() += amount.0;
            }
            Happened::Paid { .. } => {}
            Happened::Worked { by, tokens, fate, .. } => {
                assert!(told.insert(*by, (*tokens, *fate)).is_none(), "seed {seed}: {by:?} is told of twice");
            }
            _ => break,
        }
    }
    let paid = |by: &NodeId| told.get(by).is_some_and(|(_, fate)| *fate == Fate::Counted);
    assert!(amounts.keys().all(paid), "seed {seed}: who is paid has done something");
    assert!(closed.plan.iter().all(|slot| told.contains_key(&slot.member)), "seed {seed}: nobody is forgotten");
    let total: u64 = amounts.values().sum();
    let tokens: u64 = closed.set.iter().map(|c| c.tokens).sum();
    let mut done: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for candidate in &closed.set {
        let entry = done.entry(candidate.member).or_default();
        *entry = (entry.0 + candidate.tokens, entry.1 + 1);
    }
    let counted: u64 = told.values().map(|(tokens, _)| tokens).sum();
    assert_eq!(counted, tokens, "seed {seed}: every token is somebody's");
    for (member, (own, units)) in done {
        let exact = u128::from(total) * u128::from(own);
        let got = u128::from(amounts.get(&member).copied().unwrap_or(0)) * u128::from(tokens);
        assert!(exact.abs_diff(got) < u128::from(tokens * units), "seed {seed}: {member:?} got {got}, due {exact}");
    }
}

#[test]
fn work_that_nobody_checks_is_paid_with_new_money_by_one_owner_only() {
    let paid = |seats| {
        let genesis = genesis(seats);
        let scenario = Scenario { tokens_rounds: 5, rounds: 5, chain: genesis.chain(), ..Scenario::calm(1, 5) };
        account(&chain_of(&genesis, &logged(&scenario).expect("calm").1).1)
    };
    let (one, four) = (paid(1), paid(4));
    assert_eq!(one.issued.len(), 5, "five members of an admitted run");
    assert!(four.issued.is_empty() && four.pot.len() == 5, "a network of four labels such work unaudited");
}

#[test]
fn a_run_that_nobody_admitted_earns_no_new_money() {
    let genesis = genesis(1);
    // Open rounds may be smaller than planned: it is over when its tokens are, not after so many rounds.
    let scenario = Scenario { tokens_rounds: 5, rounds: 99, chain: genesis.chain(), ..Scenario::calm(2, 5) };
    let (_, blocks) = logged(&scenario).expect("calm");
    let mut state = State::new(&genesis);
    for block in &blocks {
        let txs = block.txs.iter().map(|tx| Tx::Work { tx: tx.clone() }).collect();
        let block: Block = state.next(key(0).id(), Vec::new(), block.time, txs);
        let happened = state.apply(&block).expect("it follows");
        assert!(!happened.iter().any(|h| matches!(h, Happened::Paid { .. })));
    }
    assert!(state.runs().runs.values().all(|run| run.ended));
}

#[test]
fn a_block_with_a_forged_signature_is_no_block() {
    let genesis = genesis(1);
    let mut state = State::new(&genesis);
    let tx = ledger::WalletTx::Transfer { to: key(7).id(), amount: Credits::whole(1) };
    let good = Signed::new(ledger::DOMAIN, &key(9), ledger::WalletEnvelope { chain: genesis.chain(), nonce: 0, tx });
    let mut forged = good.clone();
    forged.signature.0[5] ^= 1;
    let before = state.root();
    let block = state.next(key(0).id(), Vec::new(), Millis(10), vec![Tx::Wallet { tx: forged }]);
    assert_eq!(state.apply(&block), Err(base::Reject::BadSignature));
    assert_eq!((state.root(), state.height()), (before, 0), "nothing changed");
    // What is signed and cannot be done is refused alone: the block stands.
    let again = good.clone();
    let block =
        state.next(key(0).id(), Vec::new(), Millis(10), vec![Tx::Wallet { tx: good }, Tx::Wallet { tx: again }]);
    let happened = state.apply(&block).expect("it follows");
    assert_eq!(happened.len(), 1, "{happened:?}");
    assert!(matches!(happened[0], Happened::Refused(_, base::Reject::Stale)));
    assert_eq!(state.money().account(&key(7).id()).map(|account| account.balance), Some(Credits::whole(1)));
}
