//! Models of this machine, as somebody who answers questions, and the keys of those who may ask.

use base::Hash;
use engine::{Client, Engine, Event, Job, Pace, Refusal};
use market::{AnswerFormat, Ask, AskInput, Finish, ModelCard, Piece, Reason, Token};
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A model of this machine.
pub struct Served {
    engine: Arc<Engine>,
    card: ModelCard,
}

/// Models of this machine. Shared: what is added or taken away is so for all who hold it.
#[derive(Clone, Default)]
pub struct Local {
    models: Arc<RwLock<Vec<Arc<Served>>>>,
}

/// Bytes of text in a token, on average, at most: at least so many tokens a longer text has.
const TOKEN_BYTES_MAX: u64 = 32;
/// Who finds everything taken tries again after this.
const AGAIN_MS: u64 = 1000;

impl Served {
    /// A loaded model.
    pub fn new(engine: Engine) -> Self {
        let info = engine.info();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let tools = info.template.as_ref().is_some_and(engine::Template::takes_tools);
        let card = ModelCard {
            name: info.name.clone(),
            hash: info.hash,
            context: info.context as u64,
            tools,
            since,
            providers: 1,
        };
        Self { engine: Arc::new(engine), card }
    }

    /// The engine that writes.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What it is.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// The tokens of a question. Takes a moment where it is long.
    pub fn prompt(&self, input: &AskInput) -> Result<Vec<i32>, Reason> {
        match input {
            AskInput::Tokens(ids) => Ok(ids.clone()),
            // Nothing is the beginning of a new text.
            AskInput::Text(text) if text.is_empty() => Ok(vec![self.engine.beginning()]),
            AskInput::Text(text) => self.tokens(text),
            AskInput::Chat { messages, tools } => {
                let template = self.engine.info().template.as_ref();
                let template = template.ok_or_else(|| unsupported("messages", &engine::TemplateError::None))?;
                let messages: Vec<engine::TemplateMessage> = messages.iter().map(message).collect::<Result<_, _>>()?;
                let tools = tools.as_deref().map(json).transpose()?;
                if tools.is_some() && !template.takes_tools() {
                    return Err(unsupported("tools", &"this model's template has no place for them"));
                }
                let invalid =
                    |error: engine::TemplateError| Reason::Invalid { what: "messages".into(), why: error.to_string() };
                let text = self.engine.render(&messages, tools.as_ref()).map_err(invalid)?;
                self.fits(text.len())?;
                self.engine.tokenize_prompt(&text).map_err(reason)
            }
        }
    }

    /// The tokens of a text. Takes a moment where it is long.
    pub fn tokens(&self, text: &str) -> Result<Vec<i32>, Reason> {
        self.fits(text.len())?;
        self.engine.tokenize(text, true).map_err(reason)
    }

    /// What a text means, and how many tokens it has.
    pub async fn embed(&self, text: AskInput) -> Result<(Vec<f32>, u64), Reason> {
        let about = |refusal| reason_about("input", refusal);
        let tokens = match text {
            AskInput::Tokens(ids) => ids,
            AskInput::Text(text) => {
                self.fits(text.len())?;
                let engine = self.engine.clone();
                let ids = tokio::task::spawn_blocking(move || engine.tokenize_text(&text)).await;
                ids.map_err(|_| Reason::Failed("the text could not be read".into()))?.map_err(about)?
            }
            AskInput::Chat { .. } => return Err(unsupported("input", &"texts are embedded, not conversations")),
        };
        let read = tokens.len() as u64;
        Ok((self.engine.embed(tokens).await.map_err(about)?, read))
    }

    /// A text that is certainly too long is not read at all.
    fn fits(&self, bytes: usize) -> Result<(), Reason> {
        let (asked, max) = (bytes as u64 / TOKEN_BYTES_MAX, self.card.context);
        if asked > max { Err(Reason::TooLong { asked, max }) } else { Ok(()) }
    }

