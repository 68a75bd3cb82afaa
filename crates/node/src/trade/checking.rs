//! Spot checks: with questions that are asked for this alone, and of real answers where the owner consents.

use super::Trade;
use super::asking::Whom;
use anyhow::{Context, Result, anyhow, bail};
use base::{Hash, NodeId, Rng};
use market::{Ask, Checked, Finish, Outcome, Piece, Token, Verdict, checkable, judge, question, reading};
use std::collections::BTreeMap;
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

/// An answer that somebody wrote alone.
pub(super) struct Said {
    pub(super) ask: Ask,
    pub(super) provider: NodeId,
    /// Tokens of the question, as it counted them.
    pub(super) read: u64,
    /// Tokens of the answer.
    pub(super) ids: Vec<i32>,
    pub(super) finish: Finish,
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
        let ids = first.tokens.iter().map(|token| token.id).collect();
        self.compare(Said { ask, provider, read: first.read, ids, finish: first.finish }).await
    }

    /// Lets another provider of the same weights read an answer. It sees question and answer.
    async fn compare(self: &Arc<Self>, said: Said) -> Result<Check> {
        let Said { ask, provider, read, ids, finish } = said;
        let (tokens, again) = (ids.len(), reading(&ask, finish, ids.len()));
        let client = crate::platform::random_secret()?;
        let pieces = self.ask_whom(&client, (String::new(), Whom::Not(provider)), again, ids).await;
        let second = gather(pieces.map_err(|reason| anyhow!("no second provider: {reason}"))?).await;
        let second = second.context("the second provider")?;
        let scored = second.echo.get(second.read as usize..).unwrap_or_default();
        let more = second.tokens.len() as u64;
        let verdict = judge(&Checked { ask: &ask, finish, read: (read, second.read), scored, more });
        if verdict.is_bad() {
            // Two disagree, and either may be wrong: nobody is asked again soon, but nothing is taken from anybody.
            let mut index = self.index.lock().expect("nobody panics while holding it");
            index.note(chain::clock(), &provider, Outcome::Failed);
        }
        *self.checks.lock().expect("nobody panics while holding it").entry(verdict.name()).or_default() += 1;
        Ok(Check { provider, verdict, tokens })
    }

    /// Checks some of the answers that were really asked for, where the owner consents to show them to a second machine.
    pub(super) fn check_some(self: &Arc<Self>, said: Said) {
        let share = u64::from(self.config.check_percent.min(100));
        let own = said.provider == self.shared.net.id();
        let picked = self.rng.lock().expect("nobody panics while holding it").chance(share, 100);
        if own || !picked || !checkable(&said.ask) {
            return;
        }
        let trade = self.clone();
        let mut tasks = self.tasks.lock().expect("nobody panics while holding it");
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            match trade.compare(said).await {
                Ok(check) => {
                    tracing::info!(provider = check.provider.short(), verdict = check.verdict.name(), "checked")
                }
                Err(error) => tracing::debug!(%error, "an answer could not be checked"),
            }
        });
    }

    /// Answers that were checked, by verdict.
    pub fn checks(&self) -> BTreeMap<&'static str, u64> {
        self.checks.lock().expect("nobody panics while holding it").clone()
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
