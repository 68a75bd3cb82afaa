//! Looks at the machine, and works for others only while its owner lets it: carries out what [`owner::Idle`] decides.

use crate::activity::{Activity, ActivityReason, MachineState};
use crate::config::{Config, When};
use crate::shared::Shared;
use crate::view::Status;
use crate::{Node, sample};
use anyhow::{Context, Result, bail};
use base::{Machine, Millis, Outbox, Wire};
use host::write_whole;
use host::{Reading, Sampler, sampler};
use owner::{Day, Idle, Minutes, OwnerInput, OwnerOrder, OwnerSignal, SHARE_ALL, Why};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use swarm::Standing;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trainer::Duty;
use trainer::RunStatus;

/// What is told when the machine begins to work for others or stops.
pub(crate) type Tell = Box<dyn Fn(OwnerSignal) + Send + Sync>;

/// The owner's machine, looked at.
pub struct Supervisor {
    inner: Mutex<Inner>,
    /// What is decided is carried out before anything else is decided.
    carrying: Mutex<()>,
    duty: Duty,
    drains: Arc<watch::Sender<bool>>,
    /// Of 100 parts of the time that training may compute.
    duty_percent: u32,
    path: PathBuf,
    told: Mutex<Vec<Tell>>,
    /// Who keeps the caps on processors and memory, in words.
    kept_by: String,
}

struct Inner {
    idle: Idle,
    minutes: Minutes,
    sampler: Box<dyn Sampler>,
    reading: Reading,
    when: When,
    /// Memory that the program may have; 0 = no limit.
    memory_mb: u64,
    /// Why there is nothing to do, where there is nothing.
    no_work: Option<Why>,
    /// Since when there may be nothing, while there was something.
    lacks_since: Option<Instant>,
    /// Whether memory was given back, and is short still.
    shed: bool,
    since: Millis,
    saved: Instant,
}

/// The machine is looked at this often while it works: its owner waits no longer.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// And this often while there is nothing that could be in its owner's way.
const LOOK_SELDOM: Duration = Duration::from_secs(1);
/// That there is nothing to do for a run is said after this.
const LASTING: Duration = Duration::from_secs(3);
/// The account of its time is written down this often.
const SAVE_EVERY: Duration = Duration::from_secs(60);
const FILE: &str = "minutes";
/// The longest pause, in minutes: ten years.
const PAUSE_MAX: u64 = 10 * 366 * 24 * 60;

impl Supervisor {
    pub(crate) fn new(shared: &Shared, config: &Config, kept_by: String) -> Result<Arc<Self>> {
        let (dir, duty, drains) = (shared.store.dir(), shared.duty.clone(), shared.drains.clone());
        let duty_percent = shared.limits.duty_percent;
        let table = &config.schedule;
        let now = replica::clock();
        let path = dir.join(FILE);
        let idle = Idle::new(table.settings()?);
        let kept = std::fs::read(&path).ok().and_then(|bytes| Minutes::from_bytes(&bytes).ok());
        let mut minutes = kept.unwrap_or_else(|| Minutes::new(now, Why::Off));
        minutes.enter(now, idle.why());
        let inner = Inner {
            idle,
            minutes,
            sampler: sampler(dir),
            reading: Reading::default(),
            when: table.when,
            memory_mb: config.limits.memory_mb,
            no_work: None,
            lacks_since: None,
            shed: false,
            since: now,
            saved: Instant::now(),
        };
        // Nothing is begun before the machine was looked at.
        duty.send_replace(0);
        let (inner, carrying, told) = (Mutex::new(inner), Mutex::default(), Mutex::default());
        let idling = Arc::new(Self { inner, carrying, duty, drains, duty_percent, path, told, kept_by });
        // A pause outlives a restart.
        if let Some(until) = std::fs::read_to_string(idling.pause_path()).ok().and_then(|text| text.parse().ok()) {
            idling.step(OwnerInput::Pause { until: (until > 0).then_some(Millis(until)) });
        }
        Ok(idling)
    }

    fn pause_path(&self) -> PathBuf {
        self.path.with_file_name("paused")
    }

    /// Tells `tell` from now on when work for others begins or stops; how it is now at once.
    #[cfg(feature = "serve")]
    pub(crate) fn tell(&self, tell: Tell) {
        tell(if *self.duty.borrow() == 0 { OwnerSignal::Rests } else { OwnerSignal::Works });
        self.told.lock().expect("nobody panics while holding it").push(tell);
    }

