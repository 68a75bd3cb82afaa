//! Whether this folder may vote with its key: a copy, or one restored from a backup, may not, for the
//! original voted on or still does. It takes a seat with a new key instead. Nor may one that was restored from a
//! backup of its keys alone: nobody here knows what they voted.

use crate::chain_store::ChainStore;
use crate::network::{NetworkFile, SEAT_FILE};
use crate::paths::secret;
use anyhow::{Context, Result};
use base::{Hash, Keypair, NodeId};
use host::{DataFolder, START, write_whole};
use std::fs::File;
use std::io::Write;
use std::path::Path;

const MARK: &str = "voted-here";
const STARTED: &str = "started-at";
/// Stands in for that time while the first one is being written.
const UNDER_WAY: &str = "under way";
/// Folder of the engine's journal.
pub(crate) const JOURNAL: &str = "consensus";
/// Founders start within this, or found the network anew: later, keys without votes are from a backup.
const FOUNDING_MS: u64 = 24 * 3_600_000;
/// A folder without votes asks whether its key voted only a chain that is as new as this: an older one may not say so.
const FRESH_MS: u64 = 10 * 60_000;
/// Names the key whose seat is to be given up for the new one.
const OLD_SEAT: &str = "seat.old";
/// Ends the names of what is set aside instead of deleted.
const PUT_BACK: &str = "put-back";
/// What a copy of the folder of a network of one says.
pub(crate) const COPY: &str = "this folder is a copy of one whose key votes, or was restored from a backup: it does \
    not vote, for two that vote with one key could contradict each other; `talkoo network recover` goes on as a network of \
    its own";

/// The key with which the folder votes.
pub(crate) enum VotingKey {
    /// The one with which it always voted.
    Own(Keypair),
    /// A new one: this folder is a copy.
    New(Keypair),
    /// None: it is a copy, and alone it has nobody who would give a new key a seat.
    None,
    /// None yet, and why: it cannot tell whether its key voted. It follows the others meanwhile.
    Later(String),
}

impl VotingKey {
    /// The key to vote with, or why there is none.
    pub(crate) fn parts(self) -> (Option<Keypair>, Option<String>) {
        match self {
            Self::Own(key) | Self::New(key) => (Some(key), None),
            Self::None => (None, Some(COPY.into())),
            Self::Later(why) => (None, Some(why)),
        }
    }
}

/// Whether a folder without votes on a chain may begin to vote there.
enum Leave {
    Given,
    Denied,
    Later(String),
}

/// The key with which a data folder may vote on the chain in `dir`. Marks it at first.
pub(crate) fn voter(data: &DataFolder, dir: &Path, network: &NetworkFile) -> Result<VotingKey> {
    let (mark, journal) = (data.dir().join(MARK), dir.join(JOURNAL));
    let mut key = secret(data, SEAT_FILE)?;
    let told = std::fs::read_to_string(&mark).unwrap_or_default();
    let chain = network.genesis.chain();
    // The journal is what the key has voted: without it, or with another's, the key is not safe to use.
    let several = network.genesis.validators.len() >= 4;
    let own = mark.exists()
        && journal.exists()
        && told == words(&mark, &journal, &chain)?
        && (!several || not_put_back(data)?);
    let leave = match own {
        true => Leave::Given,
        false if told.contains(&chain.to_string()) => Leave::Denied,
        false => may_begin(data, dir, network, &mut key)?,
    };
    if let Leave::Later(why) = leave {
        tracing::warn!(why, "this node does not vote yet");
        return Ok(VotingKey::Later(why));
    }
    if matches!(leave, Leave::Given) {
        std::fs::create_dir_all(&journal)?;
        if !own {
            write_mark(&mark, &journal, &chain)?;
        }
        note_start(data)?;
        return Ok(VotingKey::Own(key));
    }
    if !several {
        return Ok(VotingKey::None);
    }
    // A crash in here is gone through again: the key that had the seat stays named.
    if old_seat(data).is_none() {
        write_whole(&data.dir().join(OLD_SEAT), key.id().to_string().as_bytes(), true)?;
    }
    let suffix = set_aside(data, Some(dir))?;
    tracing::error!(
        "this data folder looks copied or put back from a backup, so this node takes a seat with a new key. Where \
         nothing was copied or put back, a power cut or a change of rights or owner looks the same: then stop the \
         node, in {} remove `{OLD_SEAT}` and rename `{SEAT_FILE}.{suffix}` to `{SEAT_FILE}` and `{MARK}.{suffix}` to \
         `{MARK}`, in {} remove `{JOURNAL}` and rename `{JOURNAL}.{suffix}` to `{JOURNAL}`, and start it again. After \
         a backup this would cost the bond",
        data.dir().display(),
        dir.display()
    );
    std::fs::create_dir_all(&journal)?;
    write_mark(&mark, &journal, &chain)?;
    note_start(data)?;
    Ok(VotingKey::New(secret(data, SEAT_FILE)?))
}

