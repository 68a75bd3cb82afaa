//! What the threads of a run do to its folder and to what it serves, with a real model and real data.

use super::*;
use base::{Keypair, NodeId, Round, Signed, Wire};
use model::Trainer;
use net::Content;
use std::path::PathBuf;
use swarm::{Candidate, Commit, DOMAIN, RunsState, Train, WorkBlock, WorkEnvelope, WorkTx};

/// A node's folder, and what it is to train.
struct Stage {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    contents: Arc<Contents>,
    answers: Answering,
    spec: Spec,
}

const RUN: Hash = Hash([1; 32]);

impl Stage {
    fn new(change: impl FnOnce(&mut Spec)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Store::open(&dir.path().join("node")).expect("a store"));
        let built = data::shipped::build(&dir.path().join("corpus")).expect("built");
        crate::corpus::import(&store, &dir.path().join("corpus")).expect("imported");
        let config = ModelConfig::preset("nano", 2048, 16).expect("a preset");
        let params = Layout::new(&config, &Part::whole(&config)).len as u64;
        let text = String::from_utf8(config.to_json(0)).expect("utf-8");
        let mut spec = Spec::plain("work", text, params, built.manifest.root());
        change(&mut spec);
        Self { _dir: dir, store, contents: Arc::default(), answers: Answering::default(), spec }
    }

    /// The run's part in a process that begins now.
    fn process(&self, run: RunId) -> (Arc<Work>, Trainer) {
        // No thread of its own: answers always come first.
        let limits = Limits { threads: 0, duty_percent: 100 };
        let using = (limits, Arc::new(tokio::sync::watch::Sender::new(100)), self.answers.clone());
        let (store, contents) = (self.store.clone(), self.contents.clone());
        let work = Work::new(run, &self.spec, using, ("cpu", 0), store, contents, 2).expect("the corpus is there");
        let trainer = work.trainer().expect("a processor");
        (work, trainer)
    }

    fn updates(&self, run: RunId) -> Vec<PathBuf> {
        let folder = self.store.run_dir(&run).expect("a folder").join("updates");
        std::fs::read_dir(folder).expect("a folder").flatten().map(|file| file.path()).collect()
    }
}

fn train(root: Hash, position: u64) -> Train {
    Train {
        run: RUN,
        round: Round(0),
        base: 0,
        root,
        micro_batches: 1,
        position,
        tokens_before: 0,
        steps_before: 0,
        window_ms: 60_000,
        plain: false,
        state: Hash::default(),
        inherit: None,
        settle: Vec::new(),
        pending: None,
    }
}

fn closed(plain: Option<(NodeId, Hash)>) -> Closed {
    Closed {
        round: Round(0),
        set: Vec::new(),
        left_out: Vec::new(),
        carried: Vec::new(),
        plain,
        void: false,
        plan: Vec::new(),
        base: 0,
        commits: BTreeMap::new(),
        tokens: 16,
        tokens_before: 0,
        steps_before: 0,
        took_ms: 1,
        loss_micro: 0,
    }
}

/// A log with one run of two members.
struct Log {
    state: RunsState,
    keys: [Keypair; 2],
    seq: u64,
}

impl Log {
    fn new(spec: &Spec, root: Hash) -> (Self, RunId) {
        let keys = [Keypair::from_secret([1; 32]), Keypair::from_secret([2; 32])];
        let run = spec.id(&keys[0].id());
        let mut log = Self { state: RunsState::new(Hash::default(), 0), keys, seq: 0 };
        log.say(0, WorkTx::Create { spec: spec.clone() });
        // Both are there before the first round opens.
        let mut txs = Vec::new();
        for who in 0..2 {
            txs.push((who, WorkTx::Join { run, class: class("cpu") }));
        }
        for who in 0..2 {
            txs.push((who, WorkTx::Ready { run, version: 0, root }));
        }
        log.order(txs);
        (log, run)
    }

    fn say(&mut self, who: usize, tx: WorkTx) {
        self.order(vec![(who, tx)]);
    }

    fn order(&mut self, said: Vec<(usize, WorkTx)>) {
        let mut txs = Vec::new();
        for (who, tx) in said {
            self.seq += 1;
            let key = &self.keys[who];
            txs.push(Signed::new(DOMAIN, key, WorkEnvelope::new(Hash::default(), 0, &key.id(), self.seq, tx)));
        }
        let block = WorkBlock { height: self.state.height + 1, time: self.state.time.plus(10), txs };
        let events = self.state.apply(&block).expect("it follows");
        assert!(!events.iter().any(|event| matches!(event, swarm::RunEvent::Refused(..))), "{events:?}");
    }
}

