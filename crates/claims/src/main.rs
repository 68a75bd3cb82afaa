//! `make claims`: measures what the project claims and says plainly where it falls short.
//!
//! Each figure is printed as `claim NAME value unit bar holds|falls-short` and kept in
//! `claims/results.json`. The quick tier is measured each time; figures of the full tier keep their
//! last measurement with its commit and date, or stand as not measured.

mod chain;
mod codec;
mod learning;
mod ledger;
mod link;
mod market;
mod network;
mod owner;
mod rounds;
mod schedules;
mod serve;
mod step;
mod trouble;
mod zoo;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A published figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claim {
    name: String,
    /// `null` where it was never measured.
    value: Option<f64>,
    unit: String,
    bar: String,
    goal: String,
    /// Whether the bar is held.
    holds: bool,
    tier: String,
    how: String,
    commit: String,
    date: String,
}

/// The published figures. What is not measured this time stands as it was measured last.
pub(crate) struct Book {
    claims: Vec<Claim>,
    commit: String,
    date: String,
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

/// What is measured.
#[derive(Clone, Copy)]
pub(crate) struct Figure<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) bar: Bar,
    pub(crate) goal: &'a str,
}

impl Book {
    /// Publishes a figure of the quick or the full tier.
    pub(crate) fn add(&mut self, tier: &str, name: &str, (value, unit): (f64, &str), bar: Bar, goal: &str, how: &str) {
        let claim = Claim {
            name: name.into(),
            value: Some(value),
            unit: unit.into(),
            bar: bar.text(),
            goal: goal.into(),
            holds: bar.holds(value),
            tier: tier.into(),
            how: how.into(),
            commit: self.commit.clone(),
            date: self.date.clone(),
        };
        print(&claim);
        self.put(claim);
    }

    /// The last value of a figure.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.claims.iter().find(|claim| claim.name == name)?.value
    }

    /// Commit and date of what is measured now.
    pub(crate) fn stamp(&self) -> String {
        format!("commit {}, {}", self.commit, self.date)
    }

    /// Publishes a figure of the full tier.
    pub(crate) fn full(&mut self, figure: Figure<'_>, value: f64, how: &str) {
        self.add("full", figure.name, (value, figure.unit), figure.bar, figure.goal, how);
    }

    /// Publishes figures of the full tier as they were measured last, or that they never were.
    pub(crate) fn keep(&mut self, figures: &[Figure<'_>]) {
        for figure in figures {
            let last = self.claims.iter().find(|claim| claim.name == figure.name).cloned();
            let claim = last.unwrap_or_else(|| Claim {
                name: figure.name.into(),
                value: None,
                unit: figure.unit.into(),
                bar: figure.bar.text(),
                goal: figure.goal.into(),
                holds: false,
                tier: "full".into(),
                how: "not measured yet".into(),
                commit: String::new(),
                date: String::new(),
            });
            print(&claim);
            self.put(claim);
        }
    }

    fn put(&mut self, claim: Claim) {
        match self.claims.iter_mut().find(|old| old.name == claim.name) {
            Some(old) => *old = claim,
            None => self.claims.push(claim),
        }
    }
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

fn print(claim: &Claim) {
    let value = claim.value.map_or("-".into(), |value| format!("{value:.4}"));
    let verdict = if claim.holds { "holds" } else { "falls-short" };
    println!("claim {} {value} {} {} {verdict}", claim.name, claim.unit, claim.bar.replace(' ', ""));
}

/// What can be measured by itself: `claims [--full] [AREA…]`.
const AREAS: [&str; 15] = [
    "codec",
    "ledger",
    "network",
    "schedules",
    "rounds",
    "serve",
    "market",
    "kills",
    "across",
    "overload",
    "zoo",
    "owner",
    "link",
    "learning",
    "step",
];

fn main() -> Result<()> {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("TALKOO_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--step-only") {
        return step::own();
    }
    let full = arguments.iter().any(|argument| argument == "--full");
    let areas: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| !a.starts_with("--")).collect();
    if let Some(unknown) = areas.iter().find(|area| !AREAS.contains(area)) {
        bail!("unknown area `{unknown}`; one of {}", AREAS.join(", "));
    }
    let asked = |area: &str| areas.is_empty() || areas.contains(&area);
    let path = Path::new("claims/results.json");
    let claims = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).context("claims/results.json")?,
        Err(_) => Vec::new(),
    };
    let commit = output("git", &["rev-parse", "--short", "HEAD"]);
    let mut book = Book { claims, commit, date: output("date", &["-u", "+%F"]) };
    if asked("codec") {
        codec::measure(&mut book);
    }
    if asked("ledger") {
        ledger::measure(&mut book);
        chain::measure(&mut book)?;
    }
    if asked("network") {
        network::measure(&mut book, full)?;
    }
    if asked("schedules") {
        schedules::measure(&mut book)?;
    }
    if asked("rounds") {
        rounds::measure(&mut book)?;
    }
    if asked("serve") {
        serve::measure(&mut book)?;
    }
    if asked("market") {
        market::measure(&mut book)?;
    }
    for area in ["kills", "across", "overload"] {
        if asked(area) {
            trouble::measure(&mut book, area, full)?;
        }
    }
    if asked("zoo") {
        zoo::measure(&mut book, full)?;
    }
    if asked("owner") {
        owner::measure(&mut book, full)?;
    }
    if asked("link") {
        link::measure(&mut book, full)?;
    }
    if asked("learning") {
        learning::measure(&mut book, full)?;
    }
    if asked("step") {
        step::measure(&mut book, full)?;
    }
    std::fs::create_dir_all("claims")?;
    let mut json = serde_json::to_string_pretty(&book.claims)?;
    json.push('\n');
    std::fs::write(path, json)?;
    let short = book.claims.iter().filter(|claim| !claim.holds).count();
    println!("{} figures, {short} fall short or are not measured; claims/results.json", book.claims.len());
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// A process that ends with its figure.
pub(crate) struct Process(pub(crate) std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The median of some measurements.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
