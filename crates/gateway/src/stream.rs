//! Answers as they come: gathered whole, or sent on as server-sent events.

use crate::AnswerOrigin;
use crate::error::ApiError;
use crate::keys::Reserved;
use crate::state::Shared;
use crate::usage::Usage;
use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use market::{Finish, Piece, Token};
use serde_json::Value;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Comments keep a connection open while nothing is written.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    pub(crate) echo: Vec<Token>,
    pub(crate) usage: Usage,
    pub(crate) finish: Option<Finish>,
}

/// Counts what was read and written when it is let go of: at the end, and when whoever asked hung up.
pub(crate) struct Counted<'a> {
    shared: &'a Shared,
    reserved: Reserved,
    /// Of answers that are whole.
    pub(crate) used: Usage,
    /// Of the one that is being written.
    now: Usage,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(shared: &'a Shared, reserved: Reserved) -> Self {
        Self { shared, reserved, used: Usage::default(), now: Usage::default() }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.used.add(&self.now);
        self.shared.count(&self.reserved, &self.used);
    }
}

/// Waits for the whole answer. One that breaks off is an error.
pub(crate) async fn whole(mut pieces: UnboundedReceiver<Piece>, counted: &mut Counted<'_>) -> Result<Whole, ApiError> {
    let mut out = Whole::default();
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Read { tokens, cached, echo } => {
                (out.usage.prompt, out.usage.cached, out.echo) = (tokens, cached, echo);
                counted.now = out.usage;
            }
            Piece::Token(token) => {
                out.text += &token.text;
                out.tokens.push(token);
                counted.now.written += 1;
            }
            Piece::End { finish, text, tokens } => {
                out.text += &text;
                out.usage.written = tokens;
                out.finish = Some(finish.map_err(ApiError::of_provider)?);
                // Whoever waits for it adds it up.
                counted.now = Usage::default();
                return Ok(out);
            }
        }
    }
    Err(market::Reason::Failed("it ended without a word".into()).into())
}

/// Why an answer ended, as the API says it.
pub(crate) fn finish(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// Where events of a stream are put in; after its reader hung up they are lost, see [`closed`](Self::closed).
pub(crate) struct Events(UnboundedSender<Event>);

impl Events {
    /// Sends a line of data.
    pub(crate) fn data(&self, value: &Value) {
        let _ = self.0.send(Event::default().data(value.to_string()));
    }

    /// The same under a name.
    pub(crate) fn named(&self, name: &str, value: &Value) {
        let _ = self.0.send(Event::default().event(name).data(value.to_string()));
    }

    /// The mark of a whole stream; a broken one has none.
    pub(crate) fn done(&self) {
        let _ = self.0.send(Event::default().data("[DONE]"));
    }

    /// Resolves when nobody reads any more.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Names whoever took the question. Several answers to one request may have several origins; together they are local if
/// each of them is.
pub(crate) fn marked(origins: &[AnswerOrigin], mut response: Response) -> Response {
    let mut providers: Vec<&str> = origins.iter().map(|origin| origin.provider.as_str()).collect();
    providers.dedup();
    let local = !origins.is_empty() && origins.iter().all(|origin| origin.local);
    let headers = response.headers_mut();
    // A name that no header may hold is no name of a provider.
    let named = HeaderValue::from_str(&providers.join(", ")).unwrap_or(HeaderValue::from_static("unknown"));
    headers.insert("x-talkoo-provider", named);
    headers.insert("x-talkoo-local", HeaderValue::from_static(if local { "true" } else { "false" }));
    response
}

/// A response that streams what is put in.
pub(crate) fn respond() -> (Events, Response) {
    let (events, receiver) = unbounded_channel();
    let keep = KeepAlive::new().interval(COMMENT_EVERY).text("");
    let mut response = Sse::new(Lines(receiver)).keep_alive(keep).into_response();
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    (Events(events), response)
}

struct Lines(UnboundedReceiver<Event>);

impl Stream for Lines {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|event| event.map(Ok))
    }
}
