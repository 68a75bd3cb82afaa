//! Where peers are, where this node is, and which ways there are between.

use crate::pool::Pool;
use crate::relay::{Pins, RelayAddr};
use crate::seats::{Origin, is_private};
use crate::ticket::Address;
use base::NodeId;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Addresses of one peer that are tried: each is packets to a machine that a stranger named.
const SOCKETS_MAX: usize = 8;

/// What of the addresses that a stranger names is dialled: few, and none that means another machine here than there.
/// Otherwise whoever speaks in a topic makes everybody knock at doors of their own networks. A node with a public
/// address is found by that one, so it dials no private address of a stranger's; those in its own network find it
/// without.
pub(crate) fn plausible(theirs: &Address, own: &Address) -> Address {
    let outside = |address: &Address| -> BTreeSet<IpAddr> {
        address.sockets.iter().map(|socket| socket.ip().to_canonical()).filter(|ip| !ip.is_loopback()).collect()
    };
    let (here, there) = (outside(own), outside(theirs));
    // On the same machine, or where neither is on any network.
    let same_machine = if here.is_empty() { there.is_empty() } else { !here.is_disjoint(&there) };
    let public = here.iter().any(|ip| !is_private(*ip));
    let near = |ip: IpAddr| match ip {
        _ if !is_private(ip) => true,
        _ if public => false,
        ip if ip.is_loopback() => same_machine,
        ip => here.iter().any(|own| same_network(*own, ip)),
    };
    let sockets = theirs.sockets.iter().copied().filter(|socket| near(socket.ip().to_canonical())).take(SOCKETS_MAX);
    let relay = theirs.relay.clone().filter(|relay| !relay.is_private_name() && relay.ip().is_none_or(near));
    Address { node: theirs.node, sockets: sockets.collect(), relay }
}

/// Whether two private addresses may be of one network: the first two bytes, or the first eight, are the same.
fn same_network(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..2] == b.octets()[..2],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..8] == b.octets()[..8],
        _ => false,
    }
}

/// Where a connection comes from.
pub(crate) fn origin_of(connection: &Connection) -> Origin {
    let sockets = connection.paths().iter().find_map(|path| match path.remote_addr() {
        TransportAddr::Ip(socket) => Some(Origin::of(socket.ip())),
        _ => None,
    });
    sockets.unwrap_or(Origin::Relayed)
}

/// Notes where a peer is.
pub(crate) fn learn(book: &MemoryLookup, pins: &Pins, pool: &Arc<Pool>, me: NodeId, address: &Address) {
    let Ok(id) = EndpointId::from_bytes(&address.node.0) else { return };
    if address.node == me {
        return;
    }
    let sockets = address.sockets.iter().map(|socket| TransportAddr::Ip(*socket));
    let relay = address.relay.iter().map(|relay| TransportAddr::Relay(relay.url().clone()));
    pins.learn(address.node, address.relay.as_ref());
    let info = iroh::endpoint_info::EndpointInfo::from(EndpointAddr::from_parts(id, sockets.chain(relay)));
    let before = book.set_endpoint_info(info.clone());
    if before.is_some_and(|before| before != info.data) {
        // It was restarted elsewhere: connections to where it was are dead.
        let (pool, address) = (pool.clone(), address.clone());
        tokio::spawn(async move { pool.moved(address.node, &address.sockets).await });
    }
}

/// Whether packets on a connection go straight, and where to.
pub(crate) fn way_of(connection: &Connection) -> (bool, String) {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected());
    let direct = path.as_ref().is_some_and(|path| path.is_ip());
    let address = path.map_or("unknown".into(), |path| match path.remote_addr() {
        TransportAddr::Ip(socket) => socket.to_string(),
        TransportAddr::Relay(url) => RelayAddr::of(url).map_or_else(|| url.to_string(), |relay| relay.to_string()),
        other => format!("{other:?}"),
    });
    (direct, address)
}

/// Dialable addresses: a wildcard socket is reached on every address of the machine, loopback included.
pub(crate) fn address_of(endpoint: &Endpoint) -> Address {
    let here = endpoint.addr();
    let mut sockets: Vec<SocketAddr> = here.ip_addrs().copied().collect();
    for socket in endpoint.bound_sockets() {
        if socket.ip().is_unspecified() && socket.is_ipv4() {
            sockets.push(SocketAddr::from(([127, 0, 0, 1], socket.port())));
        }
    }
    sockets.sort();
    sockets.dedup();
    let relay = here.relay_urls().next().and_then(RelayAddr::of);
    Address { node: NodeId(*endpoint.id().as_bytes()), sockets, relay }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_make_this_node_knock_inside_its_own_network() {
        let address = |sockets: &[&str], relay: Option<&str>| Address {
            node: NodeId([1; 32]),
            sockets: sockets.iter().map(|socket| socket.parse().expect("a socket")).collect(),
            relay: relay.map(|relay| relay.parse().expect("a relay")),
        };
        let check = |own: &[&str], theirs: &[&str], expect: &[&str]| {
            assert_eq!(plausible(&address(theirs, None), &address(own, None)).sockets, address(expect, None).sockets);
        };
        let home = ["192.168.1.5:1", "127.0.0.1:1"];
        check(&home, &["127.0.0.1:22", "10.0.0.1:80", "192.168.1.1:53", "9.9.9.9:7"], &["192.168.1.1:53", "9.9.9.9:7"]);
        check(&home, &["127.0.0.1:22", "[::1]:22", "169.254.169.254:80", "[::ffff:127.0.0.1]:5"], &[]);
        // Whoever can be reached from everywhere knocks nowhere inside.
        let public = ["192.168.1.5:1", "127.0.0.1:1", "8.8.4.4:1"];
        check(&public, &["127.0.0.1:9", "192.168.1.5:9", "192.168.1.1:53", "9.9.9.9:7"], &["9.9.9.9:7"]);
        // Another node of this machine, and machines without a network.
        check(&home, &["127.0.0.1:9", "192.168.1.5:9"], &["127.0.0.1:9", "192.168.1.5:9"]);
        check(&["127.0.0.1:1"], &["127.0.0.1:9"], &["127.0.0.1:9"]);
        check(&["127.0.0.1:1"], &["127.0.0.1:9", "9.9.9.9:9"], &["9.9.9.9:9"]);
        let many: Vec<String> = (1..30).map(|i| format!("9.9.9.{i}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(plausible(&address(&many, None), &address(&home, None)).sockets.len(), SOCKETS_MAX);
        let relay = |at: &str| plausible(&address(&[], Some(at)), &address(&home, None)).relay.is_some();
        assert!(relay("https://relay.example:443") && relay("https://9.9.9.9:443") && relay("https://192.168.1.9:443"));
        for name in [
            "https://router",
            "https://nas.local",
            "https://nas.lan:8443",
            "https://db.internal",
            "https://a.home.arpa.",
        ] {
            assert!(!relay(name), "{name}");
        }
        let public_relay = |at: &str| plausible(&address(&[], Some(at)), &address(&public, None)).relay.is_some();
        assert!(public_relay("https://relay.example") && !public_relay("https://192.168.1.9:443"));
        assert!(!relay("https://127.0.0.1:22") && !relay("https://10.0.0.1:443") && !relay("https://[::1]:443"));
    }
}
