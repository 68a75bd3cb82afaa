//! `talkoo up`: this machine contributes while its owner lets it, and shows what it does. `down`, `pause`, `resume` and
//! `finish` say otherwise.

use crate::client;
use crate::stop;
use crate::{Common, render};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use node::{ControlRequest, MachineState, Node, NodeSettings, Panel, Recruiter};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "serve")]
use std::time::Instant;

#[derive(Args)]
pub(crate) struct UpArgs {
    /// When to work for others: while you do not use the machine, or always (default: as talkoo.toml says, idle).
    #[arg(long, value_enum, value_name = "WHEN")]
    when: Option<WhenArg>,
    /// What it serves, and whom it asks.
    #[cfg(feature = "serve")]
    #[command(flatten)]
    serve: crate::serve::ServeArgs,
    /// Take part in runs that it was told to join only: take no place in open runs of its network that pay, and, alone, do not
    /// train the shipped example.
    #[arg(long)]
    no_runs: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum WhenArg {
    Idle,
    Always,
}

/// Work is looked for this often while there is none.
const FIND_EVERY: Duration = Duration::from_secs(1);
/// And after this again where something went wrong.
const FIND_AGAIN: Duration = Duration::from_secs(60);
/// Of 1,000 parts of the new credits of its own network, how many that may get: all that one run can.
const OWN_PERMILLE: u16 = 500;
/// The shipped example: the first thing that a machine alone trains.
const EXAMPLE: &str = include_str!("../../../examples/first.toml");

pub(crate) async fn up(common: &Common, args: UpArgs) -> Result<()> {
    let dir = common.dir();
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    node::Config::write_template(&dir)?;
    let memory_mb = common.config.limits.memory_mb;
    let common = &common.picked();
    #[cfg(feature = "serve")]
    let mut settings = args.serve.in_force(common);
    #[cfg(not(feature = "serve"))]
    let mut settings = common.in_force();
    settings.schedule.when = match args.when {
        Some(WhenArg::Always) => node::When::Always,
        Some(WhenArg::Idle) => node::When::Idle,
        None => settings.schedule.when,
    };
    settings.schedule.runs &= !args.no_runs;
    // Before models are loaded: memory is charged to where it was taken.
    let kept_by = host::confine(settings.limits.caps()).await;
    #[cfg(feature = "serve")]
    let local = args.serve.named(common).await?;
    let node = Node::start(node::NodeConfig { minded: true, ..common.node()? }).await?;
    tokio::spawn(crate::update::give(node.clone()));
    #[cfg(feature = "serve")]
    let own_only = local.all().is_empty();
    #[cfg(feature = "serve")]
    let serving = args.serve.open(common, &node, local, true).await?;
    #[cfg(feature = "serve")]
    if own_only && node.is_alone() && trainer::newest(&dir).is_none() {
        match args.serve.starter(common).await {
            Ok(starter) => serving.trade.serve(&starter).await,
            Err(error) => eprintln!("talkoo: the model that comes with it is not served: {error:#}"),
        }
    }
    #[cfg(feature = "serve")]
    let (api, tickets) = (Some(serving.address), serving.tickets.clone());
    #[cfg(not(feature = "serve"))]
    let (api, tickets): (Option<SocketAddr>, Vec<String>) = (None, Vec::new());
    node.mind(&settings, kept_by).await?;
    let seeks = settings.schedule.runs.then(|| Recruiter::new(node.clone(), settings.schedule.pay_min));
    // What was picked is no setting of the owner's.
    let mut config = settings.clone();
    config.limits.memory_mb = memory_mb;
    node.show_as(NodeSettings { api: api.map(|address| format!("http://{address}/v1")), config });
    let stopped = stop::stopped()?;
    tokio::pin!(stopped);
    greet(common, &node, api, &tickets, &settings)?;
    #[cfg(feature = "serve")]
    tokio::spawn(keep_serving(common.clone(), args.serve, own_only, node.clone(), serving.trade.clone()));
    if let Some(places) = seeks {
        tokio::spawn(find_work(common.clone(), node.clone(), places));
    }
    let mut said = String::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = &mut stopped => break,
            () = node.stopped() => break,
            _ = tick.tick(), if !common.json => {
                let now = line(&node.panel());
                if now != said {
                    eprintln!("{now}");
                    said = now;
                }
            }
        }
    }
    eprintln!("stopping");
    #[cfg(feature = "serve")]
    serving.close().await;
    let closed = node.close().await;
    crate::update::go_on(common, &node)?;
    closed
}

