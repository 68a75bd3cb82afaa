use super::*;
use crate::{Layout, ModelConfig, Part, verify_update};
use base::Rng;
use proptest::prelude::*;

fn layout() -> Layout {
    let config = ModelConfig::preset("nano", 300, 64).expect("nano");
    Layout::new(&config, &Part::whole(&config))
}

fn noise(layout: &Layout, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..layout.len).map(|_| rng.normal() * 1e-3).collect()
}

fn formats() -> impl Iterator<Item = Format> {
    [0, 2, 4, 6].into_iter().flat_map(|s| [1, 2, 8].map(|b| Format::new(s, b).expect("known")))
}

fn values(layout: &Layout, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; layout.len];
    let mut decoder = Decoder::new(layout, bytes).expect("header");
    for param in &layout.params {
        let range = param.range();
        decoder.tensor(param).expect("tensor").each(|i, v| out[range.start + i] = v);
    }
    decoder.finish().expect("end");
    out
}

#[test]
fn what_was_sent_left_the_error_feedback() {
    let layout = layout();
    for format in formats() {
        let mut e = vec![0u16; layout.len];
        fold(&mut e, 1.0, &noise(&layout, 1)).expect("finite");
        let before = e.clone();
        let encoded = encode(&layout, &mut e, format);
        verify_update(&layout, &encoded.bytes, format, encoded.norm_sq).expect("own updates are valid");
        let sent = values(&layout, &encoded.bytes);
        for i in 0..layout.len {
            assert_eq!(e[i], narrow(widen(before[i]) - sent[i]), "{format:?} at {i}");
        }
        let norm_sq: f64 = sent.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((norm_sq / encoded.norm_sq - 1.0).abs() < 1e-9, "{format:?}");
    }
}

#[test]
fn sizes_are_those_that_are_planned_with() {
    let mut config = ModelConfig::preset("small", 2048, 64).expect("small");
    config.num_hidden_layers = 1;
    let layout = Layout::new(&config, &Part::whole(&config));
    for format in formats() {
        let mut e = vec![0u16; layout.len];
        fold(&mut e, 1.0, &noise(&layout, 2)).expect("finite");
        let bits = encode(&layout, &mut e, format).bytes.len() as f64 * 8.0 / layout.len as f64;
        let planned = format.bits_per_parameter();
        assert!((bits / planned - 1.0).abs() < 0.06, "{format:?}: {bits} against {planned}");
    }
}

