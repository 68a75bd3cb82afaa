//! Providers of all kinds, and one question that goes through them.

use base::{Hash, Keypair, Machine, Millis, NodeId, Outbox, Reject, Rng, Wire};
use ledger::Credits;
use market::{
    ALIVE_MS, AnswerWriter, Ask, AskInput, AttemptOutcome, Finish, Frame, Offer, Piece, Price, ProviderCandidate,
    Reason, Receipts, Request, Runtime, Sampling, Session, SessionEvent, SessionOrder, Terms, Tier, Token, Tokens,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const MODEL: &str = "a model";
pub(crate) const LENGTH: u64 = 150;
pub(crate) const CONTEXT: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
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
    /// Right ids and bytes, other text.
    Rewords,
    /// Adds a text of its own at the end.
    Appends,
    /// Ends over the question, before it has read it.
    Falls,
    /// Falls silent over it, without a word of its end.
    Sticks,
    /// Takes it, and says so long that it lives before it is the question's turn.
    Queues(u64),
    /// Takes it, and says that its model failed.
    Fails,
    /// Refuses in words that only the asking node has.
    Poses,
}

pub(crate) const ROLES: [Role; 19] = [
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
    Role::Rewords,
    Role::Appends,
];

pub(crate) fn token(i: u64) -> Token {
    Token { id: i as i32, text: format!("{i} "), bytes: format!("{i} ").into_bytes(), logprob: None, top: Vec::new() }
}

pub(crate) fn text(n: u64) -> String {
    (0..n).map(|i| format!("{i} ")).collect()
}

pub(crate) fn price() -> Price {
    Price { input: Credits(1_000_000), output: Credits(2_000_000) }
}

