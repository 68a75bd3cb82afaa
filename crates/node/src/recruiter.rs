//! Where a node takes part without being told: runs of its network that pay enough and have a place free. What it took by
//! itself it gives up by itself, when the pay is spent or nothing moves.

use crate::Node;
use anyhow::Result;
use base::{Hash, Millis, NodeId};
use chain::State;
use host::write_whole;
use ledger::Credits;
use net::Ticket;
use replica::Kept;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use swarm::{Access, Run, RunId};
use trainer::{RunStatus, RunWait, Store, step_bytes};

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
struct OpenRun {
    run: RunId,
    name: String,
    /// For 10¹⁵ operations of training.
    pay: Credits,
}

impl OpenRun {
    /// A run as `me` sees it; none where it is not for `me`, has no place free, is too slow or pays less than `pay_min`.
    fn of(run: &Run, state: &State, me: &NodeId, pay_min: Credits) -> Option<Self> {
        let spec = &run.spec;
        let welcome = match &spec.access {
            Access::Open => true,
            Access::Invited(keys) => keys.contains(me),
        };
        let free = !run.ended && run.active() < usize::from(spec.slots);
        let pay = state.pay_per_pflop(&run.id);
        let good = welcome && free && round_ms(run) <= ROUND_MAX && pays(pay, pay_min);
        good.then(|| Self { run: run.id, name: base::plain(&spec.name), pay })
    }
}

/// The longest that a round takes.
fn round_ms(run: &Run) -> u64 {
    run.spec.train_window_ms.saturating_add(run.spec.exchange_ms.1)
}

/// What training in a run takes of memory; more than there is where its model cannot be told.
fn memory_mb(run: &Run) -> u64 {
    trainer::training(&run.spec).saturating_add(step_bytes(run)) >> 20
}

/// The place that pays best of those that will `do`, which costs more to know than what they pay.
fn best(mut places: Vec<OpenRun>, will: impl Fn(&RunId) -> bool) -> Option<OpenRun> {
    places.sort_by_key(|place| std::cmp::Reverse((place.pay, place.run)));
    places.into_iter().find(|place| will(&place.run))
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
/// In the folder of a corpus: it came for a run that was taken unasked.
const UNASKED: &str = "unasked";

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
    seen: (u64, Option<RunWait>),
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
    fn new(run: &RunStatus, seen: (u64, Option<RunWait>), now: Instant) -> Self {
        Self { run: run.run.clone(), seen, moved: now, troubled: None }
    }

    /// Looks at the run as `me`; whether nothing of its work counted for too long, or something was wrong, seen from how long a
    /// `round` takes.
    fn stands(of: &mut Option<Self>, run: &RunStatus, me: &str, now: Instant, round: Duration) -> bool {
        let own = run.members.iter().find(|member| member.node == me).map_or(0, |member| member.tokens);
        let seen = (own, run.waiting.fetches().then(|| run.waiting.clone()));
        let progress = match of {
            Some(progress) if progress.run == run.run && progress.seen == seen => progress,
            _ => of.insert(Self::new(run, seen, now)),
        };
        progress.troubled = run.trouble.as_ref().map(|_| progress.troubled.unwrap_or(now));
        let troubled = TROUBLED.max(2 * round);
        now - progress.moved >= STILL + 3 * round || progress.troubled.is_some_and(|since| now - since >= troubled)
    }
}

/// Takes places for a node, and gives them up again.
pub struct Recruiter {
    node: Arc<Node>,
    pay_min: Credits,
    progress: Option<Progress>,
}

