//! Every decoder of what clients and providers say, on random and on damaged input, for a bounded time each
//! (`FUZZ_SECONDS`, default 0.3): it may refuse, it may not panic, and what it takes it writes back.

use base::{Hash, Keypair, Millis, Rng, Signed, Wire};
use ledger::{Credits, VOUCHER_DOMAIN, Voucher};
use market::{
    AnswerFormat, AnswerReader, AnswerWriter, Ask, AskInput, Finish, Frame, Message, Offer, Offers, Piece, Price,
    Purse, Reason, Receipts, Request, Runtime, Sampling, Say, Terms, Tier, Till, Token, Tokens,
};
use std::time::{Duration, Instant};

fn seconds() -> Duration {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.3);
    Duration::from_secs_f64(seconds)
}

fn damaged(sample: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..rng.below(5) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        match rng.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.next_u64() as u8),
            2 if at + 4 <= bytes.len() => bytes[at..at + 4].copy_from_slice(&(rng.next_u64() as u32).to_le_bytes()),
            3 if at + 4 <= bytes.len() => bytes[at..at + 4].fill(0xff),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            _ => {}
        }
    }
    bytes
}

/// A canonical encoding: what is taken is written back to the same bytes.
fn canonical<T: Wire>(name: &str, samples: &[T]) {
    let mut rng = Rng::new(Hash::of("fuzz", name.as_bytes()).seed());
    let (begun, mut inputs) = (Instant::now(), 0u64);
    while begun.elapsed() < seconds() {
        let sample = samples[rng.below(samples.len() as u64) as usize].to_bytes();
        assert_eq!(T::from_bytes(&sample).map(|value| value.to_bytes()), Ok(sample.clone()), "{name}");
        let bytes = match rng.chance(1, 4) {
            true => (0..rng.below(300)).map(|_| rng.next_u64() as u8).collect(),
            false => damaged(&sample, &mut rng),
        };
        if let Ok(value) = T::from_bytes(&bytes) {
            assert_eq!(value.to_bytes(), bytes, "{name}");
        }
        inputs += 1;
    }
    println!("fuzz {name}: {inputs} inputs");
    assert!(inputs > 0);
}

fn asks() -> Vec<Ask> {
    let message = Message {
        role: "user".into(),
        content: "hello".into(),
        tool_calls: Some("[]".into()),
        tool_call_id: None,
        name: Some("x".into()),
    };
    let inputs = [
        AskInput::Chat { messages: vec![message.clone(), message], tools: Some("[]".into()) },
        AskInput::Text("once".into()),
        AskInput::Tokens(vec![1, -1, 70_000]),
    ];
    let sampling = Sampling {
        logit_bias: vec![(5, -100.0)],
        format: AnswerFormat::Schema("{}".into()),
        temperature: 0.5,
        ..Sampling::default()
    };
    let ask = |input| Ask {
        model: "m".into(),
        input,
        max_tokens: Some(9),
        sampling: sampling.clone(),
        stop: vec!["a".into()],
        logprobs: Some(3),
        echo: true,
    };
    inputs.into_iter().map(ask).collect()
}

fn token() -> Token {
    Token { id: 7, text: "a".into(), bytes: vec![97], logprob: Some(-0.5), top: vec![(vec![98], -1.5)] }
}

fn terms(request: &Request) -> Terms {
    let runtime =
        Runtime { model: request.model, template: Hash::default(), tokenizer: Hash::default(), class: "test".into() };
    let voucher =
        Voucher { chain: Hash::default(), payee: Keypair::from_secret([2; 32]).id(), serial: 1, total: Credits(9) };
    let last = Some(Signed::new(VOUCHER_DOMAIN, &Keypair::from_secret([1; 32]), voucher));
    Terms { runtime, time: Millis(1), read: 3, context: 100, last }
}

fn request(ask: Ask) -> Request {
    Request { written: vec![1, 2], ..Request::new(Hash::of("id", b""), Hash::of("model", b""), Hash::default(), ask) }
}

/// An answer as an honest provider tells it.
fn frames(request: &Request) -> Vec<Frame> {
    let (key, client) = (Keypair::from_secret([2; 32]), Keypair::from_secret([1; 32]).id());
    let terms = terms(request);
    let mut told = AnswerWriter::new(request, client, &terms);
    vec![
        Frame::Taken { terms },
        Frame::Alive {},
        Frame::Read { cached: 1, echo: Tokens(vec![token(); 2]) },
        Frame::Read { cached: 1, echo: Tokens(vec![token(); 3]) },
        told.written(&key, vec![token(), token()]),
        told.written(&key, vec![token()]),
        told.end(&key, Finish::Stop, "rest".into()),
    ]
}

fn reasons() -> Vec<Reason> {
    let (what, why) = ("a".to_owned(), "b".to_owned());
    vec![
        Reason::Model(what.clone()),
        Reason::Busy(5),
        Reason::TooLong { asked: 7, max: 5 },
        Reason::Unsupported { what: what.clone(), why: why.clone() },
        Reason::Invalid { what: what.clone(), why },
        Reason::Failed(what.clone()),
        Reason::Price,
        Reason::Unpaid(what.clone()),
        Reason::Owner(what.clone()),
        Reason::Away(what),
    ]
}

