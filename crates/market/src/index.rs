//! Who offers what, and whom to ask: incremental, no scan of the fleet.
//!
//! Providers are sampled by their bond and by this node's own history with them, never by what they claim alone; of
//! two sampled ones with a good history, the one that is expected to be done first is taken and the other one is the reserve
//! ("the power of two choices", Mitzenmacher 2001).

use crate::weights::Weights;
use crate::{AttemptOutcome, OFFER_MS, Offer, Price, ProviderCandidate};
use base::{Hash, Millis, NodeId, Reject, RejectCounts, Rng};
use std::collections::{BTreeMap, BTreeSet};

/// What a question needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The weights.
    pub model: Hash,
    /// Tokens of question and answer together, about.
    pub context: u64,
    /// Tokens of the question, about.
    pub read: u64,
    /// Tokens of the answer, about.
    pub written: u64,
    /// Pays at most this.
    pub price: Price,
    /// Who has read the beginning of it before.
    pub knows: Option<NodeId>,
}

/// Providers that are remembered.
const PROVIDERS_MAX: usize = 16_384;
/// Fewer digits of a hash name nothing.
const DIGITS_MIN: usize = 8;
/// Offers that are looked at for one that makes room.
const EVICT_SCAN: usize = 4_096;
/// Tokens of a paid question that a provider without a good history may be asked: its fee is paid before anything comes.
const TRIED_WITH: u64 = 512;
/// Draws until two that fit are found; then a scan of the model's list, once.
const DRAWS: usize = 24;
/// Of so many questions one goes to providers with whom there is no good history.
const EXPLORE: u64 = 16;
/// More often as long as few are known to be good: these few may all be busy.
const EXPLORE_EARLY: u64 = 4;
const GOOD_MIN: usize = 6;
/// Weight of a provider without bond; a whole credit of bond adds as much again.
const WEIGHT: u64 = 16;
const BOND_MAX: u64 = 1 << 20;
/// Until the first try again with one that failed; doubles each time.
const BLOCK_MS: u64 = 2_000;
const BLOCK_MS_MAX: u64 = 600_000;
/// A lie is not forgotten sooner.
const LIE_MS: u64 = 3_600_000;
/// Who failed is asked after all others for so long.
const DOUBT_MS: u64 = 300_000;
/// Milliseconds to reach somebody who was never reached.
const CONNECT_MS: u64 = 60;
const BUSY_SCAN: usize = 1000;
/// Busy so often in a row is ordinary.
const REFUSALS_MAX: u32 = 3;
/// Providers of a model that are looked at to show it.
const SHOWN: usize = 16;
/// Claims count half until they were measured.
const CLAIM: u64 = 2;

/// Who offers what, as one node knows it.
#[derive(Debug, Default)]
pub struct Index {
    models: BTreeMap<Hash, Model>,
    providers: BTreeMap<NodeId, Provider>,
    expiring: BTreeSet<(Millis, NodeId)>,
    released: BTreeSet<(Millis, NodeId)>,
    /// Weights of the models of a name.
    names: BTreeMap<String, BTreeMap<Hash, u64>>,
    refused: RejectCounts,
}

#[derive(Debug, Default)]
struct Provider {
    offers: Vec<Offer>,
    /// Whole credits.
    bond: u64,
    history: History,
}

impl Provider {
    /// Whether nothing speaks for it, and nothing against it that has to be remembered.
    fn is_stranger(&self) -> bool {
        self.bond == 0 && !self.history.good && !self.history.lied
    }
}

/// What this node itself has seen of a provider.
#[derive(Debug, Default, Clone)]
struct History {
    good: bool,
    lied: bool,
    fails: u32,
    /// Busy, in a row.
    refusals: u32,
    blocked: Millis,
    busy: Millis,
    first_ms: Option<u64>,
    prompt_rate: Option<u64>,
    decode_rate: Option<u64>,
}

#[derive(Debug, Default)]
struct Model {
    list: Vec<NodeId>,
    place: BTreeMap<NodeId, usize>,
    /// Weights of all, and of those with a good history.
    all: Weights,
    good: Weights,
}

