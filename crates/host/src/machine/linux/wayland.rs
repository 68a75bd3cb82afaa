//! How long ago somebody used a Wayland desktop, as its compositor says (ext-idle-notify-v1: Plasma, sway, Hyprland, COSMIC,
//! niri; GNOME says it by D-Bus).
//!
//! The compositor says when nobody did anything for a second, and when somebody does again, at once. While a film plays it
//! may say nothing: then its owner counts as there.

use super::bus::{AGAIN, lock};
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::task::JoinSet;
use wayland_client::backend::WaylandError;
use wayland_client::globals::{GlobalListContents, registry_queue_init};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::{self, WlSeat};
use wayland_client::{Connection, Dispatch, QueueHandle};
use wayland_protocols::ext::idle_notify::v1::client::ext_idle_notification_v1::{Event, ExtIdleNotificationV1};
use wayland_protocols::ext::idle_notify::v1::client::ext_idle_notifier_v1::{self, ExtIdleNotifierV1};

/// Rest that is told.
const REST: Duration = Duration::from_secs(1);

/// What the compositor said last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    /// Nothing, and why.
    Nothing(String),
    /// Somebody is there.
    Used,
    /// Nobody did anything since then.
    Rests(Instant),
}

impl Said {
    fn idle(&self) -> Option<Duration> {
        match self {
            Self::Nothing(_) => None,
            Self::Used => Some(Duration::ZERO),
            Self::Rests(since) => Some(since.elapsed()),
        }
    }
}

/// A compositor that is listened to until this is dropped.
pub(super) struct Desktop {
    said: Arc<Mutex<Said>>,
    _task: JoinSet<()>,
}

impl Desktop {
    /// Begins to listen, if a tokio runtime is there to do it.
    pub(super) fn start() -> Self {
        let said = Arc::new(Mutex::new(Said::Nothing("not known yet".into())));
        let mut task = JoinSet::new();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            task.spawn_on(listen(said.clone()), &runtime);
        }
        Self { said, _task: task }
    }

    /// Time since somebody used the desktop.
    pub(super) fn idle(&self) -> Option<Duration> {
        lock(&self.said).idle()
    }

    /// Where that comes from, or why it is unknown.
    pub(super) fn source(&self) -> String {
        match &*lock(&self.said) {
            Said::Nothing(why) => format!("unknown: {why}"),
            _ => "ext-idle-notify-v1".into(),
        }
    }
}

async fn listen(said: Arc<Mutex<Said>>) {
    loop {
        let Err(why) = follow(&said).await;
        *lock(&said) = Said::Nothing(why);
        tokio::time::sleep(AGAIN).await;
    }
}

/// Follows what a compositor says, until it says no more.
async fn follow(said: &Arc<Mutex<Said>>) -> Result<Infallible, String> {
    fn text(error: impl ToString) -> String {
        error.to_string()
    }
    // A compositor that hangs keeps this one thread, and nothing else.
    let (begun, known) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let begin = || {
            let connection = connect()?;
            let (globals, queue) = registry_queue_init::<Listener>(&connection).map_err(text)?;
            Ok::<_, String>((connection, globals, queue))
        };
        let _ = begun.send(begin());
    });
    let (connection, globals, mut queue) = known.await.map_err(text)??;
    let handle = queue.handle();
    let notifier: ExtIdleNotifierV1 =
        globals.bind(&handle, 1..=1, ()).map_err(|_| "the compositor has no ext-idle-notify-v1")?;
    let seat: WlSeat = globals.bind(&handle, 1..=1, ()).map_err(|_| "the compositor has no seat")?;
    let rest = REST.as_millis() as u32;
    let _notification = notifier.get_idle_notification(rest, &seat, &handle, ());
    let own = UnixStream::from(connection.backend().poll_fd().try_clone_to_owned().map_err(text)?);
    own.set_nonblocking(true).map_err(text)?;
    let stream = tokio::net::UnixStream::from_std(own).map_err(text)?;
    *lock(said) = Said::Used;
    let mut listener = Listener(said.clone());
    loop {
        queue.dispatch_pending(&mut listener).map_err(text)?;
        queue.flush().map_err(text)?;
        stream.readable().await.map_err(text)?;
        let read = stream.try_io(Interest::READABLE, || match queue.prepare_read() {
            None => Ok(()),
            Some(reading) => match reading.read() {
                Ok(_) => Ok(()),
                Err(WaylandError::Io(error)) => Err(error),
                Err(error) => Err(io::Error::other(error)),
            },
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => done.map_err(text)?,
        }
    }
}

/// The compositor that the environment names, or the first of this user's: a service may have begun before it.
fn connect() -> Result<Connection, String> {
    if let Ok(connection) = Connection::connect_to_env() {
        return Ok(connection);
    }
    let none = || "no Wayland compositor".to_owned();
    let uid = rustix::process::getuid().as_raw();
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| format!("/run/user/{uid}").into(), PathBuf::from);
    let entries = std::fs::read_dir(folder).map_err(|_| none())?;
    let mut sockets: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wayland-"));
    sockets.retain(|path| named(path) && path.extension().is_none());
    sockets.sort();
    let stream = sockets.iter().find_map(|path| UnixStream::connect(path).ok()).ok_or_else(none)?;
    Connection::from_socket(stream).map_err(|error| error.to_string())
}

/// Takes events down.
struct Listener(Arc<Mutex<Said>>);

impl Dispatch<ExtIdleNotificationV1, ()> for Listener {
    fn event(
        listener: &mut Self,
        _: &ExtIdleNotificationV1,
        event: Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            Event::Idled => {
                *lock(&listener.0) = Said::Rests(Instant::now().checked_sub(REST).unwrap_or_else(Instant::now))
            }
            Event::Resumed => *lock(&listener.0) = Said::Used,
            _ => {}
        }
    }
}

// Of these nothing is wanted: where the compositor or its seat goes, the connection ends or rest is told no more.
impl Dispatch<WlRegistry, GlobalListContents> for Listener {
    fn event(
        _: &mut Self,
        _: &WlRegistry,
        _: wl_registry::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

impl Dispatch<WlSeat, ()> for Listener {
    fn event(_: &mut Self, _: &WlSeat, _: wl_seat::Event, (): &(), _: &Connection, _: &QueueHandle<Self>) {}
}

impl Dispatch<ExtIdleNotifierV1, ()> for Listener {
    fn event(
        _: &mut Self,
        _: &ExtIdleNotifierV1,
        _: ext_idle_notifier_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_grows_until_somebody_is_there() {
        assert_eq!(Said::Nothing("no compositor".into()).idle(), None);
        assert_eq!(Said::Used.idle(), Some(Duration::ZERO));
        let since = Instant::now().checked_sub(REST).expect("the machine runs for longer");
        assert!(Said::Rests(since).idle() >= Some(REST));
    }
}
