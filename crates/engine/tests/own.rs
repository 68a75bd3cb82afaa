//! A model that our own stages trained, served: the same tokens, whatever else is going on.

mod common;

use common::{CONTEXT, answer, config, job, prompts, served, weights};
use engine::{AnswerShape, Client, Engine, EngineConfig, EngineFinish, Event, Job, Refusal, SamplingParams};
use model::{Device, GgufType, Trainer};

#[test]
fn the_same_tokens_as_our_own_stages() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::F32, 2);
    let config = config();
    let mut trainer = Trainer::new(&config, &Device::Host);
    trainer.set(&weights(&config));
    for prompt in prompts() {
        let got = answer(&engine, Job { logprobs: Some(5), ..job(prompt.clone(), 12) });
        let mut ids: Vec<u32> = prompt.iter().map(|id| *id as u32).collect();
        for (token, top) in got.ids.iter().zip(&got.top) {
            let row = trainer.next_logits(&ids);
            let highest = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f32 = row.iter().map(|x| (x - highest).exp()).sum();
            let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a token");
            assert_eq!(*token, best as i32);
            for (id, logprob) in top {
                let ours = row[*id as usize] - highest - sum.ln();
                assert!((ours - logprob).abs() < 1e-2, "token {id}: {ours} and {logprob}");
            }
            ids.push(*token as u32);
        }
        assert_eq!(got.ids.len(), 12);
    }
}

#[test]
fn many_at_a_time_write_what_each_writes_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::Q8_0, 4);
    let alone: Vec<Vec<i32>> = prompts().into_iter().map(|prompt| answer(&engine, job(prompt, 20)).ids).collect();
    let together = std::thread::scope(|scope| {
        let jobs: Vec<_> =
            prompts().into_iter().map(|prompt| scope.spawn(|| answer(&engine, job(prompt, 20)).ids)).collect();
        jobs.into_iter().map(|job| job.join().expect("answered")).collect::<Vec<_>>()
    });
    assert_eq!(alone, together);
    assert_eq!(engine.busy(), 0);
}

#[test]
fn a_beginning_is_read_once_for_one_client_and_never_for_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::F32, 3);
    let prompt = prompts().pop().expect("one");
    let first = answer(&engine, job(prompt.clone(), 4));
    assert_eq!(first.cached, 0);
    let mut longer = prompt.clone();
    longer.extend(&first.ids);
    longer.push(9);
    let second = answer(&engine, job(longer.clone(), 4));
    assert_eq!(second.cached, prompt.len() + 3, "all but what was never read");
    let other = answer(&engine, Job { client: Client([2; 32]), ..job(longer, 4) });
    assert_eq!((other.cached, other.ids), (0, second.ids));
}

#[test]
fn a_cancel_frees_the_slot() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::F32, 1);
    let mut events = engine.submit(job(vec![5], 250)).expect("taken");
    assert!(events.blocking_recv().is_some());
    let waits = engine.submit(job(vec![6], 3)).expect("taken");
    assert_eq!(engine.busy(), 2);
    drop(events);
    let mut waits = waits;
    let mut last = None;
    while let Some(event) = waits.blocking_recv() {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::Done { finish: EngineFinish::Length, .. })));
    assert_eq!(engine.busy(), 0);
}

#[test]
fn parameters_have_their_effect() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::F32, 2);
    let greedy = answer(&engine, job(vec![5, 6, 7], 8));
    let with = |sampling: SamplingParams| answer(&engine, Job { sampling, ..job(vec![5, 6, 7], 8) });
    let banned = with(SamplingParams {
        temperature: 0.0,
        logit_bias: vec![(greedy.ids[0], -100.0)],
        ..SamplingParams::default()
    });
    assert_ne!(banned.ids[0], greedy.ids[0]);
    let hot = SamplingParams { temperature: 3.0, seed: 7, ..SamplingParams::default() };
    let drawn = with(hot.clone());
    assert_eq!(with(hot.clone()).ids, drawn.ids, "the same seed");
    assert_ne!(with(SamplingParams { seed: 8, ..hot.clone() }).ids, drawn.ids, "another seed");
    assert_eq!(with(SamplingParams { top_k: 1, ..hot.clone() }).ids, greedy.ids);
    assert_eq!(with(SamplingParams { top_p: 1e-6, ..hot.clone() }).ids, greedy.ids);
    assert_eq!(with(SamplingParams { min_p: 1.0, ..hot }).ids, greedy.ids);
    // A penalty that is larger than any difference: no token twice.
    let fresh = with(SamplingParams { temperature: 0.0, presence_penalty: 100.0, ..SamplingParams::default() });
    let mut seen = fresh.ids.clone();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), fresh.ids.len());
    // An answer of letters, so that a part of it can be named.
    let letters = |prompt: &Vec<i32>| answer(&engine, job(prompt.clone(), 8)).text;
    let plain = |text: &String| text.len() > 8 && text.is_ascii();
    let prompt =
        (300..400).map(|id| vec![id]).find(|prompt| plain(&letters(prompt))).expect("one that is answered in letters");
    let text = letters(&prompt);
    let stop: String = text.chars().skip(4).take(3).collect();
    let stopped = answer(&engine, Job { stop: vec![stop.clone()], ..job(prompt, 8) });
    assert_eq!(
        (stopped.finish, stopped.text.as_str()),
        (EngineFinish::Stop, text.split(&stop).next().unwrap_or_default())
    );
}

