//! What tests of schedules have in common.

use sim::{Report, Scenario, Violation, logged, run};
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use swarm::{Run, RunsState};

/// Runs all of them on all cores; fails with the first few violations, in order.
pub fn all(scenarios: &[Scenario]) -> Vec<Report> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(scenarios.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(i) else { break };
                    let result = caught(scenario);
                    results.lock().expect("no holder of it panics").push((i, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no holder of it panicked");
    results.sort_by_key(|(i, _)| *i);
    let bad = |(i, result): &(usize, Result<Report, String>)| result.as_ref().err().map(|e| format!("#{i}: {e}"));
    let failures: Vec<String> = results.iter().filter_map(bad).collect();
    let shown = failures.iter().take(3).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {} fail:\n{shown}", failures.len(), scenarios.len());
    results.into_iter().filter_map(|(_, result)| result.ok()).collect()
}

/// A panic of a machine is a failure of its seed.
fn caught(scenario: &Scenario) -> Result<Report, String> {
    let owned = scenario.clone();
    match catch_unwind(move || run(&owned)) {
        Ok(result) => result.map_err(|violation: Violation| violation.to_string()),
        Err(_) => Err(format!("seed {}: a panic", scenario.seed)),
    }
}

/// Runs a scenario and shows the run as it was after each block of the log.
pub fn watched(scenario: &Scenario, mut look: impl FnMut(&Run)) -> Report {
    let (report, blocks) = logged(scenario).unwrap_or_else(|violation| panic!("{violation}"));
    let mut state = RunsState::new(scenario.chain, 0);
    for block in &blocks {
        state.apply_checked(block).expect("the log made it so");
        state.runs.values().for_each(&mut look);
    }
    report
}

/// A round as one member sees it.
pub struct Share {
    pub contributors: usize,
    pub own: u32,
    pub all: u32,
}

/// What member `who` got of each round since all had joined.
pub fn shares(who: usize, scenario: &Scenario) -> (Report, Vec<Share>) {
    let mut shares = BTreeMap::new();
    let report = watched(scenario, |run| {
        let id = run.members.keys().nth(who).filter(|_| run.members.len() == scenario.members.len());
        for open in run.open.iter().filter(|_| id.is_some()) {
            let own = id.and_then(|id| open.slot(id)).map_or(0, |slot| slot.micro_batches);
            let all = open.plan.iter().map(|slot| slot.micro_batches).sum::<u32>();
            shares.insert(open.round, Share { contributors: open.plan.len(), own, all });
        }
    });
    (report, shares.into_values().collect())
}