impl Index {
    /// Takes what a provider says it offers now; `bond` in whole credits, as the chain says. Nothing offered: it is gone.
    pub fn offer(&mut self, now: Millis, provider: NodeId, offers: Vec<Offer>, bond: u64) -> Result<(), Reject> {
        let checked = offers.iter().try_for_each(|offer| offer.check(now));
        let full = checked.is_ok()
            && !self.providers.contains_key(&provider)
            && self.providers.len() >= PROVIDERS_MAX
            && !self.evict(now);
        // A clock that is ahead, or is said to be, holds no place for longer.
        let ends = |offer: Offer| Offer { until: offer.until.min(now.plus(OFFER_MS)), ..offer };
        let offers: Vec<Offer> = offers.into_iter().map(ends).collect();
        let known = self.providers.get(&provider);
        if let Err(reject) = checked.and(if full { Err(Reject::Full) } else { Ok(()) }) {
            self.refused.add(reject);
            return Err(reject);
        }
        if let Some(until) = known.and_then(|known| until(&known.offers)) {
            self.expiring.remove(&(until, provider));
        }
        let before: Vec<Hash> = known.iter().flat_map(|known| &known.offers).map(|offer| offer.model).collect();
        let (old, old_bond) = known.map_or((Vec::new(), 0), |known| (known.offers.clone(), known.bond));
        self.rename(&old, old_bond, false);
        self.rename(&offers, bond.min(BOND_MAX), true);
        let after: BTreeSet<Hash> = offers.iter().map(|offer| offer.model).collect();
        for model in before.iter().filter(|model| !after.contains(model)) {
            self.remove(model, &provider);
        }
        if let Some(until) = until(&offers) {
            self.expiring.insert((until, provider));
        }
        let entry = self.providers.entry(provider).or_default();
        // A process that was started again has not failed yet.
        let since = |offers: &[Offer]| offers.iter().map(|offer| offer.since).max();
        if !entry.history.lied && since(&offers) > since(&entry.offers) {
            // It says so itself: half of what it failed is forgiven.
            (entry.history.blocked, entry.history.busy) = (Millis(0), Millis(0));
            entry.history.fails /= 2;
        }
        (entry.offers, entry.bond) = (offers, bond.min(BOND_MAX));
        // Who is gone and has no history leaves nothing.
        if entry.offers.is_empty() && entry.history.fails == 0 && !entry.history.good {
            self.providers.remove(&provider);
        }
        self.weigh(now, &provider);
        Ok(())
    }

    /// Makes room: a stranger without a bond goes first, the one that was silent longest; whether anybody went. A flood of
    /// new keys would else keep every honest newcomer out.
    fn evict(&mut self, now: Millis) -> bool {
        let some = self.providers.iter().take(EVICT_SCAN);
        let gone = some.filter(|(_, known)| known.is_stranger()).find(|(_, known)| known.offers.is_empty());
        let soonest = || {
            let ending = self.expiring.iter().filter_map(|(_, provider)| self.providers.get_key_value(provider));
            ending.take(EVICT_SCAN).find(|(_, known)| known.is_stranger())
        };
        let Some(victim) = gone.or_else(soonest).map(|(provider, _)| *provider) else { return false };
        let _ = self.offer(now, victim, Vec::new(), 0);
        self.providers.remove(&victim);
        true
    }

    /// What was refused, by reason.
    pub fn refused(&self) -> &RejectCounts {
        &self.refused
    }

    /// Counts a refusal that came before an offer could be read.
    pub fn refuse(&mut self, reject: Reject) {
        self.refused.add(reject);
    }

    /// Time goes on: offers end, providers that failed are tried again.
    pub fn advance(&mut self, now: Millis) {
        while let Some((until, provider)) = self.expiring.first().copied().filter(|(until, _)| *until <= now) {
            self.expiring.remove(&(until, provider));
            let left = self.providers.get(&provider).map(|known| known.offers.clone()).unwrap_or_default();
            let left: Vec<Offer> = left.into_iter().filter(|offer| offer.until > now).collect();
            let bond = self.providers.get(&provider).map_or(0, |known| known.bond);
            let _ = self.offer(now, provider, left, bond);
        }
        while let Some((at, provider)) = self.released.first().copied().filter(|(at, _)| *at <= now) {
            self.released.remove(&(at, provider));
            self.weigh(now, &provider);
        }
    }

