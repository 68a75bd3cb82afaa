//! Whom to ask: offers that lie, providers that fail, Sybils.

use base::{Hash, Millis, NodeId, Reject, Rng};
use ledger::Credits;
use market::{AttemptOutcome, Index, Need, OFFER_MS, Offer, Price, Tier};
use std::collections::BTreeSet;

fn node(i: u64) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&i.to_le_bytes());
    NodeId(id)
}

fn offer(until: Millis) -> Offer {
    Offer {
        chain: Hash::default(),
        model: Hash::of("test", b"a model"),
        name: "a model".into(),
        quantisation: "Q8_0".into(),
        context: 4096,
        tools: true,
        price: Price::default(),
        tier: Tier::Open,
        slots: 4,
        prompt_rate: 1000,
        decode_rate: 50,
        since: Millis(0),
        until,
    }
}

fn need() -> Need {
    let price = Price { input: Credits(5), output: Credits(5) };
    Need { model: offer(Millis(0)).model, context: 1000, read: 100, written: 100, price, knows: None }
}

#[test]
fn offers_are_checked_expire_and_are_filtered() {
    let (mut index, mut rng, now) = (Index::default(), Rng::new(1), Millis(1_000));
    let good = offer(now.plus(OFFER_MS));
    let absurd = [
        (Offer { until: now, ..good.clone() }, Reject::Expired),
        (Offer { until: now.plus(OFFER_MS * 10), ..good.clone() }, Reject::Expired),
        (Offer { decode_rate: u32::MAX, ..good.clone() }, Reject::WrongWork),
        (Offer { context: 0, ..good.clone() }, Reject::WrongWork),
        (Offer { name: "a\nb".into(), ..good.clone() }, Reject::Malformed),
        (Offer { name: "llama@0123456789ab".into(), ..good.clone() }, Reject::Malformed),
        (Offer { slots: 0, ..good.clone() }, Reject::BadAmount),
        (Offer { price: Price { input: Credits(u64::MAX), ..Price::default() }, ..good.clone() }, Reject::BadAmount),
    ];
    for (wrong, reject) in absurd {
        assert_eq!(index.offer(now, node(9), vec![wrong], 0), Err(reject));
    }
    assert_eq!(index.refused().total(), 8);
    let dear = Offer { price: Price { input: Credits(9), output: Credits(0) }, ..good.clone() };
    let short = Offer { context: 500, ..good.clone() };
    for (i, offer) in [good.clone(), dear, short].into_iter().enumerate() {
        index.offer(now, node(i as u64), vec![offer], 0).expect("taken");
    }
    let chosen = index.choose(now, &need(), &[], &mut rng);
    assert_eq!(
        chosen.iter().map(|c| c.provider).collect::<Vec<_>>(),
        [node(0)],
        "the others are too dear or too short"
    );
    assert!(index.choose(now, &need(), &[node(0)], &mut rng).is_empty());
    assert!(index.choose(now.plus(OFFER_MS), &need(), &[], &mut rng).is_empty(), "silence expires");
    assert_eq!(index.models().count(), 0);
    index.offer(now, node(0), vec![good], 0).expect("taken");
    index.offer(now, node(0), vec![], 0).expect("it serves nothing any more");
    assert!(index.choose(now, &need(), &[], &mut rng).is_empty());
}

#[test]
fn digits_of_a_hash_name_all_that_claim_them() {
    let (mut index, now) = (Index::default(), Millis(1_000));
    let mut same = offer(now.plus(OFFER_MS));
    index.offer(now, node(0), vec![same.clone()], 0).expect("taken");
    let first = same.model;
    let digits = &first.to_string()[..12];
    assert_eq!(index.named_at(&same.name, digits), [first]);
    // A claim costs nothing: no weight decides between two that begin alike.
    same.model.0[31] ^= 1;
    (1..9).for_each(|i| index.offer(now, node(i), vec![same.clone()], 100).expect("taken"));
    assert_eq!(index.named_at(&same.name, digits).len(), 2);
    assert_eq!(index.named_at(&same.name, &first.to_string()), [first]);
    assert_eq!(index.named_at("another", digits), []);
    for none in
        ["", &digits[..7], "0000000g", &digits.to_uppercase().replace(char::is_numeric, "A"), &format!("{first}0")]
    {
        assert_eq!(index.named_at(&same.name, none), [], "{none}");
    }
    // Every beginning leads there, of odd length, too.
    for n in 8..=64 {
        assert!(index.named_at(&same.name, &first.to_string()[..n]).contains(&first), "{n}");
    }
}

