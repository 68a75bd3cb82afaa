//! A chain on disk: one redb file for final blocks, certificates, and what may become final.

use crate::crash;
use crate::disk::Disk;
use crate::earnings::Days;
use crate::notes::{Entry, Notes};
use crate::paths::chain_dir;
use anyhow::{Context, Result, bail};
use base::{Hash, NodeId, Wire};
use chain::{Block, Step};
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Final blocks by height, certificates of some, last blocks of epochs.
const FINAL: TableDefinition<u64, &[u8]> = TableDefinition::new("final");
const CERTIFICATES: TableDefinition<u64, &[u8]> = TableDefinition::new("certificates");
const ENDS: TableDefinition<u64, &[u8]> = TableDefinition::new("ends");
/// Blocks that may become final, by height and hash.
const BODIES: TableDefinition<(u64, &[u8]), &[u8]> = TableDefinition::new("bodies");
/// What happened to the owner's accounts: by account, height and place in the block.
const HISTORY: TableDefinition<(&[u8], u64, u32), &[u8]> = TableDefinition::new("history");
/// What they did in runs: by account, day and run.
const DAYS: TableDefinition<DayKey<'_>, &[u8]> = TableDefinition::new("days");
/// What members were paid: by run and member, with the newest block that is counted.
const PAID: TableDefinition<PaidKey<'_>, (u64, u64)> = TableDefinition::new("paid");
type DayKey<'a> = (&'a [u8], u64, &'a [u8]);
type PaidKey<'a> = (&'a [u8], &'a [u8]);
/// Transactions of the owner that no final block has settled, by hash.
const PENDING: TableDefinition<&[u8], &[u8]> = TableDefinition::new("pending");
/// The newest whole state.
const STATE: TableDefinition<(), &[u8]> = TableDefinition::new("state");

/// The folder of a chain. One process at a time: the data folder is locked.
pub struct ChainStore {
    database: Database,
    dir: PathBuf,
    /// The table of days, as it is on disk.
    days: Mutex<Days>,
    /// The same when it was opened.
    before: Days,
}

