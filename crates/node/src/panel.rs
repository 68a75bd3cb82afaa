//! What the owner is shown of a node: one document for the page, `talkoo status` and whoever asks for JSON.

use crate::config::{Config, TEMPLATE};
use crate::earned::{ByDay, Done, Sum};
use crate::supervisor::Supervisor;
use crate::{Activity, Node};
use base::NodeId;
use owner::{DAY_MS, Day, forecast};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use trainer::RunStatus;

/// Peers that are shown.
const PEERS: usize = 256;

/// Where the API listens, and with which settings the node was started.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// `http://…/v1`; none where no API is served.
    pub api: Option<String>,
    /// The settings in force.
    pub config: Config,
}

impl Node {
    /// What is shown of it from now on.
    pub fn show_as(&self, shown: Shown) {
        let file = Config::path(self.shared.store.dir());
        let settings = json!({ "file": file, "values": settings(&shown.config) });
        *self.shown.lock().expect("nobody panics while holding it") = (shown.api, settings);
    }

    /// Everything at a glance.
    pub fn panel(&self) -> Value {
        let (api, settings) = self.shown.lock().expect("nobody panics while holding it").clone();
        let (status, now) = (self.status(), replica::clock());
        let chain = self.chain(None).unwrap_or_default();
        let account = self.account(None, &self.id()).unwrap_or_default();
        let Done { earned, on_day, since_start } = self.done(now.0 / DAY_MS, &status.runs);
        let activity = self.idling().map(|idling| idling.activity()).unwrap_or_else(always);
        let today = now.0 / DAY_MS;
        let what = doing(&status.runs, &activity);
        let peers = self.peers(&status.runs);
        json!({
            "version": env!("CARGO_PKG_VERSION"), "now_ms": now.0,
            "node": {
                "key": status.node, "uptime_s": self.begun.elapsed().as_secs(), "addresses": status.addresses,
                "api": api, "data": self.shared.store.dir(),
            },
            "network": {
                "name": chain.network, "chain": chain.chain, "validators": chain.validators.len(), "height": chain.height,
                "alone": chain.validators.len() == 1 && peers.is_empty(),
            },
            "activity": { "state": activity.state, "reason": activity.reason, "what": what },
            "today": day_of(today, &on_day, &activity.today_ms), "since_start": since_start,
            "earnings": earned.iter().rev().map(|((day, model, kind, device), micro)| {
                json!({ "day": date(*day), "model": model, "kind": kind, "device": device, "micro": micro })
            }).collect::<Vec<_>>(),
            "forecast": self.idling().and_then(|idling| likely(&idling, &earned, today)),
            "account": {
                "balance_micro": account.balance_micro, "bond_micro": account.bond_micro,
                "deposit_micro": account.deposit_micro, "locked_micro": account.locked_micro,
                "unbonding_micro": account.unbonding_micro,
            },
            "runs": status.runs.iter().map(|run| short(run, self.got(&run.chain, &run.run))).collect::<Vec<_>>(),
            "serving": self.serving(),
            "peers": peers.into_values().take(PEERS).collect::<Vec<_>>(),
            "settings": settings, "caps_kept_by": self.idling().map(|idling| idling.kept_by().to_owned()),
            "refused": status.refused, "trouble": status.trouble,
        })
    }

    /// Where the time of each day went that is shown, and what was done then; newest first.
    pub fn panel_days(&self) -> Value {
        let today = replica::clock().0 / DAY_MS;
        let spent = self.idling().map(|idling| idling.spent()).unwrap_or_default();
        let shown = spent.iter().rev().filter(|(day, _)| **day + crate::earned::DAYS >= today);
        shown.map(|(day, spent)| day_of(*day, &self.done(*day, &[]).on_day, spent)).collect()
    }

    /// One run in full, by its id.
    pub fn panel_run(&self, id: &str) -> Option<Value> {
        let run = self.status().runs.into_iter().find(|run| run.run == id)?;
        let mut value = serde_json::to_value(&run).ok()?;
        value["pay"] = self.pay(&run.chain, &id.parse().ok()?);
        value["samples"] = json!(self.shared.store.metrics::<Value>(&id.parse().ok()?, trainer::SAMPLES_FILE));
        Some(value)
    }

    /// Final blocks of the chain at home below a height, newest first.
    pub fn panel_blocks(&self, before: Option<u64>, count: usize) -> Value {
        let newest = self.chain(None).map_or(0, |chain| chain.height);
        let last = before.map_or(newest, |before| newest.min(before.saturating_sub(1)));
        let heights = (1..=last).rev().take(count);
        let blocks: Vec<_> = heights.map_while(|height| self.block(None, height).ok()).collect();
        json!({ "blocks": blocks, "newest": newest })
    }

