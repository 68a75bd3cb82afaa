//! `talkoo update`: installs a signed release, and goes back where the node does not live with it.
//!
//! A running node is not ended by the command: it finishes what is under way, closes, and becomes (`exec`, so that its process
//! keeps its id, its terminal and its service manager) the trial of the new program. The trial begins the new program from
//! beside the old one and looks whether it answers. Only then the new program takes the old one's place. Whatever goes wrong
//! before that, the old program is where it was, and the trial becomes the old node again.

use crate::{Common, client, render, stop};
use anyhow::{Context, Result, bail, ensure};
use base::{NodeId, Signed};
use clap::Args;
use node::{ControlRequest, NextProgram};
use release::{ARRIVING, PINNED, RELEASE_FILE, Release, beside, find_release, write_release};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::process::Child;

#[derive(Args)]
pub(crate) struct UpdateArgs {
    /// A folder with releases, a release file, or a ticket of a node whose peers are asked; without it, the peers of the
    /// node that runs here are asked.
    #[arg(long, value_name = "PATH|TICKET")]
    from: Option<String>,
    /// Trust releases of this key, too.
    #[arg(long, value_name = "KEY")]
    trust: Option<String>,
    /// Say what would be installed, change nothing.
    #[arg(long)]
    check: bool,
    /// Install it although it is not newer.
    #[arg(long)]
    force: bool,
}

/// How a node goes on with another program.
#[derive(Args)]
pub(crate) struct TrialArgs {
    /// The new program.
    new: PathBuf,
    /// Its version.
    release: String,
    /// The old program, whose place the new one takes.
    exe: PathBuf,
    /// The new one serves an API, as the old one did.
    #[arg(long)]
    api: bool,
    /// How the node is begun.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// A new program answers within this, or the old one comes back.
const HEALTHY_WITHIN: Duration = Duration::from_secs(20);
/// And for so long.
const HEALTHY_FOR: Duration = Duration::from_secs(3);
/// It is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A program says its version within this.
const SAYS_WITHIN: Duration = Duration::from_secs(10);
/// The new program is judged within this.
const JUDGED_WITHIN: Duration = Duration::from_secs(90);
/// A new program that is taken back is killed where it does not end within this.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// In the data folder: how the last update went.
const OUTCOME: &str = "update.json";
/// In the data folder: with which program a node that is tried goes on, when it ends in this way.
const NEXT: &str = "update-next.json";
const ANOTHER: i32 = 86;
/// Tells a node which process waits for it as a trial.
const TRIED: &str = "TALKOO_TRIED";

/// As what this process goes on once everything in it has ended.
static GOES_ON: OnceLock<Vec<OsString>> = OnceLock::new();

/// How an update went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Outcome {
    version: String,
    /// Whether the node lives with it; else it goes on with the old program.
    healthy: bool,
    /// What was wrong.
    why: Option<String>,
    /// From the end of the old node to the verdict.
    took_ms: u64,
    at_ms: u64,
}