    /// Looks whether a question can be answered, of the owner or of another: going on with what was `written` before, no
    /// faster than `pace` allows. Takes a moment.
    pub fn prepare(
        &self,
        client: &[u8; 32],
        own: bool,
        ask: &Ask,
        prompt: Vec<i32>,
        written: Vec<i32>,
        pace: Option<Pace>,
    ) -> Result<Ready, Reason> {
        let read = prompt.len() as u64;
        let echo = ask.echo.then(|| prompt.iter().chain(&written).copied().collect());
        let job = Job {
            client: Client(*client),
            own,
            max_tokens: ask.max_tokens.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            sampling: sampling(&ask.sampling)?,
            stop: ask.stop.clone(),
            written,
            pace,
            logprobs: ask.logprobs.map(usize::from),
            echo: ask.echo && ask.logprobs.is_some(),
            prompt,
        };
        let prepared = self.engine.prepare(job).map_err(reason)?;
        let answer = Answer { engine: self.engine.clone(), logprobs: ask.logprobs.is_some(), read, echo };
        Ok(Ready { prepared, answer })
    }

    /// Begins to answer; lets go of `until_written` when the engine has ended.
    pub fn start(
        &self,
        ready: Ready,
        until_written: Option<Box<dyn Send>>,
    ) -> Result<UnboundedReceiver<Piece>, Reason> {
        let events = self.engine.start(ready.prepared).map_err(reason)?;
        let (pieces, receiver) = unbounded_channel();
        let passing = ready.answer.pass_on(events, pieces);
        tokio::spawn(async move {
            passing.await;
            drop(until_written);
        });
        Ok(receiver)
    }
}

impl Local {
    /// These.
    pub fn new(models: Vec<Served>) -> Self {
        Self { models: Arc::new(RwLock::new(models.into_iter().map(Arc::new).collect())) }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Served>> {
        self.models.read().expect("nobody panics while holding it").clone()
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Option<Arc<Served>> {
        self.all().into_iter().find(|served| served.card.name == name)
    }

    /// The one of these weights.
    pub fn of(&self, model: &Hash) -> Option<Arc<Served>> {
        self.all().into_iter().find(|served| served.card.hash == *model)
    }

    /// Another one, before the others and in the place of the one of its name.
    pub(crate) fn put(&self, served: Arc<Served>) {
        let mut models = self.models.write().expect("nobody panics while holding it");
        models.retain(|other| other.card.name != served.card.name);
        models.insert(0, served);
    }

    /// None of them any more; what is being answered is answered to its end.
    pub(crate) fn clear(&self) {
        self.models.write().expect("nobody panics while holding it").clear();
    }
}

/// A question that can be answered.
pub struct Ready {
    prepared: engine::Prepared,
    answer: Answer,
}

/// One answer on its way from the engine to who asked.
struct Answer {
    engine: Arc<Engine>,
    logprobs: bool,
    read: u64,
    /// The question's tokens, where they are part of the answer.
    echo: Option<Vec<i32>>,
}

impl Answer {
    async fn pass_on(self, mut events: UnboundedReceiver<Event>, pieces: UnboundedSender<Piece>) {
        let mut tokens = 0;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                // Nobody reads any more: the engine's side is let go of, and so cancelled.
                () = pieces.closed() => return,
            };
            let piece = match event {
                Some(Event::Read { cached, logprobs }) => {
                    let echo = self.echo.as_ref().map(|ids| self.echo(ids, logprobs)).unwrap_or_default();
                    Piece::Read { tokens: self.read, cached: cached as u64, echo }
                }
                Some(Event::Token(written)) => {
                    tokens += 1;
                    Piece::Token(self.token(written))
                }
                Some(Event::Done { finish, text }) => {
                    let finish = match finish {
                        engine::EngineFinish::Stop => Ok(Finish::Stop),
                        engine::EngineFinish::Length => Ok(Finish::Length),
                        engine::EngineFinish::Failed => Err(Reason::Failed("the model failed".into())),
                    };
                    Piece::End { finish, text, tokens }
                }
                None => {
                    let finish = Err(Reason::Failed("the model is not served any more".into()));
                    let _ = pieces.send(Piece::End { finish, text: String::new(), tokens });
                    return;
                }
            };
            let end = matches!(piece, Piece::End { .. });
            if pieces.send(piece).is_err() || end {
                return;
            }
        }
    }

