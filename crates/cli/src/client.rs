//! Asking the node that runs on the data folder.

use crate::Common;
use anyhow::{Context, Result, bail};
use node::{ControlRequest, Panel, Status};
use serde_json::Value;
use trainer::RunStatus;

/// What the running node shows.
pub(crate) async fn status(common: &Common) -> Result<Status> {
    Ok(serde_json::from_value(ask(common, ControlRequest::Status).await?)?)
}

/// The running node at a glance.
pub(crate) async fn panel(common: &Common) -> Result<Panel> {
    Ok(serde_json::from_value(ask(common, ControlRequest::Panel).await?)?)
}

/// An account by its whole key, or by the beginning of a member's.
pub(crate) async fn key_of(common: &Common, text: &str) -> Result<base::NodeId> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let answer = ask(common, ControlRequest::Account { network: None, key: Some(text.to_owned()) }).await?;
    Ok(answer["key"].as_str().unwrap_or_default().parse()?)
}

/// Asks the running node.
pub(crate) async fn ask(common: &Common, request: ControlRequest) -> Result<Value> {
    let dir = common.dir();
    let answer = node::call(&dir, &request).await?;
    answer.with_context(|| format!("no node runs on {}; start one with `talkoo up`", dir.display()))
}

/// A run by the beginning of its id, or the only one.
pub(crate) fn find(status: &Status, id: Option<&str>) -> Result<RunStatus> {
    let fits = |run: &&RunStatus| id.is_none_or(|id| run.run.starts_with(id) || run.name == id);
    let found: Vec<&RunStatus> = status.runs.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => bail!("no such run; `talkoo train ls` lists them"),
        _ => bail!(
            "several runs fit; name one of: {}",
            found.iter().map(|r| base::short(&r.run)).collect::<Vec<_>>().join(", ")
        ),
    }
}
