//! Models on this machine's disk: named by their content, checked before they are used, given to others where the owner
//! says so.
//!
//! A model lies in `models/HASH/NAME.gguf` of the data folder, with its chunk hashes in `tree` and what else is known of
//! it in `model.json`. What arrives lies in `models/arriving` until it is whole and right.

mod hub;
mod pull;
mod starter;
mod ticket;

pub use hub::{HubFile, HubName};
pub use pull::pull;
pub use starter::{STARTER, STARTER_SAYS};
pub use ticket::{HERE as MODEL_HERE, ModelTicket, Wanted, topic as model_topic};

use anyhow::{Context, Result, bail, ensure};
use base::{ChunkTree, Hash, Wire};
use host::{DiskBudget, write_whole};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The models of a data folder.
pub struct Models {
    dir: PathBuf,
}

/// A model on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// What it is called here and by others.
    pub name: String,
    /// Root of its chunk hashes: names its content among peers.
    pub hash: Hash,
    /// Its length.
    pub bytes: u64,
    /// Its plain hash, as hubs and `sha256sum` give it.
    pub sha256: String,
    /// Where it came from on a hub, if it did.
    pub hub: Option<HubFile>,
    /// The ticket with which it was fetched: those who had it then may have it now.
    #[serde(default)]
    pub ticket: Option<String>,
    /// Whether peers may fetch it here.
    pub published: bool,
    /// When it came, in seconds since 1970.
    pub since: u64,
}

/// How far something that takes long is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub what: Doing,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub of: u64,
}

/// What is being done to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It comes from so many peers.
    Peers(usize),
    /// It comes from a hub.
    Hub,
    /// It is read, and its hashes are compared.
    Checking,
}

/// Told how far something is.
pub type Told<'a> = &'a (dyn Fn(Progress) + Sync);

/// A file that is not whole yet. One process at a time.
pub(crate) struct Arriving {
    path: PathBuf,
    pub(crate) file: File,
}

/// Where a model comes from.
#[derive(Default)]
pub(crate) struct Origin {
    pub(crate) hub: Option<HubFile>,
    pub(crate) ticket: Option<String>,
}

/// Both hashes of a file.
struct Sums {
    tree: ChunkTree,
    sha256: String,
}

const NAME_MAX: usize = 100;
const MAGIC: &[u8] = b"GGUF";

