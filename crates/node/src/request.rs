//! Asking the node that runs on a data folder, from another process of its owner: one JSON line each way over a socket
//! in the folder.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// What can be asked of a running node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum ControlRequest {
    /// Everything that it shows.
    Status,
    /// Begin a run.
    Create {
        /// The encoded spec, in hex.
        spec: String,
        /// Folder of the built corpus.
        corpus: PathBuf,
        /// Folder of the model to continue from.
        model: Option<PathBuf>,
        /// Micro-credits that the node's account pays into its budget as soon as the chain has the run.
        budget_micro: u64,
    },
    /// Take part in the run of a ticket.
    Join {
        /// The ticket.
        ticket: String,
    },
    /// Leave a run.
    Leave {
        /// Its id.
        run: String,
    },
    /// The way to a peer.
    Ping {
        /// Its key.
        peer: String,
    },
    /// Every network of the node.
    Networks,
    /// A chain of the node; that at home where no network is named, here and below.
    Chain {
        /// The network's name, or the beginning of the chain's id.
        network: Option<String>,
    },
    /// A final block.
    Block {
        /// As above.
        network: Option<String>,
        /// Its height.
        height: u64,
    },
    /// A final transaction.
    Transaction {
        /// As above.
        network: Option<String>,
        /// The beginning of its hash.
        hash: String,
    },
    /// An account; the node's own where no key is given.
    Account {
        /// As above.
        network: Option<String>,
        /// Its key, or the beginning of a member's.
        key: Option<String>,
    },
    /// What happened to an account of the owner.
    History {
        /// As above.
        network: Option<String>,
        /// Its key; the node's own where none is given.
        key: Option<String>,
        /// At most so many entries, newest first.
        count: usize,
    },
    /// What an account holds, with a proof.
    Prove {
        /// As above.
        network: Option<String>,
        /// Its key, or the beginning of a member's; the node's own where none is given.
        key: Option<String>,
    },
    /// What the next transaction of an account has to carry.
    Next {
        /// As above.
        network: Option<String>,
        /// Its key.
        key: String,
    },
    /// What the node's account has allotted to providers.
    Allotments {
        /// As above.
        network: Option<String>,
    },
    /// A transaction of a wallet that signed it itself, in hex.
    Submit {
        /// As above.
        network: Option<String>,
        /// Encoded.
        tx: String,
    },
    /// A transaction of the node's own account, in hex.
    Spend {
        /// As above.
        network: Option<String>,
        /// Encoded, unsigned.
        tx: String,
    },
    /// The node's vote on a run's part of new money.
    Admit {
        /// Which run.
        run: String,
        /// Of 1,000 parts.
        share_permille: u16,
    },
    /// Take this folder's seat in the set of validators.
    TakeSeat,
    /// Give it up.
    LeaveSeat,
    /// Give published models to peers, and no others.
    ShareModels,
    /// Models that can be asked.
    Models,
    /// Ask and serve in the network of a ticket, too.
    Enter {
        /// The ticket.
        ticket: String,
    },
    /// A question, encoded, in hex. The answer comes in a line for each word.
    Ask {
        /// Encoded.
        ask: String,
    },
    /// Everything at a glance, as the page shows it.
    Panel,
    /// The owner needs the machine for so many minutes, or until `Resume`.
    Pause {
        /// How many.
        minutes: Option<u64>,
    },
    /// The owner does not need it any more.
    Resume,
    /// Finish what is under way, take nothing new.
    Finish,
    /// Whether anything is under way.
    Busy,
    /// End the process.
    Stop,
    /// End, and go on as another program: [`Node::next_program`](crate::Node::next_program).
    Update {
        /// Which.
        next: NextProgram,
        /// Only say whether it could.
        check: bool,
    },
}

/// A program with which a node goes on once it is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextProgram {
    /// Where it is.
    pub program: PathBuf,
    /// Which it is.
    pub version: String,
    /// Whose place it takes.
    pub exe: PathBuf,
}

impl NextProgram {
    /// Whether this process may put the one in the place of the other.
    pub(crate) fn check(&self) -> Result<()> {
        let folder = self.exe.parent().context("a folder")?;
        ensure!(self.exe.exists() && self.program.exists(), "{} is gone", self.exe.display());
        ensure!(
            self.program.parent() == Some(folder),
            "{} is not beside {}",
            self.program.display(),
            self.exe.display()
        );
        let probe = folder.join(".talkoo-update");
        let written = std::fs::write(&probe, b"");
        let _ = std::fs::remove_file(&probe);
        written.with_context(|| {
            format!(
                "the node may not write in {}; end it, run `talkoo update` again, and begin it with the new program",
                folder.display()
            )
        })
    }
}

/// Asks the node that runs on the data folder `dir`; `None` when none does.
pub async fn call(dir: &Path, request: &ControlRequest) -> Result<Option<Value>> {
    let Some((read, _write)) = send(dir, request).await? else { return Ok(None) };
    let mut answer = String::new();
    BufReader::new(read).read_line(&mut answer).await?;
    let answer: Value = serde_json::from_str(&answer).context("the node's answer is no JSON")?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => bail!("{error}"),
        None => Ok(Some(answer)),
    }
}

/// Sends a request to the node that runs on `dir`; its answer is read from what is given back.
pub(crate) async fn send(dir: &Path, request: &ControlRequest) -> Result<Option<(OwnedReadHalf, OwnedWriteHalf)>> {
    let Ok((path, _folder)) = short(dir) else { return Ok(None) };
    let Ok(stream) = UnixStream::connect(path).await else { return Ok(None) };
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    write.write_all(&line).await?;
    Ok(Some((read, write)))
}

/// Socket paths are limited to about a hundred bytes, folders are not: a long one is named by its hash.
const SOCKET_FILE: &str = "control.sock";
/// Systems take socket paths of about this many bytes.
const SHORT: usize = 100;

/// The socket of a data folder in a path that is short enough for the system: where it is not, through the folder itself, which
/// is open as long as what comes with the path.
#[cfg(target_os = "linux")]
pub(crate) fn short(dir: &Path) -> std::io::Result<(PathBuf, Option<std::fs::File>)> {
    use std::os::fd::AsRawFd;
    let path = dir.join(SOCKET_FILE);
    if path.as_os_str().len() < SHORT {
        return Ok((path, None));
    }
    let folder = std::fs::File::open(dir)?;
    Ok((Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET_FILE), Some(folder)))
}

/// The same where folders have no such name: among the temporary files.
#[cfg(not(target_os = "linux"))]
pub(crate) fn short(dir: &Path) -> std::io::Result<(PathBuf, Option<std::fs::File>)> {
    let path = std::path::absolute(dir)?.join(SOCKET_FILE);
    if path.as_os_str().len() < SHORT {
        return Ok((path, None));
    }
    let name = base::Hash::of("talkoo 2026 socket v1", path.as_os_str().as_encoded_bytes()).short();
    Ok((std::env::temp_dir().join(format!("talkoo-{name}.sock")), None))
}
