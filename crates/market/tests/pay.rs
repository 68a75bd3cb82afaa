//! The money of one client and one provider: whatever is lost, doubled, stale or forged on the way, nothing is paid twice,
//! and neither side loses more than a chunk at a time.

use base::{Hash, Keypair, Reject, Rng, Signed, Wire};
use ledger::{Credits, VOUCHER_DOMAIN, Voucher};
use market::{Allotted, Purse, Till};

const ALL: u64 = 1_000_000;

fn keys() -> (Keypair, Keypair, Hash) {
    (Keypair::from_secret([1; 32]), Keypair::from_secret([2; 32]), Hash::of("test", b"chain"))
}

fn allotted(serial: u64) -> Option<Allotted> {
    Some(Allotted { serial, total: Credits(ALL), closing: false })
}

#[test]
fn vouchers_are_taken_once_and_in_order() {
    let (client, provider, chain) = keys();
    let (me, by) = (provider.id(), client.id());
    let mut purse = Purse::default();
    let mut till = Till::default();
    let mut promise = |amount| purse.promise(allotted(0), &client, chain, me, Credits(amount));
    let (first, second) = (promise(10).expect("promised"), promise(5).expect("promised"));
    assert_eq!(second.value.total, Credits(15));
    assert_eq!(promise(ALL), Err(Reject::Insufficient));
    let mut take = |voucher: &Signed<Voucher>, allotted| till.take(&chain, &me, &by, allotted, voucher.clone());
    assert_eq!(take(&first, None), Err(Reject::NoAllotment));
    assert_eq!(take(&first, Some(Allotted { closing: true, ..allotted(0).expect("one") })), Err(Reject::NoAllotment));
    assert_eq!(take(&first, allotted(1)), Err(Reject::NoAllotment), "of another allotment");
    assert_eq!(
        take(&second, Some(Allotted { total: Credits(14), ..allotted(0).expect("one") })),
        Err(Reject::Insufficient)
    );
    let forged = Signed { value: Voucher { total: Credits(900), ..first.value.clone() }, ..first.clone() };
    assert_eq!(take(&forged, allotted(0)), Err(Reject::BadSignature));
    let stranger = Signed::new(VOUCHER_DOMAIN, &provider, first.value.clone());
    assert_eq!(take(&stranger, allotted(0)), Err(Reject::WrongWork));
    let elsewhere = Voucher { chain: Hash::default(), ..first.value.clone() };
    assert_eq!(take(&Signed::new(VOUCHER_DOMAIN, &client, elsewhere), allotted(0)), Err(Reject::WrongChain));
    assert_eq!(take(&second, allotted(0)), Ok(true));
    assert_eq!(take(&first, allotted(0)), Ok(false), "one that was overtaken is no news");
    assert_eq!(take(&second, allotted(0)), Ok(false), "said twice");
    assert_eq!(till.promised(), Credits(15));
    let half = 32;
    assert!(
        !till.read(Credits(16 + half), Credits(64)),
        "more than is promised, by more than nobody can say whose it is"
    );
    assert!(till.read(Credits(15), Credits(64)), "what is promised");
    // Answers beside each other: what one owes does not keep another from being begun.
    till.begin();
    till.begin();
    till.earn(Credits(60));
    assert!(till.read(Credits(4), Credits(64)) && !till.read(Credits(1 + half), Credits(64)));
    assert!(till.may_write(Credits(64)), "half a chunk for each of the two");
    till.earn(Credits(1 + half));
    assert!(!till.may_write(Credits(64)));
    till.end(Credits::ZERO, Credits(64));
    assert_eq!(till.owed(), Credits(half), "what the other answer may still owe");
    till.end(Credits::ZERO, Credits(64));
    assert_eq!(till.owed(), Credits::ZERO);
    let mut till = Till::default();
    assert!(!till.read(Credits::ZERO, Credits(64)), "somebody who has promised nothing");
    till.earn(Credits(5));
    assert_eq!(Till::from_bytes(&till.to_bytes()), Ok(till));
}

