//! Rounds ordered by four validators against rounds ordered by one, at three lengths of a round.

use super::{UP, answer, found, run_file, talkoo};
use crate::{Bar, Book, Figure};
use anyhow::{Result, ensure};
use node::ControlRequest;
use serde_json::Value;
use std::time::{Duration, Instant};

const SHORT: Figure<'static> =
    Figure { name: "ledger.rounds.ratio_short", unit: "x", bar: Bar::Least(0.95), goal: ">= 0.99" };
const RATIO: Figure<'static> =
    Figure { name: "ledger.rounds.ratio", unit: "x", bar: Bar::Least(0.95), goal: ">= 0.99" };
const LONG: Figure<'static> =
    Figure { name: "ledger.rounds.ratio_long", unit: "x", bar: Bar::Least(0.95), goal: ">= 0.99" };
pub(super) const FIGURES: [Figure<'static>; 3] = [SHORT, RATIO, LONG];

/// Pairs of each length, every other one in the other order.
const PAIRS: usize = 5;

/// A length of a round.
struct Length {
    batch_tokens: u64,
    /// What the run file wishes.
    target_s: u64,
    /// Rounds that find the speeds, and rounds whose rate is measured.
    rounds: (u64, u64),
}

const LENGTHS: [Length; 3] = [
    Length { batch_tokens: 2_048, target_s: 1, rounds: (6, 30) },
    Length { batch_tokens: 24_576, target_s: 3, rounds: (4, 12) },
    Length { batch_tokens: 73_728, target_s: 6, rounds: (2, 6) },
];

pub(super) fn measure(book: &mut Book, runtime: &tokio::runtime::Runtime) -> Result<()> {
    for (figure, length) in FIGURES.into_iter().zip(&LENGTHS) {
        let (mut ratios, mut lengths) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            let rate = |validators: usize| runtime.block_on(rate(validators, length));
            // In turns, so that what else the machine does falls on both.
            let (one, four) = if pair.is_multiple_of(2) {
                let one = rate(1)?;
                (one, rate(4)?)
            } else {
                let four = rate(4)?;
                (rate(1)?, four)
            };
            println!("pair: rounds of {:.2} s with one validator, of {:.2} s with four", 1.0 / one, 1.0 / four);
            ratios.push(four / one);
            lengths.push((1.0 / one, 1.0 / four));
        }
        let mean = |of: fn(&(f64, f64)) -> f64| lengths.iter().map(of).sum::<f64>() / PAIRS as f64;
        let (one, four) = (mean(|pair| pair.0), mean(|pair| pair.1));
        let how = format!(
            "four real nodes at a tenth of a core each, the chain of four validators as log against that of one: rounds of {one:.2} s \
             with one and {four:.2} s with four, {} rounds each, the median of {PAIRS} pairs in either order; the same is measured with \
             short, middle and long rounds",
            length.rounds.1
        );
        book.full(figure, ratios, &how);
    }
    Ok(())
}

/// Rounds per second of four members, ordered by `validators`.
async fn rate(validators: usize, length: &Length) -> Result<f64> {
    let stage = tempfile::tempdir()?;
    let nodes = if validators == 1 {
        let own = |i: usize| (stage.path().join(format!("own-{i}")), "127.0.0.1:0".to_owned());
        (0..4).map(own).collect()
    } else {
        found(stage.path(), validators)?
    };
    // Each trains at a tenth of a core: a round is computing, not waiting for the machine.
    let file = stage.path().join("run.toml");
    std::fs::write(&file, run_file("rounds", length.batch_tokens, length.target_s))?;
    let file = file.to_string_lossy().into_owned();
    let duty = ["--duty", "10"];
    let mut running = Vec::new();
    for (i, (dir, bind)) in nodes.iter().enumerate() {
        let rest: &[&str] = if i == 0 { &["train", "create", &file] } else { &UP };
        running.push(talkoo(dir, bind, &[&duty, rest].concat())?);
    }
    let status = |i: usize| answer(&nodes[i].0, &ControlRequest::Status);
    let begun = Instant::now();
    let ticket = loop {
        let shown = status(0).await?;
        let run = &shown["runs"][0];
        if run["name"].as_str().is_some_and(|name| !name.is_empty()) {
            break run["ticket"].as_str().unwrap_or_default().to_owned();
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "no run: {shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    for (dir, _) in &nodes[1..] {
        answer(dir, &ControlRequest::Join { ticket: ticket.clone() }).await?;
    }
    let version = |shown: &Value| shown["runs"][0]["version"].as_u64().unwrap_or_default();
    let active = |shown: &Value| {
        let members = shown["runs"][0]["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        members.iter().filter(|member| member["status"] == "active").count()
    };
    // The first rounds find the speeds, once all are there.
    let (warm, counted) = length.rounds;
    let mut all_since = None;
    let (first, from) = loop {
        let shown = status(0).await?;
        if active(&shown) == 4 {
            let since = *all_since.get_or_insert(version(&shown));
            if version(&shown) >= since + warm {
                // From the moment a round closed to the moment another did.
                break (version(&shown), Instant::now());
            }
        }
        ensure!(begun.elapsed() < Duration::from_secs(240), "the run does not come into its rounds: {shown}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let rate = loop {
        let (now, took) = (version(&status(0).await?), from.elapsed());
        if now >= first + counted {
            break (now - first) as f64 / took.as_secs_f64();
        }
        ensure!(took < Duration::from_secs(300), "{counted} rounds take longer than expected");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    drop(running);
    Ok(rate)
}
