//! Whatever is sent: an answer in JSON that says what was wrong, never a failure of the server.

use crate::parrot::{CHAT, asked, post, said};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use gateway::Key;
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn the_document_names_every_path_and_every_path_is_there() {
    let document = asked(vec![], false, Request::get("/openapi.json").body(Body::empty()).expect("a request")).json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    assert!(
        ["/v1/chat/completions", "/v1/embeddings", "/openapi.json", "/"].iter().all(|path| paths.contains_key(*path))
    );
    for (path, operations) in paths {
        for method in operations.as_object().expect("operations").keys() {
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(path.replace("{id}", "parrot"));
            let request = request.header("content-type", "application/json").body(Body::from("{}"));
            let said = asked(vec![], false, request.expect("a request"));
            let stated = &operations[method]["responses"][said.status.as_str()];
            assert!(!stated.is_null(), "{method} {path} answers {}, of which the document says nothing", said.status);
            let kind = said.headers["content-type"].to_str().expect("text").split(';').next().expect("a type");
            assert!(!stated["content"][kind].is_null(), "{method} {path} answers with {kind}");
        }
    }
    let chat = &paths[CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(chat["required"], json!(["model", "messages"]));
    assert_eq!(chat["properties"]["temperature"]["maximum"], 2.0);
    assert_eq!(chat["properties"]["model"]["examples"], json!(["parrot"]));
}

#[test]
fn vectors_come_as_numbers_or_packed() {
    let plain = said("/v1/embeddings", &json!({ "model": "parrot", "input": ["a", "b"] })).json();
    assert_eq!(plain["data"].as_array().map(Vec::len), Some(2));
    assert!((plain["data"][1]["embedding"][1].as_f64().expect("a number") - 0.8).abs() < 1e-6);
    assert_eq!(plain["usage"], json!({ "prompt_tokens": 2, "total_tokens": 2 }));
    let packed = json!({ "model": "parrot", "input": [[1, 2]], "encoding_format": "base64" });
    // 0.6 and 0.8, little-endian.
    assert_eq!(said("/v1/embeddings", &packed).json()["data"][0]["embedding"], "mpkZP83MTD8=");
}

#[test]
fn answers_have_the_shape_that_clients_expect() {
    let question =
        json!({ "model": "parrot", "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hi" }] }] });
    let whole = said(CHAT, &question);
    assert!(whole.headers.contains_key("x-request-id"));
    let value = whole.json();
    assert_eq!(value["choices"][0]["message"]["content"], "who's there?");
    assert_eq!(value["choices"][0]["finish_reason"], "stop");
    assert_eq!(value["usage"]["total_tokens"], 8);
    let mut streamed = question.clone();
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({ "include_usage": true });
    let streamed = said(CHAT, &streamed);
    let lines: Vec<&str> = streamed.text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let chunks: Vec<Value> =
        lines[..lines.len() - 1].iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.last(), Some(&"[DONE]"));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "who's there?");
    let (last, others) = chunks.split_last().expect("chunks");
    assert!(others.iter().all(|chunk| chunk["usage"].is_null()) && last["choices"] == json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 3);
    let newer = said("/v1/responses", &json!({ "model": "parrot", "input": "hi" })).json();
    assert_eq!(newer["output"][0]["content"][0]["text"], "who's there?");
    let older =
        said("/v1/completions", &json!({ "model": "parrot", "prompt": ["a", "b"], "n": 2, "logprobs": 0 })).json();
    assert_eq!(older["choices"].as_array().map(Vec::len), Some(4));
    assert_eq!(
        older["usage"],
        json!({ "prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22, "prompt_tokens_details": { "cached_tokens": 4 } })
    );
}

#[test]
fn a_tool_that_has_to_be_called_is_called() {
    let function = json!({ "name": "look_up", "parameters": { "type": "object", "properties": { "what": { "type": "string" } } } });
    let mut question = json!({
        "model": "parrot", "messages": [{ "role": "user", "content": "hi" }], "tool_choice": "required",
        "tools": [{ "type": "function", "function": function }],
    });
    let choice = said(CHAT, &question).json()["choices"][0].clone();
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let call = json!({ "name": "look_up", "arguments": "{\"what\":\"x\"}" });
    assert_eq!(choice["message"]["tool_calls"][0]["function"], call);
    question["stream"] = true.into();
    let streamed = said(CHAT, &question).text;
    let lines = streamed.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|line| *line != "[DONE]");
    let chunks: Vec<Value> = lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let calls: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]).filter(|c| !c.is_null()).collect();
    assert_eq!((calls.len(), &calls[0]["function"], &calls[0]["index"]), (1, &call, &json!(0)));
    let mut newer = function.clone();
    newer["type"] = "function".into();
    let mut question = json!({ "model": "parrot", "tools": [newer], "tool_choice": "required", "input": [
        { "role": "user", "content": "hi" },
        { "type": "function_call", "call_id": "c", "name": "look_up", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": "found" },
    ] });
    let output = said("/v1/responses", &question).json()["output"].clone();
    assert_eq!(output.as_array().map(Vec::len), Some(1));
    assert_eq!((&output[0]["type"], &output[0]["name"]), (&json!("function_call"), &json!("look_up")));
    question["stream"] = true.into();
    let streamed = said("/v1/responses", &question).text;
    assert!(streamed.contains("response.function_call_arguments.done") && streamed.contains("response.completed"));
    question["tool_choice"] = "sometimes".into();
    assert_eq!(
        said("/v1/responses", &question).error(),
        (400, Some("invalid_value".into()), Some("tool_choice".into()))
    );
}

