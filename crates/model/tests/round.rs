//! One round among several members: order, scaling, error feedback, and the frozen result.

use base::{Hash, Reject, Rng};
use model::update::{Encoded, Format, encode, fold};
use model::{
    AdamW, Applied, ApplyError, ApplyRule, Contribution, Layout, ModelConfig, Part, Weights, apply, restitution,
    shares, verify_update,
};

fn setup() -> (ModelConfig, Layout) {
    let config = ModelConfig::preset("nano", 300, 64).expect("nano");
    let layout = Layout::new(&config, &Part::whole(&config));
    (config, layout)
}

fn updates(layout: &Layout, format: Format) -> Vec<(Vec<u8>, f64)> {
    (0..4)
        .map(|member| {
            let mut rng = Rng::new(member);
            let delta: Vec<f32> = (0..layout.len).map(|_| rng.normal() * 1e-3 * (member + 1) as f32).collect();
            let mut e = vec![0; layout.len];
            fold(&mut e, 1.0, &delta).expect("finite");
            let encoded = encode(layout, &mut e, format);
            (encoded.bytes, encoded.norm_sq)
        })
        .collect()
}

fn rules() -> [ApplyRule; 2] {
    [
        ApplyRule::Local { alpha: 1.0, decay: 1e-3, steps: 1.0, reach: 1.0 },
        ApplyRule::Gradients { adam: AdamW::new(0.1), lr: 1e-3, step: 1, clip: 1.0 },
    ]
}

fn applied(order: &[usize], format: Format, rule: &ApplyRule) -> Hash {
    let (config, layout) = setup();
    let mut updates = updates(&layout, format);
    updates.extend([(8, 1.0), (9, 1e6)].map(|(seed, size)| {
        let liar = encoded(&layout, format, &noise(&layout, seed, size));
        (liar.bytes, liar.norm_sq)
    }));
    const TOKENS: [u64; 6] = [100, 200, 300, 400, 50, 50];
    let set: Vec<Contribution<'_>> = (order.iter())
        .map(|&i| Contribution { bytes: &updates[i].0, tokens: TOKENS[i], norm_sq: updates[i].1 })
        .collect();
    let mut weights = Weights::init(&layout, &config, 7, matches!(rule, ApplyRule::Gradients { .. }));
    apply(&layout, &mut weights, &set, rule, &mut Vec::new()).expect("applied");
    weights.tree().root()
}

/// Frozen: changing it changes what every machine of a run must agree on. Holds on x86-64 and
/// aarch64 alike, for the arithmetic is integers and unfused IEEE 754.
const GOLDEN: [&str; 2] = [
    "aa75c4d7968960bf99a6d14da69fcada135cd7bc109934fd81c26721ebe9e731",
    "99700570cd20b17dfe0b5b78b54bf64063adbad1cd1028ddb2aa34de5a51538b",
];

/// The same with two liars: of one a little is left, of the other nothing.
const GOLDEN_LIARS: [&str; 2] = [
    "9d091fef3e15876ddb2d1e9c08e07ecf8abb3d96e00754c16ce8eb915f8243d1",
    "f56f9eccd72866293ab45d85c793ed9132ebdaa91f0af1bbdc4cf80d9705cf72",
];

