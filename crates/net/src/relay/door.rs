//! The door of a relay. The relay itself knows keys, which cost nothing; connections and bytes are bounded here, for each
//! address and in all, before it sees them.

use crate::rate::Rate;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections of one address: the nodes of a household or a small firm.
const OF_ADDRESS: usize = 64;
/// Connections in all.
const IN_ALL: usize = 4096;
/// What one address may send, and all together, in shares of what one node may.
const SHARES_OF_ADDRESS: u64 = 4;
const SHARES_IN_ALL: u64 = 20;
/// Read at a time.
const BUFFER: usize = 16 << 10;
/// Where the system takes no connection, it is asked again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// An open door. Dropping it closes it, with every connection through it.
pub(super) struct Door {
    address: SocketAddr,
    listener: Option<TcpListener>,
    _stop: Option<DropGuard>,
}

/// Who is inside.
struct Guests {
    /// Bytes a second of one node.
    share: u64,
    all: usize,
    rate: Arc<Rate>,
    addresses: BTreeMap<IpAddr, (usize, Arc<Rate>)>,
}

impl Guests {
    fn new(share: u64) -> Self {
        let rate = Arc::new(Rate::new(share.saturating_mul(SHARES_IN_ALL)));
        Self { share, all: 0, rate, addresses: BTreeMap::new() }
    }

    /// One more of an address, if there is room; the rates that it keeps.
    fn enter(&mut self, address: IpAddr) -> Option<[Arc<Rate>; 2]> {
        if self.all >= IN_ALL {
            return None;
        }
        let own = || (0, Arc::new(Rate::new(self.share.saturating_mul(SHARES_OF_ADDRESS))));
        let (count, rate) = self.addresses.entry(network(address)).or_insert_with(own);
        if *count >= OF_ADDRESS {
            return None;
        }
        *count += 1;
        self.all += 1;
        Some([rate.clone(), self.rate.clone()])
    }

    fn leave(&mut self, address: IpAddr) {
        let network = network(address);
        if let Some((count, _)) = self.addresses.get_mut(&network) {
            *count -= 1;
            self.all -= 1;
            if *count == 0 {
                self.addresses.remove(&network);
            }
        }
    }
}

/// What one subscriber has: an IPv4 address, or the /48 of an IPv6 address, as where connections are counted.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits((address.to_bits() >> 80) << 80)),
        four => four,
    }
}

/// Lets a guest out, however its connection ends.
struct Inside {
    guests: Arc<Mutex<Guests>>,
    address: IpAddr,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.guests.lock().expect("nobody panics while holding it").leave(self.address);
    }
}

impl Door {
    /// Takes an address; nobody is let in yet.
    pub(super) async fn at(bind: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        Ok(Self { address: listener.local_addr()?, listener: Some(listener), _stop: None })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets guests through to the relay at `inside`; each of its nodes may send `share` bytes a second.
    pub(super) fn open(&mut self, inside: SocketAddr, share: u64) {
        let Some(listener) = self.listener.take() else { return };
        let stop = CancellationToken::new();
        let (stopped, guests) = (stop.clone(), Arc::new(Mutex::new(Guests::new(share))));
        self._stop = Some(stop.drop_guard());
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    () = stopped.cancelled() => return,
                    Some(_) = connections.join_next() => continue,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, from)) = accepted else {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                };
                let address = from.ip();
                let entered = guests.lock().expect("nobody panics while holding it").enter(address);
                let Some(rates) = entered else { continue };
                let guest = Inside { guests: guests.clone(), address };
                connections.spawn(async move {
                    let _guest = guest;
                    if let Err(error) = carry(stream, inside, &rates).await {
                        tracing::trace!(%error, "a connection through the relay ended");
                    }
                });
            }
        });
    }
}

/// Carries bytes both ways until one side ends. What the guest sends keeps the rates; what it gets was sent by others.
async fn carry(mut outer: TcpStream, inside: SocketAddr, rates: &[Arc<Rate>]) -> io::Result<()> {
    let mut inner = TcpStream::connect(inside).await?;
    outer.set_nodelay(true)?;
    inner.set_nodelay(true)?;
    let (mut from_guest, mut to_guest) = outer.split();
    let (mut from_relay, mut to_relay) = inner.split();
    let inwards = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = from_guest.read(&mut buffer).await?;
            if n == 0 {
                return io::Result::Ok(());
            }
            for rate in rates {
                rate.take(n).await;
            }
            to_relay.write_all(&buffer[..n]).await?;
        }
    };
    tokio::select! {
        done = inwards => done,
        done = tokio::io::copy(&mut from_relay, &mut to_guest) => done.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn v6(host: u128) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | host))
    }

    #[test]
    fn one_host_takes_its_places_and_no_more() {
        let mut guests = Guests::new(1_000);
        let (flooder, other) = (IpAddr::from([198, 51, 100, 1]), IpAddr::from([198, 51, 100, 2]));
        assert_eq!((0..2 * OF_ADDRESS).filter(|_| guests.enter(flooder).is_some()).count(), OF_ADDRESS);
        assert!(guests.enter(other).is_some());
        // All addresses of one subscriber are one, in both versions, whatever part of its own prefix it takes.
        let entered = (0..2 * OF_ADDRESS).filter(|i| guests.enter(v6(((*i as u128) << 64) | 1)).is_some()).count();
        assert_eq!(entered, OF_ADDRESS);
        assert!(guests.enter(v6(1 << 80)).is_some(), "another network");
        assert!(guests.enter(IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc633, 0x6401])).is_none(), "198.51.100.1 again");
        guests.leave(flooder);
        assert!(guests.enter(flooder).is_some());
        (0..OF_ADDRESS).for_each(|_| guests.leave(flooder));
        assert_eq!((guests.all, guests.addresses.len()), (OF_ADDRESS + 2, 3), "who has left takes no room");
    }

    #[test]
    fn many_hosts_together_are_bounded() {
        let mut guests = Guests::new(1_000);
        let entered = (0..2 * IN_ALL as u128).filter(|i| guests.enter(v6(i << 80)).is_some()).count();
        assert_eq!((entered, guests.all), (IN_ALL, IN_ALL));
    }

    #[tokio::test]
    async fn bytes_go_through_the_door_both_ways() {
        let relay = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let mut door = Door::at((Ipv4Addr::LOCALHOST, 0).into()).await.expect("bound");
        door.open(relay.local_addr().expect("known"), 1 << 20);
        let mut guest = TcpStream::connect(door.address()).await.expect("let in");
        guest.write_all(b"ping").await.expect("sent");
        let (mut inside, _) = relay.accept().await.expect("carried on");
        let mut four = [0; 4];
        inside.read_exact(&mut four).await.expect("arrives");
        inside.write_all(&four).await.expect("sent back");
        guest.read_exact(&mut four).await.expect("arrives");
        assert_eq!(&four, b"ping");
        drop(door);
        assert_eq!(guest.read(&mut four).await.unwrap_or(0), 0, "a closed door ends it");
    }
}
