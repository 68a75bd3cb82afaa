//! How a keeper stands still, and how it ends its process: each end in a process of its own.

use base::{Keypair, Signed, Wire};
use chain::{Block, Step, Tx};
use ledger::Credits;
use replica::local::{LocalNetwork, MemoryDisk};
use replica::{Connections, Disk, EXIT_DISK, EXIT_PANIC, Replica, ReplicaConfig};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The folder of the process that is to end.
const CHILD: &str = "TALKOO_TEST_ENDS";
/// Nothing here takes longer, whatever the machine does.
const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough for a few blocks where any can be made.
const QUIET: Duration = Duration::from_secs(4);
const MB: u64 = 1 << 20;

/// Where a process that is to end has its files; none in the one that watches it.
fn stage() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Asserts that a test of this file, run in a process of its own, ends that with `code`, saying `why`.
fn ends(test: &str, code: i32, why: &str) {
    let me = std::env::current_exe().expect("this program's path");
    let stage = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(me);
    let done = child.args([test, "--exact", "--nocapture"]).env(CHILD, stage.path()).output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{said}");
    assert!(said.contains(why), "{said}");
}

fn user(i: u8) -> Keypair {
    Keypair::from_secret([1 + i; 32])
}

fn alone(stage: &Path) -> LocalNetwork {
    LocalNetwork::new(1, stage.to_owned(), vec![(user(0).id(), Credits::whole(100))], 3_600_000)
}

fn transfer(local: &LocalNetwork, nonce: u64) -> Vec<u8> {
    let tx = ledger::WalletTx::Transfer { to: user(1).id(), amount: Credits(10) };
    let envelope = ledger::WalletEnvelope { chain: local.genesis.chain(), nonce, tx };
    Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &user(0), envelope) }.to_bytes()
}

fn received(keeper: &Replica) -> u64 {
    keeper.look(|o| o.state().money().account(&user(1).id()).map_or(0, |account| account.balance.0))
}

async fn until(keeper: &Replica, what: &str, done: impl Fn(&Replica) -> bool) {
    let (begun, mut height) = (Instant::now(), keeper.height());
    while !done(keeper) {
        assert!(begun.elapsed() < DEADLINE, "{what} did not come: {:?}", keeper.trouble());
        let _ = tokio::time::timeout(QUIET / 4, height.changed()).await;
    }
}

/// Whether a block becomes final within a while.
async fn goes_on(keeper: &Replica) -> bool {
    let mut height = keeper.height();
    height.borrow_and_update();
    tokio::time::timeout(QUIET, height.changed()).await.is_ok()
}

/// A disk in memory that does something else with final blocks.
struct Bad(MemoryDisk, fn() -> io::Result<()>);

impl Disk for Bad {
    fn keep(&self, block: &Block) -> io::Result<()> {
        self.0.keep(block)
    }
    fn kept(&self) -> io::Result<Vec<Vec<u8>>> {
        self.0.kept()
    }
    fn finish(&self, _: &[Block], _: &[u8]) -> io::Result<()> {
        (self.1)()
    }
    fn block(&self, height: u64) -> io::Result<Option<Vec<u8>>> {
        self.0.block(height)
    }
    fn state(&self) -> io::Result<Option<Vec<u8>>> {
        self.0.state()
    }
    fn keep_state(&self, state: &[u8], ends: &[Step]) -> io::Result<()> {
        self.0.keep_state(state, ends)
    }
    fn certificate(&self, height: u64) -> io::Result<Option<Vec<u8>>> {
        self.0.certificate(height)
    }
    fn end(&self, epoch: u64) -> io::Result<Option<Step>> {
        self.0.end(epoch)
    }
}

