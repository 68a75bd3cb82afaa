//! Draws by weight: one of many is found and changed in logarithmic time.

/// Weights by place with their running sums (Fenwick 1994): setting one and finding the one at a sum take
/// logarithmic time.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    sums: Vec<u64>,
    each: Vec<u64>,
    /// How many are above 0.
    pub(crate) some: usize,
}

impl Weights {
    pub(crate) fn total(&self) -> u64 {
        self.before(self.each.len())
    }

    pub(crate) fn get(&self, at: usize) -> u64 {
        self.each.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, at: usize, weight: u64) {
        while self.each.len() <= at {
            self.each.push(0);
            let n = self.each.len();
            // The new node sums up what is below it.
            let low = n & n.wrapping_neg();
            let sum = self.before(n - 1) - self.before(n - low);
            self.sums.push(sum);
        }
        let old = std::mem::replace(&mut self.each[at], weight);
        self.some = self.some + usize::from(weight > 0) - usize::from(old > 0);
        let mut i = at + 1;
        while i <= self.sums.len() {
            self.sums[i - 1] = self.sums[i - 1] + weight - old;
            i += i & i.wrapping_neg();
        }
    }

    /// The sum of the first `n`.
    fn before(&self, n: usize) -> u64 {
        let (mut i, mut sum) = (n, 0);
        while i > 0 {
            sum += self.sums[i - 1];
            i -= i & i.wrapping_neg();
        }
        sum
    }

    /// The place whose stretch of the sum `at` falls into.
    pub(crate) fn find(&self, mut at: u64) -> usize {
        let (mut place, mut step) = (0, self.sums.len().next_power_of_two());
        while step > 0 {
            if place + step <= self.sums.len() && self.sums[place + step - 1] <= at {
                place += step;
                at -= self.sums[place - 1];
            }
            step /= 2;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_are_found_by_their_sums(changes in prop::collection::vec((0usize..40, 0u64..9), 1..200)) {
            let (mut weights, mut plain) = (Weights::default(), vec![0u64; 40]);
            for (at, weight) in changes {
                weights.set(at, weight);
                plain[at] = weight;
            }
            let all: Vec<usize> = plain.iter().enumerate().flat_map(|(i, n)| std::iter::repeat_n(i, *n as usize)).collect();
            prop_assert_eq!(weights.total(), all.len() as u64);
            prop_assert_eq!(weights.some, plain.iter().filter(|weight| **weight > 0).count());
            for (sum, place) in all.iter().enumerate() {
                prop_assert_eq!(weights.find(sum as u64), *place);
            }
        }
    }
}
