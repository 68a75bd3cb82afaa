//! The k largest magnitudes of a chunk, by counting instead of sorting.

use super::CHUNK;

/// Appends to `out` the positions (plus `base`) of the `k` values of largest magnitude in `chunk`,
/// ascending; among equal magnitudes the lower position wins.
#[inline(always)]
pub(super) fn select(chunk: &[u16], k: usize, base: u32, out: &mut Vec<u32>) {
    debug_assert!(chunk.len() <= CHUNK && k <= chunk.len() && k > 0);
    let threshold = threshold(chunk, k);
    let mut ties = k - at_least(chunk, threshold + 1);
    let mut hits = [0u8; CHUNK];
    for (hit, &bits) in hits.iter_mut().zip(chunk) {
        *hit = u8::from(bits & 0x7fff >= threshold);
    }
    // Eight at a time: most groups have no hit.
    let (groups, _) = hits.as_chunks::<8>();
    for (i, group) in groups.iter().enumerate() {
        let mut mask = u64::from_le_bytes(*group);
        while mask != 0 {
            let at = 8 * i + mask.trailing_zeros() as usize / 8;
            mask &= mask - 1;
            if chunk[at] & 0x7fff == threshold {
                if ties == 0 {
                    continue;
                }
                ties -= 1;
            }
            out.push(base + at as u32);
        }
    }
}

/// The k-th largest magnitude. Magnitudes of bf16 order as integers, so the answer is found bit by
/// bit: fifteen passes over a chunk in the first-level cache, each a vectorised count.
#[inline(always)]
fn threshold(chunk: &[u16], k: usize) -> u16 {
    let mut threshold = 0u16;
    for bit in (0..15).rev() {
        let higher = threshold | (1 << bit);
        if at_least(chunk, higher) >= k {
            threshold = higher;
        }
    }
    threshold
}

/// How many magnitudes are `limit` or more.
#[inline(always)]
fn at_least(chunk: &[u16], limit: u16) -> usize {
    // A chunk has fewer than 2^16 values; a checked sum would not vectorise.
    usize::from(chunk.iter().fold(0u16, |n, &bits| n.wrapping_add(u16::from(bits & 0x7fff >= limit))))
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
