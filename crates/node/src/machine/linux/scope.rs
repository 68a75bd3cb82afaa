//! A control group of its own, by D-Bus from systemd: what is set there the system itself keeps to, against programs of
//! other sessions, too.
//!
//! As a service the node is in one already. Begun by hand it asks its user's manager for a scope, as `systemd-run --user
//! --scope` does; other programs of the same terminal stay where they are.

use super::bus::{self, Bus};
use crate::machine::Caps;
use zbus::{OwnedObjectPath, Variant};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Where a process is, as its control group says.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    /// Alone in a unit, of the user's manager or of the system's.
    Unit { name: &'a str, user: bool },
    /// With others.
    Shared,
}

/// The place that `/proc/self/cgroup` names.
fn place(cgroups: &str) -> Place<'_> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    match own.rsplit('/').next() {
        Some(name) if name.starts_with("talkoo") && name.ends_with(".service") => {
            Place::Unit { name, user: own.contains("/user@") }
        }
        _ => Place::Shared,
    }
}

/// What systemd is told of the group. `idle`: whether it knows the class that gives way to everything (since 252).
fn properties(caps: Caps, idle: bool) -> Vec<(&'static str, Variant<'static>)> {
    let mut properties = vec![("CPUWeight", Variant::from(u64::from(!idle)))];
    if caps.threads > 0 {
        properties.push(("CPUQuotaPerSecUSec", Variant::from(u64::from(caps.threads) * 1_000_000)));
    }
    if caps.memory_mb > 0 {
        properties.push(("MemoryHigh", Variant::from(caps.memory_mb << 20)));
    }
    properties
}

/// Has the caps kept by the system; the unit that it is in then.
pub(in crate::machine) async fn confine(caps: Caps) -> Result<String, String> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let place = place(&cgroups);
    let system = matches!(place, Place::Unit { user: false, .. });
    let connection = if system { Bus::system() } else { Bus::session() }.get().await?;
    if !bus::is_owned(&connection, SYSTEMD).await {
        return Err("no systemd on the bus".into());
    }
    let mut last = String::new();
    for idle in [true, false] {
        let mut properties = properties(caps, idle);
        let done = match place {
            Place::Unit { name, .. } => {
                let body = (name, true, &properties);
                let done = bus::call::<_, ()>(&connection, SYSTEMD, PATH, MANAGER, "SetUnitProperties", &body).await;
                done.map(|()| name.to_owned())
            }
            Place::Shared => {
                let (pid, name) = (std::process::id(), format!("talkoo-{}.scope", std::process::id()));
                properties.push(("PIDs", Variant::from(vec![pid])));
                properties.push(("Description", Variant::from("talkoo")));
                properties.push(("CollectMode", Variant::from("inactive-or-failed")));
                let aux: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
                let body = (name.as_str(), "fail", &properties, aux);
                let call =
                    bus::call::<_, OwnedObjectPath>(&connection, SYSTEMD, PATH, MANAGER, "StartTransientUnit", &body);
                call.await.map(|_| name)
            }
        };
        match done {
            Ok(unit) => return Ok(unit),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |cgroups: &str, expect| assert_eq!(place(cgroups), expect, "{cgroups}");
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/talkoo.service\n";
        check(user, Place::Unit { name: "talkoo.service", user: true });
        check("0::/system.slice/talkoo.service", Place::Unit { name: "talkoo.service", user: false });
        check("4:memory:/x\n0::/user.slice/user-1000.slice/session-2.scope", Place::Shared);
        check("0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope", Place::Shared);
        check("0::/", Place::Shared);
        check("", Place::Shared);
    }

    #[test]
    fn only_what_is_set_is_asked_for() {
        let names = |threads: u16, memory_mb: u64| -> Vec<&str> {
            properties(Caps { threads, memory_mb }, true).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(0, 0), ["CPUWeight"]);
        assert_eq!(names(2, 0), ["CPUWeight", "CPUQuotaPerSecUSec"]);
        assert_eq!(names(2, 100), ["CPUWeight", "CPUQuotaPerSecUSec", "MemoryHigh"]);
    }
}
