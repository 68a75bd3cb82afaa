//! Asking over the network: what it costs beside the engine itself, choosing among ten thousand, and what others learn.

mod canaries;
mod delays;

use crate::serve::written;
use crate::{Bar, Book, Measured};
use anyhow::Result;
use base::{Hash, Machine, Millis, NodeId, Outbox, Rng};
use engine::{Engine, EngineConfig};
use market::{
    Ask, AskInput, AttemptOutcome, Index, Need, OFFER_MS, Offer, Piece, Price, Request, Sampling, Session,
    SessionEvent, SessionOrder, Tier,
};
use serving::Served;
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

const PROVIDERS: u64 = 10_000;
const QUESTIONS: u64 = 5_000;
/// Questions of a newcomer, who has no history yet.
const NEW: usize = 100;

pub(crate) fn measure(book: &mut Book) -> Result<()> {
    let Routed { mut times, tries, answered } = routing(PROVIDERS, QUESTIONS);
    let p99 = ninety_ninth(&mut times);
    let how = format!(
        "{PROVIDERS} providers, nine in ten never answer, {QUESTIONS} questions at 500/s while each offer is renewed every 30 s; one \
         decision: the choice alone, without network, lock and gossip"
    );
    book.add("quick", "serve.routing.p99", (Measured::out_of(p99, &times), "ms"), Bar::Most(5.0), "<= 0.5", &how);
    let mean = |some: &[u32]| some.iter().map(|tries| f64::from(*tries)).sum::<f64>() / some.len().max(1) as f64;
    let percent = |some: &[bool]| 100.0 * some.iter().filter(|yes| **yes).count() as f64 / some.len().max(1) as f64;
    let how = format!(
        "the same {QUESTIONS} questions, nobody bonded: providers asked for each, those that end without an answer too, by own history \
         alone and under the session's own limit of tries; of the first {NEW} questions of the newcomer {:.2}",
        mean(&tries[..NEW.min(tries.len())])
    );
    book.add("quick", "serve.sybil.attempts", (mean(&tries), "per question"), Bar::Most(1.5), "<= 1.2", &how);
    let how = format!(
        "the same questions that were answered at all; of the first {NEW} of the newcomer {:.0} %",
        percent(&answered[..NEW.min(answered.len())])
    );
    book.add("quick", "serve.sybil.answered", (percent(&answered), "%"), Bar::Least(99.0), "100", &how);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(delays::firsts(book))?;
    runtime.block_on(delays::cancels(book))?;
    runtime.block_on(canaries::measure(book))
}

fn offer(until: Millis, decode_rate: u32) -> Offer {
    Offer {
        chain: Hash::default(),
        model: Hash::default(),
        name: "a model".into(),
        quantisation: "Q8_0".into(),
        context: 4096,
        tools: true,
        price: Price::default(),
        tier: Tier::Open,
        slots: 4,
        prompt_rate: 1000,
        decode_rate,
        since: Millis(0),
        until,
    }
}

fn provider(i: u64) -> NodeId {
    NodeId(Hash::of("figure", &i.to_le_bytes()).0)
}

/// What came of some questions.
struct Routed {
    /// Milliseconds of each decision.
    times: Vec<f64>,
    /// Providers asked for each question.
    tries: Vec<u32>,
    /// Whether it was answered.
    answered: Vec<bool>,
}

/// One client's questions, one after the other, where nine in ten providers never answer.
fn routing(providers: u64, questions: u64) -> Routed {
    let (mut index, mut rng) = (Index::default(), Rng::new(7));
    let sybil = |i: u64| !i.is_multiple_of(10);
    let rate = |i: u64| if sybil(i) { 5_000 } else { 30 };
    let start = 1_000;
    for i in 0..providers {
        let _ = index.offer(Millis(start), provider(i), vec![offer(Millis(start + OFFER_MS), rate(i))], 0);
    }
    let bad: BTreeSet<NodeId> = (0..providers).filter(|i| sybil(*i)).map(provider).collect();
    let mut out = Routed { times: Vec::new(), tries: Vec::new(), answered: Vec::new() };
    let mut renewed = 0;
    for question in 0..questions {
        let now = Millis(start + question * 2);
        // Each of them renews its offer every 30 s.
        while renewed < question * 2 * providers / 30_000 {
            let i = renewed % providers;
            let _ = index.offer(now, provider(i), vec![offer(now.plus(OFFER_MS), rate(i))], 0);
            renewed += 1;
        }
        let (tries, answered) = one_question(&mut index, (now, &mut rng), &bad, &mut out.times);
        out.tries.push(tries);
        out.answered.push(answered);
    }
    out
}

