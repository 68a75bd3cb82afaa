//! What the log takes, what it refuses and what it costs, block by block.

use base::{Hash, Keypair, Machine, Millis, NodeId, Outbox, Reject, Signed, Wire};
use swarm::{
    Attest, Candidate, Claim, Commit, DOMAIN, DisputeVerdict, Init, Input, Member, Mode, Output, Peer, RoundState, Run,
    RunEvent, RunsState, Spec, Standing, Waiting, WorkBlock, WorkEnvelope, WorkTx,
};

/// A log with one run, all of whose members took part from its first round on.
struct Log {
    state: RunsState,
    run: Hash,
    keys: Vec<Keypair>,
    seq: u64,
    now: u64,
}

/// Every round but those that a test delays takes so long.
const UNIT_MS: u64 = 10_000;

/// A run that trains at home, two steps of 60 micro-batches a round.
fn spec() -> Spec {
    let plain = Spec::plain("x", String::new(), 1 << 20, Hash::default());
    Spec { mode: Mode::Local, inner_steps: 2, micro_batches: 60, train_window_ms: 40_000, ..plain }
}

impl Log {
    fn new(spec: Spec, n: usize) -> Self {
        let mut keys: Vec<Keypair> = (1..=n).map(|i| Keypair::from_secret([i as u8; 32])).collect();
        keys.sort_by_key(Keypair::id);
        let run = spec.id(&keys[0].id());
        let mut log = Self { state: RunsState::new(Hash::default(), 0), run, keys, seq: 0, now: 0 };
        assert_eq!(log.say(0, WorkTx::Create { spec }), Ok(()));
        let joins = (0..n).map(|i| (i, WorkTx::Join { run, class: Hash::default() })).collect();
        assert_eq!(log.block(joins), []);
        let ready = (0..n).map(|i| (i, log.ready(0))).collect();
        assert_eq!(log.block(ready), []);
        log
    }

    /// The next block, with what was refused of it.
    fn block(&mut self, said: Vec<(usize, WorkTx)>) -> Vec<Reject> {
        let mut txs = Vec::new();
        for (i, tx) in said {
            self.seq += 1;
            let envelope = WorkEnvelope { chain: Hash::default(), seq: self.seq, work: 0, tx };
            txs.push(Signed::new(DOMAIN, &self.keys[i], envelope));
        }
        let block = WorkBlock { height: self.state.height + 1, time: Millis(self.now), txs };
        let events = self.state.apply_checked(&block).expect("it follows");
        let refused = |event| if let RunEvent::Refused(_, reject) = event { Some(reject) } else { None };
        events.into_iter().filter_map(refused).collect()
    }

    fn say(&mut self, i: usize, tx: WorkTx) -> Result<(), Reject> {
        self.block(vec![(i, tx)]).first().map_or(Ok(()), |reject| Err(*reject))
    }

    fn run(&self) -> &Run {
        &self.state.runs[&self.run]
    }

    fn id(&self, i: usize) -> NodeId {
        self.keys[i].id()
    }

    fn member(&self, i: usize) -> &Member {
        &self.run().members[&self.id(i)]
    }

    /// The round that trains.
    fn open(&self) -> &RoundState {
        self.run().open.iter().find(|open| open.is_training()).expect("a round trains")
    }

    /// Micro-batches of a member in the round that trains.
    fn part(&self, i: usize) -> u32 {
        self.open().slot(&self.id(i)).map_or(0, |slot| slot.micro_batches)
    }

    /// The root of a version, the same for all as long as nobody trains alone.
    fn root(&self, version: u64) -> Hash {
        let known = self.state.runs.get(&self.run).and_then(|run| run.roots.get(&version));
        known.copied().unwrap_or(Hash([7; 32]))
    }

    fn ready(&self, version: u64) -> WorkTx {
        WorkTx::Ready { run: self.run, version, root: self.root(version) }
    }

    fn comes_back(&mut self, i: usize) -> Result<(), Reject> {
        let ready = self.ready(self.run().version());
        self.say(i, ready)
    }

    fn unit(&self, i: usize) -> Commit {
        let (open, spec) = (self.open(), &self.run().spec);
        let name = Hash::of("unit", &(self.id(i), open.round).to_bytes());
        let alone = open.plan.len() == 1;
        Commit {
            run: self.run,
            round: open.round,
            root: self.root(open.base),
            class: Hash::default(),
            tokens: u64::from(self.part(i)) * u64::from(spec.inner_steps) * spec.tokens_per_micro_batch(),
            steps: spec.inner_steps,
            update: name,
            norm_sq_bits: 1f64.to_bits(),
            size: if alone { 0 } else { 100 },
            state: Hash::default(),
            state_next: name,
            trace: Hash::default(),
            loss_micro: 0,
        }
    }

