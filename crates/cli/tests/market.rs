//! Real processes: two that serve, one that asks them over the encrypted link; one dies in mid-answer; answers are paid.

#![cfg(feature = "serve")]

#[path = "common/api.rs"]
mod api;
mod common;

use api::{Api, opened, random_model};
use common::{DEADLINE, json, stop, talkoo, until};
use serde_json::{Value, json as value};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

const TOKENS: u64 = 400;

fn question(tokens: u64, stream: bool) -> Value {
    value!({
        "model": "net/own", "messages": [{ "role": "user", "content": "Speak to me of neighbours" }], "temperature": 0,
        "max_tokens": tokens, "stream": stream,
    })
}

fn serve(stage: &Path, name: &str, options: &[&str]) -> Api {
    let model = stage.join("own.gguf");
    let model = model.to_str().expect("utf-8").to_owned();
    opened(&stage.join(name), &[&["--model", &model, "--parallel", "2", "--offer"], options].concat())
}

fn ticket(api: &Api) -> String {
    api.ready["tickets"][0].as_str().expect("a ticket").to_owned()
}

/// Waits until a client knows so many providers of the model.
fn known(client: &Api, providers: u64) {
    let begun = Instant::now();
    while client.get("/v1/models")["data"][0]["providers"].as_u64().unwrap_or(0) < providers {
        assert!(begun.elapsed() < DEADLINE, "offers did not come in time");
    }
}

/// Questions of others that a provider has heard, however they ended.
fn questions(provider: &Api) -> u64 {
    let state = provider.get("/api/state");
    let counts = state["serving"]["counts"].as_array().expect("counts");
    let about_questions = |pair: &&Value| !pair[0].as_str().expect("a name").starts_with("offer_");
    counts.iter().filter(about_questions).map(|pair| pair[1].as_u64().expect("a number")).sum()
}

#[test]
fn a_local_name_never_leaves_the_machine() {
    let stage = tempfile::tempdir().expect("a folder");
    let stage = stage.path();
    random_model(&stage.join("own.gguf"), "nano");
    let peer = serve(stage, "peer", &[]);
    let asker = stage.join("asker");
    // It is in the folder and not loaded, as when memory is short.
    json(&asker, &["model", "add", stage.join("own.gguf").to_str().expect("utf-8")]);
    let client = opened(&asker, &["--ticket", &ticket(&peer)]);
    known(&client, 1);
    let mut local = question(4, false);
    local["model"] = "own".into();
    let (status, text) = client.raw("POST", "/v1/chat/completions", None, &local.to_string());
    assert_eq!((status, text.contains("not loaded")), (503, true), "{text}");
    // A name that is nobody's but the network's does not go there either.
    local["model"] = "other".into();
    assert_eq!(client.raw("POST", "/v1/chat/completions", None, &local.to_string()).0, 404);
    assert_eq!(questions(&peer), 0, "nothing left the machine");
    let (status, text) = client.raw("POST", "/v1/chat/completions", None, &question(4, false).to_string());
    assert_eq!(status, 200, "{text}");
    until("the question under its other name", || Some(questions(&peer)).filter(|n| *n == 1).ok_or("none"));
    assert_eq!(client.get("/v1/models")["data"][0]["id"], "net/own");
}

#[test]
fn only_the_listed_providers_are_asked_and_a_listed_name_needs_no_prefix() {
    let stage = tempfile::tempdir().expect("a folder");
    let stage = stage.path();
    random_model(&stage.join("own.gguf"), "nano");
    let trusted = serve(stage, "trusted", &[]);
    let stranger = serve(stage, "stranger", &["--ticket", &ticket(&trusted)]);
    let asker = stage.join("asker");
    std::fs::create_dir_all(&asker).expect("made");
    let key = &trusted.ready["node"];
    std::fs::write(asker.join("talkoo.toml"), format!("[ask]\nfor_names = [\"own\"]\nproviders = [{key}]\n"))
        .expect("written");
    // The stranger hears the offers of the other one, so its own are out, too.
    let hears = || stranger.get("/v1/models")["data"].to_string();
    until("an offer", || Some(hears()).filter(|models| models.contains("net/own")).ok_or("none"));
    let client = opened(&asker, &["--ticket", &ticket(&stranger), "--ticket", &ticket(&trusted)]);
    known(&client, 1);
    let mut bare = question(4, false);
    bare["model"] = "own".into();
    for _ in 0..8 {
        client.post("/v1/chat/completions", &bare);
    }
    until("all answers of the one", || Some(questions(&trusted)).filter(|n| *n == 8).ok_or("fewer"));
    assert_eq!(questions(&stranger), 0);
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("a text")
}

