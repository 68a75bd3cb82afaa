//! `talkoo data`.

use crate::{Common, render};
use anyhow::{Context, Result};
use clap::Subcommand;
use data::{BuildOptions, Corpus, Tokenizer};
use serde_json::json;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum DataCommand {
    /// Make shards and a manifest from text, JSON Lines (.gz, .zst) or Parquet.
    Build {
        /// The files, in order; none = the shipped plays and poems.
        sources: Vec<PathBuf>,
        /// Where to write.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A `tokenizer.json`; the shipped one by default.
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,
        /// Name for people.
        #[arg(long, default_value = "corpus")]
        name: String,
        /// Licence of the text.
        #[arg(long, default_value = "unknown")]
        licence: String,
        /// Field or column that holds the text.
        #[arg(long, default_value = "text")]
        field: String,
        /// Of 1,000 documents, how many are held out.
        #[arg(long, default_value_t = 50)]
        heldout_permille: u32,
    },
    /// Compare every file of a built corpus with its hash.
    Verify {
        /// The folder.
        dir: PathBuf,
    },
}

pub(crate) fn run(common: &Common, command: DataCommand) -> Result<()> {
    match command {
        DataCommand::Build { sources, out, tokenizer, name, licence, field, heldout_permille } => {
            let built = if sources.is_empty() {
                data::shipped::build(&out)?
            } else {
                let tokenizer = match tokenizer {
                    Some(path) => Tokenizer::from_json(&std::fs::read(&path).context(path.display().to_string())?)?,
                    None => data::shipped::tokenizer()?,
                };
                let options = BuildOptions { name, licence, heldout_permille, field, ..BuildOptions::default() };
                let mut shown = 0;
                data::build(&sources, &tokenizer, &options, &out, |tokens| {
                    if tokens >= shown + 1_000_000 {
                        shown = tokens;
                        eprintln!("{} tokens", base::grouped(tokens));
                    }
                })
                // What holds nothing yet is not left behind.
                .inspect_err(|_| drop(std::fs::remove_dir(&out)))?
            };
            let manifest = &built.manifest;
            let value = json!({
                "manifest": manifest.root(),
                "path": built.path,
                "train_tokens": manifest.train_tokens(),
                "heldout_tokens": manifest.heldout_tokens(),
                "documents": manifest.documents,
            });
            render::print(common, &value, || {
                format!(
                    "{}: {} tokens to train on, {} held out, from {} documents\nmanifest {}",
                    built.path.display(),
                    base::grouped(manifest.train_tokens()),
                    base::grouped(manifest.heldout_tokens()),
                    manifest.documents[0] + manifest.documents[1],
                    manifest.root()
                )
            });
        }
        DataCommand::Verify { dir } => {
            let bytes = Corpus::verify(&dir)?;
            let value = json!({ "bytes": bytes, "whole": true });
            render::print(common, &value, || {
                format!("{} bytes, every file is what the manifest names", base::grouped(bytes))
            });
        }
    }
    Ok(())
}
