//! What a simulated network is and what befalls it, all of it drawn from one seed or set by hand.

use crate::faults::{Crash, CrashAfter, Faults, Lag, Partition, Rest, Stall};
use crate::tiny::{self, SEQ_LEN};
use base::{Hash, Millis, Rng};
use swarm::{Access, Init, Mode, Spec};

/// A network, its run and its misfortunes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// The chain for which its transactions are signed.
    pub chain: Hash,
    /// Of everything that is drawn while it runs.
    pub seed: u64,
    /// The machines, in the order of their identities; the first one makes the run.
    pub members: Vec<Part>,
    /// Rounds that must close before it ends.
    pub rounds: u64,
    /// Tokens of the run, in whole rounds.
    pub tokens_rounds: u64,
    /// Gradients or local.
    pub mode: Mode,
    /// Rounds by which communication may lag. With 1 the run starts from published weights, so that it lags at once.
    pub delay: u8,
    /// Most contributors in a round.
    pub slots: u16,
    /// Micro-batches of all members together in one inner step.
    pub micro_batches: u32,
    /// H.
    pub inner_steps: u32,
    /// What members compute.
    pub work: Work,
    /// Parameters where work is grains: bounds the size of an update.
    pub params: u64,
    /// Stop-loss of a unit.
    pub train_window_ms: u64,
    /// Shortest and longest exchange.
    pub exchange_ms: (u64, u64),
    /// Shortest and longest way of a message, one way.
    pub delay_ms: (u64, u64),
    /// How long computing takes.
    pub costs: Costs,
    /// What goes wrong.
    pub faults: Faults,
    /// From when on no message is lost and everybody is up; lags and liars stay.
    pub calm_ms: u64,
    /// Utilisation is measured after so many closed rounds.
    pub warm_rounds: u64,
    /// Whether nodes share one copy of the replicated state instead of applying each block themselves: for
    /// many nodes and no crashes.
    pub shared_state: bool,
}

/// What the members of a simulated network compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing: an update is a set of grains, which shows error feedback that is lost or doubled.
    Grains,
    /// A model of 1,904 parameters: units are trained, encoded, checked and applied as nodes do it.
    Tensors {
        /// One of 2^sparsity values is sent.
        sparsity: u8,
        /// Bits per value sent.
        bits: u8,
    },
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Micro-batches in 1,000 s.
    pub speed_milli: u64,
    /// When it is switched on.
    pub start_ms: u64,
    /// When its owner wants to leave.
    pub quit_ms: Option<u64>,
    /// Its clock.
    pub clock: Clock,
    /// In which way it lies.
    pub liar: Option<Liar>,
    /// Weights are written to disk every so many versions.
    pub snapshot_every: u64,
}

/// A clock that runs at its own rate from its own zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// What it shows at the beginning.
    pub offset_ms: u64,
    /// How far it goes while 1,000 ms pass.
    pub rate_permille: u64,
}

impl Clock {
    /// What it shows at virtual time `at_ms`.
    pub fn local(&self, at_ms: u64) -> Millis {
        Millis(self.offset_ms + at_ms * self.rate_permille / 1000)
    }

    /// The first virtual time at which it shows `local`.
    pub fn global(&self, local: Millis) -> u64 {
        let mut at_ms = local.since(Millis(self.offset_ms)) * 1000 / self.rate_permille;
        while self.local(at_ms) < local {
            at_ms += 1;
        }
        at_ms
    }
}

/// Ways to lie. All of them take part honestly while honest members are not more than two thirds, and those that
/// lie about what they learned ([`Empty`](Self::Empty) to [`BadDonor`](Self::BadDonor)) while nobody learns anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liar {
    /// Commits to updates whose bytes never come.
    Silent,
    /// Serves wrong bytes for every update.
    WrongBytes,
    /// Commits with a root that is not that of the agreed weights.
    WrongRoot,
    /// Attests to hold everything at once, having nothing.
    BlindAttest,
    /// Sends forged, stale, replayed and misplaced transactions.
    Forger,
    /// Commits to the update that another member committed to.
    Copier,
    /// Computes nothing and commits at once: by the log's clock the fastest of all.
    Instant,
    /// Is ready for each round and commits to nothing.
    Stalling,
    /// Reports another root than that of the weights, the same as all of its kind.
    FalseRoot,
    /// Attests to hold its own update alone, and does so however few the honest members are.
    Stingy,
    /// Commits and serves, and never attests.
    Mute,
    /// Learned nothing, and sends as good as nothing: one tiny value, another one each round.
    Empty,
    /// Sends values of random sign, together as long as what it learned.
    Noise,
    /// Sends what it learned with one value, or the gains of all norms, of a million.
    Huge,
    /// Sends the opposite of what it learned, eight times as long.
    Opposite,
    /// Sends what another sent the round before, with one bit changed.
    Stale,
    /// Commits to a private state whose moments are not numbers: a newcomer may be told to go on from it.
    BadDonor,
    /// No liar: its machine computes some versions wrongly, always the same.
    Broken,
    /// No liar: its machine computes some versions wrongly, rightly the second time.
    Flipped,
}

