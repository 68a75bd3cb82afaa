//! What the desktop knows, by D-Bus: how long ago somebody used it, and whether the network is metered.
//!
//! Tasks ask, each call with a deadline, and keep the last answer; whoever reads takes that and never waits. Only
//! names that have an owner are called, so that asking starts no program. A bus or a service that is not there
//! is looked for again once a minute.

use super::dbus::{DEADLINE, call, is_owned};
use super::session;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use zbus::Connection;
use zbus::OwnedVariant;
use zbus::connection::Builder;

/// How long a missing bus or service is left alone.
pub(super) const AGAIN: Duration = Duration::from_secs(60);

/// How often the desktop is asked while nobody is there: this bounds how late a return is noticed.
const ASK_AWAY: Duration = Duration::from_millis(500);

/// How often it is asked while somebody is there, when only minutes of rest matter.
const ASK_PRESENT: Duration = Duration::from_secs(5);

/// Who did nothing for this long may be away.
const AWAY: Duration = Duration::from_secs(60);

/// How often the network is asked.
const ASK_NETWORK: Duration = Duration::from_secs(10);

/// An answer that was not renewed for this long is none.
const STALE: Duration = Duration::from_secs(60);

/// A service of the session that says how long nobody used it.
struct Monitor {
    name: &'static str,
    path: &'static str,
    method: &'static str,
    /// Where it cannot know, it says 0 forever (KDE under Wayland before Plasma 5.25, which then says an error).
    zero_is_unknown: bool,
}

/// In this order. All answer in milliseconds: Mutter and Muffin by their interface, KDE by its source (its
/// interface does not say; kscreenlocker returns `KIdleTime::idleTime`).
const MONITORS: [Monitor; 3] = [
    Monitor {
        name: "org.gnome.Mutter.IdleMonitor",
        path: "/org/gnome/Mutter/IdleMonitor/Core",
        method: "GetIdletime",
        zero_is_unknown: false,
    },
    Monitor {
        name: "org.cinnamon.Muffin.IdleMonitor",
        path: "/org/cinnamon/Muffin/IdleMonitor/Core",
        method: "GetIdletime",
        zero_is_unknown: false,
    },
    Monitor {
        name: "org.freedesktop.ScreenSaver",
        path: "/org/freedesktop/ScreenSaver",
        method: "GetSessionIdleTime",
        zero_is_unknown: true,
    },
];

const NETWORK: &str = "org.freedesktop.NetworkManager";
const NETWORK_PATH: &str = "/org/freedesktop/NetworkManager";

/// An answer, when it was given, and by whom or why there is none.
#[derive(Clone)]
struct Answer<T> {
    value: Option<T>,
    at: Instant,
    source: String,
}

impl<T: Copy> Answer<T> {
    fn none(source: impl Into<String>) -> Self {
        Self { value: None, at: Instant::now(), source: source.into() }
    }

    fn fresh(&self, now: Instant) -> Option<T> {
        self.value.filter(|_| now.saturating_duration_since(self.at) < STALE)
    }
}

/// Answers that are renewed until this is dropped.
pub(super) struct Watch {
    idle: Arc<Mutex<Answer<Duration>>>,
    metered: Arc<Mutex<Answer<bool>>>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Begins to ask, if a tokio runtime is there to do it.
    pub(super) fn start() -> Self {
        let no_runtime = "unknown: D-Bus is not asked outside of a runtime";
        let idle = Arc::new(Mutex::new(Answer::none(no_runtime)));
        let metered = Arc::new(Mutex::new(Answer::none(no_runtime)));
        let mut tasks = JoinSet::new();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            *lock(&idle) = Answer::none("not known yet");
            *lock(&metered) = Answer::none("not known yet");
            tasks.spawn_on(watch_idle(idle.clone()), &runtime);
            tasks.spawn_on(watch_metered(metered.clone()), &runtime);
        }
        Self { idle, metered, _tasks: tasks }
    }

    /// Time since somebody used the desktop, if nobody did since it was asked.
    pub(super) fn idle(&self) -> Option<Duration> {
        let answer = lock(&self.idle);
        answer.fresh(Instant::now()).map(|idle| idle.saturating_add(answer.at.elapsed()))
    }

    /// Whether the network is metered.
    pub(super) fn metered(&self) -> Option<bool> {
        lock(&self.metered).fresh(Instant::now())
    }

    /// Where [`Self::idle`] comes from.
    pub(super) fn idle_source(&self) -> String {
        lock(&self.idle).source.clone()
    }

    /// Where [`Self::metered`] comes from.
    pub(super) fn metered_source(&self) -> String {
        lock(&self.metered).source.clone()
    }
}

/// What the property `Metered` of NetworkManager means: 1 and 2 are said by the owner or the network, 3 and 4
/// are guesses.
fn parse_metered(code: u32) -> Option<bool> {
    match code {
        1 | 3 => Some(true),
        2 | 4 => Some(false),
        _ => None,
    }
}

/// A connection to a bus, made when needed.
pub(super) struct Bus {
    build: fn() -> Builder<'static>,
    name: &'static str,
    connection: Option<Connection>,
    not_before: Option<Instant>,
}

impl Bus {
    pub(super) fn session() -> Self {
        Self { build: Builder::session, name: "session bus", connection: None, not_before: None }
    }

    pub(super) fn system() -> Self {
        Self { build: Builder::system, name: "system bus", connection: None, not_before: None }
    }

