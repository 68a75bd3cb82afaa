//! Where things are in a data folder.

use anyhow::Result;
use base::{Hash, Keypair};
use host::DataFolder;
use std::path::{Path, PathBuf};

/// A key in a file of its own, made on first use.
pub fn secret(folder: &DataFolder, file: &str) -> Result<Keypair> {
    Ok(Keypair::from_secret(folder.secret(file)?))
}

/// The folder of a chain in a data folder.
pub fn chain_dir(data: &Path, chain: &Hash) -> PathBuf {
    data.join("chains").join(chain.to_string())
}
