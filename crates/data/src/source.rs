//! Documents from files: plain text, JSON Lines (also `.gz`, `.zst`), Parquet.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The largest document that is taken, in bytes: it is tokenised in memory.
const DOCUMENT_BYTES_MAX: usize = 256 << 20;

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text, UTF-8.
    pub text: String,
}

/// Why a source cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line or row that is no document.
    #[error("{path}: record {record}: {why}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Line or row, from 1.
        record: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Not a format that is known.
    #[error("{path}: unknown format; give .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet")]
    Format {
        /// The file.
        path: PathBuf,
    },
}

/// Reads all documents of a file, in order, and hands each to `take`. A `.txt` file is one document;
/// JSON Lines and Parquet have one a record, in the string field or column `field`.
pub fn read_documents(
    path: &Path,
    field: &str,
    mut take: impl FnMut(Document) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let io = |source| SourceError::Io { path: path.to_owned(), source };
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    if name.ends_with(".parquet") {
        return read_parquet(path, field, take);
    }
    let file = File::open(path).map_err(io)?;
    if name.ends_with(".txt") {
        let mut text = String::new();
        file.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(io)?;
        return take(checked(path, 1, text)?);
    }
    let reader: Box<dyn Read> = if name.ends_with(".jsonl") {
        Box::new(file)
    } else if name.ends_with(".jsonl.gz") {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else if name.ends_with(".jsonl.zst") {
        Box::new(zstd::Decoder::new(file).map_err(io)?)
    } else {
        return Err(SourceError::Format { path: path.to_owned() });
    };
    read_json_lines(path, reader, field, &mut take)
}

/// Reads JSON Lines from any reader; `path` only names it in errors.
pub(crate) fn read_json_lines(
    path: &Path,
    reader: impl Read,
    field: &str,
    take: &mut impl FnMut(Document) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    for record in 1.. {
        line.clear();
        let limit = DOCUMENT_BYTES_MAX as u64 + 1;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut line);
        let read = read.map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
        if read == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let refuse = |why: String| SourceError::Record { path: path.to_owned(), record, why };
        let mut value: serde_json::Value = serde_json::from_slice(&line).map_err(|e| refuse(e.to_string()))?;
        match value.get_mut(field).map(serde_json::Value::take) {
            Some(serde_json::Value::String(text)) => take(checked(path, record, text)?)?,
            _ => return Err(refuse(format!("no string field `{field}`"))),
        }
    }
    Ok(())
}

fn read_parquet(
    path: &Path,
    field: &str,
    mut take: impl FnMut(Document) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let file = File::open(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
    let refuse = |record, why: String| SourceError::Record { path: path.to_owned(), record, why };
    let reader = SerializedFileReader::new(file).map_err(|e| refuse(0, e.to_string()))?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let column = schema.get_fields().iter().position(|f| f.name() == field);
    let column = column.ok_or_else(|| refuse(0, format!("no column `{field}`")))?;
    let rows = reader.get_row_iter(None).map_err(|e| refuse(0, e.to_string()))?;
    for (record, row) in (1..).zip(rows) {
        let row = row.map_err(|e| refuse(record, e.to_string()))?;
        let text = row.get_string(column).map_err(|e| refuse(record, e.to_string()))?;
        take(checked(path, record, text.clone())?)?;
    }
    Ok(())
}

fn checked(path: &Path, record: u64, text: String) -> Result<Document, SourceError> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let why = format!("longer than {} MiB", DOCUMENT_BYTES_MAX >> 20);
        return Err(SourceError::Record { path: path.to_owned(), record, why });
    }
    Ok(Document { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &str) -> Result<Vec<String>, SourceError> {
        let mut out = Vec::new();
        read_json_lines(Path::new("x.jsonl"), input.as_bytes(), "text", &mut |d: Document| {
            out.push(d.text);
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn json_lines() {
        assert_eq!(lines("{\"text\":\"a\"}\n\n{\"text\":\"b\"}").ok(), Some(vec!["a".into(), "b".into()]));
        let refusals = ["{", "{\"other\":1}", "{\"text\":7}", "[]"];
        for input in refusals {
            assert!(matches!(lines(input), Err(SourceError::Record { record: 1, .. })), "{input}");
        }
    }

    #[test]
    fn an_unknown_format_is_named() {
        let error = read_documents(Path::new("/dev/null"), "text", |_| Ok(())).expect_err("no format");
        assert!(error.to_string().contains(".jsonl.zst"));
    }
}
