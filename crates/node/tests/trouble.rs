//! What goes wrong on one machine or with one peer, with real nodes on loopback: a damaged database,
//! files that cannot be written, somebody who was not invited. Nothing is lost, everything is said.

use base::{ChunkTree, Hash, NodeId, Reject};
use node::{Node, NodeConfig, Status};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use swarm::{Access, Spec};
use trainer::{Limits, RunStatus};

const DEADLINE: Duration = Duration::from_secs(60);

fn config(dir: &Path) -> NodeConfig {
    NodeConfig {
        dir: dir.to_owned(),
        bind: ([127, 0, 0, 1], 0).into(),
        mdns: false,
        relays: vec![],
        rates: (0, 0),
        minded: false,
        limits: Limits { threads: 1, duty_percent: 100 },
        device: "cpu".into(),
        eval_tokens: 0,
    }
}

async fn start(dir: &Path) -> Arc<Node> {
    Node::start(config(dir)).await.expect("a node starts")
}

/// The shipped corpus, built in `dir`, and a run on it without an end.
fn spec(dir: &Path, access: Access) -> (Spec, PathBuf) {
    let corpus = dir.join("corpus");
    let built = data::shipped::build(&corpus).expect("built");
    let config = model::ModelConfig::preset("nano", 2048, 16).expect("a preset");
    let layout = model::Layout::new(&config, &model::Part::whole(&config));
    let text = String::from_utf8(config.to_json(0)).expect("utf-8");
    let spec = Spec { access, ..Spec::plain("trouble", text, layout.len as u64, built.manifest.root()) };
    (spec, corpus)
}

/// Waits until the node shows `what`, at most until the deadline.
async fn until(node: &Node, what: &str, done: impl Fn(&RunStatus) -> bool) -> RunStatus {
    let mut watch = node.watch();
    let shown = watch.wait_for(|status: &Status| status.runs.first().is_some_and(&done));
    let status = tokio::time::timeout(DEADLINE, shown).await;
    let status = status.unwrap_or_else(|_| panic!("{what} did not come: {:?}", node.status()));
    status.expect("the node runs").runs[0].clone()
}

fn two(run: &RunStatus) -> bool {
    run.rounds.last().is_some_and(|round| round.set == 2)
}

/// Two members of one run that have closed a round together, and the folder of the second one.
async fn pair(stage: &Path) -> ((Arc<Node>, Arc<Node>), PathBuf) {
    let (spec, corpus) = spec(stage, Access::Open);
    let (a, b_dir) = (start(&stage.join("a")).await, stage.join("b"));
    let ticket = a.create(spec, &corpus, None, ledger::Credits::ZERO).await.expect("created");
    let b = start(&b_dir).await;
    b.follow(ticket).await.expect("followed");
    until(&b, "a round of two", two).await;
    ((a, b), b_dir)
}

