//! Receipts as files: JSON that people can read, and the signed bytes that prove it.

use anyhow::{Context, Result, bail, ensure};
use base::Wire;
use market::{Finish, Receipts};
use serde_json::{Value, json};

/// The receipts of an answer as a text.
pub fn receipt_text(receipts: &Receipts) -> String {
    let mut text = serde_json::to_string_pretty(&receipt_json(receipts)).unwrap_or_default();
    text.push('\n');
    text
}

fn receipt_json(receipts: &Receipts) -> Value {
    let part = |signed: &base::Signed<market::Receipt>| {
        let receipt = &signed.value;
        json!({
            "provider": signed.by.to_string(),
            "client": receipt.client.to_string(),
            "model": receipt.runtime.model.to_string(),
            "template": receipt.runtime.template.to_string(),
            "tokenizer": receipt.runtime.tokenizer.to_string(),
            "class": receipt.runtime.class,
            "request": receipt.request.to_string(),
            "time_ms": receipt.time.0,
            "tokens_read": receipt.read,
            "tokens_of_others": receipt.from,
            "tokens_written": receipt.written,
            "words": receipt.words.to_string(),
            "finish": receipt.finish.map(|finish| match finish { Finish::Stop => "stop", Finish::Length => "length" }),
            "tier": receipt.tier.name(),
            "chain": receipt.chain.to_string(),
            "price_micro_per_million": { "input": receipt.price.input.0, "output": receipt.price.output.0 },
            "cost_micro": receipt.cost.0,
        })
    };
    json!({
        "talkoo_receipt": 1,
        "answer": receipts.0.first().map(|first| first.value.id.to_string()),
        "same_runtime": receipts.one_class(),
        "cost_micro": receipts.cost().0,
        "parts": receipts.0.iter().map(part).collect::<Vec<_>>(),
        "signed": base::to_hex(&receipts.to_bytes()),
    })
}

/// Reads and checks a receipt file: every byte of it is what the signed bytes say.
pub fn verify_receipt(text: &str) -> Result<Receipts> {
    let value: Value = serde_json::from_str(text).context("not a receipt: no JSON")?;
    let Some(signed) = value["signed"].as_str() else { bail!("not a receipt: the signed bytes are missing") };
    let receipts = Receipts::from_bytes(&base::from_hex(signed)?).context("the signed bytes are damaged")?;
    receipts.verify().map_err(|reject| anyhow::anyhow!("the receipt proves nothing: {reject}"))?;
    ensure!(receipt_text(&receipts) == text, "what the file says is not what was signed");
    Ok(receipts)
}

/// Who wrote it, how private it was, what it cost.
pub fn receipt_summary(receipts: &Receipts) -> String {
    let who: Vec<String> =
        receipts.0.iter().map(|part| format!("{} ({})", part.by.short(), part.value.tier.name())).collect();
    let cost = match receipts.cost() {
        ledger::Credits(0) => "free".to_owned(),
        cost => format!("{cost} credits"),
    };
    let runtime = if receipts.one_class() { "" } else { ", by machines of different classes" };
    format!("{}, {cost}, receipt verified{runtime}", who.join(", then "))
}
