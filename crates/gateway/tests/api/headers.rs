//! What answers say beside their bodies: whose they are, and which pages may read them.

use crate::parrot::{CHAT, asked, said};
use axum::body::Body;
use axum::http::Request;
use gateway::Key;
use serde_json::json;

#[test]
fn every_answer_names_its_provider_before_its_first_word() {
    let other = "ab".repeat(32);
    let both = format!("self, {other}");
    for (path, asked) in [
        (CHAT, json!({ "messages": [{ "role": "user", "content": "hi" }] })),
        ("/v1/completions", json!({ "prompt": "hi" })),
        ("/v1/responses", json!({ "input": "hi" })),
        ("/v1/embeddings", json!({ "input": "hi" })),
    ] {
        for stream in [false, true] {
            for (seed, n, provider, local) in
                [(0, 1, "self", "true"), (1, 1, other.as_str(), "false"), (0, 2, both.as_str(), "false")]
            {
                // These give one answer; vectors are made on this machine only.
                let (alone, own) = (!path.ends_with("completions"), path.ends_with("embeddings"));
                if (alone && n > 1) || (own && (seed > 0 || stream)) {
                    continue;
                }
                let mut body = asked.clone();
                body["model"] = "parrot".into();
                body["seed"] = seed.into();
                body["n"] = n.into();
                body["stream"] = stream.into();
                let said = said(path, &body);
                let header = |name: &str| said.headers.get(name).and_then(|value| value.to_str().ok());
                let named = (said.status.as_u16(), header("x-talkoo-provider"), header("x-talkoo-local"));
                assert_eq!(named, (200, Some(provider), Some(local)), "{path} {body}");
            }
        }
    }
}

#[test]
fn the_document_promises_the_headers_of_an_answer() {
    let document = asked(vec![], false, Request::get("/openapi.json").body(Body::empty()).expect("a request")).json();
    for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings"] {
        let headers = &document["paths"][path]["post"]["responses"]["200"]["headers"];
        assert!(headers["x-talkoo-provider"].is_object() && headers["x-talkoo-local"].is_object(), "{path}");
    }
    assert!(document["paths"]["/tokenize"]["post"]["responses"]["200"]["headers"].is_null());
}

#[test]
fn a_page_of_another_site_cannot_tell_who_runs_this_program() {
    let key = Key {
        owner: false,
        name: "a".into(),
        hash: Key::hash_of("tk-1"),
        hint: "tk".into(),
        models: vec![],
        per_minute: None,
        tokens: None,
        expires: None,
    };
    let readable = |path: &str, origin: &str, bearer: Option<&str>| {
        let mut request = Request::get(path).header("origin", origin).header("host", "127.0.0.1:8080");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let said = asked(vec![key.clone()], false, request.body(Body::empty()).expect("a request"));
        said.headers.contains_key("access-control-allow-origin")
    };
    let (site, own) = ("https://page.example", "http://localhost:3000");
    for path in ["/health", "/ready", "/version", "/", "/page/page.js", "/metrics", "/nowhere"] {
        assert!(!readable(path, site, None) && !readable(path, site, Some("tk-1")), "{path}");
        assert!(!readable(path, own, None), "{path}");
    }
    for path in ["/v1/models", "/openapi.json"] {
        assert!(!readable(path, site, None) && !readable(path, site, Some("wrong")), "{path}");
        assert!(readable(path, site, Some("tk-1")) && readable(path, own, None), "{path}");
    }
    let preflight = Request::options("/health").header("origin", site).body(Body::empty()).expect("a request");
    assert!(!asked(vec![], true, preflight).headers.contains_key("access-control-allow-origin"));
}
