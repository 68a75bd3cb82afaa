//! What a node takes while it works, and how soon it is of use.

use super::{Contributor, LOOK, contribute};
use crate::{Bar, Book, network};
use anyhow::{Result, ensure};
use base::Wire;
use ledger::Credits;
use node::ControlRequest;
use std::time::{Duration, Instant};

const PAIRS: usize = 9;

/// A node that trains the shipped example.
pub(super) async fn measure(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let begun = Instant::now();
    let node = contribute(&stage.path().join("node"), &[])?;
    node.first_unit().await?;
    let how = "from the start of `talkoo up` on a machine that never ran it to the first closed round of the example it trains alone";
    book.add("quick", "owner.first_unit", (begun.elapsed().as_secs_f64(), "s"), Bar::Most(60.0), "<= 10", how);
    node.computes().await?;
    let mut slower = Vec::new();
    for _ in 0..PAIRS {
        node.ask(ControlRequest::Pause { minutes: None }).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let alone = foreground();
        node.ask(ControlRequest::Resume).await?;
        node.computes().await?;
        let beside = foreground();
        slower.push((beside / alone - 1.0) * 100.0);
    }
    let how = format!(
        "a task of another program in another session on all cores, with and without a node that trains on all cores as `talkoo up` \
         does it: median of {PAIRS} pairs"
    );
    book.add("quick", "owner.foreground", (slower, "% slower"), Bar::Most(3.0), "<= 1", &how);
    reasons(book, &node).await
}

/// How much of a node's time has a reason.
async fn reasons(book: &mut Book, node: &Contributor) -> Result<()> {
    let panel = node.ask(ControlRequest::Panel).await?;
    let codes: Vec<&str> = owner::Why::ALL.iter().map(|why| why.code()).collect();
    let minutes = panel["today"]["minutes"].as_array().cloned().unwrap_or_default();
    let named = minutes.iter().filter(|part| part["code"].as_str().is_some_and(|code| codes.contains(&code)));
    let explained: u64 = named.filter_map(|part| part["seconds"].as_u64()).sum();
    let uptime = panel["node"]["uptime_s"].as_u64().unwrap_or(u64::MAX);
    let how = format!(
        "of the same node, after its pauses: {explained} s of the day under {} reasons of the closed list, of {uptime} s that it ran; \
         each is cut to whole seconds, and what that can explain is no difference; too many seconds count as much as too few",
        minutes.len()
    );
    let share = accounted(explained, minutes.len() as u64, uptime);
    book.add("quick", "owner.reasons", (share, "% of the time"), Bar::Least(100.0), "100", &how);
    Ok(())
}

/// How much of a time in percent some parts account for, all cut to whole seconds; less, too, if they are more than it.
fn accounted(explained: u64, parts: u64, time: u64) -> f64 {
    // Each part may be nearly a second longer than it looks, and so may the whole.
    let (most, longest) = (explained + parts, time.saturating_add(1));
    if most < time {
        100.0 * most as f64 / time as f64
    } else if explained > longest {
        100.0 * longest as f64 / explained as f64
    } else {
        100.0
    }
}

/// A newcomer to a network of four validators on which a run pays and has a place free.
pub(super) async fn join(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let nodes = network::found(stage.path(), 4)?;
    let file = stage.path().join("run.toml");
    std::fs::write(&file, network::run_file("neighbours", 4096, 2))?;
    let file = file.to_string_lossy().into_owned();
    let mut running = Vec::new();
    for (i, (dir, bind)) in nodes.iter().enumerate() {
        let rest: &[&str] = if i == 0 { &["train", "create", &file] } else { &network::UP };
        running.push(network::talkoo(dir, bind, &[&["--duty", "20"], rest].concat())?);
    }
    let begun = Instant::now();
    let run = loop {
        let shown = network::answer(&nodes[0].0, &ControlRequest::Status).await?;
        if shown["runs"][0]["version"].as_u64() >= Some(2) {
            break shown["runs"][0]["run"].as_str().unwrap_or_default().to_owned();
        }
        ensure!(begun.elapsed() < Duration::from_secs(120), "no run: {shown}");
        tokio::time::sleep(LOOK).await;
    };
    let fund = ledger::WalletTx::Fund { pot: run.parse()?, amount: Credits::whole(5) };
    network::answer(&nodes[0].0, &ControlRequest::Spend { network: None, tx: base::to_hex(&fund.to_bytes()) }).await?;
    let dir = stage.path().join("newcomer");
    let known = replica::NetworkFile::of(&nodes[1].0)?.ok_or_else(|| anyhow::anyhow!("no network"))?;
    let begun = Instant::now();
    replica::join_network(&dir, &known)?;
    let newcomer = contribute(&dir, &[])?;
    loop {
        let shown = newcomer.ask(ControlRequest::Status).await?;
        let members = shown["runs"][0]["members"].as_array().cloned().unwrap_or_default();
        if members.iter().any(|member| member["node"] == shown["node"] && member["tokens"].as_u64() > Some(0)) {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(180), "the newcomer has done nothing: {shown:#}");
        tokio::time::sleep(LOOK).await;
    }
    let how = "from `talkoo network join` and `talkoo up` on a machine that knows only the file of a network of four validators, to the \
               first closed round with a unit of its own, in a run that it found and joined by itself; all on this machine";
    book.add("quick", "owner.join", (begun.elapsed().as_secs_f64(), "s"), Bar::Most(90.0), "<= 20", how);
    Ok(())
}

/// Seconds of a fixed task on every core.
fn foreground() -> f64 {
    let begun = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut hash = base::Hash::default();
                for _ in 0..1_500_000 {
                    hash = base::Hash::of("figure", &hash.0);
                }
                std::hint::black_box(hash)
            });
        }
    });
    begun.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_rounding_is_forgiven() {
        let check = |explained, parts, time, expect: f64| {
            assert!((super::accounted(explained, parts, time) - expect).abs() < 1e-9, "{explained} {parts} {time}");
        };
        check(57, 3, 60, 100.0);
        check(61, 3, 60, 100.0);
        check(47, 3, 100, 50.0);
        check(202, 3, 100, 50.0);
    }
}