    /// The connection, or why there is none.
    pub(super) async fn get(&mut self) -> Result<Connection, String> {
        if let Some(connection) = self.connection.take_if(|connection| !connection.is_closed()) {
            return Ok(self.connection.insert(connection).clone());
        }
        self.connection = None;
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(format!("no {}", self.name));
        }
        self.not_before = Some(Instant::now() + AGAIN);
        let built = tokio::time::timeout(DEADLINE, (self.build)().build()).await;
        let built = built.map_err(|_| "no answer".into()).and_then(|built| built.map_err(|error| error.to_string()));
        let connection = built.map_err(|error: String| format!("no {}: {error}", self.name))?;
        Ok(self.connection.insert(connection).clone())
    }
}

/// Keeps the answer of the desktop, or of the login manager where the desktop has none.
async fn watch_idle(answer: Arc<Mutex<Answer<Duration>>>) {
    let (mut session, mut system) = (Bus::session(), Bus::system());
    let mut chosen: Option<&Monitor> = None;
    let mut choose_at = Instant::now();
    let mut missing = String::new();
    loop {
        let mut found = match chosen {
            Some(monitor) => ask(&mut session, monitor).await,
            None => Err(missing.clone()),
        };
        if found.is_err() && Instant::now() >= choose_at {
            choose_at = Instant::now() + AGAIN;
            (chosen, found) = choose(&mut session).await;
        }
        let mut source = chosen.map(|monitor| format!("{} ({}) by D-Bus", monitor.name, monitor.method));
        if let Err(why) = found {
            chosen = None;
            let login = match system.get().await {
                Ok(bus) => session::idle(&bus).await,
                Err(why) => Err(why),
            };
            source = Some(match &login {
                Ok(_) => format!("{} (IdleHint) by D-Bus", session::NAME),
                Err(login) => format!("unknown: {why}; {login}"),
            });
            missing = why;
            found = login;
        }
        let value = found.ok();
        *lock(&answer) = Answer { value, at: Instant::now(), source: source.unwrap_or_default() };
        tokio::time::sleep(if value.is_some_and(|idle| idle >= AWAY) { ASK_AWAY } else { ASK_PRESENT }).await;
    }
}

/// The first monitor that knows, and what it says.
async fn choose(session: &mut Bus) -> (Option<&'static Monitor>, Result<Duration, String>) {
    let bus = match session.get().await {
        Ok(bus) => bus,
        Err(why) => return (None, Err(why)),
    };
    let mut why = "no desktop answers".to_string();
    for monitor in &MONITORS {
        if !is_owned(&bus, monitor.name).await {
            continue;
        }
        match ask(session, monitor).await {
            // Where 0 is true, it will not be so the next time.
            Ok(Duration::ZERO) if monitor.zero_is_unknown => {
                why = format!("{} says 0, as where it does not know", monitor.name)
            }
            Ok(idle) => return (Some(monitor), Ok(idle)),
            Err(error) => why = error,
        }
    }
    (None, Err(why))
}

/// Asks one monitor. Some answer in 64 bits, some in 32.
async fn ask(session: &mut Bus, monitor: &Monitor) -> Result<Duration, String> {
    let bus = session.get().await?;
    let reply = bus.call_method(Some(monitor.name), monitor.path, Some(monitor.name), monitor.method, &());
    let reply = tokio::time::timeout(DEADLINE, reply).await.map_err(|_| format!("{} does not answer", monitor.name))?;
    let reply = reply.map_err(|error| error.to_string())?;
    let body = reply.body();
    let wide = body.deserialize::<u64>();
    let ms = wide.or_else(|_| body.deserialize::<u32>().map(u64::from)).map_err(|error| error.to_string())?;
    Ok(Duration::from_millis(ms))
}

/// Keeps the answer of the network manager.
async fn watch_metered(answer: Arc<Mutex<Answer<bool>>>) {
    let mut system = Bus::system();
    loop {
        let found = metered(&mut system).await;
        let absent = found.is_err();
        *lock(&answer) = match found {
            Ok(code) => Answer {
                value: parse_metered(code),
                at: Instant::now(),
                source: format!("{NETWORK} (Metered = {code}) by D-Bus"),
            },
            Err(why) => Answer::none(format!("unknown: {why}")),
        };
        tokio::time::sleep(if absent { AGAIN } else { ASK_NETWORK }).await;
    }
}

async fn metered(system: &mut Bus) -> Result<u32, String> {
    let bus = system.get().await?;
    if !is_owned(&bus, NETWORK).await {
        return Err(format!("no {NETWORK}"));
    }
    let properties = "org.freedesktop.DBus.Properties";
    let value: OwnedVariant = call(&bus, NETWORK, NETWORK_PATH, properties, "Get", &(NETWORK, "Metered")).await?;
    u32::try_from(&*value).map_err(|error| error.to_string())
}

pub(super) fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().expect("nothing fails while it is held")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metered_codes() {
        for (code, expect) in [
            (0, None),
            (1, Some(true)),
            (2, Some(false)),
            (3, Some(true)),
            (4, Some(false)),
            (5, None),
            (u32::MAX, None),
        ] {
            assert_eq!(parse_metered(code), expect, "{code}");
        }
    }

    #[test]
    fn old_answers_are_none() {
        let answer = Answer { value: Some(true), at: Instant::now(), source: String::new() };
        assert_eq!(answer.fresh(answer.at), Some(true));
        assert_eq!(answer.fresh(answer.at + STALE), None);
    }

    #[test]
    fn without_a_runtime_nothing_is_asked() {
        let watch = Watch::start();
        assert_eq!((watch.idle(), watch.metered()), (None, None));
        assert!(watch.idle_source().contains("runtime") && watch.metered_source().contains("runtime"));
    }
}
