//! What an owner is shown of the node in the market.

use crate::view::panel::{FirstWord, ModelView, ServingView};
use serving::Trade;

/// What is served, and how it went.
pub(super) fn view(trade: &Trade) -> ServingView {
    let models = trade.models().into_iter().map(|card| ModelView {
        local: trade.is_local(&card.name),
        name: card.name,
        hash: card.hash.to_string(),
        context: card.context,
        providers: card.providers,
    });
    let speeds = trade.speeds();
    ServingView {
        models: models.collect(),
        asked: trade.asked().0 + trade.refused(),
        counts: trade.served().into_iter().collect(),
        checks: Some(trade.checks().into_iter().map(|(how, n)| (how.to_owned(), n)).collect()),
        tokens_in: speeds.tokens_in,
        tokens_out: speeds.tokens_out,
        first_ms: speeds.first_ms.map(|(p50, p95)| FirstWord { p50, p95 }),
        tokens_per_s: speeds.tokens_per_s,
        now: speeds.now,
    }
}