#[test]
fn an_update_is_given_to_nobody_before_the_commits_of_its_round_are_closed() {
    let stage = Stage::new(|_| {});
    let run = stage.spec.id(&Keypair::from_secret([1; 32]).id());
    let (work, mut trainer) = stage.process(run);
    let (_, root) = work.init().expect("made");
    let (mut log, run) = Log::new(&stage.spec, root);
    let [own, other] = [0, 1].map(|who| log.keys[who].id());
    let round = &log.state.runs[&run].open[0];
    let slot = |who: &NodeId| round.slot(who).expect("both have a place").clone();
    let (mine, theirs) = (slot(&own), slot(&other));
    let unit = Train { run, micro_batches: mine.micro_batches, position: mine.position, ..train(root, 0) };
    let commit = work.unit(&mut trainer, &unit, u64::MAX).expect("a unit");
    let given = |log: &Log| {
        stage.contents.release(&log.state.runs);
        let tree = stage.contents.tree(&commit.update, &other).is_some();
        assert_eq!(stage.contents.chunk(&commit.update, 0, &other).is_some(), tree);
        // The moments after it show as much of what was learned.
        assert_eq!(stage.contents.tree(&commit.state_next, &other).is_some(), tree);
        tree
    };
    assert!(!given(&log), "nobody knows it yet");
    log.say(0, WorkTx::Commit { commit: commit.clone() });
    assert!(!given(&log), "the other could commit a copy of it");
    let tokens = u64::from(theirs.micro_batches) * 16;
    log.say(1, WorkTx::Commit { commit: Commit { update: Hash([5; 32]), tokens, ..commit.clone() } });
    assert!(given(&log), "the commits are closed");
    let bytes = stage.contents.chunk(&commit.update, 0, &other).expect("given");
    assert_eq!(ChunkTree::of(&bytes).root(), commit.update);
}

#[test]
fn a_kill_between_a_plain_result_and_its_commit_leaves_on_disk_what_the_log_knows() {
    let stage = Stage::new(|_| {});
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    let unit = Train { plain: true, ..train(root, 0) };
    let made = work.unit(&mut trainer, &unit, u64::MAX).expect("a unit").update;
    assert_ne!(made, root);
    drop(work);

    let (work, _) = stage.process(RUN);
    assert_eq!(work.load_snapshot(), Some((0, root)), "the log knows of no unit");
    assert_eq!(work.apply(&closed(None)).expect("an empty round"), (1, root), "the log did not take it");
    drop(work);

    let (work, _) = stage.process(RUN);
    assert_eq!(work.load_snapshot(), Some((0, root)));
    let other = work.apply(&closed(Some((NodeId([1; 32]), Hash([9; 32])))));
    assert!(other.is_err(), "what is beside the weights is another round's");
    let (version, before, before_root) = work.newest().expect("loaded");
    let taken = work.apply(&closed(Some((NodeId([1; 32]), made)))).expect("it is beside the weights");
    assert_eq!(taken, (1, made), "the log took it");
    work.snapshot(version, &before, &before_root).expect("passed over");
    drop(work);

    let (work, _) = stage.process(RUN);
    assert_eq!(work.load_snapshot(), Some((1, made)));
}

#[test]
fn the_accepted_private_state_stays_however_many_units_the_log_does_not_take() {
    let stage = Stage::new(|_| {});
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    let mut unit = |state: Hash, position: u64| {
        let unit = Train { state, ..train(root, position) };
        work.unit(&mut trainer, &unit, u64::MAX).expect("a unit")
    };
    let accepted = unit(Hash::default(), 0).state_next;
    for i in 1..6 {
        let refused = unit(accepted, i);
        assert_eq!(refused.state, accepted, "unit {i} goes on from what the log knows");
        assert_ne!(refused.state_next, accepted);
    }
    let folder = stage.store.run_dir(&RUN).expect("a folder").join("private");
    assert!(std::fs::read_dir(folder).expect("a folder").count() <= 4, "the others go");
}

