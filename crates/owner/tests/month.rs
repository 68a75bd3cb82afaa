//! A month in the life of a machine: owners come and go, programs run, batteries are unplugged. What must always hold
//! is looked at after every step, from the outside.

use base::{Hash, Machine, Millis, Outbox, Rng};
use owner::{DAY_MS, HOLD_MS, Idle, LocalTime, Minutes, OwnerInput, OwnerOrder, Sample, Settings, WhenActive, Why};
use std::collections::BTreeMap;

const MINUTE_MS: u64 = 60_000;
const START: Millis = Millis(20_100 * DAY_MS + 7 * 3_600_000);

/// What is true of the machine, whoever looks.
struct World {
    rng: Rng,
    now: Millis,
    /// The owner sits at it until then, or is away until then.
    present: bool,
    turn: Millis,
    touched: Millis,
    load: u64,
    load_turn: Millis,
    heat: i32,
    /// Battery, metered link, a game, little memory, little disk: until when.
    troubles: [Millis; 5],
    /// Which of the samples this machine can take at all.
    knows: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::keyed(42, seed);
        let knows = if seed % 4 == 3 { rng.next_u64() } else { u64::MAX };
        Self {
            rng,
            now: START,
            present: true,
            turn: START,
            touched: START,
            load: 0,
            load_turn: START,
            heat: 50,
            troubles: [START; 5],
            knows,
        }
    }

    fn go_on(&mut self, working: bool) {
        let rng = &mut self.rng;
        self.now = self.now.plus(500 + rng.below(4_500));
        if self.now >= self.turn {
            self.present = !self.present;
            let longest = if self.present { 90 } else { 240 } * MINUTE_MS;
            self.turn = self.now.plus(rng.below(longest));
            if self.present {
                self.touched = self.now;
            }
        }
        // Somebody who reads touches nothing for minutes.
        if self.present && rng.chance(1, 12) {
            self.touched = self.now;
        }
        if self.now >= self.load_turn {
            self.load = if rng.chance(1, 3) { rng.below(1000) } else { rng.below(120) };
            self.load_turn = self.now.plus(rng.below(20 * MINUTE_MS));
        }
        let goal = if working { 60 + (self.load / 30) as i32 } else { 45 };
        self.heat += (goal - self.heat).signum() + rng.below(3) as i32 - 1;
        for until in &mut self.troubles {
            if rng.chance(1, 6_000) {
                *until = self.now.plus(rng.below(120 * MINUTE_MS));
            }
        }
    }

    fn sample(&mut self) -> Sample {
        let spike = if self.rng.chance(1, 40) { 500 } else { self.rng.below(40) };
        let trouble = self.troubles.map(|until| self.now < until);
        let knows = self.knows;
        let known = |bit: u64| knows >> bit & 1 == 1;
        let free = |bit: u64, low: bool| known(bit).then_some(if low { 500 } else { 6_000 });
        Sample {
            input_idle_ms: known(0).then_some(self.now.since(self.touched)),
            other_load_permille: known(1).then_some((self.load + spike).min(1000) as u32),
            on_battery: known(2).then_some(trouble[0]),
            temperature_c: known(3).then_some(self.heat),
            metered: known(4).then_some(trouble[1]),
            memory_free_mb: free(5, trouble[3]),
            memory_over_mb: None,
            disk_free_mb: free(6, trouble[4]),
            gpu_in_use: known(7).then_some(trouble[2]),
            local: LocalTime::at(self.now, 120),
        }
    }

    /// Now and then the owner says something.
    fn word(&mut self) -> Option<OwnerInput> {
        let until = self.rng.chance(1, 2).then(|| self.now.plus(self.rng.below(90 * MINUTE_MS)));
        match self.rng.below(20_000) {
            0 => Some(OwnerInput::Pause { until }),
            1 => Some(OwnerInput::Finish),
            2..=9 => Some(OwnerInput::Resume),
            _ => None,
        }
    }
}

