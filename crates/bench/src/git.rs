//! Which code a figure was measured on, and whether that is still the code.

/// What each area exercises: files of `claims` that measure it, and crates. `base` belongs to all.
const EXERCISES: [(&str, &[&str], &[&str]); 16] = [
    ("codec", &["codec"], &["model"]),
    ("ledger", &["ledger", "chain"], &["ledger", "chain"]),
    (
        "network",
        &["network", "cpu"],
        &["chain", "ledger", "net", "node", "host", "replica", "trainer", "serving", "swarm", "sim", "cli"],
    ),
    ("schedules", &["schedules"], &["sim", "swarm"]),
    (
        "rounds",
        &["rounds"],
        &["node", "host", "replica", "trainer", "serving", "net", "swarm", "model", "data", "chain"],
    ),
    (
        "serve",
        &["serve", "market", "pair"],
        &["engine", "gateway", "market", "net", "node", "host", "replica", "trainer", "serving"],
    ),
    (
        "market",
        &["market", "pair"],
        &["market", "engine", "gateway", "net", "node", "host", "replica", "trainer", "serving"],
    ),
    (
        "kills",
        &["trouble", "market", "serve", "pair"],
        &["market", "engine", "net", "node", "host", "replica", "trainer", "serving"],
    ),
    (
        "across",
        &["trouble", "market", "serve", "pair"],
        &["market", "engine", "net", "node", "host", "replica", "trainer", "serving"],
    ),
    (
        "overload",
        &["trouble", "market", "serve", "pair"],
        &["market", "engine", "net", "node", "host", "replica", "trainer", "serving"],
    ),
    ("zoo", &["zoo"], &["market", "engine"]),
    ("owner", &["owner", "cpu"], &["owner", "node", "host", "replica", "trainer", "serving", "cli", "gateway"]),
    ("link", &["link", "star"], &["node", "host", "replica", "trainer", "serving", "net", "swarm", "model"]),
    (
        "time",
        &["time", "star", "grid"],
        &["node", "host", "replica", "trainer", "serving", "net", "swarm", "model", "chain", "cli"],
    ),
    ("learning", &["learning", "grid"], &["model", "data"]),
    ("step", &["step"], &["model"]),
];

/// The commit that is checked out.
pub(crate) fn commit() -> String {
    crate::output("git", &["rev-parse", "--short", "HEAD"])
}

/// Whether the tree is that of the commit, the figures themselves apart.
pub(crate) fn clean() -> bool {
    crate::output("git", &["status", "--porcelain", "--", ".", ":!claims", ":!docs/frontier.md"]).is_empty()
}

/// Whether code that an area exercises is another one than at `commit`. A commit that nobody knows any more counts as such.
pub(crate) fn changed_since(commit: &str, area: &str) -> bool {
    let Some((_, files, crates)) = EXERCISES.iter().find(|(name, ..)| *name == area) else { return true };
    if commit.is_empty() {
        return true;
    }
    let mut command = std::process::Command::new("git");
    command.args(["diff", "--quiet", commit, "--", "crates/base/src"]);
    // A module, and what lies below it.
    command.args(files.iter().flat_map(|name| [".rs", ""].map(|end| format!("crates/bench/src/{name}{end}"))));
    command.args(crates.iter().map(|name| format!("crates/{name}/src")));
    // Only there a run is planned: elsewhere its form is given.
    if area != "time" {
        command.arg(":(exclude)crates/swarm/src/planner.rs");
    }
    !command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_area_says_what_it_exercises() {
        for area in crate::AREAS {
            let (_, files, crates) = super::EXERCISES.iter().find(|(name, ..)| *name == area).expect(area);
            let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            for name in *files {
                let module = own.join("src").join(name);
                assert!(module.with_extension("rs").is_file() || module.join("mod.rs").is_file(), "{name}");
            }
            for name in *crates {
                assert!(own.join("..").join(name).is_dir(), "{name}");
            }
        }
    }
}
