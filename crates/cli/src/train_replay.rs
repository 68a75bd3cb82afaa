//! `talkoo train replay` and `talkoo train log`: a whole run, done again from what its chain says of it.

use crate::runs::find_on_disk;
use crate::{Common, render};
use anyhow::{Context, Result, bail, ensure};
use base::Wire;
use model::GgufType;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use swarm::{RunId, WorkBlock, WorkTx};
use trainer::Replayed;

pub(crate) fn replay(common: &Common, id: Option<&str>, log: Option<&Path>, gguf: Option<&Path>) -> Result<()> {
    match log {
        Some(log) => replay_log(common, log, gguf),
        None => replay_node(common, id),
    }
}

/// The blocks of the chain of a run on this node.
fn blocks_of(dir: &Path, run: &RunId) -> Result<Vec<WorkBlock>> {
    let store = trainer::Store::open(dir)?;
    let chain = store.chain_of(run)?.context("this folder does not know the chain of the run")?;
    replica::ChainStore::open(&replica::chain_dir(dir, &chain))?.works()
}

pub(crate) fn write_log(common: &Common, out: &Path, id: Option<&str>) -> Result<()> {
    let dir = common.dir();
    let run = find_on_disk(&dir, id)?;
    let blocks = blocks_of(&dir, &run)?;
    trainer::write_log(&blocks, &run, out)?;
    let value = json!({ "run": run.to_string(), "log": out, "bytes": std::fs::metadata(out)?.len() });
    render::print(common, &value, || {
        format!("{}\nanybody who has the data does it again: talkoo train replay --log {0}", out.display())
    });
    Ok(())
}

/// Rounds, every two seconds.
fn shown() -> impl FnMut(u64, u64) {
    let mut shown = Instant::now();
    move |at, of| {
        if shown.elapsed().as_secs() >= 2 {
            shown = Instant::now();
            eprintln!("round {at} of {of}");
        }
    }
}

fn replay_node(common: &Common, id: Option<&str>) -> Result<()> {
    let dir = common.dir();
    let run = find_on_disk(&dir, id)?;
    let saved = trainer::saved(&dir, &run)?;
    let blocks = blocks_of(&dir, &run)?;
    let scratch = dir.join("replay");
    let _ = std::fs::remove_dir_all(&scratch);
    let found = trainer::replay(&blocks, &run, &saved.corpus, &saved.folder, &scratch, common.threads(), shown());
    let _ = std::fs::remove_dir_all(&scratch);
    let found = found?;
    // What is on disk may be of a round before the last one: a node that ends applies no more.
    let same = found.roots.get(&saved.version) == Some(&saved.root);
    let mut value = json_of(&found);
    value["saved"] = json!({ "version": saved.version, "root": saved.root });
    value["same_end"] = same.into();
    render::print(common, &value, || {
        let end = match same {
            true if found.root == saved.root => "= the root of the weights on disk".to_owned(),
            true => format!("at the end; the weights on disk are of round {}, and came out the same", saved.version),
            false => format!("at the end; the weights on disk, of round {}, differ", saved.version),
        };
        text(&found, &end)
    });
    if same && found.roots_equal { Ok(()) } else { bail!("the replay did not end in the run's root") }
}

/// Does a run again from its written log, on the shipped texts.
fn replay_log(common: &Common, log: &Path, gguf: Option<&Path>) -> Result<()> {
    let (run, blocks) = trainer::read_log(log)?;
    let spec = blocks.iter().flat_map(|block| &block.txs).find_map(|tx| match &tx.value.tx {
        WorkTx::Create { spec } if spec.id(&tx.by) == run => Some(spec.clone()),
        _ => None,
    });
    let spec = spec.context("the log does not create its run")?;
    let dir = common.dir().join("replay");
    let _ = std::fs::remove_dir_all(&dir);
    host::private_folder(&dir)?;
    let corpus = dir.join("texts");
    data::shipped::build(&corpus)?;
    let built = data::Corpus::open(&corpus)?.manifest().root();
    ensure!(built == spec.manifest, "the run learned from other data than the texts that come with talkoo");
    let folder = dir.join("runs").join(run.to_string());
    let done = trainer::replay(&blocks, &run, &corpus, &folder, &dir, common.threads(), shown()).and_then(|found| {
        if let Some(out) = gguf {
            std::fs::write(folder.join("spec"), spec.to_bytes())?;
            let saved = trainer::saved(&dir, &run)?;
            ensure!(saved.root == found.root, "the weights on disk are not those at the end");
            saved.export_gguf(out, found.tokens, found.members, None, GgufType::Q8_0)?;
        }
        Ok(found)
    });
    let _ = std::fs::remove_dir_all(&dir);
    let found = done?;
    let same = found.roots_equal && found.equal == found.units;
    let mut value = json_of(&found);
    value["same_end"] = same.into();
    render::print(common, &value, || {
        text(&found, if same { "= what the log says" } else { "is not what the log says" })
    });
    if same { Ok(()) } else { bail!("the replay did not come out as the log says") }
}

fn json_of(found: &Replayed) -> Value {
    json!({
        "rounds": found.rounds,
        "units": found.units,
        "equal": found.equal,
        "inherited": found.inherited,
        "tokens": found.tokens,
        "root": found.root,
        "roots_equal": found.roots_equal,
    })
}

fn text(found: &Replayed, end: &str) -> String {
    format!(
        "{} rounds done again: {} of {} units came out the same to the last bit\nroot {} {end}",
        found.rounds, found.equal, found.units, found.root
    )
}
