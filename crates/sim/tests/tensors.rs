//! Members that really train, and what liars among them do to what the others learn.
//!
//! In each run honest members agree on every root, their weights stay finite and rounds go on: the simulator fails
//! otherwise. Held-out loss must fall by at least half of what it falls by without the liar. More is not promised:
//! nobody checks that an update was learned, so a lie of ordinary length counts like an honest update.

mod common;

use common::{all, shares, watched};
use sim::{Learning, Liar, Report, Scenario, Work};
use swarm::Mode;

/// Members of a run.
const MEMBERS: usize = 7;
/// Which of them lies.
const LIAR: usize = 3;
/// Random schedules of members that really train.
const SCHEDULES: u64 = 16;
/// Who is not put aside lies in most of forty rounds.
const LIES_MIN: u64 = 20;
/// Those who lie about what they learned, or did not learn it, and take part in each round.
const STEADY: [Liar; 6] = [Liar::Empty, Liar::Noise, Liar::Huge, Liar::Opposite, Liar::Stale, Liar::Instant];
/// Those who soon sit out: one who copies to the byte, whose commits the log refuses, and one who stalls.
const PUT_ASIDE: [Liar; 2] = [Liar::Copier, Liar::Stalling];

fn learned(report: &Report) -> Learning {
    report.learning.expect("members train")
}

/// A run of seven of which one may lie.
fn run_with(liar: Option<Liar>, mode: Mode) -> Scenario {
    let mut scenario = Scenario::learning(11, MEMBERS, mode);
    scenario.members[LIAR].liar = liar;
    if liar == Some(Liar::Copier) {
        // Slower than the others: there is something to copy when it commits.
        scenario.members[LIAR].speed_milli = scenario.members[LIAR].speed_milli * 4 / 5;
    }
    scenario
}

/// Checks what holds whatever a liar does: for each one that it lies at least so often, and costs at most half.
fn check_bounded(mode: Mode, liars: impl Iterator<Item = (Liar, u64)>) {
    let honest = learned(&all(&[run_with(None, mode)]).remove(0)).fall();
    println!("{mode:?}, nobody lies: the loss falls by {honest:.3}");
    assert!(honest > 1.0, "hardly anything is learned: {honest}");
    for (liar, lies_min) in liars {
        let scenario = run_with(Some(liar), mode);
        let (report, shares) = shares(LIAR, &scenario);
        let fall = learned(&report).fall();
        println!("{mode:?}, {liar:?}: the loss falls by {fall:.3}, {} lies", report.lies);
        assert!(report.lies >= lies_min, "{liar:?} hardly lied: {report:?}");
        assert!(2.0 * fall > honest, "{liar:?} costs more than half: {fall} of {honest}");
        let bounded = |share: &common::Share| 3 * share.own <= share.all + 2 && share.all <= scenario.micro_batches;
        assert!(shares.iter().filter(|share| share.contributors >= 4).all(bounded), "{liar:?} has more than a third");
    }
}

#[test]
fn a_liar_does_bounded_harm_to_gradients() {
    let steady = STEADY.map(|liar| (liar, LIES_MIN)).into_iter();
    check_bounded(Mode::Gradients, steady.chain(PUT_ASIDE.map(|liar| (liar, 1))));
}

#[test]
fn a_liar_does_bounded_harm_to_weight_differences() {
    let steady = STEADY.map(|liar| (liar, LIES_MIN)).into_iter().chain([(Liar::BadDonor, LIES_MIN)]);
    check_bounded(Mode::Local, steady.chain(PUT_ASIDE.map(|liar| (liar, 1))));
}

/// Two of seven pull the other way together, each one and a half times as long as the others: the sum of the five
/// still goes the right way, slower.
#[test]
fn two_liars_of_seven_who_pull_together_do_not_stop_learning() {
    for mode in [Mode::Gradients, Mode::Local] {
        let mut scenario = run_with(Some(Liar::Opposite), mode);
        scenario.members[LIAR + 1].liar = Some(Liar::Opposite);
        let [honest, lied] = [run_with(None, mode), scenario].map(|scenario| all(&[scenario]).remove(0));
        let (honest, fall) = (learned(&honest).fall(), learned(&lied).fall());
        println!("{mode:?}: the loss falls by {fall:.3}, by {honest:.3} where nobody lies");
        assert!(lied.lies >= 2 * LIES_MIN && 2.0 * fall > honest, "{fall} of {honest}: {lied:?}");
    }
}

#[test]
fn a_copy_to_the_byte_is_refused_and_one_with_a_changed_bit_counts() {
    let report = all(&[run_with(Some(Liar::Copier), Mode::Local)]).remove(0);
    assert!(report.copies > 0, "nothing was copied: {report:?}");
    let (_, counted, faults) = counted(Liar::Stale);
    assert!(counted >= LIES_MIN && faults == 0, "{counted} counted, {faults} faults");
}