    /// An account of the chain at home by its key.
    pub fn panel_account(&self, key: &str) -> Option<Value> {
        let account = self.account(None, &key.parse().ok()?).ok()?;
        serde_json::to_value(account).ok()
    }

    /// What is served, and how it went.
    fn serving(&self) -> Value {
        #[cfg(feature = "serve")]
        if let Ok(trade) = self.in_market() {
            return trade.panel();
        }
        json!({
            "models": [], "asked": 0, "counts": [], "tokens_in": 0, "tokens_out": 0, "first_ms": null,
            "tokens_per_s": null, "now": 0,
        })
    }

    /// Everybody whom this node knows, by key.
    fn peers(&self, runs: &[RunStatus]) -> BTreeMap<String, Value> {
        let mut kinds: BTreeMap<NodeId, BTreeSet<&'static str>> = BTreeMap::new();
        for member in runs.iter().flat_map(|run| &run.members) {
            if let Ok(key) = member.node.parse() {
                kinds.entry(key).or_default().insert("member");
            }
        }
        if let Some(kept) = self.shared.chains.home.kept() {
            for seat in &kept.network.seats {
                kinds.entry(seat.address.node).or_default().insert("validator");
            }
        }
        #[cfg(feature = "serve")]
        if let Ok(trade) = self.in_market() {
            for known in trade.providers() {
                kinds.entry(known.provider).or_default().insert("provider");
            }
        }
        let ways = self.shared.net.ways();
        for peer in ways.keys() {
            kinds.entry(*peer).or_default();
        }
        kinds.remove(&self.id());
        let peer = |(key, kinds): (NodeId, BTreeSet<&'static str>)| {
            let way = ways.get(&key);
            let value = json!({
                "key": key.to_string(), "kinds": kinds, "direct": way.map(|way| way.direct),
                "rtt_ms": way.map(|way| way.rtt.as_secs_f64() * 1e3), "address": way.map(|way| way.address.clone()),
            });
            (key.to_string(), value)
        };
        kinds.into_iter().map(peer).collect()
    }
}

/// A node that nobody minds works whatever the machine does.
fn always() -> Activity {
    let reason =
        crate::Reason { code: "working".into(), text: "It works whenever there is work.".into(), ..Default::default() };
    Activity { state: "working".into(), reason, share_permille: 1000, today_ms: BTreeMap::new() }
}

/// What a node does, in a few words each.
fn doing(runs: &[RunStatus], activity: &Activity) -> Vec<String> {
    if activity.state != "working" {
        return Vec::new();
    }
    runs.iter().filter(|run| !run.ended).map(|run| format!("{}: {}", run.name, run.waiting)).collect()
}

/// A day (UTC): what was done, and where its time went, by reason in milliseconds.
fn day_of(day: u64, did: &Sum, spent: &BTreeMap<String, u64>) -> Value {
    let working = ["working", "working_in_background"].iter().filter_map(|code| spent.get(*code)).sum::<u64>();
    let mut value = json!(did);
    value["date"] = date(day).into();
    value["minutes"] = spent.iter().map(|(code, ms)| minutes(code, *ms)).collect();
    value["working_s"] = (working / 1000).into();
    value
}

fn minutes(code: &str, ms: u64) -> Value {
    let why = owner::Why::ALL.into_iter().find(|why| why.code() == code);
    // The sentences of measured reasons name what was measured at a moment: here they stand for many.
    let text = code.replace('_', " ");
    json!({ "code": code, "text": text, "seconds": ms / 1000, "mend": why.and_then(owner::Why::mend) })
}

/// A run in a few figures, with what this node got for its units.
fn short(run: &RunStatus, got: Option<(u64, BTreeMap<String, u64>)>) -> Value {
    let (earned, unpaid) = got.unwrap_or_default();
    json!({
        "run": run.run, "name": run.name, "mode": run.mode, "params": run.params, "version": run.version,
        "tokens": run.tokens, "tokens_per_s": run.tokens_per_s,
        "loss": run.rounds.iter().rev().find(|round| round.loss > 0.0).map(|round| round.loss),
        "heldout": run.heldout.last().map(|(_, bits)| bits),
        "members": run.members.len(), "active": run.members.iter().filter(|member| member.status == "active").count(),
        "ended": run.ended, "waiting": run.waiting, "trouble": run.trouble,
        "earned_micro": earned, "unpaid": unpaid,
    })
}

