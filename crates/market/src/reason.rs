//! Why a question is not answered.

use thiserror::Error;

/// A closed list: whoever is refused learns which it was, and so does an idle provider that asks why nothing comes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reason {
    /// Nobody here serves it.
    #[error("nobody serves the model `{0}`")]
    Model(String),
    /// Everything is taken; it may be tried again after so many milliseconds.
    #[error("everybody who serves this model is busy; try again in {0} ms")]
    Busy(u64),
    /// More tokens than the model takes.
    #[error("this model takes at most {max} tokens, question and answer together; the question has {asked}")]
    TooLong {
        /// Of the question.
        asked: u64,
        /// Of the model.
        max: u64,
    },
    /// The model cannot do this.
    #[error("{what}: {why}")]
    Unsupported {
        /// Which part of the question.
        what: String,
        /// Why not.
        why: String,
    },
    /// A value that makes no sense.
    #[error("{what}: {why}")]
    Invalid {
        /// Which part of the question.
        what: String,
        /// Why not.
        why: String,
    },
    /// Who answered stopped in the middle.
    #[error("the answer broke off: {0}")]
    Failed(String),
    /// Other terms than the offer's.
    #[error("the price has changed; the next try takes the new offer")]
    Price,
    /// It costs something and is not paid.
    #[error("not paid: {0}")]
    Unpaid(String),
    /// The owner needs the machine.
    #[error("the machine's owner needs it: {0}")]
    Owner(String),
    /// What would answer is not there now, and nobody else may be asked.
    #[error("not available now: {0}")]
    Away(String),
}
