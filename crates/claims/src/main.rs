//! `make claims`: measures what the project claims and says plainly where it falls short.
//!
//! Each figure is printed as `claim NAME value unit bar holds|falls-short` and kept in
//! `claims/results.json`. The quick tier is measured each time; figures of the full tier keep their
//! last measurement with its commit and date, or stand as not measured.

mod codec;
mod learning;
mod rounds;
mod schedules;
mod step;

use anyhow::{Context, Result};
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

/// Collects figures.
pub(crate) struct Book {
    claims: Vec<Claim>,
    before: Vec<Claim>,
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
}

impl Book {
    /// Publishes a measured figure.
    pub(crate) fn add(&mut self, tier: &str, name: &str, (value, unit): (f64, &str), bar: Bar, goal: &str, how: &str) {
        let (text, holds) = match bar {
            Bar::Most(limit) => (format!("<= {limit}"), value <= limit),
            Bar::Least(limit) => (format!(">= {limit}"), value >= limit),
        };
        let claim = Claim {
            name: name.into(),
            value: Some(value),
            unit: unit.into(),
            bar: text,
            goal: goal.into(),
            holds,
            tier: tier.into(),
            how: how.into(),
            commit: self.commit.clone(),
            date: self.date.clone(),
        };
        print(&claim);
        self.claims.push(claim);
    }

    /// Keeps the last measurement of a figure of the full tier, or publishes that there is none.
    pub(crate) fn keep(&mut self, name: &str, unit: &str, bar: &str, goal: &str) {
        let last = self.before.iter().find(|claim| claim.name == name).cloned();
        let claim = last.unwrap_or_else(|| Claim {
            name: name.into(),
            value: None,
            unit: unit.into(),
            bar: bar.into(),
            goal: goal.into(),
            holds: false,
            tier: "full".into(),
            how: "not measured yet".into(),
            commit: String::new(),
            date: String::new(),
        });
        print(&claim);
        self.claims.push(claim);
    }
}

fn print(claim: &Claim) {
    let value = claim.value.map_or("-".into(), |value| format!("{value:.4}"));
    let verdict = if claim.holds { "holds" } else { "falls-short" };
    println!("claim {} {value} {} {} {verdict}", claim.name, claim.unit, claim.bar.replace(' ', ""));
}

fn main() -> Result<()> {
    let full = std::env::args().any(|argument| argument == "--full");
    let path = Path::new("claims/results.json");
    let before = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).context("claims/results.json")?,
        Err(_) => Vec::new(),
    };
    let mut book = Book {
        claims: Vec::new(),
        before,
        commit: output("git", &["rev-parse", "--short", "HEAD"]),
        date: output("date", &["-u", "+%F"]),
    };
    codec::measure(&mut book);
    schedules::measure(&mut book)?;
    rounds::measure(&mut book)?;
    learning::measure(&mut book, full)?;
    step::measure(&mut book, full)?;
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

/// The median of some measurements.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
