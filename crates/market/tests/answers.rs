//! One question among honest, busy, silent, dying and lying providers, from a seed: what is shown is true, in order and
//! whole or an error, is signed for, and is paid once.

use base::{Hash, Keypair, Machine, Millis, NodeId, Outbox, Reject, Rng, Wire};
use ledger::Credits;
use market::{
    ALIVE_MS, Ask, Candidate, Event, Finish, Frame, Input, Offer, Order, Outcome, Piece, Price, Reason, Receipts,
    Request, Runtime, Sampling, Session, Telling, Terms, Tier, Token, Tokens,
};
use std::collections::{BTreeMap, BTreeSet};

const MODEL: &str = "a model";
const LENGTH: u64 = 150;
const CONTEXT: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Honest,
    Busy,
    Unreachable,
    /// Dies after so many tokens, without a word.
    Dies(u64),
    /// The connection breaks after so many.
    Breaks(u64),
    /// Says that it is done too early.
    Truncates,
    /// Sends one frame twice.
    Repeats,
    /// Leaves one out.
    Skips,
    /// Signs with another key.
    Forges,
    /// Claims to have read more than there was.
    Overcounts,
    /// Serves other weights.
    Swaps,
    /// Writes more than was asked for.
    Overwrites,
    /// Alive, but writes nothing for a long time.
    Slow,
    /// Says that it lives, and nothing else.
    Idles,
    /// Takes the question, and the fee, and says that it is busy.
    RefusesLate,
    /// Says that its model takes less than it offered.
    Shrinks,
    /// Says that the question is wrong.
    Objects,
    /// Is silent for a moment, goes on, and dies later.
    Stutters,
}

const ROLES: [Role; 17] = [
    Role::Honest,
    Role::Busy,
    Role::Unreachable,
    Role::Dies(40),
    Role::Breaks(70),
    Role::Truncates,
    Role::Repeats,
    Role::Skips,
    Role::Forges,
    Role::Overcounts,
    Role::Swaps,
    Role::Overwrites,
    Role::Slow,
    Role::Idles,
    Role::RefusesLate,
    Role::Shrinks,
    Role::Stutters,
];

fn token(i: u64) -> Token {
    Token { id: i as i32, text: format!("{i} "), bytes: format!("{i} ").into_bytes(), logprob: None, top: Vec::new() }
}

fn text(n: u64) -> String {
    (0..n).map(|i| format!("{i} ")).collect()
}

fn price() -> Price {
    Price { input: Credits(1_000_000), output: Credits(2_000_000) }
}

fn offer() -> Offer {
    Offer {
        chain: Hash::default(),
        model: Hash::of("test", MODEL.as_bytes()),
        name: MODEL.into(),
        quantisation: "F32".into(),
        context: CONTEXT as u32,
        tools: false,
        price: price(),
        tier: Tier::Open,
        slots: 1,
        prompt_rate: 1000,
        decode_rate: 100,
        since: Millis(1),
        until: Millis(100_000),
    }
}

fn ask() -> Ask {
    Ask {
        model: MODEL.into(),
        input: Input::Text("count".into()),
        max_tokens: Some(LENGTH),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    }
}

/// What a provider would send, each frame a little later than the one before; none at the end: it hangs up.
fn frames(role: Role, key: &Keypair, client: NodeId, request: &Request) -> Vec<(u64, Option<Frame>)> {
    let mut model = request.model;
    if role == Role::Swaps {
        model = Hash::of("test", b"a smaller one");
    }
    let read = if role == Role::Overcounts { 100_000 } else { 5 };
    let runtime = Runtime { model, template: Hash::default(), tokenizer: Hash::default(), class: "test".into() };
    let context = if role == Role::Shrinks { 6 } else { CONTEXT };
    let terms = Terms { runtime, time: Millis(7), read, context, last: None };
    let mut told = Telling::new(request, client, &terms);
    let mut out = Vec::new();
    match role {
        Role::Unreachable => return vec![],
        Role::Busy => return vec![(1, Some(Frame::Refused { reason: Reason::Busy(900) }))],
        Role::Idles => return (0..1500).map(|_| (ALIVE_MS, Some(Frame::Alive {}))).collect(),
        Role::Objects => {
            let reason = Reason::Invalid { what: "prompt".into(), why: "so".into() };
            return vec![(1, Some(Frame::Refused { reason }))];
        }
        Role::RefusesLate => {
            let reason = Reason::Busy(0);
            return vec![(1, Some(Frame::Taken { terms })), (1, Some(Frame::Refused { reason }))];
        }
        _ => out.push((1, Some(Frame::Taken { terms }))),
    }
    out.push((5, Some(Frame::Read { cached: 0, echo: Tokens::default() })));
    if role == Role::Slow {
        out.extend((0..20).map(|_| (ALIVE_MS, Some(Frame::Alive {}))));
    }
    let other = Keypair::from_secret([99; 32]);
    let end = if role == Role::Overwrites { LENGTH + 1 } else { LENGTH };
    let from = request.written.len() as u64;
    for i in from..end {
        match role {
            Role::Dies(at) if i >= at => return out,
            Role::Breaks(at) if i >= at => {
                out.push((1, None));
                return out;
            }
            Role::Truncates if i == from + 20 => break,
            Role::Stutters if i == from + 10 => out.push((600, Some(Frame::Alive {}))),
            Role::Stutters if i == from + 60 => return out,
            _ => {}
        }
        let signer = if role == Role::Forges && i >= from + 9 { &other } else { key };
        let frame = told.written(signer, vec![token(i)]);
        if role == Role::Repeats && i == from + 30 {
            out.push((1, Some(frame.clone())));
        }
        if role != Role::Skips || i != from + 33 {
            out.push((10, Some(frame)));
        }
    }
    out.push((1, Some(told.end(key, Finish::Length, String::new()))));
    out.push((1, None));
    out
}

