//! The OpenAI-compatible front: any client of that API talks to it, on the user's own machine.
//!
//! *Goals*: what official clients send works unchanged; every parameter has its effect or is refused by name; every error
//! is JSON of one shape. *Non-goals*: models, networks, money: questions go to an [`Answers`].

mod chat;
mod completions;
mod embeddings;
mod error;
mod ids;
mod keys;
mod metrics;
mod models;
mod openapi;
mod page;
mod panel;
mod params;
mod responses;
mod server;
mod service;
mod state;
mod stream;
mod table;
mod tools;
mod usage;

pub use keys::{Key, Keys, News, Save};
pub use panel::PanelSource;
pub use server::{Gateway, GatewayError, serve};
pub use table::{Endpoint, Neutral, PARAMETERS, Parameter, Rule};

use market::{Ask, AskInput, ModelCard, Piece, Reason};
use std::future::Future;
use std::pin::Pin;
use tokio::sync::mpsc::UnboundedReceiver;

/// A future of [`Answers`].
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, Reason>> + Send + 'a>>;

/// Where an answer comes from, as it was known when the answer began. Another provider may go on with it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerOrigin {
    /// The provider that took the question: `self`, or the key of another node.
    pub provider: String,
    /// Whether the question had been given to no other machine until then.
    pub local: bool,
}

impl AnswerOrigin {
    /// This node itself, which asked nobody.
    pub fn own() -> Self {
        Self { provider: "self".into(), local: true }
    }
}

/// An answer that has begun.
#[derive(Debug)]
pub struct Answer {
    /// Where it comes from.
    pub origin: AnswerOrigin,
    /// Its pieces, until [`Piece::End`]. Dropping the receiver cancels the answer.
    pub pieces: UnboundedReceiver<Piece>,
}

/// Nobody answers: there is only the page.
pub struct Nobody;

impl Answers for Nobody {
    fn models(&self) -> Vec<ModelCard> {
        Vec::new()
    }

    fn ask(&self, _client: &[u8; 32], _name: &str, ask: Ask) -> Asked<'_, Answer> {
        nobody(ask.model)
    }

    fn embed(&self, model: &str, _texts: Vec<AskInput>) -> Asked<'_, (Vec<Vec<f32>>, u64)> {
        nobody(model.to_owned())
    }

    fn tokenize(&self, model: &str, _text: &str) -> Asked<'_, Vec<i32>> {
        nobody(model.to_owned())
    }

    fn detokenize(&self, model: &str, _ids: &[i32]) -> Asked<'_, String> {
        nobody(model.to_owned())
    }
}

fn nobody<T: Send + 'static>(model: String) -> Asked<'static, T> {
    Box::pin(async move { Err(Reason::Model(model)) })
}

/// Who answers questions: a model on this machine, or providers of a network.
pub trait Answers: Send + Sync + 'static {
    /// Models that can be asked.
    fn models(&self) -> Vec<ModelCard>;
    /// Why a name that is not among them cannot be asked.
    fn unlisted(&self, model: &str) -> Reason {
        Reason::Model(model.to_owned())
    }
    /// Asks for `client` under a name of the answer; what is read for one client is never shared with another. The answer
    /// is given once its origin is known: a response names it before its first word.
    fn ask(&self, client: &[u8; 32], name: &str, ask: Ask) -> Asked<'_, Answer>;
    /// The receipt of an answer by its name, as JSON, once it ended.
    fn receipt(&self, _name: &str) -> Option<String> {
        None
    }
    /// What texts mean, as vectors of length one, and how many tokens were read. No other machine is given the texts.
    fn embed(&self, model: &str, texts: Vec<AskInput>) -> Asked<'_, (Vec<Vec<f32>>, u64)>;
    /// Ids of a text.
    fn tokenize(&self, model: &str, text: &str) -> Asked<'_, Vec<i32>>;
    /// Text of ids.
    fn detokenize(&self, model: &str, ids: &[i32]) -> Asked<'_, String>;
}
