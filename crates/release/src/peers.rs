//! Releases go from peer to peer: who runs one says so to those who look for releases of its key, and gives it.

use crate::{ARRIVING, RELEASE_FILE, Release, beside, check_release, read_signed};
use anyhow::{Context, Result, bail};
use base::{ChunkTree, Hash, NodeId, Signed, Wire};
use net::{Address, Net, NetConfig, Topic};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Who has a release says so within this: new ears are greeted at once, and the words go on through others.
const SAY_WITHIN: Duration = Duration::from_secs(10);
const CALL_EVERY: Duration = Duration::from_secs(2);
/// After the first release was heard of, a newer one is waited for so long.
const NEWER_WITHIN: Duration = Duration::from_secs(3);
/// So many peers that have the newest release are remembered.
const HOLDERS_MAX: usize = 32;

/// Where those meet who give releases of a key for machines like this one.
pub fn topic(by: &NodeId) -> Hash {
    Hash::of("talkoo 2026 release topic v1", &[&by.0[..], Release::target().as_bytes()].concat())
}

/// What is given of a program: words that say which it is, its file, its chunk hashes.
pub type Given = (Vec<u8>, PathBuf, ChunkTree);

/// Who released the program of this process, and what is given of it; nothing where it is no release.
pub fn own_release() -> Option<(NodeId, Given)> {
    let exe = std::env::current_exe().ok()?;
    // Its owner put it there: whoever signed it is right.
    let signed = read_signed(&beside(&exe, RELEASE_FILE)).ok()?;
    // The file of a process may be renamed, as an update does, and is still this one.
    let path = PathBuf::from("/proc/self/exe");
    let path = if path.exists() { path } else { exe };
    let tree = ChunkTree::read(&mut File::open(&path).ok()?).ok()?;
    let same = tree.root() == signed.value.root && tree.len == signed.value.bytes;
    same.then(|| (signed.by, (signed.to_bytes(), path, tree)))
}

/// The newest release that was heard of, and who has it.
type Heard = Option<(Signed<Release>, BTreeSet<NodeId>)>;

/// Hears releases of one key.
struct Ear {
    by: NodeId,
    heard: watch::Sender<Heard>,
}

impl net::Hears for Ear {
    fn hear(&self, peer: NodeId, words: &[u8]) {
        let Ok(signed) = Signed::<Release>::from_bytes(words) else { return };
        if signed.by != self.by || check_release(&signed).is_err() || signed.value.target != Release::target() {
            return;
        }
        self.heard.send_if_modified(|heard| match heard {
            Some((newest, holders)) if *newest == signed => holders.len() < HOLDERS_MAX && holders.insert(peer),
            Some((newest, _)) if newest.value.order() >= signed.value.order() => false,
            _ => {
                *heard = Some((signed, BTreeSet::from([peer])));
                true
            }
        });
    }
}

/// The newest release of one of the `trusted` keys that peers give and that is `wanted`; `network` is how they are reached, and
/// `peers` are those with whom to begin. Gives it with its program in a file beside
/// `exe`; without a file where it is not wanted.
pub async fn find_among_peers(
    network: NetConfig,
    peers: &[Address],
    trusted: &[NodeId],
    exe: &Path,
    wanted: impl Fn(&Release) -> bool,
) -> Result<(Signed<Release>, Option<PathBuf>)> {
    // Any port: a node may run meanwhile.
    let bind = std::net::SocketAddr::new(network.bind.ip(), 0);
    let net = Net::open(NetConfig { bind, ..network }, Arc::new(()), None, None).await?;
    let found = find_with(&net, trusted, peers, exe, wanted).await;
    net.close().await;
    found
}

