//! Real processes for tests.

#![allow(dead_code)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A run of a minute or less.
pub const RUN: &str = r#"
[run]
name = "end-to-end"
seed = 3
[model]
size = "nano"
[data]
seq_len = 32
[train]
tokens = 12000
batch_tokens = 128
micro_batch = 1
lr = 1e-3
[round]
mode = "gradients"
target_seconds = 1
[out]
every_rounds = 20
keep = 2
"#;

/// Nothing here takes longer, whatever the machine does.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A process that ends with its test.
pub struct Peer(pub Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node that does what it is told, whoever uses the machine.
pub const UP: [&str; 4] = ["up", "--when", "always", "--no-runs"];

/// Looks until something is there, at most until the deadline; `look` gives what it saw where that is not it.
pub fn until<T, E: std::fmt::Display>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(begun.elapsed() < DEADLINE, "{what} did not come in time: {seen}"),
        }
    }
}

/// Runs the test `name` of this program once more, behind `words` that make a world for it, told so by the variable
/// `inside`.
pub fn again(words: &[&str], name: &str, inside: (&str, &str)) -> std::io::Result<ExitStatus> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("--").arg(std::env::current_exe()?);
    command.args(["--exact", name, "--nocapture"]).env(inside.0, inside.1).status()
}

pub fn talkoo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_talkoo"));
    command.args(["--bind", "127.0.0.1:0", "--no-mdns", "--threads", "1", "--json", "--data"]).arg(dir);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

pub fn start(dir: &Path, arguments: &[&str]) -> (Peer, Lines<BufReader<ChildStdout>>) {
    let mut child = talkoo(dir).args(arguments).stdout(Stdio::piped()).spawn().expect("talkoo starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (Peer(child), lines)
}

/// Starts a node; it answers when this returns.
pub fn up(dir: &Path, options: &[&str]) -> Peer {
    let (peer, mut lines) = start(dir, &[options, &UP].concat());
    lines.next().expect("a line").expect("read");
    peer
}

/// Follows the run of a node line by line until `done`, at most until the deadline.
pub fn watch(dir: &Path, begun: Instant, what: &str, done: impl Fn(&Value) -> bool) -> Value {
    loop {
        assert!(begun.elapsed() < DEADLINE, "{what} did not come in time");
        let (_watch, lines) = start(dir, &["train", "watch"]);
        for line in lines {
            let run: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            if done(&run) {
                return run;
            }
            assert!(begun.elapsed() < DEADLINE, "{what} did not come in time: {run}");
        }
    }
}

/// Follows what a node says of itself, second by second, until it is as it should be, at most until the deadline.
pub fn says(dir: &Path, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    let (begun, mut last) = (Instant::now(), Value::Null);
    let (_status, lines) = start(dir, &["status", "--watch"]);
    for line in lines {
        last = serde_json::from_str(&line.expect("a line")).expect("JSON");
        if good(&last) {
            return last;
        }
        assert!(begun.elapsed() < DEADLINE, "{what} did not come in time: {last:#}");
    }
    panic!("{what} did not come before the node ended: {last:#}");
}

/// The same of its panel.
pub fn shows(dir: &Path, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    says(dir, what, |status| good(&status["panel"]))["panel"].clone()
}

/// Hundredths of a second that a process computes in the next second of wall clock.
#[cfg(target_os = "linux")]
pub fn computes(pid: u32) -> u64 {
    let computed = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields: Vec<&str> = text.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
    };
    let (before, begun) = (computed(), Instant::now());
    // What is measured here is time that passes.
    while begun.elapsed() < Duration::from_secs(1) {
        std::thread::park_timeout(Duration::from_secs(1).saturating_sub(begun.elapsed()));
    }
    computed() - before
}

pub fn active(run: &Value) -> usize {
    let members = run["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().filter(|member| member["status"] == "active").count()
}

pub fn whole(run: &Value) -> bool {
    run["ended"] == true && run["root"][0] == run["version"]
}

pub fn json(dir: &Path, arguments: &[&str]) -> Value {
    let output = talkoo(dir).args(arguments).output().expect("talkoo runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

pub fn stop(peer: &mut Peer) {
    let pid = peer.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    assert!(peer.0.wait().expect("the process ends").success(), "a stopped node ends cleanly");
}

/// Addresses of this machine whose ports were free a moment ago, each another one.
pub fn free(n: usize) -> Vec<String> {
    let sockets: Vec<UdpSocket> = (0..n).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket")).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("bound").to_string()).collect()
}

/// Data folders, each with a seat in the network `lab`, and where their nodes listen.
pub struct Lab {
    pub dirs: Vec<PathBuf>,
    pub binds: Vec<String>,
    pub chain: Value,
}

/// Founds a network of four in `stage`, as its owners would; no node runs yet.
pub fn lab(stage: &Path) -> Lab {
    founded(stage, 4)
}

/// The same, of `n`; its file is `stage`/lab.network.
pub fn founded(stage: &Path, n: usize) -> Lab {
    let dirs: Vec<PathBuf> = (0..n).map(|i| stage.join(format!("node-{i}"))).collect();
    let binds = free(n);
    let file = stage.join("lab.network");
    let file = file.to_str().expect("utf-8");
    let seat = |i: usize| json(&dirs[i], &["--bind", &binds[i], "network", "seat"])["seat"].clone();
    let seats: Vec<Value> = (0..n).map(seat).collect();
    let mut create = vec!["network", "create", "lab", "--out", file];
    seats.iter().for_each(|seat| create.extend(["--seat", seat.as_str().expect("a seat")]));
    let chain = json(&dirs[0], &create)["chain"].clone();
    dirs.iter().for_each(|dir| assert_eq!(json(dir, &["network", "join", file])["chain"], chain));
    Lab { dirs, binds, chain }
}
