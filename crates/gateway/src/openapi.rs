//! Every endpoint for clients in one table: the server's routes and the OpenAPI document are both made of it. What only the
//! owner's page asks is in `page.rs`.

use crate::state::Shared;
use crate::{chat, completions, embeddings, models, page, responses, service};
use axum::Json;
use axum::extract::State;
use axum::routing::{MethodRouter, get, post};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What can be asked of the server at one path.
pub(crate) struct Operation {
    pub(crate) path: &'static str,
    pub(crate) handler: MethodRouter<Arc<Shared>>,
    name: &'static str,
    says: &'static str,
    /// Of the body, where there is one.
    takes: Option<Value>,
    /// Of the answer's body.
    gives: Value,
    kind: &'static str,
    /// How it may be refused beside what every path may answer.
    refusals: &'static [u16],
}

const JSON: &str = "application/json";
/// Whoever asks for something to be written may be told so.
const WRITING: &[u16] = &[400, 402, 404, 413, 415, 429, 503];
const READING: &[u16] = &[400, 404, 413, 415, 429];

/// All of them.
pub(crate) fn operations() -> Vec<Operation> {
    let writes = |path, handler, name, says, takes, gives| Operation {
        path,
        handler,
        name,
        says,
        takes: Some(takes),
        gives,
        kind: JSON,
        refusals: WRITING,
    };
    let shows = |path, handler, name, says, gives| Operation {
        path,
        handler,
        name,
        says,
        takes: None,
        gives,
        kind: JSON,
        refusals: &[],
    };
    let text = |operation: Operation, kind| Operation { kind, gives: json!({ "type": "string" }), ..operation };
    let may_miss = |operation: Operation| Operation { refusals: &[404], ..operation };
    let common = schema::<crate::params::Common>();
    vec![
        writes(
            "/v1/chat/completions",
            post(chat::create),
            "createChatCompletion",
            "The next message of a conversation.",
            both(&common, &schema::<chat::Request>()),
            answer("chat.completion", "choices", json!({ "message": { "type": "object" } })),
        ),
        writes(
            "/v1/completions",
            post(completions::create),
            "createCompletion",
            "A text gone on with, or scored.",
            both(&common, &schema::<completions::Request>()),
            answer("text_completion", "choices", json!({ "text": { "type": "string" } })),
        ),
        writes(
            "/v1/responses",
            post(responses::create),
            "createResponse",
            "The same as chat completions in the newer form, without anything that is kept.",
            both(&common, &schema::<responses::Request>()),
            answer("response", "output", json!({ "id": { "type": "string" } })),
        ),
        Operation {
            refusals: READING,
            ..writes(
                "/v1/embeddings",
                post(embeddings::create),
                "createEmbedding",
                "What texts mean, as vectors of length one; by models that were published for it.",
                schema::<embeddings::Request>(),
                list(json!({ "embedding": {}, "index": { "type": "integer" } })),
            )
        },
        shows(
            "/v1/models",
            get(models::models),
            "listModels",
            "Models that can be asked: of this machine, and of others.",
            list(model()),
        ),
        may_miss(shows("/v1/models/{*id}", get(models::model), "retrieveModel", "One of them.", object(model()))),
        may_miss(shows(
            "/v1/receipts/{id}",
            get(models::receipt),
            "retrieveReceipt",
            "What proves an answer, by its id: signed by whoever wrote it.",
            object(json!({})),
        )),
        Operation {
            refusals: READING,
            ..writes(
                "/tokenize",
                post(models::tokenize),
                "tokenize",
                "The ids of a text's tokens.",
                schema::<models::Tokenize>(),
                object(
                    json!({ "count": { "type": "integer" }, "tokens": { "type": "array", "items": { "type": "integer" } } }),
                ),
            )
        },
        Operation {
            refusals: READING,
            ..writes(
                "/detokenize",
                post(models::detokenize),
                "detokenize",
                "The text of ids.",
                schema::<models::Detokenize>(),
                object(json!({ "prompt": { "type": "string" } })),
            )
        },
        shows("/health", get(service::health), "health", "Whether the server runs.", object(json!({ "status": {} }))),
        Operation {
            refusals: &[503],
            ..shows(
                "/ready",
                get(service::ready),
                "ready",
                "Whether a model can be asked.",
                object(json!({ "ready": {} })),
            )
        },
        shows("/version", get(service::version), "version", "The server's version.", object(json!({ "version": {} }))),
        text(shows("/metrics", get(service::metrics), "metrics", "Counts for Prometheus.", json!({})), "text/plain"),
        shows("/openapi.json", get(document), "openapi", "This document.", object(json!({ "openapi": {} }))),
        text(shows("/", get(page::page), "page", "The page of the node's owner.", json!({})), "text/html"),
    ]
}

