//! The weights that a process writes to disk while it trains, kept one by one, to be measured when nothing trains.

use anyhow::{Context, Result};
use data::Corpus;
use model::Trainer;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Held-out tokens of a measurement, the same for all.
const EVAL_TOKENS: u64 = 20_000;

/// Weights that were on disk.
pub(super) struct Kept {
    /// Seconds after the beginning.
    pub(super) at: f64,
    /// A folder as a node has one.
    folder: PathBuf,
}

/// What one process wrote so far.
pub(super) struct Shelf {
    dir: PathBuf,
    to: PathBuf,
    begun: SystemTime,
    last: Option<SystemTime>,
    pub(super) kept: Vec<Kept>,
}

impl Shelf {
    /// For the process on `dir`, which begins now.
    pub(super) fn new(dir: &Path) -> Self {
        let to = dir.with_extension("kept");
        Self { dir: dir.to_owned(), to, begun: SystemTime::now(), last: None, kept: Vec::new() }
    }

    /// Keeps what is on disk, if it is new.
    pub(super) fn look(&mut self) -> Result<()> {
        let Some(run) = trainer::newest(&self.dir) else { return Ok(()) };
        let from = self.dir.join("runs").join(run.to_string());
        let written = std::fs::metadata(from.join("weights"))?.modified()?;
        if self.last == Some(written) {
            return Ok(());
        }
        self.last = Some(written);
        let folder = self.to.join(self.kept.len().to_string());
        let into = folder.join("runs").join(run.to_string());
        std::fs::create_dir_all(&into)?;
        for name in ["weights", "spec"] {
            std::fs::copy(from.join(name), into.join(name)).with_context(|| from.join(name).display().to_string())?;
        }
        let at = written.duration_since(self.begun).unwrap_or_default().as_secs_f64();
        self.kept.push(Kept { at, folder });
        Ok(())
    }

    /// The last weights.
    pub(super) fn last(&self) -> Result<&Kept> {
        self.kept.last().with_context(|| format!("{} wrote no weights in time", self.dir.display()))
    }

    /// When weights of at most so many held-out bits per byte were written first.
    pub(super) fn reached(&self, bits: f64, corpus: &Corpus) -> Result<Option<f64>> {
        for kept in &self.kept {
            if kept.bits(corpus)? <= bits {
                return Ok(Some(kept.at));
            }
        }
        Ok(None)
    }
}

impl Kept {
    pub(super) fn saved(&self) -> Result<trainer::SavedRun> {
        trainer::saved(&self.folder, &trainer::newest(&self.folder).context("kept weights")?)
    }

    /// Held-out bits per byte.
    pub(super) fn bits(&self, corpus: &Corpus) -> Result<f64> {
        let saved = self.saved()?;
        let mut trainer = Trainer::new(&saved.config, &model::open("cpu")?);
        let (rows, seq_len) = (u64::from(saved.spec.micro_batch), u64::from(saved.spec.seq_len));
        let heldout = trainer::Heldout { rows, seq_len, tokens: EVAL_TOKENS };
        let bits = trainer::bits_per_byte(&mut trainer, saved.weights.theta(), corpus, heldout, || false)?;
        bits.context("the corpus has no held-out split")
    }
}
