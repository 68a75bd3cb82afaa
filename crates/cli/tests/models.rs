//! Models on disk, with real processes: from peers, many at a time; from a hub that breaks off and lies; checked before use.

#![cfg(feature = "serve")]

#[path = "common/api.rs"]
mod api;
mod common;
#[path = "common/hub.rs"]
mod hub;

use api::{opened, random_model};
use common::{json, stop, talkoo, up};
use hub::{COMMIT, Hub, sha256};
use serde_json::Value;
use std::path::Path;

const MIB: usize = 1 << 20;

/// A file that looks like a model from outside, of bytes that do not repeat.
fn content(mib: usize, seed: u64) -> Vec<u8> {
    let mut rng = base::Rng::new(seed);
    let words = (0..mib * MIB / 8).flat_map(|_| rng.next_u64().to_le_bytes());
    let mut bytes: Vec<u8> = words.collect();
    bytes[..4].copy_from_slice(b"GGUF");
    bytes
}

/// What a command that must fail says.
fn refused(dir: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = talkoo(dir).envs(environment.iter().copied()).args(arguments).output().expect("talkoo runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{arguments:?}: {text}");
    let said: Value = serde_json::from_str(&text).expect("JSON");
    said["error"].as_str().expect("an error").to_owned()
}

fn pulled(dir: &Path, environment: &[(&str, &str)], what: &str) -> Value {
    let output = talkoo(dir).envs(environment.iter().copied()).args(["model", "pull", what]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    serde_json::from_str(&text).expect("JSON")
}

fn sent(dir: &Path) -> u64 {
    json(dir, &["status"])["sent_bytes"].as_u64().expect("a number")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

#[test]
fn a_model_comes_from_peers_together_and_goes_on_where_it_was() {
    let stage = tempfile::tempdir().expect("a folder");
    let dirs: Vec<_> = ["first", "second", "third"].map(|name| stage.path().join(name)).to_vec();
    let bytes = content(24, 1);
    let file = stage.path().join("neighbour.gguf");
    std::fs::write(&file, &bytes).expect("written");
    let added = json(&dirs[0], &["model", "add", text(&file)]);
    assert_eq!(added["sha256"], sha256(&bytes));
    // Published while the node runs: it is given away at once.
    let mut first = up(&dirs[0], &[]);
    assert!(json(&dirs[0], &["model", "show", "neighbour"])["ticket"].is_null());
    let ticket = json(&dirs[0], &["model", "publish", "neighbour"])["ticket"].as_str().expect("a ticket").to_owned();
    let got = pulled(&dirs[1], &[], &ticket);
    assert_eq!((&got["hash"], &got["name"]), (&added["hash"], &added["name"]));
    assert_eq!(std::fs::read(got["path"].as_str().expect("a path")).expect("there"), bytes);
    // Published before the node runs: it is given away from its beginning on. Both bring it to the third.
    json(&dirs[1], &["model", "publish", "neighbour"]);
    let _second = up(&dirs[1], &[]);
    let before = sent(&dirs[0]);
    // Half of it arrived before: that half is not moved again.
    let arriving = dirs[2].join("models/arriving");
    std::fs::create_dir_all(&arriving).expect("made");
    std::fs::write(arriving.join(added["hash"].as_str().expect("a hash")), &bytes[..12 * MIB]).expect("written");
    pulled(&dirs[2], &[], &ticket);
    let (from_first, from_second) = (sent(&dirs[0]) - before, sent(&dirs[1]));
    assert_eq!(from_first + from_second, 12 * MIB as u64, "each missing byte once");
    assert!(from_second > 0, "the second one was found by what it says, and helped");
    json(&dirs[2], &["model", "verify"]);
    // Not given any more: nobody gets it there; and without it, nobody at all.
    let shown = json(&dirs[0], &["model", "publish", "neighbour", "--stop"]);
    assert!(shown["ticket"].is_null());
    json(&dirs[1], &["model", "rm", "neighbour"]);
    let fourth = stage.path().join("fourth");
    assert!(refused(&fourth, &[], &["model", "pull", &ticket]).contains("no peer has all of"));
    assert!(json(&fourth, &["model", "ls"])["models"].as_array().expect("a list").is_empty());
    stop(&mut first);
}

/// A hub with two models, and what makes a process use it.
fn hub_with(bytes: &[u8]) -> (Hub, String) {
    let hub = hub::hub();
    let mut state = hub.state.lock().expect("mine");
    state.files.insert("tiny-Q8_0.gguf".into(), bytes.to_vec());
    state.files.insert("tiny-Q2_K.gguf".into(), content(1, 9));
    state.files.insert("README.md".into(), b"# tiny".to_vec());
    drop(state);
    let address = hub.address.clone();
    (hub, address)
}

#[test]
fn a_model_comes_from_a_hub_that_breaks_off() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("node");
    let home = stage.path().join("home");
    let bytes = content(5, 2);
    let (hub, address) = hub_with(&bytes);
    let environment = [("HF_ENDPOINT", address.as_str()), ("HF_HOME", text(&home)), ("HF_TOKEN", "")];
    // Which one is not said: the answer names them.
    let several = refused(&dir, &environment, &["model", "pull", "org/repo"]);
    assert!(several.contains("tiny-Q8_0.gguf") && several.contains("tiny-Q2_K.gguf"), "{several}");
    hub.state.lock().expect("mine").breaks_after = Some(2 * MIB);
    let got = pulled(&dir, &environment, "org/repo:Q8_0");
    assert_eq!(got["sha256"], sha256(&bytes));
    assert_eq!(got["hub"]["revision"], COMMIT);
    assert_eq!(std::mem::take(&mut hub.state.lock().expect("mine").begun), [0, 2 * MIB, 4 * MIB]);
    // It is there: nothing is fetched again. Removed, it comes from the cache of the hub's own tools.
    pulled(&dir, &environment, "org/repo:Q8_0");
    json(&dir, &["model", "rm", "tiny-Q8_0"]);
    let blobs = home.join("hub/models--org--repo/blobs");
    std::fs::create_dir_all(&blobs).expect("made");
    std::fs::write(blobs.join(sha256(&bytes)), &bytes).expect("written");
    pulled(&dir, &environment, "org/repo/tiny-Q8_0.gguf");
    assert!(hub.state.lock().expect("mine").begun.is_empty());
}

#[test]
fn a_hub_that_lies_or_demands_a_token() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("node");
    let bytes = content(2, 3);
    let (hub, address) = hub_with(&bytes);
    let home = stage.path().join("home");
    let environment = [("HF_ENDPOINT", address.as_str()), ("HF_HOME", text(&home)), ("HF_TOKEN", "")];
    hub.state.lock().expect("mine").sums.insert("tiny-Q8_0.gguf".into(), sha256(b"another"));
    let lied = refused(&dir, &environment, &["model", "pull", "org/repo:Q8_0"]);
    assert!(lied.contains("not what the hub says"), "{lied}");
    assert!(json(&dir, &["model", "ls"])["models"].as_array().expect("a list").is_empty());
    {
        let mut state = hub.state.lock().expect("mine");
        state.sums.clear();
        state.token = Some("secret".into());
    }
    assert!(refused(&dir, &environment, &["model", "pull", "org/repo:Q8_0"]).contains("HF_TOKEN"));
    std::fs::create_dir_all(&home).expect("made");
    std::fs::write(home.join("token"), "wrong\n").expect("written");
    let wrong = refused(&dir, &environment, &["model", "pull", "org/repo:Q8_0"]);
    assert!(wrong.contains("does not open") && !wrong.contains("wrong\n"), "{wrong}");
    let with = [environment[0], environment[1], ("HF_TOKEN", "secret")];
    pulled(&dir, &with, "org/repo:Q8_0");
    // Who pulled it gives it on; when its node is gone, its ticket still leads to the hub.
    json(&dir, &["model", "publish", "tiny-Q8_0"]);
    let mut node = up(&dir, &[]);
    let ticket = json(&dir, &["model", "show", "tiny-Q8_0"])["ticket"].as_str().expect("a ticket").to_owned();
    stop(&mut node);
    hub.state.lock().expect("mine").begun.clear();
    assert_eq!(pulled(&stage.path().join("late"), &with, &ticket)["sha256"], sha256(&bytes));
    assert_eq!(hub.state.lock().expect("mine").begun, [0]);
    // A hub that is away, and one that has another file by now.
    hub.state.lock().expect("mine").files.insert("tiny-Q8_0.gguf".into(), content(2, 4));
    let other = refused(&stage.path().join("later"), &with, &["model", "pull", &ticket]);
    assert!(other.contains("another one than the ticket says"), "{other}");
    let away = [("HF_ENDPOINT", "http://127.0.0.1:1"), environment[1], ("HF_TOKEN", "")];
    assert!(refused(&dir, &away, &["model", "pull", "org/other"]).contains("cannot be reached"));
    assert!(refused(&dir, &away, &["model", "pull", "nonsense"]).contains("names no model"));
}

#[test]
fn a_model_is_served_by_name_and_not_when_it_was_changed() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("node");
    let file = stage.path().join("own.gguf");
    random_model(&file, "nano");
    let added = json(&dir, &["model", "add", text(&file), "--name", "mine"]);
    let mut api = opened(&dir, &["--model", "mine", "--parallel", "1"]);
    assert_eq!(api.get("/v1/models")["data"][0]["id"], "mine");
    // Published while it is served.
    assert!(json(&dir, &["model", "publish", "mine"])["ticket"].is_string());
    stop(&mut api.peer);
    let path = added["path"].as_str().expect("a path");
    let mut bytes = std::fs::read(path).expect("there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).expect("written");
    assert!(refused(&dir, &[], &["model", "verify", "mine"]).contains("damaged"));
    let serve = ["serve", "--listen", "127.0.0.1:0", "--model", "mine"];
    assert!(refused(&dir, &[], &serve).contains("has changed since it came"));
    assert!(refused(&dir, &[], &["serve", "--model", "unknown"]).contains("talkoo model ls"));
}
