//! What the data folder may still take of the disk.

use anyhow::{Result, ensure};
use std::path::Path;

/// Whether so many bytes more fit into what the owner gives to the data folder, and leave the disk as free as it is to stay.
pub(crate) fn ensure(folder: &Path, bytes: u64) -> Result<()> {
    let config = crate::Config::of(folder)?;
    let mb = |bytes: u64| bytes / 1_000_000;
    let limit = config.limits.disk_gb.saturating_mul(1_000_000_000);
    let used = if limit > 0 { used(folder) } else { 0 };
    ensure!(
        limit == 0 || used.saturating_add(bytes) <= limit,
        "it has {} MB, {} has {} MB of the {} that talkoo.toml allows (disk_gb); `talkoo model rm` makes room",
        mb(bytes),
        folder.display(),
        mb(used),
        mb(limit)
    );
    let Some(free_mb) = crate::machine::disk_free_mb(folder) else { return Ok(()) };
    let stays_mb = config.schedule.disk_free_min_mb;
    ensure!(
        bytes >> 20 == 0 || free_mb.saturating_sub(bytes >> 20) >= stays_mb,
        "it has {} MB, the disk of {} has {free_mb} MB free, of which talkoo.toml keeps {stays_mb} (disk_free_min_mb)",
        mb(bytes),
        folder.display()
    );
    Ok(())
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