#[test]
fn who_failed_is_left_alone_for_a_while_and_who_is_quick_is_preferred() {
    let (mut index, mut rng, now) = (Index::default(), Rng::new(1), Millis(1_000));
    for i in 0..2 {
        index.offer(now, node(i), vec![offer(now.plus(OFFER_MS))], 0).expect("taken");
    }
    index.note(now, &node(0), AttemptOutcome::Failed);
    assert_eq!(index.choose(now, &need(), &[], &mut rng).len(), 1);
    assert_eq!(index.choose(now.plus(60_000), &need(), &[], &mut rng).len(), 2, "it may be back");
    let did = |first_ms, rest_ms| AttemptOutcome::Answered { first_ms, read: 100, rest_ms, written: 100 };
    index.note(now, &node(0), did(10, 500));
    index.note(now, &node(1), did(500, 9_000));
    let firsts = (0..100).filter(|_| index.choose(now, &need(), &[], &mut rng)[0].provider == node(0)).count();
    assert!(firsts >= 85, "{firsts}");
    index.note(now, &node(0), AttemptOutcome::Lied(Reject::BadSignature));
    assert_eq!(index.choose(now, &need(), &[], &mut rng)[0].provider, node(1));
}

#[test]
fn who_is_alive_is_found_among_those_that_were_killed() {
    let (mut index, mut rng, mut now) = (Index::default(), Rng::new(4), Millis(1_000));
    let did = AttemptOutcome::Answered { first_ms: 10, read: 30, rest_ms: 100, written: 90 };
    let mut alive = [0, 1];
    for i in alive {
        index.offer(now, node(i), vec![Offer { since: now, ..offer(now.plus(OFFER_MS)) }], 0).expect("taken");
    }
    for next in 2..200 {
        let writes = (next % 2) as usize;
        index.note(now, &node(alive[writes]), did);
        // It is killed; the other one has to be found at once.
        let need = Need { knows: Some(node(alive[writes])), ..need() };
        let chosen = index.choose(now, &need, &[node(alive[writes])], &mut rng);
        assert_eq!(chosen[0].provider, node(alive[1 - writes]), "after {next}");
        index.note(now, &node(alive[writes]), AttemptOutcome::Failed);
        alive[writes] = next;
        now = now.plus(5_000);
        // Now and then one of great weight is among them.
        let bond = if next % 5 == 0 { 1_000 } else { 0 };
        index.offer(now, node(next), vec![Offer { since: now, ..offer(now.plus(OFFER_MS)) }], bond).expect("taken");
        // Whoever lives says so again.
        if next % 9 == 0 {
            for i in alive {
                let said = Offer { since: Millis(0), ..offer(now.plus(OFFER_MS)) };
                index.offer(now, node(i), vec![said], 100).expect("taken");
            }
        }
    }
}

/// Of `all` offers nine in ten are Sybils, which never answer; attempts per question over a thousand questions.
#[test]
fn who_is_gone_is_asked_after_all_others() {
    let (mut index, mut rng, mut now) = (Index::default(), Rng::new(4), Millis(1_000));
    // Eight that were killed a moment ago, and one that came since: all of them say the same.
    for i in 0..9 {
        index.offer(now, node(i), vec![offer(now.plus(OFFER_MS))], 0).expect("taken");
    }
    for i in 0..8 {
        index.note(now, &node(i), AttemptOutcome::Failed);
        index.note(now, &node(i), AttemptOutcome::Failed);
    }
    now = now.plus(30_000);
    // A minute later as in the first moment: they have said nothing new.
    let alive = (0..100).filter(|_| index.choose(now, &need(), &[], &mut rng)[0].provider == node(8)).count();
    assert!(alive == 100, "{alive} of 100");
    // But rather than nobody; and nobody at all who failed in this moment, so that who asks is told so at once.
    index.note(now, &node(8), AttemptOutcome::Lied(Reject::BadSignature));
    assert_eq!(index.choose(now, &need(), &[], &mut rng).len(), 2);
    for i in 0..8 {
        index.note(now, &node(i), AttemptOutcome::Failed);
    }
    assert!(index.choose(now, &need(), &[], &mut rng).is_empty());
}

