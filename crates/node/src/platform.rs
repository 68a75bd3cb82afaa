//! The only place that knows the operating system.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::path::Path;

/// 32 bytes of the system's entropy.
pub(crate) fn random_secret() -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    let mut source = std::fs::File::open("/dev/urandom").context("no system entropy")?;
    source.read_exact(&mut secret)?;
    Ok(secret)
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

/// What tells a file from a copy of it: its number and the machine.
pub(crate) fn file_identity(path: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let machine = base::Hash::of("talkoo 2026 machine v1", machine.as_bytes()).short();
    // Numbers of devices change from one start of a machine to the next.
    Ok(format!("{}:{machine}", file.ino()))
}

/// When a file was last written or otherwise changed: the system says it, whoever writes cannot.
pub(crate) fn changed_at(path: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(format!("{}.{}", file.ctime(), file.ctime_nsec()))
}

/// Readies the process: many connections may be open, and what is in memory is written to no file when it crashes and
/// read by no other program of the same user.
pub fn prepare_process() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// From now on other programs go before this thread and those that it begins: the lowest priority, which nobody needs rights
/// for.
pub fn lower_priority() {
    let _ = rustix::process::nice(19);
    // Several threads of the lowest priority still take some percent of a core from others; those of the idle class give way
    // at once. `chrt` is part of util-linux; without it the priority has to do.
    #[cfg(target_os = "linux")]
    {
        use std::process::{Command, Stdio};
        let own = std::process::id().to_string();
        let _ = Command::new("chrt")
            .args(["--idle", "--pid", "0", &own])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
