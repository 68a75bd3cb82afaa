//! Keys of the API: stored as hashes, each with its own limits.

use crate::error::ApiError;
use base::Hash;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A key as it is stored: not the key itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// What its owner calls it.
    pub name: String,
    /// Hash of the key.
    pub hash: Hash,
    /// Its first characters, to tell it from others.
    pub hint: String,
    /// Whether it is the owner's: it sees the node's figures, and may pause it.
    #[serde(default)]
    pub owner: bool,
    /// Models that it may ask; empty = all.
    #[serde(default)]
    pub models: Vec<String>,
    /// Requests a minute.
    #[serde(default)]
    pub per_minute: Option<u32>,
    /// Tokens that it may have read and written in all.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// Unix time in seconds after which it is refused.
    #[serde(default)]
    pub expires: Option<u64>,
}

/// Names the hash of a key.
const DOMAIN: &str = "talkoo 2026 api key v1";
const MINUTE: Duration = Duration::from_secs(60);

impl Key {
    /// The hash under which a key is stored.
    pub fn hash_of(secret: &str) -> Hash {
        Hash::of(DOMAIN, secret.as_bytes())
    }
}

/// The keys that are accepted, and what each has used.
#[derive(Default)]
pub struct Keys {
    keys: Mutex<BTreeMap<Hash, Key>>,
    used: Mutex<BTreeMap<Hash, Used>>,
    news: Option<Box<News>>,
}

/// Gives the keys that are accepted from now on, where they changed since it was asked last.
pub type News = dyn Fn() -> Option<Vec<Key>> + Send + Sync;

#[derive(Debug, Default)]
struct Used {
    tokens: u64,
    requests: VecDeque<Instant>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// What is read for one is never shared with another.
    pub(crate) client: [u8; 32],
    key: Option<Key>,
}

impl Caller {
    /// Whether its key is one of those that are stored.
    pub(crate) fn known(&self) -> bool {
        self.key.is_some()
    }

    /// Whether it is the node's owner: by an owner's key, or without any that is known where none is needed.
    pub(crate) fn owns(&self, keys_needed: bool) -> bool {
        self.key.as_ref().map_or(!keys_needed, |key| key.owner)
    }

    /// Whether its key, if it has one, is for this model too.
    pub(crate) fn may_ask(&self, model: &str) -> bool {
        self.key.as_ref().is_none_or(|key| key.models.is_empty() || key.models.iter().any(|known| known == model))
    }
}

impl Keys {
    /// Accepts these.
    pub fn new(keys: Vec<Key>) -> Self {
        let all = Self::default();
        all.put(keys);
        all
    }

    /// Asks for them anew with each request; what was used stays counted.
    pub fn asking(news: Box<News>) -> Self {
        Self { news: Some(news), ..Self::default() }
    }

    fn put(&self, keys: Vec<Key>) {
        let keys = keys.into_iter().map(|key| (key.hash, key)).collect();
        *self.keys.lock().expect("nobody panics while holding it") = keys;
    }

    /// Who has this key. The hash is looked up, so that no comparison tells how much of a guess was right.
    pub(crate) fn caller(&self, bearer: Option<&str>, needed: bool, now: u64) -> Result<Caller, ApiError> {
        let Some(secret) = bearer else {
            return match needed {
                true => Err(ApiError::key(
                    "You did not provide an API key: Authorization: Bearer KEY. `talkoo key create` makes one.",
                )),
                false => Ok(Caller { client: [0; 32], key: None }),
            };
        };
        if let Some(keys) = self.news.as_ref().and_then(|news| news()) {
            self.put(keys);
        }
        let hash = Key::hash_of(secret);
        let found = self.keys.lock().expect("nobody panics while holding it").get(&hash).cloned();
        match found {
            Some(key) if key.expires.is_some_and(|at| at <= now) => Err(ApiError::key("This API key has expired.")),
            Some(key) => Ok(Caller { client: hash.0, key: Some(key) }),
            // Clients insist on sending some key; on one's own machine any will do, and tells them apart.
            None if !needed => Ok(Caller { client: hash.0, key: None }),
            None => Err(ApiError::key("Incorrect API key provided. `talkoo key ls` lists the keys that are known.")),
        }
    }

