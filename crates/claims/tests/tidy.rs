//! The tree's shape, as a test: purity of the pure crates, size of files, words that do not belong.

use std::path::{Path, PathBuf};

/// What the pure crates may depend on, dev-dependencies apart.
const PURE: [(&str, &[&str]); 5] = [
    ("base", &["blake3", "ed25519-dalek", "serde", "thiserror"]),
    ("ledger", &["base"]),
    ("market", &["base", "ledger", "thiserror"]),
    ("owner", &["base", "thiserror"]),
    ("swarm", &["base", "serde", "thiserror", "toml"]),
];

/// Sources of IO, time, entropy and threads, which a pure crate does not name.
const IMPURE: [&str; 8] =
    ["std::net", "std::fs", "std::thread", "Instant::now", "SystemTime", "tokio", "getrandom", "HashMap"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn pure_crates_are_pure() {
    for (name, allowed) in PURE {
        let dir = root().join("crates").join(name);
        let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).expect("a manifest");
        let dependencies = manifest.split("[dependencies]").nth(1).expect("dependencies");
        let dependencies = dependencies.split("\n[").next().expect("a section");
        for line in dependencies.lines().filter(|line| line.contains('=')) {
            let dependency = line.split(['.', ' ', '=']).next().expect("a name");
            assert!(allowed.contains(&dependency), "{name} depends on {dependency}");
        }
        let mut files = Vec::new();
        sources(&dir.join("src"), &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source");
            for word in IMPURE {
                assert!(!text.contains(word), "{} names {word}", file.display());
            }
        }
    }
}

#[test]
fn nothing_shipped_depends_on_the_simulation() {
    for name in ["base", "data", "engine", "gateway", "ledger", "market", "model", "swarm", "net", "node", "cli"] {
        let manifest =
            std::fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).expect("a manifest");
        assert!(!manifest.contains("\nsim") && !manifest.contains("\nclaims"), "{name}");
    }
}

#[test]
fn files_stay_short_and_finished() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    let stubs = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[", "ignore")];
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        let name = file.strip_prefix(root()).expect("inside").to_string_lossy().replace('\\', "/");
        let lines = text.lines().count();
        assert!(lines <= 500, "{name} has {lines} lines");
        for stub in stubs {
            assert!(!text.contains(stub), "{name} contains {stub}");
        }
        for (i, line) in text.lines().enumerate() {
            assert!(line.chars().count() <= 200, "{name}:{} is long", i + 1);
        }
    }
}
