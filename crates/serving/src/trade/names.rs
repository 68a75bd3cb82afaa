//! Which weights a name means: a model of this machine has its own name, one of other machines has `net/NAME`.
//!
//! A prompt for a model of this machine never leaves it because the model is unloaded: a bare name goes to the network
//! only where the owner lists it in `[ask] for_names`.

use super::{SEEN, Trade};
use base::{Hash, NodeId};
use market::{Index, ModelCard, Offer, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The beginning of the names of other machines' models.
pub const NET: &str = "net/";
/// Models of others that are listed.
const LISTED: usize = 256;
/// Names of others that stay bound to the weights of their first use; an owner asks for a few dozen.
const PINS_MAX: usize = 4_096;
const PINS_FILE: &str = "net-names";

/// Who may be asked.
pub(super) enum Whom {
    /// This node itself, or whoever fits best.
    Any,
    /// This node itself: nothing leaves the machine.
    Own,
    /// Whoever fits best, but not this node.
    Others,
    /// Nobody but this one.
    Only(NodeId),
}

/// Who is asked for which weights.
pub(super) struct Target {
    pub(super) whom: Whom,
    pub(super) weights: Hash,
    /// Tokens that it takes, as far as known.
    pub(super) context: u64,
    /// The model's name as its provider has it.
    pub(super) name: String,
}

/// Names of other machines' models with the weights that each meant at its first use, one line each on disk.
pub(super) struct Pins {
    path: PathBuf,
    known: Mutex<BTreeMap<String, Hash>>,
}

impl Pins {
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join(PINS_FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let line = |line: &str| {
            let (hash, name) = line.split_once(' ')?;
            Some((name.to_owned(), hash.parse().ok()?))
        };
        let known = text.lines().filter_map(line).take(PINS_MAX).collect();
        Self { path, known: Mutex::new(known) }
    }

    fn get(&self, name: &str) -> Option<Hash> {
        self.known.lock().expect("nobody panics while holding it").get(name).copied()
    }

    /// The weights that `name` meant at its first use; `now` where this is the first.
    fn first(&self, name: &str, now: Hash) -> Hash {
        let mut known = self.known.lock().expect("nobody panics while holding it");
        if let Some(pinned) = known.get(name) {
            return *pinned;
        }
        if known.len() < PINS_MAX {
            known.insert(name.to_owned(), now);
            let text: String = known.iter().map(|(name, hash)| format!("{hash} {name}\n")).collect();
            if let Err(error) = host::write_whole(&self.path, text.as_bytes(), false) {
                tracing::warn!(%error, "a model's name is bound to its weights until the next start only");
            }
        }
        now
    }
}

impl Trade {
    /// Who is asked for a model of this name, or why nobody is.
    pub(super) fn target(&self, name: &str) -> Result<Target, Reason> {
        if let Some(name) = name.strip_prefix(NET) {
            return self.target_of_others(name);
        }
        let allowed = self.config.for_names.iter().any(|allowed| allowed == name);
        if let Some(served) = self.provider.local.named(name) {
            let (whom, card) = (if allowed { Whom::Any } else { Whom::Own }, served.card());
            return Ok(Target { whom, weights: card.hash, context: card.context, name: card.name.clone() });
        }
        if allowed {
            return self.target_of_others(name);
        }
        if self.is_own(name) {
            let why = format!("`{name}` is on this machine and not loaded, for want of memory or by its settings");
            return Err(Reason::Away(why));
        }
        if self.is_offered(name) {
            let why = format!("no model of this machine is called `{name}`; others offer one as `{NET}{name}`");
            return Err(Reason::Unsupported { what: "model".into(), why });
        }
        Err(Reason::Model(name.to_owned()))
    }

    fn target_of_others(&self, name: &str) -> Result<Target, Reason> {
        let (weights, context) = self.offered(name)?;
        let name = name.rsplit_once(market::AT).map_or(name, |(plain, _)| plain);
        Ok(Target { whom: Whom::Others, weights, context, name: name.to_owned() })
    }

    /// The weights that `NAME` or `NAME@HASH` means among those that others offer, and the tokens that they take.
    pub(super) fn offered(&self, name: &str) -> Result<(Hash, u64), Reason> {
        let mut index = self.index.lock().expect("nobody panics while holding it");
        index.advance(crate::clock::clock());
        let unknown = || Reason::Model(format!("{NET}{name}"));
        let weights = match name.rsplit_once(market::AT) {
            None => self.pins.first(name, index.named(name).ok_or_else(unknown)?),
            Some((plain, digits)) => match index.named_at(plain, digits).as_slice() {
                [one] => *one,
                [] => return Err(unknown()),
                _ => {
                    let why =
                        format!("several weights that others call `{plain}` begin with {digits}: give more digits");
                    return Err(Reason::Invalid { what: "model".into(), why });
                }
            },
        };
        let context = index.providers(&weights).take(SEEN).map(|(_, offer)| u64::from(offer.context)).max();
        let context = context.ok_or_else(|| {
            let file = self.pins.path.display();
            Reason::Away(format!(
                "`{NET}{name}` has meant the weights {} since its first use, and only others are offered under it; \
                 name them as /v1/models does, or delete the name's line in {file}",
                weights.short()
            ))
        })?;
        Ok((weights, context))
    }

    /// Whether others offer a model of this name.
    fn is_offered(&self, name: &str) -> bool {
        self.index.lock().expect("nobody panics while holding it").named(name).is_some()
    }

    /// Whether this node has a model of this name, loaded or not.
    fn is_own(&self, name: &str) -> bool {
        if self.own.lock().expect("nobody panics while holding it").contains(name) {
            return true;
        }
        let folder = crate::Models::of(&self.dir).all();
        folder.is_ok_and(|all| all.iter().any(|model| model.name == name))
    }

    /// Remembers what is served: its name stays this machine's when it is unloaded.
    pub(super) fn remember_own(&self) {
        let names = self.provider.local.all().into_iter().map(|served| served.card().name.clone());
        self.own.lock().expect("nobody panics while holding it").extend(names);
    }

    /// Models that were served here and are not loaded now.
    pub fn unloaded(&self) -> Vec<String> {
        let own: BTreeSet<String> = self.own.lock().expect("nobody panics while holding it").clone();
        own.into_iter().filter(|name| self.provider.local.named(name).is_none()).collect()
    }

    /// Models that can be asked: of this machine first, then those of most providers.
    pub fn models(&self) -> Vec<ModelCard> {
        let local = self.provider.local.all();
        let mut out: Vec<ModelCard> = local.iter().map(|served| served.card().clone()).collect();
        let mut index = self.index.lock().expect("nobody panics while holding it");
        index.advance(crate::clock::clock());
        let mut offers: Vec<(&Offer, usize)> = index.models().collect();
        offers.sort_by_key(|(_, providers)| std::cmp::Reverse(*providers));
        for (offer, providers) in offers.into_iter().take(LISTED) {
            let (context, since, providers) = (u64::from(offer.context), offer.since.0 / 1000, providers as u64);
            let card = |name| ModelCard { name, hash: offer.model, context, tools: offer.tools, since, providers };
            if !self.is_meant(&index, offer) {
                // All of it: whoever claims a hash that begins alike makes fewer digits mean nothing.
                out.push(card(format!("{NET}{}{}{}", offer.name, market::AT, offer.model)));
                continue;
            }
            if self.config.for_names.contains(&offer.name) && local.iter().all(|s| s.card().name != offer.name) {
                out.push(card(offer.name.clone()));
            }
            out.push(card(format!("{NET}{}", offer.name)));
        }
        out
    }

    /// Whether an offer's weights are those that its bare name means.
    fn is_meant(&self, index: &Index, offer: &Offer) -> bool {
        self.pins.get(&offer.name).or_else(|| index.named(&offer.name)) == Some(offer.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_the_weights_of_its_first_use_over_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mine, squatter) = (Hash::of("weights", b"mine"), Hash::of("weights", b"squatter"));
        let pins = Pins::open(dir.path());
        assert_eq!(pins.first("a b", mine), mine);
        assert_eq!(pins.first("a b", squatter), mine);
        let pins = Pins::open(dir.path());
        assert_eq!((pins.get("a b"), pins.get("other")), (Some(mine), None));
        assert_eq!(pins.first("a b", squatter), mine);
    }
}
