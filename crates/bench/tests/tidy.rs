//! The tree's shape, as a test: purity of the pure crates, size of files, words that do not belong.

use std::path::{Path, PathBuf};

/// What the pure crates may depend on, dev-dependencies apart.
const PURE: [(&str, &[&str]); 6] = [
    ("base", &["blake3", "ed25519-dalek", "serde", "thiserror"]),
    (
        "chain",
        &[
            "base",
            "commonware-codec",
            "commonware-consensus",
            "commonware-cryptography",
            "commonware-parallel",
            "commonware-utils",
            "ledger",
            "rand_chacha",
            "serde_json",
            "swarm",
        ],
    ),
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

/// What one node computes all have to compute: no sum there ends silently, in no build.
#[test]
fn sums_that_all_nodes_agree_on_are_checked() {
    for name in ["chain", "ledger", "swarm"] {
        let text = std::fs::read_to_string(root().join("crates").join(name).join("src/lib.rs")).expect("a source");
        let lint = "#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]";
        assert!(text.contains(lint), "{name} does not ask for {lint}");
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    for profile in ["dev", "test", "release", "bench"] {
        let section = manifest.split(&format!("[profile.{profile}]")).nth(1).expect("a profile");
        let section = section.split("\n[").next().unwrap_or_default();
        assert!(section.contains("overflow-checks = true"), "[profile.{profile}] checks no overflow");
    }
}

#[test]
fn nothing_shipped_depends_on_the_simulation() {
    for entry in std::fs::read_dir(root().join("crates")).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        if ["bench", "sim"].contains(&name.as_str()) {
            continue;
        }
        let manifest = std::fs::read_to_string(entry.path().join("Cargo.toml")).expect("a manifest");
        // A crate's own tests may.
        let shipped = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        assert!(!shipped.contains("\nsim") && !shipped.contains("\nbench"), "{name}");
    }
}

/// Lines beside tests that a crate has at most: more are two crates, or a warehouse.
const CRATE_MAX: usize = 5_000;
/// `node` composes.
const NODE_MAX: usize = 4_500;

#[test]
fn crates_stay_small() {
    for entry in std::fs::read_dir(root().join("crates")).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        // They are not shipped.
        if ["bench", "sim"].contains(&name.as_str()) {
            continue;
        }
        let mut files = Vec::new();
        sources(&entry.path().join("src"), &mut files);
        let lines = files.iter().filter(|file| !file.ends_with("tests.rs")).map(|file| {
            let text = std::fs::read_to_string(file).expect("a source");
            text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines().count()
        });
        let (lines, most) = (lines.sum::<usize>(), if name == "node" { NODE_MAX } else { CRATE_MAX });
        assert!(lines <= most, "{name} has {lines} lines beside its tests, {most} at most");
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
        // Tests may be as long as what they try.
        let lines = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines().count();
        assert!(lines <= 500 || name.contains("/tests/"), "{name} has {lines} lines that are no tests");
        for stub in stubs {
            assert!(!text.contains(stub), "{name} contains {stub}");
        }
        for (i, line) in text.lines().enumerate() {
            assert!(line.chars().count() <= 200, "{name}:{} is long", i + 1);
        }
    }
}

/// A row of the README's table names its figure in the last cell, and begins the cell before with its value.
#[test]
fn every_figure_of_the_readme_is_the_published_one() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file");
    let claims: serde_json::Value = serde_json::from_str(&read("claims/results.json")).expect("the figures");
    let mut rows = 0;
    for line in read("README.md").lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some((name, said)) = cells.last().zip(cells.get(1)) else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let claim = claims.as_array().expect("a list").iter().find(|claim| claim["name"] == name);
        let claim = claim.unwrap_or_else(|| panic!("README.md names {name}, which nobody publishes"));
        let value = match claim["value"].as_f64() {
            None => "not measured".to_owned(),
            Some(value) => {
                let number = said.split(' ').next().unwrap_or_default();
                let digits = number.split_once('.').map_or(0, |(_, digits)| digits.len());
                format!("{value:.digits$}")
            }
        };
        assert!(said.starts_with(&value), "README.md says {said} of {name}, published is {value}");
        let short = claim["holds"] == false && claim["value"].is_number();
        assert_eq!(said.contains("falls short"), short, "README.md of {name}: {said}");
        rows += 1;
    }
    assert!(rows > 5, "{rows} rows");
}
