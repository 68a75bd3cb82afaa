//! Each rule at its edge: what is just allowed, and what is just not. Changing a rule in one place breaks a test here
//! or a history in `money.rs`.

mod common;

use base::{Hash, Keypair, Millis, Reject, Signed, Wire};
use common::{FEE, claim, id, key, opened, params, say, take, voucher};
use ledger::{
    ALLOTMENTS_MAX, Account, Allotments, Credits, Issuance, Ledger, Params, PaySource, Proof, SEAT_DOMAIN, SEATS_MAX,
    SeatClaim, WalletTx,
};

fn allot(parts: &[(base::NodeId, u64)]) -> WalletTx {
    WalletTx::Allot { parts: Allotments(parts.iter().map(|(to, amount)| (*to, Credits(*amount))).collect()) }
}

fn stranger(i: usize) -> base::NodeId {
    Keypair::from_secret([(i + 10) as u8; 32]).id()
}

/// Books with something of everything in them.
fn full() -> Ledger {
    let mut books = opened();
    books.advance(Millis(1_000 + 3_600_000));
    for tx in [
        WalletTx::Bond { amount: Credits(250) },
        WalletTx::Seat { claim: claim(0, 0) },
        WalletTx::Unbond { amount: Credits(50) },
        WalletTx::Deposit { amount: Credits(200) },
        allot(&[(id(1), 60), (id(2), 70)]),
        WalletTx::Close { payee: id(2) },
        WalletTx::Fund { pot: Hash([9; 32]), amount: Credits(40) },
    ] {
        take(&mut books, 0, tx).expect("done");
    }
    books.pay(PaySource::Issuance, &id(3), Credits(25)).expect("within the schedule");
    books
}

