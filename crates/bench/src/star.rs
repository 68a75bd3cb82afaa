//! Machines with a home's line each, on this machine: every one in a network namespace of its own, with a cable to a hub.
//!
//! The hub is a process (`claims --hub N`) in a namespace of its own. Whatever one home sends to another's address comes
//! to a socket there, waits for its turn on both lines and for half of a round trip, and goes on from the sender's own
//! address: to the homes it is one network. Needs root and iproute2.

use crate::Process;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

/// Of each line, up and down alike.
const BITS_PER_S: f64 = 50e6;
const ONE_WAY: Duration = Duration::from_millis(25);
/// What a router would queue: the line's bandwidth times the round trip.
const QUEUE: Duration = Duration::from_millis(50);
/// Headers of IP and UDP travel too.
const HEADERS: usize = 28;
const PORT: u16 = 4770;
/// Of the hub's routes: what comes from a home ends here, whomever it is for.
const TABLE: &str = "100";
/// Homes have four addresses each below 10.213.8.0.
const HOMES_MAX: usize = 60;

/// The lines in words.
pub(crate) const LINES: &str =
    "in network namespaces, each line paced to 50 Mbit/s up and down and held 25 ms each way by a forwarder";

/// Its end of a home's cable.
fn here(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 8, (4 * i + 1) as u8)
}

/// The home's end, which is its address.
fn there(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 8, (4 * i + 2) as u8)
}

/// The homes and the hub; gone when dropped.
pub(crate) struct Star {
    hub: String,
    homes: Vec<String>,
    forwarder: Option<Process>,
}

impl Star {
    pub(crate) fn new(homes: usize) -> Result<Self> {
        ensure!(homes <= HOMES_MAX, "{homes} homes, at most {HOMES_MAX}");
        let name = |what: &str| format!("talkoo{}-{what}", std::process::id() % 100_000);
        let names = (0..homes).map(|i| name(&i.to_string())).collect();
        let mut star = Self { hub: name("hub"), homes: names, forwarder: None };
        let hub = star.hub.as_str();
        ip(&["netns", "add", hub])?;
        ip(&["-n", hub, "link", "set", "lo", "up"])?;
        ip(&["-n", hub, "route", "add", "local", "10.213.8.0/24", "dev", "lo", "table", TABLE])?;
        for (i, home) in star.homes.iter().enumerate() {
            let cable = format!("cable{i}");
            ip(&["netns", "add", home])?;
            ip(&["-n", hub, "link", "add", &cable, "type", "veth", "peer", "name", "eth", "netns", home])?;
            ip(&["-n", hub, "addr", "add", &format!("{}/30", here(i)), "dev", &cable])?;
            ip(&["-n", hub, "link", "set", &cable, "up"])?;
            ip(&["-n", hub, "rule", "add", "pref", TABLE, "iif", &cable, "to", "10.213.8.0/24", "lookup", TABLE])?;
            ip(&["-n", home, "addr", "add", &format!("{}/30", there(i)), "dev", "eth"])?;
            ip(&["-n", home, "link", "set", "eth", "up"])?;
            ip(&["-n", home, "link", "set", "lo", "up"])?;
            ip(&["-n", home, "route", "add", "default", "via", &here(i).to_string()])?;
        }
        let mut command = Command::new("ip");
        command.args(["netns", "exec", hub]).arg(std::env::current_exe()?).args(["--hub", &homes.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the hub")?;
        let said = child.stdout.take().context("piped")?;
        star.forwarder = Some(Process(child));
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line.trim() == READY, "the hub does not forward; see above");
        Ok(star)
    }

    /// Starts talkoo in a home, with one thread for that part of its time; its first line can be read.
    pub(crate) fn talkoo(&self, i: usize, dir: &Path, duty: u32, arguments: &[&str]) -> Result<Process> {
        let program = std::env::current_exe()?.with_file_name("talkoo");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.homes[i]]).arg(program);
        command.args(["--bind", &format!("{}:{PORT}", there(i)), "--no-mdns", "--threads", "1"]);
        command.args(["--duty", &duty.to_string(), "--json", "--data"]).arg(dir).args(arguments);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        Ok(Process(child))
    }

    /// Bytes that a home has sent on its cable since it was made.
    pub(crate) fn bytes_sent(&self, i: usize) -> Result<u64> {
        let path = "/sys/class/net/eth/statistics/tx_bytes";
        let output = Command::new("ip").args(["netns", "exec", &self.homes[i], "cat", path]).output()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().with_context(|| format!("{path} of a home"))
    }
}

