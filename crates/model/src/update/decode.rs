//! Bytes to an update, tensor by tensor. The bytes come from a peer: every length is checked
//! against the layout, and nothing is allocated that the layout does not call for.

use super::bits::BitReader;
use super::encode::{Norm, VERSION, squares};
use super::{CHUNK, Format, widen};
use crate::simd::wide;
use crate::{Layout, Param};
use base::{Reader, Reject, Wire};
use std::ops::Range;

/// A scale that no value uses is refused: it adds nothing to the norm by which an update is held to account, yet
/// would set the unit in which everybody's values are summed.
const UNUSED: Reject = Reject::Malformed;

/// Reads an update tensor by tensor, in the order of the layout.
pub struct Decoder<'a> {
    input: Reader<'a>,
    format: Format,
    norm: Norm,
}

/// What an update says of one tensor.
pub struct TensorUpdate<'a> {
    /// Positions in the tensor, ascending; `None` = all.
    pub positions: Option<Vec<u32>>,
    /// One value per position.
    pub values: Values<'a>,
    /// Sent values in a whole chunk.
    kept: usize,
}

/// Sent values: integers with bf16 scales.
pub enum Values<'a> {
    /// Each value by itself in bf16.
    Plain(Vec<u16>),
    /// `code × scale` of the chunk in which its position lies.
    Linear {
        /// One scale per chunk.
        scales: Vec<u16>,
        /// Signed bytes, −127..=127.
        codes: &'a [u8],
    },
    /// A table of signed values (index = code).
    Levels {
        /// Low, −low, high, −high, in bf16.
        table: [u16; 4],
        /// Indices into the table.
        codes: Packed<'a>,
    },
}

/// Codes of 1 or 2 bits, the first one in the lowest bits of the first byte.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    bits: u8,
    len: usize,
}

impl Packed<'_> {
    /// All codes, in order.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.range(0..self.len)
    }

    /// The codes at `range`, in order.
    #[inline(always)]
    pub fn range(&self, range: Range<usize>) -> impl Iterator<Item = usize> {
        let (shift, mask) = if self.bits == 1 { (3, 7) } else { (2, 3) };
        range.map(move |i| {
            let byte = self.bytes[i >> shift] >> ((i & mask) as u8 * self.bits);
            usize::from(byte & ((1 << self.bits) - 1))
        })
    }
}

impl<'a> Decoder<'a> {
    /// Reads the header of `bytes`, which must be an update for `layout`.
    pub fn new(layout: &Layout, bytes: &'a [u8]) -> Result<Self, Reject> {
        let mut input = Reader::new(bytes);
        let malformed = |_| Reject::Malformed;
        let [version, sparsity, bits] = input.array().map_err(malformed)?;
        if version != VERSION {
            return Err(Reject::Malformed);
        }
        let format = Format::new(sparsity, bits)?;
        if u64::decode(&mut input).map_err(malformed)? != layout.len as u64 {
            return Err(Reject::WrongSize);
        }
        Ok(Self { input, format, norm: Norm::default() })
    }

