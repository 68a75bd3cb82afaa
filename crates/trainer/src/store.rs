//! The data folder of a node: one redb file for what must survive a crash, plain files for content.

use anyhow::{Context, Result};
use base::{Hash, Keypair, Wire};
use host::{DATABASE, DataFolder, append_line, write_whole};
use model::Weights;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use swarm::{Memory, Mode, RunId, Spec};

const RUNS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("runs");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Names the chain of a run in its folder.
const CHAIN_FILE: &str = "chain";
/// Metrics of a run are turned over at this size; one older file stays.
const METRICS_MAX: u64 = 32 << 20;

/// An open data folder. One process at a time.
pub struct Store {
    folder: DataFolder,
    database: Database,
}

/// A run that this node follows.
pub struct Followed {
    /// Which.
    pub run: RunId,
    /// How it was joined.
    pub ticket: net::Ticket,
}

impl Store {
    /// Opens or makes the folder.
    pub fn open(dir: &Path) -> Result<Self> {
        let folder = DataFolder::open(dir)?;
        let path = dir.join(DATABASE);
        let database = Database::create(&path).with_context(|| {
            format!(
                "{} is damaged; move it away to begin anew (runs are fetched again from their peers)",
                path.display()
            )
        })?;
        let store = Self { folder, database };
        let write = store.database.begin_write()?;
        write.open_table(RUNS)?;
        write.open_table(META)?;
        write.commit()?;
        Ok(store)
    }

    /// The folder.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        self.folder.dir()
    }

    /// The node's key, made on first use and readable by its owner only.
    pub fn keypair(&self) -> Result<Keypair> {
        Ok(Keypair::from_secret(self.folder.secret("key")?))
    }

    /// A number that rises across restarts: `count` of them are reserved, the first is given back.
    pub(crate) fn reserve(&self, count: u64) -> Result<u64> {
        let write = self.database.begin_write()?;
        let first = {
            let mut meta = write.open_table(META)?;
            let first = meta.get("seq")?.map_or(1, |value| value.value());
            meta.insert("seq", first + count)?;
            first
        };
        write.commit()?;
        Ok(first)
    }

    /// Appends a line to a file of the run's metrics; nothing depends on them, so trouble is only logged.
    pub(crate) fn write_metrics(&self, run: &RunId, file: &str, line: &impl serde::Serialize) {
        let written = self.run_dir(run).and_then(|dir| append_line(&dir.join(file), METRICS_MAX, line));
        if let Err(error) = written {
            tracing::warn!(%error, "the metrics could not be written");
        }
    }

    /// The lines of a file of metrics that an earlier process wrote; what cannot be read is left out.
    pub fn metrics<T: serde::de::DeserializeOwned>(&self, run: &RunId, file: &str) -> Vec<T> {
        let text = self.run_dir(run).and_then(|dir| Ok(std::fs::read_to_string(dir.join(file))?));
        let text = text.unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The chain of a run that this node follows or has followed.
    pub fn chain_of(&self, run: &RunId) -> Result<Option<Hash>> {
        let path = self.run_dir(run)?.join(CHAIN_FILE);
        Ok(std::fs::read_to_string(path).ok().and_then(|text| text.parse().ok()))
    }

    pub(crate) fn follow(&self, run: &RunId, ticket: &net::Ticket) -> Result<()> {
        let write = self.database.begin_write()?;
        write.open_table(RUNS)?.insert(run.0.as_slice(), ticket.to_bytes().as_slice())?;
        write.commit()?;
        write_whole(&self.run_dir(run)?.join(CHAIN_FILE), ticket.chain.to_string().as_bytes(), true)?;
        Ok(())
    }

    pub(crate) fn unfollow(&self, run: &RunId) -> Result<()> {
        let write = self.database.begin_write()?;
        write.open_table(RUNS)?.remove(run.0.as_slice())?;
        write.commit()?;
        Ok(())
    }

    /// Runs that this node follows.
    pub fn followed(&self) -> Result<Vec<Followed>> {
        let read = self.database.begin_read()?;
        let mut out = Vec::new();
        for entry in read.open_table(RUNS)?.iter()? {
            let (_, bytes) = entry?;
            let ticket = net::Ticket::from_bytes(bytes.value()).context("a stored run is damaged")?;
            out.push(Followed { run: ticket.run, ticket });
        }
        Ok(out)
    }

    /// Writes down what the machine must remember; a process that is killed after this still knows it.
    pub(crate) fn remember(&self, run: &RunId, memory: &Memory) -> Result<()> {
        // Survives the process, not the power: after a power cut the private state is declared lost instead.
        let path = self.run_dir(run)?.join("memory");
        write_whole(&path, &memory.to_bytes(), false)
    }

    pub(crate) fn memory(&self, run: &RunId) -> Result<Option<Memory>> {
        let path = self.run_dir(run)?.join("memory");
        Ok(std::fs::read(path).ok().and_then(|bytes| Memory::from_bytes(&bytes).ok()))
    }

    /// Folder of a run.
    pub fn run_dir(&self, run: &RunId) -> Result<PathBuf> {
        let dir = self.dir().join("runs").join(run.to_string());
        for folder in ["updates", "private"].map(|name| dir.join(name)) {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        }
        Ok(dir)
    }

    /// Folder of a corpus.
    pub fn corpus_dir(&self, manifest: &Hash) -> Result<PathBuf> {
        let dir = self.dir().join("corpora").join(manifest.to_string());
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// Writes the weights with which a run begins on this node, where they do not follow from its seed.
pub fn give_weights(store: &Store, run: &RunId, spec: &Spec, theta: Vec<f32>) -> Result<()> {
    let weights = Weights::from_theta(theta, spec.mode == Mode::Gradients);
    let mut bytes = 0u64.to_le_bytes().to_vec();
    bytes.extend_from_slice(&weights.tree().root().0);
    bytes.extend_from_slice(&weights.bytes());
    write_whole(&store.run_dir(run)?.join("weights"), &bytes, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn a_data_folder_is_closed_to_other_users_also_one_from_before() {
        let stage = tempfile::tempdir().expect("a folder");
        let dir = stage.path().join("parent").join("data");
        drop(Store::open(&dir).expect("a store"));
        write_whole(&dir.join("wallet.json"), b"{}", true).expect("written");
        append_line(&dir.join("log.jsonl"), 100, &1).expect("written");
        let files = [DATABASE, "lock", "wallet.json", "log.jsonl"].map(|file| dir.join(file));
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o600; 4]);
        set(&dir, 0o755);
        files.iter().for_each(|file| set(file, 0o644));
        std::fs::create_dir(dir.join("chains")).expect("made");
        set(&dir.join("chains"), 0o755);
        drop(Store::open(&dir).expect("a store"));
        assert_eq!((mode(&dir), mode(&dir.join("chains"))), (0o700, 0o700));
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o600; 4]);
    }

    #[test]
    fn a_folder_that_is_no_data_folder_keeps_the_modes_of_its_files() {
        let stage = tempfile::tempdir().expect("a folder");
        let other = stage.path().join("page.html");
        std::fs::write(&other, "").expect("written");
        set(&other, 0o644);
        drop(Store::open(stage.path()).expect("a store"));
        assert_eq!(mode(&other), 0o644);
    }
}