pub(crate) async fn update(common: &Common, args: &UpdateArgs) -> Result<()> {
    let named = PINNED.into_iter().filter(|key| !key.is_empty()).chain(args.trust.as_deref());
    let trusted: Vec<NodeId> = named.map(|key| key.parse().context("a key of 64 digits")).collect::<Result<_>>()?;
    ensure!(!trusted.is_empty(), "this program was built without a key of releases; name one with `--trust KEY`");
    let panel = node::call(&common.dir(), &ControlRequest::Panel).await?;
    let own = panel.as_ref().and_then(|panel| panel["version"].as_str()).unwrap_or(env!("CARGO_PKG_VERSION"));
    let mine: semver::Version = own.parse()?;
    let newer = |release: &Release| release.semver().is_ok_and(|version| version > mine);
    let wanted = |release: &Release| !args.check && (args.force || newer(release));
    let exe = own_program()?;
    let _one = (!args.check).then(|| one_at_a_time(&exe)).transpose()?;
    let (signed, program) = match args.from.as_deref() {
        Some(path) if !path.starts_with(net::TICKET_PREFIX) => {
            let (signed, program) = find_release(Path::new(path), &trusted)?;
            let wanted = wanted(&signed.value);
            (signed, wanted.then_some(program))
        }
        ticket => {
            let ticket = ticket.map(str::parse).transpose()?;
            let network = common.node()?.net(host::random_secret()?);
            let peers = begin(common, ticket.as_ref()).await?;
            release::find_among_peers(network, &peers, &trusted, &exe, wanted).await?
        }
    };
    let (release, newer) = (&signed.value, newer(&signed.value));
    let Some(program) = program else {
        let value = json!({ "version": release.version, "own": own, "newer": newer, "by": signed.by.to_string() });
        render::print(common, &value, || match newer {
            true => format!("{} is newer than {own}; `talkoo update` without --check installs it", release.version),
            false => format!("{own} is here, {} is not newer; --force installs it all the same", release.version),
        });
        return Ok(());
    };
    let new = stage(&exe, &program, &signed)?;
    // What came from peers is whole beside this program now.
    let _ = std::fs::remove_file(beside(&exe, ARRIVING));
    if panel.is_none() {
        // A node that is just beginning, or closing, has the folder already, or still.
        let _folder = common.dir().exists().then(|| host::DataFolder::open(&common.dir())).transpose()?;
        install(&exe, &new)?;
        let value = json!({ "version": release.version, "installed": exe, "old": beside(&exe, "old") });
        render::print(common, &value, || {
            format!("{} is installed; the old program is {}", release.version, beside(&exe, "old").display())
        });
        return Ok(());
    }
    let outcome = common.dir().join(OUTCOME);
    let _ = std::fs::remove_file(&outcome);
    let next = NextProgram { program: new, version: release.version.clone(), exe };
    let asked = async |check| client::ask(common, ControlRequest::Update { next: next.clone(), check }).await;
    asked(true).await?;
    let told = async {
        stop::finish_all(common).await?;
        asked(false).await
    };
    if let Err(error) = told.await {
        let _ = client::ask(common, ControlRequest::Resume).await;
        return Err(error);
    }
    if !common.json {
        eprintln!("the node begins anew with {}", release.version);
    }
    let outcome = judged(&outcome).await?;
    if !outcome.healthy {
        bail!("{}: {}; the node goes on with {own}", outcome.version, outcome.why.unwrap_or_default());
    }
    render::print(common, &serde_json::to_value(&outcome)?, || {
        format!("the node runs {} after {} ms; the old program is kept", outcome.version, outcome.took_ms)
    });
    Ok(())
}

/// With whom to begin: the nodes of a ticket, or the one that runs here, which passes the question on.
async fn begin(common: &Common, ticket: Option<&net::Ticket>) -> Result<Vec<net::Address>> {
    if let Some(ticket) = ticket {
        return Ok(ticket.peers.clone());
    }
    if node::call(&common.dir(), &ControlRequest::Status).await?.is_none() {
        bail!(
            "no node runs here that knows peers: `talkoo up` starts it; or name a folder of releases, or the ticket of a \
             node, with --from"
        );
    }
    let status = client::status(common).await?;
    let sockets = status.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    Ok(vec![net::Address { node: status.node.parse()?, sockets, relay: None }])
}

/// Has the node give the release that this process runs, if it is one.
pub(crate) async fn give(node: Arc<node::Node>) -> Result<()> {
    let pinned = PINNED.and_then(|key| key.parse::<NodeId>().ok());
    let own = tokio::task::spawn_blocking(release::own_release).await.context("reading this program")?;
    let topics: BTreeSet<NodeId> = pinned.into_iter().chain(own.as_ref().map(|(by, _)| *by)).collect();
    let (by, mut given) = own.map_or((None, None), |(by, given)| (Some(by), Some(given)));
    for key in topics {
        node.give_program(release::topic(&key), if by == Some(key) { given.take() } else { None });
    }
    Ok(())
}

