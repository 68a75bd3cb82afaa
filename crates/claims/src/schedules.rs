//! What the simulation shows.

use crate::{Bar, Book};
use anyhow::Result;
use sim::{Figure, Scenario, run, utilisation};
use std::time::Instant;

/// Random schedules of the quick tier.
const SCHEDULES: u64 = 1000;
/// Nodes of the large one. Every node verifies every signature here: a thousand take too long so far.
const NODES: usize = 200;

pub(crate) fn measure(book: &mut Book) -> Result<()> {
    let begun = Instant::now();
    let failed = std::sync::atomic::AtomicU64::new(0);
    let next = std::sync::atomic::AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= SCHEDULES {
                        return;
                    }
                    if let Err(violation) = run(&Scenario::random(seed)) {
                        println!("{violation}");
                        failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let held = SCHEDULES - failed.into_inner();
    let how = "random schedules with faults and liars in which every invariant held, all cores";
    book.add("quick", "swarm.sim.schedules", (held as f64, "schedules"), Bar::Least(1000.0), "10000 nightly", how);
    let seconds = begun.elapsed().as_secs_f64();
    book.add("quick", "swarm.sim.schedules_time", (seconds, "s"), Bar::Most(120.0), "", "wall time of the above");
    let begun = Instant::now();
    let large = Scenario { slots: 32, micro_batches: 64, rounds: 2, ..Scenario::calm(1, NODES) };
    let held = run(&large).map_err(|violation| println!("{violation}")).is_ok();
    let how = format!(
        "one simulated run of {NODES} nodes, 32 slots, two rounds; took {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    let nodes = if held { NODES as f64 } else { 0.0 };
    book.add("quick", "swarm.sim.nodes", (nodes, "nodes"), Bar::Least(1000.0), ">= 10000", &how);
    match utilisation(&Figure::default()) {
        Ok(report) => {
            let how =
                "simulated: 32 peers of speeds 1:4:16, 50 Mbit/s, 50 ms, 1 B parameters, 10-minute rounds, delay 1";
            let percent = 100.0 * report.utilisation;
            book.add("quick", "swarm.sim.utilisation", (percent, "%"), Bar::Least(94.0), ">= 98", how);
        }
        Err(violation) => {
            println!("{violation}");
            book.add(
                "quick",
                "swarm.sim.utilisation",
                (0.0, "%"),
                Bar::Least(94.0),
                ">= 98",
                "an invariant was violated",
            );
        }
    }
    Ok(())
}
