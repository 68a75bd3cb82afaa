//! What all requests share: who answers, whose keys count, what was used.

use crate::Answers;
use crate::error::ApiError;
use crate::ids::unix_time;
use crate::keys::{Caller, Keys, Reserved};
use crate::metrics::Metrics;
use crate::panel::PanelSource;
use crate::usage::Usage;
use axum::http::{HeaderMap, header};
use market::ModelCard;
use std::sync::Arc;
use std::time::Instant;

/// What requests share.
pub(crate) struct Shared {
    pub(crate) answers: Arc<dyn Answers>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) metrics: Metrics,
    /// Tokens of an answer where the request names no bound.
    pub(crate) answer_tokens: u64,
    /// Temperature where the request names none.
    pub(crate) temperature: f32,
    /// What the page shows.
    pub(crate) panel: Option<Arc<dyn PanelSource>>,
    /// Whether a request without a key is refused.
    pub(crate) keys_needed: bool,
}

impl Shared {
    /// Who asks with these headers, now.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer =
            bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).filter(|key| !key.is_empty());
        self.keys.caller(bearer, self.keys_needed, unix_time())
    }

    pub(crate) fn card(&self, model: &str) -> Result<ModelCard, ApiError> {
        let card = self.answers.models().into_iter().find(|card| card.name == model);
        card.ok_or_else(|| self.answers.unlisted(model).into())
    }

    /// The card of a model that `caller` may ask now, and what is set aside of its quota.
    pub(crate) fn admit(&self, caller: &Caller, model: &str, bound: Bound) -> Result<(ModelCard, Reserved), ApiError> {
        let card = self.card(model)?;
        let reserved = self.keys.admit(caller, model, bound.tokens(card.context), Instant::now())?;
        Ok((card, reserved))
    }

    /// Counts what was read and written.
    pub(crate) fn count(&self, reserved: &Reserved, used: &Usage) {
        self.metrics.used(used);
        reserved.count(used.prompt + used.written);
    }
}

/// What a request may take at most, before its question is read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bound {
    /// Of the request. A token has at least one.
    pub(crate) bytes: usize,
    /// Questions in it.
    pub(crate) questions: u64,
    /// Answers to all of them.
    pub(crate) answers: u64,
    /// Tokens of each answer.
    pub(crate) written: u64,
}

/// Tokens that a model's template puts around a question.
const TEMPLATE: u64 = 256;

impl Bound {
    /// In tokens of a model that takes so many, question and answer together.
    fn tokens(&self, context: u64) -> u64 {
        let read = (self.bytes as u64 + TEMPLATE).min(self.questions.saturating_mul(context));
        read.saturating_add(self.answers.saturating_mul(self.written.min(context)))
    }
}

/// Which weights wrote an answer, as the API says it.
pub(crate) fn fingerprint(card: &ModelCard) -> String {
    format!("fp_{}", &card.hash.to_string()[..12])
}
