//! Files of the data folder: only the owner reads them, and they are whole or not there.

use crate::platform::private_file;
use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Makes a file that only its owner can read, where there is none: an empty one is a new database. One that is there is not
/// opened here: to close it could let go of locks on it.
pub fn claim(path: &Path) -> std::io::Result<()> {
    match private_file().write(true).create_new(true).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Appends a line of JSON to a log, which is turned over when it is longer than `most` bytes; one older file stays.
pub fn append_line(path: &Path, most: u64, line: &impl serde::Serialize) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|file| file.len() > most) {
        std::fs::rename(path, older(path))?;
    }
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(private_file().create(true).append(true).open(path)?.write_all(&text)?)
}

/// Where a log goes that was turned over.
pub fn older(path: &Path) -> PathBuf {
    path.with_extension("jsonl.old")
}

/// Writes a file whole or not at all; `sync` waits for the disk.
pub fn write_whole(path: &Path, bytes: &[u8], sync: bool) -> Result<()> {
    write_parts(path, &[bytes], sync)
}

/// The same for what lies in several places: large content is not copied to be written.
pub fn write_parts(path: &Path, parts: &[&[u8]], sync: bool) -> Result<()> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = private_file().write(true).create(true).truncate(true).open(&partial)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        if sync {
            file.sync_all()?;
        }
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
}