/// What was measured of the machine, and what of it is used.
fn said(settings: &node::Config, threads: usize) -> String {
    let hardware = host::hardware();
    let gb = |mb: u64| format!("{:.1} GB", mb as f64 / 1024.0);
    let (limits, schedule) = (&settings.limits, &settings.schedule);
    let memory = if limits.memory_mb > 0 { format!("{} of memory", gb(limits.memory_mb)) } else { "memory".into() };
    format!(
        "{} cores, {}: at most {threads} threads at the lowest priority and {memory}; {} of memory and {} of disk stay free",
        hardware.cores,
        gb(hardware.memory_mb),
        gb(schedule.memory_free_min_mb),
        gb(schedule.disk_free_min_mb)
    )
}

/// What is said once everything runs.
fn greet(
    common: &Common,
    node: &Arc<Node>,
    api: Option<SocketAddr>,
    tickets: &[String],
    settings: &node::Config,
) -> Result<()> {
    let (chain, limits) = (node.chain(None)?, said(settings, common.threads()));
    let mut value = json!({
        "node": node.id().to_string(), "network": chain.network, "chain": chain.chain,
        "addresses": node.status().addresses, "tickets": tickets, "limits": limits,
    });
    let mut text = String::new();
    if let Some(api) = api {
        value["page"] = format!("http://{api}/").into();
        value["api"] = format!("http://{api}/v1").into();
        text += &format!("page  http://{api}/\nAPI   http://{api}/v1, for any OpenAI client\n");
    }
    if api.is_some() && (settings.serve.demand_keys || !settings.serve.listen.ip().is_loopback()) {
        text += "the page asks for a key of yours: talkoo key create NAME --owner\n";
    }
    text += &format!("node  {}, network {}\nuses  {limits}\n", node.id(), chain.network);
    if node.is_alone() {
        text += "You are alone in your own network; to join others: `talkoo train join TICKET`, or in a new folder \
                 `talkoo --data FOLDER network join FILE`.\n";
    }
    text += "In another terminal: talkoo status · pause 2h · resume · run · down. Ctrl-C ends it.";
    render::announce(&if common.json { value.to_string() } else { text });
    Ok(())
}

/// What it does now, in a line; figures that always move are left out.
fn line(panel: &Panel) -> String {
    let mut parts = vec![panel.activity.reason.text.clone()];
    for run in panel.runs.iter().filter(|run| !run.ended && !run.name.is_empty()) {
        let (done, all) = run.tokens;
        parts.push(format!("{} {} %", run.name, (done.saturating_mul(100) / all.max(1)).min(100) / 10 * 10));
    }
    parts.extend(panel.trouble.clone());
    parts.join("  ")
}

