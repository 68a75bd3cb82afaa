//! A node goes on with another program: one that works stays, one that does not is taken back.

mod common;

use common::{Peer, UP, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program in a place of its own, and a node on a folder of its own.
struct Installed {
    program: PathBuf,
    data: PathBuf,
    releases: PathBuf,
    secret: PathBuf,
    key: String,
}

impl Installed {
    fn new(stage: &Path) -> Self {
        let program = stage.join("talkoo");
        std::fs::copy(env!("CARGO_BIN_EXE_talkoo"), &program).expect("installed");
        let (data, releases, secret) = (stage.join("node"), stage.join("releases"), stage.join("secret"));
        let mut installed = Self { program, data, releases, secret, key: String::new() };
        let made = installed.json(&["release", "key", installed.secret.to_str().expect("a path")]);
        installed.key = made["key"].as_str().expect("a key").to_owned();
        installed
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--bind", "127.0.0.1:0", "--no-mdns", "--threads", "1", "--json", "--data"]).arg(&self.data);
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).output().expect("it runs");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"))
    }

    /// Signs a program.
    fn sign(&self, program: &Path) {
        let path = |path: &Path| path.to_str().expect("a path").to_owned();
        let (program, secret, out) = (path(program), path(&self.secret), path(&self.releases));
        let signed = self.json(&["release", "sign", &program, "--key", &secret, "--out", &out]);
        assert_eq!(signed["key"], self.key.as_str(), "{signed}");
    }

    /// A release that is a script: what it does when it is to be a node.
    fn release(&self, version: &str, does: &str) {
        let script = self.data.with_file_name("script");
        let text = format!("#!/bin/sh\n[ \"$1\" = --version ] && echo talkoo {version} && exit\n{does}\n");
        std::fs::write(&script, text).expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("allowed");
        self.sign(&script);
    }

    fn update(&self, more: &[&str]) -> Value {
        let from = self.releases.to_str().expect("a path");
        self.json(&[&["update", "--from", from, "--trust", &self.key], more].concat())
    }

    fn text(&self) -> Vec<u8> {
        std::fs::read(&self.program).expect("read")
    }

    fn answers(&self, what: &str) -> Value {
        until(what, || {
            let said = self.json(&["status"]);
            if said["panel"]["node"]["key"].is_string() { Ok(said["panel"].clone()) } else { Err(said.to_string()) }
        })
    }
}

#[test]
fn a_release_that_works_stays_and_a_broken_one_is_taken_back() {
    let stage = tempfile::tempdir().expect("a folder");
    let installed = Installed::new(stage.path());
    // What nobody trusted signed is not installed, whoever asks for it.
    installed.release("9.1.0", "exit 3");
    let from = installed.releases.to_str().expect("a path");
    let refused = installed.json(&["update", "--from", from, "--trust", &"ab".repeat(32)]);
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("does not trust")), "{refused}");
    assert_eq!(installed.update(&["--check"])["newer"], true);
    std::fs::remove_dir_all(&installed.releases).expect("removed");

    let mut child = installed.command(&UP).stdout(Stdio::piped()).spawn().map(Peer).expect("the node starts");
    let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
    lines.next().expect("a line").expect("read");
    let before = installed.answers("the node");

    // One that does not become a node is left; it never was where the old one is.
    let was = installed.text();
    installed.release("9.1.0", "exit 3");
    let broken = installed.update(&[]);
    assert!(broken["error"].as_str().is_some_and(|error| error.contains("it ended")), "{broken}");
    assert!(installed.text() == was, "the old program is where it was");
    let back = installed.answers("the node with the program before");
    assert_eq!(back["node"]["key"], before["node"]["key"]);
    assert!(child.0.try_wait().expect("asked").is_none(), "the process that was begun goes on");

    // Bytes that are not those that were signed are not even tried.
    let program = std::fs::read_dir(&installed.releases).expect("a folder").flatten();
    let program = program.map(|entry| entry.path()).find(|path| path.extension().is_none_or(|end| end != "release"));
    std::fs::write(program.expect("the release"), "#!/bin/sh\necho talkoo 9.1.0\n").expect("written");
    let changed = installed.update(&[]);
    assert!(changed["error"].as_str().is_some_and(|error| error.contains("not what was released")), "{changed}");
    assert!(installed.answers("the node")["node"]["uptime_s"].as_u64() >= back["node"]["uptime_s"].as_u64());
    std::fs::remove_dir_all(&installed.releases).expect("removed");

    // The same program with other bytes works: the process keeps its id, the folder its key.
    let good = installed.data.with_file_name("good");
    std::fs::copy(env!("CARGO_BIN_EXE_talkoo"), &good).expect("copied");
    let append = std::fs::OpenOptions::new().append(true).open(&good);
    append.and_then(|mut file| file.write_all(b"another build")).expect("written");
    installed.sign(&good);
    for _ in 0..2 {
        let done = installed.update(&["--force"]);
        assert_eq!(done["healthy"], true, "{done}");
        let after = installed.answers("the node with another program");
        assert_eq!(after["node"]["key"], before["node"]["key"]);
        assert!(child.0.try_wait().expect("asked").is_none(), "the process that was begun goes on");
        assert!(installed.text().ends_with(b"another build"), "the release is what runs from now on");
    }
    let kept = stage.path().join("talkoo.old");
    assert!(std::fs::metadata(&kept).expect("the old program").len() > 1 << 20);

    let down = installed.json(&["down"]);
    assert_eq!(down["stopped"], true, "{down}");
    assert!(child.0.wait().expect("it ends").success());
}

