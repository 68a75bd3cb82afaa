//! Two real peers of one thread each on a 50 Mbit/s, 50 ms link, with `delay = 1`.
//!
//! Each peer lives in a network namespace of its own ([`crate::star`]). Namespaces need root and iproute2; without them
//! the figure stays as it was measured last.

use crate::star::{LINES, Star};
use crate::{Bar, Book, Figure, Measured, Process, median};
use anyhow::{Context, Result, bail};
use model::{ExportCard, Layout, ModelConfig, Part};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FIGURE: Figure<'_> =
    Figure { name: "swarm.utilisation.two_peers", unit: "%", bar: Bar::Least(90.0), goal: ">= 97" };

/// The run starts from published weights, so that it runs with delay at once; a few rounds settle
/// the shares before those that count.
const WARM_ROUNDS: u64 = 5;
const ROUNDS: u64 = 10;
const DEADLINE: Duration = Duration::from_secs(1200);

const RUN: &str = r#"
[run]
name = "link"
seed = 11
[model]
init = "model"
[data]
seq_len = 128
[train]
tokens = "20M"
batch_tokens = 16384
micro_batch = 1
lr = 3e-3
[round]
mode = "local"
density = 1
bits = 8
delay = 1
target_seconds = 12
[out]
every_rounds = 1000
"#;

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    if !full {
        book.keep(&[FIGURE]);
        return Ok(());
    }
    let star = match Star::new(2) {
        Ok(star) => star,
        Err(why) => {
            eprintln!("link: {why:#}; this figure needs root and iproute2");
            book.keep(&[FIGURE]);
            return Ok(());
        }
    };
    let (parts, round_s) = two_peers(&star)?;
    let how = format!(
        "two processes of one thread each {LINES}; 1.1 M parameters, local rounds of {round_s:.1} s, density 1 in 8 bits, \
         delay 1; time of the trainer over wall over {ROUNDS} rounds, what it rests and gives way in a unit included, mean \
         of both; an update is a fraction of a second of the link, so that it is idle most of the time"
    );
    book.full(FIGURE, Measured::out_of(parts.iter().sum::<f64>() / 2.0, &parts), &how);
    Ok(())
}

fn two_peers(star: &Star) -> Result<(Vec<f64>, f64)> {
    let stage = tempfile::tempdir()?;
    let dirs: [PathBuf; 2] = ["a", "b"].map(|name| stage.path().join(name));
    let file = stage.path().join("run.toml");
    std::fs::write(&file, RUN)?;
    let config = ModelConfig::preset("tiny", 2048, 128)?;
    let theta = model::init(&Layout::new(&config, &Part::whole(&config)), config.num_hidden_layers, 11);
    model::export(&stage.path().join("model"), &config, &theta, b"{}", (0, "<|endoftext|>"), &ExportCard::default())?;
    let create =
        ["train", "create", file.to_str().context("utf-8")?, "--members", "2", "--mbit", "50", "--rtt-ms", "50"];
    let mut a = star.talkoo(0, &dirs[0], 100, &create)?;
    let mut line = String::new();
    BufReader::new(a.0.stdout.take().context("piped")?).read_line(&mut line)?;
    let created: Value = serde_json::from_str(&line).context("talkoo train create")?;
    let ticket = created["ticket"].as_str().context("a ticket")?;
    let _b = star.talkoo(1, &dirs[1], 100, &["train", "join", ticket])?;

    let begun = Instant::now();
    let first = [reach(&dirs[0], WARM_ROUNDS, begun)?, reach(&dirs[1], WARM_ROUNDS, begun)?];
    let last = [reach(&dirs[0], WARM_ROUNDS + ROUNDS, begun)?, reach(&dirs[1], WARM_ROUNDS + ROUNDS, begun)?];
    let parts = first.iter().zip(&last).map(|((at, first), (then, last))| {
        let busy = last["busy_ms"].as_u64().unwrap_or(0) - first["busy_ms"].as_u64().unwrap_or(0);
        100.0 * busy as f64 / (*then - *at).as_millis() as f64
    });
    let parts: Vec<f64> = parts.collect();
    println!("utilisation by peer: {parts:.1?} %");
    let rounds = last[0].1["rounds"].as_array().context("rounds")?;
    let took = rounds.iter().rev().take(ROUNDS as usize).filter_map(|round| round["took_ms"].as_f64()).collect();
    Ok((parts, median(took) / 1e3))
}

/// Follows a node's run until it has so many versions; gives the moment and what it showed then.
fn reach(dir: &Path, version: u64, begun: Instant) -> Result<(Instant, Value)> {
    let program = std::env::current_exe()?.with_file_name("talkoo");
    while begun.elapsed() < DEADLINE {
        let mut command = Command::new(&program);
        command.args(["--json", "--data"]).arg(dir).args(["train", "watch"]);
        let mut watch = Process(command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        for line in BufReader::new(watch.0.stdout.take().context("piped")?).lines() {
            let run: Value = serde_json::from_str(&line?)?;
            if run["version"].as_u64().is_some_and(|reached| reached >= version) {
                return Ok((Instant::now(), run));
            }
        }
    }
    bail!("version {version} did not come in time")
}
