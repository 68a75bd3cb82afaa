//! Who may have how much of what this node has for others: by key, by where it comes from, and in all.
//!
//! A key costs nothing, so a limit for each key bounds nobody. An address costs something: those of one network share a
//! limit, and so do all who come through relays, for nobody sees from where they come.

use base::{Hash, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Semaphore;

/// From where somebody comes, as far as it costs something to come from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This machine or its own network, of which its owner takes care.
    Near,
    /// An IPv4 network of 256 addresses.
    V4([u8; 3]),
    /// An IPv6 network such as one customer of a provider has.
    V6([u8; 6]),
    /// A relay.
    Relayed,
}

impl Origin {
    /// Where this address is.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if is_private(ip) => Self::Near,
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }

    /// Of `all`, what those of one origin may have.
    pub(crate) fn share(self, all: usize) -> usize {
        match self {
            Self::Near => all,
            Self::V4(_) | Self::V6(_) => all / 8,
            Self::Relayed => all / 2,
        }
        .max(1)
    }
}

/// Whether an address means another machine in another network.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    let v4 = |ip: Ipv4Addr| ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified();
    let v6 =
        |ip: Ipv6Addr| ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local();
    match ip.to_canonical() {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => v6(ip),
    }
}

/// Places for connections.
#[derive(Debug)]
pub(crate) struct Seats {
    /// In all, and how many of these are for those who are expected.
    all: usize,
    reserved: usize,
    /// Of one key.
    each: usize,
    inner: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    strangers: usize,
    keys: BTreeMap<NodeId, usize>,
    origins: BTreeMap<Origin, usize>,
    /// By what makes them so: a chain, a run.
    expected: BTreeMap<Hash, BTreeSet<NodeId>>,
}

/// A place. Dropped, it is free.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    by: NodeId,
    origin: Origin,
    stranger: bool,
}

impl Seats {
    pub(crate) fn new(all: usize, reserved: usize, each: usize) -> Self {
        Self { all, reserved, each, inner: Mutex::default() }
    }

    /// These find a place where strangers do not, because of a chain or a run; said again, others in their stead.
    pub(crate) fn expect(&self, why: Hash, peers: BTreeSet<NodeId>) {
        self.inner().expected.insert(why, peers);
    }

    /// A place for `by`, which comes from `origin`; none where it, its network, or all have as many as they may.
    pub(crate) fn take(self: &Arc<Self>, by: NodeId, origin: Origin) -> Option<Seat> {
        let mut inner = self.inner();
        let strangers = self.all - self.reserved;
        let stranger = !inner.expected.values().any(|peers| peers.contains(&by));
        let of_origin = inner.origins.get(&origin).copied().unwrap_or(0);
        let full = inner.all >= self.all
            || inner.keys.get(&by).is_some_and(|taken| *taken >= self.each)
            || stranger && (inner.strangers >= strangers || of_origin >= origin.share(strangers));
        if full {
            return None;
        }
        inner.all += 1;
        *inner.keys.entry(by).or_default() += 1;
        if stranger {
            inner.strangers += 1;
            *inner.origins.entry(origin).or_default() += 1;
        }
        Some(Seat { seats: self.clone(), by, origin, stranger })
    }

    fn inner(&self) -> MutexGuard<'_, Taken> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.seats.inner();
        inner.all -= 1;
        if let Some(taken) = inner.keys.get_mut(&self.by) {
            *taken -= 1;
        }
        inner.keys.retain(|_, taken| *taken > 0);
        if self.stranger {
            inner.strangers -= 1;
            if let Some(taken) = inner.origins.get_mut(&self.origin) {
                *taken -= 1;
            }
            inner.origins.retain(|_, taken| *taken > 0);
        }
    }
}

/// Permits that those of one origin share, beside those that all share.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) all: Arc<Semaphore>,
    permits: usize,
    origins: Mutex<BTreeMap<Origin, Weak<Semaphore>>>,
}

impl Shares {
    pub(crate) fn new(permits: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(permits)), permits, origins: Mutex::default() }
    }

    /// The permits of an origin. Kept while somebody of it is there.
    pub(crate) fn of(&self, origin: Origin) -> Arc<Semaphore> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origins.retain(|_, shared| shared.strong_count() > 0);
        if let Some(shared) = origins.get(&origin).and_then(Weak::upgrade) {
            return shared;
        }
        let shared = Arc::new(Semaphore::new(origin.share(self.permits)));
        origins.insert(origin, Arc::downgrade(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(i as u64).to_le_bytes());
        NodeId(id)
    }

    fn ip(text: &str) -> Origin {
        Origin::of(text.parse().expect("an address"))
    }

    #[test]
    fn origins_are_networks() {
        assert_eq!(ip("8.8.8.8"), ip("8.8.8.9"));
        assert_ne!(ip("8.8.8.8"), ip("8.8.9.8"));
        assert_eq!(ip("::ffff:8.8.8.8"), ip("8.8.8.1"));
        assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::9"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:2:2::1"));
        for near in
            ["127.0.0.1", "10.1.2.3", "192.168.9.1", "169.254.0.1", "::1", "fd00::1", "fe80::1", "::ffff:127.0.0.1"]
        {
            assert_eq!(ip(near), Origin::Near, "{near}");
        }
    }

    #[test]
    fn a_thousand_keys_of_one_network_leave_room_for_others() {
        let seats = Arc::new(Seats::new(1024, 256, 24));
        let flood: Vec<_> = (0..1024).filter_map(|i| seats.take(key(i), ip("8.8.8.8"))).collect();
        assert_eq!(flood.len(), 96, "an eighth of what is not reserved");
        let relayed: Vec<_> = (2000..4000).filter_map(|i| seats.take(key(i), Origin::Relayed)).collect();
        assert_eq!(relayed.len(), 384);
        assert!(seats.take(key(5000), ip("9.9.9.9")).is_some());
        drop(flood);
        assert!(seats.take(key(1), ip("8.8.8.8")).is_some());
    }

    #[test]
    fn who_is_expected_finds_a_place_when_strangers_have_taken_all_of_theirs() {
        let seats = Arc::new(Seats::new(32, 8, 4));
        seats.expect(Hash::default(), [key(1)].into());
        seats.expect(Hash([1; 32]), [key(2)].into());
        let strangers: Vec<_> = (10..100).filter_map(|i| seats.take(key(i), Origin::Near)).collect();
        assert_eq!(strangers.len(), 24);
        let own: Vec<_> = (0..9).filter_map(|_| seats.take(key(1), Origin::Relayed)).collect();
        assert_eq!(own.len(), 4, "and no more than one key may have");
        assert!(seats.take(key(2), Origin::Relayed).is_some());
        drop((strangers, own));
        let inner = seats.inner();
        assert!(inner.all == 0 && inner.strangers == 0 && inner.keys.is_empty() && inner.origins.is_empty());
    }

    #[test]
    fn permits_are_shared_by_those_of_one_network() {
        let shares = Shares::new(64);
        let one = shares.of(ip("8.8.8.8"));
        assert!(Arc::ptr_eq(&one, &shares.of(ip("8.8.8.7"))) && one.available_permits() == 8);
        assert_eq!(shares.of(ip("9.9.9.9")).available_permits(), 8);
        assert_eq!(shares.of(Origin::Relayed).available_permits(), 32);
        drop(one);
        shares.of(Origin::Near);
        assert!(shares.origins.lock().expect("unpoisoned").len() <= 1);
    }
}
