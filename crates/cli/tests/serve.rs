//! A model of our own behind the API, asked over real sockets.

#![cfg(feature = "serve")]

#[path = "common/api.rs"]
mod api;
mod common;

use api::{Api, api, opened};
use common::{DEADLINE, json};
use serde_json::{Value, json as value};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

fn question(tokens: u64) -> Value {
    value!({ "model": "own", "messages": [{ "role": "user", "content": "Speak" }], "temperature": 0, "max_tokens": tokens })
}

#[test]
fn a_model_of_our_own_answers() {
    let (api, _) = api(&[]);
    let whole = api.post("/v1/chat/completions", &question(12));
    let text = whole["choices"][0]["message"]["content"].as_str().expect("a text").to_owned();
    assert_eq!(
        (&whole["usage"]["completion_tokens"], &whole["choices"][0]["finish_reason"]),
        (&value!(12), &value!("length"))
    );
    // Streamed it is the same.
    let mut asked = question(12);
    asked["stream"] = true.into();
    let (status, streamed) = api.raw("POST", "/v1/chat/completions", None, &asked.to_string());
    assert_eq!(status, 200);
    let chunks = streamed.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|line| *line != "[DONE]");
    let chunks: Vec<Value> = chunks.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let parts: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(parts, text);
    assert!(streamed.contains("[DONE]"));
    // A text is scored as an evaluation harness does: its own tokens, nothing written.
    let scored = api.post(
        "/v1/completions",
        &value!({ "model": "own", "prompt": "To be", "max_tokens": 0, "echo": true, "logprobs": 1 }),
    );
    let logprobs = &scored["choices"][0]["logprobs"];
    let ids = api.post("/tokenize", &value!({ "prompt": "To be" }));
    assert_eq!(logprobs["tokens"].as_array().map(Vec::len), ids["tokens"].as_array().map(Vec::len));
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["token_logprobs"][1].as_f64() < Some(0.0));
    assert_eq!(scored["choices"][0]["text"], "To be");
    assert_eq!(api.post("/detokenize", &value!({ "tokens": ids["tokens"] }))["prompt"], "To be");
    let newer = api.post(
        "/v1/responses",
        &value!({ "model": "own", "input": "Speak", "max_output_tokens": 12, "temperature": 0 }),
    );
    assert_eq!(newer["output"][0]["content"][0]["text"], text);
    let (status, error) =
        api.raw("POST", "/v1/chat/completions", None, &question(5).to_string().replace("Speak", &"word ".repeat(2000)));
    assert_eq!((status, error.contains("context_length_exceeded")), (400, true));
}

#[test]
fn who_hangs_up_frees_the_model_and_idle_connections_disturb_nobody() {
    let (api, _) = api(&[]);
    let idle: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(&api.address).expect("connected")).collect();
    let mut asked = question(480);
    asked["stream"] = true.into();
    let writing: Vec<TcpStream> = (0..2)
        .map(|_| {
            let stream = api.send("POST", "/v1/chat/completions", None, &asked.to_string());
            let mut lines = BufReader::new(stream.try_clone().expect("a stream"));
            let mut line = String::new();
            while !line.contains("content") {
                line.clear();
                assert!(lines.read_line(&mut line).expect("read") > 0);
            }
            stream
        })
        .collect();
    drop(writing);
    // Both places are free again at once: an answer that has to wait for 480 tokens would take longer than these.
    api.post("/v1/chat/completions", &question(2));
    let begun = Instant::now();
    while api.metric("talkoo_num_requests_running") > 0.0 {
        assert!(begun.elapsed() < DEADLINE, "somebody still writes");
    }
    assert!(api.metric("talkoo_generation_tokens_total") < 480.0, "nobody wrote on for who had gone");
    drop(idle);
}

#[test]
fn a_key_is_made_shown_once_and_demanded() {
    let stage = tempfile::tempdir().expect("a folder");
    let made = json(stage.path(), &["key", "create", "one", "--per-minute", "100"]);
    let key = made["key"].as_str().expect("a key").to_owned();
    let listed = json(stage.path(), &["key", "ls"]);
    assert!(listed[0]["name"] == "one" && !listed.to_string().contains(&key));
    let (api, dir) = api(&["--demand-keys"]);
    assert_eq!(api.raw("GET", "/v1/models", Some(&key), "").0, 401, "of another folder");
    assert_ne!(dir, stage.path());
    serve_with(stage.path(), &key, &api);
    assert_eq!(json(stage.path(), &["key", "revoke", "one"])["revoked"], "one");
    assert_eq!(json(stage.path(), &["key", "ls"]), value!([]));
}

/// Serves the same model on the folder that has the key.
fn serve_with(dir: &Path, key: &str, other: &Api) {
    let model = other.stage.as_ref().expect("its files").path().join("own.gguf");
    let api = opened(dir, &["--model", model.to_str().expect("utf-8"), "--demand-keys"]);
    assert_eq!(api.raw("GET", "/v1/models", None, "").0, 401);
    assert_eq!(api.raw("GET", "/v1/models", Some(key), "").0, 200);
    assert_eq!(api.raw("GET", "/health", None, "").0, 200);
}