fn run_dir(dir: &Path) -> PathBuf {
    std::fs::read_dir(dir.join("runs")).expect("runs").flatten().next().expect("one run").path()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_an_error_that_names_it() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = stage.path().join("a");
    start(&dir).await.close().await.expect("closed");
    let files = std::fs::read_dir(&dir).expect("files").flatten().map(|entry| entry.path());
    let database = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "redb")).expect("a database");
    std::fs::write(&database, b"not a database").expect("written");
    let error = Node::start(config(&dir)).await.err().expect("refused");
    let text = format!("{error:#}");
    assert!(text.contains(&database.file_name().expect("named").to_string_lossy().into_owned()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_costs_rounds_and_nothing_else() {
    let stage = tempfile::tempdir().expect("a folder");
    let ((a, b), b_dir) = pair(stage.path()).await;
    // A file where a folder should be: every write of a private state fails from now on.
    let private = run_dir(&b_dir).join("private");
    let aside = private.with_extension("aside");
    std::fs::rename(&private, &aside).expect("moved");
    std::fs::write(&private, b"in the way").expect("written");
    let run = until(&b, "the trouble", |run| run.trouble.is_some()).await;
    assert!(
        run.trouble.as_deref().is_some_and(|text| text.contains("round") || text.contains("private")),
        "{:?}",
        run.trouble
    );
    let before = a.status().runs[0].version;
    until(&a, "rounds without it", |run| run.version > before + 3).await;
    std::fs::remove_file(&private).expect("removed");
    std::fs::rename(&aside, &private).expect("moved back");
    let before = a.status().runs[0].version;
    until(&b, "its return", |run| run.version > before && two(run) && run.trouble.is_none()).await;
    for node in [a, b] {
        node.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_remembers_nothing_holds_its_node_up_and_ends_nothing() {
    let stage = tempfile::tempdir().expect("a folder");
    let ((a, b), b_dir) = pair(stage.path()).await;
    b.close().await.expect("closed");
    drop(b);
    // A folder where a file should be: what a machine must remember cannot be written.
    let in_the_way = run_dir(&b_dir).join("memory.partial");
    std::fs::create_dir(&in_the_way).expect("made");
    let b = start(&b_dir).await;
    let waits = |run: &RunStatus| run.trouble.as_deref().is_some_and(|text| text.contains("the disk takes nothing"));
    until(&b, "the reason for waiting", waits).await;
    let units = |run: &RunStatus| {
        let (me, members) = (b.id().to_string(), &run.members);
        members.iter().find(|member| member.node == me).map(|member| member.units)
    };
    let (before, said) = (a.status().runs[0].version, units(&a.status().runs[0]));
    let later = until(&a, "rounds without it", |run| run.version > before + 3).await;
    assert_eq!(units(&later), said, "what is not remembered is not said");
    std::fs::remove_dir(&in_the_way).expect("removed");
    let before = a.status().runs[0].version;
    until(&b, "its return", |run| run.version > before && two(run) && run.trouble.is_none()).await;
    for node in [a, b] {
        node.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_run_gives_strangers_nothing() {
    let stage = tempfile::tempdir().expect("a folder");
    let dir = |name: &str| stage.path().join(name);
    let (a, b, c) = (start(&dir("a")).await, start(&dir("b")).await, start(&dir("c")).await);
    let invited: Vec<NodeId> = vec![a.id(), b.id()];
    let (spec, corpus) = spec(stage.path(), Access::Invited(invited));
    let manifest = spec.manifest;
    let ticket = a.create(spec, &corpus, None, ledger::Credits::ZERO).await.expect("created");
    b.follow(ticket.clone()).await.expect("followed");
    c.follow(ticket).await.expect("followed");
    until(&a, "a round of two", two).await;
    let run = until(&c, "the refusal", |run| run.trouble.is_some()).await;
    assert!(run.members.iter().all(|member| member.node != c.id().to_string()), "it is no member");
    let got = dir("c").join("corpora").join(manifest.to_string());
    let held = |file: std::fs::DirEntry| (file.file_name(), file.metadata().expect("a file").len());
    let files: Vec<_> =
        std::fs::read_dir(&got).map_or_else(|_| Vec::new(), |files| files.flatten().map(held).collect());
    assert!(files.iter().all(|(_, len)| *len == 0), "not one byte of the data: {files:?}");
    let refused = |node: &Node| node.status().refused.iter().map(|(_, n)| n).sum::<u64>();
    assert!(refused(&a) + refused(&b) > 0, "refusals are counted: {:?}", a.status().refused);
    for node in [a, b, c] {
        node.close().await.expect("closed");
    }
}

/// Somebody whose content is as long as a disk, by its own word.
struct Endless(Arc<ChunkTree>);

impl net::Content for Endless {
    fn tree(&self, root: &Hash, _: &NodeId) -> Option<Arc<ChunkTree>> {
        (self.0.root() == *root).then(|| self.0.clone())
    }
    fn chunk(&self, _: &Hash, _: usize, _: &NodeId) -> Option<bytes::Bytes> {
        None
    }
    fn sent(&self, _: usize) {}
    fn refused(&self, _: &NodeId, _: Reject) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn no_memory_is_taken_for_what_is_longer_than_it_can_be() {
    let chunks = 1 << 16;
    let tree = ChunkTree { len: (chunks * base::CHUNK_BYTES) as u64, chunks: vec![Hash::default(); chunks] };
    let (root, len) = (tree.root(), tree.len);
    let open = |secret: u8, tree: ChunkTree| {
        let config = net::NetConfig {
            secret: [secret; 32],
            bind: ([127, 0, 0, 1], 0).into(),
            mdns: false,
            relays: vec![],
            rates: (0, 0),
        };
        net::Net::open(config, Arc::new(Endless(Arc::new(tree))), None, None)
    };
    let liar = open(1, tree).await.expect("open");
    let node = open(2, ChunkTree::of(&[])).await.expect("open");
    node.know(&liar.address());
    let fetched = node.fetch(root, len - 1, &[liar.id()], Vec::new(), &|_, _| {}).await;
    let error = fetched.expect_err("too long");
    assert_eq!((error.failed, error.partial.capacity()), (vec![(liar.id(), Reject::Oversized.into())], 0));
    liar.close().await;
    node.close().await;
}
