//! Spot checks with questions that are asked for this alone.

use super::Trade;
use super::asking::Whom;
use anyhow::{Context, Result, anyhow, bail};
use base::{Hash, NodeId, Rng};
use market::{Checked, Finish, Outcome, Piece, Token, Verdict, judge, question, reading};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;

/// One check.
#[derive(Debug, Clone)]
pub struct Check {
    /// Who answered.
    pub provider: NodeId,
    /// What it says.
    pub verdict: Verdict,
    /// Tokens of the answer.
    pub tokens: usize,
}

impl Trade {
    /// Asks `provider` something, and lets another provider of the same weights read the answer.
    pub async fn check(self: &Arc<Self>, model: &str, provider: NodeId) -> Result<Check> {
        let mut rng = Rng::new(Hash(crate::platform::random_secret()?).seed());
        let ask = question(model, &mut rng);
        // An asker of its own each time: nothing is known from before.
        let client = crate::platform::random_secret()?;
        let pieces = self.ask_whom(&client, (String::new(), Whom::Only(provider)), ask.clone(), Vec::new()).await;
        let first = gather(pieces.map_err(|reason| anyhow!("{reason}"))?).await.context("the provider")?;
        let ids: Vec<i32> = first.tokens.iter().map(|token| token.id).collect();
        let again = reading(&ask, first.finish, ids.len());
        let client = crate::platform::random_secret()?;
        let pieces = self.ask_whom(&client, (String::new(), Whom::Not(provider)), again, ids).await;
        let second = gather(pieces.map_err(|reason| anyhow!("no second provider: {reason}"))?).await;
        let second = second.context("the second provider")?;
        let scored = second.echo.get(second.read as usize..).unwrap_or_default();
        let checked = Checked {
            ask: &ask,
            finish: first.finish,
            read: (first.read, second.read),
            scored,
            more: second.tokens.len() as u64,
        };
        let verdict = judge(&checked);
        if verdict.is_bad() {
            // Two disagree, and either may be wrong: nobody is asked again soon, but nothing is taken from anybody.
            let mut index = self.index.lock().expect("nobody panics while holding it");
            index.note(chain::clock(), &provider, Outcome::Failed);
        }
        Ok(Check { provider, verdict, tokens: first.tokens.len() })
    }
}

struct Gathered {
    read: u64,
    echo: Vec<Token>,
    tokens: Vec<Token>,
    finish: Finish,
}

async fn gather(mut pieces: UnboundedReceiver<Piece>) -> Result<Gathered> {
    let (mut read, mut echo, mut tokens) = (0, Vec::new(), Vec::new());
    loop {
        match pieces.recv().await {
            Some(Piece::Read { tokens, echo: said, .. }) => (read, echo) = (tokens, said),
            Some(Piece::Token(token)) => tokens.push(token),
            Some(Piece::End { finish: Ok(finish), .. }) => return Ok(Gathered { read, echo, tokens, finish }),
            Some(Piece::End { finish: Err(reason), .. }) => bail!("{reason}"),
            None => bail!("the answer broke off"),
        }
    }
}
