//! `talkoo replay`: the page over what a node wrote down, with a slider through time.

use crate::Common;
use anyhow::Result;
use gateway::{Gateway, Keys, Nobody};
use node::Recorded;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub(crate) struct ReplayArgs {
    /// An event log; without one, that of the data folder.
    file: Option<PathBuf>,
    /// Where the page listens.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    listen: SocketAddr,
}

pub(crate) async fn run(common: &Common, args: ReplayArgs) -> Result<()> {
    let path = args.file.unwrap_or_else(|| common.dir().join("events.jsonl"));
    let log = tokio::task::block_in_place(|| Recorded::read(&path))?;
    let events = log.len();
    let gateway = Gateway {
        answers: Arc::new(Nobody),
        keys: Arc::new(Keys::default()),
        demand_keys: false,
        answer_tokens: 1,
        temperature: 1.0,
        panel: Some(Arc::new(log)),
    };
    let json = common.json;
    let stopped = crate::stop::stopped()?;
    let ready = move |address: SocketAddr| {
        if json {
            outln!("{}", serde_json::json!({ "page": format!("http://{address}/"), "events": events }));
        } else {
            outln!("{events} events at http://{address}/; Ctrl-C ends it");
        }
    };
    tokio::select! {
        served = gateway::serve(gateway, args.listen, CancellationToken::new(), ready) => Ok(served?),
        () = stopped => Ok(()),
    }
}
