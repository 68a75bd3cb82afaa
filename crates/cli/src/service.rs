//! `talkoo service`: the node begins with the machine and goes on with its runs.

use crate::{Common, render};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
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
const PLIST: &str = "network.talkoo.up.plist";

/// What would be installed where, and what is run then.
struct Plan {
    path: PathBuf,
    text: String,
    install: Vec<Vec<String>>,
    uninstall: Vec<Vec<String>>,
    note: &'static str,
}

pub(crate) fn run(common: &Common, command: &ServiceCommand) -> Result<()> {
    let (ServiceCommand::Install(args) | ServiceCommand::Uninstall(args)) = command;
    let program = std::env::current_exe().context("this program's own place")?;
    let home = std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set")?;
    let plan = plan(&program, &std::path::absolute(common.dir())?, &home, args.system);
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
    let failed: Vec<String> =
        commands.iter().filter(|command| !ran(command)).map(|command| command.join(" ")).collect();
    if matches!(command, ServiceCommand::Uninstall(_)) {
        std::fs::remove_file(&plan.path).with_context(|| plan.path.display().to_string())?;
    }
    let installed = matches!(command, ServiceCommand::Install(_));
    let value = json!({ "file": plan.path, "installed": installed, "to_run": failed, "note": plan.note });
    render::print(common, &value, || {
        let done = if installed { "installed" } else { "removed" };
        let mut out = format!("{done}: {}", plan.path.display());
        if !failed.is_empty() {
            out += &format!("\nthese did not run here; run them yourself:\n  {}", failed.join("\n  "));
        }
        out + plan.note
    });
    Ok(())
}

fn ran(command: &[String]) -> bool {
    Command::new(&command[0]).args(&command[1..]).status().is_ok_and(|status| status.success())
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn plan(program: &Path, data: &Path, home: &Path, system: bool) -> Plan {
    if cfg!(target_os = "macos") {
        let path = home.join("Library/LaunchAgents").join(PLIST);
        let load = |what: &str| vec![vec!["launchctl".to_owned(), what.to_owned(), path.display().to_string()]];
        let (install, uninstall) = (load("load"), load("unload"));
        let note = "\nnot tested on macOS yet";
        return Plan { text: plist(program, data), path, install, uninstall, note };
    }
    let (folder, user) = match system {
        true => (PathBuf::from("/etc/systemd/system"), ""),
        false => (home.join(".config/systemd/user"), "--user "),
    };
    let call = |what: &str| words(&format!("systemctl {user}{what}"));
    Plan {
        path: folder.join(UNIT),
        text: unit(program, data, system),
        install: vec![call("daemon-reload"), call(&format!("enable --now {UNIT}"))],
        uninstall: vec![call(&format!("disable --now {UNIT}"))],
        note: if system { "" } else { "\nto have it run while you are not logged in: loginctl enable-linger" },
    }
}

/// A systemd unit: last in line for processor and disk, and held to its data folder.
fn unit(program: &Path, data: &Path, system: bool) -> String {
    let (program, data) = (quoted(program), quoted(data));
    let target = if system { "multi-user.target" } else { "default.target" };
    // What a user's own manager cannot do is for the system's one.
    let hardening = match system {
        true => format!(
            "DynamicUser=no\nProtectSystem=strict\nProtectHome=read-only\nReadWritePaths={data}\nPrivateTmp=yes\n\
             PrivateDevices=no\nProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectControlGroups=yes\n\
             RestrictNamespaces=yes\nSystemCallArchitectures=native\nCapabilityBoundingSet=\n"
        ),
        false => String::new(),
    };
    format!(
        "[Unit]\nDescription=talkoo: trains and serves open models while this machine is idle\nDocumentation=man:talkoo(1)\n\
         After=network-online.target\nWants=network-online.target\n\n\
         [Service]\nExecStart={program} --data {data} up\nExecStop={program} --data {data} down\nRestart=on-failure\n\
         RestartSec=10\nTimeoutStopSec=90\nNice=19\nCPUSchedulingPolicy=idle\nCPUWeight=idle\nIOSchedulingClass=idle\nNoNewPrivileges=yes\n\
         RestrictSUIDSGID=yes\nLockPersonality=yes\nRestrictRealtime=yes\nUMask=0077\n{hardening}\n\
         [Install]\nWantedBy={target}\n"
    )
}

/// As systemd reads a word of a command line.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    match text.contains([' ', '"', '\\', '\'', '$', ';']) {
        true => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$")),
        false => text,
    }
}

fn plist(program: &Path, data: &Path) -> String {
    let escaped = |text: String| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let words = [program.display().to_string(), "--data".into(), data.display().to_string(), "up".into()];
    let words: String = words.into_iter().map(|word| format!("    <string>{}</string>\n", escaped(word))).collect();
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
        let check = |path: &str, expect: &str| assert_eq!(quoted(Path::new(path)), expect);
        check("/usr/bin/talkoo", "/usr/bin/talkoo");
        check("/home/a b/talkoo", "\"/home/a b/talkoo\"");
        check("/home/50%/x", "/home/50%%/x");
        let text = unit(Path::new("/opt/my talkoo"), Path::new("/home/ann/.talkoo"), false);
        assert!(text.contains("ExecStart=\"/opt/my talkoo\" --data /home/ann/.talkoo up\n"), "{text}");
        assert!(plist(Path::new("/a&b"), Path::new("/c")).contains("<string>/a&amp;b</string>"));
    }
}
