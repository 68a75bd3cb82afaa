//! `/v1/responses`, without memory: what is not in the request is not known.

use crate::Answer;
use crate::chat::{InMessage, messages, token_json};
use crate::error::ApiError;
use crate::ids::{name, unix_time};
use crate::keys::{Caller, Reserved};
use crate::params::{self, Common, within};
use crate::state::{Bound, Shared};
use crate::stream::{self, Counted, Events};
use crate::table::{self, Endpoint};
use crate::tools::{Call, Outcome, Tools};
use crate::usage::Usage;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use market::{Ask, AskInput, Finish, Message, Piece};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Request {
    /// A question, or the items of a conversation.
    #[schemars(required)]
    input: Option<Asked>,
    /// What comes before the conversation.
    instructions: Option<String>,
    /// Tokens of the answer at most.
    #[schemars(range(min = 1))]
    max_output_tokens: Option<u64>,
    /// The shape of the answer, in `format`.
    text: Option<Value>,
    /// `message.output_text.logprobs` asks for log-probabilities.
    include: Option<Vec<String>>,
    /// Of each token and of the so many likeliest in its place.
    #[schemars(range(min = 0, max = 20))]
    top_logprobs: Option<u32>,
    /// Whether an answer may have more than one call.
    parallel_tool_calls: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Asked {
    Text(String),
    Items(Vec<Value>),
}

/// Asks for log-probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// The conversation of a request.
fn conversation(request: &mut Request) -> Result<Vec<Message>, ApiError> {
    let mut out = Vec::new();
    if let Some(text) = request.instructions.clone() {
        out.push(Message { role: "system".into(), content: text, ..Message::default() });
    }
    match request.input.take().ok_or_else(|| ApiError::missing("input"))? {
        Asked::Text(text) => out.push(Message { role: "user".into(), content: text, ..Message::default() }),
        Asked::Items(items) => {
            let item = |(i, item): (usize, Value)| {
                let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
                // Calls and their results, as earlier answers showed them.
                let item = match item["type"].as_str() {
                    Some("function_call") => json!({ "role": "assistant", "content": "", "tool_calls": [{
                        "id": text("call_id"), "type": "function",
                        "function": { "name": text("name"), "arguments": text("arguments") },
                    }] }),
                    Some("function_call_output") => {
                        json!({ "role": "tool", "tool_call_id": text("call_id"), "content": item["output"] })
                    }
                    _ => item,
                };
                if item["type"].as_str().is_some_and(|kind| kind != "message") {
                    let kind = item["type"].as_str().unwrap_or_default();
                    return Err(ApiError::unsupported(
                        &format!("input[{i}]"),
                        &format!("items of type {kind} are not read"),
                    ));
                }
                serde_json::from_value::<InMessage>(item).map_err(|error| {
                    ApiError::invalid(&format!("input[{i}]"), format!("Invalid 'input[{i}]': {error}."))
                })
            };
            let given = items.into_iter().enumerate().map(item).collect::<Result<Vec<_>, _>>()?;
            let read = messages(given).map_err(|error| ApiError {
                param: error.param.map(|param| param.replacen("messages", "input", 1)),
                message: error.message.replace("messages", "input"),
                ..error
            })?;
            out.extend(read);
        }
    }
    Ok(out)
}

pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let value = params::object(&headers, &body)?;
    let (common, mut request): (Common, Request) = (params::fields(&value)?, params::fields(&value)?);
    let model = common.model()?;
    table::check(Endpoint::Responses, &value)?;
    let format = request.text.as_ref().and_then(|text| text.get("format")).cloned();
    let logprobs = request.include.iter().flatten().any(|what| what == LOGPROBS);
    let top = within("top_logprobs", request.top_logprobs.unwrap_or(0), 0, 20)?;
    let bound =
        request.max_output_tokens.map(|n| within("max_output_tokens", n, 1, u64::from(u32::MAX))).transpose()?;
    let shape = params::format("text.format", format.as_ref())?;
    let tools = Tools::read(value.get("tools"), value.get("tool_choice"))?;
    let tools = tools.map(|tools| tools.several(request.parallel_tool_calls));
    let messages = conversation(&mut request)?;
    let written = bound.unwrap_or(shared.answer_tokens);
    let whole = Bound { bytes: body.len(), questions: 1, answers: 1, written };
    let (card, reserved) = shared.admit(&caller, &model, whole)?;
    let (input, shape) = match &tools {
        Some(tools) => tools.tell(messages, card.tools, shape)?,
        None => (AskInput::Chat { messages, tools: None }, shape),
    };
    let ask = Ask {
        model,
        sampling: common.sampling(&shared, shape)?,
        input,
        max_tokens: Some(written),
        stop: common.stops()?,
        logprobs: (logprobs || top > 0).then_some(top as u8),
        echo: false,
    };
    let frame = Frame {
        response: json!({
            "id": name("resp"), "object": "response", "created_at": unix_time(), "completed_at": null,
            "status": "in_progress", "background": false, "error": null, "incomplete_details": null,
            "instructions": request.instructions, "max_output_tokens": bound, "max_tool_calls": null,
            "model": card.name, "output": [], "previous_response_id": null,
            "parallel_tool_calls": request.parallel_tool_calls.unwrap_or(true),
            "prompt_cache_key": value["prompt_cache_key"], "reasoning": { "effort": null, "summary": null },
            "safety_identifier": value["safety_identifier"], "service_tier": "default", "store": false,
            "temperature": ask.sampling.temperature, "text": { "format": format.unwrap_or(json!({ "type": "text" })) },
            "tool_choice": value.get("tool_choice").filter(|choice| !choice.is_null()).cloned().unwrap_or("auto".into()),
            "tools": listed(&value["tools"]), "top_logprobs": top, "top_p": ask.sampling.top_p,
            "presence_penalty": ask.sampling.presence_penalty, "frequency_penalty": ask.sampling.frequency_penalty,
            "truncation": "disabled", "usage": null, "user": value["user"],
            "metadata": if value["metadata"].is_object() { value["metadata"].clone() } else { json!({}) },
        }),
        item: name("msg"),
        tools,
    };
    let streams = common.streams();
    let id = frame.response["id"].as_str().unwrap_or_default();
    let Answer { origin, pieces } = shared.answers.ask(&caller.client, id, ask).await.map_err(ApiError::of_provider)?;
    if streams {
        let (events, response) = stream::respond();
        tokio::spawn(send(shared, reserved, frame, pieces, events));
        return Ok(stream::marked(&[origin], response));
    }
    let _running = shared.metrics.running();
    let mut counted = Counted::new(&shared, reserved);
    let whole = stream::whole(pieces, &mut counted).await?;
    counted.used = whole.usage;
    drop(counted);
    let logprobs = whole.tokens.iter().filter(|token| token.logprob.is_some()).map(token_json).collect();
    let ended = frame.ended(&whole.text, logprobs, whole.finish.unwrap_or(Finish::Stop), &whole.usage);
    Ok(stream::marked(&[origin], Json(ended).into_response()))
}

