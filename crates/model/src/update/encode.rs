//! Error feedback to bytes.

use super::bits::BitWriter;
use super::select::select;
use super::{CHUNK, Format, narrow, narrow_finite, widen};
use crate::Layout;
use crate::simd::wide;
use base::{Reject, Wire};

/// First byte of an encoded update.
pub(super) const VERSION: u8 = 1;

/// An update as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Squared Euclidean norm of what they decode to.
    pub norm_sq: f64,
}

/// e ← bf16(β·e + Δ), β ≤ 1. Refuses e or Δ that is not finite, or too large for bf16, and leaves e as it was.
/// What becomes subnormal becomes zero: it is nothing to learn from, and a scale made of it has no inverse.
pub fn fold(e: &mut [u16], beta: f32, delta: &[f32]) -> Result<(), Reject> {
    assert_eq!(e.len(), delta.len(), "one error per parameter");
    // A quarter of bf16's range each, so that their sum cannot overflow.
    const LIMIT: f32 = f32::MAX / 4.0;
    /// 2^126, the same as bf16.
    const LIMIT_BITS: u16 = 0x7e80;
    let small = |(e, delta): (&[u16], &[f32])| {
        let pairs = e.iter().zip(delta);
        pairs.fold(true, |all, (e, x)| all & (e & 0x7fff < LIMIT_BITS) & (x.abs() < LIMIT))
    };
    wide(
        #[inline(always)]
        || {
            if !e.chunks(CHUNK).zip(delta.chunks(CHUNK)).all(small) {
                return Err(Reject::NotFinite);
            }
            for (e, &delta) in e.iter_mut().zip(delta) {
                *e = normal_or_zero(narrow_finite(beta * widen(*e) + delta));
            }
            Ok(())
        },
    )
}

/// What bf16 holds only as subnormal is zero.
#[inline(always)]
fn normal_or_zero(bits: u16) -> u16 {
    if bits & 0x7f80 == 0 { 0 } else { bits }
}

/// Encodes what is to be sent of `e` and takes it out: e ← bf16(e − decode(sent)).
pub fn encode(layout: &Layout, e: &mut [u16], format: Format) -> Encoded {
    assert_eq!(e.len(), layout.len, "one error per parameter");
    let mut bytes = vec![VERSION, format.sparsity, format.bits];
    (layout.len as u64).encode(&mut bytes);
    let mut norm = Norm::default();
    for param in &layout.params {
        let e = &mut e[param.range()];
        if !param.is_matrix() {
            encode_vector(e, &mut bytes, &mut norm);
        } else if format.bits == 8 {
            wide(
                #[inline(always)]
                || encode_linear(e, format, &mut bytes, &mut norm),
            );
        } else if format.sparsity == 0 {
            wide(
                #[inline(always)]
                || encode_dense_levels(e, format, &mut bytes, &mut norm),
            );
        } else {
            wide(
                #[inline(always)]
                || encode_sparse_levels(e, format, &mut bytes, &mut norm),
            );
        }
    }
    Encoded { bytes, norm_sq: norm.value() }
}

/// Squared norm of a decoded update: integer sums inside a group of one scale, groups added in order.
#[derive(Debug, Default)]
pub struct Norm(f64);

impl Norm {
    /// Adds a group: Σ of squared integers times the squared scale.
    pub(super) fn add(&mut self, squares: u64, scale: u16) {
        let scale = f64::from(widen(scale));
        self.0 += squares as f64 * (scale * scale);
    }

    /// The sum.
    pub fn value(&self) -> f64 {
        self.0
    }
}

fn encode_vector(e: &mut [u16], out: &mut Vec<u8>, norm: &mut Norm) {
    for e in e {
        out.extend_from_slice(&e.to_le_bytes());
        norm.add(1, *e);
        *e = 0;
    }
}

