//! Times of the week, as an owner writes them: `mon-fri 09:00-17:00, daily 22:00-07:00`.

use base::Millis;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Minutes of a day.
pub const DAY_MINUTES: u32 = 24 * 60;
/// Minutes of a week.
pub const WEEK_MINUTES: u32 = 7 * DAY_MINUTES;
/// The most spans of one schedule: nobody writes more by hand.
pub const SPANS_MAX: usize = 32;

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[allow(missing_docs)]
pub enum Weekday {
    #[default]
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time of the week where the machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalTime {
    /// The day.
    pub weekday: Weekday,
    /// Minutes since its midnight; whole days more than one are dropped.
    pub minute_of_day: u16,
}

/// Spans of the week; empty by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WeekSchedule(Vec<Span>);

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Not days and a span of time.
    #[error("`{0}`: expected days and times, as in `mon-fri 09:00-17:00`")]
    Form(String),
    /// No days.
    #[error("`{0}`: expected a day (mon, tue, wed, thu, fri, sat, sun), a span (mon-fri), daily, weekdays or weekends")]
    Days(String),
    /// No time of the day.
    #[error("`{0}`: expected a time from 00:00 to 24:00, as in `09:00`")]
    Time(String),
    /// It begins when it ends.
    #[error("`{0}`: begins and ends at the same time; a whole day is 00:00-24:00")]
    Empty(String),
    /// Too long a list.
    #[error("expected at most {SPANS_MAX} spans")]
    TooMany,
}

impl Weekday {
    /// All, Monday first.
    pub const ALL: [Weekday; 7] =
        [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];
}

impl LocalTime {
    /// So many minutes after the beginning of Monday; whole weeks are dropped.
    pub fn of_week(minute: u32) -> Self {
        let minute = minute % WEEK_MINUTES;
        let weekday = Weekday::ALL[(minute / DAY_MINUTES) as usize];
        Self { weekday, minute_of_day: (minute % DAY_MINUTES) as u16 }
    }

    /// The local time at `now` since 1970 (UTC) where clocks are `offset_minutes` ahead of UTC.
    pub fn at(now: Millis, offset_minutes: i32) -> Self {
        let minutes = (now.0 / 60_000 % u64::from(WEEK_MINUTES)) as i64 + i64::from(offset_minutes);
        // 1970 began on a Thursday.
        let minutes = minutes + 3 * i64::from(DAY_MINUTES);
        Self::of_week(minutes.rem_euclid(i64::from(WEEK_MINUTES)) as u32)
    }

    /// Minutes since the beginning of Monday.
    pub fn minute_of_week(self) -> u32 {
        self.weekday as u32 * DAY_MINUTES + u32::from(self.minute_of_day) % DAY_MINUTES
    }
}

impl WeekSchedule {
    /// How many minutes from `local` the schedule goes on without a gap: `None` where it does not apply now,
    /// [`WEEK_MINUTES`] where it has no end.
    pub fn quiet_until(&self, local: LocalTime) -> Option<u32> {
        let start = local.minute_of_week();
        let mut covered = 0;
        while let Some(more) = self.0.iter().filter_map(|span| span.left(start + covered)).max() {
            covered += more;
            if covered >= WEEK_MINUTES {
                return Some(WEEK_MINUTES);
            }
        }
        (covered > 0).then_some(covered)
    }
}

/// The same time on several days; `until` may lie after midnight.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    first: Weekday,
    /// As many days, wrapped round the week.
    days: u32,
    from: u32,
    minutes: u32,
}

impl Span {
    /// Minutes until its end, where it covers that minute of the week.
    fn left(&self, minute: u32) -> Option<u32> {
        let starts = (0..self.days).map(|i| (self.first as u32 + i) * DAY_MINUTES + self.from);
        starts
            .filter_map(|start| {
                let into = (minute + 2 * WEEK_MINUTES - start) % WEEK_MINUTES;
                self.minutes.checked_sub(into).filter(|left| *left > 0)
            })
            .max()
    }
}

impl FromStr for WeekSchedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let mut spans = Vec::new();
        for part in text.split([',', ';', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
            if spans.len() == SPANS_MAX {
                return Err(ScheduleError::TooMany);
            }
            spans.push(span(part)?);
        }
        Ok(Self(spans))
    }
}

fn span(text: &str) -> Result<Span, ScheduleError> {
    let form = || ScheduleError::Form(text.into());
    let (days, times) = text.split_once(char::is_whitespace).ok_or_else(form)?;
    let (from, until) = times.trim().split_once('-').ok_or_else(form)?;
    let (first, days) = day_span(days)?;
    let (from, until) = (time(from.trim())?, time(until.trim())?);
    if from == DAY_MINUTES {
        return Err(form());
    }
    if from == until {
        return Err(ScheduleError::Empty(text.into()));
    }
    let minutes = if until > from { until - from } else { until + DAY_MINUTES - from };
    Ok(Span { first, days, from, minutes })
}

fn day_span(text: &str) -> Result<(Weekday, u32), ScheduleError> {
    let lower = text.to_ascii_lowercase();
    let wrong = || ScheduleError::Days(text.into());
    let day = |name: &str| {
        Weekday::ALL.into_iter().find(|day| day.to_string().to_ascii_lowercase() == name).ok_or_else(wrong)
    };
    match lower.as_str() {
        "daily" => Ok((Weekday::Mon, 7)),
        "weekdays" => Ok((Weekday::Mon, 5)),
        "weekends" => Ok((Weekday::Sat, 2)),
        _ => {
            let (first, last) = lower.split_once('-').unwrap_or((&lower, &lower));
            let (first, last) = (day(first)?, day(last)?);
            let days = (last as u32 + 7 - first as u32) % 7 + 1;
            // All days are all days, wherever they begin.
            Ok((if days == 7 { Weekday::Mon } else { first }, days))
        }
    }
}

fn time(text: &str) -> Result<u32, ScheduleError> {
    let wrong = || ScheduleError::Time(text.into());
    let number = |text: &str| {
        let plain = matches!(text.len(), 1 | 2) && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u32>().ok()).flatten().ok_or_else(wrong)
    };
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let (hours, minutes, two) = (number(hours)?, number(minutes)?, minutes.len() == 2);
    let all = hours * 60 + minutes;
    if two && minutes < 60 && all <= DAY_MINUTES { Ok(all) } else { Err(wrong()) }
}

impl fmt::Display for Weekday {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minute = u32::from(self.minute_of_day) % DAY_MINUTES;
        write!(f, "{} {:02}:{:02}", self.weekday, minute / 60, minute % 60)
    }
}

/// As it is read.
impl fmt::Display for WeekSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, span) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let last = Weekday::ALL[(span.first as usize + span.days as usize - 1) % 7];
            let until = span.from + span.minutes;
            let until = if until > DAY_MINUTES { until - DAY_MINUTES } else { until };
            let days = match span.days {
                7 => "daily".to_string(),
                1 => span.first.to_string().to_ascii_lowercase(),
                _ => format!("{}-{last}", span.first).to_ascii_lowercase(),
            };
            let (from_h, from_m) = (span.from / 60, span.from % 60);
            write!(f, "{comma}{days} {from_h:02}:{from_m:02}-{:02}:{:02}", until / 60, until % 60)?;
        }
        Ok(())
    }
}
