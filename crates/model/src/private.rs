//! What a member keeps to itself between units.

use crate::Layout;
use base::{ChunkTree, Hash, Reject, Wire};

/// A member's private state s: the error feedback and, in local mode, its own AdamW moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Private {
    /// Error feedback, bf16.
    pub e: Vec<u16>,
    /// Moments and the number of inner steps behind them; empty in gradients mode and before the first unit.
    pub moments: Option<Moments>,
}

/// AdamW moments in 8-bit blocks: what a worker goes on from is exactly what an auditor can fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub(crate) steps: u64,
    pub(crate) m: Blocks,
    pub(crate) v: Blocks,
}

/// Magnitudes in blocks of 256, 8 bits each, equally fine relative to each of them: AdamW divides one moment by the
/// root of the other, so neighbours of other sizes must not coarsen a small one. A code counts the leading
/// bits of an f32 (exponent and three of the mantissa), from below the block's largest; 0 is zero.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Blocks {
    /// Leading bits of each block's largest magnitude.
    tops: Vec<u16>,
    codes: Vec<u8>,
}

const BLOCK: usize = 256;
/// The leading bits of the largest finite f32.
const LEADING_MAX: u16 = 0x7f7;
/// Codes of first moments beside their sign: sixteen octaves.
const SIGNED: u16 = 127;
/// Codes of second moments: thirty-two octaves, which are sixteen of their root.
const POSITIVE: u16 = 255;
/// More inner steps than any run does; the next one is counted without overflow.
const STEPS_MAX: u64 = 1 << 56;
/// With β = (0.9, 0.95) the first moment is at most 1.17 × the root of the second (Cauchy and Schwarz). The
/// rest is for rounding. Moments beyond it were not left by AdamW, and would move weights by many
/// learning rates.
const DIRECTION_MAX: f32 = 8.0;
/// Second moments together are at most the square of the clip. The rest is for rounding to three bits, and for the
/// smallest codes beside a large one.
const ENERGY_MAX: f64 = 4.0;
/// Of AdamW; roots far below it may have lost their squares to underflow.
const EPS: f32 = 1e-8;

impl Private {
    /// s = 0, as a newcomer or a member that lost its state declares it.
    pub fn zero(layout: &Layout) -> Self {
        Self { e: vec![0; layout.len], moments: None }
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.e.len() * 4 + 16);
        out.extend(self.e.iter().flat_map(|e| e.to_le_bytes()));
        if let Some(moments) = &self.moments {
            moments.steps.encode(&mut out);
            for blocks in [&moments.m, &moments.v] {
                out.extend(blocks.tops.iter().flat_map(|top| top.to_le_bytes()));
                out.extend_from_slice(&blocks.codes);
            }
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. It may come from a peer: each value is finite, and the moments
    /// are such as AdamW leaves.
    pub fn from_bytes(layout: &Layout, bytes: &[u8]) -> Result<Self, Reject> {
        let n = layout.len;
        let tops = n.div_ceil(BLOCK);
        let words =
            |bytes: &[u8]| -> Vec<u16> { bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect() };
        let with_moments = 2 * n + 8 + 2 * (2 * tops + n);
        if bytes.len() != 2 * n && bytes.len() != with_moments {
            return Err(Reject::WrongSize);
        }
        let (e, rest) = bytes.split_at(2 * n);
        let e = words(e);
        if e.iter().any(|e| e & 0x7f80 == 0x7f80) {
            return Err(Reject::NotFinite);
        }
        if rest.is_empty() {
            return Ok(Self { e, moments: None });
        }
        let (steps, rest) = rest.split_at(8);
        let (m, v) = rest.split_at(2 * tops + n);
        let blocks = |bytes: &[u8]| {
            let (tops, codes) = bytes.split_at(2 * tops);
            Blocks { tops: words(tops), codes: codes.to_vec() }
        };
        let steps = u64::from_bytes(steps).map_err(|_| Reject::Malformed)?;
        let moments = Moments { steps, m: blocks(m), v: blocks(v) };
        moments.check()?;
        Ok(Self { e, moments: Some(moments) })
    }

    /// Whether gradients clipped to `clip` may have left the second moments. AdamW averages their squares, so all of
    /// them together stay below `clip`²; larger ones are finite, and would still a newcomer for hundreds of steps.
    pub fn plausible(&self, clip: f32) -> bool {
        let Some(moments) = &self.moments else { return true };
        let sum = (0..moments.v.codes.len()).map(|i| f64::from(moments.v.positive_at(i))).sum::<f64>();
        sum <= ENERGY_MAX * f64::from(clip) * f64::from(clip)
    }

    /// The hash that commits to it.
    pub fn hash(&self) -> Hash {
        ChunkTree::of(&self.to_bytes()).root()
    }
}

impl Moments {
    /// Refuses what no optimiser leaves.
    fn check(&self) -> Result<(), Reject> {
        if self.m.tops.iter().chain(&self.v.tops).any(|&top| top > LEADING_MAX) {
            return Err(Reject::NotFinite);
        }
        let possible = |i| self.m.signed_at(i).abs() <= DIRECTION_MAX * (self.v.positive_at(i).sqrt() + EPS);
        let all = (1..=STEPS_MAX).contains(&self.steps) && (0..self.m.codes.len()).all(possible);
        if all { Ok(()) } else { Err(Reject::Malformed) }
    }
}

/// The leading bits of a magnitude, rounded: eight of the exponent, three of the mantissa. They order as magnitudes do.
fn leading(x: f32) -> u16 {
    (((x.abs().to_bits() + (1 << 19)) >> 20) as u16).min(LEADING_MAX)
}

/// The magnitude that has these leading bits and no others.
fn magnitude(leading: u16) -> f32 {
    f32::from_bits(u32::from(leading) << 20)
}

impl Blocks {
    /// First moments. What is too small for its block becomes zero: a direction may lose its momentum.
    pub(crate) fn signed(values: &[f32]) -> Self {
        Self::build(values, |x, top| {
            let code = leading(x).saturating_sub(top.saturating_sub(SIGNED)) as u8;
            if code > 0 && x < 0.0 { code | 0x80 } else { code }
        })
    }