impl ChainStore {
    /// Opens or makes the folder.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let path = dir.join("blocks.redb");
        let made = host::claim(&path).map_err(|error| DatabaseError::Storage(StorageError::Io(error)));
        let database = match made.and_then(|()| Database::create(&path)) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                bail!("{} is in use: a node runs on this folder, or is just ending; try again", path.display())
            }
            Err(_) => bail!(
                "{} is damaged; stop the node, move the folder {} away and start it: it fetches the chain from the others",
                path.display(),
                dir.display()
            ),
        };
        let write = database.begin_write()?;
        write.open_table(FINAL)?;
        write.open_table(CERTIFICATES)?;
        write.open_table(ENDS)?;
        write.open_table(BODIES)?;
        write.open_table(STATE)?;
        write.open_table(HISTORY)?;
        write.open_table(PAID)?;
        write.open_table(PENDING)?;
        let mut days = Days::new();
        for entry in write.open_table(DAYS)?.iter()? {
            let (key, value) = entry?;
            let (account, day, run) = key.value();
            let key = (NodeId(account.try_into()?), day, Hash(run.try_into()?));
            days.insert(key, serde_json::from_slice(value.value())?);
        }
        write.commit()?;
        Ok(Self { database, dir: dir.to_owned(), before: days.clone(), days: Mutex::new(days) })
    }

    /// That of a chain in a data folder on which no node runs.
    pub fn of(data: &Path, chain: &Hash) -> Result<Self> {
        Self::open(&chain_dir(data, chain))
    }

    /// What the final blocks say of runs.
    pub fn works(&self) -> Result<Vec<swarm::WorkBlock>> {
        let read = self.database.begin_read()?;
        let table = read.open_table(FINAL)?;
        let mut out = Vec::new();
        for entry in table.iter()? {
            let (height, bytes) = entry?;
            let block = Block::from_bytes(bytes.value());
            out.push(block.with_context(|| format!("block {} of the chain is damaged", height.value()))?.work());
        }
        Ok(out)
    }

    /// Writes down what happened at a height; said again it changes nothing.
    pub fn note(&self, height: u64, notes: &Notes) -> io::Result<()> {
        let json = |error: serde_json::Error| redb::Error::Io(error.into());
        self.write(|write| {
            let mut table = write.open_table(HISTORY)?;
            for (account, entries) in &notes.entries {
                for (i, entry) in (0..).zip(entries) {
                    let text = serde_json::to_vec(entry).map_err(json)?;
                    table.insert((account.0.as_slice(), height, i), text.as_slice())?;
                }
            }
            let mut table = write.open_table(DAYS)?;
            for ((account, day, run), worked) in &notes.days {
                let text = serde_json::to_vec(worked).map_err(json)?;
                table.insert((account.0.as_slice(), *day, run.0.as_slice()), text.as_slice())?;
            }
            let mut table = write.open_table(PAID)?;
            for (run, member, micro) in &notes.paid {
                let key = (run.0.as_slice(), member.0.as_slice());
                let (counted, before) = table.get(key)?.map_or((0, 0), |value| value.value());
                if counted < height {
                    table.insert(key, (height, before.saturating_add(*micro)))?;
                }
            }
            Ok(())
        })?;
        self.days.lock().expect("nobody panics while holding it").extend(notes.days.clone());
        Ok(())
    }

    /// Looks at what the owner's accounts did, by day and run.
    pub fn days<T>(&self, look: impl FnOnce(&Days) -> T) -> T {
        look(&self.days.lock().expect("nobody panics while holding it"))
    }

    /// Tokens that an account trained and micro-credits that it earned since the folder was opened.
    pub fn since_open(&self, account: &NodeId) -> (u64, u64) {
        let sum = |days: &Days| {
            let own = days.iter().filter(|((by, ..), _)| by == account).map(|(_, worked)| worked);
            own.fold((0u64, 0u64), |(tokens, earned), row| {
                (tokens.saturating_add(row.tokens), earned.saturating_add(row.earned_micro))
            })
        };
        let (now, before) = (self.days(sum), sum(&self.before));
        (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1))
    }

    /// Micro-credits that each member of a run was paid since an account here takes part in it.
    pub fn paid(&self, run: &Hash) -> io::Result<BTreeMap<NodeId, u64>> {
        let key = run.0.as_slice();
        self.read(|read| {
            let table = read.open_table(PAID)?;
            let mut paid = BTreeMap::new();
            for entry in table.range((key, [].as_slice())..=(key, [u8::MAX; 33].as_slice()))? {
                let (key, value) = entry?;
                if let Ok(member) = key.value().1.try_into() {
                    paid.insert(NodeId(member), value.value().1);
                }
            }
            Ok(paid)
        })
    }

    /// The last `count` things that happened to an account, newest first.
    pub fn history(&self, account: &NodeId, count: usize) -> io::Result<Vec<Entry>> {
        let key = account.0.as_slice();
        self.read(|read| {
            let table = read.open_table(HISTORY)?;
            let entries = table.range((key, 0, 0)..=(key, u64::MAX, u32::MAX))?.rev().take(count);
            entries.map(|entry| Ok(noted(entry?.1.value()))).collect()
        })
    }

    /// What happened to an account in the block of a height, in order.
    pub fn history_at(&self, account: &NodeId, height: u64) -> io::Result<Vec<Entry>> {
        let key = account.0.as_slice();
        self.read(|read| {
            let table = read.open_table(HISTORY)?;
            let entries = table.range((key, height, 0)..=(key, height, u32::MAX))?;
            entries.map(|entry| Ok(noted(entry?.1.value()))).collect()
        })
    }

    /// Transactions of the owner that wait for a block.
    pub(crate) fn pending(&self) -> io::Result<Vec<Vec<u8>>> {
        self.read(|read| read.open_table(PENDING)?.iter()?.map(|entry| Ok(entry?.1.value().to_vec())).collect())
    }

    /// Keeps one more.
    pub(crate) fn add_pending(&self, hash: &Hash, tx: &[u8]) -> io::Result<()> {
        self.write(|write| {
            write.open_table(PENDING)?.insert(hash.0.as_slice(), tx)?;
            Ok(())
        })
    }

    /// Lets go of one that is settled.
    pub(crate) fn remove_pending(&self, hash: &Hash) -> io::Result<()> {
        self.write(|write| {
            write.open_table(PENDING)?.remove(hash.0.as_slice())?;
            Ok(())
        })
    }

    fn read<T>(&self, read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> io::Result<T> {
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        read(&transaction).map_err(io::Error::other)
    }

    fn write(&self, write: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> io::Result<()> {
        let done = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            write(&transaction)?;
            Ok(transaction.commit()?)
        };
        done().map_err(io::Error::other)
    }
}

