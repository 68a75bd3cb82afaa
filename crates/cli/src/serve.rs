//! `talkoo serve`: models behind the OpenAI API.

use crate::Common;
use anyhow::{Context, Result, ensure};
use clap::Args;
use engine::{Engine, EngineConfig};
use gateway::{Gateway, Keys};
use node::{Local, Served};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// A GGUF file to serve; may be given several times.
    #[arg(long, value_name = "FILE", required = true)]
    model: Vec<PathBuf>,
    /// Where the API listens; beyond this machine it demands keys.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// Answers that are written at a time.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Tokens of a question and its answer together (default: what the model was trained with, at most 8,192).
    #[arg(long, default_value_t = 0, value_name = "N")]
    context: usize,
    /// Refuse requests without a key on this machine, too; `talkoo key create` makes one.
    #[arg(long)]
    demand_keys: bool,
    /// Tokens of an answer where a request names no bound.
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    answer_tokens: u64,
}

pub(crate) async fn run(common: &Common, args: ServeArgs) -> Result<()> {
    let mut models = Vec::new();
    for path in &args.model {
        eprintln!("loading {}", path.display());
        let (path, threads) = (path.clone(), common.threads());
        let config =
            EngineConfig { path, threads, slots: usize::from(args.parallel), context: args.context, memory: 0 };
        let loaded = tokio::task::spawn_blocking(move || Engine::load(config)).await.context("loading")??;
        let info = loaded.info();
        eprintln!(
            "{}: {:.0} M parameters, {} answers at a time of {} tokens each, {} MB",
            info.name,
            info.parameters as f64 / 1e6,
            info.slots,
            info.context,
            info.memory >> 20
        );
        ensure!(
            models.iter().all(|served: &Served| served.card().name != info.name),
            "two models are called {}: name their files differently",
            info.name
        );
        models.push(Served::new(loaded));
    }
    let names: Vec<String> = models.iter().map(|served| served.card().name.clone()).collect();
    let keys = Arc::new(Keys::new(node::api_keys(&common.dir())?));
    let (demand_keys, answer_tokens) = (args.demand_keys, args.answer_tokens);
    let gateway = Gateway { answers: Arc::new(Local::new(models)), keys, demand_keys, answer_tokens };
    let stop = CancellationToken::new();
    let json = common.json;
    let ready = move |address: SocketAddr| {
        if json {
            outln!("{}", serde_json::json!({ "api": format!("http://{address}/v1"), "models": names }));
        } else {
            outln!("http://{address}/v1 answers any OpenAI client; http://{address}/ in a browser; Ctrl-C stops it");
        }
    };
    tokio::select! {
        served = gateway::serve(gateway, args.listen, stop, ready) => served?,
        asked = crate::train::stopped() => asked?,
    }
    Ok(())
}
