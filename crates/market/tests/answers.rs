//! One question among honest, busy, silent, dying and lying providers, from a seed: what is shown is true, in order and
//! whole or an error, is signed for, and is paid once.

mod play;

use base::{Hash, Keypair, Machine, Millis, NodeId, Outbox, Reject, Rng, Wire};
use market::{
    Finish, Frame, Offer, Piece, Price, ProviderCandidate, Reason, Receipts, Request, Session, SessionEvent,
    SessionOrder,
};
use play::{LENGTH, MODEL, ROLES, Role, Shown, ask, frames, offer, play, play_as, play_with, price, text};
use std::collections::{BTreeMap, BTreeSet};

/// What holds whatever the providers do.
fn sound(roles: &[Role], seed: u64) -> Shown {
    let shown = play(roles, seed);
    let n = shown.text.split_whitespace().count() as u64;
    assert_eq!(shown.text, text(n), "{roles:?} {seed}: words are true and in order");
    if shown.end.is_ok() {
        // A provider that ends early by "stop" cannot be told from an honest one here; by "length" it can.
        assert_eq!(n, LENGTH, "{roles:?} {seed}: no cut answer is called whole");
        assert_eq!(shown.receipts.verify(), Ok(()), "{roles:?} {seed}");
        let words: u64 = shown.receipts.0.iter().map(|part| part.value.written).sum();
        assert_eq!(words, n, "every word is signed for once");
    }
    for (provider, paid) in &shown.paid {
        let signed = shown.receipts.0.iter().find(|part| part.by == *provider).map(|part| part.value.cost);
        // Who was asked in case, and let go of before it wrote, was paid for reading, each time.
        let asked = u64::from(shown.asked[provider]) - u64::from(signed.is_some());
        let most = signed.unwrap_or_default().0 + asked * price().of(5 + LENGTH, 0).0;
        assert!(paid.0 <= most, "{roles:?} {seed}: more than was signed for");
    }
    shown
}

#[test]
fn any_mixture_with_one_honest_provider_gives_one_true_answer() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut roles: Vec<Role> = (0..5).map(|_| ROLES[rng.below(ROLES.len() as u64) as usize]).collect();
        let at = rng.below(5) as usize;
        roles[at] = Role::Honest;
        let shown = sound(&roles, seed);
        assert_eq!(shown.end, Ok(Finish::Length), "{roles:?} {seed}");
        assert!(shown.tries <= 6);
    }
}

#[test]
fn without_an_honest_one_nothing_wrong_is_called_an_answer() {
    for (i, role) in ROLES.into_iter().enumerate().filter(|(_, role)| !matches!(role, Role::Honest | Role::Slow)) {
        let shown = sound(&[role, role], i as u64);
        assert!(shown.end.is_err(), "{role:?}");
        let lie = match role {
            Role::Truncates => Some(Reject::CutOff),
            Role::Repeats | Role::Skips | Role::Forges => Some(Reject::BadSignature),
            Role::Overcounts | Role::Overwrites => Some(Reject::Overcharged),
            Role::Swaps => Some(Reject::WrongRoot),
            Role::Shrinks => Some(Reject::CutOff),
            Role::Rewords | Role::Appends => Some(Reject::WrongWork),
            _ => None,
        };
        assert_eq!(shown.lied.first().copied(), lie, "{role:?}");
    }
    assert_eq!(play(&[Role::Busy, Role::Busy], 1).end, Err(Reason::Busy(900)), "when to try again");
    assert_eq!(play(&[], 1).end, Err(Reason::Model(MODEL.into())));
}

