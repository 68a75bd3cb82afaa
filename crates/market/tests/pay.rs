//! The money of one client and one provider: whatever is lost, doubled, stale or forged on the way, nothing is paid twice,
//! and neither side loses more than a chunk of an answer, and half of one where answers are beside each other.

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
    assert_eq!(take(&second, allotted(0)), Ok(Some(Credits(15))));
    assert_eq!(take(&first, allotted(0)), Ok(None), "one that was overtaken is no news");
    assert_eq!(take(&second, allotted(0)), Ok(None), "said twice");
    assert_eq!(till.promised(), Credits(15));
    let chunk = Credits(64);
    let mut read = |cost, allotted| till.read(Credits(cost), chunk, allotted);
    assert!(!read(16, allotted(0)), "more than is promised");
    assert!(read(15, None), "what is promised, whatever became of the allotment");
    let mut till = Till::default();
    assert!(!till.read(Credits::ZERO, chunk, allotted(0)), "somebody who has promised nothing");
    till.earn(Credits(5));
    let kept = Till::from_bytes(&till.to_bytes()).expect("a till");
    assert_eq!(kept.owed(), Credits(5));
    assert_eq!(kept.restarted(), Till::default(), "answers end with the process");
}

#[test]
fn an_answer_beside_others_is_begun_on_credit_that_is_set_aside_only() {
    let (client, provider, chain) = keys();
    let chunk = Credits(64);
    let set_aside = |total, closing| Some(Allotted { serial: 0, total: Credits(total), closing });
    let mut till = Till::default();
    let voucher =
        Purse::default().promise(allotted(0), &client, chain, provider.id(), Credits(1_000)).expect("promised");
    till.take(&chain, &provider.id(), &client.id(), allotted(0), voucher).expect("a good voucher");
    till.begin();
    assert!(!till.read(Credits(1_001), chunk, allotted(0)), "the only one is paid before it is read");
    assert!(till.read(Credits(1_000), chunk, allotted(0)), "it is paid");
    till.begin();
    for (why, allotted) in [
        ("nothing is left", set_aside(1_000, false)),
        ("the client wants the rest back", set_aside(ALL, true)),
        ("it is gone", None),
        ("another one is there, of which nothing is promised yet", allotted(1)),
    ] {
        assert!(!till.read(Credits(10), chunk, allotted), "{why}");
    }
    assert!(till.read(Credits(10), chunk, set_aside(1_010, false)), "what the other one owes is its own");
    assert!(!till.read(Credits(87), chunk, set_aside(ALL, false)), "a chunk and a half is");
}

#[test]
fn answers_beside_each_other_owe_half_a_chunk_each_and_half_of_one() {
    let chunk = Credits(64);
    let mut till = Till::default();
    till.begin();
    till.earn(Credits(32));
    assert!(till.may_write(chunk));
    till.earn(Credits(1));
    assert!(!till.may_write(chunk), "one alone");
    till.begin();
    till.earn(Credits(63));
    assert!(till.may_write(chunk), "half a chunk for each of the two, and one that nobody can say whose it is");
    till.earn(Credits(1));
    assert!(!till.may_write(chunk));
    assert_eq!(till.end(Credits(40), Credits::ZERO, chunk), Credits(40));
    assert_eq!(till.owed(), Credits(57), "what the other answer may still owe");
    assert_eq!(till.end(Credits(57), Credits::ZERO, chunk), Credits(57));
    assert_eq!((till.owed(), till.lost()), (Credits::ZERO, Credits(97)));
}

#[test]
fn trust_goes_over_to_the_next_allotment() {
    let (client, provider, chain) = keys();
    let chunk = Credits(64);
    let (mut till, mut purse) = (Till::default(), Purse::default());
    let mut pay = |till: &mut Till, serial, amount| {
        let voucher =
            purse.promise(allotted(serial), &client, chain, provider.id(), Credits(amount)).expect("promised");
        till.take(&chain, &provider.id(), &client.id(), allotted(serial), voucher).expect("a good voucher")
    };
    pay(&mut till, 0, 8_000);
    till.begin();
    till.earn(Credits(8_300));
    till.end(Credits(8_300), Credits(8_000), chunk);
    assert!(till.trusts(chunk), "it paid for the most part");
    assert_eq!(pay(&mut till, 1, 20), Some(Credits(20)));
    assert!(till.trusts(chunk), "{till:?}");
}

