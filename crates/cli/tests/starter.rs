//! An empty machine answers at once, with the model that comes with the program.

#![cfg(feature = "serve")]

mod common;

use common::{UP, start, talkoo, until};
use serde_json::Value;
use std::process::Stdio;

const ASK: [&str; 6] = ["run", "starter", "ROMEO:\n", "--text", "--max-tokens", "8"];

#[test]
fn an_empty_machine_answers_before_anything_is_trained() {
    let stage = tempfile::tempdir().expect("a folder");
    // In the terminal, without a node.
    let output = talkoo(&stage.path().join("one")).args(ASK).stderr(Stdio::piped()).output().expect("talkoo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    assert!(said.contains("talkoo model pull"), "what it is good for, and what is better: {said}");

    // And from a node that was only just begun.
    let dir = stage.path().join("two");
    let (_node, mut lines) = start(&dir, &[&UP[..], &["--listen", "127.0.0.1:0"]].concat());
    let greeting: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    assert!(greeting["api"].is_string(), "{greeting}");
    let answered = until("an answer", || {
        let output = talkoo(&dir).args(ASK).output().expect("talkoo runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    });
    assert!(!answered.is_empty());
    let listed = talkoo(&dir).args(["model", "ls"]).output().expect("talkoo runs");
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["models"][0]["name"], "starter");
}
