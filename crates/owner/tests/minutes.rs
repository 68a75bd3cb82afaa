//! Every millisecond has one reason, through days, restarts and clocks that are set back.

use base::{Hash, Millis, Rng, Wire};
use owner::{DAY_MS, DAYS_MAX, Minutes, Why};
use std::collections::BTreeMap;

const START: Millis = Millis(20_000 * DAY_MS + 5_000);

fn sum(spent: &BTreeMap<&'static str, u64>) -> u64 {
    spent.values().sum()
}

fn written(minutes: &Minutes) -> Minutes {
    Minutes::from_bytes(&minutes.to_bytes()).expect("what was written")
}

#[test]
fn a_day_at_a_time() {
    let mut minutes = Minutes::new(START, Why::Settling { left_ms: 0 });
    minutes.enter(START.plus(1_000), Why::Working);
    minutes.enter(START.plus(DAY_MS), Why::OwnerActive { idle_ms: 9 });
    let now = START.plus(DAY_MS + 400);
    assert_eq!(
        minutes.total(now),
        BTreeMap::from([("settling", 1_000), ("working", DAY_MS - 1_000), ("owner_active", 400)])
    );
    let days = minutes.days(now);
    assert_eq!(days[&20_000], BTreeMap::from([("settling", 1_000), ("working", DAY_MS - 6_000)]));
    assert_eq!(days[&20_001], BTreeMap::from([("working", 5_000), ("owner_active", 400)]));
    assert_eq!((minutes.worked_ms(now, 20_000), minutes.worked_ms(now, 20_002)), (DAY_MS - 6_000, 0));
}

#[test]
fn a_gap_between_two_runs_is_off() {
    let mut minutes = Minutes::new(START, Why::Working);
    minutes.pass(START.plus(60_000));
    let mut minutes = written(&minutes);
    minutes.enter(START.plus(100_000), Why::NoRun);
    let total = minutes.total(START.plus(100_001));
    assert_eq!(total, BTreeMap::from([("working", 60_000), ("off", 40_000), ("no_run", 1)]));
}

#[test]
fn the_sum_is_the_time_that_passed() {
    for seed in 0..60 {
        let mut rng = Rng::keyed(3, seed);
        let (mut now, mut minutes) = (START, Minutes::new(START, Why::Off));
        let mut expect: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut why = Why::Off;
        for _ in 0..400 {
            let longest = [1, 1_000, 60_000, DAY_MS, 9 * DAY_MS][rng.below(5) as usize];
            let passed = rng.below(longest + 1);
            now = now.plus(passed);
            *expect.entry(why.code()).or_default() += passed;
            why = Why::ALL[rng.below(Why::ALL.len() as u64) as usize];
            minutes.enter(now, why);
            if rng.chance(1, 10) {
                (minutes, why) = (written(&minutes), Why::Off);
            }
            assert_eq!(sum(&minutes.total(now)), now.since(START), "seed {seed} at {now}");
            let days = minutes.days(now);
            assert!(days.len() <= DAYS_MAX, "seed {seed}: {} days", days.len());
            assert!(days.values().all(|spent| sum(spent) <= DAY_MS), "seed {seed}: a longer day");
        }
        expect.retain(|_, ms| *ms > 0);
        assert_eq!(minutes.total(now), expect, "seed {seed}");
    }
}

#[test]
fn a_clock_that_was_set_counts_on() {
    let mut minutes = Minutes::new(START, Why::Working);
    // A century ahead, and back again.
    minutes.enter(START.plus(36_500 * DAY_MS), Why::OnBattery);
    assert_eq!(minutes.days(START.plus(36_500 * DAY_MS)).len(), DAYS_MAX);
    minutes.pass(START);
    assert!(minutes.days(START).is_empty(), "days that did not come");
    minutes.pass(START.plus(7));
    assert_eq!(minutes.days(START.plus(7))[&20_000], BTreeMap::from([("on_battery", 7)]));
    assert_eq!(minutes.total(START.plus(7)), BTreeMap::from([("working", 36_500 * DAY_MS), ("on_battery", 7)]));
    assert_eq!(sum(&minutes.total(START)), 36_500 * DAY_MS + 7, "what was is not undone");
}

#[test]
fn what_is_written_is_frozen_and_bounded() {
    let mut minutes = Minutes::new(START, Why::Working);
    for (at, why) in Why::ALL.into_iter().enumerate() {
        // Those that there were when it was frozen: new ones come last and change nothing.
        if at == 23 {
            assert_eq!(Hash::of("owner.minutes", &minutes.to_bytes()).to_string(), FROZEN);
        }
        minutes.enter(START.plus(5 * at as u64 * DAY_MS), why);
    }
    let bytes = minutes.to_bytes();
    assert_eq!(written(&minutes).to_bytes(), bytes);
    for cut in 0..bytes.len() {
        assert!(Minutes::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut rng = Rng::new(5);
    for _ in 0..20_000 {
        let mut wrong = bytes.clone();
        wrong[rng.below(bytes.len() as u64) as usize] ^= 1 << rng.below(8);
        if let Ok(minutes) = Minutes::from_bytes(&wrong) {
            assert_eq!(minutes.to_bytes(), wrong, "one way to write it down");
            minutes.total(START.plus(300 * DAY_MS));
        }
    }
}

const FROZEN: &str = "f6006a11ce9799d2a4279bcee41d30b2af9e865e2e1b1ecae8198db842f7d7fc";