#[test]
fn an_answer_has_the_shape_that_was_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::F32, 2);
    let schema = serde_json::json!({
        "type": "object", "additionalProperties": false, "required": ["kind", "n"],
        "properties": { "kind": { "enum": ["one", "two"] }, "n": { "type": "integer", "minimum": 0, "maximum": 99 } },
    });
    let sampling = SamplingParams { format: AnswerShape::Schema(schema), seed: 3, ..SamplingParams::default() };
    let got = answer(&engine, Job { sampling, ..job(vec![5, 6, 7], 200) });
    let value: serde_json::Value = serde_json::from_str(&got.text).expect("JSON");
    assert!(["one", "two"].contains(&value["kind"].as_str().expect("a text")), "{value}");
    assert!(value["n"].as_u64().is_some_and(|n| n <= 99), "{value}");
    assert_eq!(got.finish, EngineFinish::Stop);
    let impossible = SamplingParams { format: AnswerShape::Grammar("root ::= (".into()), ..SamplingParams::default() };
    assert!(matches!(engine.submit(Job { sampling: impossible, ..job(vec![5], 1) }), Err(Refusal::Format(_))));
}

#[test]
fn the_prompts_own_probabilities_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::F32, 1);
    let prompt = prompts()[6].clone();
    let greedy = answer(&engine, Job { logprobs: Some(0), ..job(prompt.clone(), 5) });
    let mut whole = prompt.clone();
    whole.extend(&greedy.ids);
    let scored = answer(&engine, Job { logprobs: Some(2), echo: true, ..job(whole.clone(), 0) });
    assert_eq!(scored.prompt.len(), whole.len() - 1);
    assert!(scored.ids.is_empty());
    for (k, logprob) in greedy.logprobs.iter().enumerate() {
        let again = &scored.prompt[prompt.len() - 1 + k];
        assert_eq!((again.id, again.top.len()), (greedy.ids[k], 2));
        assert!((again.logprob - logprob).abs() < 1e-3, "{} and {logprob}", again.logprob);
    }
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::Q8_0, 1);
    assert_eq!(engine.submit(job(vec![], 1)).err(), Some(Refusal::Empty));
    assert_eq!(engine.submit(job(vec![1, 2048], 1)).err(), Some(Refusal::Token(2048)));
    assert_eq!(engine.submit(job(vec![-1], 1)).err(), Some(Refusal::Token(-1)));
    assert_eq!(engine.submit(job(vec![1; CONTEXT + 1], 1)).err(), Some(Refusal::TooLong(CONTEXT + 1, CONTEXT)));
    let full = answer(&engine, job(vec![1; CONTEXT - 2], 50));
    assert_eq!((full.ids.len(), full.finish), (2, EngineFinish::Length), "as much as there is room for");
    let config = EngineConfig {
        path: dir.path().join("own.gguf"),
        hash: None,
        threads: 1,
        slots: 4,
        context: 0,
        memory: 1 << 20,
        vram: 1,
    };
    let error = Engine::load(config.clone()).err().expect("no room").to_string();
    assert!(error.contains("MB are free"), "{error}");
    // What a graphics device has no room for stays with the processor.
    let slow = Engine::load(EngineConfig { memory: 0, ..config.clone() }).expect("served");
    assert_eq!(answer(&slow, job(vec![1; 8], 4)).ids.len(), 4);
    let other = dir.path().join("other.gguf");
    std::fs::write(&other, b"GGUF and then nothing that a model is made of").expect("written");
    assert!(Engine::load(EngineConfig { path: other, memory: 0, ..config.clone() }).is_err());
    assert!(Engine::load(EngineConfig { path: "../../README.md".into(), memory: 0, ..config }).is_err());
}

