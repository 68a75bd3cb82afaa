//! Real processes and what befalls them: killed at every labelled place; two of four gone; a disk cut off.

mod common;

use common::{Lab, Peer, UP, json, stop, talkoo, up};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Nothing here takes longer, whatever the machine does.
const DEADLINE: Duration = Duration::from_secs(60);
/// Places at which a process is killed.
const PLACES: [&str; 7] =
    ["submitted", "keep-before", "keep-after", "finish-before", "finish-within", "finish-after", "applied"];

fn ask(dir: &Path, arguments: &[&str]) -> Result<Value, String> {
    let output = talkoo(dir).args(arguments).output().expect("talkoo runs");
    let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() { Ok(value) } else { Err(format!("{value}")) }
}

fn sound(dir: &Path) -> Value {
    let status = json(dir, &["chain", "status"]);
    assert_eq!(status["supply_micro"], status["held_micro"], "what exists is what is held");
    status
}

/// A node is killed at a place while it sends; started again it has lost nothing final, and what was said
/// is done once or not at all.
#[test]
fn a_kill_at_any_place_loses_nothing_and_does_nothing_twice() {
    let rounds = std::env::var("TALKOO_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(PLACES.len() as u64);
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("node");
    let friend = "33".repeat(32);
    let mut finals: Vec<(u64, String)> = Vec::new();
    for round in 0..rounds {
        let place = PLACES[round as usize % PLACES.len()];
        let times = 2 + round / PLACES.len() as u64 % 3;
        let mut command = talkoo(&dir);
        command.env("TALKOO_CRASH_AT", format!("{place}:{times}")).args(UP).stdout(std::process::Stdio::null());
        let mut doomed = Peer(command.spawn().expect("talkoo starts"));
        let begun = Instant::now();
        let mut said = 0;
        // Transfers until it is dead; what it called final must stay.
        while doomed.0.try_wait().expect("known").is_none() {
            assert!(begun.elapsed() < DEADLINE, "{place} was never passed");
            if let Ok(sent) = ask(&dir, &["wallet", "send", &friend, "0.5", "--yes"]) {
                said += 1;
                let height = sent["final_at"].as_u64().expect("a height");
                let block = ask(&dir, &["chain", "block", &height.to_string()]).ok();
                finals.extend(block.and_then(|block| Some((height, block["hash"].as_str()?.to_owned()))));
            }
        }
        let mut node = up(&dir, &[]);
        sound(&dir);
        // What waited when it was killed is submitted again, and comes before this one.
        ask(&dir, &["wallet", "send", &friend, "0.5", "--yes"]).expect("the wallet goes on");
        for (height, hash) in &finals {
            let block = json(&dir, &["chain", "block", &height.to_string()]);
            assert_eq!(block["hash"].as_str(), Some(hash.as_str()), "{place}: a final block stays");
        }
        let own = json(&dir, &["wallet", "show"]);
        let got = json(&dir, &["chain", "account", &friend])["balance_micro"].as_u64().expect("an amount");
        let n = own["transactions"].as_u64().expect("a number");
        assert_eq!(got, n * 500_000, "{place}: each transfer once, {said} were answered");
        assert_eq!(own["balance_micro"].as_u64(), Some(9_900_000_000 - n * 501_000), "{place}");
        stop(&mut node);
        // The published figure is what stands here.
        println!("kills survived: {}", round + 1);
    }
    assert!(!finals.is_empty());
}

/// A backup that is put back into the files of a folder: what was voted since is lost, so the key is not used again.
#[test]
fn a_backup_put_back_never_votes_with_the_old_key() {
    let stage = tempfile::tempdir().expect("a folder");
    let Lab { dirs, binds, .. } = common::lab(stage.path());
    let start = |i: usize| up(&dirs[i], &["--bind", &binds[i]]);
    let copy = |from: &Path, to: &Path| {
        let dots = from.join(".");
        let done = std::process::Command::new("cp").arg("-a").arg(dots).arg(to).status();
        assert!(done.expect("cp runs").success());
    };
    let key = |i: usize| std::fs::read(dirs[i].join("seat")).expect("a key");
    let mut others: Vec<Peer> = (0..3).map(start).collect();
    let mut last = start(3);
    let old = key(3);
    let send = |i: usize| ask(&dirs[i], &["wallet", "send", &"44".repeat(32), "1", "--yes"]).expect("final");
    send(3);
    stop(&mut last);
    let backup = stage.path().join("backup");
    std::fs::create_dir(&backup).expect("made");
    copy(&dirs[3], &backup);
    // Started again as it was left: the same key.
    let mut last = start(3);
    assert_eq!(key(3), old);
    send(3);
    stop(&mut last);
    copy(&backup, &dirs[3]);
    let mut last = start(3);
    assert_ne!(key(3), old, "a new key takes the seat");
    send(0);
    stop(&mut last);
    others.iter_mut().for_each(stop);
}

struct Four {
    _stage: tempfile::TempDir,
    dirs: Vec<PathBuf>,
    binds: Vec<String>,
    peers: Vec<Option<Peer>>,
}

impl Four {
    fn new() -> Self {
        let stage = tempfile::tempdir().expect("a folder");
        let Lab { dirs, binds, .. } = common::lab(stage.path());
        let mut four = Self { _stage: stage, dirs, binds, peers: (0..4).map(|_| None).collect() };
        (0..4).for_each(|i| four.start(i));
        four
    }

    fn start(&mut self, i: usize) {
        self.peers[i] = Some(up(&self.dirs[i], &["--bind", &self.binds[i]]));
    }

    fn kill(&mut self, i: usize) {
        drop(self.peers[i].take());
    }

    fn send(&self, i: usize) -> Result<Value, String> {
        ask(&self.dirs[i], &["wallet", "send", &"44".repeat(32), "1", "--yes"])
    }

    fn got(&self, i: usize) -> u64 {
        sound(&self.dirs[i]);
        json(&self.dirs[i], &["chain", "account", &"44".repeat(32)])["balance_micro"].as_u64().expect("an amount")
    }
}

/// Two of four gone: nothing is decided, and the node says why; one back: it goes on, nothing lost. Then the
/// disk of one is cut off: it says what to do, fetches the chain from the others, and takes a new key.
#[test]
fn two_of_four_gone_and_a_disk_cut_off() {
    let mut four = Four::new();
    four.send(0).expect("final");
    four.kill(3);
    four.send(1).expect("final with one gone");
    four.kill(2);
    let error = four.send(0).expect_err("two of four decide nothing");
    assert!(error.contains("too few validators"), "{error}");
    four.start(3);
    // What was said while it stood still is done once.
    four.send(1).expect("final with one back");
    common::until("each of the four once", || match four.got(0) {
        4_000_000 => Ok(()),
        other => Err(other),
    });

    let chain = sound(&four.dirs[3])["chain"].as_str().expect("an id").to_owned();
    let old_key = std::fs::read(four.dirs[3].join("seat")).expect("a key");
    four.kill(3);
    four.start(2);
    let folder = four.dirs[3].join("chains").join(chain);
    let file = std::fs::File::options().write(true).open(folder.join("blocks.redb")).expect("open");
    file.set_len(file.metadata().expect("known").len() / 3).expect("cut");
    drop(file);
    let failed = talkoo(&four.dirs[3]).args(["--bind", &four.binds[3]]).args(UP).output().expect("runs");
    let text = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(!failed.status.success() && text.contains("move the folder"), "{text}");
    std::fs::rename(&folder, four.dirs[3].join("damaged")).expect("moved, as it said");
    four.start(3);
    let begun = Instant::now();
    while ask(&four.dirs[3], &["chain", "status"]).is_ok_and(|s| s["height"].as_u64() < Some(3)) {
        assert!(begun.elapsed() < DEADLINE, "the chain does not come back");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_ne!(std::fs::read(four.dirs[3].join("seat")).expect("a key"), old_key, "what it voted is lost: a new key");
    four.send(2).expect("final");
    assert!(four.got(3) >= 4_000_000, "everything final is there again");
    for mut peer in four.peers.into_iter().flatten() {
        stop(&mut peer);
    }
}
