//! Real processes: four validators on one machine order a run that they train themselves; the one that
//! created it is killed for good, and rounds and pay go on.

mod common;
#[path = "common/due.rs"]
mod due;

use base::NodeId;
use common::{Lab, Peer, RUN, active, json, start, watch, whole};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// The worker without a seat: it was paid on the chain that it follows, and its own network is another. Gives its key
/// and what it was paid.
fn followed(dir: &Path) -> (NodeId, u64) {
    let status = json(dir, &["chain", "status", "--network", "lab"]);
    assert_eq!((status["role"].as_str(), &status["trouble"]), (Some("follows"), &Value::Null));
    let paid = json(dir, &["wallet", "balance", "--network", "lab"])["node"].as_u64().expect("an amount");
    assert!(paid > 0, "work is paid");
    let history = json(dir, &["wallet", "history", "--network", "lab", "--count", "100000"]);
    let entries = history.as_array().expect("a list");
    let seen: u64 = entries.iter().filter(|e| e["what"] == "paid").filter_map(|e| e["in_micro"].as_u64()).sum();
    assert_eq!(seen, paid, "every payment is in the history");
    assert_eq!(json(dir, &["network", "show"]).as_array().map(Vec::len), Some(2), "its own, and the one of the ticket");
    let shown = json(dir, &["wallet", "show"]);
    (shown["key"].as_str().expect("a key").parse().expect("64 digits"), paid)
}

#[test]
fn four_validators_outlive_the_creator_of_their_run() {
    let begun = Instant::now();
    let stage = tempfile::tempdir().expect("a folder");
    let Lab { dirs, binds, chain } = common::lab(stage.path());
    let dir = |i: usize| dirs.get(i).cloned().unwrap_or_else(|| stage.path().join("worker"));

    let run = stage.path().join("run.toml");
    std::fs::write(&run, format!("{}[pay]\nbudget = \"8\"\n", RUN.replace("tokens = 12000", "tokens = 16000")))
        .expect("written");
    let up = |i: usize| common::up(&dir(i), &["--bind", &binds[i]]);
    let mut others: Vec<Peer> = (1..4).map(up).collect();
    let create = ["--bind", &binds[0], "train", "create", run.to_str().expect("utf-8")];
    let (mut creator, mut lines) = start(&dir(0), &create);
    let created: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let ticket = created["ticket"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
    for i in 1..4 {
        json(&dir(i), &["train", "join", &ticket]);
    }
    // A fifth has no seat: it follows the chain, trains, and finds another keeper when the first is gone.
    let (worker, _lines) = start(&dir(4), &["train", "join", &ticket]);
    others.push(worker);
    watch(&dir(1), begun, "a round of five", |run| active(run) == 5);
    creator.0.kill().expect("SIGKILL");
    creator.0.wait().expect("gone");

    let ends: Vec<Value> = (1..5).map(|i| watch(&dir(i), begun, "the end", whole)).collect();
    for end in &ends {
        assert_eq!(end["root"], ends[0]["root"], "everybody ends with the same weights");
    }
    let shown = json(&dir(2), &["chain", "status"]);
    assert_eq!(shown["validators"].as_array().map(Vec::len), Some(4));
    assert_eq!(shown["chain"], chain);
    // Budget and opening balances of all four, less the fee of paying in: the dead one's account included.
    assert_eq!(shown["supply_micro"].as_u64(), Some(10_000_000_000 - 1_000));
    let held = due::held(&dir(3), &chain, &ends[2]);
    let (worker, paid) = followed(&dir(4));
    let height = shown["height"].as_u64().expect("a height");
    let at = |i: usize| json(&dir(i), &["chain", "block", &height.to_string()])["hash"].clone();
    let (one, two, three) = (at(1), at(2), at(3));
    assert_eq!(one, two, "one chain");
    assert_eq!(one, three, "one chain");
    for peer in &mut others {
        common::stop(peer);
    }
    // The blocks tell who did how much in which round: the budget is spent, and each has its part of it.
    let due = due::due(&dir(3), &chain, &ends[2]["run"]);
    due.is_held(&held);
    assert_eq!((due.earned(&worker), due.spent()), (paid, (8_000_000, 0)));
}
