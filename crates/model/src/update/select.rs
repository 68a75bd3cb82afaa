//! The k largest magnitudes of a chunk, by counting instead of sorting.

use super::CHUNK;

/// Appends to `out` the positions (plus `base`) of the `k` values of largest magnitude in `chunk`,
/// ascending; among equal magnitudes the lower position wins.
pub(super) fn select(chunk: &[u16], k: usize, base: u32, out: &mut Vec<u32>) {
    debug_assert!(chunk.len() <= CHUNK && k <= chunk.len());
    let (threshold, mut ties) = threshold(chunk, k);
    for (i, &bits) in chunk.iter().enumerate() {
        let magnitude = bits & 0x7fff;
        if magnitude >= threshold {
            if magnitude == threshold {
                if ties == 0 {
                    continue;
                }
                ties -= 1;
            }
            out.push(base + i as u32);
        }
    }
}

/// The k-th largest magnitude, and how many values equal to it belong to the k.
fn threshold(chunk: &[u16], k: usize) -> (u16, usize) {
    // Magnitudes of bf16 order as integers. Exponents first, in four tables so that equal
    // neighbours do not wait for each other, then the mantissas of the one exponent that decides.
    let mut tables = [[0u16; 256]; 4];
    let quads = chunk.chunks_exact(4);
    for &bits in quads.remainder() {
        tables[0][usize::from((bits & 0x7fff) >> 7)] += 1;
    }
    for quad in quads {
        for (table, &bits) in tables.iter_mut().zip(quad) {
            table[usize::from((bits & 0x7fff) >> 7)] += 1;
        }
    }
    let exponents = |e: usize| tables.iter().map(|table| usize::from(table[e])).sum::<usize>();
    let (exponent, left) = descend(255, k, exponents);
    let mut mantissas = [0u16; 128];
    for &bits in chunk {
        if usize::from((bits & 0x7fff) >> 7) == exponent {
            mantissas[usize::from(bits & 0x7f)] += 1;
        }
    }
    let (mantissa, ties) = descend(127, left, |m| usize::from(mantissas[m]));
    (((exponent << 7) | mantissa) as u16, ties)
}

/// Walks down from `top` until `k` values are passed: the bin of the k-th, and how many of it are needed.
fn descend(top: usize, k: usize, count: impl Fn(usize) -> usize) -> (usize, usize) {
    let mut left = k;
    for bin in (0..=top).rev() {
        let n = count(bin);
        if n >= left {
            return (bin, left);
        }
        left -= n;
    }
    unreachable!("k is at most the number of values")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_agrees_with_sorting(chunk in prop::collection::vec(0u16..0x8180, 1..300), share in 1usize..20) {
            let k = chunk.len().div_ceil(share);
            let mut expected: Vec<u32> = (0..chunk.len() as u32).collect();
            expected.sort_by_key(|&i| (std::cmp::Reverse(chunk[i as usize] & 0x7fff), i));
            expected.truncate(k);
            expected.sort_unstable();
            let mut got = Vec::new();
            select(&chunk, k, 0, &mut got);
            prop_assert_eq!(got, expected);
        }
    }
}