/// 8 bits, linear, one bf16 scale per chunk.
#[inline(always)]
fn encode_linear(e: &mut [u16], format: Format, out: &mut Vec<u8>, norm: &mut Norm) {
    let mut positions = Vec::new();
    let mut gaps = BitWriter::default();
    let mut scales = Vec::new();
    let mut codes: Vec<u8> = Vec::with_capacity(e.len() >> format.sparsity);
    for chunk in e.chunks_mut(CHUNK) {
        let max = chunk.iter().map(|&bits| bits & 0x7fff).max().unwrap_or(0);
        // The inverse of a subnormal scale is infinite, and zero times it is NaN.
        let scale = normal_or_zero(narrow(widen(max) / 127.0));
        scales.extend_from_slice(&scale.to_le_bytes());
        let step = widen(scale);
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        let quantise = |e: &mut u16| {
            let q = (widen(*e) * inverse).round_ties_even().clamp(-127.0, 127.0);
            *e = narrow_finite(widen(*e) - q * step);
            q as i32
        };
        let start = codes.len();
        if format.sparsity == 0 {
            codes.resize(start + chunk.len(), 0);
            chunk.iter_mut().zip(&mut codes[start..]).for_each(|(e, code)| *code = quantise(e) as u8);
        } else {
            positions.clear();
            select(chunk, format.kept(chunk.len()), 0, &mut positions);
            put_gaps(&mut gaps, &positions, format);
            codes.extend(positions.iter().map(|&i| quantise(&mut chunk[i as usize]) as u8));
        }
        norm.add(squares(&codes[start..]), scale);
    }
    out.extend_from_slice(&scales);
    put_stream(out, gaps, format);
    out.extend_from_slice(&codes);
}

/// Σ of squared signed bytes of a chunk.
#[inline(always)]
pub(super) fn squares(codes: &[u8]) -> u64 {
    // At most 4,096 × 127², which is less than 2^31; a checked sum would not vectorise.
    codes.iter().map(|&code| i32::from(code as i8)).fold(0i32, |sum, q| sum.wrapping_add(q.wrapping_mul(q))) as u64
}

/// The two magnitudes of a tensor and the limit between them.
struct Levels {
    split: f32,
    low: u16,
    high: u16,
}

impl Levels {
    /// From passes over the magnitudes that are sent: `sum(limit)` is the sum and number of those up to it.
    #[inline(always)]
    fn measure(bits: u8, mut sum: impl FnMut(f32) -> (f64, u64)) -> Self {
        let mean = |(sum, n): (f64, u64)| if n == 0 { 0.0 } else { (sum / n as f64) as f32 };
        let all = sum(f32::INFINITY);
        if bits == 1 {
            return Self { split: f32::INFINITY, low: narrow(mean(all)), high: 0 };
        }
        // Near the best split of a normal distribution (Max, 1960) when dense; of a tail when sparse.
        let split = 1.25 * mean(all);
        let below = sum(split);
        let above = (all.0 - below.0, all.1 - below.1);
        Self { split, low: narrow(mean(below)), high: narrow(mean(above)) }
    }

    /// The code of a value (sign, then level), which is taken out of it.
    #[inline(always)]
    fn take(&self, e: &mut u16) -> u8 {
        let (sign, is_high) = (*e & 0x8000, widen(*e & 0x7fff) > self.split);
        let level = if is_high { self.high } else { self.low };
        *e = narrow_finite(widen(*e) - widen(level | sign));
        (sign >> 15) as u8 | (u8::from(is_high) << 1)
    }

    #[inline(always)]
    fn put(&self, bits: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.low.to_le_bytes());
        if bits == 2 {
            out.extend_from_slice(&self.high.to_le_bytes());
        }
    }
}

/// Magnitudes up to `limit`: their sum and number. Sixteen running sums in a fixed pattern, so that
/// the result does not depend on the width of vectors.
#[inline(always)]
fn sum_to(values: &[u16], limit: f32) -> (f64, u64) {
    let (mut total, mut n) = (0.0f64, 0u64);
    for chunk in values.chunks(CHUNK) {
        let (mut sums, mut counts) = ([0.0f32; 16], [0u32; 16]);
        let mut add = |lane: usize, bits: u16| {
            let magnitude = widen(bits & 0x7fff);
            let inside = magnitude <= limit;
            sums[lane] += if inside { magnitude } else { 0.0 };
            counts[lane] = counts[lane].wrapping_add(u32::from(inside));
        };
        let (rows, rest) = chunk.as_chunks::<16>();
        rows.iter().for_each(|row| (0..16).for_each(|lane| add(lane, row[lane])));
        rest.iter().enumerate().for_each(|(lane, &bits)| add(lane, bits));
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        n += u64::from(counts.iter().sum::<u32>());
    }
    (total, n)
}