/// Renames the key, and with `chain` the mark and the journal of that folder, for a guess may be wrong and a key that
/// is deleted does not come back. Gives the end of their names.
fn set_aside(data: &DataFolder, chain: Option<&Path>) -> Result<String> {
    let taken = |suffix: &String| data.dir().join(format!("{SEAT_FILE}.{suffix}")).exists();
    let mut suffixes = std::iter::once(PUT_BACK.to_owned()).chain((2u32..).map(|n| format!("{PUT_BACK}-{n}")));
    let suffix = suffixes.find(|suffix| !taken(suffix)).context("too many keys were set aside")?;
    // The mark stays as long as the key: wherever a crash comes in between, the key does not vote without its journal.
    let key = [(data.dir(), SEAT_FILE)];
    let of_chain = chain.map(|dir| ((dir, JOURNAL), (data.dir(), MARK)));
    let (journal, mark) = of_chain.unzip();
    for (dir, name) in journal.into_iter().chain(key).chain(mark) {
        let (from, to) = (dir.join(name), dir.join(format!("{name}.{suffix}")));
        if from.exists() {
            std::fs::rename(&from, &to).with_context(|| format!("cannot rename {}", from.display()))?;
            File::open(dir)?.sync_all()?;
        }
    }
    Ok(suffix)
}

/// Whether a folder that has no votes on a chain may begin to vote there with `key`, or with a new one that takes its
/// place here. The chain is asked as it is on disk, which is as new as the last start left it: among several validators
/// an old one is no answer.
fn may_begin(data: &DataFolder, dir: &Path, network: &NetworkFile, key: &mut Keypair) -> Result<Leave> {
    let genesis = &network.genesis;
    let disk = ChainStore::open(dir)?;
    let orderer = crate::replica::replay(genesis, &disk, &|_, _| {})?;
    let state = orderer.state();
    // A network that was recovered remembers votes of the one before it: at its beginning they say nothing.
    if state.height() > 0 {
        let behind = crate::clock::clock().since(state.time());
        return Ok(if state.has_voted(&key.id()) {
            Leave::Denied
        } else if genesis.validators.len() >= 4 && behind > FRESH_MS {
            Leave::Later(format!(
                "{} has no votes of its key on {}, and its chain is {} min old, so nobody here knows whether the key \
                 voted since: this node follows the others; restart it when it has caught up",
                data.dir().display(),
                genesis.name,
                behind / 60_000
            ))
        } else {
            Leave::Given
        });
    }
    // The chain is not here yet, so it cannot say whether the key voted.
    let founder = genesis.validators.iter().any(|founder| founder.key == key.id());
    let age = crate::clock::clock().since(genesis.time);
    if founder && age > FOUNDING_MS {
        return Ok(Leave::Later(format!(
            "{} has the key of a validator of {}, which began {} h ago, but neither its chain nor its votes: a validator \
             that votes again without them can contradict itself and lose its bond. \
             It follows the others without a vote. Put the whole data folder back. \
             Where it is lost, remove the file `{SEAT_FILE}` and start again: `talkoo network stake` takes a seat with \
             a new key. Where the network never began, found it anew with `talkoo network create`",
            data.dir().display(),
            genesis.name,
            age / 3_600_000
        )));
    }
    if !founder {
        // It may have had a seat once. A new key has never voted, and takes a seat as well as this one.
        set_aside(data, None)?;
        *key = secret(data, SEAT_FILE)?;
    }
    Ok(Leave::Given)
}

/// Whether the folder is as this node left it at its last start.
fn not_put_back(data: &DataFolder) -> Result<bool> {
    let (start, started) = (data.dir().join(START), data.dir().join(STARTED));
    // Neither: a folder from before this was noted.
    Ok(match std::fs::read_to_string(&started) {
        Ok(at) => at == UNDER_WAY || (start.exists() && at == host::changed_at(&start)?),
        Err(_) => !start.exists(),
    })
}