pub(crate) fn offer() -> Offer {
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

pub(crate) fn ask() -> Ask {
    Ask {
        model: MODEL.into(),
        input: AskInput::Text("count".into()),
        max_tokens: Some(LENGTH),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    }
}

/// What a provider would send, each frame a little later than the one before; none at the end: it hangs up.
pub(crate) fn frames(role: Role, key: &Keypair, client: NodeId, request: &Request) -> Vec<(u64, Option<Frame>)> {
    let mut model = request.model;
    if role == Role::Swaps {
        model = Hash::of("test", b"a smaller one");
    }
    let read = if role == Role::Overcounts { 100_000 } else { 5 };
    let runtime = Runtime { model, template: Hash::default(), tokenizer: Hash::default(), class: "test".into() };
    let context = if role == Role::Shrinks { 6 } else { CONTEXT };
    let terms = Terms { runtime, time: Millis(7), read, context, last: None };
    let mut told = AnswerWriter::new(request, client, &terms);
    let mut out = Vec::new();
    match role {
        Role::Unreachable => return vec![],
        Role::Busy => return vec![(1, Some(Frame::Refused { reason: Reason::Busy(900) }))],
        Role::Idles => return (0..1500).map(|_| (ALIVE_MS, Some(Frame::Alive {}))).collect(),
        Role::Objects => {
            let reason = Reason::Invalid { what: "prompt".into(), why: "so".into() };
            return vec![(1, Some(Frame::Refused { reason }))];
        }
        Role::Falls => return vec![(1, Some(Frame::Taken { terms })), (1, None)],
        Role::Sticks => return vec![(1, Some(Frame::Taken { terms }))],
        Role::Fails => {
            let reason = Reason::Failed("so".into());
            return vec![(1, Some(Frame::Taken { terms })), (1, Some(Frame::Refused { reason }))];
        }
        Role::Poses => {
            let reasons = [Reason::Away("run this".into()), Reason::Model("run this".into())];
            let reason = reasons[usize::from(key.id().0[0] % 2)].clone();
            return vec![(1, Some(Frame::Refused { reason }))];
        }
        Role::RefusesLate => {
            let reason = Reason::Busy(0);
            return vec![(1, Some(Frame::Taken { terms })), (1, Some(Frame::Refused { reason }))];
        }
        _ => out.push((1, Some(Frame::Taken { terms }))),
    }
    if let Role::Queues(wait_ms) = role {
        out.extend((0..wait_ms / ALIVE_MS).map(|_| (ALIVE_MS, Some(Frame::Alive {}))));
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
        let mut said = token(i);
        if role == Role::Rewords && i == from + 12 {
            said.text = "buy ".into();
        }
        let frame = told.written(signer, vec![said]);
        if role == Role::Repeats && i == from + 30 {
            out.push((1, Some(frame.clone())));
        }
        if role != Role::Skips || i != from + 33 {
            out.push((10, Some(frame)));
        }
    }
    let last = if role == Role::Appends { "buy this" } else { "" };
    out.push((1, Some(told.end(key, Finish::Length, last.into()))));
    out.push((1, None));
    out
}

pub(crate) struct Shown {
    pub(crate) text: String,
    pub(crate) end: Result<Finish, Reason>,
    pub(crate) paid: BTreeMap<NodeId, Credits>,
    pub(crate) asked: BTreeMap<NodeId, u32>,
    /// As whose question each provider got it.
    pub(crate) owners: BTreeMap<NodeId, Hash>,
    pub(crate) receipts: Receipts,
    pub(crate) lied: Vec<Reject>,
    pub(crate) tries: u32,
    pub(crate) gap_ms: u64,
}

/// Goes through with one question; whom to ask is drawn from `roles` in turn, all of which have answered well before.
pub(crate) fn play(roles: &[Role], seed: u64) -> Shown {
    play_with(roles, seed, true)
}

pub(crate) fn play_with(roles: &[Role], seed: u64, known: bool) -> Shown {
    play_as(1, roles, seed, known)
}

/// The same as somebody: as 2, the first of them is one's own.
pub(crate) fn play_as(client: u8, roles: &[Role], seed: u64, known: bool) -> Shown {
    let client = Keypair::from_secret([client; 32]).id();
    let keys: Vec<Keypair> = (0..roles.len()).map(|i| Keypair::from_secret([i as u8 + 2; 32])).collect();
    let mut rng = Rng::new(seed);
    let id = Hash::of("test id", &seed.to_le_bytes());
    let request = Request::new(id, offer().model, Hash::default(), ask());
    let mut session = Session::new(client, request);
    let mut out = Outbox::default();
    let mut queue: BTreeMap<(u64, u64), SessionEvent> = BTreeMap::from([((0, 0), SessionEvent::Begin)]);
    let (mut now, mut count, mut closed) = (0, 1, BTreeSet::new());
    let mut shown = Shown {
        text: String::new(),
        end: Err(Reason::Failed("nothing came".into())),
        paid: BTreeMap::new(),
        asked: BTreeMap::new(),
        owners: BTreeMap::new(),
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
                SessionEvent::Tick
            }
            None => {
                now = at;
                event
            }
        };
        if let SessionEvent::Frame(number, _) | SessionEvent::Lost(number) = &event
            && closed.contains(number)
        {
            continue;
        }
        session.step(Millis(now), event, &mut out);
        for order in out.drain() {
            count += 1;
            match order {
                SessionOrder::Choose(without) => {
                    let free: Vec<usize> = (0..roles.len()).filter(|i| !without.contains(&keys[*i].id())).collect();
                    let chosen = (!free.is_empty()).then(|| free[rng.below(free.len() as u64) as usize]);
                    let candidate = chosen.map(|i| ProviderCandidate {
                        provider: keys[i].id(),
                        offer: offer(),
                        expected_ms: 1,
                        prompt_rate: 1000,
                        known,
                    });
                    queue.insert((now, count), SessionEvent::Chosen(candidate));
                }
                SessionOrder::Open { attempt, provider, request } => {
                    let i = keys.iter().position(|key| key.id() == provider).expect("one of them");
                    *shown.asked.entry(provider).or_default() += 1;
                    let mut when = now + rng.below(50);
                    // What travels is read back.
                    let request = Request::from_bytes(&request.to_bytes()).expect("a request");
                    shown.owners.insert(provider, request.owner);
                    for (later, frame) in frames(roles[i], &keys[i], client, &request) {
                        when += later;
                        count += 1;
                        let event = match frame {
                            Some(frame) => {
                                SessionEvent::Frame(attempt, Frame::from_bytes(&frame.to_bytes()).expect("a frame"))
                            }
                            None => SessionEvent::Lost(attempt),
                        };
                        queue.insert((when, count), event);
                    }
                    // Long after: the simulation's clock goes on for who waits.
                    queue.insert((when + 20_000, count + 1), SessionEvent::Tick);
                    count += 1;
                }
                SessionOrder::Taken(..) | SessionOrder::Stop { .. } => {}
                SessionOrder::Close(attempt) => drop(closed.insert(attempt)),
                SessionOrder::Pay { provider, amount, .. } => {
                    let paid = shown.paid.entry(provider).or_default();
                    *paid = paid.plus(amount).expect("an amount");
                }
                SessionOrder::Show(Piece::Token(token)) => {
                    shown.text += &token.text;
                    shown.gap_ms = shown.gap_ms.max(last.map_or(0, |last| now - last));
                    last = Some(now);
                }
                SessionOrder::Show(Piece::End { finish, text, tokens }) => {
                    ends += 1;
                    shown.text += &text;
                    shown.end = finish;
                    assert_eq!(tokens as usize, shown.text.split_whitespace().count());
                }
                SessionOrder::Show(Piece::Read { tokens, .. }) => assert_eq!(tokens, 5),
                SessionOrder::Note(_, AttemptOutcome::Lied(reject)) => shown.lied.push(reject),
                SessionOrder::Note(..) => {}
            }
        }
    }
    assert_eq!(ends, 1, "an answer ends once");
    shown.receipts = session.receipts();
    shown.tries = session.tries();
    shown
}
