//! The server: routes, keys, identifiers, and answers to what nobody asked for.

use crate::error::ApiError;
use crate::keys::{Caller, Keys, Reserved};
use crate::metrics::Metrics;
use crate::page::Owner;
use crate::params::{self, BODY_MAX};
use crate::stream::Usage;
use crate::{Answers, Panel, openapi};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use market::ModelCard;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What the server needs.
pub struct Gateway {
    /// Who answers.
    pub answers: Arc<dyn Answers>,
    /// The keys that are accepted.
    pub keys: Arc<Keys>,
    /// Whether a request without a key is refused on this machine too; from elsewhere it always is.
    pub demand_keys: bool,
    /// Tokens of an answer where the request names no bound: a small model may never end by itself.
    pub answer_tokens: u64,
    /// Temperature where the request names none; the API's own is 1.
    pub temperature: f32,
    /// What the page shows of the node; without it there is only the chat.
    pub panel: Option<Arc<dyn Panel>>,
}

impl Gateway {
    /// The service alone, for a server of one's own; `keys_needed`: who has none is refused.
    pub fn router(self, keys_needed: bool) -> Router {
        let Self { answers, keys, answer_tokens, temperature, panel, .. } = self;
        let metrics = Metrics::default();
        routes(Arc::new(Shared { answers, keys, answer_tokens, temperature, panel, metrics, keys_needed }))
    }
}

/// Why there is no server.
#[derive(Debug, Error)]
#[error("cannot listen on {0}: {1}; choose another address with `--listen`")]
pub struct GatewayError(SocketAddr, std::io::Error);

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
    pub(crate) panel: Option<Arc<dyn Panel>>,
    /// Whether a request without a key is refused.
    pub(crate) keys_needed: bool,
}

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 2048;
/// A client that does not finish the head of a request for so long is left.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// A body comes whole within this.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// What keys have used is saved this often: a crash gives no more of it back.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Serves until `stop`; gives the address at which it listens to `ready`. Beyond this machine keys are demanded.
pub async fn serve(
    gateway: Gateway,
    listen: SocketAddr,
    stop: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), GatewayError> {
    let listener = TcpListener::bind(listen).await.map_err(|error| GatewayError(listen, error))?;
    let address = listener.local_addr().unwrap_or(listen);
    let keys_needed = gateway.demand_keys || !address.ip().is_loopback();
    let keys = gateway.keys.clone();
    let routes = gateway.router(keys_needed);
    ready(address);
    let saving = async {
        let mut tick = tokio::time::interval(SAVE_EVERY);
        while !stop.is_cancelled() {
            tick.tick().await;
            save(&keys).await;
        }
    };
    tokio::select! {
        () = accept(listener, routes, &stop) => {}
        () = saving => {}
    }
    save(&keys).await;
    Ok(())
}

/// Saves what keys have used, off the threads that answer: a disk may be slow.
async fn save(keys: &Arc<Keys>) {
    if keys.changed() {
        let keys = keys.clone();
        let _ = tokio::task::spawn_blocking(move || keys.save()).await;
    }
}

/// Takes connections until `stop`.
async fn accept(listener: TcpListener, routes: Router, stop: &CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = room.clone().acquire_owned().await;
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of files: others end and make room.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (service, stop) = (hyper_util::service::TowerToHyperService::new(routes.clone()), stop.clone());
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                },
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }
}

fn routes(shared: Arc<Shared>) -> Router {
    let all = openapi::operations().into_iter().map(|operation| (operation.path, operation.handler));
    let all = all.chain(crate::page::routes());
    all.fold(Router::new(), |router, (path, handler)| router.route(path, handler))
        .fallback(|request: Request| async move { ApiError::not_found(request.uri().path()) })
        .method_not_allowed_fallback(|request: Request| async move {
            ApiError::method(request.method().as_str(), request.uri().path())
        })
        .layer(middleware::from_fn_with_state(shared.clone(), around))
        .with_state(shared)
}