impl Recruiter {
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
        // Where nobody can be reached nothing is known of the run either.
        if self.node.shared.chains.home.trouble().is_some() {
            self.progress = None;
            return Ok(None);
        }
        let Some((pay, round_ms)) = self.terms(&run) else { return Ok(None) };
        // What is taken at the least pay is not left for the last micro-credit of rounding.
        let (mark, why) = if !pays(pay, Credits(self.pay_min.0 / 2)) {
            (Mark::Unpaid, "it does not pay enough any more")
        } else {
            let round = Duration::from_millis(round_ms);
            if !Progress::stands(&mut self.progress, status, &me, Instant::now(), round) {
                return Ok(None);
            }
            (Mark::Still(replica::clock().0), "nothing moves")
        };
        self.node.quit(run).await?;
        mark.put(&store, &run)?;
        self.clear(&run)?;
        self.progress = None;
        Ok(Some(Moved::Left(status.name.clone(), why)))
    }

    /// Makes room: what was fetched for a place that is given up, and for nothing else, goes.
    fn clear(&self, run: &RunId) -> Result<()> {
        let Some(dir) = self.corpus(run).filter(|dir| dir.join(UNASKED).exists()) else { return Ok(()) };
        let followed = self.node.shared.store.followed()?;
        if followed.iter().all(|other| other.run == *run || self.corpus(&other.run).is_some_and(|own| own != dir)) {
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(())
    }

    /// Where the data of a run of the network at home is.
    fn corpus(&self, run: &RunId) -> Option<PathBuf> {
        let shared = &self.node.shared;
        let spec = |orderer: &mut chain::Orderer| Some(orderer.state().runs().runs.get(run)?.spec.manifest);
        let manifest = shared.chains.home.kept()?.keeper.look(spec)?;
        Some(shared.store.dir().join("corpora").join(manifest.to_string()))
    }

    /// What a run of the network at home pays, and how long its rounds are.
    fn terms(&self, run: &RunId) -> Option<(Credits, u64)> {
        let kept = self.node.shared.chains.home.kept()?;
        kept.keeper.look(|orderer| {
            let state = orderer.state();
            let run = state.runs().runs.get(run)?;
            Some((state.pay_per_pflop(&run.id), round_ms(run)))
        })
    }

    /// Takes a place in an open run of the network at home that pays enough. `have_mb`: what memory there is for training, where
    /// that is known.
    pub async fn take(&mut self, have_mb: Option<u64>) -> Result<Option<Moved>> {
        let node = &self.node;
        let home = node.shared.chains.home.clone();
        let (Some(kept), Some(have_mb)) = (home.kept(), have_mb) else { return Ok(None) };
        let me = node.id();
        let places: Vec<OpenRun> = kept.keeper.look(|orderer| {
            let state = orderer.state();
            state.runs().runs.values().filter_map(|run| OpenRun::of(run, state, &me, self.pay_min)).collect()
        });
        let (store, now) = (&node.shared.store, replica::clock());
        // What its owner left stays left.
        let free =
            |run: &RunId| !folder(store, run).exists() || Mark::of(store, run).is_some_and(|mark| mark.lets(now));
        let (device, vram_mb) = (&node.shared.device, crate::Config::of(store.dir())?.limits.vram_mb);
        let room = |run: &Run| {
            let fits = || trainer::on_device(vram_mb, device, run.spec.params, step_bytes(run)).is_ok();
            memory_mb(run) <= have_mb && fits()
        };
        let room = |run: &RunId| kept.keeper.look(|o| o.state().runs().runs.get(run).is_some_and(room));
        let Some(place) = best(places, |run| free(run) && room(run)) else { return Ok(None) };
        Mark::Taken.put(store, &place.run)?;
        if let Some(corpus) = self.corpus(&place.run).filter(|dir| !dir.exists()) {
            std::fs::create_dir_all(&corpus)?;
            std::fs::write(corpus.join(UNASKED), "")?;
        }
        // Where its members are it knows from its network.
        let ticket = Ticket { chain: home.chain(), run: place.run, anchor: None, peers: vec![node.address()] };
        node.enter_run(home, ticket).await?;
        Ok(Some(Moved::Took(place.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Keypair, Signed};
    use swarm::Spec;
    use swarm::Waiting;
    use trainer::Download;

    #[test]
    fn the_place_that_pays_best_and_will_do() {
        let place = |id: u8, pay: u64| OpenRun { run: Hash([id; 32]), name: id.to_string(), pay: Credits(pay) };
        let check = |places: &[OpenRun], expect: Option<u8>| {
            let best = best(places.to_vec(), |run| run.0[0] != 9).map(|place| place.run.0[0]);
            assert_eq!(best, expect, "{places:?}");
        };
        check(&[], None);
        check(&[place(1, 60), place(2, 70), place(9, 80)], Some(2));
        check(&[place(9, 80)], None);
        assert!(!pays(Credits::ZERO, Credits::ZERO), "nothing is never enough");
        assert!(pays(Credits(50), Credits(50)) && !pays(Credits(49), Credits(50)));
    }

    fn spec(tokens: u64) -> Spec {
        let config = model::ModelConfig::preset("nano", 2048, 16).expect("a preset");
        let params = model::Layout::new(&config, &model::Part::whole(&config)).len as u64;
        let config = String::from_utf8(config.to_json(0)).expect("utf-8");
        Spec { tokens, slots: 2, ..Spec::plain("a\u{202e}b", config, params, Hash::default()) }
    }

    #[test]
    fn a_run_is_weighed() {
        let founder = Keypair::from_secret([1; 32]);
        let genesis = replica::private_network(founder.id(), founder.id()).genesis;
        let mut state = State::new(&genesis);
        let (me, by, chain) = (NodeId([9; 32]), state.validators()[0], genesis.chain());
        let make = |seq: u64, tx: swarm::WorkTx| {
            let envelope = swarm::WorkEnvelope::new(chain, genesis.work_bits, &founder.id(), seq, tx);
            chain::Tx::Work { tx: Signed::new(swarm::DOMAIN, &founder, envelope) }
        };
        let slow = Spec { train_window_ms: ROUND_MAX, ..spec(1_000_000) };
        let closed = Spec { access: Access::Invited(vec![founder.id()]), ..spec(1_000_000) };
        let specs = [spec(1_000_000), spec(1_000_000_000_000), slow, closed];
        let ids: Vec<RunId> = specs.iter().map(|spec| spec.id(&founder.id())).collect();
        let mut txs: Vec<chain::Tx> = Vec::new();
        for (i, spec) in specs.into_iter().enumerate() {
            txs.push(make(i as u64 + 1, swarm::WorkTx::Create { spec }));
        }
        let budget = Credits::whole(5);
        for (nonce, pot) in ids.iter().enumerate() {
            let fund = ledger::WalletEnvelope {
                chain,
                nonce: nonce as u64,
                tx: ledger::WalletTx::Fund { pot: *pot, amount: budget },
            };
            txs.push(chain::Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &founder, fund) });
        }
        let block = state.next(by, Vec::new(), genesis.time.plus(1), txs);
        state.apply(&block).expect("it follows");
        let run = |i: usize| &state.runs().runs[&ids[i]];
        // Five credits for a million tokens of so many operations; all of it, whoever takes part.
        let flops = u128::from(chain::reference_flops(&run(0).spec.config, run(0).spec.seq_len).expect("a model"));
        let pay = |i: usize| state.pay_per_pflop(&ids[i]);
        assert_eq!(u128::from(pay(0).0), 5_000_000 * 1_000_000_000_000_000 / (1_000_000 * flops));
        assert!(pay(1) < Credits(100_000) && pay(0) > Credits::whole(100));
        let of = |i: usize, me: &NodeId| OpenRun::of(run(i), &state, me, Credits(100_000)).map(|place| place.name);
        assert_eq!(of(0, &me), Some("ab".into()), "it pays, is open and quick");
        assert_eq!((of(1, &me), of(2, &me), of(3, &me)), (None, None, None));
        assert_eq!(of(3, &founder.id()), Some("ab".into()), "who is invited is");
        assert!((1..100).contains(&memory_mb(run(0))));
        let mut wide = run(0).clone();
        wide.spec.micro_batch = 1 << 16;
        assert!(memory_mb(&wide) > 4_000, "a million tokens at once");
    }

    #[test]
    fn who_does_not_get_on_stands_still() {
        let begun = Instant::now();
        let (mut progress, round) = (None, Duration::from_secs(33));
        let mut look = |s: u64, tokens: u64, waiting: RunWait, trouble: Option<&str>, expect: bool| {
            let member = trainer::MemberStatus { node: "me".into(), tokens, ..Default::default() };
            let run = RunStatus {
                members: vec![member],
                waiting,
                trouble: trouble.map(str::to_owned),
                ..RunStatus::default()
            };
            let stands = Progress::stands(&mut progress, &run, "me", begun + Duration::from_secs(s), round);
            assert_eq!(stands, expect, "after {s} s");
        };
        let fetching = |done| RunWait::Fetching(Download { what: "the data", done, of: 9 });
        let training = || RunWait::Rules(Waiting::No);
        look(0, 0, fetching(1), None, false);
        look(699, 0, fetching(2), None, false);
        look(1300, 0, RunWait::Rules(Waiting::Joining), None, false);
        look(1998, 0, training(), None, false);
        look(1999, 0, training(), None, true);
        look(2001, 8, training(), Some("no answer"), false);
        look(2120, 8, training(), Some("no answer"), false);
        look(2121, 8, training(), Some("no answer"), true);
        look(2122, 8, training(), None, false);
        look(2200, 8, training(), Some("no answer"), false);
        look(2700, 9, training(), Some("no answer"), false);
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
