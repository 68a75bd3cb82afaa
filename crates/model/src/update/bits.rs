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

    /// Rice code: the quotient in unary (ones, then a zero), the low `b` bits plain.
    pub(super) fn rice(&mut self, value: u32, b: u32) {
        let mut quotient = value >> b;
        while quotient >= 31 {
            self.put(0x7fff_ffff, 31);
            quotient -= 31;
        }
        self.put((1 << quotient) - 1, quotient + 1);
        self.put(value & ((1 << b) - 1), b);
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
        let mut quotient = 0;
        loop {
            self.fill();
            let ones = self.pending.trailing_ones().min(self.count);
            quotient += ones;
            if quotient > max >> b {
                return Err(Reject::Malformed);
            }
            let stopped = ones < self.count;
            self.take_many(ones + u32::from(stopped))?;
            if stopped {
                break;
            }
            if self.at == self.bytes.len() {
                return Err(Reject::Malformed);
            }
        }
        let value = (quotient << b) | self.take(b)?;
        if value > max { Err(Reject::Malformed) } else { Ok(value) }
    }

    fn take_many(&mut self, n: u32) -> Result<(), Reject> {
        self.take(n.min(32))?;
        self.take(n - n.min(32)).map(|_| ())
    }

    /// Asserts that only the filling of the last byte is left, and that it is zero.
    pub(super) fn end(mut self) -> Result<(), Reject> {
        self.fill();
        let clean = self.at == self.bytes.len() && self.count < 8 && self.pending == 0;
        if clean { Ok(()) } else { Err(Reject::Malformed) }
    }
}