async fn find_with(
    net: &Net,
    trusted: &[NodeId],
    peers: &[Address],
    exe: &Path,
    wanted: impl Fn(&Release) -> bool,
) -> Result<(Signed<Release>, Option<PathBuf>)> {
    peers.iter().for_each(|address| net.know(address));
    let begin: Vec<NodeId> = peers.iter().map(|address| address.node).collect();
    let (_silent, words) = watch::channel(None);
    let (mut ears, mut calls) = (Vec::new(), Vec::new());
    for by in trusted {
        let (heard, hearing) = watch::channel(None);
        let hear = Arc::new(Ear { by: *by, heard });
        calls.push(net.speak(Topic { topic: topic(by), words: words.clone(), hear }, &begin));
        ears.push(hearing);
    }
    let mut newest = newest_of(&ears, || calls.iter().for_each(|call| call.add(&begin))).await?;
    if !wanted(&newest.borrow().as_ref().context("it was heard")?.0.value) {
        let (signed, _) = newest.borrow().clone().context("it was heard")?;
        return Ok((signed, None));
    }
    let path = beside(exe, ARRIVING);
    let signed = fetch(net, &mut newest, &path).await?;
    Ok((signed, Some(path)))
}

/// The ear that heard of the newest release. Peers that only just begin are called again.
async fn newest_of(ears: &[watch::Receiver<Heard>], call: impl Fn()) -> Result<watch::Receiver<Heard>> {
    let order = |ear: &watch::Receiver<Heard>| ear.borrow().as_ref().map(|(signed, _)| signed.value.order());
    let mut until = Instant::now() + SAY_WITHIN;
    let (mut tick, mut called) = (tokio::time::interval(Duration::from_millis(100)), Instant::now());
    let mut any = false;
    while Instant::now() < until {
        tick.tick().await;
        if called.elapsed() >= CALL_EVERY {
            called = Instant::now();
            call();
        }
        if !any && ears.iter().any(|ear| ear.borrow().is_some()) {
            any = true;
            until = until.min(Instant::now() + NEWER_WITHIN);
        }
    }
    let newest = ears.iter().filter(|ear| ear.borrow().is_some()).max_by_key(|ear| order(ear));
    newest.cloned().with_context(|| {
        format!(
            "no peer gives a release of a trusted key for {} ({} s were waited); --from names a folder of releases, or the \
             ticket of a node",
            Release::target(),
            SAY_WITHIN.as_secs()
        )
    })
}

/// Fetches what was heard of, from all who have it; what an interrupted transfer left is gone on with.
async fn fetch(net: &Net, newest: &mut watch::Receiver<Heard>, path: &Path) -> Result<Signed<Release>> {
    let named = || format!("{}: may you write there?", path.display());
    let file = host::private_file().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = file.with_context(named)?;
    let mut tried = BTreeSet::new();
    let (signed, _) = newest.borrow().clone().context("it was heard")?;
    loop {
        // Of another, newer one that comes up meanwhile nothing is fetched here.
        let holders = newest.borrow_and_update().clone().filter(|(now, _)| *now == signed).map(|(_, peers)| peers);
        let sources: Vec<NodeId> = holders.unwrap_or_default().into_iter().filter(|peer| tried.insert(*peer)).collect();
        if sources.is_empty() {
            let more = newest.changed();
            if tokio::time::timeout(NEWER_WITHIN, more).await.is_err() {
                bail!("nobody who says so gave the whole of {}; run this again", signed.value.version);
            }
            continue;
        }
        let shown = std::sync::Mutex::new(Instant::now());
        let progress = |moved: usize, all: usize| {
            let mut shown = shown.lock().expect("nobody panics while holding it");
            if shown.elapsed() >= Duration::from_secs(1) {
                *shown = Instant::now();
                eprintln!("{} of {} chunks of {} from peers", moved, all, signed.value.version);
            }
        };
        match net.fetch(signed.value.root, signed.value.bytes, &sources, file, &progress).await {
            Ok(_) => return Ok(signed),
            Err(error) if error.disk.is_some() => bail!("{error}"),
            Err(error) => {
                tracing::debug!(%error, "a release did not come whole");
                file = error.partial;
            }
        }
    }
}
