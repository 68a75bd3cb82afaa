//! What the network around this machine lets through, as relays see it.

use crate::endpoint::{NetError, relay_mode};
use crate::relay::{Pins, RelayAddr};
use iroh::endpoint::{NetReportConfig, PortmapperConfig, presets};
use iroh::{Endpoint, Watcher};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Around {
    /// Whether UDP gets through, by IPv4 and by IPv6.
    pub udp: (bool, bool),
    /// How this machine looks from outside.
    pub seen_as: Vec<SocketAddr>,
    /// Whether a router gives another address to each destination, so that peers must be reached through a relay. Two
    /// relays are needed to know.
    pub varies: Option<bool>,
    /// Relays that answered, with the shortest delay of each.
    pub relays: Vec<(String, Duration)>,
}

/// The addresses from which this machine sends to others. No packet leaves it for this.
pub fn local_addresses() -> Vec<IpAddr> {
    // Addresses that are set aside for documentation: routes are looked up, nothing is sent.
    let towards = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    [towards("0.0.0.0:0", "192.0.2.1:9"), towards("[::]:0", "[2001:db8::1]:9")].into_iter().flatten().collect()
}

/// Looks around with the help of `relays`, for at most `within`.
pub async fn look_around(relays: &[RelayAddr], within: Duration) -> Result<Around, NetError> {
    let bind: SocketAddr = ([0, 0, 0, 0], 0).into();
    let failed = |why: String| NetError::Bind { bind, why };
    let mut report = NetReportConfig::minimal();
    report.https_probes = true;
    let endpoint = Endpoint::builder(presets::Minimal)
        .relay_mode(relay_mode(relays))
        .ca_tls_config(Arc::new(Pins::new(relays)).tls())
        .clear_address_lookup()
        .portmapper_config(PortmapperConfig::Disabled)
        .net_report_config(report)
        .bind()
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut reports = endpoint.net_report();
    let found = tokio::time::timeout(within, reports.initialized()).await;
    let around = found.map(|report| {
        let mut delays: Vec<(String, Duration)> = Vec::new();
        for (_, url, delay) in report.relay_latency.iter() {
            let name = RelayAddr::of(url).map_or_else(|| url.to_string(), |relay| relay.to_string());
            match delays.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = delay.min(*known),
                None => delays.push((name, delay)),
            }
        }
        let v4 = report.global_v4.map(SocketAddr::from);
        let v6 = report.global_v6.map(SocketAddr::from);
        Around {
            udp: (report.udp_v4, report.udp_v6),
            seen_as: v4.into_iter().chain(v6).collect(),
            varies: report.mapping_varies_by_dest(),
            relays: delays,
        }
    });
    endpoint.close().await;
    // Nobody answered in time: nothing gets through, as far as is known.
    Ok(around.unwrap_or_default())
}
