//! `claims --check`: holds the published figures against their bars and against what was measured before.

use crate::book::{Claim, Line};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

const EXPLAINED: &str = "claims/explained.json";

/// Figures that noise does not move: counts, bytes, equality, simulation. One that falls short, or got worse, is an error;
/// of all others it is only said, for machines are busy at times.
const EXACT: [&str; 26] = [
    "swarm.codec.bits_density_64_signs",
    "swarm.codec.bits_density_16_signs",
    "swarm.hash.equal",
    "swarm.sim.schedules",
    "swarm.sim.nodes",
    "swarm.resync.chunks",
    "swarm.loss.gradients_8bit",
    "swarm.loss.local_2bit",
    "swarm.loss.local_0.42bit",
    "swarm.loss.density_64",
    "swarm.alone.gradients_8bit",
    "swarm.alone.local_2bit",
    "swarm.alone.local_0.42bit",
    "ledger.bytes.member_round",
    "ledger.crashes.survived",
    "serve.cancel.billed",
    "serve.canaries",
    "serve.sybil.attempts",
    "serve.sybil.answered",
    "serve.failover.identical",
    "serve.failover.across",
    "serve.audit.caught",
    "serve.audit.accused",
    "owner.binary",
    "owner.forecast.error",
    "owner.page.bytes",
];

/// What is wrong with a figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Finding {
    /// It misses its bar.
    Short,
    /// It was better before, by more than measurements differ.
    Worse { before: f64, commit: String },
    /// Code that it exercises changed since.
    Stale,
}

/// Why a figure falls short or got worse, by its name: who changes the code writes it down, and who reads the change
/// decides whether that is a reason. Such a finding is said like the others and is no error.
pub(crate) type Explained = BTreeMap<String, Explanation>;

/// What is explained: this value, and no worse one.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Explanation {
    why: String,
    /// `null`: that it was not measured.
    value: Option<f64>,
}

impl Explanation {
    /// Whether it is a reason for what was measured now.
    fn covers(&self, claim: &Claim) -> bool {
        let Some(now) = claim.value else { return self.value.is_none() };
        // Where nothing was measured any measurement is news, and for it nothing is said.
        let Some(then) = self.value else { return false };
        let slack = claim.repeats.spread().max(then.abs() * SLACK);
        loss(&claim.bar, then, now).is_some_and(|loss| loss <= slack)
    }
}

/// By so much of what is explained a figure may be worse, or by its own spread.
const SLACK: f64 = 0.05;

/// By how much `now` is worse than `then`, as its bar sees it.
fn loss(bar: &str, then: f64, now: f64) -> Option<f64> {
    match bar.get(..2) {
        Some("<=") => Some(now - then),
        Some(">=") => Some(then - now),
        _ => None,
    }
}

/// The reasons that are written down.
pub(crate) fn explained() -> Result<Explained> {
    match std::fs::read(EXPLAINED) {
        Ok(bytes) => serde_json::from_slice(&bytes).context(EXPLAINED),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Explained::new()),
        Err(error) => Err(error).context(EXPLAINED),
    }
}

/// All that is to be said of the published figures: the figure, what it is, and whether it is an error.
pub(crate) fn findings(claims: &[Claim], history: &[Line], explained: &Explained) -> Vec<(String, Finding, bool)> {
    let mut out = Vec::new();
    for claim in claims {
        let covered = explained.get(&claim.name).is_some_and(|reason| reason.covers(claim));
        let exact = EXACT.contains(&claim.name.as_str()) && !covered;
        // What is stale says nothing of this code: neither good nor bad.
        if claim.stale {
            out.push((claim.name.clone(), Finding::Stale, false));
            continue;
        }
        if !claim.holds {
            out.push((claim.name.clone(), Finding::Short, exact));
        }
        if let Some(worse) = worse(claim, history) {
            let exact = exact && !SIZES.contains(&claim.name.as_str());
            out.push((claim.name.clone(), worse, exact));
        }
    }
    out
}

/// Lengths of what is built. They grow with what the program can do, and differ with how the compiler cut it up: that one grew
/// is said, and only one that misses its bar is an error.
const SIZES: [&str; 2] = ["owner.binary", "owner.page.bytes"];

/// Whether a figure is worse than the one before, which is the last line of the history but one.
fn worse(claim: &Claim, history: &[Line]) -> Option<Finding> {
    let mut lines = history.iter().rev().filter(|line| line.name == claim.name);
    let (now, before) = (lines.next()?, lines.next()?);
    let (value, last) = (now.value?, before.value?);
    let loss = loss(&claim.bar, last, value)?;
    // A sum in another order is no other figure.
    let spread = now.repeats.spread().max(before.repeats.spread()).max(last.abs() * 1e-9);
    (loss > spread).then(|| Finding::Worse { before: last, commit: before.commit.clone() })
}