/// How many providers a session asks, and whether one answers.
fn one_question(
    index: &mut Index,
    (now, rng): (Millis, &mut Rng),
    bad: &BTreeSet<NodeId>,
    times: &mut Vec<f64>,
) -> (u32, bool) {
    let (price, model) = (Price::default(), Hash::default());
    let need = Need { model, context: 500, read: 100, written: 100, price, knows: None };
    let request = Request::new(Hash::default(), model, Hash::default(), question(vec![1; 100], 100));
    let mut session = Session::new(provider(PROVIDERS), request);
    let (mut orders, mut out) = (VecDeque::new(), Outbox::default());
    session.step(now, SessionEvent::Begin, &mut out);
    loop {
        orders.extend(out.drain());
        match orders.pop_front() {
            Some(SessionOrder::Choose(without)) => {
                let begun = Instant::now();
                let chosen = index.choose(now, &need, &without, rng).into_iter().next();
                times.push(begun.elapsed().as_secs_f64() * 1e3);
                session.step(now, SessionEvent::Chosen(chosen), &mut out);
            }
            Some(SessionOrder::Open { attempt, provider, .. }) if bad.contains(&provider) => {
                session.step(now, SessionEvent::Lost(attempt), &mut out);
            }
            Some(SessionOrder::Open { provider, .. }) => {
                let did = AttemptOutcome::Answered { first_ms: 90, read: 100, rest_ms: 3_000, written: 100 };
                index.note(now, &provider, did);
                return (session.tries(), true);
            }
            Some(SessionOrder::Note(provider, outcome)) => index.note(now, &provider, outcome),
            Some(SessionOrder::Show(Piece::End { .. })) | None => return (session.tries(), false),
            Some(_) => {}
        }
    }
}

/// A model of random weights, served by one thread.
pub(crate) fn served(size: &str, slots: usize) -> Result<(Served, tempfile::TempDir)> {
    let stage = tempfile::tempdir()?;
    let path = stage.path().join("figure.gguf");
    written(&path, size)?;
    let engine = Engine::load(EngineConfig { path, hash: None, threads: 1, slots, context: 512, memory: 0, vram: 0 })?;
    Ok((Served::new(engine), stage))
}

pub(crate) fn question(tokens: Vec<i32>, max_tokens: u64) -> Ask {
    Ask {
        model: format!("{}figure", serving::NET),
        input: AskInput::Tokens(tokens),
        max_tokens: Some(max_tokens),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    }
}

/// The 99th of a hundred.
fn ninety_ninth(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * 99 / 100).min(values.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Providers asked for one question among fifty, and whether it was answered.
    fn asked(bad: impl Fn(u64) -> bool) -> (u32, bool) {
        let (mut index, mut rng, now) = (Index::default(), Rng::new(1), Millis(1_000));
        for i in 0..50 {
            index.offer(now, provider(i), vec![offer(now.plus(OFFER_MS), 30)], 0).expect("a good offer");
        }
        let bad = (0..50).filter(|i| bad(*i)).map(provider).collect();
        one_question(&mut index, (now, &mut rng), &bad, &mut Vec::new())
    }

    #[test]
    fn a_question_ends_without_an_answer_at_the_sessions_own_limit() {
        let (tries, answered) = asked(|_| true);
        assert!(!answered && (2..50).contains(&tries), "{tries}");
        assert_eq!(asked(|_| false), (1, true));
    }
}