#[test]
fn a_release_goes_from_peer_to_peer() {
    let stage = tempfile::tempdir().expect("a folder");
    let place = |name: &str| {
        let place = stage.path().join(name);
        std::fs::create_dir(&place).expect("a folder");
        Installed::new(&place)
    };
    let (giver, mut taker) = (place("giver"), place("taker"));
    taker.key.clone_from(&giver.key);
    let good = stage.path().join("good");
    std::fs::copy(env!("CARGO_BIN_EXE_talkoo"), &good).expect("copied");
    let append = std::fs::OpenOptions::new().append(true).open(&good);
    append.and_then(|mut file| file.write_all(b"another build")).expect("written");
    giver.sign(&good);
    let done = giver.update(&["--force"]);
    assert!(done["installed"].is_string(), "{done}");

    // Who runs a release gives it to whoever has its ticket.
    let mut child = giver.command(&UP).stdout(Stdio::piped()).spawn().map(Peer).expect("the node starts");
    let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();
    let said: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let sockets: Vec<std::net::SocketAddr> = said["addresses"]
        .as_array()
        .expect("addresses")
        .iter()
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect();
    let text = |what: &str| said[what].as_str().expect("a text").to_owned();
    let peers = vec![net::Address { node: text("node").parse().expect("a key"), sockets, relay: None }];
    let chain = text("chain").parse().expect("a hash");
    let ticket = net::Ticket { chain, run: base::Hash::default(), anchor: None, peers }.to_string();
    let taken = |key: &str, more: &[&str]| taker.json(&[&["update", "--from", &ticket, "--trust", key], more].concat());
    let nobody = taken(&"ab".repeat(32), &["--force"]);
    assert!(nobody["error"].as_str().is_some_and(|error| error.contains("no peer gives")), "{nobody}");
    let before = taker.text();
    assert_eq!(taken(&giver.key, &["--check"])["newer"], false);
    assert!(taker.text() == before, "only looked at");
    let done = taken(&giver.key, &["--force"]);
    assert!(done["installed"].is_string(), "{done}");
    assert!(taker.text().ends_with(b"another build"));
    drop(child);

    // Now it is given here, too: the running node is who is asked.
    let alone = taker.json(&["update", "--trust", &giver.key, "--force"]);
    assert!(alone["error"].as_str().is_some_and(|error| error.contains("no node runs here")), "{alone}");
    let child = taker.command(&UP).stdout(Stdio::null()).spawn().map(Peer).expect("the node starts");
    taker.answers("the node");
    let done = taker.json(&["update", "--trust", &giver.key, "--force"]);
    assert_eq!(done["healthy"], true, "{done}");
    drop(child);
}
