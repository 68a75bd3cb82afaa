//! Held-out loss.

use crate::work::Work;
use anyhow::Result;
use data::{Corpus, Split};
use model::{Batch, Trainer};

impl Work {
    /// Held-out bits per byte of the newest weights over at most `tokens` tokens.
    pub(crate) fn evaluate(&self, trainer: &mut Trainer, tokens: u64) -> Result<Option<f64>> {
        let Some((_, weights)) = self.newest() else { return Ok(None) };
        let manifest = self.corpus.manifest();
        self.pool
            .install(|| bits_per_byte(trainer, weights.theta(), &self.corpus, u64::from(self.spec.seq_len), tokens))
            .map(|bits| bits.filter(|_| manifest.heldout_tokens() > 0))
    }
}

/// Bits per UTF-8 byte over the first `tokens` held-out tokens; `None` without a held-out split.
pub fn bits_per_byte(
    trainer: &mut Trainer,
    theta: &[f32],
    corpus: &Corpus,
    seq_len: u64,
    tokens: u64,
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
