//! Serving: GGUF models through llama.cpp, many answers at a time.
//!
//! One thread owns the context and runs passes over the model: one token of everybody who writes and a piece of the
//! prompts that are read (`plan`), so that a long prompt stalls nobody and a cancel is noticed within a pass. A slot
//! keeps what it read: the next prompt of the *same client* that begins alike goes on from there; nothing is ever
//! shared between clients.
//!
//! *Goals*: llama.cpp's own tokens at its own rate; every parameter has its effect or is refused. *Non-goals*: HTTP, keys,
//! money, networks. Token ids and text in, text out.

mod embed;
mod load;
mod pass;
mod plan;
mod sample;
pub mod schema;
mod template;
mod text;
mod tokens;

pub use load::{EngineConfig, LoadError, ModelInfo, backend};
pub use sample::{AnswerShape, SamplingParams};
pub use template::{Template, TemplateError, TemplateMessage};
pub use tokens::Rendered;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thiserror::Error;
use tokio::sync::mpsc;

/// Whether models may be served on a graphics device.
pub const ON_GRAPHICS: bool = cfg!(any(feature = "cuda", feature = "metal", feature = "vulkan"));

/// Whose request it is. What was read for one is never used for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(pub [u8; 32]);

/// A request.
#[derive(Debug, Clone)]
pub struct Job {
    /// Whose.
    pub client: Client,
    /// The owner of the machine asks: this goes before others, who leave a slot free for it.
    pub own: bool,
    /// Token ids to go on from; not empty.
    pub prompt: Vec<i32>,
    /// The beginning of the answer, as somebody else wrote it: it is gone on with.
    pub written: Vec<i32>,
    /// How many tokens the answer has at most, with that beginning; 0: the prompt is read only.
    pub max_tokens: usize,
    /// How far it may be written for now; none: to its end.
    pub pace: Option<Pace>,
    /// How they are chosen.
    pub sampling: SamplingParams,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Log-probabilities of each token and of the so many likeliest in its place.
    pub logprobs: Option<usize>,
    /// Log-probabilities of the prompt's tokens too.
    pub echo: bool,
}

/// How many tokens of an answer may be written for now. [`Engine::wake`] after it was raised.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<AtomicUsize>);

impl Pace {
    /// So many tokens in all, those of the beginning not counted.
    pub fn allow(&self, tokens: usize) {
        self.0.fetch_max(tokens, Ordering::Relaxed);
    }

    pub(crate) fn allows(&self, tokens: usize) -> bool {
        tokens < self.0.load(Ordering::Relaxed)
    }
}

/// What becomes of a request, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt was read.
    Read {
        /// How many of its tokens were there from before.
        cached: usize,
        /// Of each token of the prompt after the first one, where asked for.
        logprobs: Vec<Written>,
    },
    /// A token was written.
    Token(Written),
    /// The end.
    Done {
        /// Why.
        finish: EngineFinish,
        /// Text that was held back until now.
        text: String,
    },
}

