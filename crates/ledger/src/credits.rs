//! Amounts.

use base::{Reader, Reject, Wire, WireError};
use std::fmt;

/// An amount in micro-credits. Adding and subtracting are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Credits(pub u64);

/// Micro-credits in a credit.
const MICRO: u64 = 1_000_000;

impl Credits {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whole credits; the largest amount where that is too much.
    pub const fn whole(n: u64) -> Self {
        Self(n.saturating_mul(MICRO))
    }

    /// `self + other`, if it is an amount.
    pub fn plus(self, other: Self) -> Result<Self, Reject> {
        self.0.checked_add(other.0).map(Self).ok_or(Reject::BadAmount)
    }

    /// The sum of two parts of the supply, which is an amount: a larger one is a broken invariant.
    pub(crate) fn joined(self, part: Self) -> Self {
        self.plus(part).expect("parts of the supply add up to less than all")
    }

    /// `self − other`, if there is so much.
    pub fn less(self, other: Self) -> Result<Self, Reject> {
        self.0.checked_sub(other.0).map(Self).ok_or(Reject::Insufficient)
    }

    /// What is left after a part was taken: a part that is larger is a broken invariant.
    pub(crate) fn without(self, part: Self) -> Self {
        self.less(part).expect("a part is at most the whole")
    }

    /// Reads "3", "0.25" or "1.000001".
    pub fn parse(text: &str) -> Result<Self, Reject> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || part.len() > 6 || !digits(whole) || !digits(part) || text.ends_with('.') {
            return Err(Reject::BadAmount);
        }
        let whole: u64 = whole.parse().map_err(|_| Reject::BadAmount)?;
        let part: u64 = format!("{part:0<6}").parse().map_err(|_| Reject::BadAmount)?;
        whole.checked_mul(MICRO).and_then(|micro| micro.checked_add(part)).map(Self).ok_or(Reject::BadAmount)
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / MICRO, self.0 % MICRO);
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl std::iter::Sum<Credits> for u128 {
    fn sum<I: Iterator<Item = Credits>>(amounts: I) -> Self {
        amounts.map(|amount| u128::from(amount.0)).sum()
    }
}

impl Wire for Credits {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        u64::decode(input).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_they_are_written() {
        for (text, micro) in [("3", 3_000_000), ("0.25", 250_000), ("1.000001", 1_000_001), ("0", 0)] {
            assert_eq!(Credits::parse(text), Ok(Credits(micro)));
            assert_eq!(Credits(micro).to_string(), text);
        }
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "0.0000001", "18446744073710", "1 "] {
            assert_eq!(Credits::parse(text), Err(Reject::BadAmount), "{text:?}");
        }
    }
}