/// What the next day may bring, only where it is known how wrong such forecasts were.
fn likely(idling: &Arc<Supervisor>, earned: &ByDay, today: u64) -> Option<Value> {
    let mut by_day: BTreeMap<u64, u64> = BTreeMap::new();
    earned.iter().for_each(|((day, ..), micro)| *by_day.entry(*day).or_default() += micro);
    let likely = forecast(&known(idling.days(&by_day), today), today)?;
    let error = likely.error_permille?;
    Some(json!({ "per_day_micro": likely.earned, "error_percent": error as f64 / 10.0 }))
}

/// The days of which earnings are known: without any, others would seem to have been foreseen to be empty.
fn known(mut days: Vec<Day>, today: u64) -> Vec<Day> {
    days.retain(|day| day.day.saturating_add(crate::earned::DAYS) >= today);
    days
}

/// Every setting with its value, its default and what it means, in the order of the file.
fn settings(config: &Config) -> Vec<Value> {
    let table = toml::Table::try_from(config).unwrap_or_default();
    let (mut section, mut help, mut out) = (String::new(), Vec::new(), Vec::new());
    // Keys that follow each other share what stands above the first.
    let mut explained = false;
    for line in TEMPLATE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some(text) = line.strip_prefix("# ") {
            if std::mem::take(&mut explained) {
                help.clear();
            }
            help.push(text);
        } else if let Some((key, default)) = line.strip_prefix('#').and_then(|line| line.split_once(" = ")) {
            explained = true;
            let value = table.get(&section).and_then(|section| section.get(key)).map(ToString::to_string);
            out.push(json!({
                "section": section, "key": key, "value": value.unwrap_or_default(), "default": default, "help": help.join(" "),
            }));
        } else {
            help.clear();
        }
    }
    out
}

/// `2026-11-28 17:05:09 UTC`, of Unix milliseconds; nothing where that is no time.
pub fn utc(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    time.map(|time| time.format("%F %T UTC").to_string()).unwrap_or_default()
}

/// `2026-11-28`, of days since 1970.
fn date(day: u64) -> String {
    let date = i64::try_from(day * DAY_MS).ok().and_then(chrono::DateTime::from_timestamp_millis);
    date.map(|date| date.format("%Y-%m-%d").to_string()).unwrap_or_default()
}

/// The node as the gateway's page asks it.
#[cfg(feature = "serve")]
pub struct NodePanel(pub Arc<Node>);

#[cfg(feature = "serve")]
impl gateway::Panel for NodePanel {
    fn state(&self) -> Value {
        self.0.panel()
    }

    fn run(&self, run: &str) -> Option<Value> {
        self.0.panel_run(run)
    }

    fn days(&self) -> Value {
        self.0.panel_days()
    }

    fn blocks(&self, before: Option<u64>, count: usize) -> Value {
        self.0.panel_blocks(before, count)
    }

    fn account(&self, key: &str) -> Option<Value> {
        self.0.panel_account(key)
    }

    fn metrics(&self) -> String {
        self.0.metrics()
    }

    fn pause(&self, minutes: Option<u64>) -> Result<(), String> {
        self.0.pause(minutes).map_err(|error| error.to_string())
    }

    fn resume(&self) -> Result<(), String> {
        self.0.resume().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained() {
        let all = settings(&Config::default());
        let table = toml::Table::try_from(Config::default()).expect("a table");
        let keys: usize = table.values().map(|section| section.as_table().map_or(0, toml::Table::len)).sum();
        assert_eq!(all.len(), keys);
        for setting in &all {
            assert!(setting["help"].as_str().is_some_and(|help| !help.is_empty()), "{setting}");
            assert!(setting["help"].as_str().is_some_and(|help| help.len() < 160), "one explanation each: {setting}");
            assert_eq!(setting["value"], setting["default"], "{setting}");
        }
    }

    #[test]
    fn a_forecast_is_judged_by_days_whose_earnings_are_known() {
        let today = 1_000;
        // Ninety days of work, whose earnings nobody could foresee; they are known for a month.
        let day = |day: u64| Day {
            day,
            earned: if today - day > crate::earned::DAYS { 0 } else { 1_000 + 500 * (day * 7_919 % 23) },
            worked_ms: 3_600_000,
        };
        let error = |days: Vec<Day>| forecast(&days, today).expect("days").error_permille.expect("known");
        let days: Vec<Day> = (today - 90..today).map(day).collect();
        let month: Vec<Day> = (today - crate::earned::DAYS..today).map(day).collect();
        assert_eq!(error(known(days.clone(), today)), error(month));
        assert!(error(known(days.clone(), today)) > error(days));
    }

    #[test]
    fn days_have_dates() {
        assert_eq!((utc(1_000), utc(u64::MAX)), ("1970-01-01 00:00:01 UTC".into(), String::new()));
        assert_eq!((date(0), date(20_785)), ("1970-01-01".into(), "2026-11-28".into()));
    }
}