#[test]
fn a_death_is_noticed_soon_and_a_slow_one_is_not_left_for_dead() {
    for seed in 0..50 {
        let shown = sound(&[Role::Dies(40), Role::Honest], seed);
        assert!(shown.gap_ms < 600, "a gap of {} ms", shown.gap_ms);
        // One that stuttered once is doubted again when it dies.
        let shown = sound(&[Role::Stutters, Role::Honest], seed);
        assert!(shown.gap_ms < 1200, "a gap of {} ms", shown.gap_ms);
        // A busy one beside a dead one: the third is asked at once.
        let shown = sound(&[Role::Dies(40), Role::Busy, Role::Honest], seed);
        assert!(shown.gap_ms < 700, "a gap of {} ms", shown.gap_ms);
        let slow = sound(&[Role::Slow], seed);
        assert_eq!((slow.end, slow.tries), (Ok(Finish::Length), 1));
    }
}

#[test]
fn one_that_objects_is_not_believed_alone() {
    let mut noted = 0;
    for seed in 0..20 {
        let shown = sound(&[Role::Objects, Role::Honest], seed);
        assert_eq!(shown.end, Ok(Finish::Length));
        noted += usize::from(shown.tries == 2);
        let wrong = play(&[Role::Objects, Role::Objects, Role::Honest], seed);
        let objection = matches!(wrong.end, Err(Reason::Invalid { .. }));
        assert!(wrong.end.is_ok() || objection && wrong.tries == 2);
    }
    assert!(noted > 0);
    assert!(matches!(play(&[Role::Objects], 1).end, Err(Reason::Invalid { .. })), "there is nobody else");
}

#[test]
fn two_strangers_that_object_do_not_end_a_question() {
    for seed in 0..20 {
        let shown = play_with(&[Role::Objects, Role::Objects, Role::Honest], seed, false);
        assert_eq!(shown.end, Ok(Finish::Length));
    }
    assert!(
        matches!(play_with(&[Role::Objects; 3], 1, false).end, Err(Reason::Invalid { .. })),
        "there is nobody else"
    );
}

#[test]
fn a_question_that_ends_its_provider_is_given_to_one_more_only() {
    for (seed, role) in (0..20).flat_map(|seed| [(seed, Role::Falls), (seed, Role::Sticks)]) {
        let shown = sound(&[role; 6], seed);
        assert!(matches!(shown.end, Err(Reason::Failed(_))), "{role:?}");
        assert_eq!(shown.tries, 2, "{role:?} {seed}");
        let shown = sound(&[role, Role::Honest], seed);
        assert_eq!(shown.end, Ok(Finish::Length), "{role:?} {seed}: one that ended by chance costs nothing");
    }
}

#[test]
fn strangers_cannot_end_a_question_by_ending_themselves() {
    for (seed, role) in (0..20).flat_map(|seed| [(seed, Role::Falls), (seed, Role::Sticks)]) {
        assert_eq!(
            play_with(&[role, role, role, Role::Honest], seed, false).end,
            Ok(Finish::Length),
            "{role:?} {seed}"
        );
        let shown = play_with(&[role; 6], seed, false);
        assert!(shown.end.is_err() && shown.tries == 4, "{role:?} {seed}: {} tries", shown.tries);
    }
    for (seed, known) in (0..20).flat_map(|seed| [(seed, false), (seed, true)]) {
        let shown = play_with(&[Role::Fails, Role::Fails, Role::Fails, Role::Honest], seed, known);
        assert_eq!(shown.end, Ok(Finish::Length), "who only says that it failed has not ended over it");
    }
}

#[test]
fn nobody_speaks_in_the_asking_nodes_own_voice() {
    for seed in 0..20 {
        let said = play(&[Role::Poses; 4], seed).end.expect_err("nobody answers");
        let own = said == Reason::Model(MODEL.into()) || matches!(said, Reason::Failed(_));
        assert!(own, "{said:?}");
    }
}