/// The document; the models that can be asked now are named in it.
async fn document(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let models: Vec<String> = shared.answers.models().into_iter().map(|card| card.name).collect();
    let mut paths = Map::new();
    for operation in operations() {
        let (path, method, mut value) = operation.json();
        if let Some(model) = value.pointer_mut("/requestBody/content/application~1json/schema/properties/model") {
            model["examples"] = json!(models);
        }
        paths.insert(path, json!({ method: value }));
    }
    Json(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "talkoo",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Models of this machine and of others behind the API that OpenAI's clients speak. What other \
                servers have beside these fields is refused by name where it would be missed; docs/api.md lists it.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": { "Error": error() },
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{}, { "key": [] }],
    }))
}

impl Operation {
    /// Its path, its method and what the document says of it.
    fn json(self) -> (String, &'static str, Value) {
        let path = self.path.replace("{*id}", "{id}");
        let mut content = json!({ self.kind: { "schema": self.gives } });
        if self.takes.as_ref().is_some_and(|takes| !takes["properties"]["stream"].is_null()) {
            content["text/event-stream"] = json!({ "schema": {} });
        }
        let mut answers = json!({ "200": { "description": "As asked.", "content": content } });
        let refused = json!({
            "description": "Why not, and what to do.",
            "content": { JSON: { "schema": { "$ref": "#/components/schemas/Error" } } },
        });
        for status in self.refusals.iter().copied().chain([401]) {
            answers[status.to_string()] = refused.clone();
        }
        if self.path == "/ready" {
            answers["503"] = answers["200"].clone();
        }
        if path.starts_with("/v1/") && self.takes.is_some() {
            let header = |says: &str| json!({ "description": says, "required": true, "schema": { "type": "string" } });
            answers["200"]["headers"] = json!({
                "x-talkoo-provider": header("Who took the question: `self`, or the key of another node."),
                "x-talkoo-local": header("`true` where no other machine had been given the question, else `false`."),
            });
        }
        let mut value = json!({ "operationId": self.name, "summary": self.says, "responses": answers });
        if path.contains("{id}") {
            let text = json!({ "type": "string", "minLength": 1 });
            value["parameters"] = json!([{ "name": "id", "in": "path", "required": true, "schema": text }]);
        }
        let method = if self.takes.is_some() { "post" } else { "get" };
        if let Some(takes) = self.takes {
            value["requestBody"] = json!({ "required": true, "content": { JSON: { "schema": takes } } });
        }
        (path, method, value)
    }
}

fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("title");
    }
    schema
}

/// An object with the fields of both.
fn both(one: &Value, other: &Value) -> Value {
    let mut out = one.clone();
    let merge = |out: &mut Value, of: &str| {
        let more = other[of].as_object().cloned().unwrap_or_default();
        out[of].as_object_mut().into_iter().for_each(|out| out.extend(more.clone()));
    };
    merge(&mut out, "properties");
    let required =
        [one, other].into_iter().flat_map(|schema| schema["required"].as_array().cloned().unwrap_or_default());
    out["required"] = required.collect();
    out
}

/// An object that has all of `properties`.
fn object(properties: Value) -> Value {
    let required: Vec<String> = properties.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn list(of: Value) -> Value {
    object(json!({ "object": { "const": "list" }, "data": { "type": "array", "items": object(of) } }))
}

fn model() -> Value {
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "integer" }));
    json!({
        "id": text, "object": { "const": "model" }, "created": number, "owned_by": text,
        "max_model_len": number, "hash": text, "providers": number,
    })
}

/// What an endpoint that writes gives, whole.
fn answer(kind: &str, what: &str, each: Value) -> Value {
    object(json!({
        "id": { "type": "string" },
        "object": { "const": kind },
        "model": { "type": "string" },
        what: { "type": "array", "items": object(each) },
        "usage": { "type": "object" },
    }))
}

fn error() -> Value {
    let maybe = json!({ "type": ["string", "null"] });
    object(json!({
        "error": object(json!({ "message": { "type": "string" }, "type": { "type": "string" }, "param": maybe, "code": maybe })),
    }))
}
