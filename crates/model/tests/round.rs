//! One round among several members: order, scaling, error feedback, and the frozen result.

use base::{Hash, Rng};
use model::update::{Format, encode, fold};
use model::{AdamW, ApplyRule, Config, Contribution, Layout, Part, Weights, apply, restitution, shares};

fn setup() -> (Config, Layout) {
    let config = Config::preset("nano", 300, 64).expect("nano");
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
        ApplyRule::Local { alpha: 1.0, decay: 1e-3 },
        ApplyRule::Gradients { adam: AdamW::new(0.1), lr: 1e-3, step: 1, clip: 1.0 },
    ]
}

fn applied(order: &[usize], format: Format, rule: &ApplyRule) -> Hash {
    let (config, layout) = setup();
    let updates = updates(&layout, format);
    let set: Vec<Contribution<'_>> = (order.iter())
        .map(|&i| Contribution { bytes: &updates[i].0, tokens: 100 * (i as u64 + 1), norm_sq: updates[i].1 })
        .collect();
    let mut weights = Weights::init(&layout, &config, 7, matches!(rule, ApplyRule::Gradients { .. }));
    apply(&layout, &mut weights, &set, rule, &mut Vec::new()).expect("applied");
    weights.tree().root()
}

/// Frozen: changing it changes what every machine of a run must agree on. Holds on x86-64 and
/// aarch64 alike, for the arithmetic is integers and unfused IEEE 754.
const GOLDEN: [&str; 2] = [
    "01f1ed97c77da7123125c2d7878251822685a44e4161e303a82c435376c6166a",
    "eab78bcf6660e47ce5d826fec98688a54dfc6605d50de731fff54d6751359d2a",
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
    for (rule, golden) in rules().iter().zip(GOLDEN) {
        assert_eq!(applied(&[0, 1, 2, 3], format, rule).to_string(), golden);
    }
}

#[test]
fn long_updates_are_scaled_to_the_median_and_the_rest_is_given_back() {
    let set = [(100, 1.0), (100, 1.0), (100, 100.0)];
    let scaled = shares(&set);
    assert_eq!(scaled[0].0, 1 << 16);
    assert_eq!(scaled[2].0, (0.15 * 65_536.0) as u32);
    assert!(shares(&set[1..]).iter().all(|&(scale, _)| scale == 1 << 16), "two updates have no median to trust");

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
fn private_state_is_written_and_read() {
    let (_, layout) = setup();
    let mut private = model::Private::zero(&layout);
    private.e[3] = 17;
    let bytes = private.to_bytes();
    assert_eq!(model::Private::from_bytes(&layout, &bytes).as_ref(), Ok(&private));
    assert!(model::Private::from_bytes(&layout, &bytes[1..]).is_err());
}
