//! The data folder of a node.

use crate::files::claim;
use crate::platform::{DATABASE, private_file, private_folder, random_secret, write_private};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A data folder: only its owner reads it, and one process at a time has it.
pub struct DataFolder {
    dir: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Opens or makes the folder.
    pub fn open(dir: &Path) -> Result<Self> {
        private_folder(dir).with_context(|| format!("cannot make the data folder {}", dir.display()))?;
        let lock = private_file().write(true).create(true).truncate(true).open(dir.join("lock"));
        let lock = lock.with_context(|| format!("{} is not writable", dir.display()))?;
        if lock.try_lock().is_err() {
            bail!("another talkoo runs on {}; stop it, or name another folder with --data", dir.display());
        }
        claim(&dir.join(DATABASE)).with_context(|| format!("{} is not writable", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A secret in a file of its own, made on first use.
    pub fn secret(&self, file: &str) -> Result<[u8; 32]> {
        let path = self.dir.join(file);
        match std::fs::read(&path) {
            Ok(bytes) => match <[u8; 32]>::try_from(bytes.as_slice()) {
                Ok(secret) => Ok(secret),
                Err(_) => bail!("{} is damaged: {} bytes instead of 32", path.display(), bytes.len()),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let secret = random_secret()?;
                write_private(&path, &secret)?;
                Ok(secret)
            }
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }
}
