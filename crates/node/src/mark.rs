//! Whether this folder may vote with its key: a copy, or one restored from a backup, may not, for the
//! original voted on or still does. It takes a seat with a new key instead.

use crate::network::{NetworkFile, SEAT_FILE};
use crate::platform;
use crate::store::{Store, write_whole};
use anyhow::Result;
use base::{Hash, Keypair, NodeId};
use std::path::Path;

const MARK: &str = "voted-here";
/// Written anew at every start, and when it was: what is put back into the files of this folder, as `rsync` does with a
/// backup, writes the first one again, and the second one no longer tells when.
const START: &str = "started";
const STARTED: &str = "started-at";
/// Stands in for that time while the first one is being written.
const UNDER_WAY: &str = "under way";
/// Folder of the engine's journal.
pub(crate) const JOURNAL: &str = "consensus";
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

/// The key with which a data folder may vote on the chain in `dir`. Marks it at first.
pub(crate) fn voter(store: &Store, dir: &Path, network: &NetworkFile) -> Result<Voter> {
    let (mark, journal) = (store.dir().join(MARK), dir.join(JOURNAL));
    let key = store.secret(SEAT_FILE)?;
    let told = std::fs::read_to_string(&mark).unwrap_or_default();
    let chain = network.genesis.chain();
    // The journal is what the key has voted: without it, or with another's, the key is not safe to use.
    let several = network.genesis.validators.len() >= 4;
    let own = journal.exists() && told == words(&mark, &journal, &chain)? && (!several || not_put_back(store)?);
    if own || !told.contains(&chain.to_string()) {
        std::fs::create_dir_all(&journal)?;
        if !own {
            std::fs::write(&mark, b"")?;
            std::fs::write(&mark, words(&mark, &journal, &chain)?)?;
        }
        note_start(store)?;
        return Ok(Voter::Own(key));
    }
    if !several {
        return Ok(Voter::None);
    }
    // A crash in here is gone through again: the key that had the seat stays named.
    if old_seat(store).is_none() {
        write_whole(&store.dir().join(OLD_SEAT), key.id().to_string().as_bytes(), true)?;
    }
    std::fs::remove_file(store.dir().join(SEAT_FILE))?;
    let _ = std::fs::remove_dir_all(&journal);
    std::fs::create_dir_all(&journal)?;
    std::fs::write(&mark, words(&mark, &journal, &chain)?)?;
    note_start(store)?;
    Ok(Voter::New(store.secret(SEAT_FILE)?))
}

/// Whether the folder is as this node left it at its last start.
fn not_put_back(store: &Store) -> Result<bool> {
    let (start, started) = (store.dir().join(START), store.dir().join(STARTED));
    // Neither: a folder from before this was noted.
    Ok(match std::fs::read_to_string(&started) {
        Ok(at) => at == UNDER_WAY || (start.exists() && at == platform::changed_at(&start)?),
        Err(_) => !start.exists(),
    })
}

fn note_start(store: &Store) -> Result<()> {
    let (start, started) = (store.dir().join(START), store.dir().join(STARTED));
    write_whole(&started, UNDER_WAY.as_bytes(), true)?;
    std::fs::write(&start, base::to_hex(&platform::random_secret()?))?;
    write_whole(&started, platform::changed_at(&start)?.as_bytes(), true)
}

/// The mark says which file and which journal they are: copies are others with the same words.
fn words(mark: &Path, journal: &Path, chain: &Hash) -> Result<String> {
    Ok(format!("{chain} {} {}", platform::file_identity(mark)?, platform::file_identity(journal)?))
}

/// The key whose seat is still to be given up for the new one.
pub(crate) fn old_seat(store: &Store) -> Option<NodeId> {
    std::fs::read_to_string(store.dir().join(OLD_SEAT)).ok()?.parse().ok()
}

/// It was given up.
pub(crate) fn reseated(store: &Store) {
    let _ = std::fs::remove_file(store.dir().join(OLD_SEAT));
}