fn settings(seed: u64) -> Settings {
    let mut settings = Settings::default();
    if seed % 2 == 1 {
        settings.when_active = WhenActive::Background { share_permille: 250 };
    }
    if seed % 3 == 1 {
        settings.quiet_hours = "mon-fri 09:00-12:30, daily 22:00-06:00".parse().expect("a schedule");
    }
    settings.idle_after_ms = [3, 1, 10][(seed / 3 % 3) as usize] * MINUTE_MS;
    settings
}

/// Looks at everything that comes out.
struct Watch {
    seed: u64,
    settings: Settings,
    working: Option<OwnerOrder>,
    why: Why,
    paused: bool,
    /// The last pause that neither the owner nor the calendar caused.
    own_pause: Option<Millis>,
    /// Since when nothing has been in the way.
    clear: Option<Millis>,
    starts: u64,
    trace: Vec<u8>,
}

impl Watch {
    fn step(&mut self, idle: &mut Idle, minutes: &mut Minutes, now: Millis, input: OwnerInput) {
        let (seed, mut out) = (self.seed, Outbox::default());
        match input {
            OwnerInput::Pause { .. } => self.paused = true,
            OwnerInput::Resume => (self.paused, self.own_pause) = (false, None),
            OwnerInput::Sample(_) if idle.why().until().is_some_and(|until| until <= now) => self.paused = false,
            _ => {}
        }
        self.clear = if self.clear(&input) { self.clear.or(Some(now)) } else { None };
        idle.step(now, input, &mut out);
        for output in out.drain() {
            self.trace.extend(format!("{now} {output:?}\n").bytes());
            match output {
                OwnerOrder::Start { .. } | OwnerOrder::Background { .. } => self.start(now, &input, output),
                OwnerOrder::Pause(why) => {
                    assert!(self.working.take().is_some(), "seed {seed} at {now}: paused twice");
                    self.pause(now, why);
                }
                OwnerOrder::Changed(why) => {
                    minutes.enter(now, why);
                    self.why = why;
                }
                OwnerOrder::Drain => {}
                OwnerOrder::Stop(why) => panic!("seed {seed} at {now}: stopped, {why}"),
            }
        }
        assert_eq!(idle.why().code(), self.why.code(), "seed {seed} at {now}: a change that was not said");
        assert_eq!(idle.share().is_some(), self.working.is_some(), "seed {seed} at {now}");
        assert!(!self.why.works() || self.working.is_some(), "seed {seed} at {now}: {} at rest", self.why);
        let said = self.why.works() || self.why == Why::Draining;
        assert!(said || self.working.is_none(), "seed {seed} at {now}: works, {}", self.why);
        if let OwnerInput::Sample(sample) = input {
            self.owner(now, &sample);
        }
        let waited = self.clear.map_or(0, |clear| now.since(clear));
        let enough = self.settings.idle_after_ms + MINUTE_MS;
        assert!(waited < enough || self.working.is_some(), "seed {seed} at {now}: does not start, {}", self.why);
    }

    /// Whether nothing is in the way of working at full share, as far as this input tells.
    fn clear(&self, input: &OwnerInput) -> bool {
        let OwnerInput::Sample(sample) = input else { return self.clear.is_some() && !self.paused };
        let limit = self.settings.other_load_permille_max;
        !self.paused
            && sample.input_idle_ms.is_none_or(|ms| ms > 0)
            && sample.other_load_permille.is_none_or(|permille| permille * 4 < limit * 3)
            && ![sample.on_battery, sample.metered, sample.gpu_in_use].contains(&Some(true))
            && sample.temperature_c.is_none_or(|celsius| celsius <= self.settings.temperature_max_c - 5)
            && sample.memory_free_mb.is_none_or(|mb| mb >= self.settings.memory_free_min_mb)
            && sample.disk_free_mb.is_none_or(|mb| mb >= self.settings.disk_free_min_mb)
            && self.settings.quiet_hours.quiet_until(sample.local).is_none()
    }

