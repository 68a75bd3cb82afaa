//! What the owner gives to the data folder.

use crate::machine::disk_free_mb;
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

/// What a data folder may still take of the disk.
#[derive(Debug, Clone, Default)]
pub struct DiskBudget {
    /// Where the folder is.
    pub folder: PathBuf,
    /// All of its files together; 0 = no limit.
    pub limit_gb: u64,
    /// What stays free on the disk, in units of 2^20 bytes.
    pub free_min_mb: u64,
}

impl DiskBudget {
    /// Whether so many bytes more fit into what the owner gives to the data folder, and leave the disk as free as it is to
    /// stay.
    pub fn ensure(&self, bytes: u64) -> Result<()> {
        let mb = |bytes: u64| bytes / 1_000_000;
        let limit = self.limit_gb.saturating_mul(1_000_000_000);
        let used = if limit > 0 { used(&self.folder) } else { 0 };
        ensure!(
            limit == 0 || used.saturating_add(bytes) <= limit,
            "it has {} MB, {} has {} MB of the {} that talkoo.toml allows (disk_gb); `talkoo model rm` makes room",
            mb(bytes),
            self.folder.display(),
            mb(used),
            mb(limit)
        );
        let Some(free_mb) = disk_free_mb(&self.folder) else { return Ok(()) };
        ensure!(
            bytes >> 20 == 0 || free_mb.saturating_sub(bytes >> 20) >= self.free_min_mb,
            "it has {} MB, the disk of {} has {free_mb} MB free, of which talkoo.toml keeps {} (disk_free_min_mb)",
            mb(bytes),
            self.folder.display(),
            self.free_min_mb
        );
        Ok(())
    }
}

/// Bytes of all files below a folder.
fn used(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => used(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