/// Says what is wrong; whether the figures may be published.
pub(crate) fn report(claims: &[Claim], history: &[Line], explained: &Explained) -> bool {
    let findings = findings(claims, history, explained);
    // What decides comes last.
    let (errors, others): (Vec<_>, Vec<_>) = findings.iter().partition(|(_, _, error)| *error);
    for (name, finding, error) in others.into_iter().chain(errors) {
        let level = if *error { "error" } else { "warning" };
        let value = claims.iter().find(|claim| claim.name == *name).and_then(|claim| claim.value);
        let value = value.map_or("not measured".to_owned(), |value| format!("{value:.4}"));
        match finding {
            Finding::Short => {
                let bar = claims.iter().find(|claim| claim.name == *name).map_or("", |claim| &claim.bar);
                println!("{level} {name}: {value} misses its bar {bar}");
            }
            Finding::Worse { before, commit } => println!("{level} {name}: {value}, at {commit} it was {before:.4}"),
            Finding::Stale => println!("stale {name}: what it exercises changed since; measure it again"),
        }
        if let Some(Explanation { why, value }) = explained.get(name).filter(|_| *finding != Finding::Stale) {
            let at = value.map_or("not measured".to_owned(), |value| format!("at {value:.4}"));
            println!("  explained, {at}: {why}");
        }
    }
    for name in explained.keys().filter(|name| findings.iter().all(|(found, _, _)| found != *name)) {
        println!("warning {name}: nothing is to be explained any more; take it out of {EXPLAINED}");
    }
    let errors = findings.iter().filter(|(_, _, error)| *error).count();
    let stale = findings.iter().filter(|(_, finding, _)| *finding == Finding::Stale).count();
    println!("{} figures, {} findings: {errors} errors, {stale} stale", claims.len(), findings.len());
    errors == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Repeats;

    fn claim(name: &str, value: Option<f64>, holds: bool, stale: bool) -> Claim {
        let json = serde_json::json!({
            "name": name, "value": value, "unit": "", "bar": "<= 10", "goal": "", "holds": holds, "tier": "quick", "how": "",
            "commit": "b", "date": "", "stale": stale,
        });
        serde_json::from_value(json).expect("a claim")
    }

    fn line(name: &str, value: f64, (min, max): (f64, f64), commit: &str) -> Line {
        Line {
            name: name.into(),
            value: Some(value),
            repeats: Repeats { n: 3, min, median: value, max },
            commit: commit.into(),
            clean: true,
            date: String::new(),
            machine: crate::book::Machine::default(),
        }
    }

    #[test]
    fn a_count_that_misses_its_bar_is_an_error_and_a_time_is_a_warning() {
        let claims = [claim("serve.canaries", Some(11.0), false, false), claim("serve.first.p99", None, false, false)];
        let found = findings(&claims, &[], &Explained::new());
        let expect = [("serve.canaries", true), ("serve.first.p99", false)];
        assert_eq!(found, expect.map(|(name, error)| (name.to_owned(), Finding::Short, error)));
        assert!(!report(&claims, &[], &Explained::new()) && report(&claims[1..], &[], &Explained::new()));
    }

    #[test]
    fn what_got_worse_by_more_than_its_spread_is_said() {
        let name = "serve.canaries";
        let check = |before: (f64, (f64, f64)), now: (f64, (f64, f64)), expect: bool| {
            let history = [line(name, before.0, before.1, "a"), line(name, now.0, now.1, "b")];
            let found = findings(&[claim(name, Some(now.0), true, false)], &history, &Explained::new());
            assert_eq!(!found.is_empty(), expect, "{before:?} {now:?}");
        };
        check((5.0, (4.0, 6.0)), (6.5, (6.0, 7.0)), false);
        check((5.0, (4.0, 6.0)), (7.5, (7.0, 8.0)), true);
        check((5.0, (4.0, 6.0)), (1.0, (1.0, 1.0)), false);
        check((5.0, (5.0, 5.0)), (5.1, (5.1, 5.1)), true);
        // With one measurement there is nothing to compare it with.
        let history = [line(name, 5.0, (5.0, 5.0), "b")];
        assert_eq!(findings(&[claim(name, Some(5.0), true, false)], &history, &Explained::new()), []);
    }

    #[test]
    fn what_grew_is_said_and_is_an_error_above_its_bar() {
        let history = [line("owner.binary", 5.0, (5.0, 5.0), "a"), line("owner.binary", 8.0, (8.0, 8.0), "b")];
        let check = |holds: bool, expect: &[bool]| {
            let found = findings(&[claim("owner.binary", Some(8.0), holds, false)], &history, &Explained::new());
            assert_eq!(found.iter().map(|(_, _, error)| *error).collect::<Vec<_>>(), expect);
        };
        check(true, &[false]);
        check(false, &[true, false]);
    }

    #[test]
    fn what_is_explained_is_said_and_is_no_error() {
        let claims = [claim("serve.canaries", Some(11.0), false, false)];
        let explained = |value| -> Explained {
            [("serve.canaries".to_owned(), Explanation { why: "memory is not wiped".into(), value })].into()
        };
        let short = |error| [("serve.canaries".to_owned(), Finding::Short, error)];
        assert_eq!(findings(&claims, &[], &explained(Some(11.0))), short(false));
        assert_eq!(findings(&claims, &[], &explained(Some(10.8))), short(false));
        assert_eq!(findings(&claims, &[], &explained(Some(5.0))), short(true), "it got worse since");
        assert_eq!(findings(&claims, &[], &explained(None)), short(true), "that it was not measured explains no value");
        assert!(report(&claims, &[], &explained(Some(11.0))));
    }

    #[test]
    fn a_stale_figure_is_listed_and_judged_no_further() {
        let found = findings(&[claim("serve.canaries", Some(11.0), false, true)], &[], &Explained::new());
        assert_eq!(found, [("serve.canaries".to_owned(), Finding::Stale, false)]);
    }
}