#[test]
fn order_and_threads_do_not_show_and_the_result_is_frozen() {
    for sparsity in [0, 4] {
        for bits in [1, 2, 8] {
            let format = Format::new(sparsity, bits).expect("known");
            for rule in &rules() {
                let root = applied(&[0, 1, 2, 3], format, rule);
                assert_eq!(root, applied(&[3, 1, 0, 2], format, rule));
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("pool");
                assert_eq!(root, pool.install(|| applied(&[2, 3, 1, 0], format, rule)));
            }
        }
    }
    let format = Format::new(4, 2).expect("known");
    let roots = |order: &[usize]| rules().each_ref().map(|rule| applied(order, format, rule).to_string());
    let (honest, liars) = (roots(&[0, 1, 2, 3]), roots(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(
        (honest.each_ref(), liars.each_ref()),
        (GOLDEN.map(str::to_owned).each_ref(), GOLDEN_LIARS.map(str::to_owned).each_ref())
    );
    assert_eq!(roots(&[5, 3, 1, 4, 0, 2]), liars);
}

#[test]
fn long_updates_are_scaled_to_the_median_and_the_rest_is_given_back() {
    let set = [(100, 1.0), (100, 1.0), (100, 100.0)];
    let scaled = shares(&set);
    assert_eq!(scaled[0].0, 1 << 16);
    assert_eq!(scaled[2].0, (0.15 * 65_536.0) as u32);
    // The upper one of the two in the middle, 2, is the measure.
    let of_four = shares(&[(100, 1.0), (100, 400.0), (100, 4.0), (100, 1.0)]);
    let scales: Vec<u32> = of_four.iter().map(|(scale, _)| *scale).collect();
    assert_eq!(scales, [1 << 16, (0.15 * 65_536.0) as u32, 1 << 16, 1 << 16]);
    assert!(shares(&set[1..]).iter().all(|(scale, _)| *scale == 1 << 16), "of two nobody knows which one is right");
    assert_eq!(shares(&set[2..]), [(1 << 16, 1 << 20)], "one alone is measured against nothing");

    let noisy = |norm_sq| shares(&[(400, 1.0), (400, 1.0), (400, 1.0), (100, norm_sq)])[3].0;
    assert_eq!(noisy(9.0), 1 << 16, "with a quarter of the tokens it may be twice as noisy");
    assert_eq!(noisy(36.0), 1 << 15, "but not more");

    let (_, layout) = setup();
    let (bytes, _) = &updates(&layout, Format::new(0, 8).expect("known"))[0];
    let mut e = vec![0; layout.len];
    restitution(&layout, &mut e, bytes, 1 << 16).expect("valid");
    assert!(e.iter().all(|&bits| bits & 0x7fff == 0), "nothing comes back of what was used whole");
    restitution(&layout, &mut e, bytes, 0).expect("valid");
    assert!(e.iter().any(|&bits| bits != 0), "all comes back of what was left out");
}

#[test]
fn tiny_updates_take_nothing_from_the_others() {
    let (honest, tiny) = ((1, 1.0), (1, 1e-76));
    for set in [vec![honest, tiny], vec![honest, honest, tiny, tiny], vec![honest; 3], vec![honest, honest, tiny]] {
        let found = shares(&set);
        assert_eq!(found[0], (1 << 16, (1 << 20) / set.len() as u32), "{set:?}");
    }
}

#[test]
fn private_state_is_written_and_read() {
    let (_, layout) = setup();
    let mut private = model::Private::zero(&layout);
    private.e[3] = 17;
    let bytes = private.to_bytes();
    assert_eq!(model::Private::from_bytes(&layout, &bytes).as_ref(), Ok(&private));
    assert!(model::Private::from_bytes(&layout, &bytes[1..]).is_err());
}

fn formats() -> impl Iterator<Item = Format> {
    [0, 2, 4, 6].into_iter().flat_map(|s| [1, 2, 8].map(|b| Format::new(s, b).expect("known")))
}

fn encoded(layout: &Layout, format: Format, delta: &[f32]) -> Encoded {
    let mut e = vec![0; layout.len];
    fold(&mut e, 1.0, delta).expect("finite");
    encode(layout, &mut e, format)
}

fn noise(layout: &Layout, seed: u64, size: f32) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..layout.len).map(|_| rng.normal() * size).collect()
}

/// G of a set of updates with these tokens, as plain descent shows it.
fn mean(layout: &Layout, set: &[(&Encoded, u64)]) -> Vec<f32> {
    let rule = ApplyRule::Local { alpha: 1.0, decay: 0.0, steps: 1.0, reach: 1.0 };
    let set: Vec<Contribution<'_>> = (set.iter())
        .map(|&(update, tokens)| Contribution { bytes: &update.bytes, tokens, norm_sq: update.norm_sq })
        .collect();
    let mut weights = Weights::from_theta(vec![0.0; layout.len], false);
    assert_eq!(apply(layout, &mut weights, &set, &rule, &mut Vec::new()), Ok(Applied::Stepped));
    weights.theta().iter().map(|w| -w).collect()
}