#[test]
fn a_question_that_waits_for_its_turn_is_not_left() {
    // Longer than an answer takes that is before it; on one's own machine as long as it takes.
    for wait_ms in [90_000, 600_000] {
        let shown = play_as(2, &[Role::Queues(wait_ms)], wait_ms, true);
        assert_eq!((shown.end, shown.tries), (Ok(Finish::Length), 1), "{wait_ms} ms at one's own");
    }
    assert_eq!(play(&[Role::Queues(110_000)], 1).end, Ok(Finish::Length), "who pays is not left before two minutes");
    assert!(play(&[Role::Queues(130_000)], 1).end.is_err(), "nobody is waited for without end");
    for seed in 0..20 {
        // Somebody else is asked beside it long before.
        let roles = [Role::Queues(90_000), Role::Honest];
        assert_eq!(play(&roles, seed).end, Ok(Finish::Length), "{seed}");
    }
}

#[test]
fn two_providers_do_not_see_that_a_question_is_of_one_user() {
    let roles = [Role::Breaks(70), Role::Breaks(20), Role::Honest];
    let owners: BTreeMap<NodeId, Hash> = (0..10).flat_map(|seed| sound(&roles, seed).owners).collect();
    let names: BTreeSet<Hash> = owners.values().copied().collect();
    assert!(owners.len() > 1 && names.len() == owners.len() && !names.contains(&Hash::default()));
}

#[test]
fn a_node_without_room_for_connections_accuses_nobody() {
    let mut session =
        Session::new(NodeId([1; 32]), Request::new(Hash::default(), offer().model, Hash::default(), ask()));
    let mut out = Outbox::default();
    session.step(Millis(0), SessionEvent::Begin, &mut out);
    let candidate =
        ProviderCandidate { provider: NodeId([2; 32]), offer: offer(), expected_ms: 1, prompt_rate: 1000, known: true };
    session.step(Millis(0), SessionEvent::Chosen(Some(candidate)), &mut out);
    session.step(Millis(1), SessionEvent::NoRoom(1), &mut out);
    session.step(Millis(1), SessionEvent::Chosen(None), &mut out);
    let orders: Vec<SessionOrder> = out.drain().collect();
    assert!(!orders.iter().any(|order| matches!(order, SessionOrder::Note(..))), "{orders:?}");
    assert!(matches!(orders.last(), Some(SessionOrder::Show(Piece::End { finish: Err(Reason::Failed(_)), .. }))));
}

/// A session that has heard 20 words of an honest provider, and what that one sends next.
fn writing() -> (Session, Outbox<SessionOrder>, impl Iterator<Item = Frame>) {
    let (client, key) = (NodeId([1; 32]), Keypair::from_secret([2; 32]));
    let mut session = Session::new(client, Request::new(Hash::default(), offer().model, Hash::default(), ask()));
    let mut out = Outbox::default();
    session.step(Millis(0), SessionEvent::Begin, &mut out);
    let candidate =
        ProviderCandidate { provider: key.id(), offer: offer(), expected_ms: 1, prompt_rate: 1000, known: true };
    session.step(Millis(0), SessionEvent::Chosen(Some(candidate)), &mut out);
    let opened =
        out.drain().find_map(|order| if let SessionOrder::Open { request, .. } = order { Some(request) } else { None });
    let frames = frames(Role::Honest, &key, client, &opened.expect("somebody is asked"));
    let mut frames = frames.into_iter().filter_map(|(_, frame)| frame);
    // Taken, read, and words.
    for frame in frames.by_ref().take(2 + 20) {
        session.step(Millis(1), SessionEvent::Frame(1, frame), &mut out);
    }
    (session, out, frames)
}

/// What a session orders that is left after 20 words and then hears `more` of them, and so many ms later that the way broke.
fn left(more: usize, later: u64) -> Vec<SessionOrder> {
    let (mut session, mut out, frames) = writing();
    session.step(Millis(2), SessionEvent::Cancel, &mut out);
    for frame in frames.take(more) {
        session.step(Millis(3), SessionEvent::Frame(1, frame), &mut out);
    }
    let late = session.deadline().is_some_and(|due| due <= Millis(3 + later));
    session.step(Millis(3 + later), if late { SessionEvent::Tick } else { SessionEvent::Lost(1) }, &mut out);
    assert_eq!(session.deadline(), None, "it is over");
    out.drain().collect()
}

