//! Schedules: many at random, and one kind of fault at a time.

mod common;

use common::{all, shares, watched};
use sim::{Crash, CrashAfter, Figure, Lag, Liar, Partition, Report, Scenario, Stall, run, utilisation};
use std::collections::BTreeSet;
use swarm::Mode;

/// Random schedules in one test.
const SCHEDULES: u64 = 1_000;
/// Nodes in the large network. Every replica checks every signature, 50 µs each: a thousand nodes take
/// minutes until a peer can be given blocks that were verified once.
const NODES: usize = 200;
/// Outputs of a peer after each of which it crashes: more than eight rounds of three members have.
const CRASH_POINTS: u64 = 60;

/// Four members that have faults until 25 s.
fn stormy(seed: u64) -> Scenario {
    Scenario { calm_ms: 25_000, ..Scenario::calm(seed, 4) }
}

#[test]
fn thousand_schedules() {
    let scenarios: Vec<Scenario> = (0..SCHEDULES).map(Scenario::random).collect();
    let reports = all(&scenarios);
    let rounds: u64 = reports.iter().map(|report| report.rounds).sum();
    let voids: u64 = reports.iter().map(|report| report.voids).sum();
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    let (crashes, lies, copies) = (sum(|r| r.crashes), sum(|r| r.lies), sum(|r| r.copies));
    println!("{SCHEDULES} schedules, {rounds} rounds, {voids} void, {crashes} crashes, {lies} lies, {copies} copies");
    assert!(rounds > 6 * SCHEDULES && 2 * voids < rounds);
    let drawn: [u64; 6] = [
        sum(|r| r.struck.lost),
        sum(|r| r.struck.doubled),
        sum(|r| r.struck.slow),
        sum(|r| r.struck.late),
        sum(|r| r.struck.cut),
        sum(|r| r.struck.absent),
    ];
    println!("lost, doubled, slow, late, cut, absent: {drawn:?}");
    assert!(crashes > SCHEDULES / 2 && lies > SCHEDULES / 2 && copies > 0, "what is drawn happens");
    assert!(drawn.iter().all(|count| *count > SCHEDULES), "what is drawn happens: {drawn:?}");
}

#[test]
fn same_seed_same_trace() {
    for seed in 0..8 {
        let scenario = Scenario::random(seed);
        assert_eq!(run(&scenario), run(&scenario));
        assert_ne!(run(&scenario).map(|r| r.trace), run(&Scenario::random(seed + 100)).map(|r| r.trace));
    }
}

#[test]
fn nothing_is_void_or_lost_in_a_calm_network() {
    let mut scenarios = Vec::new();
    for n in 1..=8 {
        for (mode, inner_steps, delay) in [(Mode::Gradients, 1, 0), (Mode::Local, 3, 0), (Mode::Local, 3, 1)] {
            for slots in [32, 2, 1] {
                let base = Scenario::calm(n as u64, n);
                scenarios.push(Scenario { mode, inner_steps, delay, slots, rounds: 10, ..base });
            }
        }
    }
    for report in all(&scenarios) {
        assert!(report.rounds >= 10 && report.voids == 0, "{report:?}");
    }
}

#[test]
fn a_run_comes_to_its_end_on_every_node() {
    let scenarios: Vec<Scenario> =
        (1..=6).map(|n| Scenario { tokens_rounds: 4, rounds: 99, ..Scenario::calm(n as u64, n) }).collect();
    all(&scenarios);
}

#[test]
fn newcomers_are_in_within_two_rounds() {
    let mut scenario = Scenario::calm(7, 5);
    for (i, part) in scenario.members.iter_mut().enumerate() {
        part.start_ms = 7_000 * i as u64;
    }
    scenario.calm_ms = 40_000;
    scenario.rounds = 14;
    all(&[Scenario { delay: 1, ..scenario.clone() }, scenario]);
}

/// One inner step of everybody's work does not fit into the window of a slow member.
fn slow(n: usize, slots: u16, first: u64, others: u64) -> Scenario {
    let calm = Scenario::calm(1, n);
    let mut scenario = Scenario { mode: Mode::Gradients, inner_steps: 1, micro_batches: 3 * n as u32, slots, ..calm };
    for (i, part) in scenario.members.iter_mut().enumerate() {
        part.speed_milli = if i == 0 { first } else { others };
    }
    scenario
}

