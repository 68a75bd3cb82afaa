//! Keys of the API: stored as hashes, each with its own limits.

use crate::error::ApiError;
use base::Hash;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
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
    /// Tokens that it may have read and written in all, restarts counted where the server keeps what was used.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// Unix time in seconds after which it is refused.
    #[serde(default)]
    pub expires: Option<u64>,
}

/// Names the hash of a key.
const DOMAIN: &str = "talkoo 2026 api key v1";
const MINUTE: Duration = Duration::from_secs(60);
/// Answers that are being written may end at any time: a client may look again after a second.
const AGAIN_MS: u64 = 1000;

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
    save: Option<Box<Save>>,
    /// What was saved last.
    saved: Mutex<BTreeMap<Hash, u64>>,
}

/// Gives the keys that are accepted from now on, where they changed since it was asked last.
pub type News = dyn Fn() -> Option<Vec<Key>> + Send + Sync;

/// Saves the tokens that each key has used, by the key's hash, so that a restart does not give them back.
pub type Save = dyn Fn(&BTreeMap<Hash, u64>) -> Result<(), String> + Send + Sync;

#[derive(Debug, Default)]
struct Used {
    tokens: u64,
    /// Tokens that answers may still use which are being written.
    reserved: u64,
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

    /// Counts on from what was used before; [`save`](Self::save) keeps what is used from now on.
    pub fn keeping(self, used: BTreeMap<Hash, u64>, save: Box<Save>) -> Self {
        let counted = used.iter().map(|(hash, tokens)| (*hash, Used { tokens: *tokens, ..Used::default() })).collect();
        Self { used: Mutex::new(counted), save: Some(save), saved: Mutex::new(used), ..self }
    }

    /// Saves what was used, where that changed since it was saved last. What cannot be saved is tried again next time.
    pub fn save(&self) {
        let Some(save) = self.save.as_ref().filter(|_| self.changed()) else { return };
        let now = self.counted();
        match save(&now) {
            Ok(()) => *self.saved.lock().expect("nobody panics while holding it") = now,
            Err(why) => tracing::warn!(%why, "what API keys have used is not saved"),
        }
    }

    /// Whether there is something to save.
    pub(crate) fn changed(&self) -> bool {
        self.save.is_some() && *self.saved.lock().expect("nobody panics while holding it") != self.counted()
    }

    fn counted(&self) -> BTreeMap<Hash, u64> {
        let used = self.used.lock().expect("nobody panics while holding it");
        used.iter().filter(|(_, used)| used.tokens > 0).map(|(hash, used)| (*hash, used.tokens)).collect()
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
            Some(key) if key.expires.is_some_and(|at| at <= now) => {
                Err(ApiError::key("This API key has expired. The node's owner makes another one: `talkoo key create`."))
            }
            Some(key) => Ok(Caller { client: hash.0, key: Some(key) }),
            // Clients insist on sending some key; on one's own machine any will do, and tells them apart.
            None if !needed => Ok(Caller { client: hash.0, key: None }),
            None => Err(ApiError::key("Incorrect API key provided. `talkoo key ls` lists the keys that are known.")),
        }
    }

    /// Whether `caller` may ask `model` now, for at most `bound` tokens; counts the request, and sets the tokens aside.
    pub(crate) fn admit(
        self: &Arc<Self>,
        caller: &Caller,
        model: &str,
        bound: u64,
        now: Instant,
    ) -> Result<Reserved, ApiError> {
        let Some(key) = &caller.key else { return Ok(Reserved { keys: self.clone(), key: None, bound: 0 }) };
        if !caller.may_ask(model) {
            return Err(ApiError::model(model));
        }
        let mut used = self.used.lock().expect("nobody panics while holding it");
        let used = used.entry(key.hash).or_default();
        if let Some(limit) = key.tokens {
            used.room(limit, bound)?;
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
        used.reserved = used.reserved.saturating_add(bound);
        Ok(Reserved { keys: self.clone(), key: Some(key.hash), bound })
    }
}

impl Used {
    /// Whether `bound` more tokens fit below a limit, with those that are set aside.
    fn room(&self, limit: u64, bound: u64) -> Result<(), ApiError> {
        let left = limit.saturating_sub(self.tokens);
        let free = left.saturating_sub(self.reserved);
        if left == 0 {
            return Err(ApiError::quota(
                "This API key has used all its tokens. The node's owner makes another one: `talkoo key create`.",
            ));
        }
        if bound > left {
            return Err(ApiError::quota(&format!(
                "This API key has {left} tokens left, and this request may take {bound}: a byte of the question counts \
                 as a token until it is read. Ask for fewer tokens, or send a shorter question."
            )));
        }
        if bound > free {
            let message = format!(
                "This API key has {left} tokens left, of which answers that are being written may take {}. Try again \
                 when they have ended, or ask for fewer tokens.",
                self.reserved
            );
            return Err(ApiError::rate(message, AGAIN_MS));
        }
        Ok(())
    }
}

