//! Text in, numbered training windows out: documents are tokenised, packed with an end token
//! between them, cut into shards, and described by a manifest whose hash names the whole corpus.
//!
//! *Goals*: the same input gives the same bytes on every machine; a peer can check every shard by
//! hash; any window of any shard is found by arithmetic. *Non-goals*: tensors, networks, cleaning of text.

mod build;
mod manifest;
mod order;
mod shards;
mod source;
mod tokenizer;

/// The corpus and the tokenizer that are inside the program, so that it works offline.
pub mod shipped;

pub use build::{BuildError, BuildOptions, Built, build};
pub use manifest::{Manifest, ManifestError, Shard};
pub use order::{Order, Window};
pub use shards::{Corpus, CorpusError, Split};
pub use source::{Document, SourceError, read_documents};
pub use tokenizer::{Tokenizer, TokenizerError};