impl Models {
    /// The models of the data folder `dir`.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.join("models") }
    }

    /// All of them, by name.
    pub fn all(&self) -> Result<Vec<Model>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| self.dir.display().to_string()),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry?.path().join("model.json");
            match std::fs::read(&path) {
                Ok(bytes) => all.push(
                    serde_json::from_slice::<Model>(&bytes)
                        .with_context(|| format!("{} is damaged; move its folder away", path.display()))?,
                ),
                // What arrives, and what a kill left of a folder that was being removed.
                Err(_) => continue,
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The one of this name, or whose hash begins so.
    pub fn find(&self, what: &str) -> Result<Model> {
        let all = self.all()?;
        let begins = |model: &&Model| what.len() >= 4 && model.hash.to_string().starts_with(what);
        let mut found = all.iter().filter(|model| model.name == what || begins(model));
        match (found.next(), found.next()) {
            (Some(model), None) => Ok(model.clone()),
            (Some(_), Some(_)) => bail!("several models begin with {what}; `talkoo model ls` shows their whole names"),
            (None, _) => bail!("there is no model called {what} on this machine; `talkoo model ls` lists them"),
        }
    }

    /// Its file.
    pub fn path(&self, model: &Model) -> PathBuf {
        self.folder(&model.hash).join(format!("{}.gguf", model.name))
    }

    /// Takes in a copy of a file, under its own name where none is given.
    pub fn add(&self, file: &Path, name: Option<&str>, budget: &DiskBudget, told: Told<'_>) -> Result<Model> {
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = valid_name(name.unwrap_or(&stem))?;
        let mut source = File::open(file).with_context(|| file.display().to_string())?;
        ensure!(
            is_gguf(&mut source)?,
            "{} is no GGUF model; `talkoo train export --gguf` writes one of a run",
            file.display()
        );
        budget.ensure(source.metadata()?.len())?;
        let key = Hash::of("talkoo 2026 added file v1", file.as_os_str().as_encoded_bytes());
        let mut arriving = self.arriving(&key.to_string())?;
        arriving.file.set_len(0)?;
        std::io::copy(&mut source, &mut arriving.file).with_context(|| format!("copying {}", file.display()))?;
        let added = self.settle(arriving, &name, Origin::default(), |_| Ok(()), told);
        self.forget_arriving(&key.to_string());
        added
    }

    /// Removes it from this machine.
    pub fn remove(&self, model: &Model) -> Result<()> {
        let folder = self.folder(&model.hash);
        // What is left after a kill is no model any more.
        std::fs::remove_file(folder.join("model.json")).with_context(|| folder.display().to_string())?;
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())
    }

    /// Reads it and compares its hashes.
    pub fn verify(&self, model: &Model, told: Told<'_>) -> Result<()> {
        let path = self.path(model);
        let mut file = File::open(&path).with_context(|| path.display().to_string())?;
        let sums = Sums::read(&mut file, told).with_context(|| path.display().to_string())?;
        ensure!(
            sums.tree.root() == model.hash && sums.sha256 == model.sha256,
            "{} is damaged: its content has changed since it came; `talkoo model rm {}` and fetch it again",
            path.display(),
            model.name
        );
        Ok(())
    }

    /// Whether peers may fetch it here, from now on.
    pub fn publish(&self, model: &Model, published: bool) -> Result<Model> {
        let model = Model { published, ..model.clone() };
        self.note(&self.folder(&model.hash), &model)?;
        Ok(model)
    }

    /// Its chunk hashes.
    pub fn tree(&self, model: &Model) -> Result<ChunkTree> {
        let path = self.folder(&model.hash).join("tree");
        let tree = std::fs::read(&path).ok().and_then(|bytes| ChunkTree::from_bytes(&bytes).ok());
        tree.filter(|tree| tree.root() == model.hash).with_context(|| {
            format!("{} is damaged; `talkoo model rm {}` and fetch the model again", path.display(), model.name)
        })
    }

    /// Whether no model is called so.
    pub(crate) fn free(&self, name: &str) -> Result<()> {
        let taken = self.all()?.iter().any(|other| other.name == name);
        ensure!(!taken, "another model is called {name} already; give this one another with --name");
        Ok(())
    }

    /// Throws away what is left of a transfer.
    pub(crate) fn forget_arriving(&self, key: &str) {
        let _ = std::fs::remove_file(self.dir.join("arriving").join(key));
    }

    /// Where a model arrives; what an interrupted transfer left is there.
    pub(crate) fn arriving(&self, key: &str) -> Result<Arriving> {
        let dir = self.dir.join("arriving");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let path = dir.join(key);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| path.display().to_string())?;
        ensure!(file.try_lock().is_ok(), "another talkoo is fetching this model already");
        Ok(Arriving { path, file })
    }

    /// A file that is whole becomes a model, if both its hashes are as `expected`; else it is thrown away.
    pub(crate) fn settle(
        &self,
        mut arriving: Arriving,
        name: &str,
        origin: Origin,
        expected: impl Fn(&Model) -> Result<()>,
        told: Told<'_>,
    ) -> Result<Model> {
        let gguf = is_gguf(&mut arriving.file)?;
        let sums = Sums::read(&mut arriving.file, told)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (hash, bytes, sha256) = (sums.tree.root(), sums.tree.len, sums.sha256);
        let Origin { hub, ticket } = origin;
        let model = Model { name: name.to_owned(), hash, bytes, sha256, hub, ticket, published: false, since };
        let right = expected(&model).and_then(|()| {
            ensure!(gguf, "it is no GGUF model");
            Ok(())
        });
        let known = self.all()?.into_iter().find(|other| other.hash == model.hash);
        if right.is_err() || known.is_some() {
            std::fs::remove_file(&arriving.path)?;
        }
        right?;
        if let Some(known) = known {
            return Ok(known);
        }
        self.free(name)?;
        arriving.file.sync_all()?;
        let folder = self.folder(&model.hash);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        std::fs::rename(&arriving.path, self.path(&model))?;
        write_whole(&folder.join("tree"), &sums.tree.to_bytes(), true)?;
        // Last: a folder that has it is complete.
        self.note(&folder, &model)?;
        Ok(model)
    }

    fn note(&self, folder: &Path, model: &Model) -> Result<()> {
        write_whole(&folder.join("model.json"), &serde_json::to_vec_pretty(model)?, true)
    }

    fn folder(&self, hash: &Hash) -> PathBuf {
        self.dir.join(hash.to_string())
    }
}

