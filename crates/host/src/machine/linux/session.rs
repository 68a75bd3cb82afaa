//! How long ago somebody used a graphical session, as the login manager of systemd knows it, by D-Bus.
//!
//! It knows only what the desktop tells it: that nobody is there, after some minutes. Terminals are asked elsewhere.

use super::dbus::{call, is_owned};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zbus::Connection;
use zbus::OwnedVariant;
use zbus::wire::OwnedObjectPath;

/// The service.
pub(super) const NAME: &str = "org.freedesktop.login1";

/// Sessions that are asked for at most.
const SESSIONS_MAX: usize = 16;

/// A session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    /// A person's, not that of the login screen or of a terminal.
    graphical: bool,
    /// In front of its seat.
    active: bool,
    idle_hint: bool,
    /// When the hint last changed, in microseconds since 1970; 0 = never.
    idle_since_us: u64,
}

/// Time since somebody used a session, or why it is unknown.
pub(super) async fn idle(bus: &Connection) -> Result<Duration, String> {
    if !is_owned(bus, NAME).await {
        return Err(format!("no {NAME}"));
    }
    let manager = "org.freedesktop.login1.Manager";
    let listed: Vec<(String, u32, String, String, OwnedObjectPath)> =
        call(bus, NAME, "/org/freedesktop/login1", manager, "ListSessions", &()).await?;
    let seated = listed.into_iter().filter(|(_, _, _, seat, _)| !seat.is_empty());
    let mut sessions = Vec::new();
    for (.., path) in seated.take(SESSIONS_MAX) {
        let properties = "org.freedesktop.DBus.Properties";
        // A session may end between the list and the question.
        let found = call(bus, NAME, path.as_str(), properties, "GetAll", &("org.freedesktop.login1.Session",)).await;
        sessions.extend(found.ok().and_then(|found| parse_session(&found)));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    least_idle(&sessions, u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

fn parse_session(properties: &BTreeMap<String, OwnedVariant>) -> Option<Session> {
    let text = |name: &str| <&str>::try_from(&**properties.get(name)?).ok();
    let flag = |name: &str| bool::try_from(&**properties.get(name)?).ok();
    Some(Session {
        graphical: text("Class")? == "user" && ["x11", "wayland", "mir"].contains(&text("Type")?),
        active: flag("Active")?,
        idle_hint: flag("IdleHint")?,
        idle_since_us: u64::try_from(&**properties.get("IdleSinceHint")?).ok()?,
    })
}

/// Time since the session in front was used: since it said so, or none where it says that somebody is there.
fn least_idle(sessions: &[Session], now_us: u64) -> Result<Duration, String> {
    let mut active = sessions.iter().filter(|session| session.graphical && session.active).peekable();
    if active.peek().is_none() {
        return Err("nobody is logged in to a desktop".into());
    }
    let told = active.filter_map(|session| match (session.idle_hint, session.idle_since_us) {
        // KDE never tells: to it nobody is idle, since never.
        (_, 0) => None,
        (true, since) => Some(now_us.saturating_sub(since)),
        (false, _) => Some(0),
    });
    let least = told.min().ok_or("somebody is logged in to a desktop that does not tell")?;
    Ok(Duration::from_micros(least))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::Variant;

    fn properties(class: &str, kind: &str, hint: Variant<'_>, since: Variant<'_>) -> BTreeMap<String, OwnedVariant> {
        let pairs = [
            ("Class", class.into()),
            ("Type", kind.into()),
            ("Active", true.into()),
            ("IdleHint", hint),
            ("IdleSinceHint", since),
            ("Id", "2".into()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_string(), value.try_to_owned().expect("known"))).collect()
    }

    #[test]
    fn sessions() {
        let check = |class: &str, kind: &str, expect: bool| {
            let session = parse_session(&properties(class, kind, true.into(), 7u64.into())).expect("known");
            assert_eq!(session, Session { graphical: expect, active: true, idle_hint: true, idle_since_us: 7 });
        };
        check("user", "wayland", true);
        check("user", "x11", true);
        check("user", "tty", false);
        check("greeter", "wayland", false);
        assert_eq!(parse_session(&properties("user", "x11", "yes".into(), 7u64.into())), None);
        assert_eq!(parse_session(&properties("user", "x11", true.into(), 7u32.into())), None);
        assert_eq!(parse_session(&BTreeMap::new()), None);
    }

    #[test]
    fn the_least() {
        let check = |sessions: &[(bool, bool, bool, u64)], expect: Option<u64>| {
            let sessions = sessions.iter().map(|&(graphical, active, idle_hint, idle_since_us)| Session {
                graphical,
                active,
                idle_hint,
                idle_since_us,
            });
            let found = least_idle(&sessions.collect::<Vec<_>>(), 10_000_000).ok();
            assert_eq!(found, expect.map(Duration::from_secs));
        };
        check(&[], None);
        check(&[(true, true, true, 4_000_000)], Some(6));
        check(&[(true, true, false, 4_000_000)], Some(0));
        check(&[(true, true, false, 0)], None);
        check(&[(true, false, false, 4_000_000), (false, true, false, 4_000_000)], None);
        check(&[(true, true, true, 4_000_000), (true, true, true, 7_000_000), (true, true, false, 0)], Some(3));
        check(&[(true, true, true, 11_000_000)], Some(0));
    }
}
