//! `talkoo doctor`: what is wrong with a machine or a node, and the one command that mends it. `talkoo report`: the same
//! for somebody who helps, with nothing in it that was not shown before.

use crate::client;
use crate::{Common, render};
use anyhow::{Context, Result, bail};
use node::{Config, ControlRequest, MachineState, Panel};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct DoctorArgs {
    /// What is only doubtful counts as wrong, too.
    #[arg(long)]
    strict: bool,
}

#[derive(clap::Args)]
pub(crate) struct ReportArgs {
    /// Where to write it.
    #[arg(required_unless_present = "dry_run", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show all of it and write nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    Ok,
    Doubtful,
    Wrong,
}

/// One thing that was looked at. Names stay what they are: scripts read them.
#[derive(Debug, Clone, Serialize)]
struct Check {
    name: &'static str,
    mark: Mark,
    says: String,
    /// The command that mends it.
    mend: Option<String>,
}

fn check(name: &'static str, mark: Mark, says: impl Into<String>, mend: &str) -> Check {
    let mend = (mark != Mark::Ok && !mend.is_empty()).then(|| mend.to_owned());
    Check { name, mark, says: says.into(), mend }
}

pub(crate) async fn doctor(common: &Common, args: &DoctorArgs) -> Result<()> {
    let checks = all(common).await;
    let worst = checks.iter().map(|check| check.mark).max().unwrap_or(Mark::Ok);
    let healthy = worst == Mark::Ok || worst == Mark::Doubtful && !args.strict;
    render::print(common, &json!({ "healthy": healthy, "checks": checks }), || text(&checks));
    if healthy {
        return Ok(());
    }
    if common.json {
        // One document is enough: it says so.
        std::process::exit(1);
    }
    bail!("something is wrong; each line above says what mends it")
}

fn text(checks: &[Check]) -> String {
    let line = |check: &Check| {
        let mark = match check.mark {
            Mark::Ok => "ok   ",
            Mark::Doubtful => "hm   ",
            Mark::Wrong => "WRONG",
        };
        let mend = check.mend.as_ref().map(|mend| format!("\n      mend: {mend}")).unwrap_or_default();
        format!("{mark} {:<20} {}{mend}", check.name, check.says)
    };
    checks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Everything that is looked at, in order.
async fn all(common: &Common) -> Vec<Check> {
    let dir = common.dir();
    let mut checks = vec![config(&dir), folder(&dir), processor()];
    checks.extend(machine(&dir, common).await);
    let panel = client::panel(common).await.ok();
    checks.push(match &panel {
        Some(_) => check("node_running", Mark::Ok, "a node runs on this data folder", ""),
        None => check("node_running", Mark::Doubtful, "no node runs on this data folder", "talkoo up"),
    });
    if let Some(panel) = &panel {
        checks.extend(running(panel).await);
    }
    checks
}

fn config(dir: &Path) -> Check {
    let path = Config::path(dir);
    match Config::of(dir) {
        Ok(_) if path.exists() => check("settings", Mark::Ok, format!("{} is read", path.display()), ""),
        Ok(_) => check("settings", Mark::Ok, "no talkoo.toml yet: everything is at its default", ""),
        Err(error) => {
            check("settings", Mark::Wrong, format!("{error:#}"), &format!("${{EDITOR:-vi}} {}", path.display()))
        }
    }
}

fn folder(dir: &Path) -> Check {
    let probe = dir.join("doctor.partial");
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&probe, b"talkoo"));
    let _ = std::fs::remove_file(&probe);
    match written {
        Ok(()) => check("data_folder", Mark::Ok, format!("{} can be written", dir.display()), ""),
        Err(error) => {
            let mend = format!("sudo chown -R \"$USER\" {}", dir.display());
            check("data_folder", Mark::Wrong, format!("{}: {error}", dir.display()), &mend)
        }
    }
}

