//! Logits, loss and every gradient against Hugging Face's Llama (`fixtures/make_reference.py`), and
//! the equalities that the swarm rests on.

use model::{Boundary, Device, Layout, ModelConfig, Part, Stage, StageInput};
use safetensors::SafeTensors;

const FIXTURE: &[u8] = include_bytes!("../fixtures/reference.safetensors");
const CONFIG: &[u8] = include_bytes!("../fixtures/reference.json");

struct Reference {
    config: ModelConfig,
    layout: Layout,
    weights: Vec<f32>,
    grads: Vec<f32>,
    logits: Vec<f32>,
    loss: f32,
    ids: Vec<u32>,
    targets: Vec<u32>,
    batch: usize,
}

fn reference() -> Reference {
    let file = SafeTensors::deserialize(FIXTURE).expect("fixture");
    let config = ModelConfig::from_json(CONFIG).expect("fixture config");
    let layout = Layout::new(&config, &Part::whole(&config));
    let floats = |name: &str| -> Vec<f32> {
        let view = file.tensor(name).unwrap_or_else(|_| panic!("{name} in the fixture"));
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect()
    };
    let flat = |prefix: &str| layout.params.iter().flat_map(|p| floats(&format!("{prefix}{}", p.name))).collect();
    let view = file.tensor("ids").expect("ids");
    let (batch, columns) = (view.shape()[0], view.shape()[1]);
    let all: Vec<u32> = view.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("4"))).collect();
    let part = |range: std::ops::Range<usize>| all.chunks(columns).flat_map(|r| r[range.clone()].to_vec()).collect();
    Reference {
        weights: flat("w."),
        grads: flat("g."),
        logits: floats("logits"),
        loss: floats("loss")[0],
        ids: part(0..columns - 1),
        targets: part(1..columns),
        batch,
        config,
        layout,
    }
}

fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}[{i}]: {a} against {b}");
    }
}

fn device() -> Device {
    model::open("cpu").expect("cpu")
}

/// Loss and flat gradient of the model cut into `n` stages.
fn staged(r: &Reference, n: usize) -> (f64, Vec<f32>) {
    staged_on(&device(), r, n)
}

fn staged_on(device: &Device, r: &Reference, n: usize) -> (f64, Vec<f32>) {
    let parts = Part::split(&r.config, n);
    let mut offset = 0;
    let mut stages: Vec<Stage> = Vec::new();
    for part in &parts {
        let len = Layout::new(&r.config, part).len;
        stages.push(Stage::new(&r.config, part, device, &r.weights[offset..offset + len]).expect("not tied"));
        offset += len;
    }
    let mut saved = Vec::new();
    let mut boundary: Option<Boundary> = None;
    for stage in &mut stages {
        let input = match &boundary {
            None => StageInput::Tokens { ids: &r.ids, batch: r.batch },
            Some(boundary) => StageInput::Boundary(boundary),
        };
        let one = stage.forward(input);
        boundary = Some(one.output());
        saved.push(one);
    }
    let scale = 1.0 / r.targets.len() as f32;
    let (nats, mut grad) = stages[n - 1].backward_loss(saved.pop().expect("tail"), &r.targets, scale);
    for stage in stages[..n - 1].iter_mut().rev() {
        grad = stage.backward(saved.pop().expect("saved"), &grad.expect("gradient of the boundary"));
    }
    assert!(grad.is_none());
    (nats / r.targets.len() as f64, stages.iter_mut().flat_map(Stage::take_grads).collect())
}

#[test]
fn logits_loss_and_gradients_agree_with_another_implementation() {
    let r = reference();
    for name in model::available().into_iter().filter(|name| name.starts_with("cpu")) {
        let device = model::open(name).expect("always there");
        let mut stage = Stage::new(&r.config, &Part::whole(&r.config), &device, &r.weights).expect("a stage");
        let saved = stage.forward(StageInput::Tokens { ids: &r.ids, batch: r.batch });
        assert_close(&saved.output().data, &r.logits, 2e-5, &format!("{name}: logits"));
        let (loss, grads) = staged_on(&device, &r, 1);
        assert!((loss as f32 - r.loss).abs() < 1e-5, "{name}: {loss} against {}", r.loss);
        for param in &r.layout.params {
            assert_close(&grads[param.range()], &r.grads[param.range()], 2e-5, &format!("{name}: {}", param.name));
        }
    }
}

