//! `talkoo service`: the node begins with the machine and goes on with its runs.

use crate::{Common, render};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Subcommand)]
pub(crate) enum ServiceCommand {
    /// Let `talkoo up` begin with the machine.
    Install(ServiceArgs),
    /// Take it away again; the data folder stays.
    Uninstall(ServiceArgs),
}

#[derive(Args)]
pub(crate) struct ServiceArgs {
    /// For the whole machine, not for this user; needs administrator rights (systemd only).
    #[arg(long)]
    system: bool,
    /// Show the file, change nothing.
    #[arg(long)]
    print: bool,
}

const UNIT: &str = "talkoo.service";
const ROOT: &str =
    "\nit runs as root, the owner of its data folder; let another user own the folder and install it again";
const LINGER: &str = "\nto have it run while you are not logged in: loginctl enable-linger";
const PLIST: &str = "network.talkoo.up.plist";

/// What would be installed where, and what is run then.
struct Plan {
    path: PathBuf,
    text: String,
    install: Vec<Vec<String>>,
    uninstall: Vec<Vec<String>>,
    /// Once the file is gone.
    removed: Vec<Vec<String>>,
    note: &'static str,
}

/// Whose the service of a whole machine is, and what it may take: the system's manager takes no word from the node itself.
struct System {
    owner: u32,
    limits: node::LimitsTable,
}

/// How the node is begun.
struct Call<'a> {
    program: &'a Path,
    data: &'a Path,
    /// What was said of it on the command line: `talkoo.toml` says the rest.
    options: Vec<String>,
}

/// Where there is no folder yet whose owner it could run as.
const NOBODY: u32 = 65_534;

pub(crate) fn run(common: &Common, command: &ServiceCommand) -> Result<()> {
    let (ServiceCommand::Install(args) | ServiceCommand::Uninstall(args)) = command;
    let program = std::env::current_exe().context("this program's own place")?;
    let home = std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set")?;
    let data = std::path::absolute(common.dir())?;
    let system = match std::fs::metadata(&data) {
        _ if !args.system => None,
        Ok(data) => Some(System { owner: data.uid(), limits: common.config.limits.clone().picked() }),
        Err(_) if args.print || matches!(command, ServiceCommand::Uninstall(_)) => {
            Some(System { owner: NOBODY, limits: common.config.limits.clone().picked() })
        }
        Err(_) => bail!(
            "the service runs as the owner of its data folder, and there is no {0}; make it as who it is to run as: \
             sudo -u NAME mkdir {0}",
            data.display()
        ),
    };
    let call = Call { program: &program, data: &data, options: common.options() };
    let plan = plan(&call, &home, system.as_ref());
    if args.print {
        let value = json!({ "file": plan.path, "text": plan.text, "note": plan.note });
        render::print(common, &value, || format!("# {}\n{}", plan.path.display(), plan.text.trim_end()));
        return Ok(());
    }
    let commands = match command {
        ServiceCommand::Install(_) => {
            let folder = plan.path.parent().context("a folder")?;
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            std::fs::create_dir_all(common.dir())?;
            std::fs::write(&plan.path, &plan.text).with_context(|| plan.path.display().to_string())?;
            &plan.install
        }
        ServiceCommand::Uninstall(_) if !plan.path.exists() => {
            bail!("there is no {}: nothing was installed", plan.path.display())
        }
        ServiceCommand::Uninstall(_) => &plan.uninstall,
    };
    let try_all = |commands: &[Vec<String>]| -> Vec<String> {
        commands.iter().filter(|command| !ran(command)).map(|command| command.join(" ")).collect()
    };
    let mut failed = try_all(commands);
    let installed = matches!(command, ServiceCommand::Install(_));
    if !installed {
        std::fs::remove_file(&plan.path).with_context(|| plan.path.display().to_string())?;
        failed.extend(try_all(&plan.removed));
        // Folders that are empty now were there for it alone.
        let own = home.join(".config");
        let folders = plan.path.ancestors().skip(1).take_while(|folder| folder.starts_with(&own));
        let _ = folders.map(std::fs::remove_dir).take_while(Result::is_ok).count();
    }
    let note = if installed { plan.note } else { "" };
    let value = json!({ "file": plan.path, "installed": installed, "to_run": failed, "note": note });
    render::print(common, &value, || {
        let done = if installed { "installed" } else { "removed" };
        let mut out = format!("{done}: {}", plan.path.display());
        if !failed.is_empty() {
            out += &format!("\nthese did not run here; run them yourself:\n  {}", failed.join("\n  "));
        }
        out + note
    });
    Ok(())
}