/// A validator on such a disk, for as long as its process lives.
async fn on(stage: &Path, finish: fn() -> io::Result<()>) {
    let mut local = alone(stage);
    local.disks[0] = Arc::new(Bad(MemoryDisk::default(), finish));
    let keeper = local.start(0).expect("it starts");
    keeper.submit(&transfer(&local, 0)).expect("taken");
    let _ = tokio::time::timeout(DEADLINE, std::future::pending::<()>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_state_ends_the_process_with_its_reason() {
    let Some(stage) = stage() else {
        let test = "a_panic_in_the_state_ends_the_process_with_its_reason";
        return ends(test, EXIT_PANIC, "cannot be trusted: the books are broken");
    };
    let keeper = alone(&stage).start(0).expect("it starts");
    keeper.look::<()>(|_| panic!("the books are broken"));
}

/// One that follows, as a node follows a stranger's network.
fn follower(local: &LocalNetwork, stage: &Path, disk: impl Disk) -> Replica {
    let ((out, _), (_, incoming)) = (mpsc::unbounded_channel(), mpsc::channel(1));
    let config = ReplicaConfig {
        genesis: local.genesis.clone(),
        key: None,
        journal: stage.join("none"),
        disk: Arc::new(disk),
        ends: false,
        note: Arc::new(|_, _| {}),
    };
    Replica::start(config, Connections { out, incoming }).expect("it starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_only_followed_and_panics_stops_alone_and_says_so() {
    let stage = tempfile::tempdir().expect("a folder");
    let keeper = follower(&alone(stage.path()), stage.path(), MemoryDisk::default());
    let look = || keeper.look::<()>(|_| panic!("the books are broken"));
    assert!(catch_unwind(AssertUnwindSafe(look)).is_err());
    assert!(keeper.has_failed());
    assert!(keeper.trouble().is_some_and(|trouble| trouble.contains("the books are broken")), "{:?}", keeper.trouble());
    assert_eq!(keeper.look(|orderer| orderer.state().height()), 0, "who looks next meets no panic");
    keeper.stop().await;
}

/// Blocks come to a follower whose disk does something else with them.
async fn follows_on(finish: fn() -> io::Result<()>, why: &str) {
    let stage = tempfile::tempdir().expect("a folder");
    let local = alone(stage.path());
    let validator = local.start(0).expect("it starts");
    validator.submit(&transfer(&local, 0)).expect("taken");
    until(&validator, "a transfer", |keeper| received(keeper) == 10).await;
    let (keeper, begun) = (follower(&local, stage.path(), Bad(MemoryDisk::default(), finish)), Instant::now());
    while !keeper.has_failed() {
        assert!(begun.elapsed() < DEADLINE, "{:?}", keeper.trouble());
        let _ = local.follow(0, &keeper).await;
        let _ = tokio::time::timeout(QUIET / 4, keeper.height().changed()).await;
    }
    assert!(keeper.trouble().is_some_and(|trouble| trouble.contains(why)), "{:?}", keeper.trouble());
    validator.submit(&transfer(&local, 1)).expect("taken");
    until(&validator, "a second transfer on the node's own chain", |keeper| received(keeper) == 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_followed_block_is_written_stops_that_chain_alone() {
    follows_on(|| panic!("a final block is written twice"), "a final block is written twice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_disk_of_a_followed_chain_stops_that_chain_alone() {
    follows_on(|| Err(io::Error::other("it was closed")), "the chain cannot be written: it was closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_block_is_written_ends_the_process_with_its_reason() {
    let Some(stage) = stage() else {
        let test = "a_panic_while_a_block_is_written_ends_the_process_with_its_reason";
        return ends(test, EXIT_PANIC, "cannot be trusted: a final block is written twice");
    };
    on(&stage, || panic!("a final block is written twice")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_room_that_takes_nothing_ends_the_process_with_its_reason() {
    let Some(stage) = stage() else {
        let test = "a_disk_with_room_that_takes_nothing_ends_the_process_with_its_reason";
        return ends(test, EXIT_DISK, "the chain cannot be written: it was closed");
    };
    on(&stage, || Err(io::Error::other("it was closed"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_a_journal_ends_the_process_with_its_reason() {
    let Some(stage) = stage() else {
        let test = "an_engine_without_a_journal_ends_the_process_with_its_reason";
        return ends(test, EXIT_DISK, "the consensus engine ended");
    };
    let journal = stage.join("journal-0");
    std::fs::create_dir(&journal).expect("a folder");
    // A file where the journal of the first epoch would be.
    std::fs::write(journal.join("epoch-0"), b"").expect("a file");
    let _keeper = alone(&stage).start(0).expect("it starts");
    let _ = tokio::time::timeout(DEADLINE, std::future::pending::<()>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_stops_before_its_disk_is_full_and_goes_on_when_there_is_room() {
    let stage = tempfile::tempdir().expect("a folder");
    let (mut local, disk) = (alone(stage.path()), Arc::new(MemoryDisk::default()));
    local.disks[0] = disk.clone();
    let keeper = local.start(0).expect("it starts");
    keeper.submit(&transfer(&local, 0)).expect("taken");
    until(&keeper, "the first transfer", |keeper| received(keeper) == 10).await;

    disk.leave(100 * MB);
    until(&keeper, "the end of the room", |keeper| keeper.trouble().is_some()).await;
    keeper.submit(&transfer(&local, 1)).expect("taken");
    assert!(!goes_on(&keeper).await, "nothing is written on a disk that is nearly full");
    disk.leave(300 * MB);
    assert!(!goes_on(&keeper).await, "nor where there is hardly more room");
    assert!(keeper.trouble().is_some_and(|trouble| trouble.contains("make room")), "{:?}", keeper.trouble());

    disk.leave(600 * MB);
    until(&keeper, "the second transfer, with room again", |keeper| received(keeper) == 20).await;
    assert_eq!(keeper.trouble(), None);
}