/// Longer than a block of queries, several key/value groups, odd sizes: where the passes written
/// down for processors could go wrong, they are held against burn's autodiff.
#[cfg(feature = "burn")]
#[test]
fn both_engines_agree_where_shapes_are_awkward() {
    let config = ModelConfig {
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 10,
        hidden_size: 44,
        intermediate_size: 70,
        ..ModelConfig::preset("nano", 97, 256).expect("nano")
    };
    let layout = Layout::new(&config, &Part::whole(&config));
    let (batch, seq_len) = (3, 150);
    let ids = |step: u32| (0..(batch * seq_len) as u32).map(|i| i * step % 97).collect::<Vec<u32>>();
    let r = Reference {
        weights: model::init(&layout, config.num_hidden_layers, 5).iter().map(|w| 4.0 * w).collect(),
        ids: ids(31),
        targets: ids(43),
        batch,
        ..reference()
    };
    let r = Reference { config, layout, ..r };
    let [(host_loss, host), (burn_loss, burn)] =
        ["cpu", "cpu-burn"].map(|name| staged_on(&model::open(name).expect("always there"), &r, 1));
    assert!((host_loss - burn_loss).abs() < 1e-5, "{host_loss} against {burn_loss}");
    let largest = burn.iter().fold(0.0f32, |max, g| max.max(g.abs()));
    for (i, (a, b)) in host.iter().zip(&burn).enumerate() {
        assert!((a - b).abs() < 1e-5 * largest, "gradient {i}: {a} against {b}");
    }
}

/// More logits than are made at a time, and a last piece that is shorter.
#[test]
fn a_loss_in_pieces_is_the_loss_of_the_whole() {
    let config = ModelConfig { tie_word_embeddings: false, ..ModelConfig::preset("nano", 5000, 256).expect("nano") };
    let layout = Layout::new(&config, &Part::whole(&config));
    let (batch, seq_len) = (3, 150);
    let ids = |step: u32| (0..(batch * seq_len) as u32).map(|i| i * step % 5000).collect::<Vec<u32>>();
    let r = Reference {
        weights: model::init(&layout, config.num_hidden_layers, 5).iter().map(|w| 4.0 * w).collect(),
        ids: ids(31),
        targets: ids(43),
        batch,
        ..reference()
    };
    let r = Reference { config, layout, ..r };
    for name in model::available().into_iter().filter(|name| name.starts_with("cpu")) {
        let device = model::open(name).expect("always there");
        let (whole, _) = staged_on(&device, &r, 1);
        let mut stage = Stage::new(&r.config, &Part::whole(&r.config), &device, &r.weights).expect("a stage");
        for again in 0..2 {
            let nats = stage.nats(StageInput::Tokens { ids: &r.ids, batch }, &r.targets);
            let mean = nats / r.targets.len() as f64;
            assert!((mean - whole).abs() < 1e-5 * whole, "{name}, {again}: {mean} against {whole}");
        }
    }
}

#[test]
fn a_stage_with_one_end_of_tied_embeddings_is_refused() {
    let config = ModelConfig::preset("nano", 64, 64).expect("nano");
    assert!(config.tie_word_embeddings);
    for part in Part::split(&config, 2) {
        let zeros = vec![0.0; Layout::new(&config, &part).len];
        let refused = Stage::new(&config, &part, &device(), &zeros).err().expect("one end only");
        assert!(refused.to_string().contains("one stage"), "{refused}");
    }
}

#[test]
fn split_into_stages_is_the_whole_to_the_last_bit() {
    let r = reference();
    let whole = staged(&r, 1);
    assert_eq!(staged(&r, 2), whole);
    assert_eq!(staged(&r, 1), whole, "run = run");
}

#[test]
fn the_number_of_threads_does_not_show() {
    let r = reference();
    let with = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("pool").install(|| staged(&r, 1));
    assert_eq!(with(1), with(2));
}

#[test]
fn a_gradient_that_was_let_go_of_leaves_nothing_behind() {
    let r = reference();
    let columns = r.ids.len() / r.batch;
    let row = |i: usize| [&r.ids[i * columns..(i + 1) * columns], &r.targets[(i + 1) * columns - 1..][..1]].concat();
    for name in model::available().into_iter().filter(|name| name.starts_with("cpu")) {
        let mut trainer = model::Trainer::new(&r.config, &model::open(name).expect("always there"));
        trainer.set(&r.weights);
        let batch = |i: u64| model::Batch { ids: row(i as usize % r.batch) };
        let whole = |trainer: &mut model::Trainer| {
            trainer.gradient(0..2, columns, |i| Ok::<_, ()>(batch(i))).expect("it is given all")
        };
        let before = whole(&mut trainer);
        let broken = trainer.gradient(0..2, columns, |i| if i == 0 { Ok(batch(i)) } else { Err("the owner is back") });
        assert_eq!(broken.expect_err("let go of"), "the owner is back");
        assert_eq!(whole(&mut trainer), before, "as if nothing had been");
    }
}

#[test]
fn a_model_is_exported_and_loaded_again() {
    let r = reference();
    let dir = tempfile::tempdir().expect("temp dir");
    let card = model::ExportCard { name: "test".into(), ..Default::default() };
    model::export(dir.path(), &r.config, &r.weights, b"{}", (0, "<|endoftext|>"), &card).expect("export");
    let (config, theta) = model::load(dir.path()).expect("load");
    assert_eq!((config, theta), (r.config.clone(), r.weights.clone()));
    std::fs::write(dir.path().join("model.safetensors"), b"short").expect("write");
    assert!(model::load(dir.path()).is_err());
}