#[test]
fn who_leaves_pays_what_was_on_its_way_and_no_more() {
    for (more, later, paid) in [(0, 0, 20), (30, 0, 50), (70, 0, 84), (30, 5_000, 50)] {
        let orders = left(more, later);
        let sum: u64 =
            orders.iter().map(|order| if let SessionOrder::Pay { amount, .. } = order { amount.0 } else { 0 }).sum();
        assert_eq!(sum, price().of(5, paid).0, "{more} words more, of which an honest one writes no more than 64");
        let shown = orders.iter().filter(|order| matches!(order, SessionOrder::Show(Piece::Token(_)))).count();
        assert_eq!(shown, 20, "nobody wants the rest");
        let [stop, close] = [SessionOrder::Stop { attempt: 1, begun: true }, SessionOrder::Close(1)]
            .map(|what| orders.iter().position(|order| *order == what));
        assert!(stop.is_some() && stop < close, "it is told, and then left: {orders:?}");
        assert!(matches!(orders.last(), Some(SessionOrder::Show(Piece::End { finish: Err(_), .. }))));
    }
}

#[test]
fn whose_owner_comes_back_is_paid_for_what_it_wrote() {
    let (mut session, mut out, _) = writing();
    let reason = Reason::Owner("its owner needs the machine".into());
    session.step(Millis(2), SessionEvent::Frame(1, Frame::Refused { reason }), &mut out);
    let paid = out
        .drain()
        .filter_map(|order| if let SessionOrder::Pay { amount, .. } = order { Some(amount.0) } else { None });
    assert_eq!(paid.sum::<u64>(), price().of(5, 20).0);
}

#[test]
fn who_leaves_pays_each_provider_its_own_price() {
    let (client, key) = (NodeId([1; 32]), Keypair::from_secret([2; 32]));
    let mut session = Session::new(client, Request::new(Hash::default(), offer().model, Hash::default(), ask()));
    let mut out = Outbox::default();
    let choose = |session: &mut Session, out: &mut Outbox<SessionOrder>, now, provider, price| {
        let offer = Offer { price, ..offer() };
        let candidate = ProviderCandidate { provider, offer, expected_ms: 1, prompt_rate: 1000, known: true };
        session.step(Millis(now), SessionEvent::Chosen(Some(candidate)), out);
        out.drain().find_map(|order| if let SessionOrder::Open { request, .. } = order { Some(request) } else { None })
    };
    session.step(Millis(0), SessionEvent::Begin, &mut out);
    let opened = choose(&mut session, &mut out, 0, key.id(), price()).expect("somebody is asked");
    for (_, frame) in frames(Role::Honest, &key, client, &opened).into_iter().take(2 + 20) {
        session.step(Millis(1), SessionEvent::Frame(1, frame.expect("a frame")), &mut out);
    }
    // It falls silent; one that costs nothing is asked beside it.
    let silent = session.deadline().expect("it is waited for");
    session.step(silent, SessionEvent::Tick, &mut out);
    choose(&mut session, &mut out, silent.0, NodeId([9; 32]), Price::default()).expect("another one is asked");
    session.step(silent, SessionEvent::Cancel, &mut out);
    let orders: Vec<SessionOrder> = out.drain().collect();
    assert!(
        orders.contains(&SessionOrder::Stop { attempt: 1, begun: true }) && orders.contains(&SessionOrder::Close(2)),
        "{orders:?}"
    );
    assert!(session.deadline().is_some(), "what the first had begun is waited for");
}

#[test]
fn one_flipped_bit_breaks_a_receipt() {
    let receipts = sound(&[Role::Breaks(70), Role::Honest], 3).receipts;
    let bytes = receipts.to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut wrong = bytes.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(Receipts::from_bytes(&wrong).map_or(true, |read| read.verify().is_err()), "bit {bit}");
    }
}
