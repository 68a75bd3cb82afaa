//! Models of random weights behind the API, and a client with sockets of its own.

#![allow(dead_code)]

use crate::common::{Peer, start};
use model::{ExportCard, GgufType, Layout, ModelConfig, Part};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

pub const CONTEXT: usize = 512;

/// A process that serves the API.
pub struct Api {
    pub stage: Option<tempfile::TempDir>,
    pub dir: PathBuf,
    pub peer: Peer,
    pub address: String,
    /// What it said when it was ready.
    pub ready: Value,
}

/// Writes a model of random weights.
pub fn random_model(path: &Path, size: &str) {
    let config = ModelConfig::preset(size, 2048, CONTEXT).expect("a size");
    let layout = Layout::new(&config, &Part::whole(&config));
    let theta = model::init(&layout, config.num_hidden_layers, 5);
    let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
    model::export_gguf(path, &config, &theta, &tokenizer, 0, &ExportCard::default(), GgufType::Q8_0).expect("written");
}

/// Serves on a data folder.
pub fn opened(dir: &Path, options: &[&str]) -> Api {
    let (peer, mut lines) = start(dir, &[&["serve", "--listen", "127.0.0.1:0"], options].concat());
    let ready: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let api = ready["api"].as_str().expect("an address");
    let address = api.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    Api { stage: None, dir: dir.to_owned(), peer, address, ready }
}

/// Serves a small model of random weights.
pub fn api(options: &[&str]) -> (Api, PathBuf) {
    let stage = tempfile::tempdir().expect("a folder");
    let path = stage.path().join("own.gguf");
    random_model(&path, "nano");
    let dir = stage.path().join("node");
    let model = ["--model", path.to_str().expect("utf-8"), "--parallel", "2"];
    let api = opened(&dir, &[&model, options].concat());
    (Api { stage: Some(stage), ..api }, dir)
}

impl Api {
    pub fn send(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("connected");
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).expect("sent");
        stream
    }

    pub fn raw(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
        let mut text = String::new();
        self.send(method, path, key, body).read_to_string(&mut text).expect("an answer");
        let status = text.split(' ').nth(1).expect("a status").parse().expect("a number");
        let body = text.split_once("\r\n\r\n").expect("a body").1.to_owned();
        (status, body)
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.raw("POST", path, None, &body.to_string());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, text) = self.raw("GET", path, None, "");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    pub fn metric(&self, name: &str) -> f64 {
        let text = self.raw("GET", "/metrics", None, "").1;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect("a metric");
        line.split(' ').nth(1).expect("a value").parse().expect("a number")
    }
}