    fn attest(&self, i: usize, held: impl Fn(&Candidate) -> bool) -> (usize, WorkTx) {
        let open = self.run().open.front().expect("a round is open");
        let mut bits = vec![0u8; open.candidates.len().div_ceil(8)];
        for (at, candidate) in open.candidates.iter().enumerate() {
            bits[at / 8] |= u8::from(held(candidate)) << (at % 8);
        }
        let root = self.root(open.base);
        (i, WorkTx::Attest { attest: Attest { run: self.run, round: open.round, root, held: bits } })
    }

    /// A whole round: whoever has a place commits after so long, or not at all; then all that have a voice attest
    /// to hold what `served` members made.
    fn round(&mut self, after_ms: impl Fn(usize) -> Option<u64>, served: impl Fn(usize) -> bool) {
        let (opened, round, until) = (self.now, self.open().round, self.open().until);
        let planned = (0..self.keys.len()).filter(|i| self.part(*i) > 0);
        let mut units: Vec<(u64, usize)> = planned.filter_map(|i| Some((after_ms(i)?, i))).collect();
        units.sort_unstable();
        for (ms, i) in units {
            self.now = opened + ms;
            let commit = self.unit(i);
            assert_eq!(self.say(i, WorkTx::Commit { commit }), Ok(()));
        }
        if self.run().open.iter().any(|open| open.round == round && open.is_training()) {
            self.now = until.0;
            self.block(Vec::new());
        }
        let Some(open) = self.run().open.front().filter(|open| open.round == round) else { return };
        let ids: Vec<NodeId> = self.keys.iter().map(Keypair::id).collect();
        let held = |candidate: &Candidate| ids.iter().position(|id| *id == candidate.member).is_some_and(&served);
        let voices = (0..ids.len()).filter(|i| open.committee.contains(&ids[*i]));
        let attests = voices.map(|i| self.attest(i, held)).collect();
        self.now += 50;
        assert_eq!(self.block(attests), []);
        assert!(self.run().open.iter().all(|open| open.round != round), "the round is closed");
    }
}

impl Log {
    /// A round in which everybody commits and serves, and who is stingy attests to hold its own update alone.
    fn stingy_round(&mut self, stingy: impl Fn(usize) -> bool) {
        let planned = (0..self.keys.len()).filter(|i| self.part(*i) > 0);
        let commits = planned.map(|i| (i, WorkTx::Commit { commit: self.unit(i) })).collect();
        self.now += UNIT_MS;
        assert_eq!(self.block(commits), []);
        let open = self.run().open.front().expect("it exchanges");
        let voices = (0..self.keys.len()).filter(|i| open.committee.contains(&self.id(*i)));
        let said = |i| self.attest(i, |candidate| !stingy(i) || candidate.member == self.id(i));
        let attests = voices.map(said).collect();
        self.now += 50;
        assert_eq!(self.block(attests), []);
    }
}

/// All but `who` commit in time.
fn without(who: usize) -> impl Fn(usize) -> Option<u64> {
    move |i| (i != who).then_some(UNIT_MS)
}

fn in_time(_: usize) -> Option<u64> {
    Some(UNIT_MS)
}

fn all(_: usize) -> bool {
    true
}

#[test]
fn who_commits_at_once_is_not_believed_to_be_faster_than_four_others() {
    let mut log = Log::new(spec(), 5);
    assert_eq!((0..5).map(|i| log.part(i)).collect::<Vec<_>>(), [12; 5], "unknown, they are equal");
    for _ in 0..12 {
        log.round(|i| Some(if i == 2 { 1 } else { UNIT_MS }), all);
        let most = [0, 1, 3, 4].map(|i| log.member(i).rate).into_iter().max().unwrap_or(0);
        assert!(log.member(2).rate <= 4 * most, "{} beside {most}", log.member(2).rate);
        assert_eq!(log.part(2), 20, "a third of a round");
        assert!([0, 1, 3, 4].into_iter().all(|i| log.part(i) == 10), "the others do the rest");
    }
}

