//! A control group of its own, by D-Bus from systemd: what is set there the system itself keeps to, against programs of
//! other sessions, too.
//!
//! As a service of its user the node is in one already; as one of the system its unit says the limits. Begun by hand it asks its
//! user's manager for a scope, as `systemd-run --user --scope` does; other programs of the same terminal stay where they are. What
//! its owner put into a group of its own stays there.

use super::bus::Bus;
use super::dbus;
use crate::machine::Caps;
use std::path::Path;
use std::time::Duration;
use zbus::{Connection, OwnedObjectPath, Variant};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// There where systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// The manager is looked for so often, this far apart.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_millis(50);

/// Where a process is, as its control group says.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    /// Alone in a unit of the user's manager.
    User(&'a str),
    /// Alone in a unit of the system's manager, which takes no word from who is not its administrator.
    System(&'a str),
    /// With other programs of a login or a terminal.
    Shared,
    /// Where its owner put it.
    Given(&'a str),
}

/// What logins, terminals and desktops call the scopes of what they begin.
const SHARED: [&str; 6] = ["session-", "app-", "vte-spawn-", "ptyxis-spawn-", "tmux-spawn-", "gnome-terminal-"];

/// The path of the control group that `/proc/self/cgroup` names.
fn group(cgroups: &str) -> &str {
    cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default()
}

/// What that path says.
fn place(group: &str) -> Place<'_> {
    let name = group.rsplit('/').next().unwrap_or_default();
    match name {
        _ if name.starts_with("talkoo") && name.ends_with(".service") => {
            if group.contains("/user@") {
                Place::User(name)
            } else {
                Place::System(name)
            }
        }
        "" | "init.scope" => Place::Shared,
        _ if SHARED.iter().any(|prefix| name.starts_with(prefix)) => Place::Shared,
        _ => Place::Given(name),
    }
}

/// What systemd is told of the group. Everything, each time: what is no longer set would stay in force. `idle`: whether it
/// knows the class that gives way to everything (since 252).
fn properties(caps: Caps, idle: bool) -> Vec<(&'static str, Variant<'static>)> {
    let or_none = |limit: u64, unit: u64| if limit > 0 { limit.saturating_mul(unit) } else { u64::MAX };
    vec![
        ("CPUWeight", Variant::from(u64::from(!idle))),
        ("CPUQuotaPerSecUSec", Variant::from(or_none(caps.threads.into(), 1_000_000))),
        ("MemoryHigh", Variant::from(or_none(caps.memory_mb, 1 << 20))),
    ]
}

/// Has the caps kept by the system; the unit that it is in then.
pub(in crate::machine) async fn confine(caps: Caps) -> Result<String, String> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    match place(group(&cgroups)) {
        Place::User(name) => {
            let call = |connection, properties: Vec<_>| async move {
                let body = (name, true, &properties);
                dbus::call::<_, ()>(&connection, SYSTEMD, PATH, MANAGER, "SetUnitProperties", &body).await
            };
            asked(caps, call).await.map(|()| name.to_owned())
        }
        Place::System(name) => {
            let folder = Path::new("/sys/fs/cgroup").join(group(&cgroups).trim_start_matches('/'));
            let read =
                |file: &str| std::fs::read_to_string(folder.join(file)).map_err(|error| format!("{file}: {error}"));
            match kept(caps, &read("cpu.max")?, &read("memory.high")?) {
                true => Ok(name.to_owned()),
                false => Err(format!(
                    "{name} was installed with other limits; as its administrator: talkoo service install --system"
                )),
            }
        }
        Place::Given(name) => Err(format!("its owner began it in {name}")),
        Place::Shared => {
            let unit = format!("talkoo-{}.scope", std::process::id());
            let name = unit.as_str();
            let call = |connection, mut properties: Vec<_>| async move {
                // Of the caller, whatever number it has elsewhere.
                properties.push(("PIDs", Variant::from(vec![0u32])));
                properties.push(("Description", Variant::from("talkoo")));
                properties.push(("CollectMode", Variant::from("inactive-or-failed")));
                let aux: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
                let body = (name, "fail", &properties, aux);
                dbus::call::<_, OwnedObjectPath>(&connection, SYSTEMD, PATH, MANAGER, "StartTransientUnit", &body).await
            };
            asked(caps, call).await.map(|_| unit)
        }
    }
}

