//! The books under any history: nothing is made or lost, what is refused changes nothing, and each
//! rule does what it says.

mod common;

use base::{Hash, Millis, Reject, Signed, Wire};
use common::{FEE, PEOPLE, claim, id, key, opened, params, say, take, voucher};
use ledger::{Allotments, Credits, DOMAIN, Ledger, PaySource, Proof, SignedWalletTx, WalletEnvelope, WalletTx};
use proptest::prelude::*;

/// Anything that can happen to the books.
#[derive(Debug, Clone)]
enum Step {
    Say(u8, WalletTx),
    Wait(u64),
    EndOfEpoch(u8),
    Pay(bool, u8, Credits),
    Unlock(u8),
    Forfeit(u8, usize),
    Slash(u8, Credits, u8, u8),
    Refund,
}

fn amount() -> impl Strategy<Value = Credits> {
    prop_oneof![8 => 0u64..600, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1)].prop_map(Credits)
}

fn tx() -> impl Strategy<Value = WalletTx> {
    let pot = Hash([9; 32]);
    prop_oneof![
        3 => (any::<u8>(), amount()).prop_map(|(to, amount)| WalletTx::Transfer { to: id(to), amount }),
        1 => amount().prop_map(|amount| WalletTx::Bond { amount }),
        1 => amount().prop_map(|amount| WalletTx::Unbond { amount }),
        1 => amount().prop_map(move |amount| WalletTx::Fund { pot, amount }),
        2 => amount().prop_map(|amount| WalletTx::Deposit { amount }),
        1 => amount().prop_map(|amount| WalletTx::Withdraw { amount }),
        2 => proptest::collection::vec((any::<u8>(), amount()), 0..3)
            .prop_map(|parts| WalletTx::Allot { parts: Allotments(parts.into_iter().map(|(to, a)| (id(to), a)).collect()) }),
        3 => (any::<u8>(), any::<u8>(), 0u64..4, 0u64..400)
            .prop_map(|(client, payee, serial, total)| WalletTx::Redeem { voucher: voucher(client, payee, serial, total) }),
        1 => any::<u8>().prop_map(|payee| WalletTx::Close { payee: id(payee) }),
        1 => any::<u8>().prop_map(|client| WalletTx::Release { client: id(client) }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(seat, owner)| WalletTx::Seat { claim: claim(seat, owner) }),
        1 => any::<u8>().prop_map(|seat| WalletTx::Unseat { key: id(100 + seat % PEOPLE) }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<u8>(), tx()).prop_map(|(by, tx)| Step::Say(by, tx)),
        1 => any::<u8>().prop_map(Step::EndOfEpoch),
        2 => (0u64..80).prop_map(Step::Wait),
        2 => (any::<bool>(), any::<u8>(), amount()).prop_map(|(new, to, amount)| Step::Pay(new, to, amount)),
        1 => any::<u8>().prop_map(Step::Unlock),
        1 => (any::<u8>(), 0usize..5).prop_map(|(who, units)| Step::Forfeit(who, units)),
        1 => (any::<u8>(), amount(), any::<u8>(), any::<u8>()).prop_map(|(who, a, v, p)| Step::Slash(who, a, v, p)),
        1 => Just(Step::Refund),
    ]
}