#[test]
fn who_misses_its_units_sits_out_longer_and_longer() {
    let mut log = Log::new(spec(), 4);
    let mut pauses = Vec::new();
    while pauses.len() < 8 {
        let (round, planned) = (log.open().round.0, log.part(1) > 0);
        log.round(without(1), all);
        if planned {
            assert_eq!(log.member(1).status, Standing::Away);
            pauses.push(log.member(1).aside_until.0.saturating_sub(round + 1));
        }
        let aside = log.run().aside(&log.id(1)).is_some();
        if log.member(1).status != Standing::Active {
            assert_eq!(log.comes_back(1), if aside { Err(Reject::Early) } else { Ok(()) });
        }
    }
    assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 32, 32], "one is forgiven, and no pause is for ever");
    assert_eq!(log.member(1).missed, 8);
}

#[test]
fn who_rests_when_all_others_have_waited_is_at_fault_and_who_rests_before_is_not() {
    let mut log = Log::new(spec(), 4);
    let run = log.run;
    assert_eq!(log.say(1, WorkTx::Rest { run }), Ok(()));
    assert_eq!((log.member(1).status, log.member(1).faults), (Standing::Away, 0));
    for faults in 1..=2 {
        log.round(without(1), all);
        log.comes_back(1).expect("it does not sit out");
        log.round(in_time, all);
        for i in [0, 2, 3] {
            let commit = log.unit(i);
            assert_eq!(log.say(i, WorkTx::Commit { commit }), Ok(()));
        }
        assert!(log.part(1) > 0 && log.open().commits.len() == 3, "three wait for one");
        assert_eq!(log.say(1, WorkTx::Rest { run }), Ok(()));
        assert_eq!(log.member(1).faults, faults);
        let attests = [0, 2, 3].map(|i| log.attest(i, |_| true)).to_vec();
        assert_eq!(log.block(attests), []);
    }
    assert_eq!(log.comes_back(1), Err(Reject::Early));
}

#[test]
fn where_nobody_takes_part_whoever_comes_back_is_welcome() {
    let mut log = Log::new(spec(), 1);
    for faults in 1..6 {
        log.round(|_| None, all);
        assert_eq!((log.member(0).status, log.member(0).faults), (Standing::Away, faults));
        assert_eq!(log.comes_back(0), Ok(()));
    }
}

#[test]
fn who_leaves_and_joins_again_keeps_its_faults_and_its_pause() {
    let mut log = Log::new(spec(), 4);
    let run = log.run;
    log.round(in_time, |i| i != 1);
    log.round(in_time, |i| i != 1);
    let until = log.member(1).aside_until;
    assert_eq!(log.say(1, WorkTx::Leave { run }), Ok(()));
    assert_eq!(log.say(1, WorkTx::Join { run, class: Hash::default() }), Ok(()));
    assert_eq!((log.member(1).faults, log.member(1).aside_until), (2, until));
    assert_eq!(log.comes_back(1), Err(Reject::Early));
    assert_eq!(log.say(2, WorkTx::Leave { run }), Ok(()));
    assert!(log.run().gone.is_empty(), "nothing is held against the other");
}

#[test]
fn who_leaves_when_all_others_have_waited_is_at_fault() {
    let mut log = Log::new(spec(), 4);
    let run = log.run;
    for i in [0, 2, 3] {
        let commit = log.unit(i);
        assert_eq!(log.say(i, WorkTx::Commit { commit }), Ok(()));
    }
    assert_eq!(log.say(1, WorkTx::Leave { run }), Ok(()));
    assert_eq!(log.say(1, WorkTx::Join { run, class: Hash::default() }), Ok(()));
    assert_eq!(log.member(1).faults, 1);
}

#[test]
fn a_minority_that_attests_to_its_own_updates_alone_puts_nobody_at_fault() {
    // Twelve of a committee of thirty-two are enough to keep an update out of the set.
    for (n, liars) in [(2, 0..1), (3, 0..1), (96, 10..22)] {
        let mut log = Log::new(Spec { slots: 32, ..spec() }, n);
        let mut left_out = 0;
        for _ in 0..32 {
            log.stingy_round(|i| liars.contains(&i));
            left_out += log.run().closed.back().map_or(0, |closed| closed.left_out.len());
            let faults: Vec<u32> = (0..n).map(|i| log.member(i).faults).collect();
            assert_eq!(faults, vec![0; n], "{n} members");
        }
        assert!(left_out > 0 && log.run().active() == n, "{n} members: {left_out} updates did not count");
    }
}