#[test]
fn an_answer_that_breaks_off_is_an_error_and_never_done() {
    let mut question =
        json!({ "model": "parrot", "stop": "broken", "messages": [{ "role": "user", "content": "hi" }] });
    assert_eq!(said(CHAT, &question).error().0, 503);
    question["stream"] = true.into();
    let streamed = said(CHAT, &question).text;
    assert!(streamed.contains("\"error\"") && !streamed.contains("[DONE]"), "{streamed}");
    let busy =
        said(CHAT, &json!({ "model": "parrot", "stop": ["busy"], "messages": [{ "role": "user", "content": "hi" }] }));
    assert_eq!(busy.error(), (429, Some("rate_limit_exceeded".into()), None));
    assert_eq!(
        (&busy.headers["retry-after"], &busy.headers["retry-after-ms"]),
        (&"2".parse().expect("a value"), &"1500".parse().expect("a value"))
    );
}

#[test]
fn what_is_wrong_is_named() {
    let message = json!([{ "role": "user", "content": "hi" }]);
    for (path, body, status, code, param) in [
        (CHAT, json!({ "messages": message }), 400, "missing_required_parameter", "model"),
        (CHAT, json!({ "model": "parrot" }), 400, "missing_required_parameter", "messages"),
        (CHAT, json!({ "model": "x", "messages": message }), 404, "model_not_found", "model"),
        (CHAT, json!({ "model": "parrot", "messages": [] }), 400, "invalid_value", "messages"),
        (
            CHAT,
            json!({ "model": "parrot", "messages": [{ "role": "king", "content": "" }] }),
            400,
            "invalid_value",
            "messages[0].role",
        ),
        (
            CHAT,
            json!({ "model": "parrot", "messages": [{ "role": "user" }] }),
            400,
            "missing_required_parameter",
            "messages[0].content",
        ),
        (
            CHAT,
            json!({ "model": "parrot", "messages": message, "temperature": 3 }),
            400,
            "invalid_value",
            "temperature",
        ),
        (
            CHAT,
            json!({ "model": "parrot", "messages": message, "temperature": "hot" }),
            400,
            "invalid_value",
            "temperature",
        ),
        (CHAT, json!({ "model": "parrot", "messages": message, "n": 0 }), 400, "invalid_value", "n"),
        (CHAT, json!({ "model": "parrot", "messages": message, "max_tokens": 0 }), 400, "invalid_value", "max_tokens"),
        (
            CHAT,
            json!({ "model": "parrot", "messages": message, "top_logprobs": 3 }),
            400,
            "invalid_value",
            "top_logprobs",
        ),
        (
            CHAT,
            json!({ "model": "parrot", "messages": message, "functions": [{}] }),
            400,
            "unsupported_parameter",
            "functions",
        ),
        (
            CHAT,
            json!({ "model": "parrot", "messages": message, "logit_bias": { "a": 1 } }),
            400,
            "invalid_value",
            "logit_bias",
        ),
        (
            CHAT,
            json!({ "model": "parrot", "messages": message, "stream_options": {} }),
            400,
            "invalid_value",
            "stream_options",
        ),
        (
            CHAT,
            json!({ "model": "parrot", "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            400,
            "unsupported_parameter",
            "messages[0].content[0]",
        ),
        (
            "/v1/completions",
            json!({ "model": "parrot", "prompt": "a", "suffix": "b" }),
            400,
            "unsupported_parameter",
            "suffix",
        ),
        ("/v1/completions", json!({ "model": "parrot", "prompt": [] }), 400, "invalid_value", "prompt"),
        (
            "/v1/responses",
            json!({ "model": "parrot", "input": [{ "role": "x", "content": "" }] }),
            400,
            "invalid_value",
            "input[0].role",
        ),
        (
            "/v1/responses",
            json!({ "model": "parrot", "input": "a", "previous_response_id": "r" }),
            400,
            "unsupported_parameter",
            "previous_response_id",
        ),
        ("/v1/embeddings", json!({ "model": "parrot", "input": "refuse" }), 400, "unsupported_parameter", "model"),
        ("/v1/embeddings", json!({ "model": "parrot", "input": [] }), 400, "invalid_value", "input"),
        ("/v1/embeddings", json!({ "model": "parrot", "input": ["a", ""] }), 400, "invalid_value", "input"),
        (
            "/v1/embeddings",
            json!({ "model": "parrot", "input": "a", "encoding_format": "hex" }),
            400,
            "invalid_value",
            "encoding_format",
        ),
        (
            "/v1/embeddings",
            json!({ "model": "parrot", "input": "a", "dimensions": 3 }),
            400,
            "unsupported_parameter",
            "dimensions",
        ),
    ] {
        assert_eq!(said(path, &body).error(), (status, Some(code.into()), Some(param.into())), "{path} {body}");
    }
    let plain = |request: Request<Body>| asked(vec![], false, request).error().0;
    assert_eq!(plain(Request::get("/nowhere").body(Body::empty()).expect("a request")), 404);
    assert_eq!(plain(Request::delete(CHAT).body(Body::empty()).expect("a request")), 405);
    assert_eq!(plain(Request::post(CHAT).body("{}".into()).expect("a request")), 415);
    assert_eq!(plain(post(CHAT, "{")), 400);
    assert_eq!(plain(post(CHAT, "[]")), 400);
    assert_eq!(plain(post(CHAT, vec![b' '; (4 << 20) + 1])), 413);
}

#[test]
fn keys_are_demanded_and_pages_of_others_may_ask() {
    let key = Key {
        owner: false,
        name: "a".into(),
        hash: Key::hash_of("tk-1"),
        hint: "tk".into(),
        models: vec![],
        per_minute: Some(1),
        tokens: None,
        expires: None,
    };
    let with = |bearer: Option<&str>| {
        let mut request = Request::get("/v1/models");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        asked(vec![key.clone()], true, request.body(Body::empty()).expect("a request"))
    };
    assert_eq!(with(None).error(), (401, Some("invalid_api_key".into()), None));
    assert_eq!(with(Some("tk-2")).error().0, 401);
    assert_eq!(with(Some("tk-1")).status, 200);
    let health = asked(vec![key], true, Request::get("/health").body(Body::empty()).expect("a request"));
    assert_eq!(health.status, 200);
    let from = |origin: &str, host: &str| {
        let request = Request::get("/v1/models").header("origin", origin).header("host", host);
        asked(vec![], false, request.body(Body::empty()).expect("a request")).status.as_u16()
    };
    assert_eq!(from("http://localhost:3000", "127.0.0.1:8080"), 200);
    assert_eq!(from("https://page.example", "127.0.0.1:8080"), 401, "a page of another site");
    assert_eq!(from("http://localhost", "page.example"), 401, "another name for this machine");
    let preflight = Request::options(CHAT)
        .header("origin", "http://page")
        .header("access-control-request-headers", "x-stainless-os");
    let preflight = asked(vec![], true, preflight.body(Body::empty()).expect("a request"));
    assert_eq!(
        (preflight.status, &preflight.headers["access-control-allow-headers"]),
        (StatusCode::NO_CONTENT, &"x-stainless-os".parse().expect("a value"))
    );
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z ]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            Just("role"),
            Just("content"),
            Just("type"),
            Just("text"),
            Just("model"),
            Just("messages"),
            Just("prompt"),
            Just("input"),
            Just("stop"),
            Just("n"),
            Just("logit_bias"),
            Just("response_format"),
            Just("stream"),
            Just("json_schema"),
            Just("schema"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_body_is_answered(path in 0usize..6, bytes: Vec<u8>, fields in prop::collection::vec((0usize..22, value()), 0..6)) {
        const PATHS: [&str; 6] = [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize"];
        const NAMES: [&str; 22] = [
            "messages", "prompt", "input", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "stop", "seed", "logit_bias",
            "logprobs", "top_logprobs", "response_format", "stream", "stream_options", "tools", "echo", "text", "tokens", "metadata",
        ];
        let raw = asked(vec![], false, post(PATHS[path], bytes));
        prop_assert!(raw.error().0 < 500);
        let mut body = json!({ "model": "parrot" });
        match PATHS[path] {
            CHAT => body["messages"] = json!([{ "role": "user", "content": "hi" }]),
            "/v1/responses" | "/v1/embeddings" => body["input"] = "a".into(),
            _ => body["prompt"] = "a".into(),
        }
        for (name, value) in fields {
            body[NAMES[name]] = value;
        }
        let said = said(PATHS[path], &body);
        prop_assert!(said.status == 200 || (said.status.is_client_error() && said.error().0 != 422), "{}", said.text);
    }
}