    /// How a provider did.
    pub fn note(&mut self, now: Millis, provider: &NodeId, outcome: AttemptOutcome) {
        let Some(known) = self.providers.get_mut(provider) else { return };
        let history = &mut known.history;
        match outcome {
            AttemptOutcome::Answered { first_ms, read, rest_ms, written } => {
                (history.good, history.fails, history.refusals) = (!history.lied, 0, 0);
                history.busy = Millis(0);
                // A lie is not made good by an answer that was under way.
                if !history.lied {
                    history.blocked = Millis(0);
                }
                history.first_ms = Some(mean(history.first_ms, first_ms));
                // A short question tells of the way, not of the machine.
                if read >= 64 && first_ms > 0 {
                    history.prompt_rate = Some(mean(history.prompt_rate, read * 1000 / first_ms));
                }
                if written >= 8 && rest_ms > 0 {
                    history.decode_rate = Some(mean(history.decode_rate, (written * 1000 / rest_ms).max(1)));
                }
            }
            AttemptOutcome::Busy { again_ms } => {
                history.refusals += 1;
                // Who never has room is as good as away.
                let least = if history.refusals > REFUSALS_MAX { BLOCK_MS << history.refusals.min(8) } else { 0 };
                let again_ms = again_ms.max(least);
                history.busy = now.plus(again_ms.min(BLOCK_MS_MAX));
                self.released.insert((history.busy, *provider));
            }
            AttemptOutcome::Failed => {
                history.good = false;
                let until = now.plus((BLOCK_MS << history.fails.min(8)).min(BLOCK_MS_MAX));
                history.blocked = history.blocked.max(until);
                history.fails += 1;
                self.released.insert((history.blocked, *provider));
            }
            AttemptOutcome::Lied(reject) => {
                (history.good, history.lied, history.fails) = (false, true, history.fails + 1);
                history.blocked = now.plus(LIE_MS);
                self.released.insert((history.blocked, *provider));
                self.refused.add(reject);
            }
        }
        self.weigh(now, provider);
    }

    /// Whom to ask: the first one, and who is asked if that one does not answer. `without`: who was asked already.
    pub fn choose(&mut self, now: Millis, need: &Need, without: &[NodeId], rng: &mut Rng) -> Vec<ProviderCandidate> {
        self.advance(now);
        // One of great weight that was asked already would be drawn every time.
        if let Some(model) = self.models.get_mut(&need.model) {
            for at in without.iter().filter_map(|provider| model.place.get(provider).copied()) {
                model.all.set(at, 0);
                model.good.set(at, 0);
            }
        }
        let chosen = self.drawn(now, need, without, rng);
        without.iter().for_each(|provider| self.weigh(now, provider));
        chosen
    }

