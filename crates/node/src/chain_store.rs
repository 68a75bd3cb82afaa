//! A chain on disk: one redb file for final blocks, certificates, and what may become final.

use crate::crash;
use crate::history::Entry;
use crate::log::chain_dir;
use anyhow::{Context, Result, bail};
use base::{Hash, NodeId, Wire};
use chain::{Block, Disk, Step};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::io;
use std::path::Path;

/// Final blocks by height, certificates of some, last blocks of epochs.
const FINAL: TableDefinition<u64, &[u8]> = TableDefinition::new("final");
const CERTIFICATES: TableDefinition<u64, &[u8]> = TableDefinition::new("certificates");
const ENDS: TableDefinition<u64, &[u8]> = TableDefinition::new("ends");
/// Blocks that may become final, by height and hash.
const BODIES: TableDefinition<(u64, &[u8]), &[u8]> = TableDefinition::new("bodies");
/// What happened to the owner's accounts: by account, height and place in the block.
const HISTORY: TableDefinition<(&[u8], u64, u32), &[u8]> = TableDefinition::new("history");
/// The newest whole state.
const STATE: TableDefinition<(), &[u8]> = TableDefinition::new("state");

/// The folder of a chain. One process at a time: the data folder is locked.
pub struct ChainStore {
    database: Database,
}

impl ChainStore {
    /// Opens or makes the folder.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let path = dir.join("blocks.redb");
        let Ok(database) = Database::create(&path) else {
            bail!(
                "{} is damaged; stop the node, move the folder {} away and start it: it fetches the chain from the others",
                path.display(),
                dir.display()
            )
        };
        let write = database.begin_write()?;
        write.open_table(FINAL)?;
        write.open_table(CERTIFICATES)?;
        write.open_table(ENDS)?;
        write.open_table(BODIES)?;
        write.open_table(STATE)?;
        write.open_table(HISTORY)?;
        write.commit()?;
        Ok(Self { database })
    }

    /// That of a chain in a data folder on which no node runs.
    pub fn of(data: &Path, chain: &Hash) -> Result<Self> {
        Self::open(&chain_dir(data, chain))
    }

    /// What the final blocks say of runs.
    pub(crate) fn works(&self) -> Result<Vec<swarm::Block>> {
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

    /// Writes down what happened to an account at a height; said again it changes nothing.
    pub(crate) fn note(&self, account: &NodeId, height: u64, entries: &[Entry]) -> io::Result<()> {
        self.write(|write| {
            let mut table = write.open_table(HISTORY)?;
            for (i, entry) in (0..).zip(entries) {
                let text = serde_json::to_vec(entry).map_err(|error| redb::Error::Io(error.into()))?;
                table.insert((account.0.as_slice(), height, i), text.as_slice())?;
            }
            Ok(())
        })
    }

    /// The last `count` things that happened to an account, newest first.
    pub(crate) fn history(&self, account: &NodeId, count: usize) -> io::Result<Vec<Entry>> {
        let key = account.0.as_slice();
        self.read(|read| {
            let table = read.open_table(HISTORY)?;
            let entries = table.range((key, 0, 0)..=(key, u64::MAX, u32::MAX))?.rev().take(count);
            entries.map(|entry| Ok(noted(entry?.1.value()))).collect()
        })
    }

    /// What happened to an account above a height and from a time on, newest first.
    pub(crate) fn history_since(&self, account: &NodeId, height: u64, time_ms: u64) -> io::Result<Vec<Entry>> {
        let key = account.0.as_slice();
        self.read(|read| {
            let table = read.open_table(HISTORY)?;
            let mut entries = Vec::new();
            for entry in table.range((key, height.saturating_add(1), 0)..=(key, u64::MAX, u32::MAX))?.rev() {
                let entry = noted(entry?.1.value());
                // One that cannot be read has no time.
                if entry.time_ms == 0 {
                    continue;
                }
                if entry.time_ms < time_ms {
                    break;
                }
                entries.push(entry);
            }
            Ok(entries)
        })
    }

    /// What happened to an account in the block of a height, in order.
    pub(crate) fn history_at(&self, account: &NodeId, height: u64) -> io::Result<Vec<Entry>> {
        let key = account.0.as_slice();
        self.read(|read| {
            let table = read.open_table(HISTORY)?;
            let entries = table.range((key, height, 0)..=(key, height, u32::MAX))?;
            entries.map(|entry| Ok(noted(entry?.1.value()))).collect()
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
}
