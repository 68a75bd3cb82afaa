//! A node whose units fail keeps nobody waiting: it rests, and comes back after pauses that grow.

use base::{Hash, Keypair, Machine, Millis, Outbox, Signed};
use swarm::{
    Commit, DOMAIN, Input, Output, Peer, RunId, RunsState, Spec, Standing, Train, Waiting, WorkBlock, WorkEnvelope,
    WorkTx,
};

/// The only member of a run, and a log that takes at once what it says.
struct Alone {
    key: Keypair,
    peer: Peer,
    run: RunId,
    root: Hash,
    now_ms: u64,
    height: u64,
    seq: u64,
}

impl Alone {
    /// The node, and the first unit that it is to do.
    fn new() -> (Self, Box<Train>) {
        let key = Keypair::from_secret([1; 32]);
        let spec = Spec::plain("pauses", "{}".into(), 8, Hash::default());
        let (run, root) = (spec.id(&key.id()), Hash([7; 32]));
        let peer = Peer::new(key.id(), RunsState::new(Hash::default(), 0));
        let mut alone = Self { key, peer, run, root, now_ms: 10_000, height: 0, seq: 0 };
        alone.order(vec![WorkTx::Create { spec }]);
        let follow = Input::Follow { run, class: Hash::default(), memory: None, weights: Some((0, root)) };
        let outputs = alone.step(follow);
        (alone, unit(&outputs).expect("the only member has every round"))
    }

    /// Steps the machine, carries out what it asks for except units, and gives all that it asked for.
    fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Outbox::default();
        self.peer.step(Millis(self.now_ms), input, &mut out);
        let mut asked: Vec<Output> = out.drain().collect();
        let (mut said, mut applied) = (Vec::new(), Vec::new());
        for output in &asked {
            match output {
                Output::Submit(tx) => said.push(tx.clone()),
                Output::Apply { closed, .. } => {
                    self.root = closed.plain.map_or(self.root, |(_, root)| root);
                    applied.push((closed.round.0 + 1, self.root));
                }
                _ => {}
            }
        }
        for weights in applied {
            asked.extend(self.step(Input::Weights { run: self.run, result: Some(weights) }));
        }
        if !said.is_empty() {
            asked.extend(self.order(said));
        }
        asked
    }

    /// A block with these transactions.
    fn order(&mut self, said: Vec<WorkTx>) -> Vec<Output> {
        let mut txs = Vec::new();
        for tx in said {
            self.seq += 1;
            let envelope = WorkEnvelope::new(Hash::default(), 0, &self.key.id(), self.seq, tx);
            txs.push(Signed::new(DOMAIN, &self.key, envelope));
        }
        self.height += 1;
        self.step(Input::Block(WorkBlock { height: self.height, time: Millis(self.now_ms), txs }))
    }

    fn after(&mut self, ms: u64) -> Vec<Output> {
        self.now_ms += ms;
        self.step(Input::Wake)
    }

    fn status(&self) -> Standing {
        self.peer.state().runs[&self.run].members[&self.key.id()].status
    }

    /// The node has said that it rests, says nothing until the pause is over, and is back then.
    fn comes_back_after(&mut self, pause_ms: u64) -> Box<Train> {
        assert_eq!((self.status(), self.peer.waiting(&self.run)), (Standing::Away, Waiting::Pausing));
        let early = self.after(pause_ms - 1);
        assert!(!early.iter().any(|output| matches!(output, Output::Submit(_) | Output::Train(_))), "{early:?}");
        assert!(early.contains(&Output::Wake(Millis(self.now_ms + 1))), "it asks to be woken: {early:?}");
        let back = self.after(1);
        assert_eq!(self.status(), Standing::Active);
        unit(&back).expect("a unit of the next round")
    }

    fn commit(&self, train: &Train, norm_sq: f64) -> Box<Commit> {
        Box::new(Commit {
            run: self.run,
            round: train.round,
            root: train.root,
            class: Hash::default(),
            tokens: u64::from(train.micro_batches) * 16,
            steps: 1,
            update: Hash([8; 32]),
            norm_sq_bits: norm_sq.to_bits(),
            size: 0,
            state: train.state,
            state_next: Hash([9; 32]),
            trace: Hash::default(),
            loss_micro: 0,
        })
    }
}

fn unit(outputs: &[Output]) -> Option<Box<Train>> {
    outputs.iter().find_map(|output| if let Output::Train(train) = output { Some(train.clone()) } else { None })
}

#[test]
fn a_node_whose_units_fail_rests_for_pauses_that_double_up_to_a_bound() {
    let (mut node, mut train) = Alone::new();
    for failure in 0..12u32 {
        node.step(Input::Failed { run: node.run, round: train.round });
        train = node.comes_back_after(4_000 << failure.min(8));
    }
}

#[test]
fn a_unit_that_the_log_takes_ends_the_doubling() {
    let (mut node, mut train) = Alone::new();
    for pause_ms in [4_000, 8_000, 16_000] {
        node.step(Input::Failed { run: node.run, round: train.round });
        train = node.comes_back_after(pause_ms);
    }
    let commit = node.commit(&train, 1.0);
    let outputs = node.step(Input::Trained { run: node.run, round: train.round, result: Some(commit) });
    let train = unit(&outputs).expect("the next round");
    node.step(Input::Failed { run: node.run, round: train.round });
    node.comes_back_after(4_000);
}

#[test]
fn a_commit_that_no_log_takes_counts_as_a_failed_unit() {
    let (mut node, train) = Alone::new();
    let commit = node.commit(&train, f64::NAN);
    let outputs = node.step(Input::Trained { run: node.run, round: train.round, result: Some(commit) });
    let says = |wanted: fn(&WorkTx) -> bool| outputs.iter().any(|o| matches!(o, Output::Submit(tx) if wanted(tx)));
    assert!(
        !says(|tx| matches!(tx, WorkTx::Commit { .. })) && says(|tx| matches!(tx, WorkTx::Rest { .. })),
        "{outputs:?}"
    );
    node.comes_back_after(4_000);
}

#[test]
fn a_unit_that_was_let_go_of_is_no_failure() {
    let (mut node, train) = Alone::new();
    let outputs = node.step(Input::Trained { run: node.run, round: train.round, result: None });
    assert!(!outputs.iter().any(|output| matches!(output, Output::Submit(_))), "{outputs:?}");
    assert_eq!(node.status(), Standing::Active);
}

#[test]
fn a_run_that_is_left_before_it_was_followed_again_is_left_on_the_log_too() {
    let (alone, _) = Alone::new();
    let Alone { key, peer, run, .. } = alone;
    assert!(peer.state().runs[&run].members.contains_key(&key.id()));
    // The node was started again: it knows the log, and its owner leaves before anything was prepared.
    let mut again = Peer::new(key.id(), peer.state().clone());
    let mut out = Outbox::default();
    again.step(Millis(20_000), Input::Quit(run), &mut out);
    let said: Vec<Output> = out.drain().collect();
    assert!(
        said.iter().any(|output| matches!(output, Output::Submit(WorkTx::Leave { run: left }) if *left == run)),
        "{said:?}"
    );
}
