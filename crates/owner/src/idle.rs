//! When a machine may work for others.

use crate::{Sample, Settings, WEEK_MINUTES, WhenActive, Why, sample::Senses};
use base::{Machine, Millis, Outbox};

/// All threads that a machine may use, in permille of them.
pub const SHARE_ALL: u32 = 1000;
/// So long after the last key, click or touch the owner is taken to be there; later it is waited for quiet.
pub const ACTIVE_MS: u64 = 60_000;
/// After a pause that the machine itself caused, it does not start again sooner.
pub const HOLD_MS: u64 = 30_000;
/// Who worked for less between two such pauses waits twice as long after the second.
const STEADY_MS: u64 = 5 * 60_000;

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerInput {
    /// What was measured, about once a second: the owner waits for the next one.
    Sample(Sample),
    /// The owner wants no work.
    Pause {
        /// Until then, or until [`OwnerInput::Resume`].
        until: Option<Millis>,
    },
    /// The owner takes back [`OwnerInput::Pause`] or [`OwnerInput::Finish`].
    Resume,
    /// Finish what is under way and take nothing new.
    Finish,
    /// The program ends. Nothing comes after it.
    Down,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerOrder {
    /// Work, or go on.
    Start {
        /// In permille of the threads that the machine may use.
        share: u32,
    },
    /// Work at low priority, the owner being there: from rest, or instead of what was.
    Background {
        /// In permille of the threads that the machine may use.
        share: u32,
    },
    /// Stop computing at once, and give memory back as soon as possible.
    Pause(Why),
    /// Let go of everything: the program ends.
    Stop(Why),
    /// Take nothing new. Comes after each start while something is to be finished.
    Drain,
    /// The reason in force is another one; comes last in a step, whether or not anything is to be done.
    Changed(Why),
}

/// The machine. It decides on samples; only the owner's words are followed in between.
#[derive(Debug, Clone)]
pub struct Idle {
    settings: Settings,
    senses: Senses,
    mode: Mode,
    why: Why,
    pause: Asked,
    finishing: bool,
    /// The time of the last step.
    last: Option<Millis>,
    /// No start by itself before this has passed.
    hold_left_ms: u64,
    /// The length of the last hold; 0 before the first.
    hold_ms: u64,
    /// Work since the last start from rest.
    worked_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Rest,
    Full,
    Background(u32),
    Down,
}

/// Whether the owner wants a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Until(Option<Millis>),
}

impl Idle {
    /// A machine that has not been looked at.
    pub fn new(settings: Settings) -> Self {
        let why = Why::Settling { left_ms: settings.idle_after_ms };
        Self {
            settings,
            senses: Senses::default(),
            mode: Mode::Rest,
            why,
            pause: Asked::No,
            finishing: false,
            last: None,
            hold_left_ms: 0,
            hold_ms: 0,
            worked_ms: 0,
        }
    }

    /// The reason in force, with the values measured last.
    pub fn why(&self) -> Why {
        self.why
    }