/// Has `call` ask the user's manager, in words that it understands.
async fn asked<T, F: Future<Output = Result<T, String>>>(
    caps: Caps,
    call: impl Fn(Connection, Vec<(&'static str, Variant<'static>)>) -> F,
) -> Result<T, String> {
    let connection = Bus::session().get().await?;
    // Whose first word began the bus comes before the manager.
    let mut looks = if Path::new(BOOTED).exists() { LOOKS } else { 1 };
    while !dbus::is_owned(&connection, SYSTEMD).await {
        looks -= 1;
        if looks == 0 {
            return Err("no systemd on the bus".into());
        }
        tokio::time::sleep(LOOK).await;
    }
    match call(connection.clone(), properties(caps, true)).await {
        Ok(done) => Ok(done),
        Err(_) => call(connection, properties(caps, false)).await,
    }
}

/// Whether the limits of a group are these.
fn kept(caps: Caps, cpu: &str, memory: &str) -> bool {
    let quota = match cpu.split_whitespace().collect::<Vec<_>>()[..] {
        ["max", _] => Some(0),
        [quota, period] => quota.parse::<u64>().ok().zip(period.parse::<u64>().ok()).map(|(q, p)| q.div_ceil(p.max(1))),
        _ => None,
    };
    let memory = match memory.trim() {
        "max" => Some(0),
        bytes => bytes.parse::<u64>().ok().map(|bytes| bytes >> 20),
    };
    quota == Some(caps.threads.into()) && memory == Some(caps.memory_mb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |cgroups: &str, expect| assert_eq!(place(group(cgroups)), expect, "{cgroups}");
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice";
        check(&format!("0::{user}/talkoo.service\n"), Place::User("talkoo.service"));
        check("0::/system.slice/talkoo.service", Place::System("talkoo.service"));
        check("4:memory:/x\n0::/user.slice/user-1000.slice/session-2.scope", Place::Shared);
        check(&format!("0::{user}/vte-spawn-1.scope"), Place::Shared);
        check("0::/", Place::Shared);
        check("", Place::Shared);
        // systemd-run --user --scope -p MemoryMax=1G talkoo up
        check(&format!("0::{user}/run-r1f.scope"), Place::Given("run-r1f.scope"));
        check("0::/system.slice/docker-1f.scope", Place::Given("docker-1f.scope"));
        check("0::/system.slice/mine.service", Place::Given("mine.service"));
    }

    #[test]
    fn what_is_not_set_is_lifted() {
        let check = |threads: u16, memory_mb: u64, expect: [u64; 3]| {
            let names = ["CPUWeight", "CPUQuotaPerSecUSec", "MemoryHigh"];
            let expect: Vec<_> = names.into_iter().zip(expect.map(Variant::from)).collect();
            assert_eq!(properties(Caps { threads, memory_mb }, true), expect);
        };
        check(0, 0, [0, u64::MAX, u64::MAX]);
        check(2, 0, [0, 2_000_000, u64::MAX]);
        check(2, 100, [0, 2_000_000, 100 << 20]);
        check(0, u64::MAX, [0, u64::MAX, u64::MAX]);
    }

    #[test]
    fn limits_of_a_group() {
        let check = |threads: u16, memory_mb: u64, cpu: &str, memory: &str, expect: bool| {
            assert_eq!(kept(Caps { threads, memory_mb }, cpu, memory), expect, "{cpu} {memory}");
        };
        check(0, 0, "max 100000\n", "max\n", true);
        check(2, 100, "200000 100000\n", "104857600\n", true);
        check(2, 100, "max 100000\n", "104857600\n", false);
        check(2, 100, "200000 100000\n", "max\n", false);
        check(0, 0, "200000 100000\n", "max\n", false);
        check(0, 0, "", "", false);
    }
}
