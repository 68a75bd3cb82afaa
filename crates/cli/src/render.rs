//! Text for people.

use crate::Common;
use node::Status;
use serde_json::{Value, json};
use trainer::RunStatus;

/// Prints JSON where asked for, else the text.
pub(crate) fn print(common: &Common, value: &Value, text: impl FnOnce() -> String) {
    if common.json {
        outln!("{value}");
    } else {
        outln!("{}", text());
    }
}

/// Writes a line to standard output; when nobody takes it, the program ends.
pub(crate) fn write_line(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}") {
        eprintln!("talkoo: standard output: {error}");
        std::process::exit(1);
    }
}

/// Writes what a program says that goes on: whoever started it may not be there to read.
pub(crate) fn announce(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// One way to a peer.
pub(crate) fn way(way: &Value) -> String {
    let ms = way["rtt_ms"].as_f64().unwrap_or_default();
    let kind = if way["direct"] == true { "direct" } else { "relayed" };
    format!("{ms:.1} ms, {kind}, {}", way["address"].as_str().unwrap_or_default())
}

/// A run in one line.
pub(crate) fn line(run: &RunStatus) -> String {
    let loss = run.rounds.last().map_or("-".into(), |round| format!("{:.3}", round.loss));
    format!(
        "{}  {}  round {}  loss {loss}  {:.0} tokens/s  {} of {} members active  {}",
        base::short(&run.run),
        run.name,
        run.version,
        run.tokens_per_s,
        run.members.iter().filter(|member| member.status == swarm::Standing::Active).count(),
        run.members.len(),
        run.trouble.clone().unwrap_or_else(|| run.waiting.to_string())
    )
}

/// A run in full.
pub(crate) fn run(run: &RunStatus) -> String {
    let mut out = format!(
        "{} ({})  {} mode, {} parameters\n",
        run.name,
        base::short(&run.run),
        run.mode,
        base::grouped(run.params)
    );
    let (done, all) = run.tokens;
    let percent = 100.0 * done as f64 / all.max(1) as f64;
    out.push_str(&format!(
        "round {}   {} of {} tokens ({percent:.0} %)   {:.0} tokens/s\n",
        run.version,
        base::grouped(done),
        base::grouped(all),
        run.tokens_per_s
    ));
    if let Some((version, root)) = &run.root {
        out.push_str(&format!("weights {version}: {}\n", base::short(root)));
    }
    let losses: Vec<f64> = run.rounds.iter().filter(|r| r.loss > 0.0).map(|round| round.loss).collect();
    if let (Some(first), Some(last)) = (losses.first(), losses.last()) {
        out.push_str(&format!("loss {first:.3} {} {last:.3} nats per token\n", base::curve(&losses, 48)));
    }
    if let Some((version, bits)) = run.heldout.last() {
        out.push_str(&format!("held out: {bits:.3} bits per byte at round {version}\n"));
    }
    out.push_str(&format!(
        "own updates: {:.3} bits per parameter   trainer busy {:.0} %\n",
        run.bits_per_parameter, run.utilisation
    ));
    out.push_str("\nmember    state    micro-batches/s  planned  units  missed  faults   loss\n");
    for member in &run.members {
        let aside = member.aside_until.map_or(String::new(), |round| format!("  sits out until round {round}"));
        out.push_str(&format!(
            "{:<9} {:<8} {:>15.2} {:>8} {:>6} {:>7} {:>7} {:>6.3}{aside}\n",
            base::short(&member.node),
            member.status,
            member.speed,
            member.planned,
            member.units,
            member.missed,
            member.faults,
            member.loss
        ));
    }
    let left_out: usize = run.rounds.iter().map(|round| round.left_out).sum();
    let void = run.rounds.iter().filter(|round| round.void).count();
    out.push_str(&format!("\nleft out: {left_out} updates   void rounds: {void}"));
    if !run.refused.is_empty() {
        out.push_str(&format!("   refused by the log: {}", counts(&run.refused)));
    }
    out.push_str(&format!("\nthis node: {}", run.waiting));
    if let Some(trouble) = &run.trouble {
        out.push_str(&format!("\ntrouble: {trouble}"));
    }
    out
}

/// Members of all runs.
pub(crate) fn peers(status: &Status) -> String {
    let mut out = String::new();
    for run in &status.runs {
        for member in &run.members {
            out.push_str(&format!("{}  {}  {}\n", member.node, member.status, run.name));
        }
    }
    if out.is_empty() { "no peers: this node is in no run".into() } else { out.trim_end().to_owned() }
}

/// The same as JSON.
pub(crate) fn peers_json(status: &Status) -> Value {
    let rows = status.runs.iter().flat_map(|run| {
        run.members.iter().map(|m| json!({ "node": m.node, "status": m.status, "run": run.run, "units": m.units }))
    });
    rows.collect()
}

/// Micro-credits as credits.
pub(crate) fn credits(micro: &serde_json::Value) -> String {
    ledger::Credits(micro.as_u64().unwrap_or_default()).to_string()
}

fn counts(list: &[(String, u64)]) -> String {
    list.iter().map(|(reason, n)| format!("{reason} {n}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainer::MemberStatus;

    #[test]
    fn a_member_that_sits_out_is_shown_with_its_faults_and_the_round_of_its_return() {
        let member = |node: &str, faults, aside_until| {
            let (node, status) = (node.to_owned(), swarm::Standing::Away);
            MemberStatus { node, status, faults, aside_until, ..MemberStatus::default() }
        };
        let members = vec![member("stalling", 5, Some(81)), member("resting", 0, None)];
        let shown = run(&RunStatus { members, ..RunStatus::default() });
        let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).expect("a line of the member");
        assert!(line("stalling").ends_with("      5  0.000  sits out until round 81"), "{shown}");
        assert!(line("resting").ends_with("      0  0.000"), "{shown}");
    }
}