#[test]
fn two_that_can_do_the_work_only_together_find_each_other() {
    for start_ms in [0, 3_000, 12_000, 20_000] {
        let mut scenario = slow(2, 32, 438, 438);
        scenario.members[1].start_ms = start_ms;
        scenario.calm_ms = start_ms;
        all(&[scenario]);
    }
}

#[test]
fn a_slow_member_has_its_turn_with_a_part_that_it_can_do() {
    all(&[slow(3, 1, 498, 8_000), slow(6, 1, 667, 3_000), slow(5, 2, 300, 600)]);
}

#[test]
fn short_rounds_are_not_slowed_by_retries() {
    let mut scenario = Scenario { rounds: 20, ..Scenario::calm(3, 4) };
    for part in &mut scenario.members {
        part.speed_milli *= 10;
    }
    for report in all(&[scenario]) {
        assert!(report.voids == 0, "{report:?}");
        assert!(report.virtual_ms < 25_000, "20 rounds of 0.3 s of work took {} ms", report.virtual_ms);
    }
}

#[test]
fn a_crash_at_any_point_loses_nothing() {
    let mut scenarios = Vec::new();
    for output in 1..=CRASH_POINTS {
        for (whole_log, delay) in [(true, 0), (false, 0), (true, 1), (false, 1)] {
            let mut scenario = Scenario { delay, calm_ms: 45_000, ..Scenario::calm(output, 3) };
            let node = (output % 3) as usize;
            scenario.faults.crash_after = Some(CrashAfter { node, output, down_ms: 1_500, whole_log });
            scenarios.push(scenario);
        }
    }
    for report in all(&scenarios) {
        assert_eq!(report.crashes, 1, "{report:?}");
    }
}

#[test]
fn a_lost_disk_is_declared_and_replaced() {
    let scenarios = (0..20).map(|seed| {
        let mut scenario = stormy(seed);
        let at_ms = 8_000 + 400 * seed;
        scenario.faults.crashes =
            vec![Crash { node: seed as usize % 4, at_ms, down_ms: 3_000, wipe: true, whole_log: true }];
        scenario
    });
    for report in all(&scenarios.collect::<Vec<_>>()) {
        assert_eq!(report.crashes, 1, "{report:?}");
    }
}

#[test]
fn all_crash_at_once_and_go_on() {
    let scenarios = (0..10).map(|seed| {
        let mut scenario = stormy(seed);
        for node in 0..4 {
            let (at_ms, down_ms) = (9_000 + 700 * seed, 2_000 + 500 * node as u64);
            let whole_log = node % 2 == 0;
            scenario.faults.crashes.push(Crash { node, at_ms, down_ms, wipe: false, whole_log });
        }
        scenario
    });
    for report in all(&scenarios.collect::<Vec<_>>()) {
        assert_eq!(report.crashes, 4, "{report:?}");
    }
}

#[test]
fn a_partition_heals() {
    let mut scenarios = Vec::new();
    for side in [vec![0], vec![0, 1], vec![1, 2, 3], vec![0, 1, 2, 3]] {
        for delay in [0, 1] {
            for from_ms in [0, 6_000, 9_500] {
                let mut scenario = Scenario { delay, ..stormy(from_ms) };
                scenario.faults.partitions = vec![Partition { from_ms, to_ms: from_ms + 13_000, side: side.clone() }];
                scenarios.push(scenario);
            }
        }
    }
    assert!(all(&scenarios).iter().all(|report| report.struck.cut > 0), "messages were cut off");
}

#[test]
fn a_stalled_log_goes_on() {
    let times = [500, 5_000, 22_000].into_iter().flat_map(|ms| [9_000, 9_400, 9_800].map(|from_ms| (from_ms, ms)));
    let scenarios = times.map(|(from_ms, ms)| {
        let mut scenario = Scenario { calm_ms: 32_000, ..Scenario::calm(ms, 4) };
        scenario.faults.stalls = vec![Stall { from_ms, to_ms: from_ms + ms }];
        scenario
    });
    let absent: Vec<u64> = all(&scenarios.collect::<Vec<_>>()).iter().map(|report| report.struck.absent).collect();
    // Nothing may be due in half a second.
    assert!(absent[3..].iter().all(|n| *n > 0) && absent[..3].iter().any(|n| *n > 0), "{absent:?}");
}

