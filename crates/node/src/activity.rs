//! What a machine does for others, and why, as its owner is shown it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a node works or does not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivityReason {
    /// Of a closed vocabulary.
    pub code: String,
    /// In words.
    pub text: String,
    /// What the owner can do about it.
    pub mend: Option<String>,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// Until when, where that is known.
    pub until_ms: Option<u64>,
}

/// What a machine does for others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// It trains or answers, or may at any moment.
    Working,
    /// It may work, and there is nothing to do.
    Waiting,
    /// Its owner does not let it.
    #[default]
    Paused,
    /// It finishes what is under way.
    Draining,
    /// What a newer node does.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for MachineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Working => "working",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Unknown => "unknown",
        })
    }
}

/// What a node does for others, and why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// What it does.
    pub state: MachineState,
    /// Why.
    pub reason: ActivityReason,
    /// Of 1,000 parts of what it may use, how many it uses.
    pub share_permille: u32,
    /// Milliseconds of today (UTC) by reason.
    pub today_ms: BTreeMap<String, u64>,
}
