//! Files, keys and priorities as the operating system has them; what it knows of the machine is in `machine`.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::path::Path;

/// 32 bytes of the system's entropy.
pub fn random_secret() -> Result<[u8; 32]> {
    let mut secret = [0; 32];
    let mut source = std::fs::File::open("/dev/urandom").context("no system entropy")?;
    source.read_exact(&mut secret)?;
    Ok(secret)
}

/// Makes a folder that only its owner can look into, with its parents. One that is there is made so, too, and where it is
/// a data folder what lies in it, as far as it is this user's.
pub fn private_folder(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        done => return done,
    }
    let mut paths = vec![dir.to_owned()];
    if dir.join(DATABASE).exists() {
        paths.extend(std::fs::read_dir(dir)?.flatten().map(|entry| entry.path()));
    }
    let me = rustix::process::getuid().as_raw();
    for path in paths {
        // One that is gone by now, or that is a link to elsewhere, is nothing to close.
        let Ok(file) = std::fs::symlink_metadata(&path) else { continue };
        let mode = file.permissions().mode();
        // When this one was changed is what tells a folder that was put back from a backup.
        let dated = path.ends_with(START);
        if dated || file.is_symlink() || file.uid() != me || mode & 0o077 == 0 {
            continue;
        }
        if let Err(error) = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & 0o700)) {
            tracing::warn!(path = %path.display(), %error, "others on this machine may read this");
        }
    }
    Ok(())
}

/// Written anew at every start, and when it was: what is put back into the files of this folder, as `rsync` does with a
/// backup, writes the first one again, and the second one no longer tells when.
pub const START: &str = "started";

/// The file that makes a folder a data folder.
pub const DATABASE: &str = "talkoo.redb";

/// How a file is opened that only its owner can read.
pub fn private_file() -> std::fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.mode(0o600);
    options
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = private_file().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

/// What this program needs of the processor and is not there. (That the C library is new enough the system checks itself,
/// before anything here runs.)
pub fn lacks() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if !(std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")) {
        return Some("this processor has no AVX2 and FMA; talkoo runs on x86-64 processors of 2013 and later");
    }
    None
}

/// Lets everybody run a file.
pub fn make_runnable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// This process goes on as another program, with the same id. Returns only where that failed.
pub fn become_program(command: &mut std::process::Command) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    command.exec()
}

/// Whether this process was begun by the one of that number.
pub fn parent_is(pid: Option<&str>) -> bool {
    pid.is_some_and(|pid| pid == std::os::unix::process::parent_id().to_string())
}

/// From now on this process ends with the one that began it, as far as the system can do that.
pub fn end_with_parent() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
}

/// Tells a process to end.
pub fn ask_to_end(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
}

/// What tells a file from a copy of it: its number, and what the system calls the machine.
pub fn file_identity(path: &Path) -> Result<(u64, String)> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    // Numbers of devices change from one start of a machine to the next.
    Ok((file.ino(), machine))
}

/// When a file was last written or otherwise changed: the system says it, whoever writes cannot.
pub fn changed_at(path: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(format!("{}.{}", file.ctime(), file.ctime_nsec()))
}

/// Processors that this process may use, whatever share of them.
pub fn processors() -> usize {
    // A set of bits in hexadecimal, with commas.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(set) = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")) {
        let ones: u32 = set.chars().filter_map(|c| c.to_digit(16)).map(u32::count_ones).sum();
        return (ones as usize).max(1);
    }
    std::thread::available_parallelism().map_or(1, usize::from)
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

/// From now on other programs go before this thread and those that it begins, until what is returned is dropped: the lowest
/// priority, which nobody needs rights for. Before [`prepare_process`], after which the system answers no such wish.
pub fn lower_priority() -> Lowered {
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
    Lowered {
        #[cfg(target_os = "linux")]
        session: lower_session(),
    }
}

/// A lowered priority; what would outlive the process is taken back when this is dropped.
#[must_use]
pub struct Lowered {
    /// Where the priority of its session is written, and what it was.
    #[cfg(target_os = "linux")]
    session: Option<(std::fs::File, String)>,
}

impl Drop for Lowered {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some((mut file, before)) = self.session.take() {
            let _ = write_priority(&mut file, &before);
        }
    }
}

/// Linux shares the processor among sessions before it looks at the priorities of their processes ("autogroup", sched(7)):
/// without a word a node in one terminal takes half of it from a compiler in another. The session is its own where it leads
/// it, or its terminal's, to which it gives the priority back.
#[cfg(target_os = "linux")]
fn lower_session() -> Option<(std::fs::File, String)> {
    use std::io::IsTerminal;
    let leads = rustix::process::getsid(None).is_ok_and(|session| session == rustix::process::getpid());
    if !leads && !std::io::stderr().is_terminal() {
        return None;
    }
    let mut file = std::fs::File::options().read(true).write(true).open("/proc/self/autogroup").ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let before = text.trim_end().rsplit_once(' ')?.1.to_owned();
    // Another node of the same terminal lowered it, and gives it back.
    if before == LAST {
        return None;
    }
    write_priority(&mut file, LAST).ok()?;
    Some((file, before))
}

#[cfg(target_os = "linux")]
const LAST: &str = "19";

/// The kernel takes such a word once in a tenth of a second.
#[cfg(target_os = "linux")]
fn write_priority(file: &mut std::fs::File, priority: &str) -> std::io::Result<()> {
    let mut tries = 0;
    loop {
        match file.write_all(priority.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && tries < 5 => tries += 1,
            done => return done,
        }
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
}
