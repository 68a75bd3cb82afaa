//! How much may be issued by when.

use crate::Credits;
use base::wire_struct;

/// The schedule: so much per hour, halved every so many hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuance {
    /// Of the first era.
    pub per_hour: Credits,
    /// Length of an era; 0 = no issuance.
    pub era_hours: u64,
}

wire_struct!(Issuance { per_hour, era_hours });

const HOUR_MS: u64 = 3_600_000;
const HOUR: u128 = HOUR_MS as u128;

impl Issuance {
    /// All that may have been issued `ms` after the beginning; never more than twice the first era's.
    pub fn until(&self, ms: u64) -> Credits {
        let era_ms = self.era_hours.saturating_mul(HOUR_MS);
        let (Some(eras), Some(rest)) = (ms.checked_div(era_ms), ms.checked_rem(era_ms)) else { return Credits::ZERO };
        // After 64 halvings nothing is left.
        let per_hour = |i: u32| self.per_hour.0.checked_shr(i).unwrap_or_default();
        // 64 bits by 64: a product has its place in 128.
        let era = |i: u32, ms: u64| u128::from(per_hour(i)).saturating_mul(u128::from(ms)) / HOUR;
        let whole = eras.min(64) as u32;
        let past: u128 = (0..whole).map(|i| era(i, era_ms)).sum();
        let now = if whole < 64 { era(whole, rest) } else { 0 };
        Credits(u64::try_from(past.saturating_add(now)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuance_halves() {
        let issuance = Issuance { per_hour: Credits(1024), era_hours: 10 };
        for (hours, expected) in [(0, 0), (1, 1024), (10, 10_240), (11, 10_752), (20, 15_360), (30, 17_920)] {
            assert_eq!(issuance.until(hours * HOUR_MS), Credits(expected), "after {hours} h");
        }
        assert_eq!(issuance.until(u64::MAX), Credits(20_470), "the last halving leaves one an hour");
        assert_eq!(Issuance { per_hour: Credits(1), era_hours: 0 }.until(u64::MAX), Credits::ZERO);
        assert_eq!(Issuance { per_hour: Credits(u64::MAX), era_hours: u64::MAX }.until(u64::MAX), Credits(u64::MAX));
    }
}