/// Tokens of a key's quota that are set aside for a request, until this is dropped.
pub(crate) struct Reserved {
    keys: Arc<Keys>,
    key: Option<Hash>,
    bound: u64,
}

impl Reserved {
    /// Counts what was really read and written.
    pub(crate) fn count(&self, tokens: u64) {
        self.change(|used| used.tokens = used.tokens.saturating_add(tokens));
    }

    fn change(&self, with: impl FnOnce(&mut Used)) {
        if let Some(key) = self.key {
            with(self.keys.used.lock().expect("nobody panics while holding it").entry(key).or_default());
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.change(|used| used.reserved = used.reserved.saturating_sub(self.bound));
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
        let keys = Arc::new(Keys::new(vec![limited]));
        assert!(keys.caller(None, true, 0).is_err());
        assert!(keys.caller(Some("other"), true, 0).is_err());
        assert!(keys.caller(Some("s"), true, 100).is_err());
        let caller = keys.caller(Some("s"), true, 99).expect("known");
        let now = Instant::now();
        let admit = |model: &str, now: Instant| keys.admit(&caller, model, 0, now);
        assert_eq!(admit("other", now).err().expect("refused").code, Some("model_not_found"));
        assert!(admit("m", now).is_ok());
        assert!(admit("m", now).is_ok());
        let late = admit("m", now).err().expect("the third in a minute");
        assert_eq!((late.code, late.again_ms), (Some("rate_limit_exceeded"), Some(60_001)));
        admit("m", now + MINUTE).expect("a minute later").count(10);
        assert_eq!(admit("m", now + 2 * MINUTE).err().expect("used up").code, Some("insufficient_quota"));
    }

    #[test]
    fn a_hundred_requests_at_a_time_do_not_pass_a_keys_quota() {
        let keys = Arc::new(Keys::new(vec![Key { tokens: Some(1000), ..key("s") }]));
        let caller = keys.caller(Some("s"), true, 0).expect("known");
        let admit = |bound: u64| keys.admit(&caller, "m", bound, Instant::now());
        let mut answers: Vec<Reserved> = (0..100).filter_map(|_| admit(100).ok()).collect();
        assert_eq!(answers.len(), 10);
        assert_eq!(admit(100).err().expect("set aside").code, Some("rate_limit_exceeded"));
        // Each took less than it might have, and one was never written: what they leave is there for others.
        drop(answers.pop());
        answers.drain(..).for_each(|answer| answer.count(40));
        let error = admit(641).err().expect("more than is left");
        assert_eq!((error.code, error.message.contains("640 tokens left")), (Some("insufficient_quota"), true));
        let last = admit(640).expect("all that is left");
        last.count(640);
        drop(last);
        assert_eq!(admit(0).err().expect("used up").code, Some("insufficient_quota"));
    }

    #[test]
    fn a_restart_gives_no_tokens_back() {
        let disk = Arc::new(Mutex::new((BTreeMap::new(), 0)));
        let start = || {
            let place = disk.clone();
            let save = move |used: &BTreeMap<Hash, u64>| {
                let mut place = place.lock().expect("a lock");
                place.1 += 1;
                // The first time there is no room.
                if place.1 == 1 {
                    return Err("full".to_owned());
                }
                place.0 = used.clone();
                Ok(())
            };
            let before = disk.lock().expect("a lock").0.clone();
            Arc::new(Keys::new(vec![Key { tokens: Some(10), ..key("s") }]).keeping(before, Box::new(save)))
        };
        let keys = start();
        let caller = keys.caller(Some("s"), true, 0).expect("known");
        keys.save();
        assert_eq!(disk.lock().expect("a lock").1, 0, "nothing was used yet");
        keys.admit(&caller, "m", 7, Instant::now()).expect("room").count(7);
        (0..3).for_each(|_| keys.save());
        assert_eq!(disk.lock().expect("a lock").1, 2, "once in vain, once for good");
        let keys = start();
        let error = keys.admit(&caller, "m", 4, Instant::now()).err().expect("three are left");
        assert_eq!(error.code, Some("insufficient_quota"));
        assert!(keys.admit(&caller, "m", 3, Instant::now()).is_ok());
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
