//! The document that shows a node. Its JSON is an interface: scripts, the page and the event log read it.
#![expect(missing_docs, reason = "the names are those of the JSON")]

use crate::activity::{ActivityReason, MachineState};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Everything about a node at a glance. Each field has a default, for whoever reads it may be newer than the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Panel {
    /// The program's version.
    pub version: String,
    /// When this was made, Unix milliseconds.
    pub now_ms: u64,
    pub node: NodeView,
    pub network: NetworkView,
    pub activity: ActivityView,
    /// Today (UTC).
    pub today: DayView,
    pub since_start: WorkDone,
    /// By day, newest first.
    pub earnings: Vec<Earning>,
    /// None where it is not known how wrong such forecasts were.
    pub forecast: Option<ForecastView>,
    pub account: BalanceView,
    pub runs: Vec<RunView>,
    pub serving: ServingView,
    /// At most 256.
    pub peers: Vec<PeerView>,
    #[serde(deserialize_with = "or_default")]
    pub settings: SettingsView,
    /// What enforces the caps on processors and memory; none where nobody minds the machine.
    pub caps_kept_by: Option<String>,
    /// Refused requests and answers of peers, by reason.
    pub refused: Vec<(String, u64)>,
    /// What keeps the chain at home from going on.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeView {
    pub key: String,
    pub uptime_s: u64,
    pub addresses: Vec<String>,
    /// `http://…/v1`; none where no API is served.
    pub api: Option<String>,
    /// The data folder.
    pub data: PathBuf,
}

/// The network at home.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkView {
    pub name: String,
    pub chain: String,
    pub validators: usize,
    /// Of the newest final block.
    pub height: u64,
    /// One validator and no known peer.
    pub alone: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivityView {
    pub state: MachineState,
    pub reason: ActivityReason,
    /// What it works on, a line each.
    pub what: Vec<String>,
}

/// What was done in a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkDone {
    pub earned_micro: u64,
    /// In units that count.
    pub tokens_trained: u64,
    /// Of others.
    pub questions_answered: u64,
    /// The owner's own that were answered here.
    pub own_questions: u64,
}

/// A day (UTC): what was done, and where its time went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DayView {
    #[serde(flatten)]
    pub done: WorkDone,
    /// `2026-11-28`.
    pub date: String,
    pub minutes: Vec<TimeSpent>,
    pub working_s: u64,
}

/// Time for one reason.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeSpent {
    /// Of [`owner::Why`].
    pub code: String,
    pub text: String,
    pub seconds: u64,
    pub mend: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Earning {
    pub day: String,
    pub model: String,
    /// `training` or `serving`.
    pub kind: String,
    /// What computed.
    pub device: String,
    pub micro: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForecastView {
    pub per_day_micro: u64,
    /// How far earlier forecasts were off.
    pub error_percent: f64,
}

/// The node's own account at home, in micro-credits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalanceView {
    pub balance_micro: u64,
    pub bond_micro: u64,
    pub deposit_micro: u64,
    pub locked_micro: u64,
    pub unbonding_micro: u64,
}

/// A run in a few figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunView {
    pub run: String,
    pub name: String,
    pub mode: String,
    pub params: u64,
    /// Closed rounds.
    pub version: u64,
    /// Applied, and in all.
    pub tokens: (u64, u64),
    pub tokens_per_s: f64,
    /// Nats per token of the last round that has one.
    pub loss: Option<f64>,
    /// Held-out bits per byte, as measured here last.
    pub heldout: Option<f64>,
    pub members: usize,
    /// Members that take part.
    pub active: usize,
    pub ended: bool,
    /// For people.
    pub waiting: String,
    pub trouble: Option<String>,
    /// By this node.
    pub earned_micro: u64,
    /// Units of this node that were not paid, by reason.
    pub unpaid: BTreeMap<String, u64>,
}

/// What is served, and how it went since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServingView {
    /// Answers that are being written.
    pub now: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub first_ms: Option<FirstWord>,
    pub tokens_per_s: Option<f64>,
    pub models: Vec<ModelView>,
    /// The owner's questions that others were asked, or that ended before that.
    pub asked: u64,
    /// Questions of peers by how they ended, and refused offers.
    pub counts: Vec<(String, u64)>,
    /// Spot checks of others by how they ended; none where nothing is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<BTreeMap<String, u64>>,
}

/// Milliseconds until the first word of an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirstWord {
    pub p50: u64,
    pub p95: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelView {
    pub name: String,
    pub hash: String,
    pub context: u64,
    pub providers: u64,
    /// Whether it is on this machine.
    pub local: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerView {
    pub key: String,
    /// Of `member`, `provider` and `validator`.
    pub kinds: BTreeSet<String>,
    /// Whether the connection goes by no relay; none where there is no connection.
    pub direct: Option<bool>,
    pub rtt_ms: Option<f64>,
    pub address: Option<String>,
}

/// The settings in force.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SettingsView {
    pub file: PathBuf,
    /// In the order of the file.
    pub values: Vec<Setting>,
}

/// A setting, values in TOML.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setting {
    pub section: String,
    pub key: String,
    pub value: String,
    pub default: String,
    pub help: String,
}

/// Earlier nodes say `null` before their settings are known.
fn or_default<'de, D: Deserializer<'de>>(from: D) -> Result<SettingsView, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Of a node that trained and served, as the program said it before it had types for it; peers, counts, a forecast and trouble
    /// were put in by hand, in the forms that they had.
    const GOLDEN: &str = include_str!("../../tests/panel.json");

    #[test]
    fn its_json_is_what_it_was() {
        let said: Value = serde_json::from_str(GOLDEN).expect("JSON");
        let panel: Panel = serde_json::from_str(GOLDEN).expect("a panel");
        assert_eq!(serde_json::to_value(panel).expect("JSON"), said);
    }

    #[test]
    fn what_another_version_leaves_out_or_says_more_is_no_error() {
        let panel: Panel =
            serde_json::from_str(r#"{ "settings": null, "activity": { "state": "dancing" }, "new": 1 }"#)
                .expect("a panel all the same");
        assert_eq!((panel.activity.state, panel.settings), (MachineState::Unknown, SettingsView::default()));
    }
}
