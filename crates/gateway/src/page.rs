//! The page of the node's owner: files in the binary, and the figures that they show, live.

use crate::error::ApiError;
use crate::keys::Caller;
use crate::panel::PanelSource;
use crate::state::Shared;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// A file of the page: its name, its kind, its text.
type File = (&'static str, &'static str, &'static str);

const INDEX: File = ("", "text/html; charset=utf-8", include_str!("page/index.html"));

/// The other files, by name.
const FILES: [File; 8] = [
    ("page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("charts.js", "text/javascript; charset=utf-8", include_str!("page/charts.js")),
    ("format.js", "text/javascript; charset=utf-8", include_str!("page/format.js")),
    ("chat.js", "text/javascript; charset=utf-8", include_str!("page/chat.js")),
    ("ledger.js", "text/javascript; charset=utf-8", include_str!("page/ledger.js")),
    ("training.js", "text/javascript; charset=utf-8", include_str!("page/training.js")),
    ("words.js", "text/javascript; charset=utf-8", include_str!("page/words.js")),
];

const POLICY: &str = "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The state is looked at this often while somebody watches.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Blocks that are given at a time.
const BLOCKS_MAX: usize = 100;

/// What the page asks beside the API.
pub(crate) fn routes() -> [(&'static str, MethodRouter<Arc<Shared>>); 10] {
    [
        ("/page/{name}", get(part)),
        ("/api/state", get(state)),
        ("/api/events", get(events)),
        ("/api/runs/{run}", get(run)),
        ("/api/days", get(days)),
        ("/api/blocks", get(blocks)),
        ("/api/accounts/{key}", get(account)),
        ("/api/pause", post(pause)),
        ("/api/resume", post(resume)),
        ("/api/replay", post(replay)),
    ]
}

pub(crate) async fn page(headers: HeaderMap) -> Response {
    file(&INDEX, &headers)
}

async fn part(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    found.map(|found| file(found, &headers)).ok_or_else(|| ApiError::not_found(&format!("/page/{name}")))
}

/// The files packed, by name: once in the life of a server, when one is asked for first.
static PACKED: LazyLock<BTreeMap<&'static str, Bytes>> = LazyLock::new(|| {
    let packed = |(name, _, text): &File| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(text.as_bytes()).expect("memory takes everything");
        (*name, Bytes::from(packed.finish().expect("memory takes everything")))
    };
    FILES.iter().chain([&INDEX]).map(packed).collect()
});

fn file((name, kind, text): &File, asked: &HeaderMap) -> Response {
    let headers = [
        (header::CONTENT_TYPE, *kind),
        (HeaderName::from_static("content-security-policy"), POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The next version of the program has other files under these names.
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept-encoding"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    match PACKED.get(name).filter(|_| takes_gzip(asked)) {
        Some(packed) => {
            let packing = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (headers, packing, packed.clone()).into_response()
        }
        None => (headers, *text).into_response(),
    }
}

/// Whether a client reads what gzip packed: it names it, or everything, and does not weigh it with 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let listed: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
    let weight = |named: &str| {
        listed.iter().find_map(|one| {
            let (name, weight) = one.split_once(';').unwrap_or((one, "q=1"));
            let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
            name.trim().eq_ignore_ascii_case(named).then_some(weight.unwrap_or(0.0))
        })
    };
    weight("gzip").or_else(|| weight("*")).is_some_and(|weight| weight > 0.0)
}

/// The panel, for the owner: by an owner's key, or without any on this machine.
pub(crate) struct Owner(pub(crate) Arc<dyn PanelSource>);

impl FromRequestParts<Arc<Shared>> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let owner = parts.extensions.get::<Caller>().is_some_and(|caller| caller.owns(shared.keys_needed));
        if !owner {
            return Err(ApiError::forbidden(
                "The node's figures are shown to its owner only: `talkoo key create NAME --owner` makes a key for that.",
            ));
        }
        shared.panel.clone().map(Self).ok_or_else(|| ApiError::not_found("/api"))
    }
}

async fn state(Owner(panel): Owner) -> Json<Value> {
    Json(panel.state())
}

async fn events(
    Owner(panel): Owner,
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // A key may be revoked, or expire, while its owner looks.
    let owns = move || shared.caller(&headers).is_ok_and(|caller| caller.owns(shared.keys_needed));
    let changes = stream::unfold((panel, owns, Value::Null), |(panel, owns, last)| async move {
        let mut first = last.is_null();
        loop {
            if !std::mem::take(&mut first) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            if !owns() {
                return None;
            }
            let state = panel.state();
            if still(&state) != still(&last) {
                let event = Event::default().event("state").data(state.to_string());
                return Some((Ok(event), (panel, owns, state)));
            }
        }
    });
    Sse::new(changes).keep_alive(KeepAlive::default())
}

/// A state without what changes by itself.
fn still(state: &Value) -> Value {
    let mut state = state.clone();
    if state.get("replay").is_some() {
        return state;
    }
    for clock in ["/now_ms", "/node/uptime_s"] {
        if let Some(clock) = state.pointer_mut(clock) {
            *clock = Value::Null;
        }
    }
    state
}

async fn run(Owner(panel): Owner, Path(run): Path<String>) -> Result<Json<Value>, ApiError> {
    panel.run(&run).map(Json).ok_or_else(|| ApiError::not_found(&format!("/api/runs/{run}")))
}

async fn days(Owner(panel): Owner) -> Json<Value> {
    Json(panel.days())
}

/// Which blocks.
#[derive(Deserialize)]
struct Blocks {
    before: Option<u64>,
    count: Option<usize>,
}

async fn blocks(
    Owner(panel): Owner,
    asked: Result<Query<Blocks>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(asked) = asked.map_err(|error| ApiError::body(error.body_text()))?;
    Ok(Json(panel.blocks(asked.before, asked.count.unwrap_or(20).min(BLOCKS_MAX))))
}

async fn account(Owner(panel): Owner, Path(key): Path<String>) -> Result<Json<Value>, ApiError> {
    panel.account(&key).map(Json).ok_or_else(|| ApiError::not_found(&format!("/api/accounts/{key}")))
}

/// For how long.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    /// Minutes; until it is told to go on where none are given.
    minutes: Option<u64>,
}

async fn pause(Owner(panel): Owner, headers: HeaderMap, body: Bytes) -> Result<Json<Value>, ApiError> {
    let asked: Pause = crate::params::fields(&crate::params::object(&headers, &body)?)?;
    if asked.minutes == Some(0) {
        return Err(ApiError::invalid("minutes", "Minutes are at least 1; without any it is until resumed."));
    }
    done(panel.pause(asked.minutes))
}

async fn resume(Owner(panel): Owner) -> Result<Json<Value>, ApiError> {
    done(panel.resume())
}

/// Where to go.
#[derive(Deserialize)]
struct Replay {
    at: usize,
}

async fn replay(Owner(panel): Owner, headers: HeaderMap, body: Bytes) -> Result<Json<Value>, ApiError> {
    let asked: Replay = crate::params::fields(&crate::params::object(&headers, &body)?)?;
    done(panel.replay(asked.at))
}

fn done(result: Result<(), String>) -> Result<Json<Value>, ApiError> {
    result.map(|()| Json(json!({ "ok": true }))).map_err(|why| ApiError::conflict(&why))
}
