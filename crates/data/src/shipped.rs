//! Shakespeare's plays and poems (public domain; see `corpus/README.md` for source and hashes) and
//! a byte-level BPE of 2,048 tokens trained on them.

use crate::source::read_json_lines;
use crate::{BuildError, BuildOptions, Built, Document, SourceError, Tokenizer, TokenizerError, build::build_from};
use std::path::Path;

const TEXTS: &[u8] = include_bytes!("../../../corpus/shakespeare.jsonl.zst");
const TOKENIZER: &[u8] = include_bytes!("../../../corpus/tokenizer.json");

/// The shipped tokenizer.
pub fn tokenizer() -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_json(TOKENIZER)
}

/// The shipped texts.
pub fn documents() -> Result<Vec<Document>, SourceError> {
    let path = Path::new("shipped corpus");
    let reader = zstd::Decoder::new(TEXTS).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
    let mut out = Vec::new();
    read_json_lines(path, reader, "text", &mut |document| {
        out.push(document);
        Ok(())
    })?;
    Ok(out)
}

/// Builds the shipped corpus in `out`.
pub fn build(out: &Path) -> Result<Built, BuildError> {
    let options =
        BuildOptions { name: "shakespeare".into(), licence: "public domain".into(), ..BuildOptions::default() };
    build_from(documents()?.into_iter(), &tokenizer()?, &options, out)
}
