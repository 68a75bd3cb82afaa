//! Whether this folder may vote with its key: a copy, or one restored from a backup, may not, for the
//! original voted on or still does. It takes a seat with a new key instead.

use crate::network::{NetworkFile, SEAT_FILE};
use crate::platform;
use crate::store::{Store, write_whole};
use anyhow::Result;
use base::{Keypair, NodeId};
use std::path::Path;

const MARK: &str = "voted-here";
/// Names the key whose seat is to be given up for the new one.
const OLD_SEAT: &str = "seat.old";

/// The key with which the folder votes.
pub(crate) enum Voter {
    /// The one with which it always voted.
    Own(Keypair),
    /// A new one: this folder is a copy.
    New(Keypair),
    /// None: it is a copy, and alone it has nobody who would give a new key a seat.
    None,
}

/// The key with which the folder of a chain may vote. Marks it at first.
pub(crate) fn voter(store: &Store, dir: &Path, network: &NetworkFile) -> Result<Voter> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(MARK);
    let key = store.secret(SEAT_FILE)?;
    if !path.exists() {
        mark(&path)?;
        return Ok(Voter::Own(key));
    }
    if std::fs::read_to_string(&path)? == platform::file_identity(&path)? {
        return Ok(Voter::Own(key));
    }
    if network.genesis.validators.len() < 4 {
        return Ok(Voter::None);
    }
    write_whole(&store.dir().join(OLD_SEAT), key.id().to_string().as_bytes(), true)?;
    std::fs::remove_file(store.dir().join(SEAT_FILE))?;
    // The journal is that of the old key.
    let _ = std::fs::remove_dir_all(dir.join("consensus"));
    std::fs::remove_file(&path)?;
    mark(&path)?;
    Ok(Voter::New(store.secret(SEAT_FILE)?))
}

/// The mark says which file it is: a copy is another file with the same words.
fn mark(path: &Path) -> Result<()> {
    std::fs::write(path, b"")?;
    Ok(std::fs::write(path, platform::file_identity(path)?)?)
}

/// The key whose seat is still to be given up for the new one.
pub(crate) fn old_seat(store: &Store) -> Option<NodeId> {
    std::fs::read_to_string(store.dir().join(OLD_SEAT)).ok()?.parse().ok()
}

/// It was given up.
pub(crate) fn reseated(store: &Store) {
    let _ = std::fs::remove_file(store.dir().join(OLD_SEAT));
}