/// An entry of the history; an empty one where it cannot be read.
fn noted(bytes: &[u8]) -> Entry {
    serde_json::from_slice(bytes).unwrap_or_default()
}

impl Disk for ChainStore {
    fn keep(&self, block: &Block) -> io::Result<()> {
        crash::point("keep-before");
        self.write(|write| {
            let hash = block.hash();
            let key = (block.header.height, hash.0.as_slice());
            write.open_table(BODIES)?.insert(key, block.to_bytes().as_slice())?;
            Ok(())
        })?;
        crash::point("keep-after");
        Ok(())
    }

    fn kept(&self) -> io::Result<Vec<Vec<u8>>> {
        self.read(|read| read.open_table(BODIES)?.iter()?.map(|entry| Ok(entry?.1.value().to_vec())).collect())
    }

    fn finish(&self, blocks: &[Block], certificate: &[u8]) -> io::Result<()> {
        let Some(last) = blocks.last() else { return Ok(()) };
        crash::point("finish-before");
        self.write(|write| {
            let mut finals = write.open_table(FINAL)?;
            for block in blocks {
                finals.insert(block.header.height, block.to_bytes().as_slice())?;
            }
            let height = last.header.height;
            write.open_table(CERTIFICATES)?.insert(height, certificate)?;
            if last.header.next.is_some() {
                let step = Step { header: last.header.clone(), certificate: certificate.to_vec() };
                write.open_table(ENDS)?.insert(last.header.epoch, step.to_bytes().as_slice())?;
            }
            let mut bodies = write.open_table(BODIES)?;
            bodies.retain_in(..(height + 1, [].as_slice()), |_, _| false)?;
            crash::point("finish-within");
            Ok(())
        })?;
        crash::point("finish-after");
        Ok(())
    }

    fn block(&self, height: u64) -> io::Result<Option<Vec<u8>>> {
        self.read(|read| Ok(read.open_table(FINAL)?.get(height)?.map(|value| value.value().to_vec())))
    }

    fn state(&self) -> io::Result<Option<Vec<u8>>> {
        self.read(|read| Ok(read.open_table(STATE)?.get(())?.map(|value| value.value().to_vec())))
    }

    fn keep_state(&self, state: &[u8], ends: &[Step]) -> io::Result<()> {
        self.write(|write| {
            let mut table = write.open_table(ENDS)?;
            for step in ends {
                table.insert(step.header.epoch, step.to_bytes().as_slice())?;
            }
            write.open_table(STATE)?.insert((), state)?;
            Ok(())
        })
    }

    fn certificate(&self, height: u64) -> io::Result<Option<Vec<u8>>> {
        self.read(|read| Ok(read.open_table(CERTIFICATES)?.get(height)?.map(|value| value.value().to_vec())))
    }

    fn end(&self, epoch: u64) -> io::Result<Option<Step>> {
        let step = self.read(|read| Ok(read.open_table(ENDS)?.get(epoch)?.map(|step| step.value().to_vec())))?;
        Ok(step.and_then(|bytes| Step::from_bytes(&bytes).ok()))
    }

    fn room(&self) -> io::Result<u64> {
        let free = host::disk_free_mb(&self.dir).and_then(|mb| mb.checked_mul(1 << 20));
        free.ok_or_else(|| io::Error::other("the system does not say how much of the disk is free"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_not_called_damaged() {
        let stage = tempfile::tempdir().expect("a folder");
        let says = || ChainStore::open(stage.path()).err().map(|error| error.to_string()).unwrap_or_default();
        let open = ChainStore::open(stage.path()).expect("a store");
        assert!(says().contains("in use"), "{}", says());
        drop(open);
        std::fs::write(stage.path().join("blocks.redb"), [7; 8192]).expect("written");
        assert!(says().contains("is damaged"), "{}", says());
    }
}
