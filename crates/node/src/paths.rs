//! Where things are in a data folder.

use base::Hash;
use std::path::{Path, PathBuf};

/// Written anew at every start, and when it was: what is put back into the files of this folder, as `rsync` does with a
/// backup, writes the first one again, and the second one no longer tells when.
pub(crate) const START: &str = "started";

/// The folder of a chain in a data folder.
pub(crate) fn chain_dir(data: &Path, chain: &Hash) -> PathBuf {
    data.join("chains").join(chain.to_string())
}