#[test]
fn late_bytes_are_waited_for_or_left_out() {
    let scenarios = (0..20).map(|seed| {
        let mut scenario = stormy(seed);
        scenario.delay = (seed % 2) as u8;
        scenario.faults.slow_permille = 300;
        scenario.faults.slow_ms = 500 * (seed % 10);
        scenario
    });
    assert!(all(&scenarios.collect::<Vec<_>>()).iter().all(|report| report.struck.slow > 0), "bytes were late");
}

#[test]
fn a_network_that_becomes_slow_for_good_is_waited_for() {
    let scenarios = [200, 400, 800].map(|extra_ms| {
        let mut scenario = stormy(extra_ms);
        scenario.faults.lags = vec![Lag { from_ms: 15_000, to_ms: u64::MAX, extra_ms }];
        scenario
    });
    assert!(all(&scenarios).iter().all(|report| report.struck.late > 0), "it became slow");
}

#[test]
fn lost_and_doubled_messages_do_no_harm() {
    let scenarios = (0..20).map(|seed| {
        let mut scenario = stormy(seed);
        (scenario.faults.loss_permille, scenario.faults.duplicate_permille) = (200, 200);
        scenario
    });
    for report in all(&scenarios.collect::<Vec<_>>()) {
        assert!(report.struck.lost > 0 && report.struck.doubled > 0, "{report:?}");
    }
}

#[test]
fn liars_harm_only_themselves() {
    let mut scenarios = Vec::new();
    for liar in [
        Liar::Silent,
        Liar::WrongBytes,
        Liar::WrongRoot,
        Liar::FalseRoot,
        Liar::Stingy,
        Liar::BlindAttest,
        Liar::Forger,
        Liar::Instant,
        Liar::Stalling,
        Liar::Mute,
    ] {
        for (seed, place) in (0..4).enumerate() {
            for delay in [0, 1] {
                let mut scenario = Scenario { delay, rounds: 8, ..Scenario::calm(seed as u64, 4) };
                scenario.members[place].liar = Some(liar);
                scenarios.push(scenario);
            }
        }
    }
    for (report, scenario) in all(&scenarios).iter().zip(&scenarios) {
        assert!(report.lies > 0, "nobody lied: {scenario:?}");
    }
}

#[test]
fn who_commits_at_once_does_not_take_over_the_plan() {
    let mut scenario = Scenario { rounds: 20, micro_batches: 30, ..Scenario::calm(3, 5) };
    scenario.members[2].liar = Some(Liar::Instant);
    let (report, shares) = shares(2, &scenario);
    let owns: Vec<u32> = shares.iter().filter(|share| share.contributors == 5).map(|share| share.own).collect();
    assert!(report.lies >= 15 && owns.len() >= 15, "{report:?}");
    assert!(owns.iter().all(|own| *own <= 10), "more than a third of a round: {owns:?}");
    assert_eq!(shares.last().map(|share| share.all), Some(30), "the others do the rest");
}

#[test]
fn who_stalls_sits_out_longer_and_longer() {
    let mut scenario = Scenario { rounds: 60, ..Scenario::calm(4, 4) };
    scenario.members[1].liar = Some(Liar::Stalling);
    let (mut missed, mut faults) = (0, BTreeSet::new());
    let report = watched(&scenario, |run| {
        missed = run.members.values().map(|member| member.missed).sum::<u64>();
        faults.extend(run.members.values().map(|member| member.faults));
    });
    assert!(report.lies > 0 && (4..=8).contains(&missed), "{missed} windows were waited for in 60 rounds");
    assert!(faults.contains(&4), "its pauses grow: {faults:?}");
}

#[test]
fn who_never_attests_sits_out_longer_and_longer() {
    // Of three, one that is silent makes rounds void; of four it does not.
    let mut scenario = Scenario { rounds: 60, ..Scenario::calm(4, 3) };
    scenario.members[1].liar = Some(Liar::Mute);
    let (mut void, mut faults) = (BTreeSet::new(), BTreeSet::new());
    let report = watched(&scenario, |run| {
        void.extend(run.closed.iter().filter(|closed| closed.void).map(|closed| closed.round));
        faults.extend(run.members.values().map(|member| member.faults));
    });
    // Short windows are nobody's fault: they grow first.
    assert!(report.lies > 0 && (2..=24).contains(&void.len()), "{} of 60 rounds are void", void.len());
    assert!(faults.contains(&4), "its pauses grow: {faults:?}");
}