/// Times of computing, and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// Compressing an update.
    pub encode_ms: u64,
    /// Checking one that was fetched.
    pub verify_ms: u64,
    /// Applying a set and hashing the weights.
    pub apply_ms: u64,
    /// Fetching weights.
    pub sync_ms: u64,
    /// Bytes of an update.
    pub update_bytes: u64,
    /// Each member's link, up and down alike; 0 = without limit.
    pub bits_per_s: u64,
    /// Whether checking and applying take their time from a unit that is under way: there is one processor.
    pub one_processor: bool,
}

/// What a unit of grains is worth follows from it, nothing else.
const CONFIG: &str =
    r#"{"hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":2,"vocab_size":256}"#;
/// One micro-batch of every inner step takes the slowest member so long in a calm network.
const UNIT_MS: u64 = 1_000;

/// Whose units failed in the faults sits out as many rounds again as they lasted: less than so many of the longest.
const PAUSE: u64 = 8;

/// Those among whom a schedule of grains draws.
const LIARS: [Liar; 12] = [
    Liar::Silent,
    Liar::WrongBytes,
    Liar::WrongRoot,
    Liar::BlindAttest,
    Liar::Forger,
    Liar::Copier,
    Liar::Instant,
    Liar::Stalling,
    Liar::FalseRoot,
    Liar::Mute,
    Liar::Broken,
    Liar::Flipped,
];
/// Those among whom a schedule of members that really train draws.
const LEARNING_LIARS: [Liar; 10] = [
    Liar::Empty,
    Liar::Noise,
    Liar::Huge,
    Liar::Opposite,
    Liar::Stale,
    Liar::BadDonor,
    Liar::Instant,
    Liar::Stalling,
    Liar::Silent,
    Liar::WrongBytes,
];

impl Part {
    /// An honest machine with a right clock.
    pub fn honest(speed_milli: u64) -> Self {
        let clock = Clock { offset_ms: 0, rate_permille: 1000 };
        Self { speed_milli, start_ms: 0, quit_ms: None, clock, liar: None, snapshot_every: 1 }
    }
}

impl Scenario {
    /// `n` equal machines and nothing that goes wrong.
    pub fn calm(seed: u64, n: usize) -> Self {
        let inner_steps = 2;
        let (update_bytes, bits_per_s, one_processor) = (1000, 0, false);
        let costs =
            Costs { encode_ms: 10, verify_ms: 1, apply_ms: 20, sync_ms: 300, update_bytes, bits_per_s, one_processor };
        Self {
            seed,
            members: vec![Part::honest(speed_milli(inner_steps, UNIT_MS)); n],
            rounds: 6,
            tokens_rounds: 1 << 20,
            mode: Mode::Local,
            delay: 0,
            slots: 32,
            micro_batches: 2 * n as u32,
            inner_steps,
            work: Work::Grains,
            params: 1 << 20,
            train_window_ms: 16_000,
            exchange_ms: (1_000, 8_000),
            delay_ms: (5, 60),
            costs,
            faults: Faults::default(),
            calm_ms: 0,
            warm_rounds: 0,
            chain: Hash::default(),
            shared_state: false,
        }
    }

    /// `n` equal machines that really train, in 8 bits a gradient or 2 bits a weight difference, and nothing that goes
    /// wrong. In its rounds they learn most of what there is to learn.
    pub fn learning(seed: u64, n: usize, mode: Mode) -> Self {
        let (inner_steps, bits) = if mode == Mode::Gradients { (1, 8) } else { (4, 2) };
        let members = vec![Part::honest(speed_milli(inner_steps.max(2), UNIT_MS)); n];
        let work = Work::Tensors { sparsity: 0, bits };
        Self { members, rounds: 40, mode, inner_steps, work, ..Self::calm(seed, n) }
    }

