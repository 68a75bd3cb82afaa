//! `/v1/embeddings`: what texts mean, as vectors.

use crate::AnswerOrigin;
use crate::error::ApiError;
use crate::keys::Caller;
use crate::params;
use crate::state::{Bound, Shared};
use crate::stream;
use crate::table::{self, Endpoint};
use crate::usage::Usage;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use market::AskInput;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Request {
    /// Which model, as `/v1/models` names it.
    #[schemars(required)]
    model: Option<String>,
    /// The texts.
    #[schemars(required)]
    input: Option<params::Prompt>,
    /// Numbers, or little-endian 32-bit floats in base64.
    encoding_format: Option<Encoding>,
    /// Numbers in a vector; the model's own only.
    dimensions: Option<u64>,
}

#[derive(Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

/// As many as the API takes.
const INPUTS_MAX: usize = 2048;

pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let value = params::object(&headers, &body)?;
    let request: Request = params::fields(&value)?;
    table::check(Endpoint::Embeddings, &value)?;
    let model = request.model.ok_or_else(|| ApiError::missing("model"))?;
    let inputs = request.input.ok_or_else(|| ApiError::missing("input"))?.inputs();
    if inputs.is_empty() || inputs.len() > INPUTS_MAX {
        return Err(ApiError::invalid("input", format!("'input' takes between 1 and {INPUTS_MAX} texts.")));
    }
    if inputs.iter().any(|input| matches!(input, AskInput::Text(text) if text.is_empty())) {
        return Err(ApiError::invalid("input", "A text of 'input' is empty."));
    }
    let packed = request.encoding_format == Some(Encoding::Base64);
    let bound = Bound { bytes: body.len(), questions: inputs.len() as u64, ..Bound::default() };
    let (_, reserved) = shared.admit(&caller, &model, bound)?;
    let (vectors, read) = shared.answers.embed(&model, inputs).await?;
    shared.count(&reserved, &Usage { prompt: read, ..Usage::default() });
    let width = vectors.first().map_or(0, Vec::len) as u64;
    if request.dimensions.is_some_and(|asked| asked != width) {
        return Err(ApiError::unsupported("dimensions", &format!("this model's vectors have {width}")));
    }
    let shown = |(index, vector): (usize, &Vec<f32>)| {
        let vector = if packed { Value::from(STANDARD.encode(bytes(vector))) } else { json!(vector) };
        json!({ "object": "embedding", "index": index, "embedding": vector })
    };
    let data: Vec<Value> = vectors.iter().enumerate().map(shown).collect();
    let usage = json!({ "prompt_tokens": read, "total_tokens": read });
    let answer = json!({ "object": "list", "data": data, "model": model, "usage": usage });
    Ok(stream::marked(&[AnswerOrigin::own()], Json(answer).into_response()))
}

/// As both official clients read them.
fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}