/// Each step is on disk before the next: a power cut must not leave the time of one start beside the file of another.
fn note_start(data: &DataFolder) -> Result<()> {
    let (start, started) = (data.dir().join(START), data.dir().join(STARTED));
    let folder = File::open(data.dir())?;
    write_whole(&started, UNDER_WAY.as_bytes(), true)?;
    folder.sync_all()?;
    let mut file = host::private_file().write(true).create(true).truncate(true).open(&start)?;
    file.write_all(base::to_hex(&host::random_secret()?).as_bytes())?;
    file.sync_all()?;
    folder.sync_all()?;
    write_whole(&started, host::changed_at(&start)?.as_bytes(), true)?;
    Ok(folder.sync_all()?)
}

/// Writes the mark in its place, on disk before anything is voted: renamed, it would be another file.
fn write_mark(mark: &Path, journal: &Path, chain: &Hash) -> Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).open(mark)?;
    file.write_all(words(mark, journal, chain)?.as_bytes())?;
    file.sync_all()?;
    for folder in [mark.parent(), journal.parent()].into_iter().flatten() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// The mark says which file and which journal they are: copies are others with the same words.
fn words(mark: &Path, journal: &Path, chain: &Hash) -> Result<String> {
    let which = |path: &Path| -> Result<String> {
        let (number, machine) = host::file_identity(path)?;
        Ok(format!("{number}:{}", Hash::of("talkoo 2026 machine v1", machine.as_bytes()).short()))
    };
    Ok(format!("{chain} {} {}", which(mark)?, which(journal)?))
}

/// The key whose seat is still to be given up for the new one.
pub fn old_seat(data: &DataFolder) -> Option<NodeId> {
    std::fs::read_to_string(data.dir().join(OLD_SEAT)).ok()?.parse().ok()
}