struct Shown {
    text: String,
    end: Result<Finish, Reason>,
    paid: BTreeMap<NodeId, Credits>,
    asked: BTreeMap<NodeId, u32>,
    receipts: Receipts,
    lied: Vec<Reject>,
    tries: u32,
    gap_ms: u64,
}

/// Goes through with one question; whom to ask is drawn from `roles` in turn.
fn play(roles: &[Role], seed: u64) -> Shown {
    let client = Keypair::from_secret([1; 32]).id();
    let keys: Vec<Keypair> = (0..roles.len()).map(|i| Keypair::from_secret([i as u8 + 2; 32])).collect();
    let mut rng = Rng::new(seed);
    let id = Hash::of("test id", &seed.to_le_bytes());
    let request = Request::new(id, offer().model, Hash::default(), ask());
    let mut session = Session::new(client, request);
    let mut out = Outbox::default();
    let mut queue: BTreeMap<(u64, u64), Event> = BTreeMap::from([((0, 0), Event::Begin)]);
    let (mut now, mut count, mut closed) = (0, 1, BTreeSet::new());
    let mut shown = Shown {
        text: String::new(),
        end: Err(Reason::Failed("nothing came".into())),
        paid: BTreeMap::new(),
        asked: BTreeMap::new(),
        receipts: Receipts(Vec::new()),
        lied: Vec::new(),
        tries: 0,
        gap_ms: 0,
    };
    let (mut ends, mut last) = (0, None);
    while let Some(((at, n), event)) = queue.pop_first() {
        let due = session.deadline().filter(|due| due.0 < at).map(|due| due.0.max(now));
        let event = match due {
            Some(due) => {
                queue.insert((at, n), event);
                now = due;
                Event::Tick
            }
            None => {
                now = at;
                event
            }
        };
        if let Event::Frame(number, _) | Event::Lost(number) = &event
            && closed.contains(number)
        {
            continue;
        }
        session.step(Millis(now), event, &mut out);
        for order in out.drain() {
            count += 1;
            match order {
                Order::Choose(without) => {
                    let free: Vec<usize> = (0..roles.len()).filter(|i| !without.contains(&keys[*i].id())).collect();
                    let chosen = (!free.is_empty()).then(|| free[rng.below(free.len() as u64) as usize]);
                    let candidate =
                        chosen.map(|i| Candidate { provider: keys[i].id(), offer: offer(), expected_ms: 1 });
                    queue.insert((now, count), Event::Chosen(candidate));
                }
                Order::Open { attempt, provider, request } => {
                    let i = keys.iter().position(|key| key.id() == provider).expect("one of them");
                    *shown.asked.entry(provider).or_default() += 1;
                    let mut when = now + rng.below(50);
                    // What travels is read back.
                    let request = Request::from_bytes(&request.to_bytes()).expect("a request");
                    for (later, frame) in frames(roles[i], &keys[i], client, &request) {
                        when += later;
                        count += 1;
                        let event = match frame {
                            Some(frame) => {
                                Event::Frame(attempt, Frame::from_bytes(&frame.to_bytes()).expect("a frame"))
                            }
                            None => Event::Lost(attempt),
                        };
                        queue.insert((when, count), event);
                    }
                    // Long after: the simulation's clock goes on for who waits.
                    queue.insert((when + 20_000, count + 1), Event::Tick);
                    count += 1;
                }
                Order::Taken(..) => {}
                Order::Close(attempt) => drop(closed.insert(attempt)),
                Order::Pay { provider, amount, .. } => {
                    let paid = shown.paid.entry(provider).or_default();
                    *paid = paid.plus(amount).expect("an amount");
                }
                Order::Show(Piece::Token(token)) => {
                    shown.text += &token.text;
                    shown.gap_ms = shown.gap_ms.max(last.map_or(0, |last| now - last));
                    last = Some(now);
                }
                Order::Show(Piece::End { finish, text, tokens }) => {
                    ends += 1;
                    shown.text += &text;
                    shown.end = finish;
                    assert_eq!(tokens as usize, shown.text.split_whitespace().count());
                }
                Order::Show(Piece::Read { tokens, .. }) => assert_eq!(tokens, 5),
                Order::Note(_, Outcome::Lied(reject)) => shown.lied.push(reject),
                Order::Note(..) => {}
            }
        }
    }
    assert_eq!(ends, 1, "an answer ends once");
    shown.receipts = session.receipts();
    shown.tries = session.tries();
    shown
}

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
fn one_flipped_bit_breaks_a_receipt() {
    let receipts = sound(&[Role::Breaks(70), Role::Honest], 3).receipts;
    let bytes = receipts.to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut wrong = bytes.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(Receipts::from_bytes(&wrong).map_or(true, |read| read.verify().is_err()), "bit {bit}");
    }
}