#[test]
fn those_who_share_the_places_of_a_round_are_not_always_those_who_attest_it() {
    let mut log = Log::new(Spec { slots: 32, ..spec() }, 96);
    let mut same = 0;
    for _ in 0..16 {
        let mut committee = log.open().committee.clone();
        committee.sort_unstable();
        same += usize::from(log.open().plan.iter().map(|slot| slot.member).eq(committee));
        log.round(in_time, all);
    }
    assert!(same < 4, "{same} of 16 rounds");
}

#[test]
fn who_serves_every_other_update_sits_out() {
    let mut log = Log::new(spec(), 4);
    log.round(in_time, |i| i != 1);
    log.round(in_time, all);
    log.round(in_time, |i| i != 1);
    assert_eq!((log.member(1).status, log.member(1).faults), (Standing::Away, 2));
}

#[test]
fn whose_updates_nobody_can_fetch_sits_out_and_eight_good_units_in_a_row_take_a_fault_back() {
    let mut log = Log::new(spec(), 4);
    log.round(in_time, |i| i != 1);
    assert_eq!((log.member(1).status, log.member(1).faults), (Standing::Active, 1));
    for _ in 0..7 {
        log.round(in_time, all);
        assert_eq!(log.member(1).faults, 1);
    }
    log.round(in_time, all);
    assert_eq!(log.member(1).faults, 0, "eight units counted");
    log.round(in_time, |i| i != 1);
    log.round(in_time, |i| i != 1);
    assert_eq!((log.member(1).status, log.member(1).faults), (Standing::Away, 2));
    assert_eq!(log.comes_back(1), Err(Reject::Early));
    log.round(in_time, all);
    assert!(log.comes_back(1).is_ok(), "two rounds opened without it");
    assert!([0, 2, 3].into_iter().all(|i| log.member(i).faults == 0));
}

/// Commits in time and serves, and says nothing of what it holds.
fn mute_round(log: &mut Log, n: usize, mute: usize) {
    for i in (0..n).filter(|i| log.part(*i) > 0).collect::<Vec<_>>() {
        let commit = log.unit(i);
        assert_eq!(log.say(i, WorkTx::Commit { commit }), Ok(()));
    }
    let open = log.run().open.front().expect("it exchanges");
    let (committee, until) = (open.committee.clone(), open.until.0);
    let attests = (0..n).filter(|i| *i != mute && committee.contains(&log.id(*i))).map(|i| log.attest(i, |_| true));
    let attests = attests.collect();
    assert_eq!(log.block(attests), []);
    // Where a quorum said that it has everything nobody waits.
    if log.run().open.front().is_some_and(|open| !open.is_training()) {
        log.now = until;
        log.block(Vec::new());
    }
}

#[test]
fn who_attests_to_nothing_is_waited_for_no_longer_than_who_commits_to_nothing() {
    // Of three all have to speak: one that is silent makes every round void.
    let mut log = Log::new(spec(), 3);
    for faults in [1, 2] {
        mute_round(&mut log, 3, 2);
        assert!(log.run().closed.back().is_some_and(|closed| closed.void));
        assert_eq!((0..3).map(|i| log.member(i).faults).collect::<Vec<_>>(), [0, 0, faults]);
    }
    assert_eq!(log.member(2).status, Standing::Away, "it sits out");
    mute_round(&mut log, 3, 2);
    assert!(log.run().closed.back().is_some_and(|closed| !closed.void), "the others go on");
    // A window that was short until now is nobody's fault, but the next one is longer, until it is.
    let mut log = Log::new(spec(), 3);
    (0..8).for_each(|_| log.round(in_time, all));
    let window = |log: &Log| log.run().closed.back().map_or(0, |closed| closed.took_ms);
    let mut voids = 0;
    while log.member(2).faults == 0 {
        mute_round(&mut log, 3, 2);
        voids += 1;
        assert!(voids < 10, "it is silent for ever: {} ms", window(&log));
    }
    assert!(voids > 1, "the first window was short");
    // Of six a quorum has spoken without it: the round closed, and nobody waited.
    let mut log = Log::new(spec(), 6);
    mute_round(&mut log, 6, 2);
    assert!(log.run().closed.back().is_some_and(|closed| !closed.void));
    assert!((0..6).all(|i| log.member(i).faults == 0));
}