    fn token(&self, written: engine::Written) -> Token {
        Token {
            id: written.id,
            text: written.text,
            bytes: written.bytes,
            logprob: self.logprobs.then_some(written.logprob),
            top: written.top.iter().map(|(id, logprob)| (self.engine.piece(*id), *logprob)).collect(),
        }
    }

    /// The question as part of the answer: nothing is known of how likely its first token was.
    fn echo(&self, ids: &[i32], logprobs: Vec<engine::Written>) -> Vec<Token> {
        let plain = |id: &i32| {
            let bytes = self.engine.piece(*id);
            Token { id: *id, text: String::from_utf8_lossy(&bytes).into_owned(), bytes, logprob: None, top: Vec::new() }
        };
        if logprobs.is_empty() {
            return ids.iter().map(plain).collect();
        }
        let scored = logprobs.into_iter().map(|written| {
            let text = String::from_utf8_lossy(&written.bytes).into_owned();
            Token { text, ..self.token(written) }
        });
        ids.first().map(plain).into_iter().chain(scored).collect()
    }
}

fn unsupported(what: &str, why: &dyn std::fmt::Display) -> Reason {
    Reason::Unsupported { what: what.to_owned(), why: why.to_string() }
}

fn json(text: &str) -> Result<serde_json::Value, Reason> {
    serde_json::from_str(text).map_err(|error| Reason::Invalid { what: "tools".into(), why: error.to_string() })
}

fn message(message: &market::Message) -> Result<engine::TemplateMessage, Reason> {
    let mut calls = message.tool_calls.as_deref().map(json).transpose()?;
    // Templates write them as JSON themselves: as a text they would be written twice.
    for call in calls.iter_mut().filter_map(|calls| calls.as_array_mut()).flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && let Some(Ok(object)) = arguments.as_str().map(serde_json::from_str::<serde_json::Value>)
        {
            *arguments = object;
        }
    }
    Ok(engine::TemplateMessage {
        role: message.role.clone(),
        content: message.content.clone(),
        tool_calls: calls.and_then(|calls| calls.as_array().cloned()).unwrap_or_default(),
        tool_call_id: message.tool_call_id.clone(),
        name: message.name.clone(),
    })
}

fn sampling(asked: &market::Sampling) -> Result<engine::SamplingParams, Reason> {
    let format = match &asked.format {
        AnswerFormat::Free => engine::AnswerShape::Free,
        AnswerFormat::Schema(text) => engine::AnswerShape::Schema(json(text)?),
    };
    Ok(engine::SamplingParams {
        temperature: asked.temperature,
        top_p: asked.top_p,
        top_k: i32::try_from(asked.top_k).unwrap_or(i32::MAX),
        min_p: asked.min_p,
        frequency_penalty: asked.frequency_penalty,
        presence_penalty: asked.presence_penalty,
        repetition_penalty: asked.repetition_penalty,
        logit_bias: asked.logit_bias.clone(),
        seed: asked.seed,
        format,
    })
}

fn reason(refusal: Refusal) -> Reason {
    reason_about("prompt", refusal)
}

fn reason_about(what: &str, refusal: Refusal) -> Reason {
    let invalid = |why: String| Reason::Invalid { what: what.into(), why };
    match refusal {
        Refusal::Busy => Reason::Busy(AGAIN_MS),
        Refusal::TooLong(asked, max) => Reason::TooLong { asked: asked as u64, max: max as u64 },
        Refusal::Format(why) => Reason::Invalid { what: "response_format".into(), why },
        Refusal::Empty | Refusal::Token(_) | Refusal::Piece(..) => invalid(refusal.to_string()),
        Refusal::Bias(_) => Reason::Invalid { what: "logit_bias".into(), why: refusal.to_string() },
        Refusal::Kind(why) => unsupported("model", &why),
        other => Reason::Failed(other.to_string()),
    }
}
