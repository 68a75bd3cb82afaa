//! One provider that is asked: the stream to it, and what is heard there.

use super::Trade;
use base::{Hash, NodeId, Reject, Wire};
use ledger::Credits;
use market::{FRAME_MAX, Frame, Price, Request, Say, SessionEvent};
use net::PeerError;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Frames that wait for a session.
pub(super) const FRAMES: usize = 256;
/// The last voucher of an answer goes out within this.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Tokens that few answers without a bound are longer than.
const LONG: u64 = 2_048;

impl Trade {
    /// Asks a provider: this node itself, or another.
    pub(crate) fn attempt(
        &self,
        number: u32,
        provider: NodeId,
        request: Request,
        events: &mpsc::Sender<SessionEvent>,
    ) -> Attempt {
        let chain = request.chain;
        let most = (request.price, request.written.len() as u64, request.ask.max_tokens);
        let ((says, mut said), unwanted) = (mpsc::channel(FRAMES), Arc::default());
        let events = events.clone();
        let mut tasks = JoinSet::new();
        if provider == self.net.id() {
            let (out, mut frames) = mpsc::channel(FRAMES);
            let own = self.provider.clone();
            tasks.spawn(async move {
                let answer = own.answer(provider, request, out, said);
                let pass = async {
                    while let Some(frame) = frames.recv().await {
                        if events.send(SessionEvent::Frame(number, frame)).await.is_err() {
                            return;
                        }
                    }
                    let _ = events.send(SessionEvent::Lost(number)).await;
                };
                tokio::join!(answer, pass);
            });
            return Attempt { provider, chain, says, tasks, paid: false, unwanted, most, bound: Credits::ZERO };
        }
        let net = self.net.clone();
        // With the weights at hand, a token's bytes are what they are here.
        let vocabulary = self.provider.local.of(&request.model).map(|served| served.engine().clone());
        tasks.spawn(async move {
            let first = Say::Ask { request }.to_bytes();
            let asked = async || {
                let mut talk = net.talk(provider, FRAME_MAX).await?;
                talk.say.frame(&first).await?;
                // The first word comes before anything is done with the question, or the connection is one to a process
                // that is gone: whoever did not hear the question was not ended by it.
                let word = talk.hear.frame().await?.ok_or(PeerError::Unreachable)?;
                let _ = events.send(SessionEvent::Reached(number)).await;
                Ok::<_, PeerError>((talk, word))
            };
            let mut begun = asked().await;
            if let Err(PeerError::Unreachable) = begun {
                tracing::debug!(number, provider = provider.short(), "not reached, once more");
                net.forget(provider).await;
                begun = asked().await;
            }
            let (net::Talk { mut say, mut hear, .. }, word) = match begun {
                Ok(begun) => begun,
                Err(error) => return drop(events.send(unheard(number, error)).await),
            };
            let hearing = async {
                let mut word = Ok(Some(word));
                loop {
                    let event = match word {
                        Ok(Some(bytes)) => match Frame::from_bytes(&bytes) {
                            Ok(frame) if !in_words_of(vocabulary.as_deref(), &frame) => {
                                SessionEvent::Wrong(number, Reject::WrongWork)
                            }
                            Ok(frame) => SessionEvent::Frame(number, frame),
                            Err(_) => SessionEvent::Wrong(number, Reject::Malformed),
                        },
                        Ok(None) => SessionEvent::Lost(number),
                        Err(PeerError::Broke(reject)) => SessionEvent::Wrong(number, reject),
                        Err(_) => SessionEvent::Lost(number),
                    };
                    let last = !matches!(event, SessionEvent::Frame(..));
                    if events.send(event).await.is_err() || last {
                        return;
                    }
                    word = hear.frame().await;
                }
            };
            let saying = async {
                while let Some(word) = said.recv().await {
                    if say.frame(&word.to_bytes()).await.is_err() {
                        return;
                    }
                }
                // Said to the end: the provider sees that nothing more comes, after the last voucher.
                say.finish();
                say.stopped().await;
            };
            tokio::join!(saying, hearing);
        });
        Attempt { provider, chain, says, tasks, paid: false, unwanted, most, bound: Credits::ZERO }
    }
}