#[test]
fn who_sends_the_opposite_is_counted_like_any_other() {
    let (report, counted, faults) = counted(Liar::Opposite);
    assert!(report.lies >= LIES_MIN && counted >= LIES_MIN, "{counted} of {} lies counted", report.lies);
    assert_eq!(faults, 0, "nothing is held against it");
}

/// In how many sets this liar was, and the faults that the log holds against it in the end.
fn counted(liar: Liar) -> (Report, u64, u32) {
    let (mut last, mut counted, mut faults) = (None, 0, 0);
    let report = watched(&run_with(Some(liar), Mode::Local), |run| {
        let Some((id, member)) = run.members.iter().nth(LIAR).filter(|_| run.members.len() == MEMBERS) else { return };
        faults = member.faults;
        for closed in run.closed.iter().filter(|closed| Some(closed.round) > last) {
            counted += u64::from(closed.set.iter().any(|candidate| candidate.member == *id));
        }
        last = run.closed.back().map(|closed| closed.round).max(last);
    });
    (report, counted, faults)
}

/// Five members, and two that come later.
fn with_newcomers(donor: Option<usize>) -> Scenario {
    let mut scenario = Scenario { rounds: 16, calm_ms: 30_000, ..Scenario::learning(5, MEMBERS, Mode::Local) };
    scenario.members[5].start_ms = 10_000;
    scenario.members[6].start_ms = 18_000;
    if let Some(donor) = donor {
        scenario.members[donor].liar = Some(Liar::BadDonor);
    }
    scenario
}

#[test]
fn a_newcomer_refuses_moments_that_are_not_numbers_and_trains() {
    // Whoever is in the middle by units gives its moments: one of the five is that liar.
    let scenarios: Vec<Scenario> = (0..5).map(|place| with_newcomers(Some(place))).collect();
    let reports = all(&scenarios);
    let refused: u64 = reports.iter().map(|report| learned(report).refused).sum();
    assert!(refused > 0, "no newcomer met such a donor");
    for (report, scenario) in reports.iter().zip(&scenarios) {
        let fall = learned(report).fall();
        assert!(report.lies > 0 && fall > 0.5, "the loss falls by {fall}: {report:?}");
        let mut units = Vec::new();
        watched(scenario, |run| units = run.members.values().map(|member| member.units).collect());
        assert!(units.len() == MEMBERS && units.iter().all(|units| *units > 0), "{units:?}");
    }
    let honest = learned(&all(&[with_newcomers(None)]).remove(0));
    assert!(honest.inherited > 0 && honest.refused == 0, "{honest:?}");
}

#[test]
fn machines_that_compute_wrongly_are_told_so_by_real_weights() {
    for (liar, n, disputes) in [(Liar::Broken, 5, (0, 1)), (Liar::Flipped, 4, (0, 0))] {
        let mut scenario = Scenario { rounds: 16, ..Scenario::learning(n as u64, n, Mode::Local) };
        scenario.members[2].liar = Some(liar);
        let report = all(&[scenario]).remove(0);
        assert!(report.lies > 0 && report.disputes == disputes, "{liar:?}: {report:?}");
    }
}

#[test]
fn liars_crashes_and_losses_together_do_not_stop_learning() {
    let scenarios: Vec<Scenario> = (0..SCHEDULES).map(Scenario::random_learning).collect();
    let reports = all(&scenarios);
    for (report, scenario) in reports.iter().zip(&scenarios) {
        let fall = learned(report).fall();
        println!("seed {}: {} rounds, the loss falls by {fall:.3}", scenario.seed, report.rounds);
        assert!(fall > 0.2, "seed {}: the loss falls by {fall}: {report:?}", scenario.seed);
    }
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    let (lies, crashes) = (sum(|report| report.lies), sum(|report| report.crashes));
    assert!(lies > 5 * SCHEDULES && crashes >= SCHEDULES, "{lies} lies, {crashes} crashes");
    let thin = |scenario: &&Scenario| matches!(scenario.work, Work::Tensors { sparsity: 2, .. });
    let delayed = scenarios.iter().filter(|scenario| scenario.delay == 1).count();
    assert!(scenarios.iter().filter(thin).count() > 0 && delayed > 0, "what is drawn happens");
}

#[test]
fn the_same_seed_learns_the_same() {
    let scenario = Scenario { rounds: 8, ..Scenario::random_learning(3) };
    let reports = all(&[scenario.clone(), scenario]);
    assert_eq!(reports[0], reports[1]);
}