fn ran(command: &[String]) -> bool {
    Command::new(&command[0]).args(&command[1..]).status().is_ok_and(|status| status.success())
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// `system`: for the whole machine, as the owner of the data folder.
fn plan(call: &Call, home: &Path, system: Option<&System>) -> Plan {
    if cfg!(target_os = "macos") {
        let path = home.join("Library/LaunchAgents").join(PLIST);
        let domain = format!("gui/{}", std::fs::metadata(home).map_or(0, |home| home.uid()));
        let ctl = |what: &str| vec![vec!["launchctl".into(), what.into(), domain.clone(), path.display().to_string()]];
        let (install, uninstall) = (ctl("bootstrap"), ctl("bootout"));
        let note = "\nnot tested on macOS yet";
        return Plan { text: plist(call), path, install, uninstall, removed: Vec::new(), note };
    }
    let (folder, user) = match system {
        Some(_) => (PathBuf::from("/etc/systemd/system"), ""),
        None => (home.join(".config/systemd/user"), "--user "),
    };
    let ctl = |what: &str| words(&format!("systemctl {user}{what}"));
    Plan {
        path: folder.join(UNIT),
        text: unit(call, system),
        install: vec![ctl("daemon-reload"), ctl(&format!("enable --now {UNIT}"))],
        // What was set with `systemctl edit` or `set-property`, or by the node itself, is in files, too.
        uninstall: vec![ctl(&format!("disable --now {UNIT}")), ctl(&format!("revert {UNIT}"))],
        removed: vec![ctl("daemon-reload")],
        note: match system {
            None => LINGER,
            Some(system) if system.owner == 0 => ROOT,
            Some(_) => "",
        },
    }
}

/// A systemd unit: last in line for processor and disk, and held to its data folder.
fn unit(call: &Call, system: Option<&System>) -> String {
    let Call { program, data, options } = call;
    let target = if system.is_some() { "multi-user.target" } else { "default.target" };
    // What a user's own manager cannot do, or does not know, is for the system's one.
    let (network, hardening) = match system {
        Some(system) => {
            ("After=network-online.target\nWants=network-online.target\n", hardening(program, data, system))
        }
        None => ("", String::new()),
    };
    // Variables are named by `$` in arguments only.
    let (program, data) = (word(program).replace("$$", "$"), word(data));
    let options: String = options.iter().map(|option| format!(" {}", quoted(option))).collect();
    // Where the node has ended by `talkoo down`, or does not answer yet, that the second command fails is no failure:
    // systemd would begin it again.
    format!(
        "[Unit]\nDescription=talkoo: trains and serves open models while this machine is idle\n\
         Documentation=man:talkoo(1)\n{network}\n\
         [Service]\nType=exec\nExecStart={program} --data {data}{options} up\nExecStop=-{program} --data {data} down\n\
         Restart=on-failure\nRestartSec=10\nTimeoutStopSec=90\n\
         Nice=19\nCPUSchedulingPolicy=idle\nCPUWeight=idle\nIOSchedulingClass=idle\nNoNewPrivileges=yes\n\
         RestrictSUIDSGID=yes\nLockPersonality=yes\nRestrictRealtime=yes\nUMask=0077\n{hardening}\n\
         [Install]\nWantedBy={target}\n"
    )
}

/// Without any right of root it can read and write what belongs to its user only; and it is held to the limits of its settings.
fn hardening(program: &Path, data: &Path, system: &System) -> String {
    let user = if system.owner == 0 { String::new() } else { format!("User={}\n", system.owner) };
    let cap =
        |name: &str, value: u64, unit: &str| if value > 0 { format!("{name}={value}{unit}\n") } else { String::new() };
    let caps =
        cap("CPUQuota", u64::from(system.limits.threads) * 100, "%") + &cap("MemoryHigh", system.limits.memory_mb, "M");
    // A private /tmp would hide them.
    let hidden = [program, data].iter().any(|path| path.starts_with("/tmp") || path.starts_with("/var/tmp"));
    let private = if hidden { "" } else { "PrivateTmp=yes\n" };
    let data = word(data).replace("$$", "$");
    format!(
        "{user}{caps}ProtectSystem=strict\nProtectHome=read-only\nReadWritePaths={data}\n{private}\
         ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectControlGroups=yes\n\
         RestrictNamespaces=yes\nSystemCallArchitectures=native\nCapabilityBoundingSet=\n"
    )
}

/// As systemd reads a word of a command line.
fn quoted(text: &str) -> String {
    let text = text.replace('%', "%%");
    match text.contains([' ', '"', '\\', '\'', '$', ';']) {
        true => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$")),
        false => text,
    }
}

fn word(path: &Path) -> String {
    quoted(&path.display().to_string())
}

fn plist(call: &Call) -> String {
    let escaped = |text: String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let begin = [call.program.display().to_string(), "--data".into(), call.data.display().to_string()];
    let words = begin.into_iter().chain(call.options.iter().cloned()).chain(["up".into()]);
    let words: String = words.map(|word| format!("    <string>{}</string>\n", escaped(word))).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
         \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">\n<dict>\n  <key>Label</key>\n  \
         <string>network.talkoo.up</string>\n  <key>ProgramArguments</key>\n  <array>\n{words}  </array>\n  \
         <key>RunAtLoad</key>\n  <true/>\n  <key>ProcessType</key>\n  <string>Background</string>\n  <key>Nice</key>\n  \
         <integer>19</integer>\n</dict>\n</plist>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_with_spaces_are_one_word() {
        let check = |path: &str, expect: &str| assert_eq!(word(Path::new(path)), expect);
        check("/usr/bin/talkoo", "/usr/bin/talkoo");
        check("/home/a b/talkoo", "\"/home/a b/talkoo\"");
        check("/home/50%/x", "/home/50%%/x");
        let call = |program, data, options: &[&str]| Call {
            program: Path::new(program),
            data: Path::new(data),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let text = unit(&call("/opt/my talkoo", "/home/ann/.talkoo", &["--relay", "https://k@r:7843/?a=50%"]), None);
        let line = "ExecStart=\"/opt/my talkoo\" --data /home/ann/.talkoo --relay https://k@r:7843/?a=50%% up\n";
        assert!(text.contains(line), "{text}");
        let limits = node::LimitsTable { threads: 2, memory_mb: 400, ..Default::default() };
        let text = unit(&call("/opt/talkoo", "/home/ann/$x", &[]), Some(&System { owner: 1000, limits }));
        for line in ["User=1000", "ReadWritePaths=\"/home/ann/$x\"", "CPUQuota=200%", "MemoryHigh=400M"] {
            assert!(text.contains(&format!("\n{line}\n")), "{text}");
        }
        assert!(plist(&call("/a&b", "/c", &["--duty", "5"])).contains("<string>/a&amp;b</string>"));
    }
}