/// Every record of the books, in bytes.
fn contents(ledger: &mut Ledger) -> (Hash, Vec<Vec<u8>>) {
    let root = ledger.root();
    (root, (0..PEOPLE).map(|i| ledger.account(&id(i)).map(Wire::to_bytes).unwrap_or_default()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn money_is_conserved_and_refusals_change_nothing(steps in proptest::collection::vec(step(), 1..60)) {
        let mut books = opened();
        // The same history, its root asked for only at the end.
        let mut lazy = opened();
        let mut now = 1_000;
        for step in steps {
            let before = contents(&mut books);
            let done = match &step {
                Step::Say(by, tx) => {
                    let tx = say(&books, *by, tx.clone());
                    let asked = books.check(&tx, 0);
                    let done = books.take(&tx);
                    prop_assert_eq!(asked, done, "a mempool is told what becomes of it");
                    prop_assert_eq!(lazy.take(&tx), done);
                    if done.is_ok() {
                        prop_assert_eq!(books.take(&tx), Err(Reject::Stale), "said twice, done once");
                    }
                    done
                }
                Step::EndOfEpoch(seat) => {
                    let seat = id(100 + seat % PEOPLE);
                    for books in [&mut books, &mut lazy] {
                        books.drop_seat(&seat);
                        books.free_seat(&seat);
                    }
                    Ok(())
                }
                Step::Wait(ms) => {
                    now += ms;
                    books.advance(Millis(now));
                    lazy.advance(Millis(now));
                    Ok(())
                }
                Step::Pay(new, to, amount) => {
                    let from = if *new { PaySource::Issuance } else { PaySource::Pot(Hash([9; 32])) };
                    let done = books.pay(from, &id(*to), *amount);
                    prop_assert_eq!(lazy.pay(from, &id(*to), *amount), done);
                    done
                }
                Step::Unlock(who) => { books.unlock(&id(*who)); lazy.unlock(&id(*who)); Ok(()) }
                Step::Forfeit(who, units) => {
                    prop_assert_eq!(books.forfeit(&id(*who), *units), lazy.forfeit(&id(*who), *units));
                    Ok(())
                }
                Step::Slash(who, amount, victim, prover) => {
                    let (victim, prover) = (id(*victim), id(*prover));
                    let taken = books.slash(&id(*who), *amount, Some(&victim), Some(&prover));
                    prop_assert_eq!(lazy.slash(&id(*who), *amount, Some(&victim), Some(&prover)), taken);
                    prop_assert!(taken <= *amount);
                    Ok(())
                }
                Step::Refund => {
                    let left = books.pot(&Hash([9; 32]));
                    let parts = books.refund(&Hash([9; 32]));
                    prop_assert_eq!(parts.iter().map(|(_, part)| *part).sum::<u128>(), u128::from(left.0));
                    prop_assert_eq!(lazy.refund(&Hash([9; 32])), parts);
                    Ok(())
                }
            };
            if done.is_err() {
                prop_assert_eq!(contents(&mut books), before, "refused: {:?}", step);
            }
            prop_assert_eq!(books.held(), u128::from(books.supply().0), "after {:?}", step);
        }
        prop_assert_eq!(contents(&mut books), contents(&mut lazy));
        let root = books.root();
        for i in 0..PEOPLE {
            let proof = Proof::from_bytes(&books.prove(&id(i)).to_bytes()).expect("decodes");
            prop_assert_eq!(proof.check(&root, &id(i)), Ok(books.account(&id(i))));
            prop_assert!(proof.check(&root, &id(i + 1)).is_err());
        }
    }

    #[test]
    fn any_bytes_are_a_transaction_or_refused(bytes: Vec<u8>) {
        if let Ok(tx) = SignedWalletTx::from_bytes(&bytes) {
            prop_assert_eq!(tx.to_bytes(), bytes.clone());
            prop_assert!(opened().take(&tx).is_err());
        }
        let _ = Proof::from_bytes(&bytes);
    }

    #[test]
    fn a_changed_byte_makes_a_transaction_worthless(by: u8, tx in tx(), at: prop::sample::Index, flip in 1u8..) {
        let mut books = opened();
        let mut bytes = say(&books, by, tx).to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(tx) = SignedWalletTx::from_bytes(&bytes) {
            prop_assert_eq!(books.take(&tx), Err(Reject::BadSignature));
        }
    }
}

#[test]
fn refusals_say_why() {
    let mut books = opened();
    let transfer = |amount| WalletTx::Transfer { to: id(1), amount: Credits(amount) };
    for (tx, why) in [
        (transfer(998), Reject::Insufficient),
        (transfer(u64::MAX), Reject::BadAmount),
        (transfer(0), Reject::BadAmount),
        (WalletTx::Unbond { amount: Credits(10) }, Reject::Insufficient),
        (WalletTx::Withdraw { amount: FEE }, Reject::BadAmount),
        (WalletTx::Close { payee: id(1) }, Reject::NoAllotment),
        (WalletTx::Redeem { voucher: voucher(1, 0, 0, 5) }, Reject::NoAllotment),
        (WalletTx::Allot { parts: Allotments(vec![(id(1), Credits(1))]) }, Reject::Insufficient),
    ] {
        assert_eq!(take(&mut books, 0, tx.clone()), Err(why), "{tx:?}");
    }
    let elsewhere = WalletEnvelope { chain: Hash([8; 32]), nonce: 0, tx: transfer(1) };
    assert_eq!(books.take(&Signed::new(DOMAIN, &key(0), elsewhere)), Err(Reject::WrongChain));
    let early = WalletEnvelope { chain: params().chain, nonce: 1, tx: transfer(1) };
    assert_eq!(books.take(&Signed::new(DOMAIN, &key(0), early)), Err(Reject::Early));
    assert_eq!(take(&mut books, 0, transfer(997)), Ok(()), "all but the fee");
    assert_eq!(books.account(&id(0)).map(|a| a.balance), Some(Credits::ZERO));
}

#[test]
fn a_bond_comes_back_late_and_can_be_slashed_until_then() {
    let mut books = opened();
    take(&mut books, 0, WalletTx::Bond { amount: Credits(400) }).expect("bonded");
    take(&mut books, 0, WalletTx::Unbond { amount: Credits(300) }).expect("asked for");
    assert_eq!(books.slash(&id(0), Credits(200), Some(&id(1)), None), Credits(200));
    let account = books.account(&id(0)).expect("there");
    assert_eq!((account.bond, account.unbonding[0].amount), (Credits(0), Credits(197)), "the bond first");
    assert_eq!(books.account(&id(1)).map(|a| a.balance), Some(Credits(1_050)), "a quarter to the victim");
    books.advance(Millis(1_099));
    assert_eq!(books.account(&id(0)).map(|a| a.unbonding.len()), Some(1));
    books.advance(Millis(1_100));
    let account = books.account(&id(0)).expect("there");
    assert_eq!((account.balance, account.unbonding.len()), (Credits(1_000 - 403 + 197), 0));
}

#[test]
fn a_bond_stands_for_its_seats_until_they_are_out() {
    let mut books = opened();
    assert_eq!(
        take(&mut books, 0, WalletTx::Seat { claim: claim(0, 0) }),
        Err(Reject::Insufficient),
        "no bond, no seat"
    );
    take(&mut books, 0, WalletTx::Bond { amount: Credits(150) }).expect("bonded");
    assert_eq!(
        take(&mut books, 1, WalletTx::Seat { claim: claim(0, 0) }),
        Err(Reject::BadSignature),
        "another's claim"
    );
    take(&mut books, 0, WalletTx::Seat { claim: claim(0, 0) }).expect("seated");
    assert_eq!(take(&mut books, 0, WalletTx::Seat { claim: claim(0, 0) }), Err(Reject::Duplicate));
    assert_eq!(
        take(&mut books, 0, WalletTx::Seat { claim: claim(1, 0) }),
        Err(Reject::Insufficient),
        "a bond for each"
    );
    assert_eq!(take(&mut books, 0, WalletTx::Unbond { amount: Credits(60) }), Err(Reject::Insufficient));
    assert_eq!(take(&mut books, 1, WalletTx::Unseat { key: id(100) }), Err(Reject::NotMember));
    take(&mut books, 0, WalletTx::Unseat { key: id(100) }).expect("given up");
    assert_eq!(take(&mut books, 0, WalletTx::Unseat { key: id(100) }), Err(Reject::Duplicate));
    take(&mut books, 0, WalletTx::Seat { claim: claim(1, 0) }).expect("the bond is handed on to another key");
    assert_eq!(take(&mut books, 0, WalletTx::Unbond { amount: Credits(60) }), Err(Reject::Insufficient), "both stand");
    books.free_seat(&id(100));
    take(&mut books, 0, WalletTx::Unbond { amount: Credits(50) }).expect("one is out");
}

#[test]
fn vouchers_are_cumulative_and_pay_one_payee_once() {
    let mut books = opened();
    take(&mut books, 0, WalletTx::Deposit { amount: Credits(300) }).expect("deposited");
    let parts = |list: &[(u8, u64)]| Allotments(list.iter().map(|(to, a)| (id(*to), Credits(*a))).collect());
    assert_eq!(
        take(&mut books, 0, WalletTx::Allot { parts: parts(&[(1, 200), (2, 101)]) }),
        Err(Reject::Insufficient),
        "one deposit cannot be allotted twice"
    );
    take(&mut books, 0, WalletTx::Allot { parts: parts(&[(1, 200), (2, 100)]) }).expect("allotted");
    let redeem = |serial, total| WalletTx::Redeem { voucher: voucher(0, 1, serial, total) };
    take(&mut books, 3, redeem(0, 50)).expect("anyone may");
    assert_eq!(books.account(&id(1)).map(|a| a.balance), Some(Credits(1_050)), "who redeems for another pays the fee");
    assert_eq!(books.account(&id(3)).map(|a| a.balance), Some(Credits(1_000 - FEE.0)));
    assert_eq!(take(&mut books, 3, redeem(0, 50)), Err(Reject::Stale));
    assert_eq!(take(&mut books, 3, redeem(0, 40)), Err(Reject::Stale));
    let forged = Signed { by: id(0), ..voucher(1, 1, 0, 100) };
    assert_eq!(take(&mut books, 3, WalletTx::Redeem { voucher: forged }), Err(Reject::BadSignature));

    take(&mut books, 0, WalletTx::Close { payee: id(1) }).expect("asked for");
    take(&mut books, 1, redeem(0, 500)).expect("in time, up to what is left");
    assert_eq!(books.account(&id(1)).map(|a| a.balance), Some(Credits(1_050 + 150 - FEE.0)), "the payee's own fee");
    books.advance(Millis(1_050));
    assert!(!books.account(&id(0)).expect("there").allotments.contains_key(&id(1)), "closed after the delay");

    take(&mut books, 2, WalletTx::Release { client: id(0) }).expect("a provider's close is immediate");
    assert_eq!(books.account(&id(0)).map(|a| a.deposit), Some(Credits(100)));
    take(&mut books, 0, WalletTx::Allot { parts: parts(&[(1, 100)]) }).expect("allotted anew");
    assert_eq!(take(&mut books, 3, redeem(0, 500)), Err(Reject::NoAllotment), "an old voucher is worth nothing");
    take(&mut books, 3, redeem(2, 60)).expect("its own serial");
}

#[test]
fn earnings_unlock_after_w_units_and_a_failure_burns_them() {
    let mut books = opened();
    books.advance(Millis(1_000 + 3_600_000));
    for amount in [10, 20, 30, 40] {
        books.pay(PaySource::Issuance, &id(0), Credits(amount)).expect("within the schedule");
    }
    let account = books.account(&id(0)).expect("there");
    assert_eq!((account.balance, account.locked.len()), (Credits(1_010), 3), "the oldest of four is free");
    assert_eq!(books.forfeit(&id(0), 2), Credits(70));
    assert_eq!(books.supply(), Credits(4_000 + 100 - 70));
    books.unlock(&id(0));
    assert_eq!(books.account(&id(0)).map(|a| a.balance), Some(Credits(1_030)));
    assert_eq!(books.pay(PaySource::Issuance, &id(0), Credits(3_600_000)), Err(Reject::Insufficient), "the schedule");
    assert_eq!(
        books.pay(PaySource::Pot(Hash([9; 32])), &id(0), Credits(1)),
        Err(Reject::Insufficient),
        "an empty budget"
    );
}

#[test]
fn the_root_of_a_known_history_is_frozen() {
    let mut books = opened();
    take(&mut books, 0, WalletTx::Transfer { to: id(1), amount: Credits(10) }).expect("done");
    take(&mut books, 1, WalletTx::Fund { pot: Hash([9; 32]), amount: Credits(20) }).expect("done");
    books.pay(PaySource::Pot(Hash([9; 32])), &id(2), Credits(5)).expect("done");
    assert_eq!(books.root().to_string(), "e96d8e54047f553af10c3b306f9a9f810091a54245289ca40a9dafdecfab5780");
}
