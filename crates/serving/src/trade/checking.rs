//! Spot checks: with questions that are asked for this alone, and of real answers where the owner consents.

use super::Trade;
use super::names::Whom;
use anyhow::{Context, Result, anyhow, bail};
use base::{Hash, NodeId, Rng};
use market::{Ask, AttemptOutcome, Checked, Finish, Need, Piece, Token, Verdict, checkable, judge, question, reading};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;

/// Providers that are asked to read an answer until one does.
const READERS: usize = 4;

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
    /// What was to answer, and the tokens that it takes.
    pub(super) weights: (Hash, u64),
    pub(super) provider: NodeId,
    /// Tokens of the question, as it counted them.
    pub(super) read: u64,
    /// Tokens of the answer.
    pub(super) ids: Vec<i32>,
    /// Its text, as it was shown.
    pub(super) text: String,
    pub(super) finish: Finish,
}

impl Trade {
    /// Asks `provider` something, and lets another provider of the same weights read the answer.
    pub async fn check(self: &Arc<Self>, model: &str, provider: NodeId) -> Result<Check> {
        let mut rng = Rng::new(Hash(host::random_secret()?).seed());
        let weights = self.offered(model).map_err(|reason| anyhow!("{reason}"))?;
        let ask = question(model, &mut rng);
        // An asker of its own each time: nothing is known from before.
        let client = host::random_secret()?;
        let pieces =
            self.ask_whom(&client, (String::new(), Whom::Only(provider)), weights, ask.clone(), Vec::new()).await;
        let first = gather(pieces.map_err(|reason| anyhow!("{reason}"))?).await.context("the provider")?;
        let ids = first.tokens.iter().map(|token| token.id).collect();
        let Gathered { read, text, finish, .. } = first;
        self.compare(Said { ask, weights, provider, read, ids, text, finish }).await
    }

    /// Lets another provider of the same weights read an answer, and a third one where the two disagree. They see question
    /// and answer.
    async fn compare(self: &Arc<Self>, said: Said) -> Result<Check> {
        let (provider, tokens) = (said.provider, said.ids.len());
        let mut without = vec![self.net.id(), provider];
        let (second, mut verdict) = self.read_by_another(&said, &mut without).await?;
        if verdict.is_bad() {
            let wrong = match self.read_by_another(&said, &mut without).await {
                Ok((_, third)) if third.is_bad() => vec![provider],
                Ok((_, third)) => {
                    verdict = third;
                    vec![second]
                }
                // Either may be wrong.
                Err(_) => vec![provider, second],
            };
            // Nobody of these is asked again soon, but nothing is taken from anybody.
            let mut index = self.index.lock().expect("nobody panics while holding it");
            wrong.iter().for_each(|wrong| index.note(crate::clock::clock(), wrong, AttemptOutcome::Failed));
        }
        *self.checks.lock().expect("nobody panics while holding it").entry(verdict.name()).or_default() += 1;
        Ok(Check { provider, verdict, tokens })
    }

    /// Who reads an answer, none of `without`, and what follows from it; whoever was asked is in `without` then.
    async fn read_by_another(self: &Arc<Self>, said: &Said, without: &mut Vec<NodeId>) -> Result<(NodeId, Verdict)> {
        let mut trouble = anyhow!("no other provider offers these weights");
        for _ in 0..READERS {
            let Some(reader) = self.another(said, without) else { break };
            without.push(reader);
            match self.read_by(said, reader).await {
                Ok(verdict) => return Ok((reader, verdict)),
                Err(error) => trouble = error,
            }
        }
        Err(trouble.context("no second provider"))
    }

    fn another(&self, said: &Said, without: &[NodeId]) -> Option<NodeId> {
        let (model, written) = (said.weights.0, said.ids.len() as u64);
        let (read, price) = (said.read + written, self.config.price);
        let need = Need { model, context: read, read, written: 1, price, knows: None };
        let mut index = self.index.lock().expect("nobody panics while holding it");
        let mut rng = self.rng.lock().expect("nobody panics while holding it");
        index.choose(crate::clock::clock(), &need, without, &mut rng).first().map(|candidate| candidate.provider)
    }

    async fn read_by(self: &Arc<Self>, said: &Said, reader: NodeId) -> Result<Verdict> {
        let Said { ask, weights, read, ids, text, finish, .. } = said;
        let again = reading(ask, *finish, ids.len());
        let client = host::random_secret()?;
        let pieces = self.ask_whom(&client, (String::new(), Whom::Only(reader)), *weights, again, ids.clone()).await;
        let second = gather(pieces.map_err(|reason| anyhow!("{reason}"))?).await.context("the second provider")?;
        let scored = second.echo.get(second.read as usize..).unwrap_or_default();
        let more = second.tokens.len() as u64;
        // It was told the ids: other ones are its own.
        if second.read == *read && !scored.iter().map(|token| token.id).eq(ids.iter().copied()) {
            let mut index = self.index.lock().expect("nobody panics while holding it");
            index.note(crate::clock::clock(), &reader, AttemptOutcome::Failed);
            bail!("{} reads other words than it was shown", reader.short());
        }
        Ok(judge(&Checked { ask, finish: *finish, read: (*read, second.read), text, scored, more }))
    }

    /// Checks some of the answers that were really asked for, where the owner consents to show them to a second machine.
    pub(super) fn check_some(self: &Arc<Self>, said: Said) {
        let share = u64::from(self.config.check_percent.min(100));
        let own = said.provider == self.net.id();
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
    /// The text of these.
    text: String,
    finish: Finish,
}

async fn gather(mut pieces: UnboundedReceiver<Piece>) -> Result<Gathered> {
    let (mut read, mut echo, mut tokens, mut text) = (0, Vec::new(), Vec::new(), String::new());
    loop {
        match pieces.recv().await {
            Some(Piece::Read { tokens, echo: said, .. }) => (read, echo) = (tokens, said),
            Some(Piece::Token(token)) => {
                text += &token.text;
                tokens.push(token);
            }
            Some(Piece::End { finish: Ok(finish), text: last, .. }) => {
                text += &last;
                return Ok(Gathered { read, echo, tokens, text, finish });
            }
            Some(Piece::End { finish: Err(reason), .. }) => bail!("{reason}"),
            None => bail!("the answer broke off"),
        }
    }
}