/// The receipt of an answer, checked by a program that knows nothing else.
fn receipt(stage: &Path, client: &Api, id: &Value) -> Value {
    let (status, text) = client.raw("GET", &format!("/v1/receipts/{}", id.as_str().expect("an id")), None, "");
    assert_eq!(status, 200, "{text}");
    let path = stage.join("receipt.json");
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("utf-8");
    json(stage, &["receipt", "verify", path])["receipt"].clone()
}

#[test]
fn an_answer_outlives_its_provider() {
    let stage = tempfile::tempdir().expect("a folder");
    let stage = stage.path();
    random_model(&stage.join("own.gguf"), "small");
    let first = serve(stage, "first", &[]);
    let second = serve(stage, "second", &["--ticket", &ticket(&first)]);
    let client = opened(&stage.join("client"), &["--ticket", &ticket(&first)]);
    known(&client, 2);
    let whole = client.post("/v1/chat/completions", &question(TOKENS, false));
    assert_eq!(whole["usage"]["completion_tokens"], TOKENS);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let signed = receipt(stage, &client, &whole["id"]);
    assert_eq!(signed["parts"].as_array().map(Vec::len), Some(1));
    // Each of the two reads what the other one wrote, and finds nothing wrong with it.
    let audit = ["audit", "own", "--ticket", &ticket(&first), "--checks", "4"];
    let audited = json(&stage.join("auditor"), &audit);
    for provider in audited["providers"].as_array().expect("both") {
        assert_eq!(provider["bad"], false, "{audited}");
        assert!(provider["checks"]["good"].as_u64() >= Some(3), "{audited}");
    }
    assert_eq!(audited["providers"].as_array().map(Vec::len), Some(2));
    // The same conversation goes to who has read it; that one is killed in the middle.
    let who = &signed["parts"][0]["provider"];
    let [mut dies, lives] = if *who == first.ready["node"] { [first, second] } else { [second, first] };
    assert_eq!(*who, dies.ready["node"]);
    let stream = client.send("POST", "/v1/chat/completions", None, &question(TOKENS, true).to_string());
    let (mut text, mut id, mut chunks, mut done) = (String::new(), Value::Null, 0, false);
    let mut head = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.expect("a line");
        let Some(data) = line.strip_prefix("data: ") else {
            head.push(line.clone());
            continue;
        };
        if data == "[DONE]" {
            done = true;
            break;
        }
        let chunk: Value = serde_json::from_str(data).expect("JSON");
        assert!(chunk["error"].is_null(), "{chunk}");
        id = chunk["id"].clone();
        text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        chunks += 1;
        if chunks == 12 {
            dies.peer.0.kill().expect("killed");
        }
    }
    assert!(done, "a whole answer");
    assert_eq!(text, content(&whole), "byte for byte");
    let signed = receipt(stage, &client, &id);
    let parts = signed["parts"].as_array().expect("parts");
    assert_eq!(parts.len(), 2, "{signed}");
    assert_eq!((&parts[0]["provider"], &parts[1]["provider"]), (&dies.ready["node"], &lives.ready["node"]));
    assert_eq!(signed["same_runtime"], true);
    // The head of the answer went out before that: it names the first of them.
    let named = format!("x-talkoo-provider: {}", dies.ready["node"].as_str().expect("a key"));
    assert!(head.contains(&named) && head.contains(&"x-talkoo-local: false".to_owned()), "{head:?}");
    let written = |i: usize| parts[i]["tokens_written"].as_u64().expect("a number");
    assert_eq!(written(0) + written(1), TOKENS);
    // A flipped byte of a receipt is noticed.
    let path = stage.join("receipt.json");
    let wrong = std::fs::read_to_string(&path).expect("read").replacen("\"tokens_read\": ", "\"tokens_read\": 1", 1);
    std::fs::write(&path, wrong).expect("written");
    let checked = talkoo(stage).args(["receipt", "verify", path.to_str().expect("utf-8")]).output().expect("it runs");
    assert!(!checked.status.success());
    // Nobody left: a clear error, not a broken answer.
    let mut lives = lives;
    stop(&mut lives.peer);
    let begun = Instant::now();
    loop {
        let (status, text) = client.raw("POST", "/v1/chat/completions", None, &question(4, false).to_string());
        if status == 404 {
            assert!(text.contains("model_not_found"), "{text}");
            break;
        }
        assert!(status == 503 && begun.elapsed() < DEADLINE, "{status} {text}");
    }
}

