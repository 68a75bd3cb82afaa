//! Lies about what was learned.

use crate::scenario::Liar;
use base::Rng;
use model::Layout;

/// A million, in bf16.
const MILLION: u16 = 0x4974;
/// Three more in the exponent of bf16: eight times as much.
const EIGHTFOLD: u16 = 3 << 7;

/// Puts a lie in place of `values`, in bf16, which an honest member would send in `round` (of the one who sends an old
/// update: those that another sent). Gives whether this liar lies about values at all.
pub(crate) fn distort(liar: Liar, values: &mut [u16], layout: &Layout, round: u64, rng: &mut Rng) -> bool {
    let gains = || layout.params.iter().filter(|param| !param.is_matrix());
    let Some(gain) = gains().map(|param| param.offset).next() else { return false };
    match liar {
        Liar::Empty => {
            values.fill(0);
            // The smallest normal numbers: another one each round, for the log takes no update twice.
            values[gain] = 0x80 | (round % 0x80) as u16;
        }
        Liar::Noise | Liar::Instant => {
            let square = |bits: &u16| f32::from_bits(u32::from(*bits) << 16).powi(2);
            let mean = values.iter().map(square).sum::<f32>() / values.len() as f32;
            let size = (mean.sqrt().to_bits() >> 16) as u16;
            values.iter_mut().for_each(|value| *value = size | (rng.next_u64() as u16 & 0x8000));
        }
        Liar::Huge if round.is_multiple_of(2) => values[(round % 256) as usize] = MILLION,
        Liar::Huge => gains().for_each(|param| values[param.range()].fill(MILLION)),
        Liar::Opposite => {
            for value in values.iter_mut().filter(|value| **value & 0x7fff != 0) {
                *value = (*value ^ 0x8000) + EIGHTFOLD;
            }
        }
        Liar::Stale => values[gain] = if values[gain] & 0x7fff == 0 { 0x80 } else { values[gain] ^ 1 },
        _ => return false,
    }
    true
}
