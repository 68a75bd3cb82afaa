//! The owner comes first: one command contributes, shows what it does, makes room, and ends cleanly.

mod common;

use common::{Peer, json, shows, start, stop, talkoo};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

/// Starts a node as a stranger would, but for the machine's own idle time: tests run while somebody types.
fn contribute(dir: &Path, options: &[&str]) -> (Peer, Value) {
    let (peer, mut lines) = start(dir, &[&["up", "--when", "always"], options].concat());
    let ready = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    (peer, ready)
}

fn panel(dir: &Path) -> Value {
    json(dir, &["status"])["panel"].clone()
}

fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn a_stranger_contributes_with_one_command_and_asks_what_was_trained() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("node");
    let (mut peer, ready) = contribute(&dir, &[]);
    assert!(dir.join("talkoo.toml").exists(), "the settings are there to be read");
    // Alone, it trains the shipped example by itself.
    let first = shows(&dir, "the first unit", |panel| panel["runs"][0]["version"].as_u64() >= Some(1));
    assert_eq!((&first["network"]["alone"], &first["activity"]["state"]), (&true.into(), &"working".into()));
    // The page, as a browser gets it.
    let address = ready["page"].as_str().expect("a page").trim_start_matches("http://").trim_end_matches('/');
    let (head, page) = get(address, "/");
    assert!(head.contains(" 200 ") && head.contains("script-src 'self';"), "{head}");
    assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("onclick"), "nothing inline");
    for part in page.split('"').filter(|part| part.starts_with("/page/")) {
        assert!(get(address, part).0.contains(" 200 "), "{part}");
    }
    let (_, state) = get(address, "/api/state");
    let state: Value = serde_json::from_str(&state).expect("JSON");
    let run = state["runs"][0]["run"].as_str().expect("a run").to_owned();
    assert!(get(address, &format!("/api/runs/{run}")).1.contains("\"rounds\""));
    assert!(get(address, "/api/blocks?count=3").1.contains("\"transactions\""));
    assert!(get(address, "/api/blocks?count=many").0.contains(" 400 "));
    assert!(get(address, "/api/accounts/nobody").0.contains(" 404 "));
    // Every figure of the dashboard in packaging/ is there, by its name.
    let (_, metrics) = get(address, "/metrics");
    let dashboard = std::fs::read_to_string("../../packaging/grafana.json").expect("the dashboard");
    let names =
        dashboard.split(|c: char| !c.is_ascii_lowercase() && c != '_').filter(|name| name.starts_with("talkoo_"));
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        assert!(metrics.contains(&format!("# TYPE {} ", name.trim_end_matches("_bucket"))), "{name}");
    }
    // The owner needs the machine: at once nothing is computed any more, and nobody waits for it.
    let paused = json(&dir, &["pause", "2h"]);
    assert_eq!((&paused["state"], &paused["reason"]["code"]), (&"paused".into(), &"paused_by_owner".into()));
    assert!(paused["reason"]["until_ms"].as_u64() > paused["reason"]["since_ms"].as_u64());
    shows(&dir, "rest", |panel| panel["runs"][0]["waiting"].as_str().is_some_and(|text| text.starts_with("resting")));
    #[cfg(target_os = "linux")]
    {
        let used = common::computes(peer.0.id());
        assert!(used < 20, "{used} hundredths of a second in one second of rest");
    }
    // That is so after a restart, too.
    stop(&mut peer);
    let (mut peer, ready) = contribute(&dir, &[]);
    let address = ready["page"].as_str().expect("a page").trim_start_matches("http://").trim_end_matches('/');
    assert_eq!(panel(&dir)["activity"]["reason"]["code"], "paused_by_owner");
    assert_eq!(panel(&dir)["since_start"]["tokens_trained"], 0, "nothing yet, whatever was done before");

    let version = panel(&dir)["runs"][0]["version"].as_u64().expect("the run is there again");
    // It may have to fetch or to prepare something first.
    assert!(["working", "waiting"].contains(&json(&dir, &["resume"])["state"].as_str().expect("a state")));
    shows(&dir, "the next unit", |panel| panel["runs"][0]["version"].as_u64() > Some(version));
    // What was trained is served, and the running node is asked from another terminal.
    shows(&dir, "the model", |panel| panel["serving"]["models"][0]["local"] == true);
    let answer = json(&dir, &["run", "bard", "ROMEO:", "--max-tokens", "8", "--temperature", "0"]);
    assert_eq!((answer["tokens"].as_u64(), &answer["receipt"]["parts"][0]["tokens_written"]), (Some(8), &8.into()));
    // Every second of it has its reason, and what was earned is on the account: its owner's own books admitted the run.
    assert_eq!(json(&dir, &["finish"])["state"], "draining");
    let panel = shows(&dir, "the end of what was begun", |panel| panel["today"]["own_questions"] == 1);
    let run: Value = serde_json::from_str(&get(address, &format!("/api/runs/{run}")).1).expect("JSON");
    assert!(run["pay"]["own"]["units_paid"].as_u64() >= Some(2) && run["pay"]["admitted_permille"] == 500, "{run:#}");
    let number = |value: &Value| value.as_u64().expect("a number");
    let today = &panel["today"];
    let (earned, account) = (number(&today["earned_micro"]), &panel["account"]);
    let all = number(&account["balance_micro"]) + number(&account["bond_micro"]);
    assert!(earned > 0 && all == 10_000_000_000 + earned, "{today:#} {account:#}");
    assert_eq!((&panel["earnings"][0]["model"], &panel["earnings"][0]["device"]), (&"bard".into(), &"cpu".into()));
    assert_eq!((&today["questions_answered"], today["tokens_trained"].as_u64() > Some(0)), (&0.into(), true));
    let days: Value = serde_json::from_str(&get(address, "/api/days").1).expect("JSON");
    assert_eq!((&days[0]["date"], &days[0]["own_questions"]), (&today["date"], &1.into()));
    let minutes = panel["today"]["minutes"].as_array().expect("minutes");
    assert!(minutes.iter().any(|part| part["code"] == "paused_by_owner"), "{minutes:?}");
    assert!(panel["runs"][0]["heldout"].as_f64() > Some(0.0));
    let down = json(&dir, &["down"]);
    assert_eq!((&down["stopped"], &down["did"]["own_questions"]), (&true.into(), &1.into()));
    let since = number(&down["did"]["tokens_trained"]);
    assert!(since > 0 && since < number(&down["runs"][0]["tokens"][0]), "since it was started: {down:#}");
    assert!(peer.0.wait().expect("it ends").success());
    // Units that were let go of and begun anew came out as they had to: the whole run is done again, to the same weights.
    let replayed = json(&dir, &["train", "replay"]);
    assert_eq!((&replayed["same_end"], &replayed["equal"]), (&true.into(), &replayed["units"]), "{replayed}");
    // What it showed is looked at again, from its first moment on.
    let (_replay, mut lines) = start(&dir, &["replay"]);
    let ready: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    let address = ready["page"].as_str().expect("a page").trim_start_matches("http://").trim_end_matches('/');
    let last = get(address, "/api/state").1;
    let mut stream = TcpStream::connect(address).expect("connected");
    let head =
        "POST /api/replay HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: 8\r\n\r\n{{\"at\":0}}").as_bytes()).expect("sent");
    stream.read_to_string(&mut String::new()).expect("read");
    let first: Value = serde_json::from_str(&get(address, "/api/state").1).expect("JSON");
    let last: Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!(first["replay"]["at"], 0);
    assert!(last["runs"][0]["version"].as_u64() > first["runs"][0]["version"].as_u64());
}