    /// How it was encoded.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The next tensor, which is `param`.
    pub fn tensor(&mut self, param: &Param) -> Result<TensorUpdate<'a>, Reject> {
        let n = param.len();
        if !param.is_matrix() {
            let values = self.words(n)?;
            for &value in &values {
                self.norm.add(1, value);
            }
            return Ok(TensorUpdate { positions: None, values: Values::Plain(values), kept: CHUNK });
        }
        if self.format.bits == 8 { self.linear(n) } else { self.levels(n) }
    }

    /// Asserts that everything was read; gives the squared norm.
    pub fn finish(self) -> Result<f64, Reject> {
        self.input.end().map_err(|_| Reject::Malformed)?;
        Ok(self.norm.value())
    }

    fn linear(&mut self, n: usize) -> Result<TensorUpdate<'a>, Reject> {
        let scales = self.words(n.div_ceil(CHUNK))?;
        if scales.iter().any(|scale| scale >> 15 != 0) {
            return Err(Reject::Malformed);
        }
        let positions = self.positions(n)?;
        let count = positions.as_ref().map_or(n, Vec::len);
        let codes = self.take(count)?;
        if wide(
            #[inline(always)]
            || codes.iter().fold(false, |any, &code| any | (code == 0x80)),
        ) {
            return Err(Reject::Malformed);
        }
        let mut rest = codes;
        for (i, &scale) in scales.iter().enumerate() {
            let len = CHUNK.min(n - i * CHUNK);
            let kept = if positions.is_some() { self.format.kept(len) } else { len };
            let (head, tail) = rest.split_at(kept);
            let sum = wide(
                #[inline(always)]
                || squares(head),
            );
            if sum == 0 && scale != 0 {
                return Err(UNUSED);
            }
            if !(widen(scale) * 127.0).is_finite() {
                return Err(Reject::NotFinite);
            }
            self.norm.add(sum, scale);
            rest = tail;
        }
        Ok(TensorUpdate { positions, values: Values::Linear { scales, codes }, kept: self.format.kept(CHUNK) })
    }

    fn levels(&mut self, n: usize) -> Result<TensorUpdate<'a>, Reject> {
        let words = self.words(usize::from(self.format.bits))?;
        if words.iter().any(|level| level >> 15 != 0) {
            return Err(Reject::Malformed);
        }
        let (low, high) = (words[0], words.get(1).copied().unwrap_or(0));
        let positions = self.positions(n)?;
        let count = positions.as_ref().map_or(n, Vec::len);
        let bits = self.format.bits;
        let bytes = self.take((count * usize::from(bits)).div_ceil(8))?;
        let used = count * usize::from(bits) % 8;
        if used > 0 && bytes.last().is_some_and(|last| last >> used != 0) {
            return Err(Reject::Malformed);
        }
        let high_bits = || bytes.iter().map(|byte| u64::from((byte & 0xaa).count_ones())).sum();
        let highs: u64 = if bits == 2 { high_bits() } else { 0 };
        let lows = count as u64 - highs;
        if (lows == 0 && low != 0) || (highs == 0 && high != 0) {
            return Err(UNUSED);
        }
        let codes = Packed { bytes, bits, len: count };
        self.norm.add(lows, low);
        self.norm.add(highs, high);
        let table = [low, low | 0x8000, high, high | 0x8000];
        Ok(TensorUpdate { positions, values: Values::Levels { table, codes }, kept: self.format.kept(CHUNK) })
    }

    /// The positions of a sparse tensor: exactly the kept number in each chunk, ascending.
    fn positions(&mut self, n: usize) -> Result<Option<Vec<u32>>, Reject> {
        if self.format.sparsity == 0 {
            return Ok(None);
        }
        let len = u32::decode(&mut self.input).map_err(|_| Reject::Malformed)? as usize;
        let mut reader = BitReader::new(self.take(len)?);
        let rice = self.format.rice();
        // Each code takes at least rice + 1 bits, so a short stream cannot make this large.
        let mut out = Vec::with_capacity((n >> self.format.sparsity).min(len * 8));
        let mut start = 0;
        while start < n {
            let end = (start + CHUNK).min(n);
            let mut next = start;
            for _ in 0..self.format.kept(end - start) {
                let left = end.checked_sub(next + 1).ok_or(Reject::Malformed)?;
                let position = next + reader.rice(rice, left as u32)? as usize;
                out.push(position as u32);
                next = position + 1;
            }
            start = end;
        }
        reader.end()?;
        Ok(Some(out))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Reject> {
        self.input.take(n).map_err(|_| Reject::Malformed)
    }

    /// `n` finite bf16 values.
    fn words(&mut self, n: usize) -> Result<Vec<u16>, Reject> {
        let bytes = self.take(n.checked_mul(2).ok_or(Reject::Malformed)?)?;
        let words: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        if words.iter().any(|word| word & 0x7f80 == 0x7f80) {
            return Err(Reject::NotFinite);
        }
        Ok(words)
    }
}

impl TensorUpdate<'_> {
    /// Which of the sent values lie in chunk `i`.
    pub fn part(&self, i: usize) -> Range<usize> {
        let len = match &self.values {
            Values::Plain(values) => values.len(),
            Values::Linear { codes, .. } => codes.len(),
            Values::Levels { codes, .. } => codes.len,
        };
        (i * self.kept).min(len)..((i + 1) * self.kept).min(len)
    }

    /// Calls `each(position, value)` for every sent value, in order.
    pub fn each(&self, mut each: impl FnMut(usize, f32)) {
        let position = |i: usize| self.positions.as_ref().map_or(i, |p| p[i] as usize);
        match &self.values {
            Values::Plain(values) => {
                values.iter().enumerate().for_each(|(i, &v)| each(position(i), widen(v)));
            }
            Values::Linear { scales, codes } => {
                for (i, &code) in codes.iter().enumerate() {
                    let at = position(i);
                    each(at, f32::from(code as i8) * widen(scales[at / CHUNK]));
                }
            }
            Values::Levels { table, codes } => {
                codes.iter().enumerate().for_each(|(i, code)| each(position(i), widen(table[code])));
            }
        }
    }
}
