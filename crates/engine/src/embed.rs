//! The thread of an embedding model: one text after the other.

use crate::Refusal;
use crate::load::{EngineConfig, LoadError, ModelInfo, backend};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;

/// A text that is to be embedded.
pub(crate) struct Embed {
    pub(crate) tokens: Vec<i32>,
    pub(crate) done: oneshot::Sender<Result<Vec<f32>, Refusal>>,
}

/// Begins the thread; it is ready when this returns.
pub(crate) fn start(
    model: Arc<LlamaModel>,
    config: &EngineConfig,
    info: &ModelInfo,
    waiting: Arc<AtomicUsize>,
) -> Result<Sender<Embed>, LoadError> {
    let (texts, incoming) = std::sync::mpsc::channel();
    let (ready, begun) = std::sync::mpsc::channel();
    let (threads, size) = (i32::try_from(config.threads).unwrap_or(1).max(1), info.context);
    let failed = |why: String| LoadError::Unknown(config.path.clone(), why);
    let run = move || {
        let all = u32::try_from(size).unwrap_or(u32::MAX);
        // A text is read in one pass: models that look both ways cannot do otherwise.
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(all))
            .with_n_batch(all)
            .with_n_ubatch(all)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_embeddings(true)
            .with_no_perf(true);
        match model.new_context(backend(), params) {
            Ok(context) => {
                let _ = ready.send(Ok(()));
                serve(context, size, &incoming, &waiting);
            }
            Err(error) => drop(ready.send(Err(error.to_string()))),
        }
    };
    std::thread::Builder::new().name("engine".into()).spawn(run).map_err(|error| failed(error.to_string()))?;
    match begun.recv() {
        Ok(Ok(())) => Ok(texts),
        Ok(Err(why)) => Err(failed(why)),
        Err(_) => Err(failed("its thread ended".into())),
    }
}

/// Until nobody can ask any more.
fn serve(mut context: LlamaContext<'_>, size: usize, incoming: &Receiver<Embed>, waiting: &AtomicUsize) {
    let mut batch = LlamaBatch::new(size, 1);
    while let Ok(Embed { tokens, done }) = incoming.recv() {
        // Who went away needs none.
        let vector = (!done.is_closed()).then(|| embed(&mut context, &mut batch, &tokens));
        // Whoever has its vector waits no more.
        waiting.fetch_sub(1, Ordering::Relaxed);
        vector.map(|vector| done.send(vector));
    }
}

fn embed(context: &mut LlamaContext<'_>, batch: &mut LlamaBatch<'_>, tokens: &[i32]) -> Result<Vec<f32>, Refusal> {
    context.clear_kv_cache();
    batch.clear();
    let failed = |why: String| Refusal::Failed(why);
    let tokens: Vec<LlamaToken> = tokens.iter().map(|id| LlamaToken(*id)).collect();
    batch.add_sequence(&tokens, 0, true).map_err(|error| failed(error.to_string()))?;
    context.decode(batch).map_err(|error| failed(error.to_string()))?;
    let vector = context.embeddings_seq_ith(0).map_err(|error| failed(error.to_string()))?;
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    // Of length one, as the API gives them.
    Ok(vector.iter().map(|x| (f64::from(*x) / length) as f32).collect())
}
