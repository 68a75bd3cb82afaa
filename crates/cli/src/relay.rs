//! `talkoo relay`.

use crate::Common;
use anyhow::{Context, Result, ensure};
use clap::Args;
use net::Relay;
use std::num::NonZeroU32;

#[derive(Args)]
pub(crate) struct RelayArgs {
    /// How others reach this machine: a name or an IP address (default: the address of --bind).
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Mbit/s that one node may send through it.
    #[arg(long, default_value_t = 50, value_name = "MBIT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// Bytes in a Mbit.
const MBIT: u32 = 125_000;

pub(crate) async fn run(common: &Common, args: RelayArgs) -> Result<()> {
    let host = args.host.or_else(|| (!common.bind.ip().is_unspecified()).then(|| common.bind.ip().to_string()));
    let host = host.context("name this machine as others reach it: --host NAME, or --bind IP:PORT")?;
    ensure!(common.bind.port() != 0, "name a port that is open to others, TCP and UDP: --bind 0.0.0.0:7843");
    let key = node::relay_key(&common.dir())?;
    let rate = NonZeroU32::new(args.rate * MBIT).context("a rate above 0")?;
    let relay = Relay::open(common.bind, &key, rate).await?;
    let address = relay.address(&host, &key)?;
    if common.json {
        outln!("{}", serde_json::json!({ "relay": address.to_string() }));
    } else {
        outln!(
            "relaying; nodes use it with\n\n  --relay {address}\n\nit sees who talks to whom and how much, never what"
        );
    }
    crate::train::stopped().await?;
    eprintln!("{} nodes were served at the end", relay.clients());
    relay.close().await;
    Ok(())
}
