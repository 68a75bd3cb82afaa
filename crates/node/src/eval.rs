//! Checkpoints: held-out loss, and the model as a folder.

use crate::driver::SAMPLES_FILE;
use crate::export::Saved;
use crate::work::Work;
use crate::workers::Checkpoint;
use anyhow::Result;
use data::{Corpus, Split, Tokenizer};
use model::{Batch, Trainer, Weights};
use serde::Serialize;
use std::path::Path;

impl Work {
    /// Measures the newest weights and writes them as a folder; gives their version and held-out
    /// bits per byte, where they were measured.
    pub(crate) fn checkpoint(&self, trainer: &mut Trainer, checkpoint: &Checkpoint) -> Result<Option<(u64, f64)>> {
        let Some((version, weights, root)) = self.newest() else { return Ok(None) };
        let (theta, seq_len) = (weights.theta(), u64::from(self.spec.seq_len));
        let measure = || {
            let stop = || self.rests();
            bits_per_byte(trainer, theta, &self.corpus, (seq_len, checkpoint.eval_tokens), stop)
        };
        let bits = if checkpoint.eval_tokens > 0 { self.pool.install(measure)? } else { None };
        if bits.is_some() {
            let line = SampleLine { version, text: self.pool.install(|| self.sample(trainer))? };
            self.store.write_metrics(&self.run, SAMPLES_FILE, &line);
        }
        if self.spec.checkpoints_kept > 0 {
            let saved = Saved {
                folder: self.store.run_dir(&self.run)?,
                spec: self.spec.clone(),
                version,
                root,
                weights: Weights::clone(&weights),
                config: self.config.clone(),
                corpus: self.store.corpus_dir(&self.spec.manifest)?,
            };
            let dir = saved.folder.join("checkpoints");
            let (unfinished, finished) = (dir.join("unfinished"), dir.join(format!("{version:08}")));
            let _ = std::fs::remove_dir_all(&unfinished);
            saved.export(&unfinished, checkpoint.tokens, checkpoint.members, bits)?;
            let _ = std::fs::remove_dir_all(&finished);
            std::fs::rename(&unfinished, &finished)?;
            prune(&dir, self.spec.checkpoints_kept as usize)?;
        }
        Ok(bits.map(|bits| (version, bits)))
    }
}

impl Work {
    /// Lets the weights that were measured write on from a held-out text, always the same.
    fn sample(&self, trainer: &mut Trainer) -> Result<String> {
        let tokenizer = std::fs::read(self.store.corpus_dir(&self.spec.manifest)?.join("tokenizer.json"))?;
        let tokenizer = Tokenizer::from_json(&tokenizer)?;
        let mut prompt = Vec::new();
        let window = u64::from(self.spec.seq_len).min(SAMPLE.0);
        self.corpus.window(Split::Heldout, 0, window, &mut prompt)?;
        let sampling = model::Sampling { temperature: 0.8, top_k: 40, seed: 1 };
        let ids = model::sample(trainer, &prompt, SAMPLE.1, tokenizer.end_token(), sampling);
        Ok(tokenizer.decode(&ids)?)
    }
}

/// A line of [`SAMPLES_FILE`].
#[derive(Serialize)]
struct SampleLine {
    version: u64,
    text: String,
}

/// Tokens of a held-out text that are gone on with, and of what is written: the whole is computed anew for each.
const SAMPLE: (u64, usize) = (12, 48);

/// Keeps the newest `keep` checkpoints.
fn prune(dir: &Path, keep: usize) -> Result<()> {
    let mut found: Vec<_> = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    found.sort();
    for old in &found[..found.len().saturating_sub(keep)] {
        std::fs::remove_dir_all(old)?;
    }
    Ok(())
}

/// Bits per UTF-8 byte over the first `tokens` held-out tokens, in windows of `seq_len`; `None` without a held-out split,
/// or when `stop` says so.
pub fn bits_per_byte(
    trainer: &mut Trainer,
    theta: &[f32],
    corpus: &Corpus,
    (seq_len, tokens): (u64, u64),
    mut stop: impl FnMut() -> bool,
) -> Result<Option<f64>> {
    let manifest = corpus.manifest();
    let windows = manifest.heldout_tokens().saturating_sub(1).min(tokens) / seq_len;
    if windows == 0 {
        return Ok(None);
    }
    trainer.set(theta);
    let (mut nats, mut ids) = (0.0, Vec::new());
    const ROWS: u64 = 8;
    for first in (0..windows).step_by(ROWS as usize) {
        if stop() {
            return Ok(None);
        }
        ids.clear();
        for window in first..(first + ROWS).min(windows) {
            corpus.window(Split::Heldout, window, seq_len, &mut ids)?;
        }
        nats += trainer.nats(&Batch { ids: ids.clone() }, seq_len as usize);
    }
    // Bytes of the measured part, by the split's own bytes per token.
    let per_token = manifest.heldout_text_bytes() as f64 / manifest.heldout_tokens() as f64;
    Ok(Some(nats / std::f64::consts::LN_2 / (windows as f64 * seq_len as f64 * per_token)))
}
