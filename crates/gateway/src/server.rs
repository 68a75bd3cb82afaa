//! The server: connections, routes, what every request goes through, and answers to what nobody asked for.

use crate::error::ApiError;
use crate::ids::name;
use crate::keys::{Caller, Keys};
use crate::metrics::Metrics;
use crate::panel::PanelSource;
use crate::params::BODY_MAX;
use crate::state::Shared;
use crate::{Answers, openapi};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    pub panel: Option<Arc<dyn PanelSource>>,
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

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("req"))
}
