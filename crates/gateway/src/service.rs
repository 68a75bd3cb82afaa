//! Whether the server runs, which version it is, and its counts.

use crate::error::ApiError;
use crate::page::Owner;
use crate::state::Shared;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let n = shared.answers.models().len();
    let status = if n > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": n > 0, "models": n }))).into_response()
}

pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

pub(crate) async fn metrics(State(shared): State<Arc<Shared>>, owner: Result<Owner, ApiError>) -> Response {
    let node = owner.map(|Owner(panel)| panel.metrics());
    let text = shared.metrics.text() + &node.unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