#[test]
fn who_rests_instead_of_attesting_is_at_fault_when_all_others_have_spoken() {
    for (spoke, faults) in [(0, 0), (1, 0), (2, 1)] {
        let mut log = Log::new(spec(), 3);
        for i in 0..3 {
            let commit = log.unit(i);
            assert_eq!(log.say(i, WorkTx::Commit { commit }), Ok(()));
        }
        let attests = (0..spoke).map(|i| log.attest(i, |_| true)).collect();
        assert_eq!(log.block(attests), []);
        let run = log.run;
        assert_eq!(log.say(2, WorkTx::Rest { run }), Ok(()));
        assert_eq!(log.member(2).faults, faults, "{spoke} have spoken");
    }
}

#[test]
fn an_update_that_moves_nothing_is_no_work() {
    let mut log = Log::new(spec(), 3);
    for norm in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY] {
        let commit = Commit { norm_sq_bits: f64::to_bits(norm), ..log.unit(1) };
        assert_eq!(log.say(1, WorkTx::Commit { commit }), Err(Reject::WrongWork), "{norm}");
    }
    let commit = log.unit(1);
    assert_eq!(log.say(1, WorkTx::Commit { commit }), Ok(()));
}

#[test]
fn a_round_without_a_quorum_is_nobodys_fault() {
    let mut log = Log::new(spec(), 4);
    for i in 0..4 {
        let commit = log.unit(i);
        assert_eq!(log.say(i, WorkTx::Commit { commit }), Ok(()));
    }
    log.now = log.run().open.front().expect("it exchanges").until.0;
    log.block(Vec::new());
    assert!(log.run().closed.back().is_some_and(|closed| closed.void));
    assert!((0..4).all(|i| log.member(i).faults == 0 && log.member(i).status == Standing::Active));
}

#[test]
fn who_sits_out_after_one_round_is_not_waited_for_in_the_next() {
    let mut log = Log::new(Spec { delay: 1, init: Init::Root(Hash([7; 32])), ..spec() }, 4);
    let (run, id) = (log.run, log.id(1));
    let member = log.state.runs.get_mut(&run).and_then(|run| run.members.get_mut(&id));
    member.expect("it joined").faults = 1;
    for i in [0, 1, 2, 3, 0, 2, 3] {
        let commit = log.unit(i);
        assert_eq!(log.say(i, WorkTx::Commit { commit }), Ok(()));
    }
    assert_eq!(log.open().round.0, 1, "all but one are done with the round that runs ahead");
    let attests = (0..4).map(|i| log.attest(i, |candidate| candidate.member != id)).collect();
    assert_eq!(log.block(attests), []);
    assert_eq!((log.member(1).status, log.open().round.0), (Standing::Away, 2));
}

#[test]
fn a_false_claim_costs_its_maker_rounds_and_one_is_open_at_a_time() {
    let mut log = Log::new(spec(), 4);
    log.round(in_time, all);
    log.round(in_time, all);
    let (run, lie) = (log.run, Hash([9; 32]));
    let claim = |log: &Log, version| {
        let claim = Claim { run, version, root: log.root(version), own: lie, chunk: 0, hash: lie };
        WorkTx::Dispute { claim }
    };
    let first = claim(&log, 0);
    assert_eq!(log.say(3, first), Ok(()));
    let second = claim(&log, 1);
    assert_eq!(log.say(3, second), Err(Reject::TooMany), "others answer one at a time");
    for i in 0..3 {
        let verdict = DisputeVerdict { run, by: log.id(3), version: 0, root: log.root(0), hash: Hash([8; 32]) };
        assert_eq!(log.say(i, WorkTx::Verdict { verdict }), Ok(()));
    }
    assert_eq!((log.member(3).status, log.member(3).faults), (Standing::Away, 2));
    assert_eq!(log.comes_back(3), Err(Reject::Early));
    log.round(without(3), all);
    assert_eq!(log.comes_back(3), Err(Reject::Early));
    log.round(in_time, all);
    assert_eq!(log.comes_back(3), Ok(()));
}

