//! Which models there are, their tokens, and the receipts of answers.

use crate::error::ApiError;
use crate::keys::Caller;
use crate::params;
use crate::state::{Bound, Shared};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use market::ModelCard;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

fn model_json(card: &ModelCard) -> Value {
    json!({
        "id": card.name, "object": "model", "created": card.since, "owned_by": "talkoo",
        "max_model_len": card.context, "hash": card.hash.to_string(), "providers": card.providers,
    })
}

pub(crate) async fn models(State(shared): State<Arc<Shared>>, Extension(caller): Extension<Caller>) -> Json<Value> {
    let models = shared.answers.models();
    let list: Vec<Value> = models.iter().filter(|card| caller.may_ask(&card.name)).map(model_json).collect();
    Json(json!({ "object": "list", "data": list }))
}

pub(crate) async fn model(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let card = shared.card(&id)?;
    if caller.may_ask(&id) { Ok(Json(model_json(&card))) } else { Err(ApiError::model(&id)) }
}

pub(crate) async fn receipt(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let text = shared.answers.receipt(&id).ok_or_else(|| ApiError::not_found(&format!("/v1/receipts/{id}")))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// A text whose tokens are wanted.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Tokenize {
    /// Which model's; of the first one where none is named.
    model: Option<String>,
    /// The text.
    #[schemars(required)]
    prompt: Option<String>,
}

/// Tokens whose text is wanted.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Detokenize {
    /// Which model's; of the first one where none is named.
    model: Option<String>,
    /// Their ids.
    #[schemars(required)]
    tokens: Option<Vec<i32>>,
}

/// The named model, or the first one, if `caller` may ask it now.
fn model_of(named: Option<&String>, shared: &Shared, caller: &Caller) -> Result<String, ApiError> {
    let first = || shared.answers.models().into_iter().next().map(|card| card.name);
    let model = named.cloned().or_else(first).ok_or_else(|| ApiError::missing("model"))?;
    shared.admit(caller, &model, Bound::default())?;
    Ok(model)
}

pub(crate) async fn tokenize(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let asked: Tokenize = params::fields(&params::object(&headers, &body)?)?;
    let text = asked.prompt.as_deref().ok_or_else(|| ApiError::missing("prompt"))?;
    let ids = shared.answers.tokenize(&model_of(asked.model.as_ref(), &shared, &caller)?, text).await?;
    Ok(Json(json!({ "count": ids.len(), "tokens": ids })))
}

pub(crate) async fn detokenize(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let asked: Detokenize = params::fields(&params::object(&headers, &body)?)?;
    let ids = asked.tokens.as_deref().ok_or_else(|| ApiError::missing("tokens"))?;
    let text = shared.answers.detokenize(&model_of(asked.model.as_ref(), &shared, &caller)?, ids).await?;
    Ok(Json(json!({ "prompt": text })))
}