async fn judged(path: &Path) -> Result<Outcome> {
    let begun = Instant::now();
    while begun.elapsed() < JUDGED_WITHIN {
        let read = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(outcome) = read {
            return Ok(outcome);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("nothing is known of the update after {} s; see `talkoo status`", JUDGED_WITHIN.as_secs())
}

/// This program's own file.
fn own_program() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("this program's own place")?;
    ensure!(exe.exists(), "{} was replaced while it ran; begin the node again first", exe.display());
    Ok(exe)
}

/// Held while a program is updated.
fn one_at_a_time(exe: &Path) -> Result<File> {
    let path = beside(exe, "lock");
    let lock = host::private_file().write(true).create(true).truncate(true).open(&path);
    let lock = lock.with_context(|| format!("{}: may you write there?", path.display()))?;
    ensure!(lock.try_lock().is_ok(), "another update of {} is under way", exe.display());
    Ok(lock)
}

/// Puts a released program beside this one: whole, and able to run here.
fn stage(exe: &Path, program: &Path, signed: &Signed<Release>) -> Result<PathBuf> {
    let (new, release) = (beside(exe, "new"), &signed.value);
    let _ = std::fs::remove_file(&new);
    let staged = || -> Result<()> {
        release.copy(program, &new)?;
        let says = says_version(&new)?;
        ensure!(says == release.version, "it says that it is {says}, and was released as {}", release.version);
        write_release(&beside(&new, RELEASE_FILE), signed)
    };
    if let Err(error) = staged() {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    Ok(new)
}

/// What `PROGRAM --version` says.
pub(crate) fn says_version(program: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().with_context(|| format!("{} does not run here", program.display()))?;
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > SAYS_WITHIN {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{} does not say its version", program.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(1).map(str::to_owned);
    version.filter(|_| output.status.success()).with_context(|| format!("{} does not run here", program.display()))
}

/// The new program takes the place of the old one, which is kept beside it. At every moment one of the two is in its place.
fn install(exe: &Path, new: &Path) -> Result<()> {
    let (old, kept) = (beside(exe, "old"), beside(exe, "kept"));
    let _ = std::fs::remove_file(&kept);
    if std::fs::hard_link(exe, &kept).is_err() {
        std::fs::copy(exe, &kept).with_context(|| kept.display().to_string())?;
        File::open(&kept)?.sync_all()?;
    }
    std::fs::rename(&kept, &old).with_context(|| old.display().to_string())?;
    std::fs::rename(new, exe).with_context(|| exe.display().to_string())?;
    // Where a kill is between the two, the program is not given to peers: the file does not fit it.
    let (signed, place) = (beside(new, RELEASE_FILE), beside(exe, RELEASE_FILE));
    std::fs::rename(&signed, &place).with_context(|| place.display().to_string())?;
    if let Some(folder) = exe.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Where a closed node was told to go on as another program, its process becomes the trial of that when everything in it has
/// ended, or ends so that the trial which waits for it goes on with it.
pub(crate) fn go_on(common: &Common, node: &node::Node) -> Result<()> {
    let Some(next) = node.next_program() else { return Ok(()) };
    if host::parent_is(std::env::var(TRIED).ok().as_deref()) {
        host::write_whole(&common.dir().join(NEXT), &serde_json::to_vec(next)?, false)?;
        std::process::exit(ANOTHER);
    }
    let mut words: Vec<OsString> = vec![next.exe.clone().into(), "--data".into(), common.dir().into()];
    words.extend([
        "update-trial".into(),
        next.program.clone().into(),
        next.version.clone().into(),
        next.exe.clone().into(),
    ]);
    words.extend(node.panel().node.api.map(|_| "--api".into()));
    words.push("--".into());
    words.extend(std::env::args_os().skip(1));
    let _ = GOES_ON.set(words);
    Ok(())
}

/// Becomes the program that this process is to go on as, where there is one. The last thing that it does.
pub(crate) fn become_next() {
    let Some((program, words)) = GOES_ON.get().and_then(|words| words.split_first()) else { return };
    let error = host::become_program(Command::new(program).args(words).env_remove(TRIED));
    eprintln!("talkoo: {}: {error}", program.display());
}

/// A node that a trial waits for ends with it.
pub(crate) fn end_with_trial() {
    if host::parent_is(std::env::var(TRIED).ok().as_deref()) {
        host::end_with_parent();
    }
}

/// Tries a new program as the node of this data folder, and waits for it as long as it runs. Where that does not work, this
/// process becomes the old node again.
pub(crate) async fn trial(common: &Common, args: TrialArgs) -> Result<()> {
    let next = NextProgram { program: args.new, version: args.release, exe: args.exe.clone() };
    let code = match tried(common, next, args.api, &args.arguments).await {
        Ok(code) => code,
        Err(error) => {
            tracing::warn!("{error:#}");
            let _ = GOES_ON.set(std::iter::once(args.exe.into()).chain(args.arguments).collect());
            return Ok(());
        }
    };
    std::process::exit(code)
}

/// The code with which the node ended that was tried; an error where the old one is to go on.
async fn tried(common: &Common, mut next: NextProgram, api: bool, arguments: &[OsString]) -> Result<i32> {
    let mut stopped = std::pin::pin!(stop::stopped()?);
    loop {
        let begun = Instant::now();
        let note = |why: Option<String>| {
            let (healthy, took_ms, at_ms) = (why.is_none(), begun.elapsed().as_millis() as u64, host::now_ms());
            let outcome = Outcome { version: next.version.clone(), healthy, why, took_ms, at_ms };
            host::write_whole(&common.dir().join(OUTCOME), &serde_json::to_vec_pretty(&outcome)?, false)
        };
        let mut command = tokio::process::Command::new(&next.program);
        command.args(arguments).env(TRIED, std::process::id().to_string()).kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                note(Some(error.to_string()))?;
                bail!("{}: {error}", next.program.display());
            }
        };
        let verdict = tokio::select! {
            biased;
            // Whoever ends the node ends the trial; the old program is where it was.
            () = &mut stopped => return end(&mut child, None).await,
            verdict = healthy(common, api, &mut child) => verdict,
        };
        let installed = match verdict {
            Ok(None) => install(&next.exe, &next.program),
            Ok(Some(code)) => {
                note(Some("it was ended".into()))?;
                return Ok(code);
            }
            Err(error) => Err(error),
        };
        if let Err(error) = installed {
            end(&mut child, Some(ENDS_WITHIN)).await?;
            note(Some(format!("{error:#}")))?;
            return Err(error);
        }
        note(None)?;
        let status = tokio::select! {
            status = child.wait() => status?,
            () = &mut stopped => return end(&mut child, None).await,
        };
        match status.code() {
            Some(ANOTHER) => next = serde_json::from_slice(&std::fs::read(common.dir().join(NEXT))?)?,
            code => return Ok(code.unwrap_or(1)),
        }
    }
}

/// Whether a program answers for the node, for some time; its code where its owner ended it meanwhile.
async fn healthy(common: &Common, api: bool, child: &mut Child) -> Result<Option<i32>> {
    let (begun, mut since) = (Instant::now(), None);
    while begun.elapsed() < HEALTHY_WITHIN || since.is_some() {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(Some(0)),
            Some(status) => bail!("it ended ({status})"),
            None => {}
        }
        if answers(common, api).await {
            if since.get_or_insert_with(Instant::now).elapsed() >= HEALTHY_FOR {
                return Ok(None);
            }
        } else {
            since = None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("it does not answer within {} s", HEALTHY_WITHIN.as_secs())
}

/// Whether the node answers on its socket and, where it is to, over HTTP. What else it says may be of a form of its own.
async fn answers(common: &Common, api: bool) -> bool {
    let asked = tokio::time::timeout(Duration::from_secs(2), client::ask(common, ControlRequest::Panel)).await;
    let Ok(Ok(panel)) = asked else { return false };
    match panel["node"]["api"].as_str() {
        Some(url) => crate::doctor::answers(url).await.is_ok(),
        None => !api,
    }
}

/// Tells the node to end, and waits for that: as long as it takes, or until it is killed. Gives its code.
async fn end(child: &mut Child, within: Option<Duration>) -> Result<i32> {
    if let Some(pid) = child.id() {
        host::ask_to_end(pid);
    }
    let status = match within {
        None => child.wait().await?,
        Some(within) => match tokio::time::timeout(within, child.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                child.kill().await?;
                child.wait().await?
            }
        },
    };
    Ok(status.code().unwrap_or(1))
}
