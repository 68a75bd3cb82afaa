//! Where the time went: every millisecond belongs to exactly one reason.

use crate::Why;
use base::{Millis, Reader, Wire, WireError};
use std::collections::BTreeMap;

/// Milliseconds of a day.
pub const DAY_MS: u64 = 24 * 60 * 60_000;
/// Days that are kept one by one, a quarter of a year; older ones are kept as one sum.
pub const DAYS_MAX: usize = 92;

/// The account of a machine's time, by UTC day and reason. It wants the time since 1970.
///
/// Written down it is what was accounted until [`Minutes::pass`]; read again, all from there to the first
/// [`Minutes::enter`] is time in which the program was [`Why::Off`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minutes {
    /// Accounted until here.
    until: Millis,
    why: Why,
    days: BTreeMap<u64, Spent>,
    /// The days before those.
    older: Spent,
}

impl Minutes {
    /// An account that is opened at `now`.
    pub fn new(now: Millis, why: Why) -> Self {
        Self { until: now, why, days: BTreeMap::new(), older: Spent::default() }
    }

    /// From `now` on it is for another reason.
    pub fn enter(&mut self, now: Millis, why: Why) {
        self.pass(now);
        self.why = why;
    }

    /// Accounts the time until `now` to the reason in force. A clock that was set back counts on from where it is.
    pub fn pass(&mut self, now: Millis) {
        let today = now.0 / DAY_MS;
        if now < self.until {
            // Days that are in the future now would never leave the account.
            self.days.split_off(&(today + 1)).into_values().for_each(|spent| self.older.join(&spent));
        }
        let first = (today + 1).saturating_sub(DAYS_MAX as u64);
        let mut from = self.until.0.min(now.0);
        if from < first * DAY_MS {
            self.older.add(self.why, first * DAY_MS - from);
            from = first * DAY_MS;
        }
        while from < now.0 {
            let day = from / DAY_MS;
            let end = now.0.min((day + 1) * DAY_MS);
            self.days.entry(day).or_default().add(self.why, end - from);
            from = end;
        }
        while self.days.first_key_value().is_some_and(|(day, _)| *day < first) {
            let (_, spent) = self.days.pop_first().expect("it has a first day");
            self.older.join(&spent);
        }
        self.until = now;
    }

    /// Milliseconds by code of the reason, since the account was opened.
    pub fn total(&self, now: Millis) -> BTreeMap<&'static str, u64> {
        let account = self.at(now);
        let mut total = account.older;
        account.days.values().for_each(|spent| total.join(spent));
        total.by_code()
    }

    /// The same for the days that are kept, first first.
    pub fn days(&self, now: Millis) -> BTreeMap<u64, BTreeMap<&'static str, u64>> {
        self.at(now).days.into_iter().map(|(day, spent)| (day, spent.by_code())).collect()
    }

    /// Milliseconds of work on a day that is kept.
    pub fn worked_ms(&self, now: Millis, day: u64) -> u64 {
        let account = self.at(now);
        let spent = account.days.get(&day).into_iter().flat_map(|spent| &spent.0);
        spent.filter(|(number, _)| Why::ALL[usize::from(**number)].works()).map(|(_, ms)| ms).sum()
    }

    /// The reason in force.
    pub fn why(&self) -> Why {
        self.why
    }

    fn at(&self, now: Millis) -> Self {
        let mut account = self.clone();
        account.pass(now.max(self.until));
        account
    }
}

/// Milliseconds by number of the reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Spent(BTreeMap<u8, u64>);

impl Spent {
    fn add(&mut self, why: Why, ms: u64) {
        self.put(why.number(), ms);
    }

    fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|(number, ms)| self.put(*number, *ms));
    }

    fn put(&mut self, number: u8, ms: u64) {
        if ms > 0 {
            let sum = self.0.entry(number).or_default();
            *sum = sum.checked_add(ms).expect("the time of a machine fits 64 bits");
        }
    }

    fn by_code(&self) -> BTreeMap<&'static str, u64> {
        self.0.iter().map(|(number, ms)| (Why::ALL[usize::from(*number)].code(), *ms)).collect()
    }
}

impl Wire for Minutes {
    fn encode(&self, out: &mut Vec<u8>) {
        self.until.encode(out);
        self.older.encode(out);
        self.days.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (until, older) = (Millis::decode(input)?, Spent::decode(input)?);
        let days: Vec<(u64, Spent)> = input.list(DAYS_MAX)?;
        let last = until.0 / DAY_MS;
        let kept = days.iter().all(|(day, _)| *day <= last && last - day < DAYS_MAX as u64);
        if !kept || !days.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(WireError::Invalid("days"));
        }
        let spent = days.iter().map(|(_, spent)| spent).chain([&older]).flat_map(|spent| spent.0.values());
        // Room for as much again: adding to it does not overflow.
        if spent.map(|ms| u128::from(*ms)).sum::<u128>() > u128::from(u64::MAX / 2) || until.0 > u64::MAX / 2 {
            return Err(WireError::Invalid("time spent"));
        }
        Ok(Self { until, why: Why::Off, days: days.into_iter().collect(), older })
    }
}

impl Wire for Spent {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let list: Vec<(u8, u64)> = input.list(Why::ALL.len())?;
        let known = list.iter().all(|(number, ms)| usize::from(*number) < Why::ALL.len() && *ms > 0);
        if !known || !list.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(WireError::Invalid("reasons"));
        }
        Ok(Self(list.into_iter().collect()))
    }
}
