//! Keys of the API in a data folder, and names of answers.

use anyhow::Context;
use base::Hash;
use gateway::Key;
use host::write_whole;
use std::collections::BTreeMap;
use std::path::Path;

const KEYS: &str = "api-keys.json";

/// The API keys of a data folder, as hashes.
pub fn api_keys(dir: &Path) -> anyhow::Result<Vec<Key>> {
    let path = dir.join(KEYS);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// The same, and again whenever they were changed since.
pub fn api_keys_as_they_change(dir: &Path) -> anyhow::Result<Box<gateway::News>> {
    let dir = dir.to_owned();
    let stamp =
        |dir: &Path| std::fs::metadata(dir.join(KEYS)).ok().and_then(|file| Some((file.modified().ok()?, file.len())));
    // What is damaged at the start is an error; later what was known holds.
    let first = (stamp(&dir), api_keys(&dir)?);
    let seen = std::sync::Mutex::new((first.0, Some(first.1)));
    Ok(Box::new(move || {
        let (now, mut seen) = (stamp(&dir), seen.lock().expect("nobody panics while holding it"));
        if now != seen.0 {
            let keys = api_keys(&dir).inspect_err(|error| tracing::warn!(%error, "the API keys are not read anew"));
            *seen = (now, keys.ok());
        }
        seen.1.take()
    }))
}

/// Keeps these API keys in a data folder.
pub fn keep_api_keys(dir: &Path, keys: &[Key]) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    write_whole(&dir.join(KEYS), serde_json::to_string_pretty(keys)?.as_bytes(), true)
}

const USED: &str = "api-used.json";

/// The tokens that each API key of a data folder has used, by the key's hash.
pub fn api_used(dir: &Path) -> anyhow::Result<BTreeMap<Hash, u64>> {
    let path = dir.join(USED);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is damaged; without this file API keys begin anew with all their tokens", path.display())
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Keeps what API keys have used in a data folder.
pub fn api_used_kept(dir: &Path) -> Box<gateway::Save> {
    let path = dir.join(USED);
    Box::new(move |used: &BTreeMap<Hash, u64>| {
        let text = serde_json::to_string_pretty(used).map_err(|error| error.to_string())?;
        write_whole(&path, text.as_bytes(), true).map_err(|error| format!("{error:#}"))
    })
}

/// A name for an answer, by which its receipt is found.
pub fn new_answer_name() -> anyhow::Result<String> {
    Ok(format!("answer-{}", &base::to_hex(&host::random_secret()?)[..24]))
}

/// A key that nobody can guess.
pub fn new_api_key() -> anyhow::Result<String> {
    Ok(format!("tk-{}", base::to_hex(&host::random_secret()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keys_have_used_is_read_back() {
        let stage = tempfile::tempdir().expect("a folder");
        assert!(api_used(stage.path()).expect("none yet").is_empty());
        let used = BTreeMap::from([(Key::hash_of("one"), 7), (Key::hash_of("two"), u64::MAX)]);
        api_used_kept(stage.path())(&used).expect("saved");
        assert_eq!(api_used(stage.path()).expect("read"), used);
        std::fs::write(stage.path().join(USED), "{").expect("written");
        let error = api_used(stage.path()).expect_err("damaged").to_string();
        assert!(error.contains(USED) && error.contains("begin anew"), "{error}");
    }
}
