//! What a simulated network is and what befalls it, all of it drawn from one seed or set by hand.

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
    /// Parameters: bounds the size of an update.
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

/// Ways to lie. All of them take part honestly while honest members are not more than two thirds.
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
    /// Reports another root than that of the weights, the same as all of its kind.
    FalseRoot,
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
}

/// What goes wrong before the calm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Messages lost; a lost block cuts its stream.
    pub loss_permille: u64,
    /// Submissions that arrive twice.
    pub duplicate_permille: u64,
    /// Fetches that take `slow_ms` longer.
    pub slow_permille: u64,
    /// How much longer.
    pub slow_ms: u64,
    /// Crashes at a time.
    pub crashes: Vec<Crash>,
    /// Owners need their machines.
    pub rests: Vec<Rest>,
    /// A crash at a point of the protocol.
    pub crash_after: Option<CrashAfter>,
    /// Groups that are cut off.
    pub partitions: Vec<Partition>,
    /// Times in which the log does nothing.
    pub stalls: Vec<Stall>,
    /// Times in which every message takes longer. The calm does not end them.
    pub lags: Vec<Lag>,
}

impl Faults {
    /// Whether nothing goes wrong at all.
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// The owner of a machine needs it, from when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// Whose.
    pub node: usize,
    /// From when.
    pub from_ms: u64,
    /// To when.
    pub to_ms: u64,
}

/// A process dies and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Whose.
    pub node: usize,
    /// When.
    pub at_ms: u64,
    /// For how long; never past the calm.
    pub down_ms: u64,
    /// Whether its disk is lost too (not where it alone holds the newest weights: then the run is lost).
    pub wipe: bool,
    /// Whether it reads the whole log before it goes on, or only the blocks that it had seen.
    pub whole_log: bool,
}

/// A process dies right after it carried out its n-th output (wakes and events are not counted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashAfter {
    /// Whose.
    pub node: usize,
    /// After which output, from 1.
    pub output: u64,
    /// For how long.
    pub down_ms: u64,
    /// As in [`Crash`].
    pub whole_log: bool,
}

/// Some machines reach only each other. The log is on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// Who.
    pub side: Vec<usize>,
}

/// The log takes and makes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
}

/// Every message takes longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// By how much.
    pub extra_ms: u64,
}

/// What a unit is worth follows from it, nothing else.
const CONFIG: &str =
    r#"{"hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":2,"vocab_size":256}"#;
/// T of the virtual run.
const SEQ_LEN: u32 = 16;
/// One micro-batch of every inner step takes the slowest member so long in a calm network.
const UNIT_MS: u64 = 1_000;

/// The root of version 0.
pub(crate) fn initial_root() -> Hash {
    Hash::of("sim weights", b"version 0")
}

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
        let costs =
            Costs { encode_ms: 10, verify_ms: 1, apply_ms: 20, sync_ms: 300, update_bytes: 1000, bits_per_s: 0 };
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
        scenario.draw_liars(&mut rng, liars as usize);
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

    fn draw_liars(&mut self, rng: &mut Rng, liars: usize) {
        let kinds = [
            Liar::Silent,
            Liar::WrongBytes,
            Liar::WrongRoot,
            Liar::BlindAttest,
            Liar::Forger,
            Liar::FalseRoot,
            Liar::Broken,
            Liar::Flipped,
        ];
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
    /// back in, one of grace, a turn for each, and the retries of what was said in vain.
    pub(crate) fn recovery_ms(&self) -> u64 {
        (self.turns() + 3) * self.round_ms() + 15_000
    }

    /// The run.
    pub(crate) fn spec(&self) -> Spec {
        let per_round = u64::from(self.micro_batches) * u64::from(self.inner_steps) * u64::from(SEQ_LEN);
        Spec {
            name: "sim".into(),
            seed: self.seed,
            access: Access::Open,
            config: CONFIG.into(),
            params: self.params,
            init: if self.delay == 0 { Init::Seed } else { Init::Root(initial_root()) },
            manifest: Hash::default(),
            seq_len: SEQ_LEN,
            micro_batch: 1,
            micro_batches: self.micro_batches,
            inner_steps: self.inner_steps,
            tokens: self.tokens_rounds * per_round,
            lr_nano: 1_000_000,
            schedule: "constant".into(),
            warmup_tokens: 0,
            weight_decay_micro: 0,
            clip_milli: 1000,
            mode: self.mode,
            sparsity: if self.mode == Mode::Gradients { 0 } else { 6 },
            bits: if self.mode == Mode::Gradients { 8 } else { 1 },
            alpha_milli: 1000,
            beta_milli: if self.mode == Mode::Gradients { 1000 } else { 950 },
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