    /// Everything drawn from `seed`: 5 to 8 machines that really train. Less than a third of them lie, honest ones
    /// crash, messages are lost.
    pub fn random_learning(seed: u64) -> Self {
        let mut rng = Rng::keyed(seed, 3);
        let n = 5 + rng.below(4) as usize;
        let mode = if rng.chance(1, 2) { Mode::Gradients } else { Mode::Local };
        let mut scenario = Self { rounds: 24, ..Self::learning(seed, n, mode) };
        if mode == Mode::Local {
            scenario.work = Work::Tensors { sparsity: 2 * rng.below(2) as u8, bits: 2 };
            scenario.delay = rng.below(2) as u8;
        }
        scenario.calm_ms = 20_000 + rng.below(20_000);
        for part in &mut scenario.members {
            part.start_ms = if rng.chance(1, 3) { rng.below(15_000) } else { 0 };
            part.snapshot_every = 1 + rng.below(4);
        }
        let liars = 1 + rng.below((n as u64 - 1) / 3) as usize;
        scenario.draw_liars(&mut rng, liars, &LEARNING_LIARS);
        let honest: Vec<usize> = (0..n).filter(|i| scenario.members[*i].liar.is_none()).collect();
        for _ in 0..1 + rng.below(3) {
            let node = honest[rng.below(honest.len() as u64) as usize];
            let at_ms = 5_000 + rng.below(scenario.calm_ms - 8_000);
            let (down_ms, whole_log) = (500 + rng.below(4_000), rng.chance(1, 2));
            scenario.faults.crashes.push(Crash { node, at_ms, down_ms, wipe: false, whole_log });
        }
        scenario.draw_losses(&mut rng, false);
        scenario
    }

