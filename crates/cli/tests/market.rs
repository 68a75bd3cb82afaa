//! Real processes: two that serve, one that asks them over the encrypted link; one dies in mid-answer; answers are paid.

#![cfg(feature = "serve")]

#[path = "common/api.rs"]
mod api;
mod common;

use api::{Api, opened, random_model};
use common::{DEADLINE, json, stop, talkoo};
use serde_json::{Value, json as value};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

const TOKENS: u64 = 400;

fn question(tokens: u64, stream: bool) -> Value {
    value!({
        "model": "own", "messages": [{ "role": "user", "content": "Speak to me of neighbours" }], "temperature": 0,
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
    for line in BufReader::new(stream).lines() {
        let line = line.expect("a line");
        let Some(data) = line.strip_prefix("data: ") else { continue };
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
    // Several at a time: what one owes for a moment is not asked of another.
    let several: Vec<Value> = std::thread::scope(|scope| {
        let ask = || client.post("/v1/chat/completions", &question(150, false));
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    let cost_of = |answer: &Value| receipt(stage, &client, &answer["id"])["cost_micro"].as_u64().expect("a number");
    let all = cost + several.iter().map(cost_of).sum::<u64>();
    assert_eq!(account(&client.ready["node"])["deposit_micro"], 0, "what was set aside is allotted");
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
