//! What a node shows of its runs: plain data, for JSON and for people.

use owner::Why;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use swarm::{Standing, Waiting};

/// What a run waits for on this node. In JSON it is its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunWait {
    /// It fetches its data or weights.
    Fetching(Download),
    /// It looks for its data.
    Preparing,
    /// What the rules of the run say.
    Rules(Waiting),
    /// As another process told it.
    Told(String),
}

/// How far a download is, in MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// `the data` or `the weights`.
    pub what: &'static str,
    /// Here.
    pub done: usize,
    /// In all.
    pub of: usize,
}

impl RunWait {
    /// Whether it trains now.
    pub fn trains(&self) -> bool {
        *self == Self::Rules(Waiting::No)
    }

    /// Whether it fetches something.
    pub fn fetches(&self) -> bool {
        matches!(self, Self::Fetching(_) | Self::Preparing | Self::Rules(Waiting::Weights))
    }
}

impl Default for RunWait {
    fn default() -> Self {
        Self::Told(String::new())
    }
}

impl fmt::Display for RunWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetching(Download { what, done, of }) => write!(f, "fetching {what}: {done} of {of} MiB"),
            Self::Preparing => f.write_str("fetching the data"),
            Self::Rules(waiting) => f.write_str(waiting.text()),
            Self::Told(text) => f.write_str(text),
        }
    }
}

impl Serialize for RunWait {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunWait {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self::Told)
    }
}

/// Reasons by their codes.
mod code {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Why};

    pub(super) fn serialize<S: Serializer>(why: &Option<Why>, to: S) -> Result<S::Ok, S::Error> {
        why.map(Why::code).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Why>, D::Error> {
        let code = Option::<String>::deserialize(from)?;
        Ok(Why::ALL.into_iter().find(|why| Some(why.code()) == code.as_deref()))
    }
}

/// A run, as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Its id.
    pub run: String,
    /// Its name.
    pub name: String,
    /// What others need to join.
    pub ticket: String,
    /// The node that keeps the log.
    pub chain: String,
    /// `gradients` or `local`.
    pub mode: String,
    /// Parameters of the model.
    pub params: u64,
    /// Closed rounds.
    pub version: u64,
    /// Root of the weights that this node holds, with their version.
    pub root: Option<(u64, String)>,
    /// The last root that a quorum of the members reported, with its version.
    pub agreed: Option<(u64, String)>,
    /// Tokens applied, and in all.
    pub tokens: (u64, u64),
    /// Tokens per second over the last rounds.
    pub tokens_per_s: f64,
    /// Members.
    pub members: Vec<MemberStatus>,
    /// Whether all tokens are done.
    pub ended: bool,
    /// What this node waits for.
    pub waiting: RunWait,
    /// Why this node has nothing to do for the run, where it does not take part in its rounds.
    #[serde(default, with = "code")]
    pub lacks: Option<Why>,
    /// What went wrong last, for the owner.
    pub trouble: Option<String>,
    /// Transactions that the log refused, by reason.
    pub refused: Vec<(String, u64)>,
    /// Closed rounds, oldest first, at most the last 4,096.
    pub rounds: Arc<Vec<RoundLine>>,
    /// Bits per parameter of the last own update.
    pub bits_per_parameter: f64,
    /// Part of the time in which this node's trainer computed, percent.
    pub utilisation: f64,
    /// Milliseconds that this node's trainer computed since it was started, codec and waiting not counted.
    pub busy_ms: u64,
    /// Held-out bits per byte by round, where this node measured them.
    pub heldout: Vec<(u64, f64)>,
}

/// A member of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its key.
    pub node: String,
    /// Whether it takes part.
    pub status: Standing,
    /// Micro-batches per second, by the log's clock.
    pub speed: f64,
    /// Micro-batches planned in the newest round.
    pub planned: u32,
    /// Units committed.
    pub units: u64,
    /// Tokens in closed sets.
    pub tokens: u64,
    /// Units missed.
    pub missed: u64,
    /// Units that did not count; eight in a row that did take one back. From two on it sits out rounds.
    pub faults: u32,
    /// While it sits out: the round from which on it may take part again.
    pub aside_until: Option<u64>,
    /// Last reported loss, nats per token.
    pub loss: f64,
}

/// A closed round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundLine {
    /// Its number.
    pub round: u64,
    /// Mean loss that the contributors reported, nats per token.
    pub loss: f64,
    /// Tokens applied.
    pub tokens: u64,
    /// Updates in the set.
    pub set: usize,
    /// Updates left out.
    pub left_out: usize,
    /// Whether no quorum attested.
    pub void: bool,
    /// Time from opening to closing.
    pub took_ms: u64,
    /// Tokens applied so far.
    pub total: u64,
    /// Which part of the time since it opened this node's trainer computed, percent; 0 where it had no unit.
    pub utilisation: f64,
    /// Bytes of this node's update.
    pub update_bytes: u64,
}