    /// Everything drawn from `seed`: 2 to 8 machines, 6 to 15 rounds.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::keyed(seed, 1);
        let n = 2 + rng.below(7) as usize;
        let mut scenario = Self::calm(seed, n);
        scenario.rounds = 6 + rng.below(10);
        // One run in four is so short that its end falls into the faults.
        scenario.tokens_rounds = if rng.chance(1, 4) { scenario.rounds } else { 1 << 20 };
        if rng.chance(1, 3) {
            (scenario.mode, scenario.inner_steps) = (Mode::Gradients, 1);
        } else {
            (scenario.inner_steps, scenario.delay) = (2 + rng.below(4) as u32, rng.below(2) as u8);
        }
        scenario.micro_batches = n as u32 * (1 + rng.below(3) as u32);
        if rng.chance(1, 4) {
            scenario.slots = 1 + rng.below(n as u64) as u16;
        }
        scenario.calm_ms = 12_000 + rng.below(16_000);
        scenario.costs.sync_ms = 200 + rng.below(1_500);
        scenario.costs.apply_ms = 5 + rng.below(200);
        scenario.draw_members(&mut rng);
        let liars = if n >= 4 && rng.chance(1, 4) { 1 + rng.below((n as u64 - 1) / 3) } else { 0 };
        scenario.draw_liars(&mut rng, liars as usize, &LIARS);
        if rng.chance(9, 10) {
            scenario.draw_losses(&mut rng, liars == 0);
        }
        if liars == 0 && rng.chance(4, 5) {
            scenario.draw_outages(&mut rng);
        }
        scenario
    }

    fn draw_members(&mut self, rng: &mut Rng) {
        let unit_ms = 1_000 + rng.below(1_500);
        let even = rng.chance(1, 3);
        for part in &mut self.members {
            let ratio = if even { 1 } else { [1, 4, 16][rng.below(3) as usize] };
            part.speed_milli = speed_milli(self.inner_steps, unit_ms) * ratio;
            part.start_ms = if rng.chance(1, 3) { rng.below(self.calm_ms / 2) } else { rng.below(500) };
            part.clock = Clock { offset_ms: rng.below(1 << 40), rate_permille: 950 + rng.below(101) };
            part.snapshot_every = 1 + rng.below(4);
        }
        let n = self.members.len();
        if n >= 4 && rng.chance(1, 4) {
            let who = rng.below(n as u64) as usize;
            self.members[who].quit_ms = Some(3_000 + rng.below(self.calm_ms - 3_000));
        }
    }

    fn draw_liars(&mut self, rng: &mut Rng, liars: usize, kinds: &[Liar]) {
        let n = self.members.len();
        let first = rng.below(n as u64) as usize;
        for i in (first..first + liars).map(|i| i % n) {
            let part = &mut self.members[i];
            part.liar = Some(kinds[rng.below(kinds.len() as u64) as usize]);
            part.quit_ms = None;
        }
        if liars > 0 {
            // Who leaves takes the honest two thirds with it.
            self.members.iter_mut().for_each(|part| part.quit_ms = None);
        }
    }

    fn draw_losses(&mut self, rng: &mut Rng, much: bool) {
        let worst = if much { 150 } else { 30 };
        self.faults.loss_permille = rng.below(worst);
        self.faults.duplicate_permille = rng.below(worst);
        self.faults.slow_permille = rng.below(worst);
        self.faults.slow_ms = rng.below(4_000);
    }

    fn draw_outages(&mut self, rng: &mut Rng) {
        let (n, calm) = (self.members.len() as u64, self.calm_ms);
        let span = |rng: &mut Rng, longest: u64| {
            let from = 500 + rng.below(calm - 2_000);
            (from, (from + 200 + rng.below(longest)).min(calm))
        };
        for _ in 0..rng.below(4) {
            let (at_ms, to) = span(rng, 8_000);
            let (node, wipe, whole_log) = (rng.below(n) as usize, rng.chance(1, 6), rng.chance(1, 2));
            self.faults.crashes.push(Crash { node, at_ms, down_ms: to - at_ms, wipe, whole_log });
        }
        if rng.chance(1, 3) {
            let (node, output) = (rng.below(n) as usize, 1 + rng.below(40));
            let (down_ms, whole_log) = (100 + rng.below(5_000), rng.chance(1, 2));
            self.faults.crash_after = Some(CrashAfter { node, output, down_ms, whole_log });
        }
        for _ in 0..rng.below(3) {
            let ((from_ms, to_ms), node) = (span(rng, 8_000), rng.below(n) as usize);
            self.faults.rests.push(Rest { node, from_ms, to_ms });
        }
        for _ in 0..rng.below(3) {
            let (from_ms, to_ms) = span(rng, 10_000);
            let side: Vec<usize> = (0..n as usize).filter(|_| rng.chance(1, 2)).collect();
            self.faults.partitions.push(Partition { from_ms, to_ms, side });
        }
        if rng.chance(1, 4) {
            let (from_ms, to_ms) = span(rng, 20_000);
            self.faults.stalls.push(Stall { from_ms, to_ms });
        }
        if rng.chance(1, 4) {
            let (from_ms, to_ms) = span(rng, 6_000);
            self.faults.lags.push(Lag { from_ms, to_ms, extra_ms: rng.below(800) });
        }
    }

    /// Rounds until everybody had a turn.
    pub(crate) fn turns(&self) -> u64 {
        let places = usize::from(self.slots).min(self.micro_batches as usize).max(1);
        self.members.len().div_ceil(places) as u64
    }

    /// Whether any member alone can do an inner step of everybody's work in the window.
    pub(crate) fn anyone_suffices(&self) -> bool {
        let step_ms = |part: &Part| u64::from(self.micro_batches) * 1_000_000 / part.speed_milli;
        self.members.iter().all(|part| step_ms(part) < self.train_window_ms / 2)
    }

    /// The longest that a round can take.
    pub(crate) fn round_ms(&self) -> u64 {
        self.train_window_ms + self.exchange_ms.1
    }

    /// By when, after the calm, everybody must have taken part again: one round to end, one to come
    /// back in, one of grace, a turn for each, those that it sits out, and the retries of what was said in vain.
    pub(crate) fn recovery_ms(&self) -> u64 {
        (self.turns() + 3 + PAUSE) * self.round_ms() + 15_000
    }

    /// The root of version 0.
    pub(crate) fn first_root(&self) -> Hash {
        match self.work {
            Work::Grains => Hash::of("sim weights", b"version 0"),
            Work::Tensors { .. } => tiny::first_weights(self.seed, self.mode).tree().root(),
        }
    }

    /// The run.
    pub(crate) fn spec(&self) -> Spec {
        let gradients = self.mode == Mode::Gradients;
        let (config, params, micro_batch, lr_nano) = match self.work {
            Work::Grains => (CONFIG.into(), self.params, 1u32, 1_000_000),
            Work::Tensors { .. } => (tiny::config_json(), tiny::params(), 4, 10_000_000),
        };
        let (sparsity, bits) = match self.work {
            Work::Grains if gradients => (0, 8),
            Work::Grains => (6, 1),
            Work::Tensors { sparsity, bits } => (sparsity, bits),
        };
        let per_step = u64::from(self.micro_batches) * u64::from(micro_batch) * u64::from(SEQ_LEN);
        let per_round = per_step * u64::from(self.inner_steps);
        Spec {
            name: "sim".into(),
            seed: self.seed,
            access: Access::Open,
            config,
            params,
            init: if self.delay == 0 { Init::Seed } else { Init::Root(self.first_root()) },
            manifest: Hash::default(),
            seq_len: SEQ_LEN,
            micro_batch,
            micro_batches: self.micro_batches,
            inner_steps: self.inner_steps,
            tokens: self.tokens_rounds * per_round,
            lr_nano,
            schedule: "constant".into(),
            warmup_tokens: 0,
            weight_decay_micro: 0,
            clip_milli: 1000,
            mode: self.mode,
            sparsity,
            bits,
            alpha_milli: 1000,
            beta_milli: if gradients { 1000 } else { 950 },
            delay: self.delay,
            slots: self.slots,
            train_window_ms: self.train_window_ms,
            exchange_ms: self.exchange_ms,
            checkpoint_rounds: 20,
            checkpoints_kept: 0,
            eval_tokens: 0,
        }
    }
}

/// Speed of a machine that needs `unit_ms` for one micro-batch of each of `inner_steps`.
fn speed_milli(inner_steps: u32, unit_ms: u64) -> u64 {
    (u64::from(inner_steps) * 1_000_000 / unit_ms).max(1)
}
