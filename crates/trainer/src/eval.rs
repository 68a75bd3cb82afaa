//! Checkpoints: held-out loss, and the model as a folder.

use crate::driver::SAMPLES_FILE;
use crate::export::SavedRun;
use crate::work::Work;
use crate::workers::Checkpoint;
use anyhow::Result;
use base::Permutation;
use data::{Corpus, Split, Tokenizer};
use model::{Batch, Trainer, Weights};
use serde::Serialize;
use std::path::Path;

impl Work {
    /// Measures the newest weights and writes them as a folder; gives their version and held-out
    /// bits per byte, where they were measured.
    pub(crate) fn checkpoint(&self, trainer: &mut Trainer, checkpoint: &Checkpoint) -> Result<Option<(u64, f64)>> {
        let Some((version, weights, root)) = self.newest() else { return Ok(None) };
        let (rows, seq_len) = (self.spec.micro_batch.into(), self.spec.seq_len.into());
        let heldout = Heldout { rows, seq_len, tokens: checkpoint.eval_tokens };
        let measure = || bits_per_byte(trainer, weights.theta(), &self.corpus, heldout, || self.rests());
        let bits = if checkpoint.eval_tokens > 0 { self.pool.install(measure)? } else { None };
        if bits.is_some() {
            let line = SampleLine { version, text: self.pool.install(|| self.sample(trainer))? };
            self.store.write_metrics(&self.run, SAMPLES_FILE, &line);
        }
        if self.spec.checkpoints_kept > 0 {
            let saved = SavedRun {
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
        let sampling = model::SampleSettings { temperature: 0.8, top_k: 40, seed: 1 };
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

/// What is measured of a held-out split.
#[derive(Debug, Clone, Copy)]
pub struct Heldout {
    /// Windows that are computed at a time: a run's micro-batch, for which its members have the memory.
    pub rows: u64,
    /// T.
    pub seq_len: u64,
    /// Tokens that are measured at most.
    pub tokens: u64,
}

/// Bits per UTF-8 byte over windows of the held-out split. The manifest's hash draws them, so they are the same on
/// every node and every time. `None` without a held-out split, or when `stop` says so.
pub fn bits_per_byte(
    trainer: &mut Trainer,
    theta: &[f32],
    corpus: &Corpus,
    heldout: Heldout,
    mut stop: impl FnMut() -> bool,
) -> Result<Option<f64>> {
    let manifest = corpus.manifest();
    let (rows, seq_len) = (heldout.rows.max(1), heldout.seq_len.max(1));
    let windows = manifest.heldout_tokens().saturating_sub(1) / seq_len;
    let measured = windows.min(heldout.tokens / seq_len);
    if measured == 0 {
        return Ok(None);
    }
    // What stands first in a split need not be like the rest of it.
    let drawn = Permutation::new(windows, manifest.root().seed());
    trainer.set(theta);
    let mut nats = 0.0;
    for first in (0..measured).step_by(rows as usize) {
        if stop() {
            return Ok(None);
        }
        let mut ids = Vec::new();
        for i in first..(first + rows).min(measured) {
            corpus.window(Split::Heldout, drawn.at(i), seq_len, &mut ids)?;
        }
        nats += trainer.nats(&Batch { ids }, seq_len as usize);
    }
    // Bytes of the measured part, by the split's own bytes per token.
    let per_token = manifest.heldout_text_bytes() as f64 / manifest.heldout_tokens() as f64;
    Ok(Some(nats / std::f64::consts::LN_2 / (measured as f64 * seq_len as f64 * per_token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_loss_is_that_of_drawn_windows_whatever_the_micro_batch() {
        let dir = tempfile::tempdir().expect("a folder");
        data::shipped::build(dir.path()).expect("built");
        let corpus = Corpus::open(dir.path()).expect("opened");
        let manifest = corpus.manifest();
        let config = model::ModelConfig::preset("nano", manifest.vocab as usize, 64).expect("a preset");
        let layout = model::Layout::new(&config, &model::Part::whole(&config));
        let theta: Vec<f32> = model::init(&layout, 2, 1).iter().map(|w| 8.0 * w).collect();
        let mut trainer = Trainer::new(&config, &model::open("cpu").expect("always there"));
        let mut bits = |rows, stop: bool| {
            let heldout = Heldout { rows, seq_len: 64, tokens: 640 };
            bits_per_byte(&mut trainer, &theta, &corpus, heldout, || stop).expect("read")
        };
        assert_eq!(bits(1, true), None, "the owner is back");
        let (one, three) = (bits(1, false).expect("held out"), bits(3, false).expect("held out"));
        assert!((one - three).abs() < 1e-4 * one, "{one} against {three}");
        let drawn = Permutation::new((manifest.heldout_tokens() - 1) / 64, manifest.root().seed());
        assert!((0..10).any(|i| drawn.at(i) > 10), "not the first ten windows");
    }
}