/// Two sides that speak over lines of which each keeps its own order and no other.
#[test]
fn a_client_that_hangs_up_at_any_time_never_waits_for_a_debt_of_before() {
    let (client, provider, chain) = keys();
    let (chunk, me, by) = (Credits(64), provider.id(), client.id());
    struct Answer {
        /// Came to so much, of which the client has heard and promised so much, and of which so much came with it.
        sum: u64,
        promised: u64,
        paid: u64,
        on_its_way: Vec<Signed<Voucher>>,
        /// So many turns until the provider sees that nobody is there any more.
        leaving: Option<u64>,
    }
    for seed in 0..80 {
        let mut rng = Rng::new(seed);
        let (mut purse, mut till) = (Purse::default(), Till::default());
        let (mut open, mut not_delivered) = (Vec::<Answer>::new(), 0u64);
        for turn in 0..400 {
            if open.len() < 4 && rng.chance(1, 3) && till.may_begin(chunk) {
                till.begin();
                // Reading is paid by a voucher that comes before the question is begun.
                let cost = rng.below(200) + 1;
                let voucher = purse.promise(allotted(0), &client, chain, me, Credits(cost)).expect("promised");
                let paid = till.take(&chain, &me, &by, allotted(0), voucher).expect("a good voucher");
                assert!(till.read(Credits(cost), chunk, allotted(0)), "seed {seed}, turn {turn}: {till:?}");
                let paid = paid.unwrap_or_default().0;
                open.push(Answer { sum: cost, promised: cost, paid, on_its_way: Vec::new(), leaving: None });
            }
            let mut over = Vec::new();
            for (i, answer) in open.iter_mut().enumerate() {
                // The provider writes what it may; the client hears it later, and not at all once it has hung up.
                if till.may_write(chunk) {
                    let words = rng.below(chunk.0 / 2 + 1);
                    till.earn(Credits(words));
                    answer.sum += words;
                }
                if answer.leaving.is_none() && rng.chance(3, 4) {
                    let due = Credits(answer.sum - answer.promised);
                    if due > Credits::ZERO {
                        answer.on_its_way.push(purse.promise(allotted(0), &client, chain, me, due).expect("promised"));
                        answer.promised = answer.sum;
                    }
                }
                if rng.chance(1, 2) && !answer.on_its_way.is_empty() {
                    let voucher = answer.on_its_way.remove(0);
                    answer.paid +=
                        till.take(&chain, &me, &by, allotted(0), voucher).expect("good").unwrap_or_default().0;
                }
                match &mut answer.leaving {
                    None if rng.chance(1, 10) => answer.leaving = Some(rng.below(4)),
                    None => {}
                    Some(0) if answer.on_its_way.is_empty() => over.push(i),
                    Some(turns) => *turns = turns.saturating_sub(1),
                }
            }
            for i in over.into_iter().rev() {
                let answer = open.remove(i);
                not_delivered += answer.sum - answer.promised;
                till.end(Credits(answer.sum), Credits(answer.paid), chunk);
            }
            // When all that was heard is paid and has arrived, nothing keeps an answer from going on.
            if open.iter().all(|answer| answer.on_its_way.is_empty() && answer.promised == answer.sum) {
                assert!(till.may_write(chunk), "seed {seed}, turn {turn}: {till:?}");
            }
            if open.is_empty() {
                assert!(till.owed() == Credits::ZERO && till.lost() == Credits(not_delivered), "seed {seed}: {till:?}");
            }
        }
    }
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
            till.begin();
            till.earn(Credits(amount));
            done += amount;
            let voucher = purse.promise(allotted(0), &client, chain, me, Credits(amount)).expect("promised");
            if rng.chance(9, 10) {
                till.take(&chain, &me, &by, allotted(0), voucher).expect("a good voucher");
                kept = till.clone();
            } else {
                breaks += 1;
            }
            till.end(Credits(amount), Credits(amount), Credits(64));
            if rng.chance(1, 20) {
                // The provider is killed: what it kept is what counts.
                till = Till::from_bytes(&kept.to_bytes()).expect("a till").restarted();
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
fn what_was_paid_late_is_not_lost_while_others_are_open_nor_after_a_restart() {
    let (client, provider, chain) = keys();
    let (me, by) = (provider.id(), client.id());
    let chunk = Credits(64);
    let (mut purse, mut till) = (Purse::default(), Till::default());
    // A gateway that has an answer open always: vouchers come when the answers that they pay are over.
    till.begin();
    for i in 0..100 {
        till.begin();
        till.earn(chunk);
        till.end(chunk, Credits::ZERO, chunk);
        let voucher = purse.promise(allotted(0), &client, chain, me, chunk).expect("promised");
        till.take(&chain, &me, &by, allotted(0), voucher).expect("a good voucher");
        assert!(till.trusts(chunk), "after {i}: {till:?}");
    }
    let again = Till::from_bytes(&till.to_bytes()).expect("a till").restarted();
    assert_eq!((again.lost(), again.owed()), (Credits::ZERO, Credits::ZERO), "{again:?}");
    assert!(again.trusts(chunk));
}

#[test]
fn who_never_pays_is_given_two_chunks_and_no_more() {
    let (client, provider, chain) = keys();
    let chunk = Credits(64);
    let mut till = Till::default();
    let mut given = 0;
    while till.trusts(chunk) {
        till.begin();
        till.earn(chunk);
        till.end(chunk, Credits::ZERO, chunk);
        given += 1;
        assert!(given < 10);
    }
    assert_eq!(given, 3, "the third is one too many");
    // Beside each other it gets a chunk of each answer that a stranger may have open.
    let (mut till, mut given) = (Till::default(), 0);
    while till.trusts(chunk) && till.may_begin(chunk) {
        till.begin();
        till.earn(chunk);
        given += 1;
        assert!(given < 20);
    }
    assert_eq!(given, 8);
    for _ in 0..8 {
        till.end(chunk, Credits::ZERO, chunk);
    }
    assert!(!till.trusts(chunk), "and after that nothing: {till:?}");
    // Who pays for the most part may break off now and then.
    let (mut till, mut purse) = (Till::default(), Purse::default());
    for i in 0..200 {
        assert!(till.trusts(chunk), "after {i}");
        till.begin();
        till.earn(chunk);
        if i % 10 > 0 {
            let voucher = purse.promise(allotted(0), &client, chain, provider.id(), chunk).expect("promised");
            till.take(&chain, &provider.id(), &client.id(), allotted(0), voucher).expect("taken");
        }
        till.end(chunk, Credits::ZERO, chunk);
    }
}

#[test]
fn an_answer_does_not_wait_for_what_the_one_beside_it_left_unpaid() {
    let chunk = Credits(64);
    let mut till = Till::default();
    till.begin();
    till.begin();
    till.earn(Credits(40));
    till.end(Credits(38), Credits::ZERO, chunk);
    assert_eq!(till.owed(), Credits(2), "vouchers overtook each other");
    till.earn(Credits(32));
    assert!(till.may_write(chunk), "no more than half a chunk of its own is owed: {till:?}");
    till.earn(Credits(31));
    assert!(!till.may_write(chunk), "a chunk is");
    till.end(Credits(65), Credits::ZERO, chunk);
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
        till.end(Credits(60), Credits::ZERO, chunk);
        let voucher = purse.promise(allotted(0), &client, chain, provider.id(), Credits(60)).expect("promised");
        till.take(&chain, &provider.id(), &client.id(), allotted(0), voucher).expect("a good voucher");
        till.end(Credits::ZERO, Credits::ZERO, chunk);
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
