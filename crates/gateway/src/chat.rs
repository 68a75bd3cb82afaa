//! `/v1/chat/completions`.

use crate::error::ApiError;
use crate::ids::{name, unix_time};
use crate::keys::{Caller, Reserved};
use crate::params::{self, Common, within};
use crate::state::{Bound, Shared, fingerprint};
use crate::stream::{self, Counted, Events, Whole};
use crate::table::{self, Endpoint};
use crate::tools::{Call, Tools};
use crate::usage::Usage;
use crate::{Answer, AnswerOrigin};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use market::{Ask, AskInput, Message, ModelCard, Piece, Token};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Request {
    /// The conversation.
    #[schemars(required, length(min = 1))]
    messages: Option<Vec<InMessage>>,
    /// Tokens of the answer at most.
    #[schemars(range(min = 1))]
    max_tokens: Option<u64>,
    /// The same; this one counts where both are given.
    #[schemars(range(min = 1))]
    max_completion_tokens: Option<u64>,
    /// Whether log-probabilities are wanted.
    logprobs: Option<bool>,
    /// Of each token and of the so many likeliest in its place.
    #[schemars(range(min = 0, max = 20))]
    top_logprobs: Option<u32>,
    /// The shape of the answer: `text`, `json_object` or `json_schema`.
    #[serde(rename = "response_format")]
    _response_format: Option<Value>,
    /// Functions that the model may call.
    #[schemars(length(max = 128))]
    #[serde(rename = "tools")]
    _tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required` or the name of one.
    #[serde(rename = "tool_choice")]
    _tool_choice: Option<Value>,
    /// Whether an answer may have more than one call.
    parallel_tool_calls: Option<bool>,
}

/// A message as clients send it.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct InMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    #[schemars(required)]
    role: Option<String>,
    /// What was said; a message of the assistant that calls something needs none.
    content: Option<Content>,
    name: Option<String>,
    /// What the assistant said instead of an answer.
    refusal: Option<String>,
    tool_calls: Option<Vec<Value>>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Value>),
}

const TOP_MAX: u32 = 20;
/// Why an answer ended that is a call.
const CALLED: &str = "tool_calls";

/// Reads messages: roles, and content as a text or in parts.
pub(crate) fn messages(given: Vec<InMessage>) -> Result<Vec<Message>, ApiError> {
    if given.is_empty() {
        return Err(ApiError::invalid("messages", "Invalid 'messages': empty array. Expected at least one message."));
    }
    given.into_iter().enumerate().map(|(i, message)| one_message(i, message)).collect()
}

fn one_message(i: usize, message: InMessage) -> Result<Message, ApiError> {
    let at = |what: &str| format!("messages[{i}].{what}");
    let role = match message.role.as_deref() {
        // Newer clients call the system so.
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        Some(other) => {
            return Err(ApiError::invalid(
                &at("role"),
                format!("Invalid value: '{other}'. Supported are system, developer, user, assistant and tool."),
            ));
        }
        None => return Err(ApiError::missing(&at("role"))),
    };
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut out = String::new();
            for (k, part) in parts.iter().enumerate() {
                let param = format!("messages[{i}].content[{k}]");
                match part["type"].as_str() {
                    Some("text" | "input_text" | "output_text") => {
                        out += part["text"].as_str().ok_or_else(|| ApiError::missing(&format!("{param}.text")))?;
                    }
                    Some("refusal") => out += part["refusal"].as_str().unwrap_or_default(),
                    Some(other) => {
                        return Err(ApiError::unsupported(&param, &format!("models here do not read {other}")));
                    }
                    None => return Err(ApiError::missing(&format!("{param}.type"))),
                }
            }
            out
        }
        None if role == "assistant" && message.tool_calls.is_some() => String::new(),
        None if role == "assistant" && message.refusal.is_some() => message.refusal.unwrap_or_default(),
        None => return Err(ApiError::missing(&at("content"))),
    };
    if role == "tool" && message.tool_call_id.is_none() {
        return Err(ApiError::missing(&at("tool_call_id")));
    }
    let tool_calls = message.tool_calls.filter(|calls| !calls.is_empty()).map(|calls| Value::from(calls).to_string());
    Ok(Message { role: role.to_owned(), content, tool_calls, tool_call_id: message.tool_call_id, name: message.name })
}

pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let value = params::object(&headers, &body)?;
    let (common, request): (Common, Request) = (params::fields(&value)?, params::fields(&value)?);
    let model = common.model()?;
    let given = request.messages.ok_or_else(|| ApiError::missing("messages"))?;
    table::check(Endpoint::Chat, &value)?;
    let tools = Tools::read(value.get("tools"), value.get("tool_choice"))?;
    let tools = tools.map(|tools| tools.several(request.parallel_tool_calls));
    let named = [("max_completion_tokens", request.max_completion_tokens), ("max_tokens", request.max_tokens)];
    let max_tokens = common.tokens(&named, 1)?.unwrap_or(shared.answer_tokens);
    let logprobs = match (request.logprobs, request.top_logprobs) {
        (Some(true), top) => Some(within("top_logprobs", top.unwrap_or(0), 0, TOP_MAX)? as u8),
        (_, Some(top)) if top > 0 => return Err(ApiError::invalid("top_logprobs", "'top_logprobs' needs 'logprobs'.")),
        _ => None,
    };
    let format = params::shape(&value)?;
    let (messages, n, usage) = (messages(given)?, common.n()?, common.wants_usage()?);
    let bound = Bound { bytes: body.len(), questions: 1, answers: n.into(), written: max_tokens };
    let (card, reserved) = shared.admit(&caller, &model, bound)?;
    let (input, format) = match &tools {
        Some(tools) => tools.tell(messages, card.tools, format)?,
        None => (AskInput::Chat { messages, tools: None }, format),
    };
    let ask = Ask {
        model,
        input,
        max_tokens: Some(max_tokens),
        sampling: common.sampling(&shared, format)?,
        stop: common.stops()?,
        logprobs,
        echo: false,
    };
    let head = Head { id: name("chatcmpl"), created: unix_time(), card };
    let answers = ask_all(&shared, &caller, &head.id, ask, n).await?;
    let (origins, asked): (Vec<AnswerOrigin>, Vec<_>) =
        answers.into_iter().map(|answer| (answer.origin, answer.pieces)).unzip();
    if common.streams() {
        let (events, response) = stream::respond();
        tokio::spawn(send(shared, reserved, head, asked, events, usage, tools));
        return Ok(stream::marked(&origins, response));
    }
    let _running = shared.metrics.running();
    let mut choices = Vec::new();
    let mut counted = Counted::new(&shared, reserved);
    for (index, pieces) in asked.into_iter().enumerate() {
        let Whole { text, tokens, usage, finish, .. } = stream::whole(pieces, &mut counted).await?;
        counted.used.add(&usage);
        let logprobs =
            logprobs.map(|_| json!({ "content": tokens.iter().map(token_json).collect::<Vec<_>>(), "refusal": null }));
        let mut message = json!({ "role": "assistant", "content": text, "refusal": null, "annotations": [] });
        let mut reason = finish.map(stream::finish);
        if let Some(tools) = &tools {
            let outcome = tools.outcome(&text);
            message["content"] = if outcome.text.is_empty() { Value::Null } else { outcome.text.into() };
            if !outcome.calls.is_empty() {
                message["tool_calls"] = outcome.calls.iter().map(Call::json).collect();
                reason = Some(CALLED);
            }
        }
        choices.push(json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": reason }));
    }
    let mut answer = head.json("chat.completion", choices);
    answer["usage"] = counted.used.json();
    drop(counted);
    Ok(stream::marked(&origins, Json(answer).into_response()))
}

/// Asks as often as answers are wanted, each with a seed of its own.
pub(crate) async fn ask_all(
    shared: &Shared,
    caller: &Caller,
    name: &str,
    ask: Ask,
    n: u32,
) -> Result<Vec<Answer>, ApiError> {
    let mut out = Vec::new();
    for i in 0..n {
        let mut ask = ask.clone();
        ask.sampling.seed = ask.sampling.seed.wrapping_add(i);
        // The receipts of several answers are told apart by their place.
        let name = if i == 0 { name.to_owned() } else { format!("{name}-{i}") };
        out.push(shared.answers.ask(&caller.client, &name, ask).await.map_err(ApiError::of_provider)?);
    }
    Ok(out)
}

/// What every chunk of an answer begins with.
struct Head {
    id: String,
    created: u64,
    card: ModelCard,
}

impl Head {
    fn json(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.card.name,
            "system_fingerprint": fingerprint(&self.card),
            "service_tier": "default",
            "choices": choices,
        })
    }
}

pub(crate) fn token_json(token: &Token) -> Value {
    let one = |bytes: &[u8], logprob: f32| json!({ "token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes });
    let mut out = one(&token.bytes, token.logprob.unwrap_or_default());
    out["top_logprobs"] = token.top.iter().map(|(bytes, logprob)| one(bytes, *logprob)).collect();
    out
}

/// Streams all answers, chunk by chunk as they come.
async fn send(
    shared: Arc<Shared>,
    reserved: Reserved,
    head: Head,
    asked: Vec<tokio::sync::mpsc::UnboundedReceiver<Piece>>,
    events: Events,
    with_usage: bool,
    tools: Option<Tools>,
) {
    let _running = shared.metrics.running();
    let begun = Instant::now();
    // Whether an answer is a call is known at its end only: until then it is held back.
    let mut held = vec![String::new(); asked.len()];
    let (merged, mut pieces) = tokio::sync::mpsc::unbounded_channel();
    for (index, mut one) in asked.into_iter().enumerate() {
        let merged = merged.clone();
        tokio::spawn(async move {
            loop {
                let piece = tokio::select! {
                    piece = one.recv() => piece,
                    () = merged.closed() => return,
                };
                let Some(piece) = piece else { return };
                if merged.send((index, piece)).is_err() {
                    return;
                }
            }
        });
    }
    drop(merged);
    let chunk = |index: usize, delta: Value, logprobs: Value, finish: Value| {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        let mut chunk = head.json("chat.completion.chunk", vec![choice]);
        if with_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    let mut used = Usage::default();
    let mut first = true;
    loop {
        let next = tokio::select! {
            next = pieces.recv() => next,
            // Who asked hung up: everything is let go of, and so cancelled; what was written counts.
            () = events.closed() => return shared.count(&reserved, &used),
        };
        let Some((index, piece)) = next else { break };
        match piece {
            Piece::Read { tokens, cached, .. } => {
                used.add(&Usage { prompt: tokens, cached, written: 0 });
                events.data(&chunk(
                    index,
                    json!({ "role": "assistant", "content": "", "refusal": null }),
                    Value::Null,
                    Value::Null,
                ));
            }
            Piece::Token(token) => {
                used.written += 1;
                if std::mem::take(&mut first) {
                    shared.metrics.first_token(begun.elapsed());
                }
                if tools.is_some() {
                    held[index] += &token.text;
                    continue;
                }
                let logprobs =
                    token.logprob.map_or(Value::Null, |_| json!({ "content": [token_json(&token)], "refusal": null }));
                if !token.text.is_empty() || !logprobs.is_null() {
                    events.data(&chunk(index, json!({ "content": token.text }), logprobs, Value::Null));
                }
            }
            Piece::End { finish, text, .. } => {
                match finish {
                    Ok(finish) if let Some(tools) = &tools => {
                        let outcome = tools.outcome(&(std::mem::take(&mut held[index]) + &text));
                        if !outcome.text.is_empty() {
                            events.data(&chunk(index, json!({ "content": outcome.text }), Value::Null, Value::Null));
                        }
                        for (k, call) in outcome.calls.iter().enumerate() {
                            let mut call = call.json();
                            call["index"] = k.into();
                            events.data(&chunk(index, json!({ "tool_calls": [call] }), Value::Null, Value::Null));
                        }
                        let reason = if outcome.calls.is_empty() { stream::finish(finish) } else { CALLED };
                        events.data(&chunk(index, json!({}), Value::Null, reason.into()));
                    }
                    Ok(finish) => {
                        if !text.is_empty() {
                            events.data(&chunk(index, json!({ "content": text }), Value::Null, Value::Null));
                        }
                        events.data(&chunk(index, json!({}), Value::Null, stream::finish(finish).into()));
                    }
                    Err(reason) => {
                        // A broken answer is no answer: no [DONE] follows.
                        events.data(&ApiError::of_provider(reason).value());
                        return shared.count(&reserved, &used);
                    }
                }
            }
        }
    }
    if with_usage {
        let mut last = head.json("chat.completion.chunk", vec![]);
        last["usage"] = used.json();
        events.data(&last);
    }
    events.done();
    shared.count(&reserved, &used);
}
