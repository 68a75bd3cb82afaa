//! What tests with whole nodes look at and set up inside of a market; nothing else is to use it.

use crate::Trade;
use base::{Hash, NodeId};
use ledger::Credits;
use market::{Frame, Request, Say, SessionEvent, Till};
use net::Net;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// The ways to peers.
pub fn net(trade: &Trade) -> Arc<Net> {
    trade.net.clone()
}

/// Asks one provider, whatever the market thinks of it; dropped, it is asked no more.
pub fn open(
    trade: &Trade,
    number: u32,
    provider: NodeId,
    request: Request,
    events: &mpsc::Sender<SessionEvent>,
) -> impl Send + use<> {
    trade.attempt(number, provider, request, events)
}

/// What a client was given and has promised.
pub fn till(trade: &Trade, chain: &Hash, client: &NodeId) -> Till {
    trade.books.till(chain, client)
}

/// Sets something aside and gives a closed allotment back; whether that was done now, and what is set aside then.
pub fn give_back(trade: &Trade, payee: &NodeId, serial: u64, amount: Credits) -> (bool, Credits) {
    let back = trade.books.give_back(&trade.accounts.home(), payee, serial, amount).expect("it is kept");
    (back, trade.books.set_aside())
}

/// Counts an allotment.
pub fn set_aside(trade: &Trade, amount: Credits) {
    trade.books.set_aside_more(amount).expect("it is kept");
}

/// Models that are served here.
pub fn models(trade: &Trade) -> Vec<Hash> {
    trade.provider.local.all().iter().map(|served| served.card().hash).collect()
}

/// Answers as this node's own provider does: the owner's question, or with `near` that of a peer beside this machine.
pub async fn answer(
    trade: &Trade,
    (by, near): (NodeId, bool),
    request: Request,
    out: mpsc::Sender<Frame>,
    says: mpsc::Receiver<Say>,
) {
    match near {
        true => trade.provider.answer_near(by, request, out, says).await,
        false => trade.provider.answer(by, request, out, says).await,
    }
}

/// Leave to make grammars of others' questions.
pub fn shaping(trade: &Trade) -> Arc<Semaphore> {
    trade.provider.shaping.clone()
}

/// Whether something is offered on a chain.
pub fn sells(trade: &Trade, chain: &Hash) -> bool {
    trade.words(chain).is_some()
}

pub use engine::{Engine, EngineConfig};