/// What belongs to one response.
struct Frame {
    response: Value,
    item: String,
    tools: Option<Tools>,
}

/// The tools of a request as a response repeats them: with every field, whether it was given or not.
fn listed(tools: &Value) -> Value {
    let whole = |tool: &Value| {
        let mut tool = tool.clone();
        if let Some(tool) = tool.as_object_mut() {
            for key in ["description", "parameters", "strict"] {
                tool.entry(key).or_insert(Value::Null);
            }
        }
        tool
    };
    tools.as_array().into_iter().flatten().map(whole).collect()
}

/// A call as an item of the output.
fn called(call: &Call, status: &str) -> Value {
    json!({
        "id": name("fc"), "type": "function_call", "status": status,
        "call_id": call.id, "name": call.name, "arguments": call.arguments,
    })
}

impl Frame {
    fn outcome(&self, text: &str) -> Outcome {
        let plain = || Outcome { text: text.to_owned(), calls: Vec::new() };
        self.tools.as_ref().map_or_else(plain, |tools| tools.outcome(text))
    }

    fn part(text: &str, logprobs: Value) -> Value {
        json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
    }

    fn item(&self, status: &str, content: Value) -> Value {
        json!({ "id": self.item, "type": "message", "status": status, "role": "assistant", "content": content })
    }