impl Drop for Star {
    fn drop(&mut self) {
        drop(self.forwarder.take());
        for name in self.homes.iter().chain([&self.hub]) {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip")?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// What the hub says once it forwards.
const READY: &str = "forwarding";

/// A datagram on its way.
struct Datagram {
    at: Instant,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

/// The hub of so many homes, in its namespace; until it is killed.
pub(crate) fn hub(homes: usize) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(forward(homes))
}

async fn forward(homes: usize) -> Result<()> {
    let doors = (0..homes).map(|i| door(there(i)).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    let mut tasks = JoinSet::new();
    // What comes down each line is said in the name of who sent it.
    let mut down = Vec::new();
    for to in 0..homes {
        let (queue, queued) = unbounded_channel();
        down.push(queue);
        let doors = doors.clone();
        let target = SocketAddr::from((there(to), PORT));
        tasks.spawn(line(queued, Duration::ZERO, move |datagram: Datagram| {
            // A router that cannot send drops.
            let _ = doors[datagram.from].try_send_to(&datagram.bytes, target);
        }));
    }
    let mut up = Vec::new();
    for _ in 0..homes {
        let (queue, queued) = unbounded_channel();
        up.push(queue);
        let down = down.clone();
        tasks.spawn(line(queued, ONE_WAY, move |datagram: Datagram| drop(down[datagram.to].send(datagram))));
    }
    for (to, door) in doors.into_iter().enumerate() {
        let up = up.clone();
        tasks.spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            loop {
                // An error of a datagram that was sent before is no end.
                let Ok((len, sender)) = door.recv_from(&mut buffer).await else { continue };
                let Some(from) = (0..homes).find(|i| sender == SocketAddr::from((there(*i), PORT))) else { continue };
                let bytes = buffer[..len].to_vec();
                if up[from].send(Datagram { at: Instant::now(), from, to, bytes }).is_err() {
                    return;
                }
            }
        });
    }
    println!("{READY}");
    std::io::stdout().flush()?;
    tasks.join_next().await;
    anyhow::bail!("a line of the hub ended")
}

/// One direction of a line: a datagram after the other at its rate, each held for `lag`. A full queue drops, which is how a
/// sender learns the rate.
async fn line(mut queue: UnboundedReceiver<Datagram>, lag: Duration, pass: impl Fn(Datagram)) {
    let mut free = Instant::now();
    while let Some(datagram) = queue.recv().await {
        let start = free.max(datagram.at);
        if start - datagram.at > QUEUE {
            continue;
        }
        free = start + Duration::from_secs_f64((datagram.bytes.len() + HEADERS) as f64 * 8.0 / BITS_PER_S);
        let at = free + lag;
        tokio::time::sleep_until(at.into()).await;
        pass(Datagram { at, ..datagram });
    }
}

/// A socket at an address that is another machine's.
#[cfg(target_os = "linux")]
fn door(address: Ipv4Addr) -> Result<UdpSocket> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_ip_transparent_v4(true).context("a socket in another's name; this needs root")?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((address, PORT)).into()).with_context(|| address.to_string())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

#[cfg(not(target_os = "linux"))]
fn door(_address: Ipv4Addr) -> Result<UdpSocket> {
    anyhow::bail!("network namespaces are of Linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each of some datagrams that come at once is passed on, and its number.
    async fn passed(sizes: &[usize]) -> Vec<(usize, Duration)> {
        let (queue, queued) = unbounded_channel();
        let begun = Instant::now();
        for (to, size) in sizes.iter().enumerate() {
            let datagram = Datagram { at: begun, from: 0, to, bytes: vec![0; *size] };
            queue.send(datagram).expect("there is a line");
        }
        drop(queue);
        let out = std::sync::Mutex::new(Vec::new());
        let note = |datagram: Datagram| {
            out.lock().expect("one thread").push((datagram.to, datagram.at.duration_since(begun)));
        };
        line(queued, ONE_WAY, note).await;
        out.into_inner().expect("one thread")
    }

    #[test]
    fn a_line_passes_its_rate_and_drops_what_waits_too_long() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        // Each of 60 kB needs 9.6 ms; the seventh would wait longer than the queue is.
        let passed = runtime.block_on(passed(&[60_000 - HEADERS; 8]));
        assert_eq!(passed.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        for (i, (_, at)) in passed.iter().enumerate() {
            let due = ONE_WAY + Duration::from_secs_f64(0.0096 * (i + 1) as f64);
            assert!(*at + Duration::from_millis(1) > due && *at < due + Duration::from_millis(5), "{i}: {at:?}");
        }
    }
}
