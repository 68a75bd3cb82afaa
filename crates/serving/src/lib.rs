//! Answering questions of peers and having them answered: what a node serves, offers, asks and pays.
//!
//! [`Local`] has the models of this machine, [`Trade`] is this node in the market: it gives questions to providers and takes those
//! of others, with the pure machines of `market`. What it needs of chains comes through [`Accounts`].
//!
//! *Goals*: nothing is shown that is not signed, nothing is done on the strength of what is not on disk; kill it anywhere and
//! nothing is paid twice. *Non-goals*: how an answer is computed (`engine`), the API (`gateway`), rules of the market (`market`).

mod accounts;
mod books;
mod clock;
mod keys;
mod local;
mod models;
mod provider;
mod receipt;
#[doc(hidden)]
pub mod testing;
mod trade;

pub use accounts::{Accounts, Unspent};
pub use books::Answered;
pub use engine::ON_GRAPHICS;
pub use keys::{
    api_keys, api_keys_as_they_change, api_used, api_used_kept, keep_api_keys, new_answer_name, new_api_key,
};
pub use local::{Local, Served};
pub use models::{
    Doing, HubFile, HubName, MODEL_HERE, Model, ModelTicket, Models, Progress, STARTER, STARTER_SAYS, Wanted,
    model_topic, pull,
};
pub use provider::{OfferConfig, Speeds};
pub use receipt::{receipt_summary, receipt_text, verify_receipt};
pub use trade::{Asker, Check, NET, ProviderStatus, Trade, TradeConfig, TradeSetup};