#[test]
fn what_is_wrong_is_named_with_what_mends_it() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("node");
    let healthy = json(&dir, &["doctor"]);
    assert_eq!(healthy["healthy"], true, "{healthy}");
    let names: Vec<&str> =
        healthy["checks"].as_array().expect("checks").iter().filter_map(|check| check["name"].as_str()).collect();
    for name in ["settings", "data_folder", "processor", "disk_free_mb", "memory_free_mb", "node_running"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    // A key that is not known says which one was meant, wherever the settings are read.
    std::fs::write(dir.join("talkoo.toml"), "[schedule]\nquiet_hour = [\"mon 09:00-17:00\"]\n").expect("written");
    let says = "line 2: there is no `quiet_hour` here; did you mean `quiet_hours`?";
    for arguments in [&["up"][..], &["status"], &["doctor"]] {
        let output = talkoo(&dir).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && text.contains(says), "{arguments:?}: {text}");
    }
    let output = talkoo(&dir).args(["down"]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("talkoo up"), "what ends a node needs no settings");
    std::fs::write(dir.join("talkoo.toml"), "[schedule]\nquiet_hours = [\"someday 09:00-17:00\"]\n").expect("written");
    let output = talkoo(&dir).args(["up"]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("someday"), "{output:?}");
    std::fs::remove_file(dir.join("talkoo.toml")).expect("removed");
    for (arguments, says) in [
        (&["pause", "2d"][..], "no time such as"),
        (&["pause", "2h"], "talkoo up"),
        (&["resume"], "talkoo up"),
        (&["down"], "talkoo up"),
        (&["report"], "FILE"),
    ] {
        let output = talkoo(&dir).args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && text.contains(says), "{arguments:?}: {text}");
    }
    // A report shows what would be in it, and nobody's name.
    let report = json(&dir, &["report", "--dry-run"]);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let unit = json(&dir, &["service", "install", "--print"]);
    assert!(unit["text"].as_str().is_some_and(|text| text.contains(" up")), "{unit}");
}

#[test]
fn quiet_hours_cover_now_and_say_until_when() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("node");
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("talkoo.toml"), "[schedule]\nquiet_hours = [\"daily 00:00-24:00\"]\n").expect("written");
    let (mut peer, _) = contribute(&dir, &["--no-runs"]);
    let panel = shows(&dir, "quiet", |panel| panel["activity"]["reason"]["code"] == "quiet_hours");
    assert_eq!(panel["activity"]["state"], "paused");
    assert!(panel["activity"]["reason"]["mend"].is_string());
    stop(&mut peer);
}
