//! Real processes: a wallet, what it does, what the chain says of it; proofs; copies and recovery of a network.

mod common;

use common::{free, stop, talkoo, up};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn run(dir: &Path, arguments: &[&str]) -> Output {
    talkoo(dir).env("TALKOO_PASSPHRASE", "correct horse").args(arguments).output().expect("talkoo runs")
}

fn json(dir: &Path, arguments: &[&str]) -> Value {
    let output = run(dir, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

fn refused(dir: &Path, arguments: &[&str], why: &str) {
    let output = run(dir, arguments);
    let value: Value = serde_json::from_slice(&output.stdout).expect("an error is JSON too");
    let text = value["error"].as_str().expect("an error");
    assert!(!output.status.success() && text.contains(why), "{arguments:?}: {text}");
}

fn micro(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value}"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("read").flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().expect("known").is_file() {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_wallet_holds_sends_bonds_and_proves() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("node");
    refused(&dir, &["wallet", "show"], "no node runs");
    let made = json(&dir, &["wallet", "new"]);
    let (account, words) = (made["account"].as_str().expect("a key"), made["words"].as_str().expect("words"));
    refused(&dir, &["wallet", "new"], "has a wallet already");
    let mut node = up(&dir, &[]);
    let before = json(&dir, &["wallet", "balance"]);
    assert_eq!((micro(&before, "wallet"), micro(&before, "node")), (0, 9_900_000_000), "100 stand for the seat");
    refused(&dir, &["wallet", "collect", "50"], "add --yes");
    json(&dir, &["wallet", "collect", "50", "--yes"]);
    let friend = "11".repeat(32);
    refused(&dir, &["wallet", "send", &friend, "50", "--yes"], "not so much");
    refused(&dir, &["wallet", "send", &friend, "0", "--yes"], "no amount");
    let sent = json(&dir, &["wallet", "send", &friend, "7.5", "--yes"]);
    json(&dir, &["wallet", "bond", "20", "--yes"]);
    json(&dir, &["wallet", "unbond", "5", "--yes"]);
    refused(&dir, &["wallet", "unbond", "16", "--yes"], "not so much");
    let shown = json(&dir, &["wallet", "show"]);
    let wallet = &shown["wallet"];
    assert_eq!(micro(wallet, "balance_micro"), 50_000_000 - 7_500_000 - 20_000_000 - 2_000);
    assert_eq!((micro(wallet, "bond_micro"), micro(wallet, "unbonding_micro")), (15_000_000, 5_000_000 - 1_000));
    assert_eq!(micro(&json(&dir, &["chain", "account", &friend]), "balance_micro"), 7_500_000);

    let history = json(&dir, &["wallet", "history"]);
    let whats: Vec<&str> =
        history.as_array().expect("a list").iter().filter_map(|entry| entry["what"].as_str()).collect();
    assert_eq!(whats, ["unbond", "bond", "sent", "received"], "newest first");
    let tx = sent["tx"].as_str().expect("a hash");
    let found = json(&dir, &["chain", "tx", &tx[..12]]);
    assert_eq!((&found["height"], found["kind"].as_str()), (&sent["final_at"], Some("transfer")));
    refused(&dir, &["chain", "tx", "ffff"], "no final block");

    let (proof, network) = (stage.path().join("a.proof"), stage.path().join("a.network"));
    let (proof, network) = (proof.to_str().expect("utf-8"), network.to_str().expect("utf-8"));
    json(&dir, &["chain", "proof", account, "--out", proof]);
    stop(&mut node);
    json(&dir, &["network", "export", "--out", network]);
    let stranger = stage.path().join("stranger");
    let proved = json(&stranger, &["chain", "verify", proof, "--network-file", network]);
    assert_eq!(proved["account"]["balance_micro"], wallet["balance_micro"]);
    refused(&stranger, &["chain", "verify", proof], "does not know chain");
    let mut bytes = std::fs::read(proof).expect("read");
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    std::fs::write(proof, &bytes).expect("written");
    let output = run(&stranger, &["chain", "verify", proof, "--network-file", network]);
    assert!(!output.status.success(), "a changed byte is noticed");

    let other = stage.path().join("other");
    let mut restore = talkoo(&other);
    restore.env("TALKOO_PASSPHRASE", "another one").args(["wallet", "restore"]).stdin(std::process::Stdio::piped());
    let mut child = restore.stdout(std::process::Stdio::piped()).spawn().expect("runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), format!("{words}\n").as_bytes()).expect("told");
    let output = child.wait_with_output().expect("ends");
    let restored: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(restored["account"].as_str(), Some(account));
    refused(&other, &["wallet", "backup"], "passphrase is wrong");
}

#[test]
fn a_copied_folder_does_not_vote_and_recovers_as_a_network_of_its_own() {
    let stage = tempfile::tempdir().expect("a folder");
    let (dir, twin) = (stage.path().join("node"), stage.path().join("twin"));
    let mut node = up(&dir, &[]);
    let friend = "22".repeat(32);
    json(&dir, &["wallet", "send", &friend, "3", "--yes"]);
    stop(&mut node);
    copy(&dir, &twin);
    let mut copied = up(&twin, &[]);
    let status = json(&twin, &["chain", "status"]);
    assert!(status["trouble"].as_str().is_some_and(|text| text.contains("copy")), "{status}");
    assert_eq!(status["role"], "follows", "its key is silent");
    stop(&mut copied);

    let seat = json(&twin, &["--bind", &free(1)[0], "network", "seat"]);
    let file = stage.path().join("anew.network");
    let file = file.to_str().expect("utf-8");
    let seat = seat["seat"].as_str().expect("a seat");
    let recovered = json(&twin, &["network", "recover", "anew", "--seat", seat, "--out", file]);
    assert_eq!(recovered["from_chain"], status["chain"]);
    assert_eq!(json(&twin, &["network", "join", file])["seated"], true);
    let mut anew = up(&twin, &[]);
    let status = json(&twin, &["chain", "status"]);
    assert_eq!((&status["chain"], status["network"].as_str()), (&recovered["chain"], Some("anew")));
    assert_eq!(micro(&json(&twin, &["chain", "account", &friend]), "balance_micro"), 3_000_000, "what was, is");
    json(&twin, &["wallet", "send", &friend, "1", "--yes"]);
    assert_eq!(micro(&json(&twin, &["chain", "account", &friend]), "balance_micro"), 4_000_000);
    stop(&mut anew);
    // The original goes on as if nothing had been.
    let mut node = up(&dir, &[]);
    json(&dir, &["wallet", "send", &friend, "2", "--yes"]);
    assert_eq!(micro(&json(&dir, &["chain", "account", &friend]), "balance_micro"), 5_000_000);
    stop(&mut node);
}
