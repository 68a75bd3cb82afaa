//! `talkoo audit`: spot checks of those who serve a model.

use crate::serve::Asking;
use crate::{Common, render};
use anyhow::{Result, bail, ensure};
use base::NodeId;
use clap::Args;
use serde_json::json;
use serving::{Local, OfferConfig, Trade};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct AuditArgs {
    /// The model.
    #[arg(value_name = "MODEL")]
    name: String,
    #[command(flatten)]
    asking: Asking,
    /// Checks of each provider.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    checks: u32,
}

/// Offers are heard within this.
const OFFERS_WITHIN: Duration = Duration::from_secs(20);

pub(crate) async fn run(common: &Common, args: AuditArgs) -> Result<()> {
    let (node, trade) = args.asking.trade(common, Local::default(), OfferConfig::default()).await?;
    let done = audit(common, &args, &trade).await;
    trade.close().await;
    node.close().await?;
    done
}

async fn audit(common: &Common, args: &AuditArgs, trade: &Arc<Trade>) -> Result<()> {
    let name = args.name.strip_prefix(serving::NET).unwrap_or(&args.name);
    let serving = || {
        let all = trade.providers().into_iter().filter(|known| known.offer.name == name);
        all.map(|known| known.provider).collect::<Vec<NodeId>>()
    };
    let begun = Instant::now();
    // One reads what another wrote.
    while serving().len() < 2 {
        if begun.elapsed() > OFFERS_WITHIN {
            bail!("{} of the two providers that a check takes offer {}", serving().len(), args.name);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut lines: BTreeMap<NodeId, BTreeMap<&'static str, u32>> = BTreeMap::new();
    let providers = serving();
    for round in 0..args.checks {
        for provider in &providers {
            let verdict = match trade.check(name, *provider).await {
                Ok(check) => check.verdict.name(),
                Err(error) => {
                    eprintln!("{}: {error:#}", provider.short());
                    "no_answer"
                }
            };
            *lines.entry(*provider).or_default().entry(verdict).or_default() += 1;
        }
        eprintln!("{} of {} checks", round + 1, args.checks);
    }
    let bad = |counts: &BTreeMap<&'static str, u32>| {
        counts.iter().any(|(name, _)| !["good", "unclear", "no_answer"].contains(name))
    };
    let value: Vec<_> = lines
        .iter()
        .map(|(provider, counts)| json!({ "provider": provider.to_string(), "checks": counts, "bad": bad(counts) }))
        .collect();
    render::print(common, &json!({ "model": args.name, "providers": value }), || {
        let line = |(provider, counts): (&NodeId, &BTreeMap<&'static str, u32>)| {
            let words: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
            format!("{}  {}{}", provider.short(), words.join(", "), if bad(counts) { "  BAD" } else { "" })
        };
        let mut out: Vec<String> = lines.iter().map(line).collect();
        out.push("two providers disagree where one is bad: with two, either may be the one".into());
        out.join("\n")
    });
    ensure!(!lines.values().any(bad), "somebody does not serve what it says");
    Ok(())
}
