//! Amounts as people write them.

use anyhow::{Result, bail};
use ledger::Credits;

pub(crate) fn parse(amount: &str) -> Result<Credits> {
    match Credits::parse(amount) {
        Ok(amount) if amount > Credits::ZERO => Ok(amount),
        _ => bail!("`{amount}` is no amount; write credits like 3 or 0.25, up to six digits after the point"),
    }
}
