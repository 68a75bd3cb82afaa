//! `/v1/completions`: texts that are gone on with, and texts that are scored.

use crate::chat::ask_all;
use crate::error::ApiError;
use crate::ids::{name, unix_time};
use crate::keys::{Caller, Reserved};
use crate::params::{self, Common, Prompt, within};
use crate::state::{Bound, Shared, fingerprint};
use crate::stream::{self, Counted, Events, Whole};
use crate::table::{self, Endpoint};
use crate::usage::Usage;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use market::{Ask, AskInput, Piece, Token};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Request {
    /// What is gone on with.
    #[schemars(required)]
    prompt: Option<Prompt>,
    /// Tokens of the answer at most; 0: the text is scored only.
    max_tokens: Option<u64>,
    /// Log-probabilities of each token and of the so many likeliest in its place.
    #[schemars(range(min = 0, max = 20))]
    logprobs: Option<u32>,
    /// Whether the text is part of the answer.
    echo: Option<bool>,
    /// As many as `n`.
    best_of: Option<u32>,
}

const PROMPTS_MAX: usize = 64;
const LOGPROBS_MAX: u32 = 20;
/// What the API writes where nothing was said.
const TOKENS: u64 = 16;

pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let value = params::object(&headers, &body)?;
    let (common, request): (Common, Request) = (params::fields(&value)?, params::fields(&value)?);
    let model = common.model()?;
    table::check(Endpoint::Completions, &value)?;
    // Nothing is the beginning of a new text.
    let nothing = value.get("prompt").filter(|prompt| prompt.is_null()).map(|_| Prompt::Text(String::new()));
    let inputs = request.prompt.or(nothing).ok_or_else(|| ApiError::missing("prompt"))?.inputs();
    if inputs.is_empty() || inputs.len() > PROMPTS_MAX {
        return Err(ApiError::invalid("prompt", format!("'prompt' takes between 1 and {PROMPTS_MAX} texts.")));
    }
    let n = common.n()?;
    if inputs.len() * n as usize > PROMPTS_MAX {
        return Err(ApiError::invalid("n", format!("At most {PROMPTS_MAX} answers are written to one request.")));
    }
    if request.best_of.is_some_and(|best| best != n) {
        return Err(ApiError::unsupported("best_of", "only as many answers are written as are given back"));
    }
    let logprobs = request.logprobs.map(|top| within("logprobs", top, 0, LOGPROBS_MAX)).transpose()?;
    let usage = common.wants_usage()?;
    let max_tokens = common.tokens(&[("max_tokens", request.max_tokens)], 0)?.unwrap_or(TOKENS);
    let ask = Ask {
        model: model.clone(),
        input: AskInput::Tokens(Vec::new()),
        max_tokens: Some(max_tokens),
        sampling: common.sampling(&shared, params::shape(&value)?)?,
        stop: common.stops()?,
        logprobs: logprobs.map(|top| top as u8),
        echo: request.echo == Some(true),
    };
    let questions = inputs.len() as u64;
    let bound = Bound { bytes: body.len(), questions, answers: questions * u64::from(n), written: max_tokens };
    let (card, reserved) = shared.admit(&caller, &model, bound)?;
    let head = json!({
        "id": name("cmpl"), "object": "text_completion", "created": unix_time(), "model": card.name,
        "system_fingerprint": fingerprint(&card),
    });
    let (mut origins, mut asked) = (Vec::new(), Vec::new());
    let id = head["id"].as_str().unwrap_or_default();
    for (i, input) in inputs.into_iter().enumerate() {
        let id = if i == 0 { id.to_owned() } else { format!("{id}.{i}") };
        for answer in ask_all(&shared, &caller, &id, Ask { input, ..ask.clone() }, n).await? {
            origins.push(answer.origin);
            asked.push(answer.pieces);
        }
    }
    if common.streams() {
        let (events, response) = stream::respond();
        tokio::spawn(send(shared, reserved, head, (asked, n), events, usage));
        return Ok(stream::marked(&origins, response));
    }
    let _running = shared.metrics.running();
    let (mut choices, mut counted) = (Vec::new(), Counted::new(&shared, reserved));
    for (index, pieces) in asked.into_iter().enumerate() {
        let Whole { text, tokens, echo, usage, finish } = stream::whole(pieces, &mut counted).await?;
        let used = &mut counted.used;
        // Each prompt counts, but not for each of its answers again.
        if (index as u32).is_multiple_of(n) {
            used.prompt += usage.prompt;
            used.cached += usage.cached;
        }
        used.written += usage.written;
        let said = said(&echo);
        let all: Vec<Token> = echo.into_iter().chain(tokens).collect();
        choices.push(json!({
            "index": index, "text": said + &text, "finish_reason": finish.map(stream::finish),
            "logprobs": logprobs.map(|_| logprobs_json(&all, 0)),
        }));
    }
    let mut answer = head;
    answer["choices"] = choices.into();
    answer["usage"] = counted.used.json();
    drop(counted);
    Ok(stream::marked(&origins, Json(answer).into_response()))
}

