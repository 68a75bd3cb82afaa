//! The published figures: `claims/results.json` holds the last measurement of each, `claims/history.jsonl` a line for every one.

use crate::git;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

const RESULTS: &str = "claims/results.json";
const HISTORY: &str = "claims/history.jsonl";

/// A published figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) name: String,
    /// `null` where it was never measured, or where the measurement failed.
    pub(crate) value: Option<f64>,
    pub(crate) unit: String,
    pub(crate) bar: String,
    pub(crate) goal: String,
    /// Whether the bar is held.
    pub(crate) holds: bool,
    pub(crate) tier: String,
    pub(crate) how: String,
    pub(crate) commit: String,
    pub(crate) date: String,
    /// Which part of `claims` measures it.
    #[serde(default)]
    pub(crate) area: String,
    /// How often it was measured for this value, and what came out.
    #[serde(default)]
    pub(crate) repeats: Repeats,
    /// Where.
    #[serde(default)]
    pub(crate) machine: Machine,
    /// Whether the tree was that of the commit.
    #[serde(default)]
    pub(crate) clean: bool,
    /// Whether code that it exercises changed since its commit.
    #[serde(default)]
    pub(crate) stale: bool,
}

/// The spread behind a value.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Repeats {
    /// Measurements; 0 where that was not written down.
    pub(crate) n: usize,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

/// What a figure was measured on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

/// A line of the history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) value: Option<f64>,
    pub(crate) repeats: Repeats,
    pub(crate) commit: String,
    pub(crate) clean: bool,
    pub(crate) date: String,
    pub(crate) machine: Machine,
}

/// A value, and the measurements that it is the median (or the percentile) of.
pub(crate) struct Measured {
    value: f64,
    repeats: Repeats,
}

impl From<f64> for Measured {
    fn from(value: f64) -> Self {
        Self { value, repeats: Repeats { n: 1, min: value, median: value, max: value } }
    }
}

impl From<Vec<f64>> for Measured {
    /// Their median.
    fn from(values: Vec<f64>) -> Self {
        let repeats = Repeats::of(&values);
        Self { value: repeats.median, repeats }
    }
}

impl Measured {
    /// A value that was made out of these, as a percentile is.
    pub(crate) fn out_of(value: f64, values: &[f64]) -> Self {
        Self { value, repeats: Repeats::of(values) }
    }
}

impl Repeats {
    fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        match (values.first(), values.last()) {
            (Some(min), Some(max)) => Self { n: values.len(), min: *min, median: values[values.len() / 2], max: *max },
            _ => Self::default(),
        }
    }

    /// By how much measurements of the same differ.
    pub(crate) fn spread(&self) -> f64 {
        self.max - self.min
    }
}

impl Machine {
    fn here() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        Self {
            cpu: line.trim_start_matches(['\t', ' ', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: crate::output("uname", &["-r"]),
        }
    }
}

/// What is held against a bar.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    /// At most this.
    Most(f64),
    /// At least this.
    Least(f64),
    /// Nothing: the figure is printed.
    Printed,
}

impl Bar {
    fn text(self) -> String {
        match self {
            Self::Most(limit) => format!("<= {limit}"),
            Self::Least(limit) => format!(">= {limit}"),
            Self::Printed => "printed".into(),
        }
    }

    fn holds(self, value: f64) -> bool {
        match self {
            Self::Most(limit) => value <= limit,
            Self::Least(limit) => value >= limit,
            Self::Printed => true,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy)]
pub(crate) struct Figure<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) bar: Bar,
    pub(crate) goal: &'a str,
}

/// The published figures. What is not measured this time stands as it was measured last.
pub(crate) struct Book {
    claims: Vec<Claim>,
    area: String,
    commit: String,
    clean: bool,
    date: String,
    machine: Machine,
    /// Names that were published since the area began.
    measured: BTreeSet<String>,
}

impl Book {
    /// The figures as they were published last.
    pub(crate) fn open() -> Result<Self> {
        let claims = match std::fs::read(RESULTS) {
            Ok(bytes) => serde_json::from_slice(&bytes).context(RESULTS)?,
            Err(_) => Vec::new(),
        };
        Ok(Self {
            claims,
            area: String::new(),
            commit: git::commit(),
            clean: git::clean(),
            date: crate::output("date", &["-u", "+%F"]),
            machine: Machine::here(),
            measured: BTreeSet::new(),
        })
    }

