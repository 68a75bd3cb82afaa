//! What the simulation shows.

use crate::{Bar, Book};
use anyhow::Result;
use sim::{Figure, Scenario, run, utilisation};
use std::time::Instant;

/// Random schedules of the quick tier.
const SCHEDULES: u64 = 1000;
/// Nodes of the large one.
const NODES: usize = 1000;

pub(crate) fn measure(book: &mut Book) -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let schedules = number("CLAIM_SCHEDULES").unwrap_or(SCHEDULES);
    let begun = Instant::now();
    let failed = std::sync::atomic::AtomicU64::new(0);
    let next = std::sync::atomic::AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= schedules {
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
    let held = schedules - failed.into_inner();
    let how = "random schedules with faults and liars in which every invariant held, all cores";
    book.add("quick", "swarm.sim.schedules", (held as f64, "schedules"), Bar::Least(1000.0), "10000 nightly", how);
    let seconds = begun.elapsed().as_secs_f64();
    book.add("quick", "swarm.sim.schedules_time", (seconds, "s"), Bar::Most(120.0), "", "wall time of the above");
    let begun = Instant::now();
    let nodes = number("CLAIM_NODES").map_or(NODES, |n| n as usize);
    let large = Scenario { slots: 32, micro_batches: 64, rounds: 2, shared_state: true, ..Scenario::calm(1, nodes) };
    let held = run(&large).map_err(|violation| println!("{violation}")).is_ok();
    let how = format!(
        "one simulated run of {nodes} nodes, 32 slots, two rounds, no faults; all share one copy of the log's state (shared_state), so \
         that what each applies by itself is not in it; took {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    let nodes = if held { nodes as f64 } else { 0.0 };
    book.add("quick", "swarm.sim.nodes", (nodes, "nodes"), Bar::Least(1000.0), ">= 10000", &how);
    trainers(book)
}

/// How busy trainers are, with the codec and hash rates that were measured last.
fn trainers(book: &mut Book) -> Result<()> {
    let figure = Figure::default();
    let measured = |name: &str, or: f64| book.value(name).unwrap_or(or);
    let figure = Figure {
        encode_decode_rate: 1e6 * measured("swarm.codec.rate_density_64_bits_1", figure.encode_decode_rate / 1e6),
        apply_rate: 1e6 * measured("swarm.apply.rate", figure.apply_rate / 1e6),
        root_rate: 1e9 * measured("swarm.root.rate", figure.root_rate / 1e9),
        bits_per_parameter: measured("swarm.codec.bits_density_64_signs", figure.bits_per_parameter),
        ..figure
    };
    let report = utilisation(&figure)?;
    let how = format!(
        "simulated: 32 peers of speeds 1:4:16, 50 Mbit/s, 50 ms, no churn, no loss, 1 B parameters at density 1/64 in {:.3} bits, \
         10-minute rounds of {} micro-batches × {} steps, delay 1; codec {:.0} M parameters/s, apply {:.0} M/s and root {:.1} GB/s as \
         measured with 13.9 M, checking and applying taken from the trainer; weights come over the links",
        figure.bits_per_parameter,
        figure.micro_batches,
        figure.inner_steps,
        figure.encode_decode_rate / 1e6,
        figure.apply_rate / 1e6,
        figure.root_rate / 1e9,
    );
    let percent = 100.0 * report.utilisation;
    book.add("quick", "swarm.sim.utilisation", (percent, "%"), Bar::Least(94.0), ">= 98", &how);
    Ok(())
}