#[test]
fn books_that_travel_whole_are_the_same_and_go_on_the_same() {
    let mut books = full();
    let mut again = Ledger::from_bytes(&books.to_bytes()).expect("read back");
    assert_eq!(again.root(), books.root());
    assert_eq!((again.held(), again.supply(), again.params()), (books.held(), books.supply(), &params()));
    // What was to come free comes free there too.
    for books in [&mut books, &mut again] {
        books.advance(Millis(1_000 + 3_600_000 + 10));
        assert_eq!(books.account(&id(0)).map(|account| account.unbonding.len()), Some(1), "not yet");
        books.advance(Millis(1_000 + 3_600_000 + 100));
        let account = books.account(&id(0)).expect("there");
        assert_eq!((account.unbonding.len(), account.allotments.len(), account.deposit), (0, 1, Credits(140)));
    }
    assert_eq!(again.root(), books.root());
    for length in 0..books.to_bytes().len() {
        assert!(Ledger::from_bytes(&books.to_bytes()[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn books_that_do_not_add_up_are_none() {
    let (books, supply) = (full(), full().supply());
    let bytes = books.to_bytes();
    // Behind the rules there are two times, then what was there at first, issued and burned.
    let first = params().to_bytes().len() + 16;
    for (at, amount) in [
        (first, u64::MAX),
        (first, 0),
        (first + 8, u64::MAX),
        (first + 16, u64::MAX),
        (first + 16, supply.0 + 1),
        (first + 24 + 4 + 32, u64::MAX),
    ] {
        let mut forged = bytes.clone();
        forged[at..at + 8].copy_from_slice(&Credits(amount).to_bytes());
        assert!(Ledger::from_bytes(&forged).is_err(), "{amount} at {at}");
    }
}

#[test]
fn an_account_that_names_a_provider_twice_is_none() {
    let books = full();
    let account = books.account(&id(0)).expect("there");
    let bytes = account.to_bytes();
    assert_eq!(Account::from_bytes(&bytes).as_ref(), Ok(account));
    let payees: Vec<_> = account.allotments.keys().collect();
    let at = bytes.windows(32).position(|window| window == payees[1].0).expect("the second one");
    let mut twice = bytes;
    twice[at..at + 32].copy_from_slice(&payees[0].0);
    assert!(Account::from_bytes(&twice).is_err());
}

#[test]
fn what_is_asked_of_the_books_is_what_they_would_say() {
    let mut books = full();
    for (by, tx) in [
        (3, WalletTx::Redeem { voucher: voucher(0, 1, 0, 30) }),
        (3, WalletTx::Redeem { voucher: voucher(0, 3, 0, 30) }),
        (1, WalletTx::Release { client: id(0) }),
        (3, WalletTx::Release { client: id(0) }),
        (0, WalletTx::Transfer { to: id(1), amount: Credits(100_000) }),
        (0, WalletTx::Unseat { key: id(100) }),
    ] {
        let said = say(&books, by, tx);
        assert_eq!(books.check(&said, 0), books.clone().take(&said), "{said:?}");
    }
    // After others of the same account: by its number alone.
    let tx = WalletTx::Transfer { to: id(1), amount: Credits(1) };
    let later = say(&books, 1, tx.clone());
    take(&mut books, 1, tx).expect("done");
    let next = say(&books, 1, WalletTx::Transfer { to: id(1), amount: Credits(1) });
    assert_eq!(books.check(&next, 1), Err(Reject::Stale));
    assert_eq!(books.check(&later, 0), Err(Reject::Stale));
}

#[test]
fn transactions_are_read_back_as_they_were_said() {
    for tx in [
        allot(&[(id(1), 5), (id(2), 6)]),
        WalletTx::Redeem { voucher: voucher(0, 1, 2, 3) },
        WalletTx::Seat { claim: claim(1, 2) },
    ] {
        assert_eq!(WalletTx::from_bytes(&tx.to_bytes()), Ok(tx));
    }
}

#[test]
fn allotments_have_their_bounds() {
    let mut books = Ledger::new(params(), &[(id(0), Credits(100_000))]);
    take(&mut books, 0, WalletTx::Deposit { amount: Credits(50_000) }).expect("deposited");
    assert_eq!(take(&mut books, 0, allot(&[(id(1), 0)])), Err(Reject::BadAmount));
    assert_eq!(take(&mut books, 0, allot(&[(id(0), 5)])), Err(Reject::BadAmount), "to oneself");
    assert_eq!(take(&mut books, 0, allot(&[(id(1), 5), (id(1), 5)])), Err(Reject::Duplicate));
    for half in 0..2 {
        let parts: Vec<_> = (0..ALLOTMENTS_MAX / 2).map(|i| (stranger(half * ALLOTMENTS_MAX / 2 + i), 10)).collect();
        take(&mut books, 0, allot(&parts)).expect("as many as there may be");
    }
    assert_eq!(take(&mut books, 0, allot(&[(stranger(ALLOTMENTS_MAX), 10)])), Err(Reject::Full));
    take(&mut books, 0, allot(&[(stranger(3), 7)])).expect("to one that has one");
    let account = books.account(&id(0)).expect("there");
    assert_eq!((account.allotments[&stranger(3)].left, account.allotments.len()), (Credits(17), ALLOTMENTS_MAX));
    let serials: std::collections::BTreeSet<u64> = account.allotments.values().map(|a| a.serial).collect();
    assert_eq!((serials.len(), account.serial), (ALLOTMENTS_MAX, ALLOTMENTS_MAX as u64), "each has its own");
    take(&mut books, 0, WalletTx::Close { payee: stranger(3) }).expect("asked for");
    assert_eq!(take(&mut books, 0, allot(&[(stranger(3), 7)])), Err(Reject::Ended), "on its way back");
}

#[test]
fn seats_are_known_by_their_keys_and_dropped_by_name() {
    let mut books = full();
    let seat = *books.seat(&id(100)).expect("seated");
    assert_eq!((seat.owner, seat.node, seat.leaving), (id(0), id(0), false));
    assert_eq!(books.seats().map(|(key, _)| *key).collect::<Vec<_>>(), [id(100)]);
    assert_eq!(books.seat(&id(1)), None);
    books.drop_seat(&id(1));
    books.drop_seat(&id(100));
    assert_eq!(books.seat(&id(100)), Some(&ledger::Seat { leaving: true, ..seat }));
    let chain = Hash([8; 32]);
    books.begin_anew(chain);
    assert_eq!((books.seats().count(), books.params().chain), (0, chain));
    take(&mut books, 0, WalletTx::Unseat { key: id(100) }).expect_err("of another chain");
}

#[test]
fn seats_of_the_genesis_take_their_bonds_from_the_opening_balances() {
    let mut books = opened();
    assert_eq!(books.found_seat(id(100), id(0), id(0)), Ok(()));
    assert_eq!(books.found_seat(id(100), id(1), id(1)), Err(Reject::Duplicate));
    assert_eq!(books.found_seat(id(101), id(0), id(0)), Ok(()));
    let account = books.account(&id(0)).expect("there");
    assert_eq!((account.bond, account.balance), (Credits(200), Credits(800)), "a bond for each");
    // What is bonded already and stands for nothing else counts.
    take(&mut books, 1, WalletTx::Bond { amount: Credits(70) }).expect("bonded");
    assert_eq!(books.found_seat(id(102), id(1), id(1)), Ok(()));
    let account = books.account(&id(1)).expect("there");
    assert_eq!((account.bond, account.balance), (Credits(100), Credits(1_000 - 70 - 3 - 30)));
    assert_eq!(books.seats().map(|(_, seat)| seat.serial).collect::<std::collections::BTreeSet<_>>(), [0, 1, 2].into());
    let mut poor = Ledger::new(params(), &[(id(0), Credits(99))]);
    assert_eq!(poor.found_seat(id(100), id(0), id(0)), Err(Reject::Insufficient));
    let mut rich = Ledger::new(params(), &[(id(0), Credits(1_000_000))]);
    let key = |i: usize| base::NodeId(*blake3_of(i));
    for i in 0..SEATS_MAX {
        assert_eq!(rich.found_seat(key(i), id(0), id(0)), Ok(()));
    }
    assert_eq!(rich.found_seat(key(SEATS_MAX), id(0), id(0)), Err(Reject::Duplicate), "as many as there may be");
}

fn blake3_of(i: usize) -> Box<[u8; 32]> {
    Box::new(Hash::of("test", &i.to_le_bytes()).0)
}

#[test]
fn a_seat_points_at_its_owner_and_a_bond_is_handed_on_once() {
    let mut books = opened();
    take(&mut books, 0, WalletTx::Bond { amount: Credits(100) }).expect("bonded");
    let claim_of = |owner, node, signer: &Keypair| {
        let claim = SeatClaim { chain: params().chain, owner, node };
        WalletTx::Seat { claim: Signed::new(SEAT_DOMAIN, signer, claim) }
    };
    assert_eq!(take(&mut books, 0, claim_of(id(0), id(1), &key(101))), Err(Reject::BadSignature), "another's node");
    assert_eq!(take(&mut books, 0, claim_of(id(1), id(0), &key(101))), Err(Reject::BadSignature), "another's seat");
    let WalletTx::Seat { claim: good } = claim_of(id(0), id(0), &key(101)) else { unreachable!() };
    let forged = WalletTx::Seat { claim: Signed { by: id(102), ..good } };
    assert_eq!(take(&mut books, 0, forged), Err(Reject::BadSignature), "nobody's signature");
    for (seat, serial) in [(0, 0), (1, 1)] {
        take(&mut books, 0, WalletTx::Seat { claim: claim(seat, 0) }).expect("seated");
        assert_eq!(books.seat(&id(100 + seat)).map(|seat| seat.serial), Some(serial), "in the order of taking");
        take(&mut books, 0, WalletTx::Unseat { key: id(100 + seat) }).expect("given up");
    }
    assert_eq!(take(&mut books, 0, WalletTx::Seat { claim: claim(2, 0) }), Err(Reject::TooMany), "again and again");
}

#[test]
fn the_schedule_is_kept_to_the_last_millionth() {
    let mut books = opened();
    assert_eq!(books.issuable(), Credits(0));
    books.advance(Millis(1_000 + 1_800_000));
    assert_eq!(books.issuable(), Credits(1_800_000));
    books.pay(PaySource::Issuance, &id(0), Credits(800_000)).expect("a part");
    assert_eq!(books.issuable(), Credits(1_000_000));
    assert_eq!(books.pay(PaySource::Issuance, &id(0), Credits(1_000_001)), Err(Reject::Insufficient));
    books.pay(PaySource::Issuance, &id(0), Credits(1_000_000)).expect("all that is left");
    assert_eq!(books.issuable(), Credits(0));
    // Never more than an amount can hold.
    let generous = Params { issuance: Issuance { per_hour: Credits(u64::MAX), era_hours: 1 }, ..params() };
    let mut books = Ledger::new(generous, &[(id(0), Credits(u64::MAX - 10))]);
    books.advance(Millis(1));
    books.advance(Millis(3_600_001));
    assert_eq!(books.issuable(), Credits(10));
    books.pay(PaySource::Issuance, &id(1), Credits(4)).expect("room");
    assert_eq!(books.issuable(), Credits(6));
}

#[test]
fn a_budget_that_is_closed_goes_back() {
    let mut books = full();
    let before = books.account(&id(0)).expect("there").balance;
    assert_eq!(books.refund(&Hash([9; 32])), [(id(0), Credits(40))]);
    assert_eq!(books.pot(&Hash([9; 32])), Credits::ZERO);
    assert_eq!(books.account(&id(0)).map(|a| a.balance.0), Some(before.0 + 40));
    assert!(books.refund(&Hash([9; 32])).is_empty(), "once");
}

#[test]
fn what_is_slashed_whole_is_gone() {
    let mut books = full();
    assert_eq!(books.slash(&id(0), Credits(200 + 50 - FEE.0), None, None), Credits(247));
    let account = books.account(&id(0)).expect("there");
    assert_eq!((account.bond, account.unbonding.len()), (Credits(0), 0));
}

#[test]
fn a_proof_that_is_too_deep_is_refused() {
    let mut books = full();
    let root = books.root();
    let proof = books.prove(&id(0));
    assert_eq!(proof.check(&root, &id(0)), Ok(books.account(&id(0))));
    // The account, then the hashes beside the path, then its end.
    let bytes = proof.to_bytes();
    let head = Some(books.account(&id(0)).expect("there").clone()).to_bytes();
    assert!(bytes.starts_with(&head));
    let n = u32::from_le_bytes(bytes[head.len()..head.len() + 4].try_into().expect("four"));
    for more in [257 - n, 300 - n] {
        let mut deep = bytes.clone();
        deep[head.len()..head.len() + 4].copy_from_slice(&(n + more).to_le_bytes());
        deep.splice(head.len() + 4..head.len() + 4, vec![0; 32 * more as usize]);
        let refused =
            Proof::from_bytes(&deep).map_or(Err(Reject::Malformed), |proof| proof.check(&root, &id(0)).map(|_| ()));
        assert!(refused.is_err());
    }
}