    /// All figures.
    pub(crate) fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// Measures an area and writes its figures down. Where it fails, what it did not come to is published as falling short.
    pub(crate) fn area(&mut self, area: &str, full: bool, measure: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.area = area.to_owned();
        self.measured.clear();
        let begun = Instant::now();
        let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| measure(self)));
        let panicked = |panic: Box<dyn std::any::Any + Send>| {
            let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            anyhow::anyhow!("{}", said.or_else(|| panic.downcast_ref().cloned()).unwrap_or_else(|| "a panic".into()))
        };
        if let Err(error) = measured.unwrap_or_else(|panic| Err(panicked(panic))) {
            println!("the measurement of {area} failed: {error:#}");
            let missed = |claim: &&Claim| {
                claim.area == area && (full || claim.tier == "quick") && !self.measured.contains(&claim.name)
            };
            for mut claim in self.claims.iter().filter(missed).cloned().collect::<Vec<_>>() {
                claim.how = format!("the measurement failed: {error:#}");
                self.publish(claim, None);
            }
        }
        println!("{area}: measured in {} s", begun.elapsed().as_secs());
        self.write()
    }

    /// Publishes a figure of the quick or the full tier.
    pub(crate) fn add(
        &mut self,
        tier: &str,
        name: &str,
        (value, unit): (impl Into<Measured>, &str),
        bar: Bar,
        goal: &str,
        how: &str,
    ) {
        let Measured { value, repeats } = value.into();
        let claim =
            Claim { repeats, holds: bar.holds(value), ..self.blank(tier, Figure { name, unit, bar, goal }, how) };
        self.publish(claim, Some(value));
    }

    /// Publishes a figure of the full tier.
    pub(crate) fn full(&mut self, figure: Figure<'_>, value: impl Into<Measured>, how: &str) {
        self.add("full", figure.name, (value, figure.unit), figure.bar, figure.goal, how);
    }

    /// Publishes figures of the full tier as they were measured last, or that they never were.
    pub(crate) fn keep(&mut self, figures: &[Figure<'_>]) {
        for figure in figures {
            let last = self.claims.iter().find(|claim| claim.name == figure.name).cloned();
            let mut claim = last.unwrap_or_else(|| Claim {
                commit: String::new(),
                date: String::new(),
                ..self.blank("full", *figure, "not measured yet")
            });
            claim.area = self.area.clone();
            print(&claim);
            self.put(claim);
        }
    }

    /// The last value of a figure.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.claims.iter().find(|claim| claim.name == name)?.value
    }

    /// Commit and date of what is measured now.
    pub(crate) fn stamp(&self) -> String {
        format!("commit {}, {}", self.commit, self.date)
    }

    /// Marks what is older than the code that it exercises, and writes all down.
    pub(crate) fn write(&mut self) -> Result<()> {
        for claim in &mut self.claims {
            claim.stale = git::changed_since(&claim.commit, &claim.area);
        }
        std::fs::create_dir_all("claims")?;
        let mut json = serde_json::to_string_pretty(&self.claims)?;
        json.push('\n');
        // Beside it first: who is interrupted here keeps the figures of before.
        std::fs::write("claims/results.json.new", json)?;
        std::fs::rename("claims/results.json.new", RESULTS).context(RESULTS)
    }

    fn blank(&self, tier: &str, figure: Figure<'_>, how: &str) -> Claim {
        Claim {
            name: figure.name.into(),
            value: None,
            unit: figure.unit.into(),
            bar: figure.bar.text(),
            goal: figure.goal.into(),
            holds: false,
            tier: tier.into(),
            how: how.into(),
            commit: self.commit.clone(),
            date: self.date.clone(),
            area: self.area.clone(),
            repeats: Repeats::default(),
            machine: self.machine.clone(),
            clean: self.clean,
            stale: false,
        }
    }

    /// A measurement that was made now, or that failed now.
    fn publish(&mut self, claim: Claim, value: Option<f64>) {
        let repeats = if value.is_some() { claim.repeats } else { Repeats::default() };
        let claim = Claim {
            value,
            repeats,
            holds: claim.holds && value.is_some(),
            commit: self.commit.clone(),
            date: self.date.clone(),
            machine: self.machine.clone(),
            clean: self.clean,
            ..claim
        };
        print(&claim);
        if let Err(error) = append(&claim) {
            println!("{HISTORY} is not written: {error:#}");
        }
        self.measured.insert(claim.name.clone());
        self.put(claim);
    }

    fn put(&mut self, claim: Claim) {
        match self.claims.iter_mut().find(|old| old.name == claim.name) {
            Some(old) => *old = claim,
            None => self.claims.push(claim),
        }
    }
}

/// All that was ever measured, oldest first.
pub(crate) fn history() -> Result<Vec<Line>> {
    let text = match std::fs::read_to_string(HISTORY) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(HISTORY),
    };
    text.lines()
        .enumerate()
        .map(|(i, line)| serde_json::from_str(line).with_context(|| format!("{HISTORY}:{}", i + 1)))
        .collect()
}

fn append(claim: &Claim) -> Result<()> {
    let line = Line {
        name: claim.name.clone(),
        value: claim.value,
        repeats: claim.repeats,
        commit: claim.commit.clone(),
        clean: claim.clean,
        date: claim.date.clone(),
        machine: claim.machine.clone(),
    };
    if let Some(folder) = Path::new(HISTORY).parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(HISTORY)?;
    Ok(writeln!(file, "{}", serde_json::to_string(&line)?)?)
}

fn print(claim: &Claim) {
    let value = claim.value.map_or("-".into(), |value| format!("{value:.4}"));
    let verdict = if claim.holds { "holds" } else { "falls-short" };
    println!("claim {} {value} {} {} {verdict}", claim.name, claim.unit, claim.bar.replace(' ', ""));
}