    fn start(&mut self, now: Millis, input: &OwnerInput, output: OwnerOrder) {
        let seed = self.seed;
        assert!(!self.paused, "seed {seed} at {now}: started although paused");
        let again = matches!(input, OwnerInput::Resume);
        assert!(again || self.working != Some(output), "seed {seed} at {now}: {output:?} twice");
        if let OwnerInput::Sample(sample) = input {
            let gone = sample.input_idle_ms.is_none_or(|ms| ms >= self.settings.idle_after_ms);
            let full = matches!(output, OwnerOrder::Start { .. });
            assert!(gone == full, "seed {seed} at {now}: {output:?}, owner gone: {gone}");
        }
        if self.working.is_none() {
            let held = self.own_pause.is_none_or(|at| now.since(at) >= HOLD_MS);
            assert!(held, "seed {seed} at {now}: started too soon after {:?}", self.own_pause);
            self.starts += 1;
        }
        self.working = Some(output);
    }

    fn pause(&mut self, now: Millis, why: Why) {
        let owner = matches!(
            why,
            Why::OwnerActive { .. } | Why::Settling { .. } | Why::PausedByOwner { .. } | Why::QuietHours { .. }
        );
        if !owner {
            // A machine pauses at once, so two changes may be close; a third one is not.
            let held = self.own_pause.is_none_or(|at| now.since(at) >= HOLD_MS);
            assert!(held, "seed {} at {now}: flaps, last pause {:?}", self.seed, self.own_pause);
            self.own_pause = Some(now);
        }
    }

    /// The owner who is there never sees it at full share after the step in which that was seen.
    fn owner(&self, now: Millis, sample: &Sample) {
        if sample.input_idle_ms.is_none_or(|ms| ms >= self.settings.idle_after_ms) {
            return;
        }
        let background = matches!(self.settings.when_active, WhenActive::Background { .. })
            && self.working == Some(OwnerOrder::Background { share: 250 });
        let fine = self.working.is_none() || background;
        assert!(fine, "seed {} at {now}: {:?} with the owner there", self.seed, self.working);
    }
}

fn month(seed: u64) -> (Hash, u64, BTreeMap<&'static str, u64>) {
    let (mut world, settings) = (World::new(seed), settings(seed));
    let mut idle = Idle::new(settings.clone());
    let mut minutes = Minutes::new(START, idle.why());
    let why = idle.why();
    let mut watch = Watch {
        seed,
        settings,
        working: None,
        why,
        paused: false,
        own_pause: None,
        clear: None,
        starts: 0,
        trace: Vec::new(),
    };
    let mut expect: BTreeMap<&'static str, u64> = BTreeMap::new();
    while world.now < START.plus(30 * DAY_MS) {
        let (before, code) = (world.now, idle.why().code());
        world.go_on(idle.share().is_some());
        *expect.entry(code).or_default() += world.now.since(before);
        if let Some(word) = world.word() {
            watch.step(&mut idle, &mut minutes, world.now, word);
        }
        let sample = world.sample();
        watch.step(&mut idle, &mut minutes, world.now, OwnerInput::Sample(sample));
    }
    let total = minutes.total(world.now);
    assert_eq!(total, expect, "seed {seed}: minutes");
    assert_eq!(total.values().sum::<u64>(), world.now.since(START), "seed {seed}: minutes without a reason");
    (Hash::of("trace", &watch.trace), watch.starts, total)
}

#[test]
fn a_month_of_owners_coming_and_going() {
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..12 {
        let (_, starts, total) = month(seed);
        assert!(starts > 20, "seed {seed}: only {starts} starts");
        total.into_iter().for_each(|(code, ms)| *seen.entry(code).or_default() += ms);
    }
    // The month had everything in it.
    for why in Why::ALL.iter().filter(|why| (0..=14).contains(&why.number()) && **why != Why::Off) {
        assert!(seen.get(why.code()).is_some_and(|ms| *ms > MINUTE_MS), "no {why} in any month");
    }
}

#[test]
fn the_same_seed_is_the_same_month() {
    assert_eq!(month(5), month(5));
    assert_ne!(month(5).0, month(7).0);
}
