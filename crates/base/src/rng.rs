//! Seeded randomness, equal on every machine. Never used for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014): a counter through a mixing function, so any position of
/// the stream can be had without the ones before it.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// An independent generator for part `index` of what `seed` rules.
    pub fn keyed(seed: u64, index: u64) -> Self {
        Self::new(mix(seed ^ mix(index.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform in `0..n` (multiply-shift; the bias is below 2^-32 for the small `n` used here).
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "an empty range has no member");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// True with probability `parts / of`.
    pub fn chance(&mut self, parts: u64, of: u64) -> bool {
        self.below(of) < parts
    }

    /// Nearly normal with mean 0 and variance 1: the sum of twelve uniforms less six (Irwin–Hall),
    /// from integers, hence without any function of a maths library and equal everywhere.
    pub fn normal(&mut self) -> f32 {
        let mut sum: i64 = 0;
        for _ in 0..3 {
            let bits = self.next_u64();
            sum += (0..4).map(|i| ((bits >> (16 * i)) & 0xffff) as i64).sum::<i64>();
        }
        (sum - 6 * 65_535) as f32 / 65_536.0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A keyed permutation of `0..n` that is computed, not stored: a four-round Feistel network over
/// the next even power of two, walked until it falls inside the range (cycle walking).
#[derive(Debug, Clone)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 4],
}

impl Permutation {
    /// The permutation of `0..n` for `key`.
    pub fn new(n: u64, key: u64) -> Self {
        assert!(n > 0, "a permutation of nothing");
        let bits = 64 - (n - 1).leading_zeros();
        let mut rng = Rng::new(key);
        let keys = [rng.next_u64(), rng.next_u64(), rng.next_u64(), rng.next_u64()];
        Self { n, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Where `index` goes.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.n, "index inside the range");
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            x = (left << self.half_bits) | right;
            if x < self.n {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_hits_each_place_once() {
        for n in [1u64, 2, 3, 17, 256, 1000] {
            for key in 0..3 {
                let permutation = Permutation::new(n, key);
                let mut seen: Vec<u64> = (0..n).map(|i| permutation.at(i)).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..n).collect::<Vec<_>>(), "n {n} key {key}");
            }
        }
    }

    #[test]
    fn the_stream_is_frozen_and_normal_enough() {
        assert_eq!(Rng::new(0).next_u64(), 0xe220_a839_7b1d_cdaf, "the published first output for seed 0");
        let mut rng = Rng::keyed(1, 2);
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..10_000 {
            let x = f64::from(rng.normal());
            sum += x;
            squares += x * x;
        }
        assert!((sum / 1e4).abs() < 0.05 && (squares / 1e4 - 1.0).abs() < 0.05);
    }
}
