//! The owner's page: its parts, its figures, and who may see them.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use flate2::read::GzDecoder;
use gateway::{Gateway, Key, Keys, Nobody, PanelSource};
use market::Verdict;
use serde_json::{Value, json};
use std::io::Read;
use std::sync::{Arc, Mutex};
use tower::ServiceExt;

#[derive(Default)]
struct Figures(Mutex<Vec<Option<u64>>>);

impl PanelSource for Figures {
    fn state(&self) -> Value {
        json!({ "now_ms": 1, "paused": self.0.lock().expect("a lock").len() })
    }
    fn run(&self, run: &str) -> Option<Value> {
        (run == "known").then(|| json!({ "run": run }))
    }
    fn days(&self) -> Value {
        json!([{ "date": "2026-11-28" }])
    }
    fn blocks(&self, before: Option<u64>, count: usize) -> Value {
        json!({ "before": before, "count": count })
    }
    fn account(&self, key: &str) -> Option<Value> {
        (key == "known").then(|| json!({ "key": key }))
    }
    fn metrics(&self) -> String {
        "talkoo_of_the_node 1\n".into()
    }
    fn pause(&self, minutes: Option<u64>) -> Result<(), String> {
        self.0.lock().expect("a lock").push(minutes);
        Ok(())
    }
    fn resume(&self) -> Result<(), String> {
        Err("it does as it was told by hand".into())
    }
}

struct Said {
    status: StatusCode,
    policy: String,
    text: String,
}

fn asked(panel: Option<Arc<Figures>>, needed: bool, request: Request<Body>) -> Said {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let panel = panel.map(|panel| panel as Arc<dyn PanelSource>);
        let key = |owner: bool, secret: &str| {
            let (name, hash, hint) = (secret.into(), Key::hash_of(secret), "tk".into());
            Key { name, hash, hint, owner, models: vec![], per_minute: None, tokens: None, expires: None }
        };
        let keys = Keys::new(vec![key(false, "guest"), key(true, "owner")]);
        let (answers, keys) = (Arc::new(Nobody), Arc::new(keys));
        let gateway = Gateway { answers, keys, demand_keys: needed, answer_tokens: 10, temperature: 1.0, panel };
        let response = gateway.router(needed).oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let policy = parts.headers.get("content-security-policy").map(|text| text.to_str().expect("text").to_owned());
        let bytes = to_bytes(body, usize::MAX).await.expect("a body");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Said { status: parts.status, policy: policy.unwrap_or_default(), text }
    })
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).expect("a request")
}

fn post(path: &str, body: &str) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(Body::from(body.to_owned())).expect("a request")
}

#[test]
fn every_part_that_the_page_names_is_there_and_nothing_comes_from_elsewhere() {
    let page = asked(None, false, get("/"));
    assert!(
        page.policy.contains("script-src 'self';") && page.policy.contains("default-src 'none'"),
        "{}",
        page.policy
    );
    let named: Vec<&str> = page.text.split('"').filter(|part| part.starts_with("/page/")).collect();
    assert!(named.len() >= 3, "{named:?}");
    let mut bytes = page.text.len();
    for part in named.iter().copied().collect::<std::collections::BTreeSet<_>>() {
        let said = asked(None, true, get(part));
        assert_eq!(said.status, 200, "{part}");
        bytes += said.text.len();
        // Modules name each other.
        for other in said.text.split(['"', '\'']).filter(|text| text.starts_with("./") && text.ends_with(".js")) {
            let path = format!("/page/{}", other.trim_start_matches("./"));
            assert_eq!(asked(None, false, get(&path)).status, 200, "{path}");
        }
        for wrong in ["eval(", "innerHTML", "https://", "document.write"] {
            assert!(!said.text.contains(wrong), "{part} contains {wrong}");
        }
    }
    assert!(bytes < 120_000, "{bytes} bytes before they are packed");
    assert_eq!(asked(None, false, get("/page/nothing.js")).status, 404);
}

