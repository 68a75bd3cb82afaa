//! The agreed step: the same set of updates makes the same weights on every machine, in any order.
//!
//! Sent values are integers times powers of two and shares are integers, so the sum is fixed-point
//! `i64` and exact; what follows is IEEE 754 arithmetic in a fixed order, never fused.

use crate::simd::wide;
use crate::update::{CHUNK, Decoder, TensorUpdate, Values};
use crate::weights::all_finite;
use crate::{AdamW, Layout, Weights, clip_norm};
use base::Reject;
use rayon::prelude::*;
use thiserror::Error;

/// One update of a closed set.
#[derive(Debug, Clone, Copy)]
pub struct Contribution<'a> {
    /// The encoded update, already verified.
    pub bytes: &'a [u8],
    /// Its weight: tokens planned and done.
    pub tokens: u64,
    /// Its committed squared norm.
    pub norm_sq: f64,
}

/// What becomes of the weighted mean G.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ApplyRule {
    /// θ ← (1 − λ)·θ − α·G, λ on matrices only.
    Local {
        /// α.
        alpha: f32,
        /// λ of one inner step: lr · weight decay.
        decay: f32,
        /// Inner steps behind the set, mean by tokens. A plain unit counts its own instead.
        steps: f32,
        /// How far a unit moves a weight at most, about: peak lr · H. It bounds G where no median can.
        reach: f32,
    },
    /// AdamW on G, clipped; its moments are common state.
    Gradients {
        /// The optimiser.
        adam: AdamW,
        /// Learning rate of this round.
        lr: f32,
        /// Number of this step, from 1.
        step: u64,
        /// Longest G.
        clip: f32,
    },
}

/// What became of a set that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The weights are the next version.
    Stepped,
    /// The step would leave the finite numbers, and does so on every machine. The weights stay as they were, while
    /// the log counts the round, its tokens and its step like any other.
    Void,
}

/// Why a set was not applied. The weights are as they were.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApplyError {
    /// A contribution does not decode, so it cannot have been verified.
    #[error("contribution {0}: {1}")]
    Contribution(usize, Reject),
}

/// Shares are parts of 2^20.
const SHARE_BITS: u32 = 20;
/// The largest scale times its share stands left of the unit of the sum by this many bits, less log2 of the number of
/// updates: with four, summands whose scales differ by up to 2^25 add without rounding. 15 bits of value on top of
/// it leave one below the sign.
const SUM_BITS: i32 = 47;
/// An update longer than this many times the upper median is scaled down to it.
const NORM_LIMIT: f64 = 1.5;
/// Error feedback sends at once what several rounds left behind: G may be so many times as long as one
/// unit's reach. It keeps one update from ruining the weights, not from doing harm.
const BACKLOG: f32 = 4.0;

