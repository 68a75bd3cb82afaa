//! The form of questions and answers.

use crate::Reason;

/// A question: one answer is written to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Name of a model.
    pub model: String,
    /// What is asked.
    pub input: AskInput,
    /// Tokens of the answer at most; none: as many as there is room for. 0: the question is read only.
    pub max_tokens: Option<u64>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Log-probabilities of each token and of the so many likeliest in its place.
    pub logprobs: Option<u8>,
    /// The question is part of the answer, with its log-probabilities where these are asked for.
    pub echo: bool,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum AskInput {
    /// A conversation; the model's own template makes a text of it.
    Chat {
        /// In order.
        messages: Vec<Message>,
        /// Tools that the model may call, as a JSON list in the shape of the OpenAI API.
        tools: Option<String>,
    },
    /// A text that is gone on with.
    Text(String),
    /// The same as ids of the model's tokens.
    Tokens(Vec<i32>),
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Calls that the assistant made, as a JSON list.
    pub tool_calls: Option<String>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
    /// Who says it.
    pub name: Option<String>,
}

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 = always the likeliest.
    pub temperature: f32,
    /// Of the likeliest, those that make up so much probability.
    pub top_p: f32,
    /// The so many likeliest; 0 = all.
    pub top_k: u32,
    /// Those that are so likely in proportion to the likeliest.
    pub min_p: f32,
    /// Taken off a logit for every time that the token was written.
    pub frequency_penalty: f32,
    /// Taken off once if it was.
    pub presence_penalty: f32,
    /// Its logit is divided by this if it was.
    pub repetition_penalty: f32,
    /// Added to logits, by token id.
    pub logit_bias: Vec<(i32, f32)>,
    /// The same seed gives the same answer on the same machine.
    pub seed: u32,
    /// The shape of the answer.
    pub format: AnswerFormat,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            format: AnswerFormat::Free,
        }
    }
}

/// The shape of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AnswerFormat {
    /// Anything.
    #[default]
    Free,
    /// JSON that fits a JSON Schema.
    Schema(String),
}

/// A piece of an answer; [`Piece::End`] is the last one.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// The question was read.
    Read {
        /// Its tokens.
        tokens: u64,
        /// How many of them were read before.
        cached: u64,
        /// Its text and tokens, where they are part of the answer.
        echo: Vec<Token>,
    },
    /// A token was written.
    Token(Token),
    /// The end.
    End {
        /// Why, or what went wrong.
        finish: Result<Finish, Reason>,
        /// Text that was held back until now.
        text: String,
        /// Tokens written.
        tokens: u64,
    },
}

/// A token of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Token {
    /// Its id.
    pub id: i32,
    /// Text that can be shown since.
    pub text: String,
    /// Its own bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; none where it was not asked for, or for the first of a question.
    pub logprob: Option<f32>,
    /// The likeliest in its place, with their bytes.
    pub top: Vec<(Vec<u8>, f32)>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop text came.
    Stop,
    /// As long as it may be.
    Length,
}

/// A model that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// Its name.
    pub name: String,
    /// Hash of its weights.
    pub hash: base::Hash,
    /// Tokens of question and answer together.
    pub context: u64,
    /// Whether its template has a place for tools.
    pub tools: bool,
    /// Since when it is served, in seconds of Unix time.
    pub since: u64,
    /// How many serve it, as far as is known.
    pub providers: u64,
}
