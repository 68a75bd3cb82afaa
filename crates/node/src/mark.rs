//! Whether this folder may vote with its key: a copy, or one restored from a backup, may not, for the
//! original voted on or still does.

use crate::network::NetworkFile;
use crate::platform;
use anyhow::Result;
use std::path::Path;

const MARK: &str = "voted-here";

/// Whether the folder of a chain is the one in which its key has always voted. Marks it at first.
pub(crate) fn may_vote(dir: &Path, network: &NetworkFile) -> Result<bool> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(MARK);
    if !path.exists() {
        std::fs::write(&path, b"")?;
        // The mark says which file it is: a copy is another file with the same words.
        std::fs::write(&path, platform::file_identity(&path)?)?;
        return Ok(true);
    }
    let own = std::fs::read_to_string(&path)? == platform::file_identity(&path)?;
    if !own {
        tracing::error!(network = network.genesis.name, "this folder is a copy: its key does not vote here");
    }
    Ok(own)
}
