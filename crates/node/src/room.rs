//! What the data folder may still take of the disk, and training of the graphics device.

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

/// Whether training on `device` fits into what the owner gives of the memory of a graphics device: weights and gradient of so
/// many parameters, and the bytes that a step takes beside them.
pub(crate) fn on_device(folder: &Path, device: &str, params: u64, step: u64) -> Result<()> {
    let limit_mb = crate::Config::of(folder)?.limits.vram_mb;
    let need_mb = params.saturating_mul(2 * 4).saturating_add(step) >> 20;
    ensure!(
        limit_mb == 0 || device.starts_with("cpu") || need_mb <= limit_mb,
        "training takes {need_mb} MB of {device}, talkoo.toml allows {limit_mb} (vram_mb)"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphics_memory_is_for_graphics_devices() {
        let dir = tempfile::tempdir().expect("a folder");
        let fits = |device: &str, params| on_device(dir.path(), device, params, 1 << 20).map_err(|e| e.to_string());
        assert_eq!(fits("vulkan", u64::MAX), Ok(()), "no limit");
        std::fs::write(crate::Config::path(dir.path()), "[limits]\nvram_mb = 17\n").expect("written");
        assert_eq!(fits("cpu", u64::MAX), Ok(()));
        assert_eq!(fits("vulkan", 2 << 20), Ok(()));
        let refused = "training takes 25 MB of vulkan, talkoo.toml allows 17 (vram_mb)";
        assert_eq!(fits("vulkan", 3 << 20), Err(refused.into()));
    }
}
