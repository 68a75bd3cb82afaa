//! A hub on loopback that answers as Hugging Face's does: lists of files, redirects, ranges; and breaks off, lies and
//! demands a token where a test wants that.

use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Default)]
pub struct State {
    /// Of the one repository `org/repo`, by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Hashes that it gives, by path.
    pub sums: BTreeMap<String, String>,
    /// What opens it, where something has to.
    pub token: Option<String>,
    /// A connection breaks off after so many bytes of a file.
    pub breaks_after: Option<usize>,
    /// Where each transfer began.
    pub begun: Vec<usize>,
}

pub struct Hub {
    pub address: String,
    pub state: Arc<Mutex<State>>,
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Begins to answer, until the test's process ends.
pub fn hub() -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let state = Arc::new(Mutex::new(State::default()));
    let shared = state.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = shared.clone();
            std::thread::spawn(move || answer(stream, &state));
        }
    });
    Hub { address, state }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let mut headers = BTreeMap::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut state = state.lock().expect("no test panics in here");
    let given = headers.get("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let opened = state.token.is_none() || given == state.token;
    let say = |stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    if !opened && !path.starts_with("/cdn/") {
        return say(&mut stream, "401 Unauthorized", "x-error-message: Invalid credentials\r\n", b"");
    }
    if path.starts_with("/api/models/org/repo/revision/") {
        let sibling = |(path, bytes): (&String, &Vec<u8>)| {
            let sum = state.sums.get(path).cloned().unwrap_or_else(|| sha256(bytes));
            json!({ "rfilename": path, "size": bytes.len(), "lfs": { "sha256": sum, "size": bytes.len(), "pointerSize": 134 } })
        };
        let siblings: Vec<_> = state.files.iter().map(sibling).collect();
        let body = json!({ "id": "org/repo", "sha": COMMIT, "siblings": siblings }).to_string();
        return say(&mut stream, "200 OK", "content-type: application/json\r\n", body.as_bytes());
    }
    if let Some(file) = path.strip_prefix(&format!("/org/repo/resolve/{COMMIT}/")) {
        return say(&mut stream, "302 Found", &format!("location: /cdn/{file}\r\n"), b"");
    }
    let Some(bytes) = path.strip_prefix("/cdn/").and_then(|file| state.files.get(file)).cloned() else {
        return say(&mut stream, "404 Not Found", "", b"");
    };
    let range = headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from: usize = range.unwrap_or(0);
    state.begun.push(from);
    let to = state.breaks_after.map_or(bytes.len(), |n| bytes.len().min(from + n));
    drop(state);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{}\r\n\r\n",
        bytes.len() - from,
        bytes.len() - 1,
        bytes.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes[from..to]));
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
