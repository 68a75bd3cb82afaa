//! Schedules as owners write them, and against a table of every minute of the week.

use base::{Millis, Rng};
use owner::{DAY_MINUTES, LocalTime, SPANS_MAX, ScheduleError, WEEK_MINUTES, WeekSchedule, Weekday};

fn parse(text: &str) -> WeekSchedule {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(weekday: Weekday, hour: u16, minute: u16) -> LocalTime {
    LocalTime { weekday, minute_of_day: hour * 60 + minute }
}

#[test]
fn quiet_until_the_end_of_what_touches() {
    let check = |text: &str, local: LocalTime, expect: Option<u32>| {
        assert_eq!(parse(text).quiet_until(local), expect, "{text} on {local}");
    };
    let office = "mon-fri 09:00-17:00";
    check(office, at(Weekday::Mon, 8, 59), None);
    check(office, at(Weekday::Mon, 9, 0), Some(480));
    check(office, at(Weekday::Fri, 16, 59), Some(1));
    check(office, at(Weekday::Fri, 17, 0), None);
    check(office, at(Weekday::Sat, 12, 0), None);
    let night = "daily 22:00-07:00";
    check(night, at(Weekday::Tue, 23, 0), Some(480));
    check(night, at(Weekday::Mon, 6, 30), Some(30));
    check(night, at(Weekday::Sun, 23, 0), Some(480));
    check(night, at(Weekday::Sun, 7, 0), None);
    check("sun 22:00-07:00", at(Weekday::Mon, 6, 0), Some(60));
    check("sun 22:00-07:00", at(Weekday::Tue, 6, 0), None);
    check("fri 18:00-24:00; weekends 00:00-24:00", at(Weekday::Fri, 18, 0), Some(54 * 60));
    check("sat-mon 0:00-1:00", at(Weekday::Sun, 0, 0), Some(60));
    check("daily 00:00-24:00", at(Weekday::Wed, 3, 3), Some(WEEK_MINUTES));
    check("", at(Weekday::Wed, 3, 3), None);
}

#[test]
fn refusals_say_what_is_expected() {
    let check = |text: &str, expect: ScheduleError| assert_eq!(text.parse::<WeekSchedule>(), Err(expect));
    check("mon-fri", ScheduleError::Form("mon-fri".into()));
    check("mon 9:00", ScheduleError::Form("mon 9:00".into()));
    check("daily 24:00-07:00", ScheduleError::Form("daily 24:00-07:00".into()));
    check("noday 09:00-10:00", ScheduleError::Days("noday".into()));
    check("mon-fry 09:00-10:00", ScheduleError::Days("mon-fry".into()));
    for time in ["9", "9:5", "09:60", "25:00", "24:01", "+9:00", "009:00", ":30", "ab:cd"] {
        check(&format!("mon {time}-10:00"), ScheduleError::Time(time.into()));
    }
    check("mon 09:00-09:00", ScheduleError::Empty("mon 09:00-09:00".into()));
    check(&"mon 09:00-10:00,".repeat(SPANS_MAX + 1), ScheduleError::TooMany);
    let error = "mon-fry 09:00-10:00".parse::<WeekSchedule>().expect_err("no such day").to_string();
    assert!(error.starts_with("`mon-fry`: expected a day"), "{error}");
}

#[test]
fn what_is_written_is_read() {
    let check = |text: &str, expect: &str| {
        assert_eq!(parse(text).to_string(), expect);
        assert_eq!(parse(expect), parse(text));
    };
    check(" Weekdays 9:00 - 17:30 ;daily 22:00-07:00", "mon-fri 09:00-17:30, daily 22:00-07:00");
    check("sun 10:00-00:00\nweekends 00:00-24:00", "sun 10:00-24:00, sat-sun 00:00-24:00");
    check("sat-mon 01:00-02:00", "sat-mon 01:00-02:00");
}

/// Marks every minute of the week, span by span.
fn table(spans: &[(u32, u32, u32, u32)]) -> Vec<bool> {
    let mut quiet = vec![false; WEEK_MINUTES as usize];
    for (first, days, from, until) in spans {
        for i in 0..*days {
            let mut minute = (first + i) % 7 * DAY_MINUTES + from;
            let mut left = if until > from { until - from } else { until + DAY_MINUTES - from };
            while left > 0 {
                quiet[(minute % WEEK_MINUTES) as usize] = true;
                (minute, left) = (minute + 1, left - 1);
            }
        }
    }
    quiet
}

#[test]
fn every_minute_of_the_week_agrees_with_the_table() {
    for seed in 0..40 {
        let mut rng = Rng::keyed(7, seed);
        let mut draw = |n: u64| rng.below(n) as u32;
        let spans: Vec<(u32, u32, u32, u32)> = (0..draw(6))
            .map(|_| (draw(7), 1 + draw(7), draw(1440), 1 + draw(1440)))
            .filter(|(_, _, from, until)| from != until)
            .collect();
        let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
        let day = |day: u32| Weekday::ALL[(day % 7) as usize];
        let texts: Vec<String> = spans
            .iter()
            .map(|(first, days, from, until)| {
                format!("{}-{} {}-{}", day(*first), day(first + days - 1), clock(*from), clock(*until))
            })
            .collect();
        let (schedule, quiet) = (parse(&texts.join(", ")), table(&spans));
        assert_eq!(parse(&schedule.to_string()), schedule, "seed {seed}");
        for minute in 0..WEEK_MINUTES {
            let ends = (0..WEEK_MINUTES).find(|i| !quiet[((minute + i) % WEEK_MINUTES) as usize]);
            let expect = Some(ends.unwrap_or(WEEK_MINUTES)).filter(|left| *left > 0);
            let local = LocalTime::of_week(minute);
            assert_eq!(schedule.quiet_until(local), expect, "seed {seed}: {schedule} on {local}");
        }
    }
}

#[test]
fn local_time_follows_the_calendar() {
    let check = |unix_s: u64, offset: i32, expect: &str| {
        assert_eq!(LocalTime::at(Millis(unix_s * 1000), offset).to_string(), expect);
    };
    check(0, 0, "Thu 00:00");
    check(0, -1, "Wed 23:59");
    check(1_735_689_600, 0, "Wed 00:00"); // 2025-01-01
    check(1_735_689_600, 330, "Wed 05:30");
    check(1_709_164_800 + 86_399, 0, "Thu 23:59"); // 2024-02-29
    for minute in 0..WEEK_MINUTES {
        assert_eq!(LocalTime::of_week(minute).minute_of_week(), minute);
    }
}
