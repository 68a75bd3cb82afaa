//! `talkoo update`: installs a signed release, and takes it back where the node does not live with it.
//!
//! A running node is not ended by the command: it finishes what is under way, closes, and becomes (`exec`, so its process keeps
//! its id, its terminal and its service manager) the trial of the new program. The trial puts the new program in the place of
//! the old one, begins it, and looks whether it answers. If not, it puts the old one back and becomes the old node again.

use crate::{Common, client, render};
use anyhow::{Context, Result, bail, ensure};
use base::{NodeId, Signed};
use clap::{Args, Subcommand};
use node::{ControlRequest, RELEASE_FILE, Release, find_release, write_release};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct UpdateArgs {
    /// A folder with releases, or a release file.
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
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

#[derive(Subcommand)]
pub(crate) enum ReleaseCommand {
    /// Make a key that signs releases; a program is built to trust it with TALKOO_RELEASE_KEY in its environment.
    Key {
        /// Where to put the secret.
        file: PathBuf,
    },
    /// Sign a program for machines like this one.
    Sign {
        /// The program.
        program: PathBuf,
        /// The file of the key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The folder that gets the program and its release file.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Its version; what the program says of itself otherwise.
        #[arg(long, value_name = "VERSION")]
        version_of: Option<String>,
    },
}

/// How a node goes on with another program.
#[derive(Args)]
pub(crate) struct TrialArgs {
    /// The new program, checked.
    new: PathBuf,
    /// Its version.
    version: String,
    /// How the node is begun.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// The key whose releases this program trusts.
const PINNED: Option<&str> = option_env!("TALKOO_RELEASE_KEY");
/// A new program answers within this, or the old one comes back.
const HEALTHY_WITHIN: Duration = Duration::from_secs(30);
/// It is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// It answers so many times in a row.
const ANSWERS: usize = 4;
/// A program says its version within this.
const SAYS_WITHIN: Duration = Duration::from_secs(10);
/// What is under way is finished, and the new program is judged, within this.
const DONE_WITHIN: Duration = Duration::from_secs(150);
/// What does not end when it is told to is killed after this.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// In the data folder: how the last update went.
const OUTCOME: &str = "update.json";
/// In the data folder: with which program a node that is tried goes on, when it ends in this way.
const NEXT: &str = "update-next.json";
const ANOTHER: i32 = 86;
/// Tells a node that a trial waits for it.
const TRIED: &str = "TALKOO_TRIED";

/// What is tried.
#[derive(Serialize, Deserialize)]
struct Next {
    new: PathBuf,
    version: String,
}

/// How an update went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Outcome {
    version: String,
    /// Whether the node lives with it; else the old program is back.
    healthy: bool,
    /// What was wrong.
    why: Option<String>,
    /// From the end of the old node to the verdict.
    took_ms: u64,
    at_ms: u64,
}

pub(crate) fn release(common: &Common, command: &ReleaseCommand) -> Result<()> {
    match command {
        ReleaseCommand::Key { file } => {
            ensure!(!file.exists(), "{} exists already", file.display());
            let secret = host::random_secret()?;
            host::write_private(file, base::to_hex(&secret).as_bytes())?;
            let key = base::Keypair::from_secret(secret).id().to_string();
            render::print(common, &json!({ "key": key, "file": file }), || {
                format!("{key}\nits secret is in {}; whoever has that file releases in its name", file.display())
            });
        }
        ReleaseCommand::Sign { program, key, out, version_of } => {
            let secret = std::fs::read_to_string(key).with_context(|| key.display().to_string())?;
            let secret: [u8; 32] =
                base::from_hex(secret.trim())?.try_into().ok().with_context(|| format!("{}: no key", key.display()))?;
            let version = match version_of {
                Some(version) => version.clone(),
                None => says_version(&std::path::absolute(program)?)?,
            };
            semver::Version::parse(&version).with_context(|| format!("“{version}” is no version"))?;
            let signed = Release::sign(program, &version, &base::Keypair::from_secret(secret))?;
            std::fs::create_dir_all(out)?;
            let named = out.join(signed.value.file_name());
            std::fs::copy(program, &named).with_context(|| named.display().to_string())?;
            let file = out.join(format!("{}.{RELEASE_FILE}", signed.value.file_name()));
            write_release(&file, &signed)?;
            let value = json!({ "program": named, "release": file, "key": signed.by.to_string() });
            render::print(common, &value, || format!("{}\n{}", named.display(), file.display()));
        }
    }
    Ok(())
}

pub(crate) async fn update(common: &Common, args: &UpdateArgs) -> Result<()> {
    let named = PINNED.into_iter().chain(args.trust.as_deref());
    let trusted: Vec<NodeId> = named.map(|key| key.parse().context("a key of 64 digits")).collect::<Result<_>>()?;
    ensure!(!trusted.is_empty(), "this program was built without a key of releases; name one with `--trust KEY`");
    let (signed, program) = find_release(&args.from, &trusted)?;
    let release = &signed.value;
    let own = semver::Version::parse(env!("CARGO_PKG_VERSION"))?;
    let newer = semver::Version::parse(&release.version).context("the release has no version")? > own;
    if args.check || !newer && !args.force {
        let value = json!({ "version": release.version, "own": own.to_string(), "newer": newer, "by": signed.by.to_string() });
        render::print(common, &value, || match newer {
            true => format!("{} is newer than {own}; `talkoo update` without --check installs it", release.version),
            false => format!("{own} is here, {} is not newer; --force installs it all the same", release.version),
        });
        return Ok(());
    }
    let exe = own_program()?;
    let new = stage(&exe, &program, &signed)?;
    let running = node::call(&common.dir(), &ControlRequest::Panel).await?.is_some();
    if !running {
        swap(&exe, &new)?;
        let value = json!({ "version": release.version, "installed": exe, "old": beside(&exe, "old") });
        render::print(common, &value, || {
            format!("{} is installed; the old program is {}", release.version, beside(&exe, "old").display())
        });
        return Ok(());
    }
    let outcome = common.dir().join(OUTCOME);
    let _ = std::fs::remove_file(&outcome);
    crate::up::finish_all(common).await?;
    client::ask(common, ControlRequest::Update { program: new, version: release.version.clone() }).await?;
    if !common.json {
        eprintln!("the node begins anew with {}", release.version);
    }
    let begun = Instant::now();
    while begun.elapsed() < DONE_WITHIN {
        if let Some(outcome) = read_outcome(&outcome) {
            let value = serde_json::to_value(&outcome)?;
            if let (false, why) = (outcome.healthy, outcome.why.unwrap_or_default()) {
                bail!("{} is not healthy: {why}; the old program runs again", outcome.version);
            }
            render::print(common, &value, || {
                format!("the node runs {} after {} ms; the old program is kept", outcome.version, outcome.took_ms)
            });
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("nothing is known of the update after {} s; see `talkoo status`", DONE_WITHIN.as_secs())
}

/// This program's own file.
fn own_program() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("this program's own place")?;
    ensure!(exe.exists(), "{} was replaced while it ran; begin the node again first", exe.display());
    Ok(exe)
}

fn beside(exe: &Path, ending: &str) -> PathBuf {
    let mut name = exe.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    exe.with_file_name(name)
}

/// Puts a released program beside this one: whole, and able to run here.
fn stage(exe: &Path, program: &Path, signed: &Signed<Release>) -> Result<PathBuf> {
    let new = beside(exe, "new");
    let copied = std::fs::copy(program, &new);
    copied.with_context(|| format!("{} to {}: may you write there?", program.display(), new.display()))?;
    let checked = || -> Result<()> {
        // What was copied is what is checked, and what is run.
        signed.value.check(&new)?;
        host::make_runnable(&new)?;
        let says = says_version(&new)?;
        ensure!(says == signed.value.version, "it says that it is {says}, and was released as {}", signed.value.version);
        Ok(())
    };
    if let Err(error) = checked() {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    Ok(new)
}

/// What `PROGRAM --version` says.
fn says_version(program: &Path) -> Result<String> {
    let mut command = std::process::Command::new(program);
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

/// The new program takes the place of the old one, which is kept beside it.
fn swap(exe: &Path, new: &Path) -> Result<()> {
    let old = beside(exe, "old");
    let _ = std::fs::remove_file(&old);
    if std::fs::hard_link(exe, &old).is_err() {
        std::fs::copy(exe, &old).with_context(|| old.display().to_string())?;
    }
    std::fs::rename(new, exe).with_context(|| exe.display().to_string())
}

/// The old program takes its place again, where it had lost it.
fn swap_back(exe: &Path) -> Result<()> {
    let old = beside(exe, "old");
    if old.exists() { std::fs::rename(&old, exe).with_context(|| exe.display().to_string()) } else { Ok(()) }
}

/// Where a closed node was told to go on as another program, this process becomes the trial of that, or its trial goes on with
/// it. Returns where it was not told so, or where that failed.
pub(crate) fn go_on(common: &Common, node: &node::Node) -> Result<()> {
    let Some(next) = node.next_program() else { return Ok(()) };
    if std::env::var_os(TRIED).is_some() {
        let next = Next { new: next.program.clone(), version: next.version.clone() };
        host::write_whole(&common.dir().join(NEXT), &serde_json::to_vec(&next)?, false)?;
        std::process::exit(ANOTHER);
    }
    let mut command = std::process::Command::new(own_program()?);
    command.arg("--data").arg(common.dir()).arg("update-trial").arg(&next.program).arg(&next.version).arg("--");
    Err(host::become_program(command.args(std::env::args_os().skip(1))).into())
}

/// Tries a new program as the node of this data folder, and waits for it as long as it runs.
pub(crate) async fn trial(common: &Common, args: TrialArgs) -> Result<()> {
    let exe = own_program()?;
    let mut stopped = std::pin::pin!(crate::stop::stopped()?);
    let mut next = Next { new: args.new, version: args.version };
    loop {
        let begun = Instant::now();
        let mut child = match swap(&exe, &next.new).and_then(|()| begin(&exe, &args.arguments)) {
            Ok(child) => child,
            Err(error) => break note(common, &next.version, Some(format!("{error:#}")), begun)?,
        };
        let verdict = tokio::select! {
            verdict = healthy(common, &mut child) => verdict,
            // Whoever ends the node ends the trial: the program stays what it is by then.
            () = &mut stopped => return end(&mut child).await,
        };
        note(common, &next.version, verdict.as_ref().err().map(|error| format!("{error:#}")), begun)?;
        if verdict.is_err() {
            break end(&mut child).await?;
        }
        let status = tokio::select! {
            status = child.wait() => status?,
            () = &mut stopped => return end(&mut child).await,
        };
        match status.code() {
            Some(ANOTHER) => next = serde_json::from_slice(&std::fs::read(common.dir().join(NEXT))?)?,
            code => std::process::exit(code.unwrap_or(1)),
        }
    }
    swap_back(&exe)?;
    let mut command = std::process::Command::new(&exe);
    Err(host::become_program(command.args(&args.arguments).env_remove(TRIED)).into())
}

fn begin(exe: &Path, arguments: &[OsString]) -> Result<tokio::process::Child> {
    let mut command = tokio::process::Command::new(exe);
    command.args(arguments).env(TRIED, "1").kill_on_drop(true).spawn().with_context(|| exe.display().to_string())
}

/// Whether a program answers for the node, several times in a row.
async fn healthy(common: &Common, child: &mut tokio::process::Child) -> Result<()> {
    let (begun, mut answers) = (Instant::now(), 0);
    while begun.elapsed() < HEALTHY_WITHIN {
        if let Some(status) = child.try_wait()? {
            bail!("it ended ({status})");
        }
        let looked = tokio::time::timeout(Duration::from_secs(2), client::panel(common));
        let lives = match looked.await {
            Ok(Ok(panel)) => match &panel.node.api {
                Some(api) => crate::doctor::answers(api).await.is_ok(),
                None => true,
            },
            _ => false,
        };
        answers = if lives { answers + 1 } else { 0 };
        if answers >= ANSWERS {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("it does not answer within {} s", HEALTHY_WITHIN.as_secs())
}

/// Tells a process to end; kills it where it does not.
async fn end(child: &mut tokio::process::Child) -> Result<()> {
    if let Some(pid) = child.id() {
        host::ask_to_end(pid);
    }
    if tokio::time::timeout(ENDS_WITHIN, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

fn note(common: &Common, version: &str, why: Option<String>, begun: Instant) -> Result<()> {
    let outcome = Outcome {
        version: version.to_owned(),
        healthy: why.is_none(),
        why,
        took_ms: begun.elapsed().as_millis() as u64,
        at_ms: host::now_ms(),
    };
    host::write_whole(&common.dir().join(OUTCOME), &serde_json::to_vec_pretty(&outcome)?, false)
}

fn read_outcome(path: &Path) -> Option<Outcome> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
