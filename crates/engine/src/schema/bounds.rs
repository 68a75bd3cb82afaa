//! Bounds of counts and of numbers.

use super::SchemaError;
use super::convert::{Converter, Fields};
use super::keyword::About;
use super::range::{self, Bound};

impl Converter<'_> {
    /// A number of times; `None` where the keyword is not there.
    fn count(&self, fields: &Fields, keyword: &str) -> Result<Option<usize>, SchemaError> {
        let Some(value) = fields.get(keyword) else { return Ok(None) };
        let whole = |x: &f64| x.fract() == 0.0 && *x >= 0.0;
        let count = value.as_u64().or_else(|| value.as_f64().filter(whole).map(|x| x as u64));
        let count = count.ok_or_else(|| self.wrong(keyword, "must be a whole number, 0 or more"))?;
        match usize::try_from(count) {
            Ok(count) if count <= self.limits.repeats => Ok(Some(count)),
            _ => Err(self.limit(keyword, "repetitions", self.limits.repeats)),
        }
    }

    /// How often something comes, from and to.
    pub(super) fn counts(
        &self,
        fields: &Fields,
        least: &str,
        most: &str,
    ) -> Result<(usize, Option<usize>), SchemaError> {
        let (low, high) = (self.count(fields, least)?.unwrap_or(0), self.count(fields, most)?);
        if high.is_some_and(|high| high < low) {
            return Err(self.wrong(most, "is below its lower bound"));
        }
        if self.shortest.saturating_mul(low) > self.limits.shortest {
            return Err(self.limit(least, "characters in the shortest answer", self.limits.shortest));
        }
        Ok((low, high))
    }

    /// A bound as a number; fractions are rounded inwards.
    fn bound(&self, fields: &Fields, keyword: &str, up: bool) -> Result<Option<i64>, SchemaError> {
        let Some(value) = fields.get(keyword) else { return Ok(None) };
        if let Some(whole) = value.as_i64() {
            return Ok(Some(whole));
        }
        let number = value.as_f64().ok_or_else(|| self.wrong(keyword, "must be a number"))?;
        let number = if up { number.ceil() } else { number.floor() };
        // Beyond it a float does not tell one integer from the next.
        if number.abs() > 9_007_199_254_740_992.0 {
            return Err(self.wrong(keyword, "has more digits than are followed"));
        }
        Ok(Some(number as i64))
    }

    pub(super) fn integer(&mut self, fields: &Fields) -> Result<String, SchemaError> {
        let keywords = ["type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
        self.only(fields, Some(About::Number), &keywords)?;
        let above = self.bound(fields, "exclusiveMinimum", false)?.map(|bound| bound.saturating_add(1));
        let below = self.bound(fields, "exclusiveMaximum", true)?.map(|bound| bound.saturating_sub(1));
        let low = self.bound(fields, "minimum", true)?.max(above);
        let high = match (self.bound(fields, "maximum", false)?, below) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if low.is_none() && high.is_none() {
            return self.primitive("integer");
        }
        let body = range::integers(low, high).ok_or_else(|| self.wrong("minimum", "and maximum leave no integer"))?;
        self.add("minimum", body)
    }

    pub(super) fn number(&mut self, fields: &Fields) -> Result<String, SchemaError> {
        let keywords = ["type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
        self.only(fields, Some(About::Number), &keywords)?;
        let mut ends = [None; 4];
        for (end, keyword) in ends.iter_mut().zip(&keywords[1..]) {
            let (up, down) = (self.bound(fields, keyword, true)?, self.bound(fields, keyword, false)?);
            if up != down {
                return Err(self.wrong(keyword, "of a number must be whole"));
            }
            *end = up;
        }
        let bound = |at: Option<i64>, within| at.map(|at| Bound { at, within });
        let (least, most) = (bound(ends[0], true), bound(ends[1], true));
        let (above, below) = (bound(ends[2], false), bound(ends[3], false));
        let low = [least, above].into_iter().flatten().max_by_key(|bound| (bound.at, !bound.within));
        let high = [most, below].into_iter().flatten().min_by_key(|bound| (bound.at, bound.within));
        if low.is_none() && high.is_none() {
            return self.primitive("number");
        }
        let body = range::numbers(low, high).ok_or_else(|| self.wrong("minimum", "and maximum leave no number"))?;
        self.add("minimum", body)
    }
}