fn attempts(all: u64, bond: impl Fn(bool) -> u64, seed: u64) -> f64 {
    let (mut index, mut rng) = (Index::default(), Rng::new(seed));
    let sybil = |provider: &NodeId| !provider.0[0].is_multiple_of(10);
    let mut now = Millis(1_000);
    for i in 0..all {
        let provider = node(i * 256 + i % 10);
        let honest = !sybil(&provider);
        // They promise more than anybody.
        let decode_rate = if honest { 30 } else { 5_000 };
        let offer = Offer { decode_rate, ..offer(now.plus(OFFER_MS)) };
        index.offer(now, provider, vec![offer], bond(honest)).expect("taken");
    }
    let mut tries = 0;
    let questions = 1000;
    for _ in 0..questions {
        now = now.plus(50);
        let mut without = Vec::new();
        while let Some(first) = index.choose(now, &need(), &without, &mut rng).into_iter().next() {
            tries += 1;
            let outcome = if sybil(&first.provider) {
                AttemptOutcome::Failed
            } else if rng.chance(1, 50) {
                // They serve others, too.
                AttemptOutcome::Busy { again_ms: 500 }
            } else {
                AttemptOutcome::Answered { first_ms: 90, read: 100, rest_ms: 3_000, written: 100 }
            };
            index.note(now, &first.provider, outcome);
            if matches!(outcome, AttemptOutcome::Answered { .. }) {
                break;
            }
            without.push(first.provider);
        }
    }
    f64::from(tries) / f64::from(questions)
}

#[test]
fn sybils_cost_little() {
    for seed in 0..5 {
        let alone = attempts(2_000, |_| 0, seed);
        assert!(alone <= 1.5, "{alone} attempts by own history alone");
        let bonded = attempts(2_000, |honest| if honest { 100 } else { 1 }, seed);
        assert!(bonded <= 1.3, "{bonded} attempts where a bond counts");
    }
}

#[test]
fn providers_are_found_however_offers_come_and_go() {
    let (mut index, mut rng) = (Index::default(), Rng::new(7));
    let mut there = BTreeSet::new();
    for step in 0..5_000u64 {
        let (now, i) = (Millis(step), rng.below(64));
        let gone = rng.chance(1, 3);
        let offers = if gone { vec![] } else { vec![offer(now.plus(OFFER_MS))] };
        index.offer(now, node(i), offers, rng.below(5)).expect("taken");
        if gone {
            there.remove(&node(i))
        } else {
            there.insert(node(i))
        };
        let found: BTreeSet<NodeId> = index.providers(&need().model).map(|(provider, _)| *provider).collect();
        assert_eq!(found, there);
        let chosen = index.choose(now, &need(), &[], &mut rng);
        assert_eq!(chosen.len(), there.len().min(2), "step {step}");
        assert!(chosen.iter().all(|candidate| there.contains(&candidate.provider)));
    }
}

#[test]
fn a_flood_of_strangers_keeps_no_newcomer_out_and_nobody_that_is_known() {
    let (mut index, now) = (Index::default(), Millis(1_000));
    let add = |index: &mut Index, i: u64, late: u64, bond: u64| {
        index.offer(now, node(i), vec![offer(now.plus(OFFER_MS - 1_000 + late))], bond)
    };
    add(&mut index, 0, 0, 0).expect("a provider that answered well");
    index.note(now, &node(0), AttemptOutcome::Answered { first_ms: 10, read: 100, rest_ms: 500, written: 100 });
    add(&mut index, 1, 0, 5).expect("one with a bond");
    for i in 2..20_000 {
        add(&mut index, i, i % 1_000, 0).expect("strangers make room for each other");
    }
    add(&mut index, 20_000, 900, 0).expect("an honest newcomer");
    add(&mut index, 20_001, 900, 7).expect("and one with a bond");
    let model = offer(now).model;
    let there: BTreeSet<NodeId> = index.providers(&model).map(|(provider, _)| *provider).collect();
    assert!([0, 1, 20_000, 20_001].iter().all(|i| there.contains(&node(*i))));
    assert!(there.len() < 17_000, "it stays bounded: {}", there.len());
}

#[test]
fn a_stranger_is_not_tried_with_a_long_question_that_is_paid() {
    let (mut index, mut rng, now) = (Index::default(), Rng::new(3), Millis(1_000));
    for i in 0..50 {
        index.offer(now, node(i), vec![offer(now.plus(OFFER_MS))], 0).expect("taken");
    }
    index.note(now, &node(0), AttemptOutcome::Answered { first_ms: 10, read: 100, rest_ms: 500, written: 100 });
    let mut strangers =
        |need: &Need| (0..200).filter(|_| index.choose(now, need, &[], &mut rng)[0].provider != node(0)).count();
    assert!(strangers(&need()) > 0, "a short one finds out who is good");
    assert_eq!(strangers(&Need { read: 900, ..need() }), 0);
    assert!(strangers(&Need { read: 900, price: Price::default(), ..need() }) > 0, "so does one that costs nothing");
}