/// Takes a place in a run of its network where there is one, and gives it up where it does not pay or move; alone, trains the
/// shipped example once.
async fn find_work(common: Common, node: Arc<Node>, mut places: Recruiter) {
    let Some(idling) = node.idling() else { return };
    let dir = common.dir();
    let mut said = String::new();
    let mut tick = tokio::time::interval(FIND_EVERY);
    loop {
        tokio::select! {
            () = node.stopped() => return,
            _ = tick.tick() => {}
        }
        // The machine is measured when it may work, and one run at a time is enough for it.
        let activity = idling.activity();
        if activity.share_permille == 0 || activity.state == MachineState::Draining {
            places.rest();
            continue;
        }
        let runs = node.status().runs;
        let found = if runs.iter().any(|run| !run.ended) {
            places.keep().await
        } else if !node.is_alone() {
            places.take(idling.memory_mb()).await
        } else if runs.is_empty() && trainer::newest(&dir).is_none() {
            begin(&common, &node, &dir).await.map(|()| None)
        } else {
            Ok(None)
        };
        match found {
            Ok(Some(moved)) => eprintln!("{moved}"),
            Ok(None) => {}
            Err(error) => {
                let error = format!("talkoo: no run was begun: {error:#}");
                if error != said {
                    eprintln!("{error}; it is tried again every minute");
                    said = error;
                }
                tick.reset_after(FIND_AGAIN);
            }
        }
    }
}

async fn begin(common: &Common, node: &Arc<Node>, dir: &Path) -> Result<()> {
    let file = dir.join("first.toml");
    std::fs::write(&file, EXAMPLE).with_context(|| file.display().to_string())?;
    let alone = crate::runs::Others { members: 1, mbit: 100.0, rtt_ms: 30.0 };
    let prepare = || crate::runs::prepare(&file, dir, common.limits(), common.device(), &alone);
    let prepared = tokio::task::block_in_place(prepare)?;
    let corpus = std::path::absolute(&prepared.corpus)?;
    let ticket = node.create(prepared.spec, &corpus, None, prepared.budget.unwrap_or_default()).await?;
    // On its own books the owner decides what earns new credits.
    if let Err(error) = node.admit(ticket.run, OWN_PERMILLE).await {
        tracing::warn!(%error, "the run earns nothing");
    }
    Ok(())
}

/// The node that runs on the data folder is told something.
async fn told(common: &Common, request: ControlRequest, text: &str) -> Result<()> {
    let answer = client::ask(common, request).await?;
    render::print(common, &answer, || {
        let reason = answer["reason"]["text"].as_str().unwrap_or_default();
        format!("{text}. {reason}").trim_end().to_owned()
    });
    Ok(())
}

pub(crate) async fn pause(common: &Common, time: Option<&str>) -> Result<()> {
    let minutes = time.map(minutes).transpose()?;
    let text = match minutes {
        Some(minutes) => format!("paused for {minutes} min; `talkoo resume` ends it"),
        None => "paused until `talkoo resume`".into(),
    };
    told(common, ControlRequest::Pause { minutes }, &text).await
}

pub(crate) async fn resume(common: &Common) -> Result<()> {
    told(common, ControlRequest::Resume, "goes on").await
}

pub(crate) async fn finish(common: &Common) -> Result<()> {
    told(
        common,
        ControlRequest::Finish,
        "what is under way is finished, nothing new is taken; `talkoo resume` takes it back",
    )
    .await
}

/// `2h`, `30m`, `1h30m`, in minutes.
fn minutes(text: &str) -> Result<u64> {
    let wrong = || anyhow::anyhow!("`{text}` is no time such as 30m, 2h or 1h30m");
    let (mut minutes, mut digits) = (0u64, String::new());
    for c in text.chars() {
        match c {
            '0'..='9' if digits.len() < 6 => digits.push(c),
            'h' | 'm' => {
                let n: u64 = digits.parse().map_err(|_| wrong())?;
                minutes += if c == 'h' { n * 60 } else { n };
                digits.clear();
            }
            _ => bail!(wrong()),
        }
    }
    ensure!(digits.is_empty() && minutes > 0, wrong());
    Ok(minutes)
}