#[test]
fn no_update_is_longer_than_its_format_allows() {
    let layout = layout();
    // Values that stand together, at the end of each chunk, have the longest gap before them.
    let late: Vec<f32> = (0..layout.len).map(|i| if i % CHUNK > CHUNK - 70 { 1.0 } else { 0.0 }).collect();
    for format in formats() {
        let most = format.bytes_max(&layout);
        for delta in [&late, &noise(&layout, 4), &vec![0.0; layout.len]] {
            let mut e = vec![0u16; layout.len];
            fold(&mut e, 1.0, delta).expect("finite");
            let bytes = encode(&layout, &mut e, format).bytes.len() as u64;
            assert!(bytes <= most && 2 * bytes > most, "{format:?}: {bytes} of {most}");
            assert!(format.sparsity > 0 || bytes == most, "{format:?}: {bytes} of {most}");
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut e = vec![1u16; 4];
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        assert_eq!(fold(&mut e, 1.0, &[0.0, bad, 0.0, 0.0]), Err(Reject::NotFinite));
        assert_eq!(e, vec![1u16; 4]);
    }
}

#[test]
fn an_error_feedback_that_is_not_finite_is_refused_and_a_subnormal_one_is_zero() {
    for bad in [0x7fc0u16, 0xff80, 0x7f00] {
        assert_eq!(fold(&mut [0, bad], 1.0, &[0.0; 2]), Err(Reject::NotFinite), "{bad:x}");
    }
    let mut e = [1u16, 0x807f, 0x0080, 0x3f80];
    assert_eq!(fold(&mut e, 1.0, &[0.0; 4]), Ok(()));
    assert_eq!(e, [0, 0, 0x0080, 0x3f80]);
}

#[test]
fn a_chunk_of_zeros_and_of_numbers_too_small_for_a_scale_stays_as_it_is() {
    let layout = layout();
    for sparsity in [0, 2, 4, 6] {
        for max in [0x0080u16, 0x0200, 0x0400, 0x0800] {
            let mut e = vec![0u16; layout.len];
            e[..CHUNK].iter_mut().step_by(3).for_each(|e| *e = max);
            let before = e.clone();
            let format = Format::new(sparsity, 8).expect("known");
            let encoded = encode(&layout, &mut e, format);
            verify_update(&layout, &encoded.bytes, format, encoded.norm_sq).expect("own updates are valid");
            assert!(e.iter().all(|e| e & 0x7f80 != 0x7f80), "1/{}: NaN beside {max:x}", 1 << sparsity);
            if max < 0x0400 {
                assert_eq!(e, before, "1/{}: {max:x} has no scale", 1 << sparsity);
            }
        }
    }
}

#[test]
fn wrong_updates_are_refused_by_name() {
    let layout = layout();
    let format = Format::new(4, 2).expect("known");
    let mut e = vec![0u16; layout.len];
    fold(&mut e, 1.0, &noise(&layout, 3)).expect("finite");
    let good = encode(&layout, &mut e, format);
    let check = |bytes: &[u8], norm: f64| verify_update(&layout, bytes, format, norm).expect_err("refused");
    assert_eq!(check(&good.bytes, good.norm_sq * 2.0), Reject::WrongNorm);
    assert_eq!(check(&good.bytes[..good.bytes.len() - 1], good.norm_sq), Reject::Malformed);
    assert_eq!(check(&[], good.norm_sq), Reject::Malformed);
    let mut longer = good.bytes.clone();
    longer.push(0);
    assert_eq!(check(&longer, good.norm_sq), Reject::Malformed);
    let mut other_model = good.bytes.clone();
    other_model[3] ^= 1;
    assert_eq!(check(&other_model, good.norm_sq), Reject::WrongSize);
    let mut not_finite = good.bytes.clone();
    not_finite[11..13].copy_from_slice(&0x7f80u16.to_le_bytes());
    assert_eq!(check(&not_finite, good.norm_sq), Reject::NotFinite);
    let other = Format::new(4, 1).expect("known");
    assert_eq!(verify_update(&layout, &good.bytes, other, good.norm_sq), Err(Reject::Malformed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_updates_never_panic(seed: u64, flips in prop::collection::vec((any::<u32>(), any::<u8>()), 1..20)) {
        let layout = layout();
        let mut rng = Rng::new(seed);
        let format = formats().nth(rng.below(12) as usize).expect("twelve");
        let mut e = vec![0u16; layout.len];
        fold(&mut e, 1.0, &noise(&layout, seed)).expect("finite");
        let mut encoded = encode(&layout, &mut e, format);
        for (at, flip) in flips {
            let at = at as usize % encoded.bytes.len();
            encoded.bytes[at] ^= flip;
        }
        let _ = verify_update(&layout, &encoded.bytes, format, encoded.norm_sq);
    }
}

/// Embedding rows that a round did not touch leave long runs of zeros: gaps as long as a chunk.
#[test]
fn updates_that_are_mostly_zero_decode() {
    let layout = layout();
    for format in formats() {
        for (seed, touched) in [(1, 1), (2, 7), (3, 300), (4, 2000)] {
            let mut e = vec![0u16; layout.len];
            let mut rng = Rng::new(seed);
            for _ in 0..touched {
                e[rng.below(layout.len as u64) as usize] = narrow(rng.normal() * 1e-3);
            }
            let encoded = encode(&layout, &mut e, format);
            verify_update(&layout, &encoded.bytes, format, encoded.norm_sq)
                .unwrap_or_else(|reject| panic!("{format:?}, {touched} values: {reject}"));
        }
    }
}