#[test]
fn another_goes_on_with_an_answer_where_one_stopped() {
    let dir = tempfile::tempdir().expect("a folder");
    let (first, second) = (served(dir.path(), GgufType::Q8_0, 1), served(dir.path(), GgufType::Q8_0, 2));
    for seed in 0..20 {
        let prompt = vec![300 + seed, 7, 400 - seed];
        let whole = answer(&first, job(prompt.clone(), 24));
        for k in [1, 7, 23, 24] {
            let written = whole.ids[..k].to_vec();
            let rest = answer(&second, Job { written, ..job(prompt.clone(), 24) });
            assert_eq!(rest.ids, whole.ids[k..], "prompt {seed}, from {k}");
            assert_eq!(rest.finish, EngineFinish::Length);
        }
    }
    // A text that ends the answer may have begun with the other.
    let prompt = (300..400).map(|id| vec![id]).find(|prompt| {
        let text = answer(&first, job(prompt.clone(), 8)).text;
        text.len() > 8 && text.is_ascii()
    });
    let prompt = prompt.expect("one that is answered in letters");
    let whole = answer(&first, job(prompt.clone(), 8));
    let stop: String = whole.text.chars().skip(4).take(3).collect();
    let stopped = answer(&first, Job { stop: vec![stop.clone()], ..job(prompt.clone(), 8) });
    for k in 1..stopped.ids.len() {
        let written = stopped.ids[..k].to_vec();
        let rest = answer(&second, Job { written, stop: vec![stop.clone()], ..job(prompt.clone(), 8) });
        assert_eq!((rest.finish, &rest.ids[..]), (EngineFinish::Stop, &stopped.ids[k..]));
        assert!(stopped.text.ends_with(&rest.text));
    }
    // Penalties count what the other wrote, and a shape goes on from there; what does not fit it is refused.
    let sampling = SamplingParams { temperature: 0.0, presence_penalty: 100.0, ..SamplingParams::default() };
    let fresh = answer(&first, Job { sampling: sampling.clone(), ..job(vec![5, 6, 7], 16) });
    let rest = Job { written: fresh.ids[..9].to_vec(), sampling, ..job(vec![5, 6, 7], 16) };
    assert_eq!(answer(&second, rest).ids, fresh.ids[9..]);
    let digits =
        SamplingParams { format: engine::AnswerShape::Grammar("root ::= [0-9]+".into()), ..SamplingParams::default() };
    let wrong = Job { written: fresh.ids, sampling: digits, ..job(vec![5], 40) };
    assert!(matches!(first.submit(wrong), Err(Refusal::Format(_))));
}

#[test]
fn nothing_is_written_beyond_what_is_allowed() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::Q8_0, 1);
    let pace = engine::Pace::default();
    let mut events = engine.submit(Job { pace: Some(pace.clone()), ..job(vec![5, 6, 7], 40) }).expect("taken");
    // Nobody else's answer is in the way: this one has the only slot, and waits.
    let mut next = |n: usize| {
        pace.allow(n);
        engine.wake();
        let mut tokens = 0;
        while tokens < n {
            match events.blocking_recv().expect("an event") {
                engine::Event::Token(_) => tokens += 1,
                engine::Event::Read { .. } => {}
                engine::Event::Done { .. } => break,
            }
        }
        assert!(events.try_recv().is_err(), "more than was allowed");
    };
    next(8);
    let mut after = engine.submit(job(vec![9], 1)).expect("it waits for the slot");
    assert!(after.try_recv().is_err());
    // Who is not paid and leaves makes room.
    drop(events);
    assert!(after.blocking_recv().is_some());
}

#[test]
fn the_owner_goes_first_and_finds_a_slot_free() {
    let dir = tempfile::tempdir().expect("a folder");
    let engine = served(dir.path(), GgufType::Q8_0, 2);
    let theirs = |prompt: i32| Job { own: false, ..job(vec![prompt], 200) };
    let mut first = engine.submit(theirs(5)).expect("taken");
    let mut second = engine.submit(theirs(6)).expect("it waits");
    assert!(first.blocking_recv().is_some());
    // A slot is free, and stays so for the owner.
    assert!(second.try_recv().is_err());
    assert_eq!(answer(&engine, job(vec![7], 8)).ids.len(), 8);
    assert!(second.try_recv().is_err(), "the first one still writes");
    while first.blocking_recv().is_some() {}
    assert!(second.blocking_recv().is_some());
    // With one slot the owner waits for the answer under way, and for no other.
    let single = served(dir.path(), GgufType::Q8_0, 1);
    let mut first = single.submit(theirs(5)).expect("taken");
    let mut second = single.submit(theirs(6)).expect("it waits");
    assert!(first.blocking_recv().is_some());
    assert_eq!(answer(&single, job(vec![7], 8)).ids.len(), 8);
    assert!(matches!(second.blocking_recv(), Some(Event::Read { .. })), "it came after the owner");
}