/// Finishes what is under way, ends the node, and says what it did.
pub(crate) async fn down(common: &Common) -> Result<()> {
    // One that says what this program does not understand is ended all the same.
    let before = client::panel(common).await.unwrap_or_default();
    stop::finish_all(common).await?;
    let panel = client::panel(common).await.unwrap_or(before);
    client::ask(common, ControlRequest::Stop).await?;
    let (uptime_s, done) = (panel.node.uptime_s, &panel.since_start);
    let value = json!({ "stopped": true, "uptime_s": uptime_s, "did": done, "runs": panel.runs });
    render::print(common, &value, || {
        let mut out = format!(
            "down after {}: {} tokens trained, {} questions of others and {} of yours answered, {} credits earned",
            crate::glance::time(uptime_s),
            base::grouped(done.tokens_trained),
            base::grouped(done.questions_answered),
            base::grouped(done.own_questions),
            ledger::Credits(done.earned_micro)
        );
        for run in &panel.runs {
            out += &format!("\n{}: round {}", run.name, run.version);
        }
        out + "\n`talkoo up` goes on with all of it"
    });
    Ok(())
}

/// What was trained here is looked at this often, and served anew at most every so often while it is trained.
#[cfg(feature = "serve")]
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What could not be loaded is tried again after this.
#[cfg(feature = "serve")]
const AGAIN_AFTER: Duration = Duration::from_secs(60);
#[cfg(feature = "serve")]
const RENEW_EVERY: Duration = Duration::from_secs(600);

/// Serves again what memory was too short for, and, where no model is named (`own`), what was trained here last: as soon as it
/// was measured once, again when it is done, and now and then between.
#[cfg(feature = "serve")]
async fn keep_serving(
    common: Common,
    args: crate::serve::ServeArgs,
    own: bool,
    node: Arc<Node>,
    trade: Arc<serving::Trade>,
) -> Result<()> {
    let (dir, mut served) = (common.dir(), None);
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = node.stopped() => return Ok(()),
            _ = tick.tick() => {}
        }
        if node.idling().is_some_and(|idling| idling.activity().share_permille == 0) {
            continue;
        }
        let models = match own {
            false if trade.serves() > 0 => continue,
            false => args.named(&common).await,
            true => {
                let last = served.filter(|_| trade.serves() > 0);
                let Some((run, ended)) = due(&node, &dir, last) else { continue };
                let models =
                    match tokio::task::block_in_place(|| trainer::saved(&dir, &run).and_then(|saved| saved.gguf())) {
                        Ok(path) => args.load_one(&common, path).await.map(|model| serving::Local::new(vec![model])),
                        Err(error) => Err(error),
                    };
                match &models {
                    Ok(_) => served = Some((run, Instant::now(), ended)),
                    // The older weights may be what leaves no room.
                    Err(_) if common.config.limits.memory_mb > 0 => trade.serve(&serving::Local::new(Vec::new())).await,
                    Err(_) => {}
                }
                models
            }
        };
        match models {
            Ok(models) => trade.serve(&models).await,
            Err(error) => {
                tracing::warn!(%error, "a model is not served yet");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// The run whose weights are to be served now, and whether they are its last ones; `last`: which were served when.
#[cfg(feature = "serve")]
fn due(node: &Node, dir: &Path, last: Option<(swarm::RunId, Instant, bool)>) -> Option<(swarm::RunId, bool)> {
    let run = trainer::newest(dir)?;
    let status = node.status().runs.into_iter().find(|status| status.run == run.to_string());
    // Of a run that was left the weights on disk are the last ones.
    let ended = status.as_ref().is_none_or(|status| status.ended);
    let measured = ended || status.is_some_and(|status| !status.heldout.is_empty());
    let due = match last {
        Some((known, at, whole)) if known == run => !whole && (ended || at.elapsed() >= RENEW_EVERY),
        _ => measured,
    };
    due.then_some((run, ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let good = |text: &str, expect: u64| assert_eq!(minutes(text).expect(text), expect);
        good("30m", 30);
        good("2h", 120);
        good("1h30m", 90);
        for wrong in ["", "2", "h", "2d", "0m", "2h3", "99999999h", "-1h"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }
}
