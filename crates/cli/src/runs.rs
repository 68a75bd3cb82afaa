//! From a run file to a run: looks up what the file names and plans what it leaves open.

use anyhow::{Context, Result, bail};
use base::{ChunkTree, Hash};
use data::Corpus;
use ledger::Credits;
use model::{Layout, ModelConfig, Part, Weights};
use std::path::{Path, PathBuf};
use swarm::{Init, LinkProfile, MachineProfile, Mode, Outlook, PlanInput, Resolved, RunFile, Spec, plan};
use trainer::Limits;

/// What the planner assumes about the others.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Others {
    /// Members that are expected, this machine included.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) members: u16,
    /// Their slowest upload and download, Mbit/s.
    #[arg(long, default_value_t = 100.0, value_parser = positive)]
    pub(crate) mbit: f64,
    /// Their longest round trip, ms.
    #[arg(long, default_value_t = 30.0, value_parser = positive)]
    pub(crate) rtt_ms: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| *value > 0.0 && *value <= 1e6);
    value.ok_or_else(|| "it can be above 0, up to 1000000".into())
}

/// A run file, looked up and planned.
pub(crate) struct Prepared {
    pub(crate) spec: Spec,
    pub(crate) outlooks: Vec<Outlook>,
    pub(crate) speed: f64,
    pub(crate) corpus: PathBuf,
    pub(crate) model: Option<PathBuf>,
    /// What the creator pays into the budget.
    pub(crate) budget: Option<Credits>,
}

/// Reads `path` and resolves it; `scratch` holds the shipped corpus once it is built.
pub(crate) fn prepare(path: &Path, scratch: &Path, limits: Limits, device: &str, others: &Others) -> Result<Prepared> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file = RunFile::parse(&text).with_context(|| path.display().to_string())?;
    let corpus = corpus_dir(&file.data.manifest, path, scratch)?;
    let opened = Corpus::open(&corpus)?;
    let manifest = opened.manifest();
    let (config, theta, model) = config(&file, path, manifest.vocab as usize)?;
    config.check_length(file.data.seq_len as usize)?;
    let layout = Layout::new(&config, &Part::whole(&config));
    let shape = (file.train.micro_batch as usize, file.data.seq_len as usize);
    // A unit is as long as the trainer's rests make it.
    let speed = trainer::speed(&config, shape, limits.threads, device)? * f64::from(limits.duty_percent) / 100.0;
    let link = LinkProfile { up_mbit: others.mbit, down_mbit: others.mbit, rtt_ms: others.rtt_ms };
    let input = PlanInput {
        params: layout.len as u64,
        batch_tokens: file.train.batch_tokens,
        machines: vec![MachineProfile { tokens_per_s: speed }; usize::from(others.members)],
        link,
        target_s: file.round.target_seconds,
        tokens: file.tokens()?,
    };
    let mut outlooks = plan(&input);
    match file.round.mode.as_str() {
        "gradients" => outlooks.retain(|outlook| outlook.mode == Mode::Gradients),
        "local" => outlooks.retain(|outlook| outlook.mode == Mode::Local),
        _ => {}
    }
    let chosen = outlooks.first().context("a plan for at least one member")?;
    let mut resolved = Resolved {
        config: String::from_utf8(config.to_json(manifest.end_token))?,
        params: layout.len as u64,
        manifest: manifest.root(),
        init: Init::Seed,
    };
    let mut spec = file.resolve(&resolved, chosen)?;
    if let Some(theta) = theta {
        resolved.init = Init::Root(initial_root(theta, spec.mode));
        spec = file.resolve(&resolved, chosen)?;
    }
    let budget = file.pay.budget.as_deref().map(crate::amount::parse).transpose().context("pay.budget")?;
    Ok(Prepared { spec, outlooks, speed, corpus, model, budget })
}

fn initial_root(theta: Vec<f32>, mode: Mode) -> Hash {
    let weights = Weights::from_theta(theta, mode == Mode::Gradients);
    ChunkTree::of(&weights.bytes()).root()
}

/// The folder of the corpus that a run file names, relative to the file.
fn corpus_dir(name: &str, file: &Path, scratch: &Path) -> Result<PathBuf> {
    if name != "shipped" {
        return Ok(file.parent().unwrap_or(Path::new(".")).join(name));
    }
    let dir = scratch.join("shipped-corpus");
    if Corpus::verify(&dir).is_err() {
        data::shipped::build(&dir)?;
    }
    Ok(dir)
}

type Shape = (ModelConfig, Option<Vec<f32>>, Option<PathBuf>);

fn config(file: &RunFile, path: &Path, vocab: usize) -> Result<Shape> {
    let beside = |name: &str| path.parent().unwrap_or(Path::new(".")).join(name);
    if file.model.init != "seed" {
        let dir = beside(&file.model.init);
        let (config, theta) = model::load(&dir)?;
        return Ok((config, Some(theta), Some(std::path::absolute(dir)?)));
    }
    let config = match (&file.model.config, &file.model.size) {
        (Some(name), _) => ModelConfig::from_json(&std::fs::read(beside(name)).context(name.clone())?)?,
        (None, Some(size)) => ModelConfig::preset(size, vocab, file.data.seq_len as usize)?,
        (None, None) => bail!("`model` needs a `size` ({}) or a `config`", model::SIZES.join(", ")),
    };
    if config.vocab_size < vocab {
        bail!("the model has {} ids, the corpus {vocab}", config.vocab_size);
    }
    Ok((config, None, None))
}

/// Runs of which the folder holds weights, without a running node.
fn runs_on_disk(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("runs")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

pub(crate) fn find_on_disk(dir: &Path, id: Option<&str>) -> Result<Hash> {
    let found: Vec<String> =
        runs_on_disk(dir).into_iter().filter(|run| id.is_none_or(|id| run.starts_with(id))).collect();
    match found.as_slice() {
        [one] => Ok(one.parse()?),
        [] => bail!("{} holds no such run; `talkoo train ls` lists those of a running node", dir.display()),
        _ => bail!("several runs fit; name one of: {}", found.join(", ")),
    }
}
