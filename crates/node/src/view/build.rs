//! Makes the document that shows a node from what its parts say.

use crate::config::{Config, TEMPLATE};
use crate::view::earnings::{ByDay, Done};
use crate::view::panel::{
    ActivityView, BalanceView, DayView, Earning, ForecastView, NetworkView, NodeView, Panel, PeerView, RunView,
    ServingView, Setting, SettingsView, TimeSpent, WorkDone,
};
use crate::{Activity, MachineState, Node};
use base::NodeId;
use owner::{DAY_MS, Day, forecast};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
#[cfg(feature = "serve")]
use std::sync::Arc;
use swarm::Standing;
use trainer::RunStatus;

/// Peers that are shown.
const PEERS: usize = 256;

/// Where the API listens, and with which settings the node was started.
#[derive(Debug, Clone, Default)]
pub struct NodeSettings {
    /// `http://…/v1`; none where no API is served.
    pub api: Option<String>,
    /// The settings in force.
    pub config: Config,
}

impl Node {
    /// What is shown of it from now on.
    pub fn show_as(&self, shown: NodeSettings) {
        let settings = SettingsView { file: Config::path(self.shared.store.dir()), values: settings(&shown.config) };
        *self.shown.lock().expect("nobody panics while holding it") = (shown.api, settings);
    }

    /// Whether it was told what to show.
    pub(crate) fn is_shown(&self) -> bool {
        !self.shown.lock().expect("nobody panics while holding it").1.values.is_empty()
    }

    /// Everything at a glance.
    pub fn panel(&self) -> Panel {
        let (api, settings) = self.shown.lock().expect("nobody panics while holding it").clone();
        let (status, now) = (self.status(), replica::clock());
        let chain = self.chain(None).unwrap_or_default();
        let account = self.account(None, &self.id()).unwrap_or_default();
        let today = now.0 / DAY_MS;
        let Done { earned, on_day, since_start } = self.done(today, &status.runs);
        let activity = self.idling().map(|idling| idling.activity()).unwrap_or_else(always);
        let what = doing(&status.runs, &activity);
        let peers = self.peers(&status.runs);
        Panel {
            version: env!("CARGO_PKG_VERSION").into(),
            now_ms: now.0,
            node: NodeView {
                key: status.node,
                uptime_s: self.begun.elapsed().as_secs(),
                addresses: status.addresses,
                api,
                data: self.shared.store.dir().to_owned(),
            },
            network: NetworkView {
                alone: chain.validators.len() == 1 && peers.is_empty(),
                name: chain.network,
                chain: chain.chain,
                validators: chain.validators.len(),
                height: chain.height,
            },
            today: day_of(today, on_day, &activity.today_ms),
            activity: ActivityView { state: activity.state, reason: activity.reason, what },
            since_start,
            earnings: (earned.iter().rev())
                .map(|((day, model, kind, device), micro)| Earning {
                    day: date(*day),
                    model: model.clone(),
                    kind: (*kind).to_owned(),
                    device: device.clone(),
                    micro: *micro,
                })
                .collect(),
            forecast: self.idling().and_then(|idling| likely(|by_day| idling.days(by_day), &earned, today)),
            account: BalanceView {
                balance_micro: account.balance_micro,
                bond_micro: account.bond_micro,
                deposit_micro: account.deposit_micro,
                locked_micro: account.locked_micro,
                unbonding_micro: account.unbonding_micro,
            },
            runs: status.runs.iter().map(|run| short(run, self.got(&run.chain, &run.run))).collect(),
            serving: self.serving(),
            peers: peers.into_iter().take(PEERS).collect(),
            settings,
            caps_kept_by: self.idling().map(|idling| idling.kept_by().to_owned()),
            refused: status.refused,
            trouble: status.trouble,
        }
    }