#[test]
fn an_answer_is_paid_once_and_who_has_nothing_pays_nothing() {
    let stage = tempfile::tempdir().expect("a folder");
    let stage = stage.path();
    random_model(&stage.join("own.gguf"), "nano");
    // Credits for a million tokens: 0.001 a token read, 0.002 a token written.
    let mut provider = serve(stage, "provider", &["--price", "1000,2000"]);
    let asking = ["--ticket", &ticket(&provider), "--max-price", "1000,2000", "--budget", "4"];
    let client = opened(&stage.join("client"), &asking);
    known(&client, 1);
    let client_key = client.ready["node"].as_str().expect("a key");
    json(&provider.dir, &["wallet", "send", client_key, "0.05", "--yes"]);
    let before = json(&provider.dir, &["chain", "account", provider.ready["node"].as_str().expect("a key")]);
    let start = before["balance_micro"].as_u64().expect("a number") - 5_001_000;
    // That is not enough.
    let (status, text) = client.raw("POST", "/v1/chat/completions", None, &question(100, false).to_string());
    assert_eq!((status, text.contains("insufficient_quota")), (402, true), "{text}");
    let account = |key: &Value| {
        let key = key.as_str().expect("a key");
        json(&provider.dir, &["chain", "account", key])
    };
    json(&provider.dir, &["wallet", "send", client_key, "5", "--yes"]);
    let answer = client.post("/v1/chat/completions", &question(100, false));
    let signed = receipt(stage, &client, &answer["id"]);
    let read = answer["usage"]["prompt_tokens"].as_u64().expect("a number");
    let cost = read * 1000 + 100 * 2000;
    assert_eq!(signed["cost_micro"], cost);
    // A provider that was never paid has what an answer may cost, not a part of the budget.
    let chain = json(&provider.dir, &["chain", "status"])["chain"].as_str().expect("an id").to_owned();
    let network = ["--network", chain.as_str()];
    let allotments = || json(&client.dir, &[&["wallet", "providers"], network.as_slice()].concat());
    let listed = allotments();
    let allotted = &listed["providers"][0];
    assert_eq!(allotted["provider"], provider.ready["node"]);
    let micro = |field: &str| allotted[field].as_u64().expect("a number");
    assert!(micro("paid_micro") + micro("left_micro") <= 2 * cost, "{allotted}");
    // Several at a time: what one owes for a moment is not asked of another.
    let several: Vec<Value> = std::thread::scope(|scope| {
        let ask = || client.post("/v1/chat/completions", &question(150, false));
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    let cost_of = |answer: &Value| receipt(stage, &client, &answer["id"])["cost_micro"].as_u64().expect("a number");
    let all = cost + several.iter().map(cost_of).sum::<u64>();
    assert_eq!(account(&client.ready["node"])["deposit_micro"], 0, "what was set aside is allotted");
    let spent = json(&client.dir, &[&["wallet", "close", "--yes"], network.as_slice()].concat());
    assert!(spent["final_at"].is_u64(), "{spent}");
    assert!(allotments()["providers"][0]["closes_ms"].is_u64(), "it comes back");
    // The provider redeems what is worth its fee, at the latest when it stops: all of it, once.
    stop(&mut provider.peer);
    let again = serve(stage, "provider", &["--price", "1000,2000"]);
    let after = json(&again.dir, &["chain", "account", again.ready["node"].as_str().expect("a key")]);
    let after = after["balance_micro"].as_u64().expect("a number");
    // The question that could not be paid to its end was read, and paid for a chunk at most; an answer costs more.
    let first = read * 1_000..=read * 1_000 + 32 * 2_000;
    let gained = after - start;
    assert!((1..=3).any(|redeemed| first.contains(&(gained + redeemed * 1_000 - all))), "{start} {all} {after}");
}
