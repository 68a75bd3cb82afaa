//! `talkoo status`: one screen about a node.

use crate::client;
use crate::{Common, render};
use anyhow::Result;
use ledger::Credits;
use node::view::panel::{DayView, NetworkView, RunView, ServingView};
use node::{ControlRequest, MachineState, Panel};
use std::io::IsTerminal;
use std::time::Duration;

/// A screen has at most so many lines.
const LINES_MAX: usize = 25;
/// Runs and models that are shown.
const RUNS: usize = 5;
const MODELS: usize = 5;

#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    /// Show it again every second.
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn status(common: &Common, args: &StatusArgs) -> Result<()> {
    loop {
        let mut value = client::ask(common, ControlRequest::Status).await?;
        value["panel"] = client::ask(common, ControlRequest::Panel).await?;
        let panel: Panel = serde_json::from_value(value["panel"].clone())?;
        if args.watch && !common.json && std::io::stdout().is_terminal() {
            // From the top of a clean screen.
            outln!("\x1b[2J\x1b[H{}", screen(&panel));
        } else {
            render::print(common, &value, || screen(&panel));
        }
        if !args.watch {
            return Ok(());
        }
        tokio::select! {
            stopped = tokio::signal::ctrl_c() => return Ok(stopped?),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Seconds in words of at most two parts.
pub(crate) fn time(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, _) => format!("{m} min"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// One screen.
pub(crate) fn screen(panel: &Panel) -> String {
    let node = &panel.node;
    let mut lines =
        vec![format!("talkoo {}  node {}  up {}", panel.version, base::short(&node.key), time(node.uptime_s))];
    if let Some(api) = &node.api {
        lines.push(format!("page      {}/   API {api}", api.trim_end_matches("/v1")));
    }
    let (state, reason) = (panel.activity.state, &panel.activity.reason);
    let since = panel.now_ms.saturating_sub(reason.since_ms) / 1000;
    let left = reason.until_ms.map(|until| until.saturating_sub(panel.now_ms));
    let left = left.map(|left| format!(", {} more", time(left / 1000))).unwrap_or_default();
    let since = if reason.since_ms == 0 { String::new() } else { format!(" (for {}{left})", time(since)) };
    lines.push(format!("{state:<9} {}{since}", reason.text));
    if let Some(mend) = reason.mend.as_ref().filter(|_| state != MachineState::Working) {
        lines.push(format!("          {mend}"));
    }
    lines.push(network(&panel.network));
    lines.extend(panel.runs.iter().take(RUNS).map(run));
    if panel.runs.is_empty() {
        lines.push("training  no run: `talkoo train create RUN.toml`, or `talkoo train join TICKET`".into());
    }
    lines.extend(serving(&panel.serving));
    lines.push(today(&panel.today));
    lines.push(format!(
        "account   {} credits free, {} bonded, {} set aside",
        Credits(panel.account.balance_micro),
        Credits(panel.account.bond_micro),
        Credits(panel.account.deposit_micro)
    ));
    let way = |direct: bool| panel.peers.iter().filter(|peer| peer.direct == Some(direct)).count();
    let known = panel.peers.len();
    lines.push(format!("peers     {known} known, {} connected directly, {} by relay", way(true), way(false)));
    let refused: Vec<String> = panel.refused.iter().map(|(why, n)| format!("{why} {n}")).collect();
    if !refused.is_empty() {
        lines.push(format!("refused   {}", refused.join(", ")));
    }
    if let Some(trouble) = &panel.trouble {
        lines.push(format!("trouble   {trouble}"));
    }
    lines.truncate(LINES_MAX);
    lines.join("\n")
}

fn network(network: &NetworkView) -> String {
    let who = match network.validators {
        1 if network.alone => "alone; one validator: its owner's own books".to_owned(),
        1 => "one validator: its owner's own books".to_owned(),
        n => format!("{n} validators"),
    };
    format!("network   {}, block {}, {who}", network.name, base::grouped(network.height))
}

fn run(run: &RunView) -> String {
    let (done, all) = (run.tokens.0, run.tokens.1.max(1));
    let mut parts = vec![format!("training  {}", run.name), format!("round {}", run.version)];
    // The last round may go a little beyond the end.
    parts.push(format!("{} % of {} tokens", (done.saturating_mul(100) / all).min(100), base::grouped(all)));
    if let Some(loss) = run.loss {
        parts.push(format!("loss {loss:.3}"));
    }
    if let Some(bits) = run.heldout {
        parts.push(format!("{bits:.3} bits/byte held out"));
    }
    parts.push(format!("{} of {} members", run.active, run.members));
    parts.push(format!("{} credits", Credits(run.earned_micro)));
    for (why, units) in &run.unpaid {
        parts.push(format!("{units} not paid: {}", why.replace('_', " ")));
    }
    parts.push(run.trouble.as_ref().unwrap_or(&run.waiting).clone());
    parts.join("  ")
}

fn serving(serving: &ServingView) -> Vec<String> {
    let mut lines = Vec::new();
    for model in serving.models.iter().take(MODELS) {
        let here = if model.local { "here" } else { "by others" };
        lines.push(format!("serving   {} ({here}, providers {})", model.name, model.providers));
    }
    if serving.models.is_empty() {
        lines
            .push("serving   no model: `talkoo model pull`, `talkoo train`, or --ticket of somebody who serves".into());
        return lines;
    }
    let mut parts = vec![format!("{} asked, {} being answered", serving.asked, serving.now)];
    parts.extend(serving.counts.iter().map(|(how, n)| format!("{how} {n}")).take(6));
    if let Some(first) = &serving.first_ms {
        parts.push(format!("first word after {} ms", first.p50));
    }
    if let Some(rate) = serving.tokens_per_s {
        parts.push(format!("{rate:.0} tokens/s"));
    }
    lines.push(format!("          {}", parts.join(", ")));
    lines
}

fn today(today: &DayView) -> String {
    let mut spent: Vec<_> = today.minutes.iter().collect();
    spent.sort_by_key(|part| std::cmp::Reverse(part.seconds));
    let spent: Vec<String> =
        spent.into_iter().map(|part| format!("{} {}", time(part.seconds), part.text)).take(5).collect();
    let done = &today.done;
    let (tokens, asked) = (base::grouped(done.tokens_trained), base::grouped(done.questions_answered));
    let earned = Credits(done.earned_micro);
    let did = format!("{earned} credits earned, {tokens} tokens trained, {asked} questions of others answered");
    format!("today     (UTC) {did}\n          {}", spent.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_screen_is_a_screen() {
        let run = json!({ "name": "bard", "version": 3, "tokens": [500, 1000], "loss": 3.2, "heldout": 2.6, "active": 1,
            "members": 2, "waiting": "training", "trouble": null, "earned_micro": 2_000_000, "unpaid": { "no_budget": 3 } });
        let model = json!({ "name": "bard", "local": true, "providers": 1 });
        let panel = json!({
            "version": "0.1.0", "now_ms": 90_000_000u64, "node": { "key": "ab".repeat(32), "uptime_s": 3700, "api": "http://127.0.0.1:8080/v1" },
            "activity": { "state": "paused", "reason": { "text": "The machine is in use.", "since_ms": 89_900_000u64, "mend": "Wait." } },
            "network": { "name": "home", "validators": 1, "alone": true, "height": 1234 },
            "runs": vec![run; 40], "serving": { "models": vec![model; 40], "asked": 3, "now": 0, "counts": [["answered", 3]],
                "first_ms": { "p50": 40 }, "tokens_per_s": 41.5 },
            "today": { "earned_micro": 1_500_000, "minutes": [{ "text": "working", "seconds": 120 }] },
            "account": {}, "peers": [{ "direct": true }], "refused": [["malformed", 2]], "trouble": "the disk is full",
        });
        let panel: Panel = serde_json::from_value(panel).expect("a panel, whatever it leaves out");
        let screen = screen(&panel);
        assert!(screen.lines().count() <= LINES_MAX, "{screen}");
        for part in [
            "up 1 h 1 min",
            "paused",
            "in use",
            "for 1 min",
            "block 1 234",
            "50 % of 1 000",
            "bits/byte",
            "2 credits  3 not paid: no budget",
            "1.5 credits",
            "2 min working",
            "malformed 2",
            "disk is full",
        ] {
            assert!(screen.contains(part), "{part}: {screen}");
        }
        // Nothing of a node that shows nothing is missing in a way that ends the program.
        assert!(!super::screen(&Panel::default()).is_empty());
    }
}