fn processor() -> Check {
    let hardware = host::hardware();
    let says = format!("{}, {} threads, {} MB", hardware.cpu, hardware.cores, hardware.memory_mb);
    let good = hardware.avx2 || !cfg!(target_arch = "x86_64");
    let mark = if good { Mark::Ok } else { Mark::Wrong };
    check("processor", mark, says, "use a machine with AVX2, of 2013 or later")
}

/// What the machine says of itself, and from where.
async fn machine(dir: &Path, common: &Common) -> Vec<Check> {
    let set = &common.config.schedule;
    let mut checks = Vec::new();
    for (name, value, source) in host::look(dir).await {
        let number = value.as_ref().and_then(|value| value.parse::<u64>().ok());
        let says = value.map_or_else(|| format!("unknown: {source}"), |value| format!("{value} ({source})"));
        let low = |least: u64| number.is_some_and(|free| free < least);
        checks.push(match name {
            "disk_free_mb" if low(set.disk_free_min_mb) => {
                let mend = format!("du -sh {}/* | sort -h", dir.display());
                check("disk_free_mb", Mark::Wrong, says, &mend)
            }
            "memory_free_mb" if low(set.memory_free_min_mb) => {
                check("memory_free_mb", Mark::Doubtful, says, "ps aux --sort=-rss | head")
            }
            // Who is there and is not seen is not waited for: only the load of other programs counts then.
            "input_idle_ms" if number.is_none() && says.contains("does not tell") => {
                let mend = format!(
                    "echo 'quiet_hours = [\"daily 08:00-23:00\"]  # in [schedule]' && vi {}",
                    Config::path(dir).display()
                );
                check("input_idle_ms", Mark::Doubtful, says, &mend)
            }
            name => check(name, Mark::Ok, says, ""),
        });
    }
    checks
}

/// What a running node says.
async fn running(panel: &Panel) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.push(match &panel.trouble {
        Some(trouble) => check("chain", Mark::Wrong, trouble, "talkoo chain status"),
        None => check("chain", Mark::Ok, format!("block {}", panel.network.height), ""),
    });
    let trouble = panel.runs.iter().find_map(|run| Some((&run.name, run.trouble.as_ref()?)));
    checks.push(match trouble {
        Some((name, trouble)) => check("runs", Mark::Wrong, format!("{name}: {trouble}"), "talkoo train show"),
        None => check("runs", Mark::Ok, "no run has trouble", ""),
    });
    if let Some(by) = &panel.caps_kept_by {
        checks.push(check("caps", Mark::Ok, format!("limits on processors and memory are kept by {by}"), ""));
    }
    let (state, reason) = (panel.activity.state, &panel.activity.reason);
    let edit = format!("${{EDITOR:-vi}} {}/talkoo.toml", panel.node.data.display());
    let (mark, mend) = match reason.code.as_str() {
        _ if matches!(state, MachineState::Working | MachineState::Waiting) => (Mark::Ok, ""),
        // Whoever asks is there.
        "owner_active" | "settling" => (Mark::Ok, ""),
        "paused_by_owner" | "draining" => (Mark::Doubtful, "talkoo resume"),
        "quiet_hours" | "low_memory" | "low_disk" | "over_memory" | "hot" => (Mark::Doubtful, edit.as_str()),
        _ => (Mark::Doubtful, "talkoo down && talkoo up --when always"),
    };
    checks.push(check("works", mark, &reason.text, mend));
    checks.push(match &panel.node.api {
        Some(api) => match answers(api).await {
            Ok(()) => check("api", Mark::Ok, format!("{api} answers"), ""),
            Err(error) => {
                check("api", Mark::Wrong, format!("{api}: {error:#}"), "talkoo down && talkoo up --listen 127.0.0.1:0")
            }
        },
        None => check("api", Mark::Doubtful, "this node serves no API", "talkoo down && talkoo up"),
    });
    let reached = panel.peers.iter().filter(|peer| peer.direct.is_some()).count();
    checks.push(match (panel.peers.len(), reached) {
        (0, _) if panel.network.alone => check("peers", Mark::Ok, "alone in a network of its own", ""),
        (known, 0) => check("peers", Mark::Doubtful, format!("none of {known} is connected"), "talkoo net check"),
        (known, reached) => check("peers", Mark::Ok, format!("{reached} of {known} connected"), ""),
    });
    checks
}