impl Arriving {
    /// Appends to it.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(bytes)
    }
}

impl Sums {
    fn read(file: &mut File, told: Told<'_>) -> std::io::Result<Self> {
        let of = file.metadata()?.len();
        let mut source = Summed { file, sha256: Sha256::new(), done: 0, of, told };
        let tree = ChunkTree::read(&mut source)?;
        Ok(Self { tree, sha256: base::to_hex(&source.sha256.finalize()) })
    }
}

/// A file that is summed up while it is read.
struct Summed<'a> {
    file: &'a mut File,
    sha256: Sha256,
    done: u64,
    of: u64,
    told: Told<'a>,
}

impl Read for Summed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(bytes)?;
        self.sha256.update(&bytes[..n]);
        self.done += n as u64;
        (self.told)(Progress { what: Doing::Checking, done: self.done, of: self.of });
        Ok(n)
    }
}

/// Whether a file begins like a model; it is read from its beginning afterwards.
fn is_gguf(file: &mut File) -> std::io::Result<bool> {
    let mut magic = [0; 4];
    file.rewind()?;
    let gguf = file.read_exact(&mut magic).is_ok() && magic == *MAGIC;
    file.rewind()?;
    Ok(gguf)
}

/// Bytes of all files in a folder.
/// A name that is one word, and a file's.
fn valid_name(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let right = !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(plain) && !name.starts_with(['.', '-']);
    ensure!(right, "{name:?} cannot be a model's name: letters, digits, `.`, `_` and `-`; choose one with --name");
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(_: Progress) {}

    fn gguf(dir: &Path, name: &str, byte: u8) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, [MAGIC, &vec![byte; 3 << 20]].concat()).expect("written");
        path
    }

    #[test]
    fn a_model_is_kept_by_its_content() {
        let dir = tempfile::tempdir().expect("a folder");
        let models = Models::of(&dir.path().join("data"));
        assert!(models.all().expect("none").is_empty());
        let file = gguf(dir.path(), "one.gguf", 1);
        let one = models.add(&file, None, &DiskBudget::default(), &quiet).expect("added");
        assert_eq!((one.name.as_str(), one.published), ("one", false));
        // The same content twice is one model; another one needs a name of its own.
        assert_eq!(models.add(&file, Some("again"), &DiskBudget::default(), &quiet).expect("known").name, "one");
        let other = gguf(dir.path(), "two.gguf", 2);
        assert!(
            models
                .add(&other, Some("one"), &DiskBudget::default(), &quiet)
                .expect_err("taken")
                .to_string()
                .contains("--name")
        );
        let two = models.add(&other, None, &DiskBudget::default(), &quiet).expect("added");
        assert_eq!(models.all().expect("both").len(), 2);
        assert_eq!(models.find(&two.hash.to_string()[..12]).expect("by hash").name, "two");
        assert!(models.find("three").is_err());
        assert!(models.publish(&two, true).expect("noted").published && models.find("two").expect("kept").published);
        for wrong in ["", "../up", "a b", ".hidden", "a/b"] {
            assert!(models.add(&other, Some(wrong), &DiskBudget::default(), &quiet).is_err(), "{wrong}");
        }
        std::fs::write(&other, "no model").expect("written");
        assert!(models.add(&other, Some("none"), &DiskBudget::default(), &quiet).is_err());
        models.remove(&two).expect("removed");
        assert_eq!(models.all().expect("one").len(), 1);
    }

    #[test]
    fn one_changed_byte_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let models = Models::of(dir.path());
        let model = models.add(&gguf(dir.path(), "one.gguf", 1), None, &DiskBudget::default(), &quiet).expect("added");
        models.verify(&model, &quiet).expect("as it came");
        let mut file = File::options().write(true).open(models.path(&model)).expect("there");
        file.seek(SeekFrom::Start(2 << 20)).expect("within");
        file.write_all(&[9]).expect("written");
        assert!(models.verify(&model, &quiet).expect_err("damaged").to_string().contains("damaged"));
        std::fs::write(models.folder(&model.hash).join("tree"), "x").expect("written");
        assert!(models.tree(&model).is_err());
    }
}
