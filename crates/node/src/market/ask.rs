//! Questions of other processes of the same owner, over the control socket: one line of JSON for each word.

use crate::Node;
use crate::request::{self, ControlRequest};
use anyhow::{Context, Result, bail};
use base::Wire;
use market::{Ask, Piece};
use serde::{Deserialize, Serialize};
use serving::Trade;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// What comes of a question, word by word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A token, and the text that can be shown since.
    Token(String),
    /// The end.
    End {
        /// Text that was held back until now.
        text: String,
        /// The receipt, as JSON.
        receipt: String,
    },
    /// There is no answer.
    Error(String),
}

/// Whose questions those are that no client of the API asks.
const TERMINAL: [u8; 32] = *b"talkoo run, the node's own owner";

/// Asks for the owner; every word goes to `said` until the end, which holds the receipt.
pub async fn tell(trade: &Arc<Trade>, ask: Ask, said: mpsc::Sender<Said>) -> Result<()> {
    let name = serving::new_answer_name()?;
    let mut pieces = trade.ask(&TERMINAL, &name, ask).await.map_err(|reason| anyhow::anyhow!("{reason}"))?;
    loop {
        let word = match pieces.recv().await.context("the answer broke off")? {
            Piece::Read { .. } => continue,
            Piece::Token(token) => Said::Token(token.text),
            Piece::End { finish: Ok(_), text, .. } => {
                let receipt = trade.receipt(&name).context("the receipt is missing")?;
                let _ = said.send(Said::End { text, receipt }).await;
                return Ok(());
            }
            Piece::End { finish: Err(reason), .. } => bail!("{reason}"),
        };
        // Who does not read any more lets go of the answer.
        if said.send(word).await.is_err() {
            return Ok(());
        }
    }
}

/// Words that wait for a slow reader.
const WORDS: usize = 64;

/// Answers another process.
pub(crate) async fn answer(node: &Arc<Node>, ask: &str, write: &mut OwnedWriteHalf) -> Result<()> {
    let ask = Ask::from_bytes(&base::from_hex(ask)?).context("not a question")?;
    let trade = node.in_market()?;
    let (said, mut words) = mpsc::channel(WORDS);
    let write = async move {
        while let Some(said) = words.recv().await {
            if write.write_all(line(&said).as_bytes()).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(tell(&trade, ask, said), write).0
}

fn line(said: &Said) -> String {
    format!("{}\n", serde_json::to_string(said).unwrap_or_default())
}

/// An answer of the node that runs on a data folder.
pub struct AnswerStream {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// Closed, it would tell the node that nobody reads any more.
    _write: OwnedWriteHalf,
}

impl AnswerStream {
    /// Asks it; none where no node runs there.
    pub async fn begin(dir: &Path, ask: &Ask) -> Result<Option<Self>> {
        let request = ControlRequest::Ask { ask: base::to_hex(&ask.to_bytes()) };
        let sent = request::send(dir, &request).await?;
        Ok(sent.map(|(read, write)| Self { lines: BufReader::new(read).lines(), _write: write }))
    }

    /// What is said next.
    pub async fn next(&mut self) -> Result<Said> {
        let line = self.lines.next_line().await?.context("the node that answers has ended")?;
        serde_json::from_str(&line).context("the node's answer is no JSON")
    }
}