#[test]
fn a_newcomer_with_a_broken_donor_begins_from_no_moments() {
    let stage = Stage::new(|spec| {
        (spec.mode, spec.inner_steps) = (Mode::Local, 2);
    });
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    let n = work.layout.len;
    let mut bytes = vec![0; 2 * n];
    bytes.extend(10u64.to_bytes());
    // Scales of the first moments that are no numbers; all others zero.
    bytes.extend([0xc0, 0x7f].repeat(n.div_ceil(256)));
    bytes.extend(vec![200; n]);
    bytes.extend(vec![0; 2 * n.div_ceil(256) + n]);
    let state = ChunkTree::of(&bytes).root();
    // Whether they are refused here or found out by training.
    let _ = work.keep_inherited(&state, &bytes);
    let unit = Train { inherit: Some((NodeId([3; 32]), state)), ..train(root, 0) };
    let mut again = || work.unit(&mut trainer, &unit, u64::MAX);
    let commit = again().or_else(|_| again()).expect("the second unit at the latest");
    assert_eq!(commit.state, Hash::default());
}

#[test]
fn a_newcomer_whose_donor_has_huge_second_moments_begins_from_no_moments() {
    let stage = Stage::new(|spec| {
        (spec.mode, spec.inner_steps) = (Mode::Local, 2);
    });
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    let (n, blocks) = (work.layout.len, work.layout.len.div_ceil(256));
    let mut bytes = vec![0; 2 * n];
    bytes.extend(10u64.to_bytes());
    // No first moments, and second ones of 1e30: finite, and no step moves a weight for hundreds of steps.
    bytes.extend(vec![0; 2 * blocks + n]);
    bytes.extend(((1e30f32.to_bits() >> 20) as u16).to_le_bytes().repeat(blocks));
    bytes.extend(vec![255; n]);
    assert!(model::Private::from_bytes(&work.layout, &bytes).is_ok(), "its form is right");
    let state = ChunkTree::of(&bytes).root();
    assert!(work.keep_inherited(&state, &bytes).is_err(), "it is not taken from a donor");
    let folder = stage.store.run_dir(&RUN).expect("a folder").join("private");
    std::fs::write(folder.join(state.to_string()), &bytes).expect("written");
    let unit = Train { inherit: Some((NodeId([3; 32]), state)), ..train(root, 0) };
    let commit = work.unit(&mut trainer, &unit, u64::MAX).expect("a unit");
    assert_eq!(commit.state, Hash::default(), "nor where it is on the disk already");
}

#[test]
fn a_plain_round_takes_only_the_weights_that_its_commit_names() {
    let stage = Stage::new(|_| {});
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    let unit = Train { plain: true, ..train(root, 0) };
    let made = work.unit(&mut trainer, &unit, u64::MAX).expect("a unit").update;
    let of = |root| closed(Some((NodeId([1; 32]), root)));
    assert!(work.apply(&of(Hash([9; 32]))).is_err(), "those in memory are another round's");
    assert_eq!(work.apply(&of(made)).expect("they are on the disk"), (1, made));
}

#[test]
fn a_unit_whose_private_state_cannot_be_kept_leaves_no_update() {
    let stage = Stage::new(|_| {});
    let (elsewhere, mut trainer) = stage.process(Hash([2; 32]));
    let (_, root) = elsewhere.init().expect("made");
    let state = elsewhere.unit(&mut trainer, &train(root, 0), u64::MAX).expect("a unit").state_next;
    let (work, mut trainer) = stage.process(RUN);
    work.init().expect("made");
    let folder = stage.store.run_dir(&RUN).expect("a folder").join("private");
    std::fs::create_dir(folder.join(state.to_string())).expect("a folder in place of the file");
    assert!(work.unit(&mut trainer, &train(root, 0), u64::MAX).is_err());
    assert_eq!(stage.updates(RUN), Vec::<PathBuf>::new());
}

#[test]
fn an_update_that_was_let_go_of_is_never_given() {
    let stage = Stage::new(|_| {});
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    let [gone, stays] = [0, 1].map(|i| work.unit(&mut trainer, &train(root, i), u64::MAX).expect("a unit").update);
    work.forget(&[gone]);
    let (log, run) = Log::new(&stage.spec, root);
    let mut over = log.state.runs[&run].clone();
    over.open.clear();
    stage.contents.release(&BTreeMap::from([(RUN, over)]));
    let given = |update| stage.contents.tree(update, &log.keys[1].id()).is_some();
    assert!(given(&stays) && !given(&gone));
}