    /// Second moments. What is too small for its block, but not zero, takes the smallest code: without a
    /// divisor a direction would have no bound.
    pub(crate) fn positive(values: &[f32]) -> Self {
        Self::build(values, |x, top| {
            let code = leading(x).saturating_sub(top.saturating_sub(POSITIVE)) as u8;
            if x > 0.0 { code.max(1) } else { 0 }
        })
    }

    /// `code(value, leading bits of the block's largest)` of each value.
    fn build(values: &[f32], code: impl Fn(f32, u16) -> u8) -> Self {
        let mut out = Self::default();
        for block in values.chunks(BLOCK) {
            let top = block.iter().map(|&x| leading(x)).max().unwrap_or(0);
            out.tops.push(top);
            out.codes.extend(block.iter().map(|&x| code(x, top)));
        }
        out
    }

    pub(crate) fn signed_values(&self) -> Vec<f32> {
        (0..self.codes.len()).map(|i| self.signed_at(i)).collect()
    }

    pub(crate) fn positive_values(&self) -> Vec<f32> {
        (0..self.codes.len()).map(|i| self.positive_at(i)).collect()
    }

    fn signed_at(&self, i: usize) -> f32 {
        let (code, top) = (self.codes[i], self.tops[i / BLOCK]);
        let value = match u16::from(code & 0x7f) {
            0 => 0.0,
            steps => magnitude(top.saturating_sub(SIGNED) + steps),
        };
        if code & 0x80 == 0 { value } else { -value }
    }

