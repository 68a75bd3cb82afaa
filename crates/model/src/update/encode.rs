//! Error feedback to bytes.

use super::bits::BitWriter;
use super::select::select;
use super::{CHUNK, Format, narrow, widen};
use crate::Layout;
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

/// e ← bf16(β·e + Δ). Refuses Δ that is not finite, or too large for bf16, and leaves e as it was.
pub fn fold(e: &mut [u16], beta: f32, delta: &[f32]) -> Result<(), Reject> {
    assert_eq!(e.len(), delta.len(), "one error per parameter");
    // Half of bf16's range, so that adding the old error cannot overflow.
    let limit = f32::MAX / 4.0;
    if !delta.iter().all(|x| x.abs() < limit) {
        return Err(Reject::NotFinite);
    }
    for (e, &delta) in e.iter_mut().zip(delta) {
        *e = narrow(beta * widen(*e) + delta);
    }
    Ok(())
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
            encode_linear(e, format, &mut bytes, &mut norm);
        } else {
            encode_levels(e, format, &mut bytes, &mut norm);
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
fn encode_linear(e: &mut [u16], format: Format, out: &mut Vec<u8>, norm: &mut Norm) {
    let mut positions = Vec::new();
    let mut gaps = BitWriter::default();
    let mut scales = Vec::new();
    let mut codes: Vec<u8> = Vec::with_capacity(e.len() >> format.sparsity);
    for chunk in e.chunks_mut(CHUNK) {
        let max = chunk.iter().map(|&bits| bits & 0x7fff).max().unwrap_or(0);
        let scale = narrow(widen(max) / 127.0);
        scales.extend_from_slice(&scale.to_le_bytes());
        let step = widen(scale);
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        let mut squares = 0u64;
        if format.sparsity == 0 {
            let start = codes.len();
            codes.resize(start + chunk.len(), 0);
            for (e, code) in chunk.iter_mut().zip(&mut codes[start..]) {
                let q = (widen(*e) * inverse).round_ties_even().clamp(-127.0, 127.0);
                *e = narrow(widen(*e) - q * step);
                *code = q as i8 as u8;
            }
            squares = codes[start..].iter().map(|&code| i32::from(code as i8).pow(2) as u64).sum();
        } else {
            positions.clear();
            select(chunk, format.kept(chunk.len()), 0, &mut positions);
            put_gaps(&mut gaps, &positions, format);
            for &i in &positions {
                let e = &mut chunk[i as usize];
                let q = (widen(*e) * inverse).round_ties_even().clamp(-127.0, 127.0);
                *e = narrow(widen(*e) - q * step);
                codes.push(q as i8 as u8);
                squares += (q as i64).pow(2) as u64;
            }
        }
        norm.add(squares, scale);
    }
    out.extend_from_slice(&scales);
    put_stream(out, gaps, format);
    out.extend_from_slice(&codes);
}

/// 1 or 2 bits: a sign and, with 2, one of two magnitudes per tensor.
fn encode_levels(e: &mut [u16], format: Format, out: &mut Vec<u8>, norm: &mut Norm) {
    let mut positions = Vec::with_capacity((e.len() >> format.sparsity) + 1);
    let mut gaps = BitWriter::default();
    for (i, chunk) in e.chunks(CHUNK).enumerate() {
        let base = (i * CHUNK) as u32;
        if format.sparsity == 0 {
            positions.extend(base..base + chunk.len() as u32);
        } else {
            let start = positions.len();
            select(chunk, format.kept(chunk.len()), base, &mut positions);
            put_gaps(&mut gaps, &positions[start..], format);
        }
    }
    let magnitude = |i: &u32| widen(e[*i as usize] & 0x7fff);
    let mean = mean_of(positions.iter().map(magnitude));
    // Near the best split of a normal distribution (Max, 1960) when dense; of a tail when sparse.
    let split = if format.bits == 1 { f32::INFINITY } else { 1.25 * mean };
    let low = narrow(mean_of(positions.iter().map(magnitude).filter(|&m| m <= split)));
    let high = narrow(mean_of(positions.iter().map(magnitude).filter(|&m| m > split)));
    let mut codes = BitWriter::default();
    let mut counts = [0u64; 2];
    for &i in &positions {
        let e = &mut e[i as usize];
        let (sign, is_high) = (*e >> 15, widen(*e & 0x7fff) > split);
        let level = if is_high { high } else { low };
        let sent = widen(level | (sign << 15));
        *e = narrow(widen(*e) - sent);
        counts[usize::from(is_high)] += 1;
        codes.put(u32::from(sign) | (u32::from(is_high) << 1), u32::from(format.bits));
    }
    norm.add(counts[0], low);
    norm.add(counts[1], high);
    out.extend_from_slice(&low.to_le_bytes());
    if format.bits == 2 {
        out.extend_from_slice(&high.to_le_bytes());
    }
    put_stream(out, gaps, format);
    out.extend_from_slice(&codes.finish());
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

fn mean_of(values: impl Iterator<Item = f32>) -> f32 {
    let (mut sum, mut n) = (0.0f64, 0u64);
    for value in values {
        sum += f64::from(value);
        n += 1;
    }
    if n == 0 { 0.0 } else { (sum / n as f64) as f32 }
}