#[test]
fn waiting_for_answers_is_not_counted_as_computing() {
    let stage = Stage::new(|_| {});
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    stage.answers.store(1, Ordering::Relaxed);
    let begun = Instant::now();
    // It gives way for three quarters of its window.
    let unit = Train { window_ms: 1_200, ..train(root, 0) };
    work.unit(&mut trainer, &unit, u64::MAX).expect("a unit");
    let (busy, all) = (work.meter.busy_ms.load(Ordering::Relaxed), begun.elapsed().as_millis() as u64);
    assert!(all >= 900 && busy + 450 <= all, "{busy} of {all} ms");
}

#[test]
fn an_update_that_is_not_what_its_commit_said_is_refused_and_gone() {
    let stage = Stage::new(|_| {});
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    let commit = work.unit(&mut trainer, &train(root, 0), u64::MAX).expect("a unit");
    let bytes = work.update(&commit.update).expect("on disk");
    work.forget(&[commit.update]);
    let right = Candidate {
        member: NodeId([3; 32]),
        round: commit.round,
        update: commit.update,
        size: commit.size,
        tokens: commit.tokens,
        norm_sq_bits: commit.norm_sq_bits,
    };
    let arrives = |candidate: &Candidate, bytes: &[u8]| {
        let mut file = work.arriving(&commit.update).expect("a file");
        std::io::Write::write_all(&mut file, bytes).expect("written");
        work.verify(candidate)
    };
    let longer = Candidate { size: commit.size + 1, ..right.clone() };
    assert_eq!(arrives(&longer, &bytes), Err(base::Reject::WrongSize));
    let other = Candidate { norm_sq_bits: 9f64.to_bits(), ..right.clone() };
    assert_eq!(arrives(&other, &bytes), Err(base::Reject::WrongNorm));
    assert_eq!(arrives(&right, &bytes[1..]), Err(base::Reject::NotHeld), "not whole: it is fetched again");
    assert!(stage.updates(RUN).is_empty() && stage.contents.tree(&commit.update, &NodeId([4; 32])).is_none());
    assert_eq!(arrives(&right, &bytes), Ok(()));
    assert_eq!(stage.updates(RUN).len(), 1);
    assert!(work.holds(&commit.update) && stage.contents.tree(&commit.update, &NodeId([4; 32])).is_some());
}

#[test]
fn updates_of_an_earlier_process_stay_only_where_somebody_may_need_them() {
    let stage = Stage::new(|_| {});
    let (work, _) = stage.process(RUN);
    let folder = stage.store.run_dir(&RUN).expect("a folder").join("updates");
    let (known, old) = (Hash([4; 32]), Hash([5; 32]));
    for name in [known.to_string(), old.to_string(), format!("{known}.arriving")] {
        std::fs::write(folder.join(name), b"bytes").expect("written");
    }
    work.clear_updates(&std::collections::BTreeSet::from([known])).expect("cleared");
    assert_eq!(stage.updates(RUN), [folder.join(known.to_string())]);
}

#[test]
fn a_replay_borrows_an_update_only_as_its_root_names_it() {
    let stage = Stage::new(|_| {});
    let (work, mut trainer) = stage.process(RUN);
    let (_, root) = work.init().expect("made");
    let update = work.unit(&mut trainer, &train(root, 0), u64::MAX).expect("a unit").update;
    let folder = stage.store.run_dir(&RUN).expect("a folder");
    let (again, _) = stage.process(Hash([2; 32]));
    assert!(again.update(&update).is_err());
    again.borrow_update(&folder, &update).expect("it is there");
    assert_eq!(again.update(&update).expect("borrowed"), work.update(&update).expect("there"));
    again.forget(&[update]);
    std::fs::write(folder.join("updates").join(update.to_string()), b"damaged").expect("written");
    assert!(again.borrow_update(&folder, &update).is_err() && again.update(&update).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_waits_for_its_unit_to_be_let_go_of() {
    let stage = Stage::new(|_| {});
    let (work, _) = stage.process(RUN);
    work.init().expect("made");
    let (begun, begins) = std::sync::mpsc::channel();
    let ended = Arc::new(AtomicBool::new(false));
    let (thread, done) = (work.clone(), ended.clone());
    let unit = std::thread::spawn(move || {
        let _computing = thread.computing.blocking_lock();
        begun.send(()).expect("it is waited for");
        while !thread.rests() {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    begins.recv().expect("it begins");
    work.end().await.expect("written");
    assert!(ended.load(Ordering::Relaxed));
    unit.join().expect("it ended");
}
