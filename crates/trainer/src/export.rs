//! What is on disk of a run, read without the node that wrote it.

use anyhow::{Context, Result};
use base::{Hash, Wire};
use data::{Corpus, Tokenizer};
use model::{ExportCard, GgufType, Layout, ModelConfig, Part, Weights};
use std::path::{Path, PathBuf};
use swarm::{Mode, RunId, Spec};

/// A run's newest weights on disk, and what belongs to them.
pub struct SavedRun {
    /// What the run is.
    pub spec: Spec,
    /// Version of the weights: closed rounds.
    pub version: u64,
    /// Their root on the log.
    pub root: Hash,
    /// The weights.
    pub weights: Weights,
    /// The model's shape.
    pub config: ModelConfig,
    /// Folder of the run.
    pub folder: PathBuf,
    /// Folder of the data.
    pub corpus: PathBuf,
}

/// Reads the newest weights of `run` from the data folder `dir`.
pub fn saved(dir: &Path, run: &RunId) -> Result<SavedRun> {
    let folder = dir.join("runs").join(run.to_string());
    let missing = || format!("{} has no weights of run {run} yet", dir.display());
    let spec = Spec::from_bytes(&std::fs::read(folder.join("spec")).with_context(missing)?)?;
    let config = ModelConfig::from_json(spec.config.as_bytes())?;
    let layout = Layout::new(&config, &Part::whole(&config));
    let bytes = std::fs::read(folder.join("weights")).with_context(missing)?;
    let (version, rest) = bytes.split_first_chunk::<8>().with_context(missing)?;
    let (root, rest) = rest.split_first_chunk::<32>().with_context(missing)?;
    let weights = Weights::from_bytes(&layout, spec.mode == Mode::Gradients, rest)?;
    anyhow::ensure!(
        weights.tree().root().0 == *root,
        "the weights on disk are damaged; start the node to fetch them anew"
    );
    let corpus = dir.join("corpora").join(spec.manifest.to_string());
    Ok(SavedRun { version: u64::from_le_bytes(*version), root: Hash(*root), weights, config, folder, corpus, spec })
}

/// The run whose weights the data folder `dir` got last.
pub fn newest(dir: &Path) -> Option<RunId> {
    let runs = std::fs::read_dir(dir.join("runs")).ok()?.flatten();
    let written = runs.filter_map(|run| {
        let at = std::fs::metadata(run.path().join("weights")).and_then(|file| file.modified()).ok()?;
        Some((at, run.file_name().to_str()?.parse().ok()?))
    });
    written.max_by_key(|(at, _)| *at).map(|(_, run)| run)
}

impl SavedRun {
    /// The model as a GGUF file in the run's folder, called as the run is; written where there is none of these weights.
    pub fn gguf(&self) -> Result<PathBuf> {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let name: String = self.spec.name.chars().map(plain).take(100).collect();
        let name = name.trim_start_matches(['.', '-']);
        let path = self.folder.join(format!("{}.gguf", if name.is_empty() { "model" } else { name }));
        let changed = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
        if changed(&path) < changed(&self.folder.join("weights")) {
            let partial = path.with_extension("partial");
            self.export_gguf(&partial, 0, 0, None, GgufType::Q8_0)?;
            std::fs::rename(&partial, &path).with_context(|| path.display().to_string())?;
        }
        Ok(path)
    }

    /// Writes logits of the exported model beside it, for another implementation to compare.
    pub fn export_check(&self, out: &Path) -> Result<()> {
        Ok(model::export_check(out, &self.config, self.weights.theta())?)
    }

    /// Writes a Hugging Face folder.
    pub fn export(&self, out: &Path, tokens: u64, members: u64, bits_per_byte: Option<f64>) -> Result<()> {
        let tokenizer = self.tokenizer()?;
        let card = self.card(tokens, members, bits_per_byte)?;
        let end = tokenizer.end_token_text();
        let theta = self.weights.theta();
        Ok(model::export(out, &self.config, theta, tokenizer.json(), (tokenizer.end_token(), &end), &card)?)
    }

    /// Writes a GGUF file.
    pub fn export_gguf(
        &self,
        out: &Path,
        tokens: u64,
        members: u64,
        bits_per_byte: Option<f64>,
        kind: GgufType,
    ) -> Result<()> {
        let tokenizer = self.tokenizer()?;
        let card = self.card(tokens, members, bits_per_byte)?;
        let theta = self.weights.theta();
        Ok(model::export_gguf(out, &self.config, theta, tokenizer.json(), tokenizer.end_token(), &card, kind)?)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(Tokenizer::from_json(&std::fs::read(self.corpus.join("tokenizer.json"))?)?)
    }

    fn card(&self, tokens: u64, members: u64, bits_per_byte: Option<f64>) -> Result<ExportCard> {
        let corpus = Corpus::open(&self.corpus)?;
        let manifest = corpus.manifest();
        Ok(ExportCard {
            name: self.spec.name.clone(),
            data: format!("{} ({})", manifest.name, manifest.licence),
            manifest: self.spec.manifest.to_string(),
            tokens,
            rounds: self.version,
            members,
            bits_per_byte,
            root: self.root.to_string(),
        })
    }
}