    fn drawn(&self, now: Millis, need: &Need, without: &[NodeId], rng: &mut Rng) -> Vec<ProviderCandidate> {
        let Some(model) = self.models.get(&need.model) else { return Vec::new() };
        let (mut found, mut doubtful): (Vec<ProviderCandidate>, Vec<ProviderCandidate>) = Default::default();
        let fits = |provider: &NodeId, found: &[ProviderCandidate]| {
            if without.contains(provider) || found.iter().any(|candidate| candidate.provider == *provider) {
                return None;
            }
            self.candidate(now, need, provider).filter(|_| !self.is_away(now, provider))
        };
        found.extend(need.knows.and_then(|provider| fits(&provider, &[])));
        // A conversation stays where it is: looking around is for new ones.
        let every = if model.good.some < GOOD_MIN { EXPLORE_EARLY } else { EXPLORE };
        // Who is paid for reading and has done nothing yet is tried with a short question.
        let cheap = need.price.is_free() || need.read <= TRIED_WITH;
        let explore = cheap && rng.chance(1, every) && found.is_empty();
        for draw in 0..DRAWS {
            // Half of the draws at most among those that are known to be good.
            let good = model.good.total() > 0 && !explore && draw < DRAWS / 2;
            let weights = if good { &model.good } else { &model.all };
            if weights.total() == 0 || found.len() >= 2 + usize::from(need.knows.is_some()) {
                break;
            }
            let at = weights.find(rng.below(weights.total()));
            let Some(provider) = model.list.get(at) else { continue };
            // Who failed lately is asked when no other is found.
            let list = if self.is_doubtful(now, provider) { &mut doubtful } else { &mut found };
            let drawn = fits(provider, list);
            list.extend(drawn);
        }
        if found.is_empty() && doubtful.is_empty() {
            // Few fit: somebody is found if there is anybody.
            let fitting = model.list.iter().filter_map(|provider| fits(provider, &[]));
            found.extend(fitting.min_by_key(|candidate| candidate.expected_ms));
        }
        // A good history goes before a good promise, but where it was decided to look further.
        let known =
            |candidate: &ProviderCandidate| self.providers.get(&candidate.provider).is_some_and(|p| p.history.good);
        // Among strangers the order of the draw stays: the best promise would be a liar's.
        let expected = |candidate: &ProviderCandidate| if known(candidate) { candidate.expected_ms } else { 0 };
        found.sort_by_key(|candidate| (known(candidate) == explore, expected(candidate)));
        found.extend(doubtful);
        found.truncate(2);
        found
    }

    /// The model of a name: that of the most weight, by bonds.
    pub fn named(&self, name: &str) -> Option<Hash> {
        self.names.get(name)?.iter().max_by_key(|(_, weight)| **weight).map(|(model, _)| *model)
    }

    /// Models of a name whose hashes begin with these digits, two at most: anybody may claim any hash, and as many as
    /// they like.
    pub fn named_at(&self, name: &str, digits: &str) -> Vec<Hash> {
        let digit = |c: u8| char::from(c).to_digit(16).filter(|_| !c.is_ascii_uppercase());
        let values: Option<Vec<u32>> = digits.bytes().map(digit).collect();
        let (Some(models), Some(values)) = (self.names.get(name), values) else { return Vec::new() };
        if !(DIGITS_MIN..=64).contains(&values.len()) {
            return Vec::new();
        }
        let mut least = Hash::default();
        for (i, value) in values.into_iter().enumerate() {
            least.0[i / 2] |= (value << if i % 2 == 0 { 4 } else { 0 }) as u8;
        }
        let meant = models.range(least..).map(|(model, _)| *model);
        meant.take_while(|model| model.to_string().starts_with(digits)).take(2).collect()
    }

    fn rename(&mut self, offers: &[Offer], bond: u64, add: bool) {
        for offer in offers {
            let models = self.names.entry(offer.name.clone()).or_default();
            let weight = models.entry(offer.model).or_default();
            let part = WEIGHT + WEIGHT * bond;
            *weight = if add { *weight + part } else { weight.saturating_sub(part) };
            if *weight == 0 {
                models.remove(&offer.model);
            }
            if models.is_empty() {
                self.names.remove(&offer.name);
            }
        }
    }

    /// When the first of those that would fit, but are busy, may have room; of the first thousand.
    pub fn busy_ms(&self, now: Millis, need: &Need, without: &[NodeId]) -> Option<u64> {
        let model = self.models.get(&need.model)?;
        let others = model.list.iter().take(BUSY_SCAN).filter(|provider| !without.contains(provider));
        let busy =
            others.filter_map(|provider| Some(self.providers.get(provider)?.history.busy)).filter(|at| *at > now);
        busy.min().map(|at| at.since(now))
    }

    /// Models on offer: the offer of a provider with much at stake, and how many providers.
    pub fn models(&self) -> impl Iterator<Item = (&Offer, usize)> {
        self.models.iter().filter_map(|(hash, model)| {
            let some = model.list.iter().take(SHOWN);
            let most = some.max_by_key(|provider| self.providers.get(provider).map_or(0, |known| known.bond))?;
            Some((self.offer_of(most, hash)?, model.list.len()))
        })
    }