/// What every request goes through: an identifier, CORS, the size of its body, its key.
async fn around(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request.headers().get("x-request-id").cloned();
    let id = id.filter(|id| id.len() <= 128).unwrap_or_else(|| header_value(&name("req")));
    let of_a_page = request.headers().contains_key(header::ORIGIN);
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let preflight = request.method() == Method::OPTIONS;
    let path = request.uri().path().to_owned();
    // A page of another site has to show a key before it reads anything: it could tell who runs this program otherwise.
    // Its browser asks beforehand, without the key.
    let mut readable = preflight || !foreign(request.headers());
    let mut response = if preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        match prepared(&shared, request).await {
            Ok(request) => {
                readable |= request.extensions().get::<Caller>().is_some_and(Caller::known);
                next.run(request).await
            }
            Err(error) => error.into_response(),
        }
    };
    let headers = response.headers_mut();
    headers.insert("x-request-id", id);
    // Pages of others get no credentials; a key has to be given by hand.
    if of_a_page && readable && for_pages(&path) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        if preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            let allowed = asked.unwrap_or(HeaderValue::from_static("authorization, content-type"));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
    }
    shared.metrics.request(&path, response.status().as_u16(), begun.elapsed());
    response
}

/// Headers that a page's script may read.
const EXPOSED: &str = "x-request-id, retry-after, retry-after-ms, x-talkoo-provider, x-talkoo-local";

/// Whether a path is of the API that scripts of other pages use. The owner's page, and what says that this program runs,
/// is not.
fn for_pages(path: &str) -> bool {
    path.starts_with("/v1/") || ["/tokenize", "/detokenize", "/openapi.json"].contains(&path)
}

/// Paths that anybody may ask.
const OPEN: [&str; 4] = ["/health", "/ready", "/version", "/"];

async fn prepared(shared: &Shared, request: Request) -> Result<Request, ApiError> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path();
    if !OPEN.contains(&path) && !path.starts_with("/page/") {
        let caller = shared.caller(&parts.headers)?;
        // Who has a key may ask from anywhere. Without one only pages of this machine may, and only under its own name: any
        // page in the owner's browser could reach it otherwise.
        if !caller.known() && foreign(&parts.headers) {
            return Err(ApiError::key("A page of another site needs a key: `talkoo key create` makes one."));
        }
        parts.extensions.insert(caller);
    }
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_MAX) {
        return Err(ApiError::too_large(BODY_MAX));
    }
    let read = tokio::time::timeout(BODY_WITHIN, to_bytes(body, BODY_MAX)).await;
    let bytes = read.map_err(|_| ApiError::body("The body did not come in time."))?;
    let bytes = bytes.map_err(|_| ApiError::too_large(BODY_MAX))?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Whether a request comes from a page of another site, or was sent under another machine's name.
fn foreign(headers: &HeaderMap) -> bool {
    let here = |host: &str| {
        let port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
        let name = host.rsplit_once(':').filter(|(_, digits)| port(digits)).map_or(host, |(name, _)| name);
        let name = name.trim_matches(['[', ']']);
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let origin =
        text(header::ORIGIN).is_some_and(|origin| !origin.split_once("://").is_some_and(|(_, host)| here(host)));
    origin || text(header::HOST).is_some_and(|host| !here(host))
}

impl Shared {
    /// Who asks with these headers, now.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer =
            bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).filter(|key| !key.is_empty());
        self.keys.caller(bearer, self.keys_needed, unix_time())
    }

    fn card(&self, model: &str) -> Result<ModelCard, ApiError> {
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

/// Seconds of Unix time.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A number that nobody foresees; not for secrets.
pub(crate) fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A new identifier.
pub(crate) fn name(prefix: &str) -> String {
    format!("{prefix}-{:016x}{:08x}", random(), random() as u32)
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("req"))
}