    /// Looks at the machine until `stop`; `runs` tells when work may have begun.
    pub(crate) async fn run(
        self: Arc<Self>,
        busy: impl Fn() -> bool,
        lacks: impl Fn() -> Option<Why>,
        mut runs: watch::Receiver<Status>,
        stop: CancellationToken,
    ) {
        loop {
            self.look();
            let no_work = lacks();
            self.inner().lack_lasting(no_work);
            let works = busy();
            // Finished: from now on it rests.
            if *self.drains.borrow() && !works {
                self.drained();
            }
            let next = tokio::time::Instant::now() + if works { LOOK_EVERY } else { LOOK_SELDOM };
            let begins = async {
                while runs.changed().await.is_ok() {
                    if busy() {
                        return;
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(next) => {}
                () = begins, if !works => {}
            }
        }
        self.step(OwnerInput::Down);
        self.save();
    }

    fn look(&self) {
        let (sample, least) = {
            let mut inner = self.inner();
            inner.reading = inner.sampler.read();
            let settings = inner.idle.settings();
            (sample::of(&inner.reading, settings, inner.when, inner.memory_mb), settings.memory_free_min_mb)
        };
        let short = sample.memory_over_mb.is_some() || sample.memory_free_mb.is_some_and(|free| free < least);
        self.step(OwnerInput::Sample(sample));
        self.shed(short);
        let due = self.inner().saved.elapsed() >= SAVE_EVERY;
        if due {
            self.save();
        }
    }

    /// Gives memory back where it is short, also while it rests for another reason; once, until there is enough again.
    fn shed(&self, short: bool) {
        let _one = self.carrying.lock().expect("nobody panics while holding it");
        let (rests, shed) = {
            let mut inner = self.inner();
            (inner.idle.share().is_none(), std::mem::replace(&mut inner.shed, short))
        };
        if short && rests && !shed {
            self.tell_all(OwnerSignal::Sheds);
        }
    }

    /// What was under way is done: from now on it rests, unless it was told to go on.
    fn drained(&self) {
        let _one = self.carrying.lock().expect("nobody panics while holding it");
        if *self.drains.borrow() && *self.duty.borrow() > 0 {
            self.set(0);
        }
    }

    /// The owner needs the machine until then, or until it says otherwise.
    pub fn pause(&self, until: Option<Millis>) {
        let text = until.map_or(0, |until| until.0).to_string();
        if let Err(error) = write_whole(&self.pause_path(), text.as_bytes(), false) {
            tracing::warn!(%error, "the pause ends with the next start");
        }
        self.step(OwnerInput::Pause { until });
    }

    /// The owner does not need it any more, and takes back that it should finish.
    pub fn resume(&self) {
        let _ = std::fs::remove_file(self.pause_path());
        self.step(OwnerInput::Resume);
        self.look();
    }

    /// What is under way is finished, nothing new is taken.
    pub fn finish(&self) {
        self.step(OwnerInput::Finish);
    }

    /// Memory that work for others may take now, in units of 2^20 bytes: what is free beside what stays free, and within the
    /// cap. `None` where it is not known.
    pub fn memory_mb(&self) -> Option<u64> {
        let inner = self.inner();
        let free = inner.reading.memory_free_mb?.saturating_sub(inner.idle.settings().memory_free_min_mb);
        let left = inner.memory_mb.saturating_sub(inner.reading.memory_own_mb.unwrap_or(0));
        Some(if inner.memory_mb == 0 { free } else { free.min(left) })
    }

    /// Who keeps the caps on processors and memory.
    pub(crate) fn kept_by(&self) -> &str {
        &self.kept_by
    }

    /// What it does, and why.
    pub fn activity(&self) -> Activity {
        let now = replica::clock();
        let inner = self.inner();
        let why = inner.why();
        let state = match (why, inner.idle.share()) {
            (Why::Draining, _) => MachineState::Draining,
            (why, _) if why.works() => MachineState::Working,
            (_, Some(_)) => MachineState::Waiting,
            _ => MachineState::Paused,
        };
        let spent = inner.minutes.days(now).remove(&(now.0 / owner::DAY_MS)).unwrap_or_default();
        Activity {
            state,
            reason: ActivityReason {
                code: why.code().into(),
                text: why.text(),
                mend: why.mend().map(str::to_owned),
                since_ms: inner.since.0,
                until_ms: why.until().map(|until| until.0),
            },
            share_permille: inner.idle.share().unwrap_or(0),
            today_ms: spent.into_iter().map(|(code, ms)| (code.to_owned(), ms)).collect(),
        }
    }

    /// Milliseconds of each day (UTC) that is kept, by reason.
    pub fn spent(&self) -> BTreeMap<u64, BTreeMap<String, u64>> {
        let named = |spent: BTreeMap<&str, u64>| spent.into_iter().map(|(code, ms)| (code.to_owned(), ms)).collect();
        self.inner().minutes.days(replica::clock()).into_iter().map(|(day, spent)| (day, named(spent))).collect()
    }

    /// Work and earnings by day, from what was earned by day, for a forecast.
    pub fn days(&self, earned: &BTreeMap<u64, u64>) -> Vec<Day> {
        let now = replica::clock();
        let inner = self.inner();
        let days = inner.minutes.days(now).into_keys();
        days.map(|day| Day {
            day,
            earned: earned.get(&day).copied().unwrap_or(0),
            worked_ms: inner.minutes.worked_ms(now, day),
        })
        .collect()
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding it")
    }

    fn step(&self, input: OwnerInput) {
        let _one = self.carrying.lock().expect("nobody panics while holding it");
        if input == OwnerInput::Resume {
            self.drains.send_replace(false);
        }
        let mut out = Outbox::default();
        let now = replica::clock();
        let outputs: Vec<OwnerOrder> = {
            let mut inner = self.inner();
            inner.idle.step(now, input, &mut out);
            let outputs: Vec<OwnerOrder> = out.drain().collect();
            if outputs.iter().any(|output| matches!(output, OwnerOrder::Changed(_))) {
                inner.account(now);
            }
            outputs
        };
        for output in outputs {
            match output {
                OwnerOrder::Start { share } | OwnerOrder::Background { share } => {
                    self.set((self.duty_percent * share / SHARE_ALL).max(1));
                }
                OwnerOrder::Pause(_) | OwnerOrder::Stop(_) => self.set(0),
                OwnerOrder::Drain => {
                    self.drains.send_replace(true);
                    self.tell_all(OwnerSignal::Drains);
                }
                OwnerOrder::Changed(_) => {}
            }
        }
    }

    fn set(&self, duty: u32) {
        self.duty.send_replace(duty);
        self.tell_all(if duty == 0 { OwnerSignal::Rests } else { OwnerSignal::Works });
    }

    fn tell_all(&self, told: OwnerSignal) {
        self.told.lock().expect("nobody panics while holding it").iter().for_each(|tell| tell(told));
    }

    fn save(&self) {
        let mut inner = self.inner();
        inner.minutes.pass(replica::clock());
        inner.saved = Instant::now();
        if let Err(error) = write_whole(&self.path, &inner.minutes.to_bytes(), false) {
            tracing::warn!(%error, "the account of the machine's time was not written down");
        }
    }
}

impl Node {
    /// From now on it works for others only while the owner lets it. `kept_by`: who keeps the caps on processors and memory, as
    /// [`confine`](host::confine) says.
    pub async fn mind(self: &Arc<Self>, config: &Config, kept_by: String) -> Result<Arc<Supervisor>> {
        let idling = Supervisor::new(&self.shared, config, kept_by)?;
        if self.idling.set(idling.clone()).is_err() {
            bail!("the machine is minded already");
        }
        #[cfg(feature = "serve")]
        if let Some(trade) = self.trade.get().cloned() {
            idling.tell(Box::new(move |told| {
                if let Some(trade) = trade.upgrade() {
                    trade.told(told);
                }
            }));
        }
        let node = Arc::downgrade(self);
        // What is under way: a unit that trains, an answer that is written.
        let lacking = node.clone();
        let busy = move || node.upgrade().is_some_and(|node| node.busy());
        let lacks = move || lacking.upgrade().and_then(|node| node.lacks());
        let (looking, runs, stop) = (idling.clone(), self.status.subscribe(), self.stop.clone());
        self.tasks.lock().await.spawn(async move {
            looking.run(busy, lacks, runs, stop).await;
            Ok(())
        });
        let (store, stop) = (self.shared.store.clone(), self.stop.clone());
        tokio::spawn(crate::view::events::record(Arc::downgrade(self), store, stop));
        Ok(idling)
    }

    /// Whether a unit trains or an answer for others is written.
    pub(crate) fn busy(&self) -> bool {
        let drains = *self.shared.drains.borrow();
        // Who drains is done when the log has taken its unit and its word that it rests.
        let active = |run: &RunStatus| {
            let own = self.id().to_string();
            run.members.iter().any(|member| member.node == own && member.status == Standing::Active)
        };
        let trains =
            self.status.borrow().runs.iter().any(|run| run.waiting.trains() || drains && !run.ended && active(run));
        #[cfg(feature = "serve")]
        let writes = self.in_market().is_ok_and(|trade| trade.answering() > 0);
        #[cfg(not(feature = "serve"))]
        let writes = false;
        trains || writes
    }

    /// Why there is nothing to do for others, where there is nothing.
    fn lacks(&self) -> Option<Why> {
        let busy = self.busy();
        let (runs, open) = {
            let status = self.status.borrow();
            let open = status.runs.iter().filter(|run| !run.ended).map(|run| run.lacks);
            (status.runs.len(), open.collect::<Vec<_>>())
        };
        // Between its units a member works: it waits for the others of its round.
        if busy || open.iter().any(Option::is_none) {
            return None;
        }
        if let Some(why) = open.into_iter().flatten().next() {
            let reachable = self.is_alone() || !self.shared.net.ways().is_empty();
            return Some(if reachable { why } else { Why::NetworkUnreachable });
        }
        #[cfg(feature = "serve")]
        if let Some((models, offered)) = self.in_market().ok().map(|trade| (trade.serves(), trade.offers())) {
            match (models, offered) {
                (0, true) if runs == 0 => return Some(Why::NoModel),
                (0, _) => {}
                (_, true) => return Some(Why::NoQuestions),
                (_, false) if runs == 0 => return Some(Why::NotOffered),
                _ => {}
            }
        }
        Some(if runs == 0 { Why::NoRun } else { Why::RunEnded })
    }

    /// What decides when this node works, where anything does.
    pub fn idling(&self) -> Option<Arc<Supervisor>> {
        self.idling.get().cloned()
    }

    /// The owner needs the machine for so many minutes, or until [`Node::resume`].
    pub fn pause(&self, minutes: Option<u64>) -> Result<()> {
        let until = minutes.map(|minutes| replica::clock().plus(minutes.min(PAUSE_MAX) * 60_000));
        self.minded().map(|idling| idling.pause(until))
    }

    /// The owner does not need it any more.
    pub fn resume(&self) -> Result<()> {
        let (idling, no_work) = (self.minded()?, self.lacks());
        idling.resume();
        idling.inner().lack(no_work);
        Ok(())
    }

    /// What is under way is finished, nothing new is taken.
    pub fn finish(&self) -> Result<()> {
        self.minded().map(|idling| idling.finish())
    }

    fn minded(&self) -> Result<Arc<Supervisor>> {
        self.idling().context("the node that runs here does as it was told by hand; `talkoo up` minds its machine")
    }
}

impl Inner {
    /// Why it works or does not; also why it has nothing to do.
    fn why(&self) -> Why {
        self.idle.why().or_no_work(self.no_work)
    }

    /// The same of a look among many: between two rounds there may be nothing for a moment, which is no change.
    fn lack_lasting(&mut self, no_work: Option<Why>) {
        let brief = matches!(no_work, Some(Why::CatchingUp | Why::WaitingForTurn));
        if brief && self.no_work.is_none() && self.lacks_since.get_or_insert_with(Instant::now).elapsed() < LASTING {
            return;
        }
        self.lack(no_work);
    }

    fn lack(&mut self, no_work: Option<Why>) {
        self.no_work = no_work;
        self.lacks_since = None;
        self.account(replica::clock());
    }

    /// From now on time is spent on what is so now.
    fn account(&mut self, now: Millis) {
        let why = self.why();
        if why.code() != self.minutes.why().code() {
            self.minutes.enter(now, why);
            self.since = now;
            tracing::info!(why = why.code(), "the machine");
        }
    }
}
