//! `talkoo data build`: documents to shards and a manifest.

use crate::{Document, Manifest, Shard, SourceError, Tokenizer, TokenizerError, read_documents};
use base::{ChunkTree, Hash};
use std::io::Write;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Name for people.
    pub name: String,
    /// Licence of the text.
    pub licence: String,
    /// Of 1,000 documents, how many are held out.
    pub heldout_permille: u32,
    /// A shard ends after this many tokens.
    pub shard_tokens: u64,
    /// Field or column that holds the text.
    pub field: String,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            name: "corpus".into(),
            licence: "unknown".into(),
            heldout_permille: 50,
            shard_tokens: 1 << 24,
            field: "text".into(),
        }
    }
}

/// The result.
#[derive(Debug)]
pub struct Built {
    /// The manifest as it was written.
    pub manifest: Manifest,
    /// Where it is.
    pub path: PathBuf,
}

/// Why nothing was built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The tokenizer refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The output cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is nothing to train on.
    #[error("no document is in the training split")]
    Empty,
}

/// Builds a corpus in `out`: `manifest.json`, `tokenizer.json` and one file a shard, named by its
/// root. The bytes depend on the sources, their order and the options only. `progress` is told the
/// tokens written so far.
pub fn build(
    sources: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &BuildOptions,
    out: &Path,
    mut progress: impl FnMut(u64),
) -> Result<Built, BuildError> {
    std::fs::create_dir_all(out).map_err(io(out))?;
    let mut splits = Splits::new(tokenizer, options, out);
    let mut failed = None;
    for source in sources {
        read_documents(source, &options.field, |document| {
            if failed.is_none() {
                failed = splits.add(&document).err();
                progress(splits.tokens());
            }
            Ok(())
        })?;
    }
    match failed {
        Some(error) => Err(error),
        None => splits.finish(),
    }
}

/// Builds the same from documents in memory.
pub(crate) fn build_from(
    documents: impl Iterator<Item = Document>,
    tokenizer: &Tokenizer,
    options: &BuildOptions,
    out: &Path,
) -> Result<Built, BuildError> {
    std::fs::create_dir_all(out).map_err(io(out))?;
    let mut splits = Splits::new(tokenizer, options, out);
    for document in documents {
        splits.add(&document)?;
    }
    splits.finish()
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> BuildError + '_ {
    |source| BuildError::Io { path: path.to_owned(), source }
}

struct Splits<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a BuildOptions,
    out: &'a Path,
    train: Packer,
    heldout: Packer,
}

impl<'a> Splits<'a> {
    fn new(tokenizer: &'a Tokenizer, options: &'a BuildOptions, out: &'a Path) -> Self {
        let id_bytes = if tokenizer.vocab() <= 1 << 16 { 2 } else { 4 };
        Self { tokenizer, options, out, train: Packer::new(id_bytes), heldout: Packer::new(id_bytes) }
    }

    fn tokens(&self) -> u64 {
        self.train.total + self.heldout.total
    }

    fn add(&mut self, document: &Document) -> Result<(), BuildError> {
        // Nothing to learn from, not even the end of something.
        if document.text.is_empty() {
            return Ok(());
        }
        let ids = self.tokenizer.encode(&document.text)?;
        // The split depends on the text alone, so a document is on the same side in every build.
        let draw = Hash::of("talkoo 2026 held-out split v1", document.text.as_bytes()).seed() % 1000;
        let heldout = draw < u64::from(self.options.heldout_permille);
        let packer = if heldout { &mut self.heldout } else { &mut self.train };
        packer.push(&ids, self.tokenizer.end_token(), document.text.len() as u64);
        if packer.ids >= self.options.shard_tokens {
            packer.flush(self.out)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Built, BuildError> {
        self.train.flush(self.out)?;
        self.heldout.flush(self.out)?;
        if self.train.total == 0 {
            return Err(BuildError::Empty);
        }
        let json = self.tokenizer.json();
        write_file(&self.out.join("tokenizer.json"), json)?;
        let manifest = Manifest {
            version: 1,
            name: self.options.name.clone(),
            licence: self.options.licence.clone(),
            tokenizer: ChunkTree::of(json).root(),
            vocab: self.tokenizer.vocab(),
            end_token: self.tokenizer.end_token(),
            id_bytes: self.train.id_bytes,
            documents: [self.train.documents, self.heldout.documents],
            train: self.train.shards,
            heldout: self.heldout.shards,
        };
        let path = self.out.join("manifest.json");
        write_file(&path, &manifest.to_json())?;
        Ok(Built { manifest, path })
    }
}

/// Packs documents of one split and writes a shard when told to.
struct Packer {
    id_bytes: u32,
    bytes: Vec<u8>,
    ids: u64,
    text_bytes: u64,
    documents: u64,
    total: u64,
    shards: Vec<Shard>,
}

impl Packer {
    fn new(id_bytes: u32) -> Self {
        Self { id_bytes, bytes: Vec::new(), ids: 0, text_bytes: 0, documents: 0, total: 0, shards: Vec::new() }
    }

    fn push(&mut self, ids: &[u32], end: u32, text_bytes: u64) {
        for &id in ids.iter().chain([&end]) {
            let bytes = id.to_le_bytes();
            self.bytes.extend_from_slice(&bytes[..self.id_bytes as usize]);
        }
        self.ids += ids.len() as u64 + 1;
        self.total += ids.len() as u64 + 1;
        self.text_bytes += text_bytes;
        self.documents += 1;
    }

    fn flush(&mut self, out: &Path) -> Result<(), BuildError> {
        if self.ids == 0 {
            return Ok(());
        }
        let root = ChunkTree::of(&self.bytes).root();
        write_file(&out.join(format!("{root}.bin")), &self.bytes)?;
        self.shards.push(Shard { root, tokens: self.ids, text_bytes: self.text_bytes });
        self.bytes.clear();
        self.ids = 0;
        self.text_bytes = 0;
        Ok(())
    }
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(io(path))
}
