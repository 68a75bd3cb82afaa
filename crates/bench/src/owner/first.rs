//! The first minute: how soon an empty machine answers, and how soon it has earned something.

use super::{LOOK, contribute};
use crate::{Bar, Book};
use anyhow::{Context, Result, ensure};
use node::ControlRequest;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const TRIES: usize = 5;
const WITHIN: Duration = Duration::from_secs(120);
/// Tokens of the first answer.
const TOKENS: u64 = 16;

pub(super) async fn measure(book: &mut Book) -> Result<()> {
    let (mut answers, mut paid) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        let stage = tempfile::tempdir()?;
        let begun = Instant::now();
        let node = contribute(&stage.path().join("node"), &[])?;
        ask(&node.page)?;
        answers.push(begun.elapsed().as_secs_f64());
        while node.ask(ControlRequest::Panel).await?["since_start"]["earned_micro"].as_u64().unwrap_or_default() == 0 {
            ensure!(begun.elapsed() < WITHIN, "nothing was earned");
            tokio::time::sleep(LOOK).await;
        }
        paid.push(begun.elapsed().as_secs_f64());
    }
    let how = format!(
        "from the start of the program, without any file of its own, as `talkoo up --when always` to the end of an answer of {TOKENS} \
         tokens of the model that comes with it: median of {TRIES} machines"
    );
    book.add("quick", "owner.first.answer", (answers, "s"), Bar::Most(20.0), "<= 5", &how);
    let how = "of the same nodes: until the wallet shows the pay of its first unit, on its own network";
    book.add("quick", "owner.first.paid", (paid, "s"), Bar::Most(30.0), "<= 10", how);
    Ok(())
}

/// An answer of the API at `address`.
fn ask(address: &str) -> Result<()> {
    let body = json!({ "model": serving::STARTER, "prompt": "ROMEO:\n", "max_tokens": TOKENS }).to_string();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let said = text.split_once("\r\n\r\n").map(|(_, said)| said).context("an answer")?;
    let said: Value = serde_json::from_str(said).with_context(|| text.clone())?;
    ensure!(said["usage"]["completion_tokens"].as_u64() == Some(TOKENS), "{said}");
    Ok(())
}