/// The text of a question: a character may lie in several tokens.
fn said(echo: &[Token]) -> String {
    let bytes: Vec<u8> = echo.iter().flat_map(|token| token.bytes.iter().copied()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Characters of a token.
fn shown(token: &Token) -> usize {
    String::from_utf8_lossy(&token.bytes).chars().count()
}

/// The older form of log-probabilities: lists beside each other; offsets count on from `offset`.
fn logprobs_json(tokens: &[Token], mut offset: usize) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut offsets = Vec::new();
    for token in tokens {
        offsets.push(offset);
        offset += shown(token);
    }
    let top = |token: &Token| match token.logprob {
        None => Value::Null,
        // The token itself is always there.
        Some(own) => {
            let own = std::iter::once((text(&token.bytes), Value::from(own)));
            token.top.iter().map(|(bytes, logprob)| (text(bytes), Value::from(*logprob))).chain(own).collect()
        }
    };
    json!({
        "tokens": tokens.iter().map(|token| text(&token.bytes)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

async fn send(
    shared: Arc<Shared>,
    reserved: Reserved,
    head: Value,
    (asked, n): (Vec<UnboundedReceiver<Piece>>, u32),
    events: Events,
    with_usage: bool,
) {
    let _running = shared.metrics.running();
    let begun = Instant::now();
    let mut used = Usage::default();
    let mut first = true;
    let chunk = |index: usize, text: &str, logprobs: Value, finish: Value| {
        let mut chunk = head.clone();
        chunk["choices"] = json!([{ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish }]);
        if with_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    };
    for (index, mut pieces) in asked.into_iter().enumerate() {
        let mut offset = 0;
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                () = events.closed() => return shared.count(&reserved, &used),
            };
            let Some(piece) = piece else { return shared.count(&reserved, &used) };
            match piece {
                Piece::Read { tokens, cached, echo } => {
                    if (index as u32).is_multiple_of(n) {
                        used.prompt += tokens;
                        used.cached += cached;
                    }
                    let text = said(&echo);
                    if !text.is_empty() {
                        let scored = echo.iter().any(|token| token.logprob.is_some());
                        let logprobs = if scored { logprobs_json(&echo, 0) } else { Value::Null };
                        offset = echo.iter().map(shown).sum();
                        events.data(&chunk(index, &text, logprobs, Value::Null));
                    }
                }
                Piece::Token(token) => {
                    used.written += 1;
                    if std::mem::take(&mut first) {
                        shared.metrics.first_token(begun.elapsed());
                    }
                    let one = std::slice::from_ref(&token);
                    let logprobs = token.logprob.map_or(Value::Null, |_| logprobs_json(one, offset));
                    offset += shown(&token);
                    events.data(&chunk(index, &token.text, logprobs, Value::Null));
                }
                Piece::End { finish, text, .. } => {
                    match finish {
                        Ok(finish) => events.data(&chunk(index, &text, Value::Null, stream::finish(finish).into())),
                        Err(reason) => {
                            events.data(&ApiError::of_provider(reason).value());
                            return shared.count(&reserved, &used);
                        }
                    };
                    break;
                }
            }
        }
    }
    if with_usage {
        let mut last = head.clone();
        last["choices"] = json!([]);
        last["usage"] = used.json();
        events.data(&last);
    }
    events.done();
    shared.count(&reserved, &used);
}
