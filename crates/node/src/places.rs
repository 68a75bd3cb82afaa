//! Where a node takes part without being told: runs of its network that pay enough and have a place free. What it took by
//! itself it gives up by itself, when the pay is spent or nothing moves.

use crate::Node;
use crate::log::Kept;
use crate::status::RunStatus;
use crate::store::{Store, write_whole};
use anyhow::Result;
use base::{Hash, Millis, NodeId};
use chain::State;
use ledger::Credits;
use net::Ticket;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use swarm::{Access, Run, RunId};

/// Memory that training takes for each parameter: weights, gradient, two moments, error feedback, the last update and
/// copies on their way, in single precision.
const BYTES_PER_PARAMETER: u64 = 32;
/// Operations by which pay is measured.
const PFLOP: u128 = 1_000_000_000_000_000;
/// Rounds of a place end within this: what a unit earns is there soon, or the place is given up.
const ROUND_MAX: u64 = 3_600_000;
/// Without a unit that counts for so long beside three rounds, the run stands still.
const STILL: Duration = Duration::from_secs(600);
/// What is wrong for so long does not mend itself.
const TROUBLED: Duration = Duration::from_secs(120);
/// A run that stood still is looked at again after this.
const AGAIN_MS: u64 = 24 * 3_600_000;

/// A run that wants somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    run: RunId,
    name: String,
    /// Whether one of the contributors of a round could be this node.
    free: bool,
    memory_mb: u64,
    round_ms: u64,
    /// For [`PFLOP`] operations of training.
    pay: Credits,
}

impl Place {
    /// A run as `me` sees it; none where it is not for `me`, or its model cannot be told.
    fn of(run: &Run, state: &State, me: &NodeId) -> Option<Self> {
        let spec = &run.spec;
        let welcome = match &spec.access {
            Access::Open => true,
            Access::Invited(keys) => keys.contains(me),
        };
        let config = model::Config::from_json(spec.config.as_bytes()).ok()?;
        let (rows, tokens) = (u64::from(spec.micro_batch), u64::from(spec.seq_len));
        let bytes = spec.params.saturating_mul(BYTES_PER_PARAMETER).saturating_add(config.step_bytes(rows, tokens));
        (welcome && !run.ended).then(|| Self {
            run: run.id,
            name: crate::show::plain(&spec.name),
            free: run.active() < usize::from(spec.slots),
            memory_mb: bytes >> 20,
            round_ms: spec.train_window_ms.saturating_add(spec.exchange_ms.1),
            pay: pay(run, state),
        })
    }
}

/// What a run pays for [`PFLOP`] operations: its budget is spread evenly over the tokens that are left; new money is there only
/// where one validator admits it.
fn pay(run: &Run, state: &State) -> Credits {
    let spec = &run.spec;
    let Some(flops) = chain::reference_flops(&spec.config, spec.seq_len) else { return Credits::ZERO };
    let left = u128::from(spec.tokens.saturating_sub(run.tokens).max(1));
    let budget = u128::from(state.money().pot(&run.id).0);
    let from_pot = budget.saturating_mul(PFLOP) / left.saturating_mul(u128::from(flops.max(1)));
    let admitted = state.validators().len() == 1 && state.share_permille(&run.id) > 0;
    let issued = if admitted { u128::from(state.genesis().per_pflop.0) } else { 0 };
    Credits(u64::try_from(from_pot + issued).unwrap_or(u64::MAX))
}

/// The place to take: one that is free, fits, pays at least `pay_min` and is not `known`; the one that pays best.
fn best(places: Vec<Place>, pay_min: Credits, memory_mb: u64, known: impl Fn(&RunId) -> bool) -> Option<Place> {
    let fits = |place: &Place| {
        place.free && place.memory_mb <= memory_mb && place.round_ms <= ROUND_MAX && pays(place.pay, pay_min)
    };
    // Whether a run is known is asked of the disk: last.
    let open = places.into_iter().filter(|place| fits(place) && !known(&place.run));
    open.max_by_key(|place| (place.pay, place.run))
}

/// Nothing is never enough.
fn pays(pay: Credits, least: Credits) -> bool {
    pay > Credits::ZERO && pay >= least
}

/// What is remembered of a run that was taken unasked, in its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    /// It takes part.
    Taken,
    /// Its pay was spent.
    Unpaid,
    /// Nothing moved, at this time.
    Still(u64),
}

const MARK_FILE: &str = "taken";

/// Where a run's folder is or would be.
fn folder(store: &Store, run: &RunId) -> PathBuf {
    store.dir().join("runs").join(run.to_string())
}

