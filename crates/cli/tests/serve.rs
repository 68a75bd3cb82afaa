//! A model of our own behind the API, asked over real sockets.

#![cfg(feature = "serve")]

mod common;

use common::{DEADLINE, Peer, json, start};
use model::{Config, GgufType, Layout, ModelCard, Part};
use serde_json::{Value, json as value};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

const CONTEXT: usize = 512;

struct Api {
    _stage: tempfile::TempDir,
    _peer: Peer,
    address: String,
}

/// Serves a small model of random weights.
fn api(options: &[&str]) -> (Api, std::path::PathBuf) {
    let stage = tempfile::tempdir().expect("a folder");
    let config = Config::preset("nano", 2048, CONTEXT).expect("a size");
    let layout = Layout::new(&config, &Part::whole(&config));
    let theta = model::init(&layout, config.num_hidden_layers, 5);
    let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
    let path = stage.path().join("own.gguf");
    model::export_gguf(&path, &config, &theta, &tokenizer, 0, &ModelCard::default(), GgufType::Q8_0).expect("written");
    let dir = stage.path().join("node");
    let mut arguments =
        vec!["serve", "--model", path.to_str().expect("utf-8"), "--listen", "127.0.0.1:0", "--parallel", "2"];
    arguments.extend(options);
    let (peer, mut lines) = start(&dir, &arguments);
    let ready: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let api = ready["api"].as_str().expect("an address");
    let address = api.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    (Api { _stage: stage, _peer: peer, address }, dir)
}

impl Api {
    fn send(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("connected");
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).expect("sent");
        stream
    }

    fn raw(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
        let mut text = String::new();
        self.send(method, path, key, body).read_to_string(&mut text).expect("an answer");
        let status = text.split(' ').nth(1).expect("a status").parse().expect("a number");
        let body = text.split_once("\r\n\r\n").expect("a body").1.to_owned();
        (status, body)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.raw("POST", path, None, &body.to_string());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.raw("GET", "/metrics", None, "").1;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect("a metric");
        line.split(' ').nth(1).expect("a value").parse().expect("a number")
    }
}

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
    let idle: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(&api.address).expect("connected")).collect();
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
    let model = other._stage.path().join("own.gguf");
    let model = model.to_str().expect("utf-8");
    let (peer, mut lines) = start(dir, &["serve", "--model", model, "--listen", "127.0.0.1:0", "--demand-keys"]);
    let ready: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let address =
        ready["api"].as_str().expect("an address").trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let api = Api { _stage: tempfile::tempdir().expect("a folder"), _peer: peer, address };
    assert_eq!(api.raw("GET", "/v1/models", None, "").0, 401);
    assert_eq!(api.raw("GET", "/v1/models", Some(key), "").0, 200);
    assert_eq!(api.raw("GET", "/health", None, "").0, 200);
}