/// Scale factor c ≤ 1 of each update in parts of 2^16, and its share of the sum in parts of 2^20.
/// c shortens what is longer than 1.5 × the upper median norm. It is the upper one, because the lower median of an
/// even number falls to the short half: one tiny update of two, or two of four, would shorten the others to
/// nothing. An update over fewer tokens than the lower median is noisier by the root of their ratio, and may be
/// longer by it. Who sends nothing (norm 0) has no share and no say in the medians.
///
/// A bound by medians holds while more than half of the updates are honest. Of one update alone, and of the longer
/// one of two, it says nothing: there only the clip of [`apply`] holds.
pub fn shares(set: &[(u64, f64)]) -> Vec<(u32, u32)> {
    let sent = set.iter().copied().filter(|&(_, norm_sq)| norm_sq > 0.0);
    let (mut tokens, mut norms): (Vec<u64>, Vec<f64>) = sent.unzip();
    norms.sort_by(f64::total_cmp);
    tokens.sort_unstable();
    let median_sq = norms.get(norms.len() / 2).copied().unwrap_or(0.0);
    let median_tokens = tokens.get(tokens.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    let total: u128 = tokens.iter().map(|&tokens| u128::from(tokens)).sum::<u128>().max(1);
    set.iter()
        .map(|&(tokens, norm_sq)| {
            let noise = (median_tokens as f64 / tokens.max(1) as f64).max(1.0);
            let limit_sq = NORM_LIMIT * NORM_LIMIT * median_sq * noise;
            if norm_sq.is_nan() || norm_sq <= 0.0 {
                return (1 << 16, 0);
            }
            let scale = if norm_sq <= limit_sq { 1 << 16 } else { ((limit_sq / norm_sq).sqrt() * 65_536.0) as u32 };
            let share = ((u128::from(tokens) * u128::from(scale)) << (SHARE_BITS - 16)) / total;
            (scale, share as u32)
        })
        .collect()
}

/// Applies a closed set to the weights. The order of the contributions does not matter. `mean` is
/// where G is computed; whoever keeps it between rounds needs no fresh memory for it.
///
/// Whatever the set, G is no longer than the rule's clip or, in local mode, four times √P · `reach`.
pub fn apply(
    layout: &Layout,
    weights: &mut Weights,
    set: &[Contribution<'_>],
    rule: &ApplyRule,
    mean: &mut Vec<f32>,
) -> Result<Applied, ApplyError> {
    if set.is_empty() {
        return Ok(Applied::Stepped);
    }
    let shares: Vec<(u32, u32)> = shares(&set.iter().map(|c| (c.tokens, c.norm_sq)).collect::<Vec<_>>());
    mean_with(layout, set, &shares.into_iter().map(|(_, share)| share).collect::<Vec<_>>(), mean)?;
    match *rule {
        ApplyRule::Local { alpha, decay, steps, reach } => {
            if !clip_norm(mean, BACKLOG * reach * (layout.len as f32).sqrt()).is_finite() {
                return Ok(Applied::Void);
            }
            let theta = weights.theta_mut();
            // Into the memory of G first: what is not finite is seen before a weight is touched.
            for param in &layout.params {
                let keep = if param.is_matrix() { 1.0 - decay * steps } else { 1.0 };
                let range = param.range();
                for (g, &w) in mean[range.clone()].iter_mut().zip(&theta[range]) {
                    *g = keep * w - alpha * *g;
                }
            }
            if !all_finite(mean) {
                return Ok(Applied::Void);
            }
            theta.copy_from_slice(mean);
        }
        ApplyRule::Gradients { adam, lr, step, clip } => {
            // A finite G that is clipped moves finite weights and moments to finite ones.
            if !clip_norm(mean, clip).is_finite() {
                return Ok(Applied::Void);
            }
            let (theta, m, v) = weights.split_mut();
            adam.step(layout, theta, (m, v), mean, lr, step);
        }
    }
    Ok(Applied::Stepped)
}

/// G of a set of one contribution with a given share: what a member subtracts for its own pending update.
pub(crate) fn partial_mean(layout: &Layout, bytes: &[u8], share: u32) -> Result<Vec<f32>, ApplyError> {
    let contribution = Contribution { bytes, tokens: 1, norm_sq: 0.0 };
    let mut mean = Vec::new();
    mean_with(layout, &[contribution], &[share], &mut mean)?;
    Ok(mean)
}

/// e ← e + (1 − c)·decode(sent): what was left out (c = 0) or scaled down goes back into the error
/// feedback. `scale` is c in parts of 2^16.
pub fn restitution(layout: &Layout, e: &mut [u16], bytes: &[u8], scale: u32) -> Result<(), Reject> {
    let part = (65_536 - scale.min(65_536)) as f32 / 65_536.0;
    let mut decoder = Decoder::new(layout, bytes)?;
    for param in &layout.params {
        let e = &mut e[param.range()];
        let update = decoder.tensor(param)?;
        update.each(|i, value| e[i] = crate::update::narrow(crate::update::widen(e[i]) + part * value));
    }
    decoder.finish().map(|_| ())
}

/// Σ share · decode(update) of all parameters, into `mean`.
fn mean_with(layout: &Layout, set: &[Contribution<'_>], shares: &[u32], mean: &mut Vec<f32>) -> Result<(), ApplyError> {
    let refused = |i| move |reject| ApplyError::Contribution(i, reject);
    let mut decoders = Vec::with_capacity(set.len());
    for (i, contribution) in set.iter().enumerate() {
        decoders.push(Decoder::new(layout, contribution.bytes).map_err(refused(i))?);
    }
    mean.resize(layout.len, 0.0);
    for param in &layout.params {
        let mut updates = Vec::with_capacity(set.len());
        for (i, decoder) in decoders.iter_mut().enumerate() {
            let update = decoder.tensor(param).map_err(refused(i))?;
            // What has no share must not coarsen the sum of the others either.
            if shares[i] > 0 {
                updates.push((update, shares[i]));
            }
        }
        sum_tensor(&updates, &mut mean[param.range()]);
    }
    for (i, decoder) in decoders.into_iter().enumerate() {
        decoder.finish().map_err(refused(i))?;
    }
    Ok(())
}

/// Σ share · value of one tensor, exact; chunk by chunk, so that the integers stay in the cache.
fn sum_tensor(updates: &[(TensorUpdate<'_>, u32)], out: &mut [f32]) {
    let top = updates.iter().filter_map(|(update, share)| Some(top_exponent(update)? + share_bits(*share))).max();
    // Each of n summands is below 2^(15 + SUM_BITS) / n units of 2^grid, so their sum is below 2^62.
    let grid = top.unwrap_or(0) - SUM_BITS + updates.len().next_power_of_two().trailing_zeros() as i32;
    let unit = power_of_two(grid - SHARE_BITS as i32);
    out.par_chunks_mut(CHUNK).with_min_len(8).enumerate().for_each(|(i, out)| {
        wide(
            #[inline(always)]
            || {
                let sums = &mut [0i64; CHUNK][..out.len()];
                for (update, share) in updates {
                    add(update, i, *share, grid, sums);
                }
                out.iter_mut().zip(sums).for_each(|(g, sum)| *g = (*sum as f64 * unit) as f32);
            },
        );
    });
}

/// 2^exponent, for exponents of normal numbers.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

/// A share is below 2 to the power of this.
fn share_bits(share: u32) -> i32 {
    (u32::BITS - share.leading_zeros()) as i32
}

/// A bf16 magnitude as integer × 2^exponent.
fn split(bits: u16) -> (i64, i32) {
    let (exponent, mantissa) = (i32::from((bits >> 7) & 0xff), i64::from(bits & 0x7f));
    let (integer, power) = if exponent == 0 { (mantissa, -133) } else { (mantissa | 0x80, exponent - 134) };
    (if bits >> 15 == 1 { -integer } else { integer }, power)
}

/// share × scale in units of 2^grid; what lies below one rounds to nearest, half up.
fn aligned(bits: u16, share: u32, grid: i32) -> i64 {
    let (integer, power) = split(bits);
    let (product, shift) = (i64::from(share) * integer, power - grid);
    if shift >= 0 {
        product << shift
    } else if shift < -40 {
        0
    } else {
        (product + (1i64 << (-shift - 1))) >> -shift
    }
}

/// The largest exponent among the scales of an update, all of which its values use; `None` where all are zero.
fn top_exponent(update: &TensorUpdate<'_>) -> Option<i32> {
    let top = |values: &[u16]| values.iter().filter(|&&v| v & 0x7fff != 0).map(|&v| split(v).1).max();
    match &update.values {
        Values::Plain(values) => top(values),
        Values::Linear { scales, .. } => top(scales),
        Values::Levels { table, .. } => top(table),
    }
}

/// Adds what `update` says of chunk `i`. No sum overflows: see [`SUM_BITS`].
#[inline(always)]
fn add(update: &TensorUpdate<'_>, i: usize, share: u32, grid: i32, sums: &mut [i64]) {
    let part = update.part(i);
    let positions = update.positions.as_ref().map(|positions| &positions[part.clone()]);
    let at = |position: u32| position as usize % CHUNK;
    match &update.values {
        Values::Linear { scales, codes } => {
            let factor = aligned(scales[i], share, grid);
            let values = codes[part].iter().map(|&code| factor.wrapping_mul(i64::from(code as i8)));
            match positions {
                None => sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(value)),
                Some(positions) => positions.iter().zip(values).for_each(|(&p, value)| sums[at(p)] += value),
            }
        }
        Values::Levels { table, codes } => {
            let table = table.map(|level| aligned(level, share, grid));
            let values = codes.range(part).map(|code| table[code]);
            match positions {
                None => sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(value)),
                Some(positions) => positions.iter().zip(values).for_each(|(&p, value)| sums[at(p)] += value),
            }
        }
        Values::Plain(values) => {
            sums.iter_mut().zip(&values[part]).for_each(|(sum, &value)| *sum += aligned(value, share, grid));
        }
    }
}
