//! Which code a figure was measured on, and whether that is still the code.

/// Crates that each area exercises; `base` and `claims` itself belong to all.
const EXERCISES: [(&str, &[&str]); 16] = [
    ("codec", &["model"]),
    ("ledger", &["ledger", "chain"]),
    ("network", &["chain", "ledger", "net", "node", "swarm", "sim"]),
    ("schedules", &["sim", "swarm"]),
    ("rounds", &["node", "net", "swarm", "model", "data", "chain"]),
    ("serve", &["engine", "gateway", "market", "node"]),
    ("market", &["market", "engine", "gateway", "net", "node"]),
    ("kills", &["market", "engine", "net", "node"]),
    ("across", &["market", "engine", "net", "node"]),
    ("overload", &["market", "engine", "net", "node"]),
    ("zoo", &["market", "engine"]),
    ("owner", &["owner", "node", "cli", "gateway"]),
    ("link", &["node", "net", "swarm", "model"]),
    ("time", &["node", "net", "swarm", "model", "chain", "cli"]),
    ("learning", &["model", "data", "swarm"]),
    ("step", &["model"]),
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
    let Some((_, crates)) = EXERCISES.iter().find(|(name, _)| *name == area) else { return true };
    if commit.is_empty() {
        return true;
    }
    let mut command = std::process::Command::new("git");
    command.args(["diff", "--quiet", commit, "--", "crates/base/src", "crates/claims/src"]);
    command.args(crates.iter().map(|name| format!("crates/{name}/src")));
    !command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_area_says_what_it_exercises() {
        for area in crate::AREAS {
            let (_, crates) = super::EXERCISES.iter().find(|(name, _)| *name == area).expect(area);
            for name in *crates {
                assert!(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).is_dir(), "{name}");
            }
        }
    }
}
