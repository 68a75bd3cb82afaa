//! What the network adds to a first word, and how soon an answer stops that nobody wants any more.

use super::{ninety_ninth, question, served};
use crate::pair::Pair;
use crate::serve::{answer, job, prompt};
use crate::{Bar, Book, Measured};
use anyhow::{Context, Result, anyhow, ensure};
use base::Hash;
use ledger::Credits;
use market::{Piece, Price};
use node::Node;
use serving::Local;
use std::time::{Duration, Instant};

const FIRSTS: usize = 2_000;
const CANCELS: usize = 1_000;
/// How often a payment is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// A voucher goes out within this, or never.
const LAST_WORD: Duration = Duration::from_millis(2_500);
/// An end is seen by both sides within this.
const END_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn firsts(book: &mut Book) -> Result<()> {
    let (served, _files) = served("nano", 2)?;
    let engine = served.engine().clone();
    let pair = Pair::new(Local::new(vec![served]), Price::default(), Vec::new()).await?;
    let (mut own, mut over) = (Vec::new(), Vec::new());
    for i in 0..FIRSTS {
        let begun = Instant::now();
        let alone = engine.clone();
        tokio::task::spawn_blocking(move || answer(&alone, job(i, 16, 1))).await??;
        own.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        let client = Hash::of("figure", &i.to_le_bytes()).0;
        let asked = pair.client.1.ask(&client, "first", question(prompt(i + FIRSTS, 16), 4)).await;
        let mut pieces = asked.map_err(|reason| anyhow!("{reason}"))?;
        // An answer may have no word; its end is its first one.
        let ended = loop {
            match pieces.recv().await.context("an answer")? {
                Piece::Read { .. } => {}
                Piece::Token(_) => break false,
                Piece::End { .. } => break true,
            }
        };
        over.push(begun.elapsed().as_secs_f64() * 1e3);
        while !ended && !matches!(pieces.recv().await.context("an answer")?, Piece::End { .. }) {}
    }
    let own = crate::median(own);
    let mut added: Vec<f64> = over.into_iter().map(|ms| ms - own).collect();
    let p99 = ninety_ninth(&mut added);
    let how = format!(
        "choice, encrypted link on loopback, signatures and back: the 99th of a hundred of {FIRSTS} first words less the engine's own \
         median of {own:.1} ms"
    );
    book.add("quick", "serve.first.p99", (Measured::out_of(p99, &added), "ms"), Bar::Most(20.0), "<= 5", &how);
    pair.close().await
}

/// Tokens that a node has written for others, and how many answers it is writing.
fn written(node: &Node) -> (u64, u64) {
    let serving = node.panel().serving;
    (serving.tokens_out, serving.now)
}

/// From hanging up until the provider's decoder has stopped, and what is billed beyond what was done until then.
pub(super) async fn cancels(book: &mut Book) -> Result<()> {
    let (served, _files) = served("nano", 2)?;
    let engine = served.engine().clone();
    let price = Price { input: Credits::whole(1), output: Credits::whole(2) };
    let pair = Pair::new(Local::new(vec![served]), price, Vec::new()).await?;
    let (provider, chain) = (pair.provider.0.id(), pair.provider.1.networks()[0]);
    let tx = ledger::WalletTx::Transfer { to: pair.client.0.id(), amount: Credits::whole(200) };
    pair.provider.0.spend(None, tx).await?;
    let (payer, network, begun) = (&pair.client.0, chain.to_string(), Instant::now());
    // The client's chain is a block behind.
    while payer.account(Some(&network), &payer.id())?.balance_micro == 0 {
        ensure!(begun.elapsed() < END_WITHIN, "the client was not paid");
        tokio::time::sleep(LOOK).await;
    }
    let client = &pair.client.1;
    let promised = || client.promised(&chain, &provider).0;
    let (mut times, mut beyond, mut owed_all, mut i) = (Vec::new(), 0, 0, 0);
    let (first, mut unpaid) = (promised(), 0);
    while times.len() < CANCELS {
        ensure!(i < 2 * CANCELS, "too many answers end before anybody hangs up");
        i += 1;
        let (before, asked, wrote) = (promised(), client.asked().0, written(&pair.provider.0).0);
        let read = 16 + i % 60;
        let pieces = client.ask(&[3; 32], "cancelled", question(prompt(i + 900, read), 400)).await;
        let mut pieces = pieces.map_err(|reason| anyhow!("{reason}"))?;
        // Let go of at another word each time, the first one at least.
        let mut left = 1 + i % 40;
        let ended = loop {
            match pieces.recv().await.context("a piece")? {
                Piece::Read { .. } => {}
                Piece::Token(_) if left > 1 => left -= 1,
                Piece::Token(_) => break false,
                Piece::End { .. } => break true,
            }
        };
        let begun = Instant::now();
        drop(pieces);
        while engine.busy() > 0 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        // Some answers end by themselves before.
        if !ended {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        while client.asked().0 == asked || written(&pair.provider.0).1 > 0 {
            ensure!(begun.elapsed() < END_WITHIN, "a session does not end on both sides");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let owed = price.of(read as u64, written(&pair.provider.0).0 - wrote).0;
        // Its last voucher is written down a little later: what it promises is this answer's.
        let (ended, more) = (Instant::now(), || promised().saturating_sub(before));
        while more() < owed && ended.elapsed() < LAST_WORD {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        beyond += more().saturating_sub(owed);
        unpaid += owed.saturating_sub(more());
        owed_all += owed;
    }
    tokio::time::sleep(LAST_WORD).await;
    // What came later than its answer was looked at.
    beyond = beyond.max((promised() + unpaid).saturating_sub(first + owed_all));
    let how = format!(
        "from hanging up at the client until the provider's slot is free, over the encrypted link on loopback, {CANCELS} answers at \
         another word each, the first one at least"
    );
    let p99 = ninety_ninth(&mut times);
    book.add("quick", "serve.cancel.p99", (Measured::out_of(p99, &times), "ms"), Bar::Most(250.0), "<= 50", &how);
    let how = "micro-credits promised, when the session had ended on both sides and at the end when no voucher was under way, beyond the \
               price of what the provider had read and written until the hanging up reached it, in the same answers";
    book.add("quick", "serve.cancel.billed", (beyond as f64, "micro-credits"), Bar::Most(0.0), "0", how);
    let how = "of that price, what was not promised when the last vouchers of the same answers had had their time";
    let unpaid = 100.0 * unpaid as f64 / owed_all.max(1) as f64;
    book.add("quick", "serve.cancel.unpaid", (unpaid, "%"), Bar::Most(1.0), "0", how);
    pair.close().await
}