    /// Whether it works, and with which share of the threads that it may use.
    pub fn share(&self) -> Option<u32> {
        match self.mode {
            Mode::Rest | Mode::Down => None,
            Mode::Full => Some(SHARE_ALL),
            Mode::Background(share) => Some(share),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changed settings; they count from the next sample on.
    pub fn adopt(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The times that pass are added up, so that a clock which is set back neither starts nor stops anything.
    fn pass(&mut self, now: Millis) {
        let elapsed_ms = self.last.map_or(0, |last| now.since(last));
        self.last = Some(now);
        self.hold_left_ms = self.hold_left_ms.saturating_sub(elapsed_ms);
        if self.mode != Mode::Rest {
            self.worked_ms = self.worked_ms.saturating_add(elapsed_ms);
        }
        self.senses.pass(elapsed_ms);
    }

    /// What the machine should do: a mode to work in, or the reason why not. The first that applies is the reason.
    fn judge(&self, sample: &Sample) -> Result<Mode, Why> {
        if let Asked::Until(until) = self.pause {
            return Err(Why::PausedByOwner { until });
        }
        if let Some(left) = self.settings.quiet_hours.quiet_until(sample.local) {
            let end = crate::LocalTime::of_week(sample.local.minute_of_week() + left);
            return Err(Why::QuietHours { until: (left < WEEK_MINUTES).then_some(end) });
        }
        let after_ms = self.settings.idle_after_ms;
        // Where nothing is known of the owner, there is none.
        let present = self.senses.quiet_ms.filter(|quiet_ms| *quiet_ms < after_ms);
        let mode = match (present, self.settings.when_active) {
            (None, _) => Mode::Full,
            (Some(_), WhenActive::Background { share_permille }) => Mode::Background(share_permille),
            (Some(idle_ms), WhenActive::Pause) if idle_ms < ACTIVE_MS => return Err(Why::OwnerActive { idle_ms }),
            (Some(_), WhenActive::Pause) => Mode::Rest,
        };
        self.senses.objection(sample, &self.settings, self.mode == Mode::Rest).map_or(Ok(()), Err)?;
        let quiet_left_ms = if mode == Mode::Rest { after_ms - present.unwrap_or_default() } else { 0 };
        let hold_left_ms = if self.mode == Mode::Rest { self.hold_left_ms } else { 0 };
        match quiet_left_ms.max(hold_left_ms) {
            0 => Ok(mode),
            left_ms => Err(Why::Settling { left_ms }),
        }
    }

    fn sample(&mut self, now: Millis, sample: &Sample, out: &mut Outbox<OwnerOrder>) {
        if matches!(self.pause, Asked::Until(Some(until)) if until <= now) {
            self.pause = Asked::No;
        }
        self.senses.take(sample, &self.settings);
        match self.judge(sample) {
            Ok(mode) => self.work(mode, out),
            Err(why) => self.rest(why, out),
        }
    }

    fn work(&mut self, mode: Mode, out: &mut Outbox<OwnerOrder>) {
        if self.mode == Mode::Rest {
            self.worked_ms = 0;
        }
        if std::mem::replace(&mut self.mode, mode) != mode {
            self.tell(out);
        }
        self.explain(self.at_work(), out);
    }

    /// Says how to work.
    fn tell(&self, out: &mut Outbox<OwnerOrder>) {
        match self.mode {
            Mode::Rest | Mode::Down => return,
            Mode::Full => out.push(OwnerOrder::Start { share: SHARE_ALL }),
            Mode::Background(share) => out.push(OwnerOrder::Background { share }),
        }
        if self.finishing {
            out.push(OwnerOrder::Drain);
        }
    }

    /// The reason in force while it works.
    fn at_work(&self) -> Why {
        match self.mode {
            _ if self.finishing => Why::Draining,
            Mode::Background(_) => Why::WorkingInBackground,
            _ => Why::Working,
        }
    }

    fn rest(&mut self, why: Why, out: &mut Outbox<OwnerOrder>) {
        if self.mode != Mode::Rest {
            self.mode = Mode::Rest;
            out.push(OwnerOrder::Pause(why));
            if !why.by_owner() {
                // Its own work may be what stops it; then it tries less and less often, at worst as often as it would
                // if the owner came by.
                let steady = self.worked_ms >= STEADY_MS;
                let longest_ms = self.settings.idle_after_ms.max(HOLD_MS);
                self.hold_ms = if steady { HOLD_MS } else { (2 * self.hold_ms).clamp(HOLD_MS, longest_ms) };
                self.hold_left_ms = self.hold_ms;
            }
        }
        self.explain(why, out);
    }

    /// Measured values move all the time; said is only what is another reason.
    fn explain(&mut self, why: Why, out: &mut Outbox<OwnerOrder>) {
        let same = self.why.code() == why.code() && self.why.until() == why.until();
        self.why = why;
        if !same {
            out.push(OwnerOrder::Changed(why));
        }
    }

    fn resume(&mut self, out: &mut Outbox<OwnerOrder>) {
        let finished = std::mem::take(&mut self.finishing);
        let paused = std::mem::replace(&mut self.pause, Asked::No) != Asked::No;
        self.hold_left_ms = 0;
        match self.mode {
            // The next sample says whether it may.
            Mode::Rest if paused => self.explain(Why::Settling { left_ms: 0 }, out),
            Mode::Rest => {}
            _ if finished => {
                // Said again, without Drain: new work may come.
                self.tell(out);
                self.explain(self.at_work(), out);
            }
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut Outbox<OwnerOrder>) {
        if std::mem::replace(&mut self.finishing, true) {
            return;
        }
        out.push(OwnerOrder::Drain);
        if self.mode != Mode::Rest {
            self.explain(Why::Draining, out);
        }
    }

    fn down(&mut self, out: &mut Outbox<OwnerOrder>) {
        self.mode = Mode::Down;
        out.push(OwnerOrder::Stop(if self.finishing { Why::Draining } else { Why::Off }));
        self.explain(Why::Off, out);
    }
}

impl Machine for Idle {
    type Input = OwnerInput;
    type Output = OwnerOrder;

    fn step(&mut self, now: Millis, input: OwnerInput, out: &mut Outbox<OwnerOrder>) {
        if self.mode == Mode::Down {
            return;
        }
        self.pass(now);
        match input {
            OwnerInput::Sample(sample) => self.sample(now, &sample, out),
            OwnerInput::Pause { until } => {
                self.pause = Asked::Until(until);
                self.rest(Why::PausedByOwner { until }, out);
            }
            OwnerInput::Resume => self.resume(out),
            OwnerInput::Finish => self.finish(out),
            OwnerInput::Down => self.down(out),
        }
    }
}
