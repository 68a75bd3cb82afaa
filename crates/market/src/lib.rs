//! Questions and answers between those who ask and those who serve: pure, no sockets, no clocks.
//!
//! Providers gossip [`Offer`]s; an [`Index`] keeps them and says whom to ask. A [`Session`] takes one question through
//! busy, silent, dead and dishonest providers to one answer; what each of them wrote is signed, word by word, as a
//! [`Receipt`]. [`Purse`] and [`Till`] are the two sides of the money: vouchers that say what was earned in all.
//!
//! *Goals*: one form of a question for every API in front and every model behind; nothing of a peer is believed that is
//! not signed, in order and within its bounds; an answer is paid once. *Non-goals*: HTTP, tensors, the ledger's state.

mod admission;
mod ask;
mod ids;
mod index;
mod limits;
mod money;
mod offer;
mod reason;
mod receipt;
mod rendering;
mod session;
mod spot;
mod talk;
mod weights;
mod wire;

pub use admission::{FairQueue, PlaceTurn};
pub use ask::{AnswerFormat, Ask, AskInput, Finish, Message, ModelCard, Piece, Sampling, Token};
pub use index::{Index, Need};
pub use money::{Allotted, Purse, Till};
pub use offer::{AT, AttemptOutcome, OFFER_MS, OFFERS_MAX, Offer, Offers, Price, ProviderCandidate, Tier};
pub use reason::Reason;
pub use receipt::{RECEIPT_DOMAIN, Receipt, Receipts, Runtime, no_words, roll, roll_end};
pub use session::{REACH_MS, SILENT_MS, Session, SessionEvent, SessionOrder};
pub use spot::{Checked, Verdict, checkable, judge, question, reading};
pub use talk::{
    ALIVE_MS, AnswerReader, AnswerWriter, CHUNK, FRAME_MAX, Frame, Received, Request, Say, TOKENS_MAX, Terms, Tokens,
};
