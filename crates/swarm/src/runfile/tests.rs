//! What run files are taken and refused.

use super::*;
use crate::{LinkProfile, MachineProfile, PlanInput, plan};

const TEXT: &str = r#"
    [run]
    name = "bard"
    [model]
    size = "tiny"
    [train]
    tokens = "2M"
    batch_tokens = 8192
    lr = 3e-4
"#;

fn resolve(text: &str) -> Result<Spec, String> {
    let file = RunFile::parse(text).map_err(|e| e.to_string())?;
    let link = LinkProfile { up_mbit: 1e4, down_mbit: 1e4, rtt_ms: 1.0 };
    let machines = vec![MachineProfile { tokens_per_s: 1e3 }; 4];
    let input = PlanInput { params: 1 << 20, batch_tokens: 8192, machines, link, target_s: 10.0, tokens: 2_000_000 };
    let resolved = Resolved { config: "{}".into(), params: 1 << 20, manifest: Hash::default(), init: Init::Seed };
    file.resolve(&resolved, &plan(&input)[0]).map_err(|e| e.to_string())
}

#[test]
fn a_short_file_is_a_whole_run() {
    let spec = resolve(TEXT).expect("valid");
    assert_eq!((spec.tokens, spec.lr_nano, spec.micro_batches), (2_000_000, 300_000, 4));
    assert_eq!(spec.mode, Mode::Gradients);
}

#[test]
fn impossible_files_are_refused_with_the_key() {
    let cases = [
        ("name = \"bard\"", "name = \"\"", "run.name"),
        ("name = \"bard\"", "nome = \"bard\"", "nome"),
        ("lr = 3e-4", "lr = -1", "train.lr"),
        ("lr = 3e-4", "lr = 3e-4\nschedule = \"cosine\"", "train.schedule"),
        ("tokens = \"2M\"", "tokens = \"many\"", "train.tokens"),
        ("batch_tokens = 8192", "batch_tokens = 8", "train.batch_tokens"),
        ("[train]", "[round]\ndensity = 0.3\n[train]", "round.density"),
        ("[train]", "[round]\nbits = 3\n[train]", "round.bits"),
        ("[train]", "[round]\nmode = \"gradients\"\ndelay = 1\n[train]", "round.mode"),
        ("[train]", "[round]\nmode = \"gradients\"\nbits = 2\n[train]", "8 to 13 percent worse"),
        ("[train]", "[data]\nformat = \"chat\"\n[train]", "data.format"),
    ];
    for (from, to, key) in cases {
        let error = resolve(&TEXT.replace(from, to)).expect_err(to);
        assert!(error.contains(key), "{to}: {error}");
    }
}