#[test]
fn who_serves_nothing_sits_out_longer_and_longer() {
    let mut scenario = Scenario { rounds: 60, ..Scenario::calm(4, 4) };
    scenario.members[1].liar = Some(Liar::Silent);
    let (report, shares) = shares(1, &scenario);
    let planned = shares.iter().filter(|share| share.own > 0).count();
    assert!(report.lies > 0 && (2..=12).contains(&planned), "{planned} of {} rounds waited for it", shares.len());
}

/// One of two or three keeps what the others made out of every set by its silence. They stay members all the same.
#[test]
fn who_attests_to_nothing_of_the_others_puts_none_of_them_at_fault() {
    for n in [2, 3, 4, 6] {
        let mut scenario = Scenario { rounds: 12, ..Scenario::calm(n as u64, n) };
        scenario.members[n / 2].liar = Some(Liar::Stingy);
        let mut faults = 0;
        let report = watched(&scenario, |run| {
            faults = run.members.values().map(|member| member.faults).chain([faults]).max().unwrap_or(0);
        });
        assert!(report.lies > 6, "{n} members: {report:?}");
        assert!(faults < 2, "{n} members: somebody has {faults} faults");
    }
}

/// Thirty-two liars of a hundred are, now and then, a whole committee: a root that is false is agreed on. Every
/// honest member contradicts it, and all of them together are more than two thirds.
#[test]
fn a_false_root_of_a_whole_committee_is_struck() {
    // A fifth of all committees are drawn so: of twenty-four rounds hardly any run has none.
    let mut scenario = Scenario { slots: 32, micro_batches: 64, rounds: 24, ..Scenario::calm(1, 100) };
    scenario.shared_state = true;
    for part in &mut scenario.members[28..60] {
        part.liar = Some(Liar::FalseRoot);
    }
    for report in all(&[Scenario { delay: 1, ..scenario.clone() }, scenario]) {
        println!("{report:?}");
        assert!(report.disputes.0 > 0 && report.disputes.1 == 0, "{report:?}");
    }
}

#[test]
fn a_machine_that_computes_wrongly_is_told_so_and_stays_out() {
    for report in all(&[5, 8].map(|n| member_is(Liar::Broken, n))) {
        assert!(report.disputes == (0, 1), "{report:?}");
    }
}

#[test]
fn a_fault_of_a_moment_is_repaired_without_a_dispute() {
    for report in all(&[2, 4, 8].map(|n| member_is(Liar::Flipped, n))) {
        assert!(report.disputes == (0, 0), "{report:?}");
    }
}

fn member_is(liar: Liar, n: usize) -> Scenario {
    let mut scenario = Scenario { rounds: 16, ..Scenario::calm(n as u64, n) };
    scenario.members[n / 2].liar = Some(liar);
    scenario
}

#[test]
fn a_copied_update_counts_once() {
    let mut scenario = Scenario { rounds: 8, ..Scenario::calm(5, 4) };
    // Slower than the others in the first rounds: there is something to copy when it commits.
    scenario.members[2].liar = Some(Liar::Copier);
    scenario.members[2].speed_milli = scenario.members[2].speed_milli * 4 / 5;
    for report in all(&[scenario]) {
        assert!(report.copies > 0, "nothing was copied: {report:?}");
    }
}

#[test]
fn many_nodes() {
    let mut scenario = Scenario { slots: 32, micro_batches: 64, rounds: 4, ..Scenario::calm(1, NODES) };
    for (i, part) in scenario.members.iter_mut().enumerate() {
        part.start_ms = i as u64 % 50;
    }
    let report = all(&[scenario]).remove(0);
    println!("{NODES} nodes: {report:?}");
    assert!(report.rounds >= 4);
}

#[test]
fn thirty_two_unlike_machines_are_kept_busy() {
    let report = utilisation(&Figure::default()).unwrap_or_else(|violation| panic!("{violation}"));
    println!("utilisation {:.3} over {} rounds", report.utilisation, report.rounds);
    assert!(report.utilisation > 0.7, "{report:?}");
}