/// What a question comes to of which its provider heard nothing.
fn unheard(number: u32, error: PeerError) -> SessionEvent {
    match error {
        PeerError::Broke(reject) => SessionEvent::Wrong(number, reject),
        PeerError::NoRoom => SessionEvent::NoRoom(number),
        PeerError::Unreachable | PeerError::Missing | PeerError::TooSlow => SessionEvent::Unreachable(number),
    }
}

/// Whether the bytes of a frame's tokens are those of the own vocabulary, where there is one.
pub(super) fn in_words_of(vocabulary: Option<&engine::Engine>, frame: &Frame) -> bool {
    match (vocabulary, frame) {
        (Some(engine), Frame::Written { tokens, .. }) => {
            tokens.0.iter().all(|token| engine.piece(token.id) == token.bytes)
        }
        _ => true,
    }
}

/// A provider that was asked. Dropped, it is let go of, and so cancelled.
pub(crate) struct Attempt {
    pub(super) provider: NodeId,
    pub(super) chain: Hash,
    pub(super) says: mpsc::Sender<Say>,
    tasks: JoinSet<()>,
    pub(super) paid: bool,
    /// Nobody wants its answer any more, and it has not begun.
    pub(super) unwanted: Arc<AtomicBool>,
    /// The price, tokens of the answer before it, and tokens of the answer at most.
    most: (Price, u64, Option<u64>),
    /// What its answer costs at most, once it was taken.
    pub(super) bound: Credits,
}

impl Attempt {
    /// What an answer on these terms costs at most: with an answer of ordinary length where the question bounds none.
    pub(super) fn costs_at_most(&self, terms: &market::Terms) -> Credits {
        let (price, from, max) = &self.most;
        let there = terms.read.saturating_add(*from);
        let room = terms.context.saturating_sub(there);
        price.of(there, max.unwrap_or(LONG).saturating_sub(*from).min(room))
    }

    /// Lets what was said go out.
    pub(super) async fn finish(self) {
        let Self { says, mut tasks, .. } = self;
        drop(says);
        let _ = tokio::time::timeout(LAST_WORD, tasks.join_next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Local, Served};
    use engine::{Engine, EngineConfig};
    use std::path::Path;

    /// A model of random weights that is called `own`.
    fn own(dir: &Path) -> Local {
        let path = dir.join("own.gguf");
        if !path.exists() {
            let config = model::ModelConfig::preset("nano", 2048, 256).expect("a preset");
            let layout = model::Layout::new(&config, &model::Part::whole(&config));
            let theta = model::init(&layout, config.num_hidden_layers, 5);
            let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
            let (card, kind) = (model::ExportCard::default(), model::GgufType::Q8_0);
            model::export_gguf(&path, &config, &theta, &tokenizer, 0, &card, kind).expect("written");
        }
        let config = EngineConfig { path, hash: None, threads: 1, slots: 2, context: 0, memory: 0, vram: 0 };
        Local::new(vec![Served::new(Engine::load(config).expect("loaded"))])
    }

    #[test]
    fn the_bytes_of_a_token_are_those_of_ones_own_vocabulary() {
        let stage = tempfile::tempdir().expect("a folder");
        let served = own(stage.path()).named("own").expect("it is served");
        let engine = served.engine();
        let written = |id: i32, bytes: Vec<u8>| Frame::Written {
            tokens: market::Tokens(vec![market::Token { id, bytes, ..market::Token::default() }]),
            signature: base::Signature([0; 64]),
        };
        let fits = |frame: &Frame| in_words_of(Some(engine), frame);
        assert!(fits(&written(300, engine.piece(300))));
        assert!(!fits(&written(300, b"other words".to_vec())), "the ids are right, the text is not");
        assert!(!fits(&written(i32::MAX, b"x".to_vec())), "there is no such token");
        assert!(in_words_of(None, &written(300, b"other words".to_vec())), "without the weights nobody knows");
    }

    #[test]
    fn only_what_a_provider_sends_is_held_against_it() {
        assert_eq!(unheard(3, PeerError::NoRoom), SessionEvent::NoRoom(3), "our own pool is full");
        assert_eq!(unheard(3, PeerError::Unreachable), SessionEvent::Unreachable(3), "it was gone before");
        assert_eq!(unheard(3, Reject::Oversized.into()), SessionEvent::Wrong(3, Reject::Oversized));
    }
}