#[test]
fn decoders_take_what_they_write_and_nothing_else() {
    let requests: Vec<Request> = asks().into_iter().map(request).collect();
    let voucher = terms(&requests[0]).last.expect("one");
    let mut says: Vec<Say> = requests.iter().cloned().map(|request| Say::Ask { request }).collect();
    says.push(Say::Pay { voucher });
    canonical("say", &says);
    let mut all: Vec<Frame> = requests.iter().flat_map(frames).collect();
    all.extend(reasons().into_iter().map(|reason| Frame::Refused { reason }));
    canonical("frame", &all);
    let offer = Offer {
        chain: Hash::default(),
        model: Hash::default(),
        name: "m".into(),
        quantisation: "Q8_0".into(),
        context: 5,
        tools: true,
        price: Price { input: Credits(1), output: Credits(2) },
        tier: Tier::Open,
        slots: 2,
        prompt_rate: 5,
        decode_rate: 7,
        since: Millis(1),
        until: Millis(2),
    };
    canonical("offers", &[Offers(vec![offer.clone(), offer]), Offers::default()]);
    canonical("purse", &[Purse::default()]);
    canonical("till", &[Till::default()]);
    let mut hearing = AnswerReader::new(
        Keypair::from_secret([2; 32]).id(),
        Keypair::from_secret([1; 32]).id(),
        requests[1].clone(),
        100,
    );
    for frame in frames(&requests[1]) {
        hearing.take(frame).expect("an honest provider is heard");
    }
    canonical("receipts", &[Receipts(vec![hearing.receipt().cloned().expect("signed")])]);
}

#[test]
fn a_frame_tells_the_length_of_its_words_in_steps_only() {
    let request = request(asks().swap_remove(1));
    let (key, client) = (Keypair::from_secret([2; 32]), Keypair::from_secret([1; 32]).id());
    let mut told = AnswerWriter::new(&request, client, &terms(&request));
    let mut length = |text: &str| {
        told.written(&key, vec![Token { text: text.into(), bytes: text.into(), ..token() }]).to_bytes().len()
    };
    assert_eq!((length("a"), length("a somewhat longer word")), (256, 256));
    assert_eq!(Frame::Alive {}.to_bytes().len(), 256);
    let mut bytes = Frame::Alive {}.to_bytes();
    bytes[200] = 1;
    assert!(Frame::from_bytes(&bytes).is_err(), "zeros only: one frame, one encoding");
}

#[test]
fn a_long_context_with_alternatives_is_read_in_frames_that_travel() {
    let top = (0..20).map(|i| (vec![b'x'; 8 + i], -0.5)).collect();
    let one = Token { top, ..token() };
    let count = 40_000;
    let ask = Ask { input: AskInput::Tokens(vec![7; count]), logprobs: Some(20), ..asks().swap_remove(2) };
    let request = Request::new(Hash::of("id", b""), Hash::of("model", b""), Hash::default(), ask);
    let client = Keypair::from_secret([1; 32]).id();
    let terms = Terms { read: count as u64, context: 1 << 16, ..terms(&request) };
    let frames = AnswerWriter::new(&request, client, &terms).read(0, vec![one; count]);
    let mut hearing = AnswerReader::new(Keypair::from_secret([2; 32]).id(), client, request, 1 << 16);
    hearing.take(Frame::Taken { terms }).expect("taken");
    let mut read = 0;
    for frame in frames {
        let bytes = frame.to_bytes();
        assert!(bytes.len() <= market::FRAME_MAX / 4);
        let frame = Frame::from_bytes(&bytes).expect("a frame");
        let Ok(market::Received::Pieces(pieces)) = hearing.take(frame) else { panic!("an honest one is heard") };
        read +=
            pieces.iter().map(|piece| if let Piece::Read { echo, .. } = piece { echo.len() } else { 0 }).sum::<usize>();
    }
    assert_eq!(read, count);
}

#[test]
fn a_reason_of_a_peer_is_short_and_printable() {
    let long = format!("line\n\u{202e}{}", "word ".repeat(200));
    let bytes = Frame::Refused { reason: Reason::Failed(long) }.to_bytes();
    let Ok(Frame::Refused { reason: Reason::Failed(text) }) = Frame::from_bytes(&bytes) else { panic!("a reason") };
    assert!(text.starts_with("lineword ") && text.len() <= 256 && !text.contains(char::is_control), "{text}");
    let raw = Frame::Refused { reason: Reason::Failed("abc".into()) }.to_bytes();
    let raw: Vec<u8> = raw.into_iter().map(|byte| if byte == b'b' { b'\n' } else { byte }).collect();
    assert!(Frame::from_bytes(&raw).is_err());
}

/// Damaged, doubled, left-out and shuffled frames: nothing that was not signed in this order is ever shown.
#[test]
fn a_hearing_believes_only_what_was_signed_in_order() {
    let mut rng = Rng::new(11);
    let request = request(asks().swap_remove(1));
    let honest = frames(&request);
    let (provider, client) = (Keypair::from_secret([2; 32]).id(), Keypair::from_secret([1; 32]).id());
    let begun = Instant::now();
    while begun.elapsed() < seconds() {
        let mut hearing = AnswerReader::new(provider, client, request.clone(), 100);
        let mut words = Vec::new();
        for _ in 0..honest.len() + 2 {
            let bytes = honest[rng.below(honest.len() as u64) as usize].to_bytes();
            let bytes = if rng.chance(1, 2) { bytes } else { damaged(&bytes, &mut rng) };
            let Ok(frame) = Frame::from_bytes(&bytes) else { continue };
            match hearing.take(frame) {
                Ok(market::Received::Pieces(pieces)) => {
                    words.extend(pieces.into_iter().filter_map(|piece| match piece {
                        Piece::Token(token) => Some(token.text),
                        _ => None,
                    }))
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        assert!(words.len() <= 3 && words.iter().all(|word| word == "a"), "{words:?}");
    }
}
