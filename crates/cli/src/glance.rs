//! `talkoo status`: one screen about a node.

use crate::client;
use crate::{Common, render, train};
use anyhow::Result;
use node::ControlRequest;
use serde_json::Value;
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
        if args.watch && !common.json && std::io::stdout().is_terminal() {
            // From the top of a clean screen.
            outln!("\x1b[2J\x1b[H{}", screen(&value["panel"]));
        } else {
            render::print(common, &value, || screen(&value["panel"]));
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

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value) -> String {
    base::grouped(value.as_u64().unwrap_or(0))
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
pub(crate) fn screen(panel: &Value) -> String {
    let node = &panel["node"];
    let mut lines = vec![format!(
        "talkoo {}  node {}  up {}",
        text(&panel["version"]),
        base::short(text(&node["key"])),
        time(node["uptime_s"].as_u64().unwrap_or(0))
    )];
    if let Some(api) = node["api"].as_str() {
        lines.push(format!("page      {}/   API {api}", api.trim_end_matches("/v1")));
    }
    let reason = &panel["activity"]["reason"];
    let since = panel["now_ms"].as_u64().unwrap_or(0).saturating_sub(reason["since_ms"].as_u64().unwrap_or(0)) / 1000;
    let left = reason["until_ms"].as_u64().map(|until| until.saturating_sub(panel["now_ms"].as_u64().unwrap_or(0)));
    let left = left.map(|left| format!(", {} more", time(left / 1000))).unwrap_or_default();
    let since = if reason["since_ms"] == 0 { String::new() } else { format!(" (for {}{left})", time(since)) };
    lines.push(format!("{:<9} {}{since}", text(&panel["activity"]["state"]), text(&reason["text"])));
    if let Some(mend) = reason["mend"].as_str().filter(|_| panel["activity"]["state"] != "working") {
        lines.push(format!("          {mend}"));
    }
    lines.push(network(panel));
    lines.extend(list(&panel["runs"]).iter().take(RUNS).map(run));
    if list(&panel["runs"]).is_empty() {
        lines.push("training  no run: `talkoo train create RUN.toml`, or `talkoo train join TICKET`".into());
    }
    lines.extend(serving(&panel["serving"]));
    lines.push(today(panel));
    lines.push(format!(
        "account   {} credits free, {} bonded, {} set aside",
        render::credits(&panel["account"]["balance_micro"]),
        render::credits(&panel["account"]["bond_micro"]),
        render::credits(&panel["account"]["deposit_micro"])
    ));
    let peers = list(&panel["peers"]);
    let way = |direct: bool| peers.iter().filter(|peer| peer["direct"] == direct).count();
    lines.push(format!("peers     {} known, {} connected directly, {} by relay", peers.len(), way(true), way(false)));
    let refused: Vec<String> =
        list(&panel["refused"]).iter().map(|pair| format!("{} {}", text(&pair[0]), pair[1])).collect();
    if !refused.is_empty() {
        lines.push(format!("refused   {}", refused.join(", ")));
    }
    if let Some(trouble) = panel["trouble"].as_str() {
        lines.push(format!("trouble   {trouble}"));
    }
    lines.truncate(LINES_MAX);
    lines.join("\n")
}

fn network(panel: &Value) -> String {
    let network = &panel["network"];
    let validators = network["validators"].as_u64().unwrap_or(0);
    let who = match validators {
        1 if network["alone"] == true => "alone; one validator: its owner's own books".to_owned(),
        1 => "one validator: its owner's own books".to_owned(),
        n => format!("{n} validators"),
    };
    format!("network   {}, block {}, {who}", text(&network["name"]), number(&network["height"]))
}

fn run(run: &Value) -> String {
    let (done, all) = (run["tokens"][0].as_u64().unwrap_or(0), run["tokens"][1].as_u64().unwrap_or(1).max(1));
    let mut parts = vec![format!("training  {}", text(&run["name"])), format!("round {}", run["version"])];
    // The last round may go a little beyond the end.
    parts.push(format!("{} % of {} tokens", (done.saturating_mul(100) / all).min(100), base::grouped(all)));
    if let Some(loss) = run["loss"].as_f64() {
        parts.push(format!("loss {loss:.3}"));
    }
    if let Some(bits) = run["heldout"].as_f64() {
        parts.push(format!("{bits:.3} bits/byte held out"));
    }
    parts.push(format!("{} of {} members", run["active"], run["members"]));
    parts.push(format!("{} credits", render::credits(&run["earned_micro"])));
    for (why, units) in run["unpaid"].as_object().into_iter().flatten() {
        parts.push(format!("{units} not paid: {}", why.replace('_', " ")));
    }
    parts.push(text(run.get("trouble").filter(|trouble| trouble.is_string()).unwrap_or(&run["waiting"])).to_owned());
    parts.join("  ")
}

fn serving(serving: &Value) -> Vec<String> {
    let models = list(&serving["models"]);
    let mut lines = Vec::new();
    for model in models.iter().take(MODELS) {
        let here = if model["local"] == true { "here" } else { "by others" };
        lines.push(format!("serving   {} ({here}, providers {})", text(&model["name"]), model["providers"]));
    }
    if models.is_empty() {
        lines
            .push("serving   no model: `talkoo model pull`, `talkoo train`, or --ticket of somebody who serves".into());
        return lines;
    }
    let counts = list(&serving["counts"]).iter().map(|pair| format!("{} {}", text(&pair[0]), pair[1]));
    let mut parts = vec![format!("{} asked, {} being answered", serving["asked"], serving["now"])];
    parts.extend(counts.take(6));
    if let Some(ms) = serving["first_ms"]["p50"].as_u64() {
        parts.push(format!("first word after {ms} ms"));
    }
    if let Some(rate) = serving["tokens_per_s"].as_f64() {
        parts.push(format!("{rate:.0} tokens/s"));
    }
    lines.push(format!("          {}", parts.join(", ")));
    lines
}

fn today(panel: &Value) -> String {
    let today = &panel["today"];
    let mut spent: Vec<&Value> = list(&today["minutes"]).iter().collect();
    spent.sort_by_key(|part| std::cmp::Reverse(part["seconds"].as_u64()));
    let spent = spent
        .into_iter()
        .map(|part| format!("{} {}", time(part["seconds"].as_u64().unwrap_or(0)), text(&part["text"])));
    let spent: Vec<String> = spent.take(5).collect();
    let earned = render::credits(&today["earned_micro"]);
    let (tokens, asked) = (number(&today["tokens_trained"]), number(&today["questions_answered"]));
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
        assert!(!super::screen(&json!({})).is_empty());
    }
}