#[test]
fn crashes_and_lost_disks_pay_nothing_twice() {
    let (client, provider, chain) = keys();
    let (me, by) = (provider.id(), client.id());
    let chunk = 64;
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let (mut purse, mut till) = (Purse::default(), Till::default());
        let (mut kept, mut done, mut breaks) = (till.clone(), 0u64, 0u64);
        for _ in 0..200 {
            let amount = rng.below(chunk) + 1;
            // The provider does a chunk, the client promises it; the voucher may not arrive.
            till.earn(Credits(amount));
            done += amount;
            let voucher = purse.promise(allotted(0), &client, chain, me, Credits(amount)).expect("promised");
            if rng.chance(9, 10) {
                till.take(&chain, &me, &by, allotted(0), voucher).expect("a good voucher");
                kept = till.clone();
            } else {
                breaks += 1;
                till.end(Credits::ZERO, Credits(64));
            }
            if rng.chance(1, 20) {
                // The provider is killed: what it kept is what counts.
                till = kept.clone();
                breaks += 1;
            }
            if rng.chance(1, 20) {
                // The client loses its disk, and is shown its own last word.
                let before = purse.promised();
                purse = Purse::default();
                if let Some(last) = till.voucher() {
                    purse.recall(&by, last).expect("its own word");
                    assert_eq!(purse.recall(&me, last), Err(Reject::BadSignature));
                }
                assert!(purse.promised() <= before);
            }
            // Never more than was done, and never less than all but what was lost at breaks.
            assert!(till.promised() <= Credits(done), "seed {seed}: paid more than was done");
            assert!(till.promised().0 + breaks * chunk * 2 >= done, "seed {seed}: more than a chunk lost at a break");
        }
    }
}

#[test]
fn who_never_pays_is_given_two_chunks_and_no_more() {
    let (client, provider, chain) = keys();
    let chunk = Credits(64);
    let mut till = Till::default();
    let mut given = 0;
    while till.trusts(chunk) {
        till.earn(chunk);
        till.end(Credits::ZERO, Credits(64));
        given += 1;
        assert!(given < 10);
    }
    assert_eq!(given, 3, "the third is one too many");
    // Who pays for the most part may break off now and then.
    let (mut till, mut purse) = (Till::default(), Purse::default());
    for i in 0..200 {
        assert!(till.trusts(chunk), "after {i}");
        till.earn(chunk);
        if i % 10 > 0 {
            let voucher = purse.promise(allotted(0), &client, chain, provider.id(), chunk).expect("promised");
            till.take(&chain, &provider.id(), &client.id(), allotted(0), voucher).expect("taken");
        }
        till.end(Credits::ZERO, Credits(64));
    }
}

#[test]
fn an_answer_does_not_wait_for_what_the_one_beside_it_left_unpaid() {
    let chunk = Credits(64);
    let mut till = Till::default();
    till.begin();
    till.begin();
    till.earn(Credits(40));
    till.end(Credits(38), chunk);
    assert_eq!(till.owed(), Credits(2), "vouchers overtook each other");
    till.earn(Credits(32));
    assert!(till.may_write(chunk), "no more than half a chunk of its own is owed: {till:?}");
    till.earn(Credits(31));
    assert!(!till.may_write(chunk), "a chunk is");
    till.end(Credits(63), chunk);
    assert!(till.trusts(chunk));
}

#[test]
fn what_is_paid_late_is_not_lost() {
    let (client, provider, chain) = keys();
    let chunk = Credits(64);
    let (mut till, mut purse) = (Till::default(), Purse::default());
    for _ in 0..20 {
        till.begin();
        till.begin();
        till.earn(Credits(60));
        till.end(Credits(60), chunk);
        let voucher = purse.promise(allotted(0), &client, chain, provider.id(), Credits(60)).expect("promised");
        till.take(&chain, &provider.id(), &client.id(), allotted(0), voucher).expect("a good voucher");
        till.end(Credits::ZERO, chunk);
        assert!(till.trusts(Credits(1)), "{till:?}");
    }
}

#[test]
fn what_a_new_client_owes_is_bounded_over_all_its_open_answers() {
    let (client, provider, chain) = keys();
    let chunk = Credits(64);
    let mut till = Till::default();
    let mut open = 0;
    while till.may_begin(chunk) {
        till.begin();
        while till.may_write(chunk) {
            till.earn(Credits(1));
        }
        open += 1;
        assert!(open < 100, "a client that has paid nothing opens one answer after the other");
    }
    assert!(till.owed().0 <= 5 * chunk.0, "four chunks, and what was under way: {:?}", till.owed());
    // One that has paid is trusted with more.
    let mut purse = Purse::default();
    let voucher = purse.promise(allotted(0), &client, chain, provider.id(), Credits(64 * 100)).expect("promised");
    till.take(&chain, &provider.id(), &client.id(), allotted(0), voucher).expect("taken");
    assert!(till.may_begin(chunk));
}