    fn ended(&self, text: &str, logprobs: Value, finish: Finish, usage: &Usage) -> Value {
        let mut out = self.response.clone();
        let status = match finish {
            Finish::Stop => "completed",
            Finish::Length => "incomplete",
        };
        if finish == Finish::Length {
            out["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        out["status"] = status.into();
        if finish == Finish::Stop {
            out["completed_at"] = unix_time().into();
        }
        let outcome = self.outcome(text);
        let said = (!outcome.text.is_empty() || outcome.calls.is_empty())
            .then(|| self.item(status, json!([Self::part(&outcome.text, logprobs)])));
        out["output"] = said.into_iter().chain(outcome.calls.iter().map(|call| called(call, status))).collect();
        out["usage"] = json!({
            "input_tokens": usage.prompt, "input_tokens_details": { "cached_tokens": usage.cached },
            "output_tokens": usage.written, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": usage.prompt + usage.written,
        });
        out
    }
}

/// The last event of a stream.
fn ending(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "response.completed",
        Finish::Length => "response.incomplete",
    }
}

/// The events of an item that is known at its end only: begun empty, said, done.
fn at_once(say: &mut impl FnMut(&str, Value), i: usize, item: &Value) {
    let place = |more: Value| {
        let mut out = json!({ "item_id": item["id"], "output_index": i });
        out.as_object_mut().into_iter().for_each(|out| out.extend(more.as_object().cloned().unwrap_or_default()));
        out
    };
    let mut begun = item.clone();
    begun["status"] = "in_progress".into();
    if item["type"] == "function_call" {
        begun["arguments"] = "".into();
        say("response.output_item.added", json!({ "output_index": i, "item": begun }));
        say("response.function_call_arguments.delta", place(json!({ "delta": item["arguments"] })));
        let done = json!({ "arguments": item["arguments"], "name": item["name"] });
        say("response.function_call_arguments.done", place(done));
    } else {
        let (text, part) = (&item["content"][0]["text"], &item["content"][0]);
        begun["content"] = json!([]);
        say("response.output_item.added", json!({ "output_index": i, "item": begun }));
        let empty = Frame::part("", json!([]));
        say("response.content_part.added", place(json!({ "content_index": 0, "part": empty })));
        say("response.output_text.delta", place(json!({ "content_index": 0, "delta": text, "logprobs": [] })));
        let logprobs = &part["logprobs"];
        say("response.output_text.done", place(json!({ "content_index": 0, "text": text, "logprobs": logprobs })));
        say("response.content_part.done", place(json!({ "content_index": 0, "part": part })));
    }
    say("response.output_item.done", json!({ "output_index": i, "item": item }));
}

async fn send(
    shared: Arc<Shared>,
    reserved: Reserved,
    frame: Frame,
    mut pieces: UnboundedReceiver<Piece>,
    events: Events,
) {
    let _running = shared.metrics.running();
    let begun = Instant::now();
    let mut number = 0;
    let mut say = |kind: &str, mut value: Value| {
        value["type"] = kind.into();
        value["sequence_number"] = number.into();
        number += 1;
        events.named(kind, &value);
    };
    let place = json!({ "item_id": frame.item, "output_index": 0, "content_index": 0 });
    let with = |key: &str, value: Value| {
        let mut out = place.clone();
        out[key] = value;
        out
    };
    say("response.created", json!({ "response": frame.response }));
    say("response.in_progress", json!({ "response": frame.response }));
    let (mut text, mut tokens, mut used, mut first) = (String::new(), Vec::new(), Usage::default(), true);
    loop {
        let piece = tokio::select! {
            piece = pieces.recv() => piece,
            () = events.closed() => return shared.count(&reserved, &used),
        };
        let (delta, logprobs) = match piece {
            Some(Piece::Read { tokens, cached, .. }) => {
                used = Usage { prompt: tokens, cached, written: 0 };
                if frame.tools.is_some() {
                    continue;
                }
                say(
                    "response.output_item.added",
                    json!({ "output_index": 0, "item": frame.item("in_progress", json!([])) }),
                );
                say("response.content_part.added", with("part", Frame::part("", json!([]))));
                continue;
            }
            Some(Piece::Token(token)) => {
                used.written += 1;
                if std::mem::take(&mut first) {
                    shared.metrics.first_token(begun.elapsed());
                }
                let logprobs: Vec<Value> = token.logprob.map(|_| token_json(&token)).into_iter().collect();
                tokens.extend(logprobs.iter().cloned());
                // Whether it is a call is known at its end only.
                if frame.tools.is_some() {
                    text += &token.text;
                    continue;
                }
                (token.text, logprobs)
            }
            Some(Piece::End { finish: Ok(finish), text: rest, .. }) => {
                if frame.tools.is_some() {
                    let ended = frame.ended(&(text + &rest), tokens.into(), finish, &used);
                    for (i, item) in ended["output"].as_array().into_iter().flatten().enumerate() {
                        at_once(&mut say, i, item);
                    }
                    say(ending(finish), json!({ "response": ended }));
                    events.done();
                    return shared.count(&reserved, &used);
                }
                if !rest.is_empty() {
                    let mut delta = with("delta", rest.as_str().into());
                    delta["logprobs"] = json!([]);
                    say("response.output_text.delta", delta);
                    text += &rest;
                }
                let all = Value::from(tokens);
                let mut done = with("text", text.as_str().into());
                done["logprobs"] = all.clone();
                say("response.output_text.done", done);
                say("response.content_part.done", with("part", Frame::part(&text, all.clone())));
                let ended = frame.ended(&text, all, finish, &used);
                say("response.output_item.done", json!({ "output_index": 0, "item": ended["output"][0] }));
                say(ending(finish), json!({ "response": ended }));
                events.done();
                return shared.count(&reserved, &used);
            }
            Some(Piece::End { finish: Err(reason), .. }) => {
                let error = ApiError::of_provider(reason);
                let mut failed = frame.response.clone();
                failed["status"] = "failed".into();
                failed["error"] = json!({ "code": error.code.unwrap_or("server_error"), "message": error.message });
                say("response.failed", json!({ "response": failed }));
                return shared.count(&reserved, &used);
            }
            None => return shared.count(&reserved, &used),
        };
        if !delta.is_empty() {
            let mut value = with("delta", delta.as_str().into());
            value["logprobs"] = logprobs.into();
            say("response.output_text.delta", value);
            text += &delta;
        }
    }
}
