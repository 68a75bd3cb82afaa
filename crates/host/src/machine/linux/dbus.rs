//! Calls over D-Bus, each with a deadline.

use std::time::Duration;
use zbus::Connection;

/// A call that takes longer is given up.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);

/// Calls a method within the deadline.
pub(super) async fn call<B, R>(
    bus: &Connection,
    name: &str,
    path: &str,
    interface: &str,
    method: &str,
    body: &B,
) -> Result<R, String>
where
    B: serde::Serialize + zbus::wire::DynamicType,
    R: serde::de::DeserializeOwned + zbus::wire::Type,
{
    let reply = bus.call_method(Some(name), path, Some(interface), method, body);
    let reply = tokio::time::timeout(DEADLINE, reply).await.map_err(|_| format!("{name} does not answer"))?;
    let reply = reply.map_err(|error| error.to_string())?;
    reply.body().deserialize().map_err(|error| error.to_string())
}

/// Whether somebody owns a name. Calling one that has no owner could start a program.
pub(super) async fn is_owned(bus: &Connection, name: &str) -> bool {
    let bus_name = "org.freedesktop.DBus";
    call(bus, bus_name, "/org/freedesktop/DBus", bus_name, "NameHasOwner", &(name,)).await.unwrap_or(false)
}
