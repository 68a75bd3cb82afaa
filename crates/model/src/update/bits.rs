//! A bit stream, least significant bit first.

use base::Reject;

/// Appends bits.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    count: u32,
}

impl BitWriter {
    /// The low `n` ≤ 32 bits of `value`.
    pub(super) fn put(&mut self, value: u32, n: u32) {
        self.pending |= u64::from(value) << self.count;
        self.count += n;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.count -= 32;
        }
    }

    /// Rice code: the quotient in unary (ones, then a zero), the low `b` ≤ 8 bits plain.
    pub(super) fn rice(&mut self, value: u32, b: u32) {
        let mut quotient = value >> b;
        while quotient > 22 {
            self.put(0x003f_ffff, 22);
            quotient -= 22;
        }
        let low = value & ((1 << b) - 1);
        self.put(((1 << quotient) - 1) | (low << (quotient + 1)), quotient + 1 + b);
    }

    /// The bytes, the last one filled with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let left = self.count.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.pending.to_le_bytes()[..left]);
        self.bytes
    }
}

/// Reads bits; past the end it refuses.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
    pending: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, pending: 0, count: 0 }
    }

    fn fill(&mut self) {
        if let Some(word) = self.bytes[self.at..].first_chunk::<8>() {
            let whole = (64 - self.count) / 8;
            if whole > 0 {
                let word = u64::from_le_bytes(*word) & (u64::MAX >> (64 - 8 * whole));
                self.pending |= word << self.count;
                self.at += whole as usize;
                self.count += 8 * whole;
            }
            return;
        }
        while self.count <= 56 && self.at < self.bytes.len() {
            self.pending |= u64::from(self.bytes[self.at]) << self.count;
            self.at += 1;
            self.count += 8;
        }
    }

    /// The next `n` ≤ 32 bits.
    pub(super) fn take(&mut self, n: u32) -> Result<u32, Reject> {
        self.fill();
        if n > self.count {
            return Err(Reject::Malformed);
        }
        let value = (self.pending & ((1u64 << n) - 1)) as u32;
        self.pending >>= n;
        self.count -= n;
        Ok(value)
    }

    /// A Rice code of at most `max`.
    pub(super) fn rice(&mut self, b: u32, max: u32) -> Result<u32, Reject> {
        self.fill();
        let mut quotient = self.pending.trailing_ones();
        if quotient + 1 + b <= self.count {
            self.pending >>= quotient + 1;
            self.count -= quotient + 1;
        } else {
            quotient = self.long_quotient(max >> b)?;
        }
        if quotient > max >> b {
            return Err(Reject::Malformed);
        }
        let value = (quotient << b) | self.take(b)?;
        if value > max { Err(Reject::Malformed) } else { Ok(value) }
    }

    /// A run of ones, longer than what is pending, and the zero behind it.
    fn long_quotient(&mut self, max: u32) -> Result<u32, Reject> {
        let mut quotient = 0;
        loop {
            self.fill();
            let ones = self.pending.trailing_ones().min(self.count);
            quotient += ones;
            if self.count == 0 || quotient > max {
                return Err(Reject::Malformed);
            }
            let stopped = ones < self.count;
            let used = ones + u32::from(stopped);
            self.pending = self.pending.checked_shr(used).unwrap_or(0);
            self.count -= used;
            if stopped {
                return Ok(quotient);
            }
        }
    }

    /// Asserts that only the filling of the last byte is left, and that it is zero.
    pub(super) fn end(mut self) -> Result<(), Reject> {
        self.fill();
        let clean = self.at == self.bytes.len() && self.count < 8 && self.pending == 0;
        if clean { Ok(()) } else { Err(Reject::Malformed) }
    }
}
