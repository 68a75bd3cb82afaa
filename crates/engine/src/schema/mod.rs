//! JSON Schema to GBNF, the grammars of llama.cpp.
//!
//! A schema comes from strangers, so the conversion is a pure function with a bound on everything: what it reads, how
//! deep it goes, what it writes. A grammar that it returns has passed [`check`], which bounds what llama.cpp's own code
//! does with it: its parser and its search for left recursion recurse, and neither counts its steps.
//!
//! *Goals*: what llama.cpp's converter understands means the same here, down to the order of properties and the blanks
//! between tokens. A keyword that cannot be followed is an error that names it.
//! *Non-goals*: to check a value; schemas in other files.
//!
//! Where llama.cpp's converter lets text through that is no JSON (a bare quote in a pattern's `.`) or that its schema
//! excludes (bounds of integers with more than one digit, of numbers at all), this one does not.

mod bounds;
mod convert;
mod gbnf;
mod joined;
mod keyword;
mod members;
mod pattern;
mod range;
mod write;

pub use gbnf::{GrammarError, check};

use serde_json::Value;
use thiserror::Error;

/// What a schema may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaLimits {
    /// Schemas within schemas, references followed: each takes a piece of the stack.
    pub depth: usize,
    /// Properties of an object, alternatives, values of an enumeration. llama.cpp looks at each for every token.
    pub members: usize,
    /// Bytes of a property's name.
    pub name: usize,
    /// How often something is repeated where it is counted; llama.cpp takes more for "without end".
    pub repeats: usize,
    /// Schemas, properties and values looked at, each as often as it is: twice where two types share it.
    pub work: usize,
    /// Rules of the grammar.
    pub rules: usize,
    /// Bytes of the grammar.
    pub bytes: usize,
    /// Characters that the shortest answer has at least, by its counts alone: more than a model ever writes.
    pub shortest: usize,
}

impl Default for SchemaLimits {
    fn default() -> Self {
        Self {
            depth: 64,
            members: 256,
            name: 128,
            repeats: 2_000,
            work: 1 << 13,
            rules: 1 << 13,
            bytes: 1 << 19,
            shortest: 1 << 16,
        }
    }
}

/// Why a schema cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A keyword that says something no grammar is made for.
    #[error("{path}: `{keyword}` is not supported here; leave it out")]
    Unsupported {
        /// The schema that has it.
        path: String,
        /// Its name.
        keyword: String,
    },
    /// A keyword with a value that it cannot have.
    #[error("{path}: `{keyword}` {why}")]
    Wrong {
        /// The schema that has it.
        path: String,
        /// Its name.
        keyword: String,
        /// What is wrong.
        why: &'static str,
    },
    /// More than may be.
    #[error("{path}: `{keyword}` goes beyond {max} {what}")]
    Limit {
        /// The schema at which it was noticed.
        path: String,
        /// Which keyword made it so many.
        keyword: String,
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A reference that leads nowhere.
    #[error("{path}: `$ref` to {to} {why}")]
    Reference {
        /// The schema that has it.
        path: String,
        /// What it names.
        to: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A reference that comes back to itself before a character was written.
    #[error("{path}: `$ref` to {to} leads back to itself")]
    Circle {
        /// The schema that has it.
        path: String,
        /// What it names.
        to: String,
    },
    /// A pattern that no grammar is made for.
    #[error("{path}: `pattern`, character {at}: {why}")]
    Pattern {
        /// The schema that has it.
        path: String,
        /// Where in the pattern, from 0.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// All in all it is more than llama.cpp may be given.
    #[error("#: the schema makes a grammar that cannot be used: {0}")]
    Grammar(#[from] GrammarError),
}

/// The grammar of the JSON texts that fit a schema; its start is `root`.
///
/// ```
/// let schema = serde_json::json!({ "enum": ["yes", "no"] });
/// let grammar = engine::schema::to_grammar(&schema, &engine::schema::SchemaLimits::default()).expect("a schema");
/// assert!(grammar.contains("root ::= "));
/// ```
pub fn to_grammar(schema: &Value, limits: &SchemaLimits) -> Result<String, SchemaError> {
    let grammar = convert::convert(schema, limits)?;
    check(&grammar)?;
    Ok(grammar)
}
