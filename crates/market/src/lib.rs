//! Questions and answers between those who ask and those who serve: pure, no sockets, no clocks.
//!
//! *Goals*: one form of a question for every API in front and every model behind; reasons from a closed list. *Non-goals*:
//! HTTP, tensors, money.

mod ask;
mod reason;

pub use ask::{Ask, Finish, Format, Input, Message, ModelCard, Piece, Sampling, Token};
pub use reason::Reason;