    /// Where the time of each day went that is shown, and what was done then; newest first.
    pub fn panel_days(&self) -> Vec<DayView> {
        let today = replica::clock().0 / DAY_MS;
        let spent = self.idling().map(|idling| idling.spent()).unwrap_or_default();
        let shown = spent.iter().rev().filter(|(day, _)| **day + crate::view::earnings::DAYS >= today);
        shown.map(|(day, spent)| day_of(*day, self.done(*day, &[]).on_day, spent)).collect()
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
    fn serving(&self) -> ServingView {
        #[cfg(feature = "serve")]
        if let Ok(trade) = self.in_market() {
            return crate::view::market::view(&trade);
        }
        ServingView::default()
    }

    /// Everybody whom this node knows, by key.
    fn peers(&self, runs: &[RunStatus]) -> Vec<PeerView> {
        let mut kinds: BTreeMap<NodeId, BTreeSet<String>> = BTreeMap::new();
        let mut note = |key: NodeId, kind: &str| kinds.entry(key).or_default().insert(kind.to_owned());
        for member in runs.iter().flat_map(|run| &run.members) {
            if let Ok(key) = member.node.parse() {
                note(key, "member");
            }
        }
        if let Some(kept) = self.shared.chains.home.kept() {
            for seat in &kept.network.seats {
                note(seat.address.node, "validator");
            }
        }
        #[cfg(feature = "serve")]
        if let Ok(trade) = self.in_market() {
            for known in trade.providers() {
                note(known.provider, "provider");
            }
        }
        let ways = self.shared.net.ways();
        for peer in ways.keys() {
            kinds.entry(*peer).or_default();
        }
        kinds.remove(&self.id());
        let peer = |(key, kinds): (NodeId, BTreeSet<String>)| {
            let way = ways.get(&key);
            PeerView {
                key: key.to_string(),
                kinds,
                direct: way.map(|way| way.direct),
                rtt_ms: way.map(|way| way.rtt.as_secs_f64() * 1e3),
                address: way.map(|way| way.address.clone()),
            }
        };
        kinds.into_iter().map(peer).collect()
    }
}

/// A node that nobody minds works whatever the machine does.
fn always() -> Activity {
    let reason = crate::ActivityReason {
        code: "working".into(),
        text: "It works whenever there is work.".into(),
        ..Default::default()
    };
    Activity { state: MachineState::Working, reason, share_permille: 1000, today_ms: BTreeMap::new() }
}

/// What a node does, in a few words each.
fn doing(runs: &[RunStatus], activity: &Activity) -> Vec<String> {
    if activity.state != MachineState::Working {
        return Vec::new();
    }
    runs.iter().filter(|run| !run.ended).map(|run| format!("{}: {}", run.name, run.waiting)).collect()
}

/// A day (UTC): what was done, and where its time went, by reason in milliseconds.
fn day_of(day: u64, done: WorkDone, spent: &BTreeMap<String, u64>) -> DayView {
    let working = ["working", "working_in_background"].iter().filter_map(|code| spent.get(*code)).sum::<u64>();
    DayView {
        done,
        date: date(day),
        minutes: spent.iter().map(|(code, ms)| time_spent(code, *ms)).collect(),
        working_s: working / 1000,
    }
}

fn time_spent(code: &str, ms: u64) -> TimeSpent {
    let why = owner::Why::ALL.into_iter().find(|why| why.code() == code);
    // The sentences of measured reasons name what was measured at a moment: here they stand for many.
    let text = code.replace('_', " ");
    let mend = why.and_then(owner::Why::mend).map(str::to_owned);
    TimeSpent { code: code.to_owned(), text, seconds: ms / 1000, mend }
}

/// A run in a few figures, with what this node got for its units.
fn short(run: &RunStatus, got: Option<(u64, BTreeMap<String, u64>)>) -> RunView {
    let (earned_micro, unpaid) = got.unwrap_or_default();
    RunView {
        run: run.run.clone(),
        name: run.name.clone(),
        mode: run.mode.clone(),
        params: run.params,
        version: run.version,
        tokens: run.tokens,
        tokens_per_s: run.tokens_per_s,
        loss: run.rounds.iter().rev().map(|round| round.loss).find(|loss| *loss > 0.0 && loss.is_finite()),
        heldout: run.heldout.last().map(|(_, bits)| *bits).filter(|bits| bits.is_finite()),
        members: run.members.len(),
        active: run.members.iter().filter(|member| member.status == Standing::Active).count(),
        ended: run.ended,
        waiting: run.waiting.to_string(),
        trouble: run.trouble.clone(),
        earned_micro,
        unpaid,
    }
}

/// What the next day may bring, only where it is known how wrong such forecasts were.
fn likely(days: impl FnOnce(&BTreeMap<u64, u64>) -> Vec<Day>, earned: &ByDay, today: u64) -> Option<ForecastView> {
    let mut by_day: BTreeMap<u64, u64> = BTreeMap::new();
    earned.iter().for_each(|((day, ..), micro)| *by_day.entry(*day).or_default() += micro);
    let likely = forecast(&known(days(&by_day), today), today)?;
    let error = likely.error_permille?;
    Some(ForecastView { per_day_micro: likely.earned, error_percent: error as f64 / 10.0 })
}

/// The days of which earnings are known: without any, others would seem to have been foreseen to be empty.
fn known(mut days: Vec<Day>, today: u64) -> Vec<Day> {
    days.retain(|day| day.day.saturating_add(crate::view::earnings::DAYS) >= today);
    days
}

/// Every setting with its value, its default and what it means, in the order of the file.
fn settings(config: &Config) -> Vec<Setting> {
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
            out.push(Setting {
                section: section.clone(),
                key: key.to_owned(),
                value: value.unwrap_or_default(),
                default: default.to_owned(),
                help: help.join(" "),
            });
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
impl gateway::PanelSource for NodePanel {
    fn state(&self) -> Value {
        json!(self.0.panel())
    }

    fn run(&self, run: &str) -> Option<Value> {
        self.0.panel_run(run)
    }

    fn days(&self) -> Value {
        json!(self.0.panel_days())
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
            assert!(!setting.help.is_empty() && setting.help.len() < 160, "one explanation each: {setting:?}");
            assert_eq!(setting.value, setting.default, "{setting:?}");
        }
    }

    #[test]
    fn a_forecast_is_judged_by_days_whose_earnings_are_known() {
        let today = 1_000;
        // Ninety days of work, whose earnings nobody could foresee; they are known for a month.
        let day = |day: u64| Day {
            day,
            earned: if today - day > crate::view::earnings::DAYS { 0 } else { 1_000 + 500 * (day * 7_919 % 23) },
            worked_ms: 3_600_000,
        };
        let error = |days: Vec<Day>| forecast(&days, today).expect("days").error_permille.expect("known");
        let days: Vec<Day> = (today - 90..today).map(day).collect();
        let month: Vec<Day> = (today - crate::view::earnings::DAYS..today).map(day).collect();
        assert_eq!(error(known(days.clone(), today)), error(month));
        assert!(error(known(days.clone(), today)) > error(days));
    }

    #[test]
    fn days_have_dates() {
        assert_eq!((utc(1_000), utc(u64::MAX)), ("1970-01-01 00:00:01 UTC".into(), String::new()));
        assert_eq!((date(0), date(20_785)), ("1970-01-01".into(), "2026-11-28".into()));
    }
}