impl Mark {
    fn of(store: &Store, run: &RunId) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder(store, run).join(MARK_FILE)).ok()?).ok()
    }

    fn put(self, store: &Store, run: &RunId) -> Result<()> {
        write_whole(&store.run_dir(run)?.join(MARK_FILE), &serde_json::to_vec(&self)?, false)
    }

    /// Whether the run may be taken again.
    fn lets(self, now: Millis) -> bool {
        match self {
            // One that it takes part in is not looked for.
            Self::Taken | Self::Unpaid => true,
            Self::Still(at) => now.since(Millis(at)) >= AGAIN_MS,
        }
    }
}

/// From now on `run` is kept or left by its owner's word only.
pub(crate) fn owned(store: &Store, run: &RunId) {
    let _ = std::fs::remove_file(folder(store, run).join(MARK_FILE));
}

/// What changed of the places that a node takes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// It takes part in the run of this name.
    Took(String),
    /// It left the run of this name, and why.
    Left(String, &'static str),
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Took(name) => write!(f, "takes a place in “{name}”, an open run of its network that pays"),
            Self::Left(name, why) => write!(f, "gives up its place in “{name}”: {why}"),
        }
    }
}

/// How far the work in a run is, and since when.
struct Progress {
    run: String,
    /// Tokens of its own that counted, and what is fetched.
    seen: (u64, String),
    moved: Instant,
    /// Since when something is wrong.
    troubled: Option<Instant>,
}

impl Node {
    /// Whether nobody else has a say in its network at home.
    pub fn is_alone(&self) -> bool {
        let alone = |kept: Arc<Kept>| {
            kept.keeper.validates() && kept.keeper.look(|orderer| orderer.state().validators().len() == 1)
        };
        self.shared.chains.home.kept().is_some_and(alone)
    }
}

impl Progress {
    fn new(run: &RunStatus, seen: (u64, String), now: Instant) -> Self {
        Self { run: run.run.clone(), seen, moved: now, troubled: None }
    }

    /// Looks at the run as `me`; whether nothing of its work counted for `longest`, or something was wrong for too long.
    fn stands(of: &mut Option<Self>, run: &RunStatus, me: &str, now: Instant, longest: Duration) -> bool {
        let own = run.members.iter().find(|member| member.node == me).map_or(0, |member| member.tokens);
        let fetched = if run.waiting.starts_with("fetching") { run.waiting.clone() } else { String::new() };
        let seen = (own, fetched);
        let progress = match of {
            Some(progress) if progress.run == run.run && progress.seen == seen => progress,
            _ => of.insert(Self::new(run, seen, now)),
        };
        progress.troubled = run.trouble.as_ref().map(|_| progress.troubled.unwrap_or(now));
        now - progress.moved >= longest || progress.troubled.is_some_and(|since| now - since >= TROUBLED)
    }
}

/// Takes places for a node, and gives them up again.
pub struct Places {
    node: Arc<Node>,
    pay_min: Credits,
    progress: Option<Progress>,
}

impl Places {
    /// For `node`, which wants at least `pay_min` credits for 10¹⁵ operations.
    pub fn new(node: Arc<Node>, pay_min: Credits) -> Self {
        Self { node, pay_min, progress: None }
    }

    /// The machine may not work: no time passes for what should move.
    pub fn rest(&mut self) {
        self.progress = None;
    }

    /// Looks at the run that was taken, where there is one, and leaves it where it does not pay or move any more.
    pub async fn keep(&mut self) -> Result<Option<Moved>> {
        let (store, me) = (self.node.shared.store.clone(), self.node.id().to_string());
        let runs = self.node.status().runs;
        let id = |run: &RunStatus| run.run.parse::<Hash>().ok();
        let taken = runs.iter().filter(|run| !run.ended).find_map(|run| {
            let id = id(run)?;
            (Mark::of(&store, &id) == Some(Mark::Taken)).then_some((id, run))
        });
        let Some((run, status)) = taken else {
            self.progress = None;
            return Ok(None);
        };
        let Some((pay, round_ms)) = self.terms(&run) else { return Ok(None) };
        // What is taken at the least pay is not left for the last micro-credit of rounding.
        let (mark, why) = if !pays(pay, Credits(self.pay_min.0 / 2)) {
            (Mark::Unpaid, "it does not pay enough any more")
        } else {
            let longest = STILL + Duration::from_millis(round_ms.saturating_mul(3));
            if !Progress::stands(&mut self.progress, status, &me, Instant::now(), longest) {
                return Ok(None);
            }
            (Mark::Still(chain::clock().0), "nothing moves")
        };
        mark.put(&store, &run)?;
        self.node.quit(run).await?;
        self.progress = None;
        Ok(Some(Moved::Left(status.name.clone(), why)))
    }

    /// What a run of the network at home pays, and how long its rounds are.
    fn terms(&self, run: &RunId) -> Option<(Credits, u64)> {
        let kept = self.node.shared.chains.home.kept()?;
        kept.keeper.look(|orderer| {
            let state = orderer.state();
            let run = state.runs().runs.get(run)?;
            Some((pay(run, state), run.spec.train_window_ms.saturating_add(run.spec.exchange_ms.1)))
        })
    }

