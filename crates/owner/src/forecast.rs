//! What the next day is likely to earn, and how wrong such a forecast was so far.
//!
//! A day earns its working time times a rate. Both are medians, which one odd day does not move: of the working time of
//! the same day of the week in the weeks before, because owners live by the week; of the rate of the last days, because
//! prices and peers change faster.

/// One whole UTC day of a machine. A day without one earned nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// Days since 1970.
    pub day: u64,
    /// Micro-credits.
    pub earned: u64,
    /// Milliseconds of work.
    pub worked_ms: u64,
}

/// What a day is likely to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// Micro-credits.
    pub earned: u64,
    /// Milliseconds of work.
    pub worked_ms: u64,
    /// How far off the forecasts of past days were in the median, in permille of what was earned; `None` before three of
    /// them could be compared.
    pub error_permille: Option<u64>,
}

/// The forecast for `day` from whole days before it, in any order, the first word of a day counting. `None` where they
/// go back less than three days.
pub fn forecast(history: &[Day], day: u64) -> Option<Forecast> {
    let mut days: Vec<Day> = history.iter().copied().filter(|past| past.day < day).collect();
    days.sort_by_key(|past| past.day);
    days.dedup_by_key(|past| past.day);
    let past = Past { days };
    let (earned, worked_ms) = past.expect(day)?;
    Some(Forecast { earned, worked_ms, error_permille: past.error(day) })
}

/// Days without which nothing is said.
const DAYS_MIN: u64 = 3;
/// Days of which the rate is taken.
const RATE_DAYS: u64 = 7;
/// Weeks of which the working time is taken; odd, so that the median is one of them.
const WEEKS: u64 = 5;
/// Days for which a forecast is compared with what came.
const BACKTEST_DAYS: u64 = 56;
/// A day with less work than this says nothing of the rate.
const WORKED_MS_MIN: u64 = 10 * 60_000;
const HOUR_MS: u128 = 3_600_000;

/// Days in order, each once.
struct Past {
    days: Vec<Day>,
}

impl Past {
    /// Micro-credits and milliseconds of work expected of a day from those before it.
    fn expect(&self, day: u64) -> Option<(u64, u64)> {
        let first = self.days.first()?.day;
        if day < first + DAYS_MIN {
            return None;
        }
        let back = |step: u64, count: u64| {
            let known = move |day: &u64| *day >= first;
            (1..=count).filter_map(move |i| day.checked_sub(i * step)).filter(known).map(|day| self.at(day))
        };
        let recent = median(back(1, RATE_DAYS).map(|past| past.worked_ms))?;
        let mut same = back(RATE_DAYS, WEEKS).map(|past| past.worked_ms).peekable();
        let worked_ms = match (same.next(), same.peek()) {
            (None, _) => recent,
            // One week may be like no other.
            (Some(one), None) => middle(one, recent),
            (Some(one), Some(_)) => median(same.chain([one]))?,
        };
        let rates = |days: u64| median(back(1, days).filter_map(Day::rate));
        let rate = rates(RATE_DAYS).or_else(|| rates(RATE_DAYS * WEEKS)).unwrap_or(0);
        Some((narrow(u128::from(rate) * u128::from(worked_ms) / HOUR_MS), worked_ms))
    }

    fn at(&self, day: u64) -> Day {
        let found = self.days.binary_search_by_key(&day, |past| past.day);
        found.map_or(Day { day, earned: 0, worked_ms: 0 }, |at| self.days[at])
    }

    /// The median error of the forecasts for the days before `day`.
    fn error(&self, day: u64) -> Option<u64> {
        let from = day.saturating_sub(BACKTEST_DAYS);
        let errors: Vec<u64> = (from..day)
            .filter_map(|past| {
                let (expected, actual) = (self.expect(past)?.0, self.at(past).earned);
                Some(match (expected.abs_diff(actual), actual) {
                    (0, _) => 0,
                    (_, 0) => 1000,
                    (off, actual) => narrow(u128::from(off) * 1000 / u128::from(actual)),
                })
            })
            .collect();
        if errors.len() < DAYS_MIN as usize { None } else { median(errors) }
    }
}

impl Day {
    /// Micro-credits in an hour of work.
    fn rate(self) -> Option<u64> {
        (self.worked_ms >= WORKED_MS_MIN)
            .then(|| narrow(u128::from(self.earned) * HOUR_MS / u128::from(self.worked_ms)))
    }
}

fn median(values: impl IntoIterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.into_iter().collect();
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    Some(if values.len().is_multiple_of(2) { middle(values[values.len() / 2 - 1], upper) } else { upper })
}

fn middle(a: u64, b: u64) -> u64 {
    a.midpoint(b)
}

fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