/// Whether the API says that it lives.
pub(crate) async fn answers(api: &str) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = api.trim_start_matches("http://").trim_end_matches("/v1");
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        anyhow::ensure!(head.ends_with(b"200"), "it answers {}", String::from_utf8_lossy(&head));
        Ok(())
    };
    tokio::time::timeout(std::time::Duration::from_secs(3), asked).await.context("no answer within 3 s")?
}

pub(crate) async fn report(common: &Common, args: &ReportArgs) -> Result<()> {
    let hardware = host::hardware();
    let panel = client::ask(common, ControlRequest::Panel).await.ok().map(anonymous);
    let mut checks = all(common).await;
    for check in &mut checks {
        // What a node says of its trouble, and where it listens, may name others.
        if ["chain", "runs", "api"].contains(&check.name) {
            check.says = if check.mark == Mark::Ok { "as it should be".into() } else { "not as it should be".into() };
        }
    }
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "system": { "os": hardware.os, "cpu": hardware.cpu, "cores": hardware.cores, "memory_mb": hardware.memory_mb, "gpu": hardware.gpu },
        "checks": checks,
        "node": panel,
    });
    // The owner's own name is in most paths.
    let home = std::env::var("HOME").unwrap_or_default();
    let mut text = serde_json::to_string_pretty(&report)?;
    if home.len() > 1 {
        text = text.replace(&home, "~");
    }
    match &args.out {
        Some(out) if !args.dry_run => {
            std::fs::write(out, &text).with_context(|| out.display().to_string())?;
            let size = text.len();
            render::print(common, &json!({ "file": out, "bytes": size }), || {
                format!("{}: {size} bytes; nothing was sent. Read it before you give it to anybody.", out.display())
            });
        }
        _ => outln!("{text}"),
    }
    Ok(())
}

/// A panel without keys, addresses, amounts and words that the model wrote.
fn anonymous(mut panel: Value) -> Value {
    for path in ["/account", "/earnings", "/forecast", "/peers", "/settings"] {
        if let Some(value) = panel.pointer_mut(path) {
            *value = match value.as_array() {
                Some(list) => json!({ "left_out": list.len() }),
                None => json!("left out"),
            };
        }
    }
    for path in
        ["/node/data", "/trouble", "/node/key", "/node/addresses", "/node/api", "/network/chain", "/network/name"]
    {
        if let Some(value) = panel.pointer_mut(path) {
            *value = json!("left out");
        }
    }
    without_amounts(&mut panel);
    for run in panel["runs"].as_array_mut().into_iter().flatten() {
        run["run"] = json!("left out");
        run["trouble"] = json!(run["trouble"].is_string());
    }
    for model in panel["serving"]["models"].as_array_mut().into_iter().flatten() {
        model["hash"] = json!("left out");
    }
    panel
}

/// Every amount has a name of this kind, wherever it stands.
fn without_amounts(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "micro" || name.ends_with("_micro") {
                    *value = json!("left out");
                } else {
                    without_amounts(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_amounts),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_nobody() {
        let secret = "f".repeat(64);
        let panel = json!({
            "node": { "key": secret, "addresses": ["192.0.2.7:1"], "api": "http://127.0.0.1:1/v1", "uptime_s": 1 },
            "network": { "chain": secret, "name": "ours", "height": 3 }, "account": { "balance_micro": 7 },
            "peers": [{ "key": secret }], "runs": [{ "run": secret, "name": "bard", "trouble": secret, "earned_micro": 77 }], "since_start": { "earned_micro": 77 },
            "trouble": secret, "serving": { "models": [{ "hash": secret }] }, "settings": { "file": secret },
            "earnings": [{ "micro": 77 }], "today": { "earned_micro": 77 },
        });
        let text = anonymous(panel).to_string();
        for hidden in [secret.as_str(), "192.0.2.7", "ours", "77"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
        assert!(text.contains("\"height\":3") && text.contains("bard"), "{text}");
    }
}