    /// Every provider of a model, with its offer.
    pub fn providers(&self, model: &Hash) -> impl Iterator<Item = (&NodeId, &Offer)> {
        let list = self.models.get(model).map(|model| model.list.as_slice()).unwrap_or_default();
        list.iter().filter_map(|provider| Some((provider, self.offer_of(provider, model)?)))
    }

    fn offer_of(&self, provider: &NodeId, model: &Hash) -> Option<&Offer> {
        self.providers.get(provider)?.offers.iter().find(|offer| offer.model == *model)
    }

    fn candidate(&self, now: Millis, need: &Need, provider: &NodeId) -> Option<ProviderCandidate> {
        let known = self.providers.get(provider)?;
        let offer = known.offers.iter().find(|offer| offer.model == need.model)?;
        let history = &known.history;
        let fits = u64::from(offer.context) >= need.context && offer.price.within(&need.price) && offer.until > now;
        if !fits {
            return None;
        }
        let measured = |own: Option<u64>, claimed: u32| own.unwrap_or(u64::from(claimed) / CLAIM).max(1);
        let unread = if need.knows == Some(*provider) { need.read / 8 } else { need.read };
        let prompt_rate = measured(history.prompt_rate, offer.prompt_rate);
        let reading = unread * 1000 / prompt_rate;
        let writing = need.written * 1000 / measured(history.decode_rate, offer.decode_rate);
        let reaching = history.first_ms.unwrap_or(CONNECT_MS);
        let expected_ms = reaching + reading + writing;
        let known = history.good;
        Some(ProviderCandidate { provider: *provider, offer: offer.clone(), expected_ms, prompt_rate, known })
    }

    /// Whether it has no room, or failed a moment ago.
    fn is_away(&self, now: Millis, provider: &NodeId) -> bool {
        self.providers.get(provider).is_some_and(|known| known.history.blocked.max(known.history.busy) > now)
    }

    /// Whether it failed lately, and has not answered since.
    fn is_doubtful(&self, now: Millis, provider: &NodeId) -> bool {
        let doubtful = |history: &History| history.fails > 0 && history.blocked.plus(DOUBT_MS) > now;
        self.providers.get(provider).is_some_and(|known| doubtful(&known.history))
    }

    /// Puts a provider where its weight belongs, in every model that it offers.
    fn weigh(&mut self, now: Millis, provider: &NodeId) {
        let Some(known) = self.providers.get(provider) else { return };
        let away = known.history.blocked.max(known.history.busy) > now;
        let weight = match away {
            true => 0,
            // Who failed since it answered last is drawn rarely, whatever is at stake for it.
            false if self.is_doubtful(now, provider) => 1,
            false => WEIGHT + WEIGHT * known.bond,
        };
        let good = if known.history.good { weight } else { 0 };
        let models: Vec<Hash> = known.offers.iter().map(|offer| offer.model).collect();
        for hash in models {
            let model = self.models.entry(hash).or_default();
            let at = *model.place.entry(*provider).or_insert_with(|| {
                model.list.push(*provider);
                model.list.len() - 1
            });
            model.all.set(at, weight);
            model.good.set(at, good);
        }
    }

    fn remove(&mut self, hash: &Hash, provider: &NodeId) {
        let Some(model) = self.models.get_mut(hash) else { return };
        let Some(at) = model.place.remove(provider) else { return };
        let last = model.list.len() - 1;
        model.list.swap_remove(at);
        for weights in [&mut model.all, &mut model.good] {
            let moved = weights.get(last);
            weights.set(last, 0);
            if at < last {
                weights.set(at, moved);
            }
        }
        if let Some(moved) = model.list.get(at) {
            model.place.insert(*moved, at);
        }
        if model.list.is_empty() {
            self.models.remove(hash);
        }
    }
}

fn until(offers: &[Offer]) -> Option<Millis> {
    offers.iter().map(|offer| offer.until).min()
}

/// A new measurement counts a quarter.
fn mean(before: Option<u64>, now: u64) -> u64 {
    before.map_or(now, |before| (before * 3 + now) / 4)
}