/// A token, what may be shown since, and how likely it was.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Written {
    /// Its id.
    pub id: i32,
    /// Text that can be shown now: whole characters, nothing that may become a stop string.
    pub text: String,
    /// The token's own bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability before temperature and penalties (0 where not asked for).
    pub logprob: f32,
    /// The likeliest in its place.
    pub top: Vec<(i32, f32)>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineFinish {
    /// The model ended it, or a stop string came.
    Stop,
    /// As many tokens as were asked for, or as there was room for.
    Length,
    /// The model failed: what came before is no answer.
    Failed,
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// As many wait as may.
    #[error("as many requests wait as may; try again")]
    Busy,
    /// Nothing to go on from.
    #[error("the prompt is empty")]
    Empty,
    /// The prompt does not fit.
    #[error("the prompt has {0} tokens, this model takes at most {1} with the answer")]
    TooLong(usize, usize),
    /// Too many characters in one piece: a conversation, or a prompt.
    #[error("the text has {0} characters in one piece, a tokenizer takes at most {1}: break it up")]
    Piece(usize, usize),
    /// A token that the model does not have.
    #[error("the model has no token {0}")]
    Token(i32),
    /// The same in a bias.
    #[error("the model has no token {0}")]
    Bias(i32),
    /// The asked shape cannot be made into a grammar.
    #[error("the schema cannot be followed: {0}")]
    Format(String),
    /// It writes, or it makes embeddings; not both.
    #[error("{0}")]
    Kind(&'static str),
    /// The model failed.
    #[error("the model failed: {0}")]
    Failed(String),
    /// The engine has ended.
    #[error("the model is not served any more")]
    Ended,
}

/// What computes: two builds of one class round alike.
pub fn class() -> String {
    format!("llama.cpp {LLAMA} kv f16 bf16 {}", env!("TALKOO_ENGINE_BUILD"))
}

/// Release of the binding, which fixes that of llama.cpp.
const LLAMA: &str = "0.1.160";

/// A model that answers. Dropped, it ends.
pub struct Engine {
    model: Arc<LlamaModel>,
    info: ModelInfo,
    thread: Thread,
    waiting: Arc<AtomicUsize>,
    quoting: tokens::Quoting,
}

/// What a model does, and how it is told to.
enum Thread {
    Writes(std::sync::mpsc::Sender<pass::Order>),
    Embeds(std::sync::mpsc::Sender<embed::Embed>),
}

/// A request that can be answered.
pub struct Prepared {
    job: Job,
    sampler: sample::Sampler,
}

/// Requests that may wait for a slot.
const WAITING_MAX: usize = 256;

impl Engine {
    /// Loads a model and begins to serve it. Takes seconds: call it where that does not matter.
    pub fn load(config: EngineConfig) -> Result<Self, LoadError> {
        let (model, info) = load::load(&config)?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let thread = match info.embeds {
            true => Thread::Embeds(embed::start(model.clone(), &config, &info, waiting.clone())?),
            false => Thread::Writes(pass::start(model.clone(), &config, &info, waiting.clone())?),
        };
        let quoting = tokens::Quoting::new(&model);
        Ok(Self { model, info, thread, waiting, quoting })
    }

    /// What is served.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Requests that are being answered or wait.
    pub fn busy(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a request. Its events come until [`Event::Done`]; who lets go of them cancels it.
    pub fn submit(&self, job: Job) -> Result<mpsc::UnboundedReceiver<Event>, Refusal> {
        self.start(self.prepare(job)?)
    }

    /// Looks whether a request can be answered. Takes a moment where a shape is asked for.
    pub fn prepare(&self, mut job: Job) -> Result<Prepared, Refusal> {
        if matches!(self.thread, Thread::Embeds(_)) {
            return Err(Refusal::Kind("this model makes embeddings, it does not write"));
        }
        self.known(&job.prompt)?;
        if !job.written.is_empty() {
            self.known(&job.written)?;
        }
        let room = self.info.context.saturating_sub(job.prompt.len());
        if room == 0 && job.max_tokens > 0 || job.prompt.len() + job.written.len() > self.info.context {
            return Err(Refusal::TooLong(job.prompt.len() + job.written.len(), self.info.context));
        }
        job.max_tokens = job.max_tokens.min(room);
        let sampler = sample::Sampler::new(&self.model, &job.sampling, job.max_tokens, &job.written)?;
        Ok(Prepared { job, sampler })
    }

    /// What a text means, as a vector of length one; `tokens` as [`tokenize_text`](Self::tokenize_text) gives them.
    pub async fn embed(&self, tokens: Vec<i32>) -> Result<Vec<f32>, Refusal> {
        let Thread::Embeds(texts) = &self.thread else {
            return Err(Refusal::Kind("this model was not published as an embedding model"));
        };
        self.known(&tokens)?;
        if tokens.len() > self.info.context {
            return Err(Refusal::TooLong(tokens.len(), self.info.context));
        }
        self.enter()?;
        let (done, vector) = tokio::sync::oneshot::channel();
        texts.send(embed::Embed { tokens, done }).map_err(|_| self.gone())?;
        vector.await.map_err(|_| Refusal::Ended)?
    }

    /// There are tokens, and all are the model's.
    fn known(&self, tokens: &[i32]) -> Result<(), Refusal> {
        let vocabulary = self.model.n_vocab();
        match tokens.iter().find(|id| !(0..vocabulary).contains(*id)) {
            Some(wrong) => Err(Refusal::Token(*wrong)),
            None if tokens.is_empty() => Err(Refusal::Empty),
            None => Ok(()),
        }
    }

    /// Counts one more that waits, if there is room; its thread counts it off.
    fn enter(&self) -> Result<(), Refusal> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// The thread has ended: who just entered is counted off here.
    fn gone(&self) -> Refusal {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Refusal::Ended
    }

    /// Begins to answer.
    pub fn start(&self, prepared: Prepared) -> Result<mpsc::UnboundedReceiver<Event>, Refusal> {
        let Prepared { job, sampler } = prepared;
        let Thread::Writes(orders) = &self.thread else { return Err(Refusal::Ended) };
        self.enter()?;
        // As long as an answer at most, so it needs no bound of its own.
        let (events, receiver) = mpsc::unbounded_channel();
        let begin = pass::Begin { job, sampler, events };
        orders.send(pass::Order::Begin(Box::new(begin))).map_err(|_| self.gone())?;
        Ok(receiver)
    }

    /// Somebody's [`Pace`] was raised.
    pub fn wake(&self) {
        if let Thread::Writes(orders) = &self.thread {
            let _ = orders.send(pass::Order::Wake);
        }
    }

    /// The ids of a text; `special`: texts of special tokens become these, and the model's beginning is added. Takes a
    /// moment where it is long.
    pub fn tokenize(&self, text: &str, special: bool) -> Result<Vec<i32>, Refusal> {
        tokens::tokenize(&self.model, text, special && self.info.adds_bos, special)
    }

    /// The token with which texts begin; where there is none, the one with which they end.
    pub fn beginning(&self) -> i32 {
        let vocabulary = self.model.vocab();
        if vocabulary.bos().0 >= 0 { vocabulary.bos().0 } else { vocabulary.eos().0.max(0) }
    }

    /// The ids of a text that is to be embedded, with the beginning and the end that the model wants.
    pub fn tokenize_text(&self, text: &str) -> Result<Vec<i32>, Refusal> {
        tokens::tokenize(&self.model, text, true, false)
    }

    /// A conversation as the model's own template renders it.
    pub fn render(
        &self,
        messages: &[TemplateMessage],
        tools: Option<&serde_json::Value>,
    ) -> Result<Rendered, TemplateError> {
        let template = self.info.template.as_ref().ok_or(TemplateError::None)?;
        self.quoting.render(template, messages, tools)
    }

    /// The ids of a rendered conversation: the template says itself whether there is a beginning.
    pub fn tokenize_prompt(&self, rendered: &Rendered) -> Result<Vec<i32>, Refusal> {
        rendered.tokenize(&self.model)
    }

    /// The bytes of a token.
    pub fn piece(&self, id: i32) -> Vec<u8> {
        if (0..self.model.n_vocab()).contains(&id) { tokens::piece(&self.model, LlamaToken(id)) } else { Vec::new() }
    }

    /// The text of ids.
    pub fn detokenize(&self, ids: &[i32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.piece(*id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