    fn positive_at(&self, i: usize) -> f32 {
        match u16::from(self.codes[i]) {
            0 => 0.0,
            steps => magnitude(self.tops[i / BLOCK].saturating_sub(POSITIVE) + steps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdamW, Param};
    use base::Rng;

    const N: usize = 4096;

    /// Sizes of gradients that differ from weight to weight.
    fn log_normal(rng: &mut Rng, sigma: f32) -> f32 {
        (rng.normal() * sigma).exp()
    }

    fn layout() -> Layout {
        Layout { params: vec![Param { name: "w".into(), shape: vec![N], offset: 0 }], len: N }
    }

    /// Moments behind ten steps of Gaussian gradients of these sizes, and one more gradient.
    fn moments(sizes: &[f32], rng: &mut Rng) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (mut w, mut m, mut v) = (vec![0.0; N], vec![0.0; N], vec![0.0; N]);
        let gradient = |rng: &mut Rng| -> Vec<f32> { sizes.iter().map(|size| size * 1e-4 * rng.normal()).collect() };
        for step in 1..=10 {
            let grad = gradient(rng);
            AdamW::new(0.0).step(&layout(), &mut w, (&mut m, &mut v), &grad, 1.0, step);
        }
        let next = gradient(rng);
        (m, v, next)
    }

    /// How far step 11 moves each weight, in learning rates.
    fn moves((m, v): (&[f32], &[f32]), grad: &[f32]) -> Vec<f32> {
        let (mut w, mut m, mut v) = (vec![0.0; N], m.to_vec(), v.to_vec());
        AdamW::new(0.0).step(&layout(), &mut w, (&mut m, &mut v), grad, 1.0, 11);
        w
    }

    #[test]
    fn moments_that_were_kept_in_8_bits_move_weights_as_exact_ones_do() {
        let largest = |moves: &[f32]| moves.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        type Gradient = fn(usize, &mut Rng) -> f32;
        let kinds: [(&str, Gradient); 4] = [
            ("sigma 0.75", |_, rng| log_normal(rng, 0.75)),
            ("sigma 1", |_, rng| log_normal(rng, 1.0)),
            ("sigma 1.5", |_, rng| log_normal(rng, 1.5)),
            ("one in 256 a thousand times larger", |i, _| if i % 256 == 7 { 1000.0 } else { 1.0 }),
        ];
        for (name, size) in kinds {
            let mut rng = Rng::new(7);
            let sizes: Vec<f32> = (0..N).map(|i| size(i, &mut rng)).collect();
            let (m, v, grad) = moments(&sizes, &mut rng);
            let exact = moves((&m, &v), &grad);
            let (m, v) = (Blocks::signed(&m).signed_values(), Blocks::positive(&v).positive_values());
            let kept = moves((&m, &v), &grad);
            assert!(largest(&kept) < 1.25 * largest(&exact), "{name}: {} of {}", largest(&kept), largest(&exact));
            let error = kept.iter().zip(&exact).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
            let whole = exact.iter().map(|b| b * b).sum::<f32>().sqrt();
            assert!(error < 0.1 * whole, "{name}: off by {error} of {whole}");
        }
    }

    #[test]
    fn a_value_of_any_size_comes_back_within_its_grid() {
        let values = [0.0, 1e-44, 3e-39, -1e-30, 2e-7, -1.0, 1.06, 3e38, f32::MAX];
        for &x in &values {
            let signed = Blocks::signed(&[x]).signed_values()[0];
            let close = |got: f32| (got / x - 1.0).abs() <= 0.0625;
            assert!(signed == 0.0 && x.abs() < 1e-38 || close(signed), "{x:e} came back as {signed:e}");
            let positive = Blocks::positive(&[x.abs()]).positive_values()[0];
            assert!(positive.is_finite() && (positive > 0.0) == (x != 0.0), "{x:e} came back as {positive:e}");
        }
        let small = Blocks::positive(&[1.0, 1e-30]).positive_values()[1];
        assert!(small > 0.0 && small < 1e-9, "a divisor is not lost beside a large one: {small:e}");
    }

    #[test]
    fn second_moments_beyond_what_clipped_gradients_leave_are_not_plausible() {
        let state = |v: &[f32]| {
            let moments = Moments { steps: 10, m: Blocks::signed(&vec![0.0; v.len()]), v: Blocks::positive(v) };
            Private { e: vec![0; v.len()], moments: Some(moments) }
        };
        let mut rng = Rng::new(5);
        let clip = 0.5;
        let (mut w, mut m, mut v) = (vec![0.0; N], vec![0.0; N], vec![0.0; N]);
        for step in 1..=100 {
            let mut grad: Vec<f32> = (0..N).map(|_| rng.normal() * log_normal(&mut rng, 2.0)).collect();
            crate::clip_norm(&mut grad, clip);
            AdamW::new(0.0).step(&layout(), &mut w, (&mut m, &mut v), &grad, 1e-3, step);
        }
        assert!(state(&v).plausible(clip) && !state(&v).plausible(clip / 10.0));
        assert!(Private::zero(&layout()).plausible(clip));
        let mut one = vec![0.0; N];
        one[17] = 2.0;
        assert!(!state(&one).plausible(clip), "one huge second moment");
        assert!(!state(&[1e-3; N]).plausible(clip), "all of them together");
        assert!(!state(&[f32::MAX; N]).plausible(clip));
    }

    #[test]
    fn private_states_that_no_optimiser_leaves_are_refused() {
        let layout = layout();
        let mut rng = Rng::new(3);
        let (m, v, _) = moments(&[1.0; N], &mut rng);
        let moments = Moments { steps: 10, m: Blocks::signed(&m), v: Blocks::positive(&v) };
        let state = Private { e: vec![0; N], moments: Some(moments) };
        assert_eq!(Private::from_bytes(&layout, &state.to_bytes()).as_ref(), Ok(&state));
        let spoil = |f: fn(&mut Private, &mut Moments)| {
            let (mut state, mut moments) = (state.clone(), state.moments.clone().expect("they are there"));
            f(&mut state, &mut moments);
            Private::from_bytes(&layout, &Private { moments: Some(moments), ..state }.to_bytes())
        };
        assert_eq!(spoil(|state, _| state.e[5] = 0x7fc0), Err(Reject::NotFinite), "NaN in the error feedback");
        assert_eq!(spoil(|state, _| state.e[5] = 0xff80), Err(Reject::NotFinite), "infinite error feedback");
        assert_eq!(spoil(|_, moments| moments.m.tops[1] = 0x7f8), Err(Reject::NotFinite), "an infinite first moment");
        assert_eq!(spoil(|_, moments| moments.v.tops[0] = 0xffff), Err(Reject::NotFinite), "NaN as second moment");
        assert_eq!(spoil(|_, moments| moments.m.tops[0] = 0x700), Err(Reject::Malformed), "steps of any length");
        assert_eq!(spoil(|_, moments| moments.v.codes.fill(0)), Err(Reject::Malformed), "momentum without a divisor");
        assert_eq!(spoil(|_, moments| moments.steps = u64::MAX), Err(Reject::Malformed), "a count that overflows");
        assert_eq!(spoil(|_, moments| moments.steps = 0), Err(Reject::Malformed), "moments of no step");
    }
}