#[test]
fn a_unit_of_another_class_or_larger_than_its_format_is_refused() {
    let mut log = Log::new(spec(), 4);
    let (good, most) = (log.unit(0), log.run().spec.update_bytes_max());
    for bad in [
        Commit { class: Hash([1; 32]), ..good.clone() },
        Commit { size: most + 1, ..good.clone() },
        Commit { size: 0, ..good.clone() },
        Commit { tokens: good.tokens + 1, ..good.clone() },
        Commit { steps: 0, tokens: 0, ..good.clone() },
    ] {
        assert_eq!(log.say(0, WorkTx::Commit { commit: bad }), Err(Reject::WrongWork));
    }
    assert_eq!(log.say(0, WorkTx::Commit { commit: Commit { size: most, ..good } }), Ok(()));
}

#[test]
fn a_refused_word_of_a_key_that_nobody_knows_leaves_nothing() {
    let mut log = Log::new(spec(), 1);
    let before = log.state.clone();
    log.keys.push(Keypair::from_secret([99; 32]));
    let run = log.run;
    assert_eq!(log.say(1, WorkTx::Leave { run }), Err(Reject::NotMember));
    assert_eq!((&log.state.seqs, &log.state.runs), (&before.seqs, &before.runs));
    // Of who was taken once, a number is used up by a refusal too.
    assert_eq!(log.say(0, WorkTx::Join { run, class: Hash::default() }), Err(Reject::Duplicate));
    assert_eq!(log.state.seqs[&log.id(0)], log.seq);
}

#[test]
fn members_that_take_turns_at_leaving_bring_no_counter_to_its_end() {
    let large = Spec { inner_steps: 16, micro_batches: 1 << 20, seq_len: 1 << 20, ..spec() };
    for cursor in [u64::MAX, u64::MAX - 5, (1 << 62) - 1] {
        let mut log = Log::new(large.clone(), 2);
        let run = log.run;
        log.state.runs.get_mut(&run).expect("it was made").cursor = cursor;
        assert_eq!(log.say(0, WorkTx::Rest { run }), Ok(()));
        for turn in 0..8 {
            let ready = log.ready(log.run().version());
            assert_eq!(log.block(vec![(turn % 2, ready), ((turn + 1) % 2, WorkTx::Rest { run })]), []);
        }
        assert!(log.run().next.0 >= 8 && log.run().cursor <= 1 << 62);
        assert!(log.open().plan[0].position < 1 << 32, "the order began anew");
    }
}

#[test]
fn a_round_in_which_nothing_was_done_leaves_the_root_as_it_was() {
    let mut log = Log::new(spec(), 1);
    log.round(in_time, all);
    let made = log.root(1);
    log.round(|_| None, all);
    let run = log.run();
    assert_eq!((run.version(), run.roots.get(&1), run.roots.get(&2)), (2, Some(&made), Some(&made)));
}

/// What a node asks for that follows the run and has its weights.
fn asks(log: &Log, i: usize, class: Hash) -> (Peer, Vec<Output>) {
    let (mut peer, mut out) = (Peer::new(log.id(i), log.state.clone()), Outbox::default());
    let version = log.run().version();
    let weights = Some((version, log.root(version)));
    peer.step(Millis(log.now), Input::Follow { run: log.run, class, memory: None, weights }, &mut out);
    let outputs = out.drain().collect();
    (peer, outputs)
}

#[test]
fn a_node_that_sits_out_says_so_and_does_not_ask_to_take_part() {
    let mut log = Log::new(spec(), 4);
    log.round(in_time, |i| i != 1);
    log.round(in_time, |i| i != 1);
    let asks_back = |outputs: &[Output]| outputs.iter().any(|out| matches!(out, Output::Submit(WorkTx::Ready { .. })));
    let (peer, outputs) = asks(&log, 1, Hash::default());
    assert_eq!((peer.waiting(&log.run), asks_back(&outputs)), (Waiting::Aside, false));
    log.round(in_time, all);
    let (peer, outputs) = asks(&log, 1, Hash::default());
    assert_eq!((peer.waiting(&log.run), asks_back(&outputs)), (Waiting::Place, true));
}

#[test]
fn a_node_of_another_class_than_it_joined_with_joins_anew() {
    let mut log = Log::new(spec(), 2);
    let (run, class) = (log.run, Hash([1; 32]));
    assert!(asks(&log, 0, class).1.contains(&Output::Submit(WorkTx::Leave { run })));
    assert!(!asks(&log, 0, Hash::default()).1.contains(&Output::Submit(WorkTx::Leave { run })));
    assert_eq!(log.say(0, WorkTx::Leave { run }), Ok(()));
    assert!(asks(&log, 0, class).1.contains(&Output::Submit(WorkTx::Join { run, class })));
}