/// The head and the bytes of a part, for a client that takes such encodings.
fn packed(path: &str, takes: Option<&str>) -> (HeaderMap, Vec<u8>) {
    let mut request = get(path);
    if let Some(takes) = takes {
        request.headers_mut().insert("accept-encoding", takes.parse().expect("a header"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (answers, keys) = (Arc::new(Nobody), Arc::new(Keys::default()));
        let gateway = Gateway { answers, keys, demand_keys: false, answer_tokens: 10, temperature: 1.0, panel: None };
        let (parts, body) = gateway.router(false).oneshot(request).await.expect("an answer").into_parts();
        (parts.headers, to_bytes(body, usize::MAX).await.expect("a body").to_vec())
    })
}

#[test]
fn the_page_is_packed_for_a_client_that_takes_it_so() {
    let mut bytes = 0;
    for path in ["/", "/page/page.css", "/page/page.js", "/page/charts.js", "/page/chat.js", "/page/words.js"] {
        let (head, plain) = packed(path, None);
        assert!(!head.contains_key("content-encoding") && head["vary"] == "accept-encoding", "{path}");
        for takes in ["gzip", "gzip, deflate, br, zstd", "br;q=1.0, GZIP;q=0.5", "*"] {
            let (head, short) = packed(path, Some(takes));
            assert!(head["content-encoding"] == "gzip" && head["vary"] == "accept-encoding", "{path} for {takes}");
            let mut whole = Vec::new();
            GzDecoder::new(short.as_slice()).read_to_end(&mut whole).expect("packed by gzip");
            assert_eq!(whole, plain, "{path}");
            assert!(short.len() * 2 < plain.len() + 1000, "{path}: {} of {} bytes", short.len(), plain.len());
            bytes += short.len();
        }
        for takes in ["", "identity", "br", "gzip;q=0", "gzip;q=0.0, *"] {
            assert!(!packed(path, Some(takes)).0.contains_key("content-encoding"), "{takes}");
        }
    }
    assert!(bytes < 3 * 60_000, "{bytes} bytes, each part three times");
}

#[test]
fn every_code_has_its_words() {
    let words = asked(None, false, get("/page/words.js")).text;
    let rejects = base::Reject::ALL.iter().map(|reject| reject.name());
    let verdicts = [
        Verdict::Good,
        Verdict::Unclear,
        Verdict::OtherWords,
        Verdict::OtherChance,
        Verdict::CutOff,
        Verdict::OtherCount,
    ];
    for code in rejects.chain(verdicts.map(Verdict::name)) {
        assert!(words.contains(&format!("\n  {code}: \"")), "{code}");
    }
}

#[test]
fn figures_are_the_owners() {
    let figures = Arc::new(Figures::default());
    let of = |needed, request| asked(Some(figures.clone()), needed, request);
    assert_eq!(of(false, get("/api/state")).text, "{\"now_ms\":1,\"paused\":0}");
    assert_eq!(of(false, get("/api/runs/known")).status, 200);
    assert_eq!(of(false, get("/api/runs/none")).status, 404);
    assert_eq!(of(false, get("/api/accounts/none")).status, 404);
    assert_eq!(of(false, get("/api/blocks?before=7&count=5000")).text, "{\"before\":7,\"count\":100}");
    assert_eq!(of(false, get("/api/blocks?before=x")).status, 400);
    assert!(of(false, get("/metrics")).text.contains("talkoo_of_the_node 1"));
    assert_eq!(of(false, post("/api/pause", "{\"minutes\":120}")).status, 200);
    assert_eq!(of(false, post("/api/pause", "{\"minutes\":null}")).status, 200);
    for wrong in ["{\"minutes\":\"long\"}", "{\"minutes\":0}", "{\"minuts\":5}"] {
        assert_eq!(of(false, post("/api/pause", wrong)).status, 400, "{wrong}");
    }
    assert_eq!(*figures.0.lock().expect("a lock"), [Some(120), None]);
    let refused = of(false, post("/api/resume", "{}"));
    assert!(refused.status == 409 && refused.text.contains("by hand"), "{}", refused.text);
    // A page of another site, and whoever comes from where keys are needed, sees nothing and changes nothing.
    let mut foreign = post("/api/pause", "{}");
    foreign.headers_mut().insert("origin", "https://example.org".parse().expect("a header"));
    assert_eq!(of(false, foreign).status, 401);
    let mut renamed = get("/api/state");
    renamed.headers_mut().insert("host", "rebound.example.org".parse().expect("a header"));
    assert_eq!(of(false, renamed).status, 401);
    let with = |key: &str, mut request: Request<Body>| {
        let key = format!("Bearer {key}").parse().expect("a header");
        request.headers_mut().insert("authorization", key);
        request
    };
    for path in ["/api/state", "/api/runs/known", "/api/days", "/api/blocks", "/api/accounts/known"] {
        assert_eq!(of(true, get(path)).status, 401, "{path}");
        for needed in [true, false] {
            assert_eq!(of(needed, with("guest", get(path))).status, 403, "{path}");
            assert_eq!(of(needed, with("owner", get(path))).status, 200, "{path}");
        }
    }
    assert_eq!(of(true, get("/api/events")).status, 401);
    assert_eq!(of(true, with("guest", post("/api/pause", "{}"))).status, 403);
    assert_eq!(of(true, with("owner", post("/api/pause", "{}"))).status, 200);
    assert!(of(true, with("owner", get("/metrics"))).text.contains("of_the_node"));
    assert!(!of(true, with("guest", get("/metrics"))).text.contains("of_the_node"));
    assert!(!of(true, get("/metrics")).text.contains("of_the_node"));
    // Without a node behind it there is the chat alone.
    assert_eq!(asked(None, false, get("/api/state")).status, 404);
    assert_eq!(figures.0.lock().expect("a lock").len(), 3);
}
