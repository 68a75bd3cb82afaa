//! Forecasts on traces of which the answer is known.

use base::Rng;
use owner::{Day, forecast};

const HOUR_MS: u64 = 3_600_000;
const FIRST: u64 = 20_000;

fn trace(days: u64, of: impl FnMut(u64) -> (u64, u64)) -> Vec<Day> {
    let day = |(i, (earned, worked_ms))| Day { day: FIRST + i as u64, earned, worked_ms };
    (0..days).map(of).enumerate().map(day).collect()
}

#[test]
fn nothing_is_said_of_two_days() {
    let history = trace(10, |_| (5_000, HOUR_MS));
    assert_eq!(forecast(&[], FIRST), None);
    assert_eq!(forecast(&history[..2], FIRST + 2), None);
    assert_eq!(forecast(&history, FIRST + 2), None, "what comes later is not known");
    let said = forecast(&history[..3], FIRST + 3).expect("three days");
    assert_eq!((said.earned, said.worked_ms, said.error_permille), (5_000, HOUR_MS, None));
    assert_eq!(forecast(&history, FIRST + 6).expect("six days").error_permille, Some(0));
}

#[test]
fn a_steady_week_is_known_exactly() {
    // 1,000 an hour; 14 hours on workdays, 20 at the end of the week.
    let hours = |i: u64| if i % 7 >= 5 { 20 } else { 14 };
    let history = trace(28, |i| (1_000 * hours(i), hours(i) * HOUR_MS));
    for i in 14..28 {
        let said = forecast(&history, FIRST + i).expect("weeks of it");
        assert_eq!((said.earned, said.worked_ms), (1_000 * hours(i), hours(i) * HOUR_MS), "day {i}");
    }
    let said = forecast(&history, FIRST + 28).expect("weeks of it");
    assert_eq!((said.earned, said.worked_ms), (14_000, 14 * HOUR_MS));
    assert!(said.error_permille.expect("weeks to compare") <= 10);
}

#[test]
fn one_odd_day_moves_nothing() {
    let mut history = trace(36, |_| (8_000, 8 * HOUR_MS));
    history[35] = Day { day: FIRST + 35, earned: 900_000, worked_ms: 24 * HOUR_MS };
    history[29] = Day { day: FIRST + 29, earned: 0, worked_ms: 0 };
    let said = forecast(&history, FIRST + 36).expect("weeks of it");
    assert_eq!((said.earned, said.error_permille), (8_000, Some(0)));
    // Neither does the order, nor a day that is said twice.
    history.reverse();
    history.push(Day { day: FIRST + 35, earned: 1, worked_ms: 1 });
    assert_eq!(forecast(&history, FIRST + 36), Some(said));
}

#[test]
fn a_machine_that_is_off_earns_nothing() {
    let history = trace(10, |_| (8_000, 8 * HOUR_MS));
    let said = forecast(&history, FIRST + 60).expect("ten days, long ago");
    assert_eq!((said.earned, said.worked_ms), (0, 0));
    let idle = trace(10, |_| (0, 0));
    assert_eq!(forecast(&idle, FIRST + 10).map(|said| (said.earned, said.error_permille)), Some((0, Some(0))));
}

/// A machine of somebody who works at it on weekdays: hours and rates vary by a quarter and more, on one day in twenty
/// it is off, the rate drifts.
fn noisy(seed: u64, days: u64) -> Vec<Day> {
    let mut rng = Rng::keyed(11, seed);
    let mut rate = 2_000 + rng.below(2_000);
    trace(days, |i| {
        let hours = if (i + seed) % 7 >= 5 { 19 } else { 12 };
        let worked_ms = hours * HOUR_MS * (85 + rng.below(31)) / 100;
        rate = rate * (985 + rng.below(31)) / 1000;
        let earned = rate * (80 + rng.below(41)) / 100 * worked_ms / HOUR_MS;
        if rng.chance(1, 20) { (0, 0) } else { (earned, worked_ms) }
    })
}

#[test]
fn a_noisy_week_is_known_to_a_quarter() {
    let (mut sum, mut worst) = (0, 0);
    for seed in 0..50 {
        let history = noisy(seed, 84);
        let said = forecast(&history, FIRST + 84).expect("twelve weeks");
        let error = said.error_permille.expect("weeks to compare");
        assert!(error <= 250, "seed {seed}: {error} permille");
        (sum, worst) = (sum + error, worst.max(error));
        let hours = said.worked_ms / HOUR_MS;
        let expect = if (84 + seed) % 7 >= 5 { 16..=22 } else { 10..=14 };
        assert!(expect.contains(&hours), "seed {seed}: {hours} hours");
    }
    println!("median error of forecasts: {} permille in the mean of 50 traces, {worst} at worst", sum / 50);
}

#[test]
fn the_measured_error_is_the_error_that_comes() {
    // What was measured over 12 weeks says how wrong the next 8 are, in the mean of many machines.
    let (mut said, mut came) = (0, 0);
    for seed in 0..50 {
        let history = noisy(seed, 140);
        said += forecast(&history[..84], FIRST + 84).and_then(|f| f.error_permille).expect("weeks to compare");
        let mut errors: Vec<u64> = (84..140)
            .map(|i| {
                let earned = forecast(&history, FIRST + i).expect("weeks of it").earned;
                let actual = history[i as usize].earned;
                (earned.abs_diff(actual) * 1000).checked_div(actual).unwrap_or(1000)
            })
            .collect();
        errors.sort_unstable();
        came += errors[28];
    }
    assert!(said.abs_diff(came) * 5 <= came, "{said} said, {came} came");
}

#[test]
fn sums_too_large_to_add_do_not_panic() {
    let history = trace(40, |i| (u64::MAX - i, if i % 2 == 0 { u64::MAX } else { HOUR_MS }));
    assert!(forecast(&history, FIRST + 40).is_some());
    assert!(forecast(&history, u64::MAX).is_some());
}
