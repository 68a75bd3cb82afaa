//! Real processes: three peers train, one is killed with SIGKILL and comes back by itself, the run
//! ends with equal roots, a replay of the log ends in that root, and the model is exported.

mod common;
#[path = "common/due.rs"]
mod due;

use base::NodeId;
use common::{RUN, active, json, start, stop, talkoo, watch, whole};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

#[test]
fn three_peers_a_kill_a_return_and_a_replay() {
    let begun = Instant::now();
    let stage = tempfile::tempdir().expect("a folder");
    let dir = |name: &str| stage.path().join(name);
    let file = dir("run.toml");
    std::fs::write(&file, RUN).expect("written");
    let (mut a, mut lines) = start(&dir("a"), &["train", "create", file.to_str().expect("utf-8")]);
    let created: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let ticket = created["ticket"].as_str().expect("a ticket").to_owned();
    let funded = json(&dir("a"), &["wallet", "fund", "end-to-end", "5", "--yes"]);
    assert!(funded["final_at"].is_u64(), "{funded}");
    let (mut b, _) = start(&dir("b"), &["train", "join", &ticket]);
    let (mut c, _) = start(&dir("c"), &["train", "join", &ticket]);

    watch(&dir("a"), begun, "a round of three", |run| active(run) == 3);
    c.0.kill().expect("SIGKILL");
    c.0.wait().expect("gone");
    let run = watch(&dir("a"), begun, "a round without the killed one", |run| active(run) == 2);
    assert_eq!(run["ended"], false, "the run outlives its member");
    let again = common::up(&dir("c"), &[]);
    c = again;
    watch(&dir("a"), begun, "the return", |run| active(run) == 3 || run["ended"] == true);

    let ends = ["a", "b", "c"].map(|name| watch(&dir(name), begun, "the end", whole));
    for end in &ends {
        assert_eq!(end["root"], ends[0]["root"], "every peer ends with the same weights");
    }
    let (chain, held) = accounted(&dir("a"), &ends[0]);
    for peer in [&mut a, &mut b, &mut c] {
        stop(peer);
    }
    paid_by_tokens(&dir("a"), &chain, &ends[0], &held);
    let mut again = common::up(&dir("a"), &[]);
    let shown = watch(&dir("a"), begun, "the run after a restart", whole);
    assert_eq!(shown["agreed"], ends[0]["root"], "the last root is on the log");
    let ticket = json(&dir("a"), &["train", "show"])["ticket"].as_str().expect("a ticket").to_owned();
    let (mut late, _) = start(&dir("late"), &["train", "join", &ticket]);
    let got = watch(&dir("late"), begun, "the weights of a run that has ended", whole);
    assert_eq!(got["root"], ends[0]["root"], "who comes after the end gets the last weights");
    for peer in [&mut again, &mut late] {
        stop(peer);
    }
    let replayed = json(&dir("a"), &["train", "replay"]);
    assert_eq!(replayed["root"], ends[0]["root"][1], "a replay ends in the run's root");
    assert_eq!(replayed["units"], replayed["equal"], "every unit came out the same");
    let out = dir("model");
    json(&dir("a"), &["train", "export", out.to_str().expect("utf-8")]);
    // Without a model and a network, what was trained here answers.
    if cfg!(feature = "serve") {
        let said = json(&dir("a"), &["run", "end-to-end", "ROMEO:", "--max-tokens", "8", "--temperature", "0"]);
        assert_eq!(said["model"], "end-to-end");
        assert!(said["tokens"].as_u64().is_some_and(|n| n > 0), "{said}");
    }
    let runs = std::fs::read_dir(dir("b").join("runs")).expect("runs");
    let run = runs.flatten().next().expect("one run").path();
    let checkpoints: Vec<_> = std::fs::read_dir(run.join("checkpoints")).expect("written").flatten().collect();
    assert_eq!(checkpoints.len(), 2, "the newest two checkpoints stay");
    checkpoints.iter().for_each(|dir| drop(model::load(&dir.path()).expect("a checkpoint is a model")));
    assert!(std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics").lines().count() > 10);
    let (config, theta) = model::load(&out).expect("the exported model loads");
    assert_eq!(config.hidden_size, 64);
    assert!(theta.iter().all(|x| x.is_finite()));
    go_on_from(&out, &dir("d"), begun);
}

/// Nothing but the budget and its fee came or went. Gives the chain, and what each member holds.
fn accounted(keeper: &Path, end: &Value) -> (Value, BTreeMap<NodeId, u64>) {
    let chain = json(keeper, &["chain", "status"]);
    let held = due::held(keeper, &chain["chain"], end);
    let all: u64 = held.values().sum();
    assert_eq!(chain["supply_micro"].as_u64(), Some(all), "every credit is on some account");
    assert_eq!(all, 10_000_000_000 - 1_000, "what was there at the beginning, less one fee");
    let block = json(keeper, &["chain", "block", "1"]);
    assert!(block["hash"].as_str().is_some_and(|hash| hash.len() == 64));
    (chain["chain"].clone(), held)
}

/// The run's budget is spent, and each member has its part of it by tokens, to the last micro-credit.
fn paid_by_tokens(keeper: &Path, chain: &Value, end: &Value, held: &BTreeMap<NodeId, u64>) {
    let due = due::due(keeper, chain, &end["run"]);
    due.is_held(held);
    assert_eq!(due.spent(), (5_000_000, 0));
    assert!(held.keys().all(|member| due.earned(member) > 0), "work is paid: {due:#?}");
}

/// A run that starts from a published model ends with other weights than it began with, and is replayed.
fn go_on_from(model: &Path, dir: &Path, begun: Instant) {
    std::fs::create_dir_all(dir).expect("created");
    let file = dir.join("run.toml");
    let init = format!("init = {:?}", model.to_str().expect("utf-8"));
    std::fs::write(&file, RUN.replace("size = \"nano\"", &init).replace("tokens = 12000", "tokens = 3000"))
        .expect("written");
    let (mut peer, _lines) = start(dir, &["train", "create", file.to_str().expect("utf-8")]);
    let end = watch(dir, begun, "the end of the second run", whole);
    stop(&mut peer);
    let replayed = json(dir, &["train", "replay"]);
    assert_eq!(replayed["root"], end["root"][1], "a replay from published weights ends in the run's root");
}

/// Local rounds whose communication lags one round behind (the first twenty from random weights do
/// not): a member trains from what it has, less its own update under way, and a replay finds the same.
#[test]
fn two_peers_train_while_updates_travel() {
    let begun = Instant::now();
    let stage = tempfile::tempdir().expect("a folder");
    let dir = |name: &str| stage.path().join(name);
    let file = dir("run.toml");
    let run = RUN.replace("mode = \"gradients\"", "mode = \"local\"\ndensity = 0.25\nbits = 2\ndelay = 1");
    let run = run.replace("tokens = 12000", "tokens = 60000").replace("target_seconds = 1", "target_seconds = 0.01");
    std::fs::write(&file, run).expect("written");
    let (_a, mut lines) = start(&dir("a"), &["train", "create", file.to_str().expect("utf-8"), "--members", "2"]);
    let created: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let (_b, _) = start(&dir("b"), &["train", "join", created["ticket"].as_str().expect("a ticket")]);
    let ends = ["a", "b"].map(|name| watch(&dir(name), begun, "the end", whole));
    assert_eq!(ends[0]["root"], ends[1]["root"], "both end with the same weights");
    assert!(ends[0]["version"].as_u64().expect("a number") > 30, "most rounds ran with delay: {}", ends[0]["version"]);
    drop(_a);
    let replayed = json(&dir("a"), &["train", "replay"]);
    assert_eq!(replayed["root"], ends[0]["root"][1], "a replay ends in the run's root");
    assert_eq!(replayed["units"], replayed["equal"], "every unit came out the same");
    assert_eq!(replayed["inherited"], 1, "the second member went on from the moments of the first");
}

/// One bit of the weights, of the private states and of the data is wrong when a killed peer comes
/// back: it fetches what others have, declares lost what nobody has, and goes on.
#[test]
fn damaged_files_are_noticed_and_fetched_or_declared_lost() {
    let begun = Instant::now();
    let stage = tempfile::tempdir().expect("a folder");
    let dir = |name: &str| stage.path().join(name);
    let file = dir("run.toml");
    std::fs::write(&file, RUN.replace("tokens = 12000", "tokens = \"1B\"")).expect("written");
    let (_a, mut lines) = start(&dir("a"), &["train", "create", file.to_str().expect("utf-8")]);
    let created: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let (mut b, _) = start(&dir("b"), &["train", "join", created["ticket"].as_str().expect("a ticket")]);
    let two = |run: &Value| run["rounds"].as_array().and_then(|r| r.last()).is_some_and(|round| round["set"] == 2);
    watch(&dir("b"), begun, "a round of two", two);
    b.0.kill().expect("SIGKILL");
    b.0.wait().expect("gone");
    let mut damaged = 0;
    for folder in ["runs", "corpora"] {
        for path in files(&dir("b").join(folder)) {
            let name = path.to_string_lossy().into_owned();
            if name.ends_with("/weights") || name.contains("/private/") || name.ends_with(".bin") {
                let mut bytes = std::fs::read(&path).expect("read");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
                std::fs::write(&path, bytes).expect("written");
                damaged += 1;
            }
        }
    }
    assert!(damaged >= 3, "weights, private state and data: {damaged}");
    let before = watch(&dir("a"), begun, "a version", |run| run["version"].as_u64() > Some(0));
    let before = before["version"].as_u64().expect("a number");
    let _b = common::up(&dir("b"), &[]);
    let run =
        watch(&dir("b"), begun, "a round of two again", |run| run["version"].as_u64() > Some(before + 2) && two(run));
    assert_eq!(run["trouble"], Value::Null);
}

/// All files below a folder.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn errors_say_what_to_do() {
    let stage = tempfile::tempdir().expect("a folder");
    let file = stage.path().join("run.toml");
    std::fs::write(&file, RUN.replace("seed = 3", "sed = 3")).expect("written");
    let plan = |name: &str, from: &str, to: &str| {
        let file = stage.path().join(name);
        std::fs::write(&file, RUN.replace(from, to)).expect("written");
        file.to_str().expect("utf-8").to_owned()
    };
    let empty = plan("empty.toml", "seq_len = 32", "seq_len = 0");
    let huge = plan("huge.toml", "seq_len = 32", "seq_len = 1000000000");
    let rate = plan("rate.toml", "lr = 1e-3", "lr = -1");
    let late = plan("late.toml", "target_seconds = 1", "target_seconds = -1");
    let cases: [(&[&str], &str); 8] = [
        (&["train", "plan", &empty], "it can be 1 to 1048576"),
        (&["train", "plan", &huge], "it can be 1 to 1048576"),
        (&["train", "plan", &rate], "above 0, up to 1"),
        (&["train", "plan", &late], "up to 86400"),
        (&["status"], "talkoo up"),
        (&["train", "join", "talkoo1ff"], "copy the whole line"),
        (&["train", "plan", file.to_str().expect("utf-8")], "unknown field `sed`"),
        (&["train", "export", "x"], "holds no such run"),
    ];
    for (arguments, expected) in cases {
        let output = talkoo(stage.path()).args(arguments).output().expect("talkoo runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{arguments:?}: {text}");
    }
}