    /// Whether `caller` may ask `model` now; counts the request.
    pub(crate) fn admit(&self, caller: &Caller, model: &str, now: Instant) -> Result<(), ApiError> {
        let Some(key) = &caller.key else { return Ok(()) };
        if !caller.may_ask(model) {
            return Err(ApiError::model(model));
        }
        let mut used = self.used.lock().expect("nobody panics while holding it");
        let used = used.entry(key.hash).or_default();
        if key.tokens.is_some_and(|limit| used.tokens >= limit) {
            return Err(ApiError::quota("This API key has used all the tokens that it may."));
        }
        if let Some(limit) = key.per_minute {
            while used.requests.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
                used.requests.pop_front();
            }
            if used.requests.len() >= limit as usize {
                let oldest = used.requests.front().map_or(MINUTE, |at| MINUTE.saturating_sub(now.duration_since(*at)));
                let message = format!("Rate limit reached: {limit} requests a minute for this API key.");
                return Err(ApiError::rate(message, oldest.as_millis() as u64 + 1));
            }
            used.requests.push_back(now);
        }
        Ok(())
    }

    /// Counts what was read and written.
    pub(crate) fn count(&self, caller: &Caller, tokens: u64) {
        if let Some(key) = &caller.key {
            self.used.lock().expect("nobody panics while holding it").entry(key.hash).or_default().tokens += tokens;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> Key {
        let hash = Key::hash_of(secret);
        let (name, hint) = ("a".into(), "tk".into());
        Key { name, hash, hint, owner: false, models: vec![], per_minute: None, tokens: None, expires: None }
    }

    #[test]
    fn keys_that_are_made_or_revoked_count_from_the_next_request_on() {
        let stored = std::sync::Arc::new(Mutex::new(Some(vec![key("a")])));
        let news = stored.clone();
        let keys = Keys::asking(Box::new(move || news.lock().expect("a lock").take()));
        assert!(keys.caller(Some("a"), true, 0).is_ok_and(|caller| !caller.owns(true)));
        *stored.lock().expect("a lock") = Some(vec![Key { owner: true, ..key("b") }]);
        assert!(keys.caller(Some("a"), true, 0).is_err());
        assert!(keys.caller(Some("b"), true, 0).is_ok_and(|caller| caller.owns(true)));
    }

    #[test]
    fn a_key_is_good_until_it_expires_and_within_its_limits() {
        let limited =
            Key { models: vec!["m".into()], per_minute: Some(2), tokens: Some(10), expires: Some(100), ..key("s") };
        let keys = Keys::new(vec![limited]);
        assert!(keys.caller(None, true, 0).is_err());
        assert!(keys.caller(Some("other"), true, 0).is_err());
        assert!(keys.caller(Some("s"), true, 100).is_err());
        let caller = keys.caller(Some("s"), true, 99).expect("known");
        let now = Instant::now();
        assert_eq!(keys.admit(&caller, "other", now).expect_err("refused").code, Some("model_not_found"));
        assert!(keys.admit(&caller, "m", now).is_ok());
        assert!(keys.admit(&caller, "m", now).is_ok());
        let late = keys.admit(&caller, "m", now).expect_err("the third in a minute");
        assert_eq!((late.code, late.again_ms), (Some("rate_limit_exceeded"), Some(60_001)));
        assert!(keys.admit(&caller, "m", now + MINUTE).is_ok());
        keys.count(&caller, 10);
        assert_eq!(keys.admit(&caller, "m", now + 2 * MINUTE).expect_err("used up").code, Some("insufficient_quota"));
    }

    #[test]
    fn on_ones_own_machine_any_key_will_do_and_tells_callers_apart() {
        let keys = Keys::default();
        let nobody = keys.caller(None, false, 0).expect("fine").client;
        let one = keys.caller(Some("one"), false, 0).expect("fine").client;
        let two = keys.caller(Some("two"), false, 0).expect("fine").client;
        assert!(nobody != one && one != two);
    }
}