    /// Takes a place in an open run of the network at home that pays enough. `memory_mb`: what there is for training, where
    /// that is known.
    pub async fn take(&mut self, memory_mb: Option<u64>) -> Result<Option<Moved>> {
        let node = &self.node;
        let home = node.shared.chains.home.clone();
        let (Some(kept), Some(memory_mb)) = (home.kept(), memory_mb) else { return Ok(None) };
        let me = node.id();
        let places: Vec<Place> = kept.keeper.look(|orderer| {
            let state = orderer.state();
            state.runs().runs.values().filter_map(|run| Place::of(run, state, &me)).collect()
        });
        let (store, now) = (&node.shared.store, chain::clock());
        // What its owner left stays left.
        let known =
            |run: &RunId| folder(store, run).exists() && !Mark::of(store, run).is_some_and(|mark| mark.lets(now));
        let Some(place) = best(places, self.pay_min, memory_mb, known) else { return Ok(None) };
        Mark::Taken.put(store, &place.run)?;
        // Where its members are it knows from its network.
        let ticket = Ticket { chain: home.chain(), run: place.run, anchor: None, peers: vec![node.address()] };
        node.enter_run(home, ticket).await?;
        Ok(Some(Moved::Took(place.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_paid_place_that_is_free_and_fits() {
        let place = |id: u8, free: bool, memory_mb: u64, pay: u64| Place {
            run: Hash([id; 32]),
            name: id.to_string(),
            free,
            memory_mb,
            round_ms: 20_000,
            pay: Credits(pay),
        };
        let check = |places: &[Place], expect: Option<u8>| {
            let best = best(places.to_vec(), Credits(50), 1000, |run| run.0[0] == 9).map(|place| place.run.0[0]);
            assert_eq!(best, expect, "{places:?}");
        };
        check(&[], None);
        check(&[place(1, true, 10, 50)], Some(1));
        check(&[place(1, true, 10, 49)], None);
        check(&[place(1, false, 10, 50)], None);
        check(&[place(1, true, 1001, 50)], None);
        check(&[place(9, true, 10, 50)], None);
        check(&[Place { round_ms: ROUND_MAX + 1, ..place(1, true, 10, 50) }], None);
        check(&[place(1, true, 10, 60), place(2, true, 10, 70), place(3, false, 10, 80)], Some(2));
        assert!(!pays(Credits::ZERO, Credits::ZERO), "nothing is never enough");
    }

    #[test]
    fn who_does_not_get_on_stands_still() {
        let begun = Instant::now();
        let (mut progress, longest) = (None, Duration::from_secs(700));
        let mut look = |s: u64, tokens: u64, waiting: &str, trouble: Option<&str>, expect: bool| {
            let member = crate::MemberStatus { node: "me".into(), tokens, ..Default::default() };
            let run = RunStatus {
                members: vec![member],
                waiting: waiting.into(),
                trouble: trouble.map(str::to_owned),
                ..RunStatus::default()
            };
            let stands = Progress::stands(&mut progress, &run, "me", begun + Duration::from_secs(s), longest);
            assert_eq!(stands, expect, "after {s} s");
        };
        look(0, 0, "fetching the data: 1 of 9 MiB", None, false);
        look(699, 0, "fetching the data: 2 of 9 MiB", None, false);
        look(1300, 0, "joining", None, false);
        look(1999, 0, "training", None, false);
        look(2000, 0, "training", None, true);
        look(2001, 8, "training", Some("no answer"), false);
        look(2120, 8, "training", Some("no answer"), false);
        look(2121, 8, "training", Some("no answer"), true);
        look(2122, 8, "training", None, false);
        look(2200, 8, "training", Some("no answer"), false);
        look(2700, 9, "training", Some("no answer"), false);
    }

    #[test]
    fn what_was_left_may_be_taken_again_by_its_reason() {
        let lets = |mark: Mark, expect: bool| assert_eq!(mark.lets(Millis(2 * AGAIN_MS)), expect, "{mark:?}");
        lets(Mark::Taken, true);
        lets(Mark::Unpaid, true);
        lets(Mark::Still(AGAIN_MS + 1), false);
        lets(Mark::Still(AGAIN_MS), true);
        let stage = tempfile::tempdir().expect("a folder");
        let (store, run) = (Store::open(stage.path()).expect("a store"), Hash([1; 32]));
        assert_eq!(Mark::of(&store, &run), None);
        for mark in [Mark::Taken, Mark::Still(7)] {
            mark.put(&store, &run).expect("written");
            assert_eq!(Mark::of(&store, &run), Some(mark));
        }
        owned(&store, &run);
        assert_eq!(Mark::of(&store, &run), None);
    }
}