fn norm<'a>(values: impl IntoIterator<Item = &'a f32>) -> f64 {
    values.into_iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

#[test]
fn an_update_of_one_huge_scale_takes_nothing_from_the_others() {
    let (_, layout) = setup();
    for format in formats() {
        let honest: Vec<Encoded> = (0..3).map(|i| encoded(&layout, format, &noise(&layout, i, 1e-3))).collect();
        let without: Vec<(&Encoded, u64)> = honest.iter().map(|update| (update, 400)).collect();
        let alone = mean(&layout, &without);
        // Everything a billion times too large: its factor c is zero.
        let loud = encoded(&layout, format, &noise(&layout, 9, 1e6));
        let with: Vec<(&Encoded, u64)> = without.iter().copied().chain([(&loud, 100)]).collect();
        let difference: Vec<f32> =
            mean(&layout, &with).iter().zip(&alone).map(|(a, b)| a - b * (1200.0 / 1300.0)).collect();
        assert!(norm(&difference) < 1e-4 * norm(&alone), "{format:?}: {} of {}", norm(&difference), norm(&alone));
        // All of its length in one value of one matrix: shortened, it stays the largest scale by far.
        let mut delta = vec![0.0; layout.len];
        delta[70] = 1000.0 * norm(&alone) as f32;
        let sharp = encoded(&layout, format, &delta);
        let with: Vec<(&Encoded, u64)> = without.iter().copied().chain([(&sharp, 100)]).collect();
        let found = mean(&layout, &with);
        let scale = shares(&with.iter().map(|(u, tokens)| (*tokens, u.norm_sq)).collect::<Vec<_>>())[3].0;
        assert!(scale < 1 << 16, "{format:?}: it is shortened");
        // It says something of one chunk, or with levels, of one tensor: look behind those.
        let from = if format.bits == 8 { 4096 } else { layout.params[1].offset };
        let pairs = found[from..].iter().zip(&alone[from..]);
        let others: Vec<f32> = pairs.map(|(a, b)| a - b * (1200.0 / 1300.0)).collect();
        assert!(norm(&others) < 1e-4 * norm(&alone[from..]), "{format:?}: {}", norm(&others));
        assert!(found.iter().all(|x| x.is_finite()) && norm(&found) < 3.0 * norm(&alone), "{format:?}");
    }
}

#[test]
fn a_scale_that_no_value_uses_is_refused() {
    let (_, layout) = setup();
    let rule = rules()[0];
    for (bits, at) in [(8, 11), (2, 13)] {
        let format = Format::new(0, bits).expect("known");
        let mut silent = encoded(&layout, format, &vec![0.0; layout.len]);
        verify_update(&layout, &silent.bytes, format, 0.0).expect("a silent update is valid");
        silent.bytes[at..at + 2].copy_from_slice(&0x7000u16.to_le_bytes());
        assert_eq!(verify_update(&layout, &silent.bytes, format, 0.0), Err(Reject::Malformed), "{bits} bits");
        let set = [Contribution { bytes: &silent.bytes, tokens: 1, norm_sq: 0.0 }];
        let mut weights = Weights::from_theta(vec![1.0; layout.len], false);
        let refused = apply(&layout, &mut weights, &set, &rule, &mut Vec::new());
        assert_eq!(refused, Err(ApplyError::Contribution(0, Reject::Malformed)));
        assert!(weights.theta().iter().all(|&w| w == 1.0), "the weights are as they were");
    }
    let format = Format::new(0, 8).expect("known");
    let mut infinite = encoded(&layout, format, &noise(&layout, 1, 1e-3)).bytes;
    infinite[11..13].copy_from_slice(&0x7f00u16.to_le_bytes());
    assert_eq!(verify_update(&layout, &infinite, format, 0.0), Err(Reject::NotFinite), "127 times it is infinite");
}

#[test]
fn members_that_send_nothing_have_no_say() {
    let found = shares(&[(100, 0.0), (100, 4.0), (100, 0.0), (100, 4.0)]);
    assert_eq!(found, [(1 << 16, 0), (1 << 16, 1 << 19), (1 << 16, 0), (1 << 16, 1 << 19)]);
    assert_eq!(shares(&[(100, 0.0), (900, 0.0)]), [(1 << 16, 0); 2], "a set of silence moves nothing");
}

#[test]
fn one_update_of_huge_numbers_moves_weights_by_a_bounded_length() {
    let (config, layout) = setup();
    for format in formats() {
        let huge = encoded(&layout, format, &noise(&layout, 1, 1e35));
        let set = [Contribution { bytes: &huge.bytes, tokens: 100, norm_sq: huge.norm_sq }];
        let before = Weights::init(&layout, &config, 7, false);
        let mut weights = before.clone();
        let rule = ApplyRule::Local { alpha: 1.0, decay: 0.0, steps: 10.0, reach: 0.01 };
        assert_eq!(apply(&layout, &mut weights, &set, &rule, &mut Vec::new()), Ok(Applied::Stepped));
        assert!(weights.is_finite(), "{format:?}");
        let moved: Vec<f32> = before.theta().iter().zip(weights.theta()).map(|(a, b)| a - b).collect();
        let bound = 4.0 * 0.01 * (layout.len as f64).sqrt();
        assert!(norm(&moved) < 1.001 * bound, "{format:?}: {} of {bound}", norm(&moved));
    }
}

#[test]
fn a_set_decays_matrices_by_the_steps_behind_it() {
    let (config, layout) = setup();
    let format = Format::new(0, 8).expect("known");
    let silent = encoded(&layout, format, &vec![0.0; layout.len]);
    let set = [Contribution { bytes: &silent.bytes, tokens: 100, norm_sq: 0.0 }];
    let before = Weights::init(&layout, &config, 7, false);
    let mut weights = before.clone();
    let rule = ApplyRule::Local { alpha: 1.0, decay: 0.01, steps: 3.0, reach: 1.0 };
    assert_eq!(apply(&layout, &mut weights, &set, &rule, &mut Vec::new()), Ok(Applied::Stepped));
    for param in &layout.params {
        let keep = if param.is_matrix() { 1.0 - 0.01f32 * 3.0 } else { 1.0 };
        let pairs = before.theta()[param.range()].iter().zip(&weights.theta()[param.range()]);
        pairs.for_each(|(before, after)| assert_eq!(*after, keep * before, "{}", param.name));
    }
}

#[test]
fn a_set_whose_result_is_not_finite_is_void_and_changes_nothing() {
    let (config, layout) = setup();
    let format = Format::new(0, 8).expect("known");
    let update = encoded(&layout, format, &noise(&layout, 1, 1e-3));
    let set = [Contribution { bytes: &update.bytes, tokens: 100, norm_sq: update.norm_sq }];
    let before = Weights::init(&layout, &config, 7, false);
    let mut weights = before.clone();
    let rule = ApplyRule::Local { alpha: 1.0, decay: 1e30, steps: 1e30, reach: 1.0 };
    assert_eq!(apply(&layout, &mut weights, &set, &rule, &mut Vec::new()), Ok(Applied::Void));
    assert_eq!(weights, before);
}

/// Why gradients go in 8 bits: how far AdamW moves weights that have no gradient, in learning rates.
#[test]
fn silent_rows_beside_loud_ones_stand_still_only_in_formats_that_carry_gradients() {
    let (config, layout) = setup();
    let silent = layout.params[0].offset + 8192..layout.params[0].offset + 16_384;
    for format in [1, 2, 8].map(|bits| Format::new(0, bits).expect("known")) {
        let mut weights = Weights::init(&layout, &config, 7, true);
        let before = weights.clone();
        let mut e = vec![0; layout.len];
        for step in 1..=10 {
            let mut gradient = noise(&layout, step, 1e-3);
            gradient[silent.clone()].fill(0.0);
            fold(&mut e, 1.0, &gradient).expect("finite");
            let update = encode(&layout, &mut e, format);
            let set = [Contribution { bytes: &update.bytes, tokens: 100, norm_sq: update.norm_sq }];
            let rule = ApplyRule::Gradients { adam: AdamW::new(0.0), lr: 1e-3, step, clip: 10.0 };
            apply(&layout, &mut weights, &set, &rule, &mut Vec::new()).expect("applied");
        }
        let pairs = weights.theta()[silent.clone()].iter().zip(&before.theta()[silent.clone()]);
        let moved = pairs.fold(0.0f32, |max, (a, b)| max.max((a - b).abs())) / 1e-3;
        assert_eq!(moved == 0.0, format.carries_gradients(), "{format:?}: {moved} learning rates");
    }
}
