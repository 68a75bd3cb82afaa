//! A corpus on disk, opened for reading windows.

use crate::{Manifest, ManifestError, Shard};
use base::ChunkTree;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use thiserror::Error;

/// A part of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is only measured.
    Heldout,
}

/// Shards of a manifest, open. Windows are read from the file when asked for: the system's page
/// cache is the only buffer, so a corpus may be larger than memory.
pub struct Corpus {
    manifest: Manifest,
    train: Vec<Open>,
    heldout: Vec<Open>,
}

struct Open {
    file: Mutex<File>,
    start: u64,
    tokens: u64,
}

/// Why a corpus cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The manifest is none.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file is not what the manifest says.
    #[error("{path} is damaged: its content is not what the manifest names; delete it and fetch or build it again")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A window that the corpus does not have.
    #[error("window {0} is outside the corpus")]
    Outside(u64),
}

impl Corpus {
    /// Opens the corpus whose files are in `dir` by their names; lengths are checked, contents by [`verify`](Self::verify).
    pub fn open(dir: &Path) -> Result<Self, CorpusError> {
        let path = dir.join("manifest.json");
        let json = std::fs::read(&path).map_err(|source| CorpusError::Io { path, source })?;
        let manifest = Manifest::from_json(&json)?;
        let train = open_all(dir, &manifest.train, manifest.id_bytes)?;
        let heldout = open_all(dir, &manifest.heldout, manifest.id_bytes)?;
        Ok(Self { manifest, train, heldout })
    }

    /// Reads every file of the corpus in `dir` and compares it with its hash; gives the number of bytes.
    pub fn verify(dir: &Path) -> Result<u64, CorpusError> {
        let corpus = Self::open(dir)?;
        let manifest = &corpus.manifest;
        let shards = manifest.train.iter().chain(&manifest.heldout);
        let files = shards.map(|s| (shard_path(dir, s), s.root));
        let mut total = 0;
        for (path, root) in files.chain([(dir.join("tokenizer.json"), manifest.tokenizer)]) {
            let bytes = std::fs::read(&path).map_err(|source| CorpusError::Io { path: path.clone(), source })?;
            if ChunkTree::of(&bytes).root() != root {
                return Err(CorpusError::Damaged { path });
            }
            total += bytes.len() as u64;
        }
        Ok(total)
    }

    /// What it is made of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Appends the ids of window `index` of `seq_len` (T) to `out`: T + 1 of them, read across shard borders.
    pub fn window(&self, split: Split, index: u64, seq_len: u64, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        let outside = || CorpusError::Outside(index);
        let shards = match split {
            Split::Train => &self.train,
            Split::Heldout => &self.heldout,
        };
        let mut at = index.checked_mul(seq_len).ok_or_else(outside)?;
        let end = at.checked_add(seq_len + 1).ok_or_else(outside)?;
        let mut shard = shards.partition_point(|open| open.start + open.tokens <= at);
        while at < end {
            let open = shards.get(shard).ok_or_else(outside)?;
            let n = (end - at).min(open.start + open.tokens - at);
            self.read(open, at - open.start, n, out)?;
            at += n;
            shard += 1;
        }
        Ok(())
    }

    fn read(&self, open: &Open, offset: u64, n: u64, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        let width = u64::from(self.manifest.id_bytes);
        let mut bytes = vec![0; (n * width) as usize];
        let mut file = open.file.lock().expect("no reader panics while it holds the file");
        let read = file.seek(SeekFrom::Start(offset * width)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|source| CorpusError::Io { path: PathBuf::from("shard"), source })?;
        out.extend(bytes.chunks_exact(width as usize).map(|id| {
            let mut wide = [0; 4];
            wide[..id.len()].copy_from_slice(id);
            // A damaged shard must not index outside the embedding.
            u32::from_le_bytes(wide).min(self.manifest.vocab - 1)
        }));
        Ok(())
    }
}

/// Where a shard's file is.
pub(crate) fn shard_path(dir: &Path, shard: &Shard) -> PathBuf {
    dir.join(format!("{}.bin", shard.root))
}

fn open_all(dir: &Path, shards: &[Shard], id_bytes: u32) -> Result<Vec<Open>, CorpusError> {
    let mut start = 0;
    let mut out = Vec::with_capacity(shards.len());
    for shard in shards {
        let path = shard_path(dir, shard);
        let io = |source| CorpusError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        if file.metadata().map_err(io)?.len() != shard.tokens * u64::from(id_bytes) {
            return Err(CorpusError::Damaged { path });
        }
        out.push(Open { file: Mutex::new(file), start, tokens: shard.tokens });
        start += shard.tokens;
    }
    Ok(out)
}