/// 1 or 2 bits for each value: a sign and, with 2, one of two magnitudes per tensor.
#[inline(always)]
fn encode_dense_levels(e: &mut [u16], format: Format, out: &mut Vec<u8>, norm: &mut Norm) {
    let levels = Levels::measure(format.bits, |limit| sum_to(e, limit));
    levels.put(format.bits, out);
    let mut codes = [0u8; CHUNK];
    let mut highs = 0;
    for chunk in e.chunks_mut(CHUNK) {
        let codes = &mut codes[..chunk.len()];
        chunk.iter_mut().zip(&mut *codes).for_each(|(e, code)| *code = levels.take(e));
        highs += u64::from(codes.iter().fold(0u16, |n, &code| n.wrapping_add(u16::from(code >> 1))));
        pack(codes, format.bits, out);
    }
    norm.add(e.len() as u64 - highs, levels.low);
    norm.add(highs, levels.high);
}

/// Codes of 1 or 2 bits, the first one lowest; what is left of the last byte is zero.
#[inline(always)]
fn pack(codes: &[u8], bits: u8, out: &mut Vec<u8>) {
    if bits == 1 {
        let (eights, rest) = codes.as_chunks::<8>();
        // The multiplication moves bit 0 of byte i to bit 56 + i.
        let byte = |codes: &[u8; 8]| (u64::from_le_bytes(*codes).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
        out.extend(eights.iter().map(byte));
        if !rest.is_empty() {
            out.push(rest.iter().enumerate().fold(0, |byte, (i, code)| byte | (code << i)));
        }
    } else {
        let (fours, rest) = codes.as_chunks::<4>();
        let byte = |codes: &[u8; 4]| {
            let word = u32::from_le_bytes(*codes);
            (word | (word >> 6) | (word >> 12) | (word >> 18)) as u8
        };
        out.extend(fours.iter().map(byte));
        if !rest.is_empty() {
            out.push(rest.iter().enumerate().fold(0, |byte, (i, code)| byte | (code << (2 * i))));
        }
    }
}

/// The same for the largest values only, with their positions.
#[inline(always)]
fn encode_sparse_levels(e: &mut [u16], format: Format, out: &mut Vec<u8>, norm: &mut Norm) {
    let mut positions = Vec::with_capacity((e.len() >> format.sparsity) + 1);
    let mut gaps = BitWriter::default();
    for (i, chunk) in e.chunks(CHUNK).enumerate() {
        let start = positions.len();
        select(chunk, format.kept(chunk.len()), (i * CHUNK) as u32, &mut positions);
        put_gaps(&mut gaps, &positions[start..], format);
    }
    let sent: Vec<u16> = positions.iter().map(|&i| e[i as usize]).collect();
    let levels = Levels::measure(format.bits, |limit| sum_to(&sent, limit));
    levels.put(format.bits, out);
    put_stream(out, gaps, format);
    let codes: Vec<u8> = positions.iter().map(|&i| levels.take(&mut e[i as usize])).collect();
    let highs = codes.iter().map(|&code| u64::from(code >> 1)).sum();
    pack(&codes, format.bits, out);
    norm.add(codes.len() as u64 - highs, levels.low);
    norm.add(highs, levels.high);
}

/// The gaps between ascending positions of one chunk (the first counts from the chunk's start).
fn put_gaps(gaps: &mut BitWriter, positions: &[u32], format: Format) {
    let mut next = positions.first().map_or(0, |&p| p - p % CHUNK as u32);
    for &position in positions {
        gaps.rice(position - next, format.rice());
        next = position + 1;
    }
}

/// A sparse tensor's index stream with its length; nothing where all values are sent.
fn put_stream(out: &mut Vec<u8>, gaps: BitWriter, format: Format) {
    if format.sparsity > 0 {
        let bytes = gaps.finish();
        (bytes.len() as u32).encode(out);
        out.extend_from_slice(&bytes);
    }
}
