//! Numbers between bounds, digit by digit.

/// The largest number that is written where there is no bound: 16 digits.
const UNBOUNDED: u64 = 9_999_999_999_999_999;

/// The integers from `low` to `high`, both included; none where there are none.
pub(super) fn integers(low: Option<i64>, high: Option<i64>) -> Option<String> {
    let below = match low {
        Some(low) if low < 0 => low.unsigned_abs(),
        Some(_) => 0,
        None => UNBOUNDED,
    };
    let above = high.map_or(Some(UNBOUNDED), |high| u64::try_from(high).ok());
    let mut parts = Vec::new();
    if below > 0 {
        // Minus zero is written where a schema asks for negative numbers; llama.cpp's converter has it so.
        let first = match high {
            Some(high) if high < 0 => high.unsigned_abs(),
            Some(_) if low.is_none() => 1,
            _ => 0,
        };
        parts.extend(digits(first, below).map(|text| format!("\"-\" ({text})")));
    }
    if let Some(above) = above {
        parts.extend(digits(low.map_or(0, |low| u64::try_from(low).unwrap_or(0)), above));
    }
    (!parts.is_empty()).then(|| parts.join(" | "))
}

/// A bound of numbers, and whether it is itself one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) at: i64,
    pub(super) within: bool,
}

/// The numbers between whole bounds, without exponents.
pub(super) fn numbers(low: Option<Bound>, high: Option<Bound>) -> Option<String> {
    let negated = |bound: Option<Bound>| bound.map(|b| Bound { at: b.at.saturating_neg(), ..b });
    // What is below zero is written as what is above it, turned around.
    let below = match low {
        Some(low) if low.at >= 0 => None,
        _ => magnitudes(negated(high), negated(low)),
    };
    let above = match high {
        Some(high) if high.at < 0 => None,
        _ => magnitudes(low, high),
    };
    let below = below.map(|text| format!("\"-\" ({text})"));
    let parts: Vec<String> = [below, above].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" | "))
}

/// Those from `low`, but not below zero, to `high`.
fn magnitudes(low: Option<Bound>, high: Option<Bound>) -> Option<String> {
    let low = low.filter(|low| low.at >= 0).unwrap_or(Bound { at: 0, within: true });
    let (first, last) = (low.at as u64, high.map_or(Some(UNBOUNDED), |high| u64::try_from(high.at).ok())?);
    if first > last {
        return None;
    }
    let mut parts = Vec::new();
    // Whole parts behind which any digits may follow.
    let free_from = if low.within { first } else { first + 1 };
    let free_to = if high.is_some() { last.checked_sub(1) } else { Some(last) };
    if let Some(text) = free_to.and_then(|to| digits(free_from, to)) {
        parts.push(format!("({text}) (\".\" [0-9]{{1,16}})?"));
    }
    if !low.within && (high.is_none() || first < last) {
        parts.push(format!("\"{first}.\" [0-9]{{0,15}} [1-9]"));
    }
    let closed = high.is_some_and(|high| high.within) && (low.within || first < last);
    if closed {
        parts.push(format!("\"{last}\" (\".\" [0]{{1,16}})?"));
    }
    (!parts.is_empty()).then(|| parts.join(" | "))
}

/// The numbers from `from` to `to` without leading zeros.
fn digits(from: u64, to: u64) -> Option<String> {
    if from > to {
        return None;
    }
    let (first, last) = (from.to_string(), to.to_string());
    let mut parts = Vec::new();
    for length in first.len()..=last.len() {
        let low = if length == first.len() { first.clone() } else { format!("1{}", "0".repeat(length - 1)) };
        let high = if length == last.len() { last.clone() } else { "9".repeat(length) };
        parts.push(same_length(low.as_bytes(), high.as_bytes()));
    }
    Some(parts.join(" | "))
}

fn digit(from: u8, to: u8) -> String {
    if from == to { format!("[{}]", from as char) } else { format!("[{}-{}]", from as char, to as char) }
}

/// Digits from `low` to `high`, as many as both have: at most 19, and a call deeper for each.
fn same_length(low: &[u8], high: &[u8]) -> String {
    let (Some((a, low)), Some((b, high))) = (low.split_first(), high.split_first()) else { return String::new() };
    if low.is_empty() {
        return digit(*a, *b);
    }
    let any = |from: u8, to: u8| format!("{} [0-9]{{{}}}", digit(from, to), low.len());
    let (zeros, nines) = (vec![b'0'; low.len()], vec![b'9'; low.len()]);
    let (from_zeros, to_nines) = (low == &zeros[..], high == &nines[..]);
    if from_zeros && to_nines {
        return any(*a, *b);
    }
    if a == b {
        return format!("{} {}", digit(*a, *a), grouped(same_length(low, high)));
    }
    let mut parts = Vec::new();
    if !from_zeros {
        parts.push(format!("{} {}", digit(*a, *a), grouped(same_length(low, &nines))));
    }
    let (from, to) = (if from_zeros { *a } else { a + 1 }, if to_nines { *b } else { b - 1 });
    if from <= to {
        parts.push(any(from, to));
    }
    if !to_nines {
        parts.push(format!("{} {}", digit(*b, *b), grouped(same_length(&zeros, high))));
    }
    parts.join(" | ")
}

fn grouped(text: String) -> String {
    if text.contains('|') { format!("({text})") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_become_digits() {
        let integers = |low, high| integers(low, high).unwrap_or_default();
        assert_eq!(integers(Some(0), Some(9)), "[0-9]");
        assert_eq!(integers(Some(5), Some(120)), "[5-9] | [1-9] [0-9]{1} | [1] ([0-1] [0-9]{1} | [2] [0])");
        assert_eq!(integers(Some(-3), Some(-2)), "\"-\" ([2-3])");
        assert_eq!(integers(Some(7), Some(6)), "");
        assert_eq!(integers(Some(i64::MIN), Some(i64::MIN)).matches('[').count(), 19);
        assert_eq!(integers(None, Some(-UNBOUNDED.cast_signed() - 1)), "");
    }

    #[test]
    fn numbers_between_bounds() {
        let at = |at, within| Some(Bound { at, within });
        let unit = numbers(at(0, true), at(1, true));
        assert_eq!(unit.as_deref(), Some("([0]) (\".\" [0-9]{1,16})? | \"1\" (\".\" [0]{1,16})?"));
        assert_eq!(numbers(at(0, false), at(0, true)), None);
        assert_eq!(numbers(at(3, true), at(3, true)).as_deref(), Some("\"3\" (\".\" [0]{1,16})?"));
        assert_eq!(numbers(at(3, false), at(4, false)).as_deref(), Some("\"3.\" [0-9]{0,15} [1-9]"));
    }
}
