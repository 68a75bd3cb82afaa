//! Real processes: a place in the network of somebody else, taken and given up without a word of its owner.

mod common;

use common::{Lab, Peer, RUN, json, says, shows, start, stop};
use serde_json::Value;
use std::path::Path;

/// Tokens of a node that counted in its run, by its status; `None` while it has none.
fn counted(status: &Value) -> Option<u64> {
    let members = status["runs"][0]["members"].as_array()?;
    members.iter().find(|member| member["node"] == status["node"])?["tokens"].as_u64()
}

fn contribute(dir: &Path) -> Peer {
    let (peer, mut lines) = start(dir, &["up", "--when", "always"]);
    lines.next().expect("a line").expect("read");
    peer
}

fn set(dir: &Path, pay_min: &str) {
    let file = dir.join("talkoo.toml");
    let text = std::fs::read_to_string(&file).expect("settings");
    let lines = text.lines().map(|line| match line.trim_start_matches('#').starts_with("pay_min") {
        true => format!("pay_min = \"{pay_min}\"\n"),
        false => format!("{line}\n"),
    });
    std::fs::write(&file, lines.collect::<String>()).expect("written");
}

#[test]
fn a_place_that_pays_is_taken_and_given_up_when_it_pays_too_little() {
    let stage = tempfile::tempdir().expect("a folder");
    let Lab { dirs, binds, .. } = common::founded(stage.path(), 1);
    let run = stage.path().join("run.toml");
    let text = format!("{}[pay]\nbudget = \"8\"\n", RUN.replace("tokens = 12000", "tokens = 4000000"));
    std::fs::write(&run, text).expect("written");
    let create = ["--bind", &binds[0], "train", "create", run.to_str().expect("utf-8")];
    let (_founder, mut lines) = start(&dirs[0], &create);
    let created: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");

    // Who comes to a network of one that is another's trains there, not an example of its own.
    let dir = stage.path().join("newcomer");
    let file = stage.path().join("lab.network");
    json(&dir, &["network", "join", file.to_str().expect("utf-8")]);
    let mut newcomer = contribute(&dir);
    let status = says(&dir, "a unit that counts", |status| counted(status) > Some(0));
    assert_eq!(status["runs"][0]["run"], created["run"]);
    assert_eq!(json(&dir, &["status"])["panel"]["network"]["alone"], false);
    stop(&mut newcomer);

    // Its owner wants more: the place is given up, and not taken again.
    set(&dir, "1000000");
    let mut newcomer = contribute(&dir);
    let members = |dir: &Path| json(dir, &["status"])["runs"][0]["members"].as_array().map_or(0, Vec::len);
    says(&dir, "it left", |status| counted(status).is_none() && members(&dirs[0]) == 1);
    assert_eq!(json(&dir, &["status"])["runs"], serde_json::json!([]));

    // What its owner joins is kept, whatever it pays.
    json(&dir, &["train", "join", created["ticket"].as_str().expect("a ticket")]);
    let before = counted(&says(&dir, "it is back", |status| counted(status).is_some())).expect("it is back");
    says(&dir, "another unit", |status| counted(status) > Some(before + 128));
    // And what its owner leaves stays left, however well it pays.
    json(&dir, &["train", "leave", created["run"].as_str().expect("a run")]);
    stop(&mut newcomer);
    set(&dir, "0.1");
    let mut newcomer = contribute(&dir);
    let looked = shows(&dir, "it looked for work", |panel| {
        let idle = |part: &&Value| part["code"] == "no_run" || part["code"] == "not_offered";
        let minutes = panel["today"]["minutes"].as_array().into_iter().flatten().filter(idle);
        minutes.filter_map(|part| part["seconds"].as_u64()).sum::<u64>() > 3
    });
    assert_eq!(looked["runs"], serde_json::json!([]));
    stop(&mut newcomer);
}