/// It was given up.
pub fn reseated(data: &DataFolder) {
    let _ = std::fs::remove_file(data.dir().join(OLD_SEAT));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::network::{SeatOffer, private};
    use base::Millis;
    use chain::State;
    use net::Address;

    struct Stage {
        _dir: tempfile::TempDir,
        data: DataFolder,
    }

    impl Stage {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            Self { data: DataFolder::open(dir.path()).expect("a data"), _dir: dir }
        }

        fn key(&self) -> NodeId {
            secret(&self.data, SEAT_FILE).expect("a key").id()
        }

        fn voter(&self, network: &NetworkFile) -> Result<VotingKey> {
            let dir = crate::paths::chain_dir(self.data.dir(), &network.genesis.chain());
            voter(&self.data, &dir, network)
        }

        /// A network of four, of which this folder has the first key where it is a founder.
        fn four(&self, founder: bool, age_ms: u64) -> NetworkFile {
            let other = |i: u8| Keypair::from_secret([i; 32]).id();
            let seat = |i: u8| {
                let key = if i == 0 && founder { self.key() } else { other(50 + i) };
                SeatOffer { key, address: Address { node: other(60 + i), sockets: Vec::new(), relay: None } }
            };
            let mut network = NetworkFile::new("four", (0..4).map(seat).collect()).expect("a network");
            network.genesis.time = Millis(crate::clock::clock().0 - age_ms);
            network
        }
    }

    #[test]
    fn a_founder_votes_at_first_and_after_a_restart() {
        let stage = Stage::new();
        let (network, key) = (stage.four(true, 1_000), stage.key());
        for _ in 0..2 {
            let voter = stage.voter(&network).expect("told");
            assert!(matches!(voter, VotingKey::Own(own) if own.id() == key));
        }
    }

    #[test]
    fn a_folder_that_was_open_to_others_is_closed_and_keeps_its_key() {
        use std::os::unix::fs::PermissionsExt;
        let stage = Stage::new();
        let (network, key) = (stage.four(true, 1_000), stage.key());
        stage.voter(&network).expect("told");
        // As earlier versions left it.
        let dir = stage.data.dir();
        for entry in std::fs::read_dir(dir).expect("read").flatten().filter(|entry| entry.path().is_file()) {
            let open = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(entry.path(), open).expect("set");
        }
        note_start(&stage.data).expect("noted");
        host::private_folder(dir).expect("closed");
        let voter = stage.voter(&network).expect("told");
        assert!(matches!(voter, VotingKey::Own(own) if own.id() == key));
    }

    #[test]
    fn a_folder_that_only_looks_put_back_gets_its_key_again() {
        let stage = Stage::new();
        let (network, key) = (stage.four(true, 1_000), stage.key());
        stage.voter(&network).expect("told");
        let (dir, chain) = (stage.data.dir(), crate::paths::chain_dir(stage.data.dir(), &network.genesis.chain()));
        std::fs::write(chain.join(JOURNAL).join("votes"), b"votes").expect("written");
        for suffix in [PUT_BACK.to_owned(), format!("{PUT_BACK}-2")] {
            // The time of the file is not what was noted.
            std::fs::write(dir.join(STARTED), b"1.1").expect("written");
            let voter = stage.voter(&network).expect("told");
            assert!(matches!(voter, VotingKey::New(new) if new.id() != key));
            assert_eq!(old_seat(&stage.data), Some(key));
            // A second time does not overwrite what the first one set aside.
            std::fs::remove_file(dir.join(OLD_SEAT)).expect("removed");
            std::fs::rename(dir.join(SEAT_FILE), dir.join("other")).expect("renamed");
            std::fs::rename(dir.join(format!("{SEAT_FILE}.{suffix}")), dir.join(SEAT_FILE)).expect("renamed");
            std::fs::rename(dir.join(format!("{MARK}.{suffix}")), dir.join(MARK)).expect("renamed");
            std::fs::remove_dir_all(chain.join(JOURNAL)).expect("removed");
            std::fs::rename(chain.join(format!("{JOURNAL}.{suffix}")), chain.join(JOURNAL)).expect("renamed");
            assert_eq!(std::fs::read(chain.join(JOURNAL).join("votes")).expect("read"), b"votes");
            let voter = stage.voter(&network).expect("told");
            assert!(matches!(voter, VotingKey::Own(own) if own.id() == key));
            std::fs::rename(dir.join("other"), dir.join(format!("{SEAT_FILE}.{suffix}"))).expect("renamed");
        }
    }

    #[test]
    fn an_old_chain_is_not_asked_whether_a_key_voted() {
        let stage = Stage::new();
        let network = stage.four(true, 2 * FRESH_MS);
        let other = network.genesis.validators.iter().map(|founder| founder.key).find(|key| *key != stage.key());
        let write = |after_ms: u64| {
            let dir = crate::paths::chain_dir(stage.data.dir(), &network.genesis.chain());
            let disk = ChainStore::open(&dir).expect("a data");
            let mut state = crate::replica::replay(&network.genesis, &disk, &|_, _| {}).expect("read").state().clone();
            let block = state.next(other.expect("three"), Vec::new(), state.time().plus(after_ms), Vec::new());
            disk.finish(&[block], b"a certificate").expect("written");
        };
        write(1_000);
        assert!(matches!(stage.voter(&network).expect("told"), VotingKey::Later(why) if why.contains("caught up")));
        write(2 * FRESH_MS - 2_000);
        assert!(matches!(stage.voter(&network).expect("told"), VotingKey::Own(own) if own.id() == stage.key()));
    }

    #[test]
    fn keys_from_a_backup_without_their_votes_do_not_vote() {
        let stage = Stage::new();
        // A founder's node starts all the same, and follows.
        let key = stage.key();
        let voter = stage.voter(&stage.four(true, FOUNDING_MS + 60_000)).expect("told");
        assert!(matches!(voter, VotingKey::Later(why) if why.contains("Put the whole data folder back")));
        assert_eq!(stage.key(), key, "and the key stays");
        // A key that is no founder's may have had a seat later: a new one takes its place.
        let before = stage.key();
        let voter = stage.voter(&stage.four(false, FOUNDING_MS + 60_000)).expect("told");
        assert!(matches!(voter, VotingKey::Own(own) if own.id() != before && own.id() == stage.key()));
    }

    #[test]
    fn a_key_that_the_chain_shows_to_have_voted_needs_its_journal() {
        let stage = Stage::new();
        let network = private(NodeId([1; 32]), stage.key());
        let mut state = State::new(&network.genesis);
        let now = state.time().plus(1_000);
        let block = state.next(stage.key(), Vec::new(), now, Vec::new());
        let dir = crate::paths::chain_dir(stage.data.dir(), &network.genesis.chain());
        let disk = ChainStore::open(&dir).expect("a data");
        disk.finish(&[block], b"a certificate").expect("written");
        drop(disk);
        assert!(
            matches!(stage.voter(&network).expect("told"), VotingKey::None),
            "alone it has nobody to ask for a seat"
        );
    }
}
