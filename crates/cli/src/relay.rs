//! `talkoo relay`, and `talkoo net check`.

use crate::{Common, render};
use anyhow::{Context, Result, ensure};
use clap::Args;
use net::Relay;
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::time::Duration;

#[derive(Args)]
pub(crate) struct RelayArgs {
    /// How others reach this machine: a name or an IP address (default: the address of --bind).
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Mbit/s that one node may send through it; all of one address four times that, all together twenty times.
    #[arg(long, default_value_t = 50, value_name = "MBIT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// Bytes in a Mbit.
const MBIT: u32 = 125_000;

pub(crate) async fn run(common: &Common, args: RelayArgs) -> Result<()> {
    let host = args.host.or_else(|| (!common.bind().ip().is_unspecified()).then(|| common.bind().ip().to_string()));
    let host = host.context("name this machine as others reach it: --host NAME, or --bind IP:PORT")?;
    ensure!(common.bind().port() != 0, "name a port that is open to others, TCP and UDP: --bind 0.0.0.0:7843");
    let key = node::relay_key(&common.dir())?;
    let rate = NonZeroU32::new(args.rate * MBIT).context("a rate above 0")?;
    let relay = Relay::open(common.bind(), &key, rate).await?;
    let address = relay.address(&host, &key)?;
    let stopped = crate::stop::stopped()?;
    if common.json {
        outln!("{}", serde_json::json!({ "relay": address.to_string() }));
    } else {
        outln!(
            "relaying; nodes use it with\n\n  --relay {address}\n\nit sees who talks to whom, when and how much; what \
             they say is encrypted between them"
        );
    }
    stopped.await;
    eprintln!("{} nodes were served at the end", relay.clients());
    relay.close().await;
    Ok(())
}

/// The network answers within this, or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// `talkoo net check`.
pub(crate) async fn check(common: &Common) -> Result<()> {
    let mut relays = common.relays()?;
    // Those that the node which runs here was begun with.
    if relays.is_empty()
        && let Ok(panel) = crate::client::panel(common).await
    {
        let named = panel.settings.values.iter().find(|set| set.section == "node" && set.key == "relays");
        // A list of texts is the same in TOML and in JSON.
        let named = named.and_then(|set| serde_json::from_str::<Vec<String>>(&set.value).ok());
        relays = named.unwrap_or_default().iter().filter_map(|relay| relay.parse().ok()).collect();
    }
    if !common.json && !relays.is_empty() {
        eprintln!("asking {} relays, for at most {} s", relays.len(), ANSWER_WITHIN.as_secs());
    }
    let interfaces = net::local_addresses();
    let found = match relays.is_empty() {
        true => net::Around::default(),
        false => net::look_around(&relays, ANSWER_WITHIN).await?,
    };
    let asked = !relays.is_empty();
    let kind = kind(&found, &interfaces);
    let delays: Vec<Value> =
        found.relays.iter().map(|(relay, delay)| json!({ "relay": relay, "ms": delay.as_secs_f64() * 1e3 })).collect();
    let value = json!({
        "interfaces": interfaces, "relays_asked": relays.len(), "udp_v4": asked.then_some(found.udp.0),
        "udp_v6": asked.then_some(found.udp.1), "seen_as": found.seen_as, "router": kind.0, "relays": delays,
    });
    render::print(common, &value, || {
        let local: Vec<String> = interfaces.iter().map(ToString::to_string).collect();
        let mut lines = vec![format!("this machine    {}", local.join(", "))];
        if !asked {
            lines.push("no relay is named, so nobody outside was asked how this machine looks from there;".into());
            lines
                .push("`talkoo relay` on a machine with an open port prints one: --relay URL, or [node] relays".into());
            return lines.join("\n");
        }
        let through = |yes: bool| if yes { "gets through" } else { "does not get through" };
        lines.push(format!("UDP             IPv4 {}, IPv6 {}", through(found.udp.0), through(found.udp.1)));
        let seen: Vec<String> = found.seen_as.iter().map(ToString::to_string).collect();
        lines.push(format!("from outside    {}", if seen.is_empty() { "unknown".into() } else { seen.join(", ") }));
        lines.push(format!("router          {}: {}", kind.0, kind.1));
        for relay in &relays {
            let name = relay.to_string();
            let delay = found.relays.iter().find(|(known, _)| *known == name).map(|(_, delay)| delay);
            let says = delay.map_or("does not answer".into(), |delay| format!("{:.1} ms", delay.as_secs_f64() * 1e3));
            lines.push(format!("relay           {name}: {says}"));
        }
        lines.join("\n")
    });
    anyhow::ensure!(
        !asked || !found.relays.is_empty(),
        "no relay answers: look at the connection, or at the relays' addresses"
    );
    Ok(())
}

/// The kind of router, and what it means.
fn kind(found: &net::Around, interfaces: &[std::net::IpAddr]) -> (&'static str, &'static str) {
    let open = found.seen_as.iter().any(|seen| interfaces.contains(&seen.ip()));
    match (found.udp, found.varies) {
        ((false, false), _) if found.relays.is_empty() => ("unknown", "nobody answered"),
        ((false, false), _) => ("udp_blocked", "peers are reached through a relay only"),
        _ if open => ("none", "peers reach this machine directly, if its firewall lets them"),
        (_, Some(true)) => {
            ("changes_ports", "peers are reached directly only where theirs keeps them, else through a relay")
        }
        (_, Some(false)) => ("keeps_ports", "peers are reached directly after a moment"),
        (_, None) => ("some", "a second relay is needed to know of which kind; peers are probably reached directly"),
    }
}
