//! Bits, speed and hashes of the codec and the weights, on one core.

use crate::{Bar, Book};
use base::Rng;
use model::update::{Format, encode, fold};
use model::{
    AdamW, ApplyRule, Contribution, Layout, ModelConfig, Part, Stage, StageInput, Weights, apply, verify_update,
};
use std::hint::black_box;
use std::time::Instant;

pub(crate) fn measure(book: &mut Book) {
    let config = ModelConfig::preset("small", 2048, 256).expect("a preset");
    let layout = Layout::new(&config, &Part::whole(&config));
    let mut rng = Rng::new(1);
    let delta: Vec<f32> = (0..layout.len).map(|_| rng.normal() * 1e-3).collect();
    let how = "13.9 M-parameter Llama, normal values, whole update divided by parameters";
    for (sparsity, bar, goal, name) in [
        (6, 0.14, "<= 0.133", "swarm.codec.bits_density_64_signs"),
        (4, 0.42, "<= 0.40", "swarm.codec.bits_density_16_signs"),
    ] {
        let format = Format::new(sparsity, 1).expect("known");
        let mut e = vec![0; layout.len];
        fold(&mut e, 1.0, &delta).expect("finite");
        let bits = encode(&layout, &mut e, format).bytes.len() as f64 * 8.0 / layout.len as f64;
        book.add("quick", name, (bits, "bits/parameter"), Bar::Most(bar), goal, how);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let worst = [(6, 1), (4, 2), (0, 2), (0, 8)].map(|(s, b)| (s, b, pool.install(|| rate(&layout, &delta, s, b))));
    for (sparsity, bits, rate) in worst {
        let name = format!("swarm.codec.rate_density_{}_bits_{bits}", 1u32 << sparsity);
        let how = "fold, encode and full verification of a 13.9 M-parameter update, one core, median of seven";
        book.add("quick", &name, (rate, "M parameters/s"), Bar::Least(100.0), ">= 400", how);
    }
    let rate = pool.install(|| apply_rate(&layout, &config, &delta));
    let how = "a set of four dense 8-bit updates of 13.9 M parameters: copy of the weights, sum, AdamW; one core, median of seven";
    book.add("quick", "swarm.apply.rate", (rate, "M parameters/s"), Bar::Printed, "-", how);
    let weights = Weights::init(&layout, &config, 1, true);
    let gigabytes = weights.bytes().len() as f64 / 1e9;
    let rates = (0..7).map(|_| {
        let begun = Instant::now();
        black_box(pool.install(|| weights.tree().root()));
        gigabytes / begun.elapsed().as_secs_f64()
    });
    let how = "BLAKE3 chunk tree over 167 MB of weights and moments, one core, median of seven";
    book.add("quick", "swarm.root.rate", (rates.collect::<Vec<_>>(), "GB/s"), Bar::Least(1.0), "memory speed", how);
    equal_hashes(book);
}

/// Millions of parameters per second.
fn rate(layout: &Layout, delta: &[f32], sparsity: u8, bits: u8) -> Vec<f64> {
    let format = Format::new(sparsity, bits).expect("known");
    let times = (0..7).map(|_| {
        let mut e = vec![0; layout.len];
        let begun = Instant::now();
        fold(&mut e, 1.0, delta).expect("finite");
        let encoded = encode(layout, &mut e, format);
        verify_update(layout, &encoded.bytes, format, encoded.norm_sq).expect("own updates are valid");
        layout.len as f64 / begun.elapsed().as_secs_f64() / 1e6
    });
    times.collect()
}

/// Millions of parameters per second of an agreed step, from a closed set to the next version of the weights.
fn apply_rate(layout: &Layout, config: &ModelConfig, delta: &[f32]) -> Vec<f64> {
    let format = Format::new(0, 8).expect("known");
    let update = || {
        let mut e = vec![0; layout.len];
        fold(&mut e, 1.0, delta).expect("finite");
        encode(layout, &mut e, format)
    };
    let updates = [update(), update(), update(), update()];
    let set = updates.each_ref().map(|u| Contribution { bytes: &u.bytes, tokens: 1, norm_sq: u.norm_sq });
    let weights = Weights::init(layout, config, 1, true);
    let (mut next, mut mean) = (weights.clone(), Vec::new());
    let times = (0..7).map(|step| {
        let rule = ApplyRule::Gradients { adam: AdamW::new(0.1), lr: 1e-3, step: step + 1, clip: 1.0 };
        let begun = Instant::now();
        next.copy_from(&weights);
        apply(layout, &mut next, &set, &rule, &mut mean).expect("own updates are valid");
        black_box(&next);
        layout.len as f64 / begun.elapsed().as_secs_f64() / 1e6
    });
    times.collect()
}

/// Gradients split into stages, on one thread and on two, and again: one number of differences.
fn equal_hashes(book: &mut Book) {
    let config = ModelConfig { tie_word_embeddings: false, ..ModelConfig::preset("nano", 256, 64).expect("a preset") };
    let whole = Part::whole(&config);
    let theta = model::init(&Layout::new(&config, &whole), config.num_hidden_layers, 3);
    let ids: Vec<u32> = (0..4 * 64).map(|i| i * 7919 % 256).collect();
    let targets: Vec<u32> = ids.iter().map(|id| (id + 1) % 256).collect();
    let run = |threads: usize, stages: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| gradients(&config, &theta, &ids, &targets, stages))
    };
    let reference = run(1, 1);
    let others = [run(1, 2), run(2, 1), run(2, 2), run(1, 1)];
    let different = others.iter().filter(|other| **other != reference).count();
    let how = "gradient of one batch: whole on one thread against two stages, two threads, both, and again (x86-64)";
    let equal = f64::from(u8::from(different == 0));
    book.add("quick", "swarm.hash.equal", (equal, "1 = equal"), Bar::Least(1.0), "equal on x86 and ARM", how);
}

fn gradients(config: &ModelConfig, theta: &[f32], ids: &[u32], targets: &[u32], n: usize) -> Vec<u32> {
    let device = model::open("cpu").expect("always there");
    let mut offset = 0;
    let mut stages = Vec::new();
    for part in Part::split(config, n) {
        let len = Layout::new(config, &part).len;
        let stage = Stage::new(config, &part, &device, &theta[offset..offset + len]);
        stages.push(stage.expect("the embeddings are not tied"));
        offset += len;
    }
    let mut saved = vec![stages[0].forward(StageInput::Tokens { ids, batch: 4 })];
    for i in 1..n {
        let boundary = saved[i - 1].output();
        let next = stages[i].forward(StageInput::Boundary(&boundary));
        saved.push(next);
    }
    let last = saved.pop().expect("one stage at least");
    let (_, mut grad) = stages[n - 1].backward_loss(last, targets, 1.0);
    for stage in stages[..n - 1].iter_mut().rev() {
        grad = stage.backward(saved.pop().expect("saved"), &grad.expect("a boundary's gradient"));
    }
    stages.iter_mut().flat_map(Stage::take_grads).map(f32::to_bits).collect()
}
