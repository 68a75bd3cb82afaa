//! The server over somebody who answers everything with the same words, and what is asked of it.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use gateway::{Answer, AnswerOrigin, Answers, Asked, Gateway, Key, Keys};
use market::{Ask, AskInput, Finish, ModelCard, Piece, Reason, Token};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::unbounded_channel;
use tower::ServiceExt;

/// Answers everything with the same three words, or calls a tool where the answer has to have a shape.
#[derive(Default)]
struct Parrot {
    heard: Mutex<Vec<Ask>>,
}

impl Answers for Parrot {
    fn models(&self) -> Vec<ModelCard> {
        vec![ModelCard {
            name: "parrot".into(),
            hash: base::Hash::default(),
            context: 100,
            tools: false,
            since: 1,
            providers: 1,
        }]
    }

    fn ask(&self, _client: &[u8; 32], _name: &str, ask: Ask) -> Asked<'_, Answer> {
        self.heard.lock().expect("a lock").push(ask.clone());
        Box::pin(async move {
            if ask.stop.iter().any(|stop| stop == "busy") {
                return Err(Reason::Busy(1500));
            }
            let broken = ask.stop.iter().any(|stop| stop == "broken");
            let (pieces, receiver) = unbounded_channel();
            // Every second answer of a request is another node's.
            let elsewhere = ask.sampling.seed % 2 == 1;
            let other = || AnswerOrigin { provider: "ab".repeat(32), local: false };
            let origin = if elsewhere { other() } else { AnswerOrigin::own() };
            let _ = pieces.send(Piece::Read { tokens: 5, cached: 2, echo: vec![] });
            let calls =
                matches!(&ask.sampling.format, market::AnswerFormat::Schema(schema) if schema.contains("look_up"));
            let twice = ask.stop.iter().any(|stop| stop == "twice");
            let call = ["{\"name\":\"look_up\",", "\"arguments\":{\"what\"", ":\"x\"}"];
            let one = call.concat() + "}";
            let two = format!("[{one},{one}");
            let words = match (calls, twice) {
                (true, true) => ["", "", two.as_str()],
                (true, false) => call,
                (false, _) => ["who", "'s", " there"],
            };
            for word in words {
                let logprob = ask.logprobs.map(|_| -0.5);
                let token = Token { id: 1, text: word.into(), bytes: word.into(), logprob, top: vec![] };
                let _ = pieces.send(Piece::Token(token));
            }
            let finish = if broken { Err(Reason::Failed("gone".into())) } else { Ok(Finish::Stop) };
            let rest = match (calls, twice) {
                (true, true) => "]",
                (true, false) => "}",
                (false, _) => "?",
            };
            let _ = pieces.send(Piece::End { finish, text: rest.into(), tokens: 3 });
            Ok(Answer { origin, pieces: receiver })
        })
    }

    fn embed(&self, _model: &str, texts: Vec<AskInput>) -> Asked<'_, (Vec<Vec<f32>>, u64)> {
        Box::pin(async move {
            if texts.contains(&AskInput::Text("refuse".into())) {
                return Err(Reason::Unsupported { what: "model".into(), why: "it writes".into() });
            }
            Ok((texts.iter().map(|_| vec![0.6, 0.8]).collect(), texts.len() as u64))
        })
    }

    fn tokenize(&self, _model: &str, text: &str) -> Asked<'_, Vec<i32>> {
        let n = text.len() as i32;
        Box::pin(async move { Ok(vec![n]) })
    }

    fn detokenize(&self, _model: &str, _ids: &[i32]) -> Asked<'_, String> {
        Box::pin(async { Ok("text".into()) })
    }
}

pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) text: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn error(&self) -> (u16, Option<String>, Option<String>) {
        let value = self.json();
        let text = |key: &str| value["error"][key].as_str().map(str::to_owned);
        assert!(text("message").is_some_and(|message| !message.is_empty()) && text("type").is_some(), "{value}");
        (self.status.as_u16(), text("code"), text("param"))
    }
}

pub(crate) fn asked(keys: Vec<Key>, needed: bool, request: Request<Body>) -> Said {
    through(Arc::default(), keys, needed, request)
}

/// The same, with what the parrot was asked.
pub(crate) fn heard(path: &str, body: &Value) -> (Said, Vec<Ask>) {
    let parrot = Arc::<Parrot>::default();
    let said = through(parrot.clone(), vec![], false, post(path, body.to_string()));
    let heard = std::mem::take(&mut *parrot.heard.lock().expect("a lock"));
    (said, heard)
}

fn through(answers: Arc<Parrot>, keys: Vec<Key>, needed: bool, request: Request<Body>) -> Said {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let keys = Arc::new(Keys::new(keys));
        let gateway = Gateway { answers, keys, demand_keys: needed, answer_tokens: 10, temperature: 1.0, panel: None };
        let response = gateway.router(needed).oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.expect("a body");
        Said { status: parts.status, headers: parts.headers, text: String::from_utf8_lossy(&bytes).into_owned() }
    })
}

pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(body.into()).expect("a request")
}

pub(crate) fn said(path: &str, body: &Value) -> Said {
    asked(vec![], false, post(path, body.to_string()))
}

pub(crate) const CHAT: &str = "/v1/chat/completions";
