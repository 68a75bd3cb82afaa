//! Answers to other processes of the same owner, which ask by [`ControlRequest`].

use crate::Node;
use crate::request::{ControlRequest, short};
use anyhow::{Context, Result, bail, ensure};
use base::Wire;
use ledger::{Credits, WalletTx};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use swarm::Spec;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// A request is at most this long.
const LINE_MAX: u64 = 1 << 20;

/// Where requests of a data folder arrive.
pub(crate) fn listen(dir: &Path) -> Result<UnixListener> {
    let (path, _folder) = short(dir)?;
    // The folder is locked: a socket that is there is left over from a process that was killed.
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).with_context(|| path.display().to_string())
}

/// Answers until `stop`.
pub(crate) async fn serve(node: Arc<Node>, listener: UnixListener, stop: CancellationToken) -> Result<()> {
    let (path, _folder) = short(node.shared.store.dir())?;
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted?.0,
        };
        let node = node.clone();
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            if BufReader::new(read.take(LINE_MAX)).read_line(&mut line).await.is_err() {
                return;
            }
            let answered = match serde_json::from_str(&line).context("not a request") {
                #[cfg(feature = "serve")]
                Ok(ControlRequest::Ask { ask }) => match crate::market::answer(&node, &ask, &mut write).await {
                    Ok(()) => return,
                    Err(error) => Err(error),
                },
                Ok(request) => answer(&node, request).await,
                Err(error) => Err(error),
            };
            let answer = answered.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
            let _ = write.write_all(format!("{answer}\n").as_bytes()).await;
        });
    }
    let _ = std::fs::remove_file(path);
    Ok(())
}

async fn answer(node: &Arc<Node>, request: ControlRequest) -> Result<Value> {
    match request {
        ControlRequest::Status => Ok(serde_json::to_value(node.status())?),
        ControlRequest::Create { spec, corpus, model, budget_micro } => {
            let spec = Spec::from_bytes(&base::from_hex(&spec)?)?;
            let theta = model.map(|dir| model::load(&dir)).transpose()?.map(|(_, theta)| theta);
            let ticket = node.create(spec, &corpus, theta, Credits(budget_micro)).await?;
            Ok(json!({ "run": ticket.run.to_string(), "ticket": ticket.to_string() }))
        }
        ControlRequest::Join { ticket } => {
            let ticket: net::Ticket = ticket.parse()?;
            let run = ticket.run;
            node.join(ticket).await?;
            Ok(json!({ "run": run.to_string() }))
        }
        ControlRequest::Leave { run } => {
            node.leave(run.parse()?).await?;
            Ok(json!({ "left": run }))
        }
        ControlRequest::Ping { peer } => {
            let peer = known(node, &peer)?;
            let ways: Vec<Value> = node.ping(peer).await?.iter().map(way_json).collect();
            let last = ways.last().cloned().unwrap_or_default();
            Ok(json!({
                "peer": peer.to_string(),
                "rtt_ms": last["rtt_ms"],
                "direct": last["direct"],
                "address": last["address"],
                "ways": ways,
            }))
        }
        ControlRequest::Networks => Ok(serde_json::to_value(node.networks())?),
        ControlRequest::Chain { network } => Ok(serde_json::to_value(node.chain(network.as_deref())?)?),
        ControlRequest::Block { network, height } => Ok(serde_json::to_value(node.block(network.as_deref(), height)?)?),
        ControlRequest::Transaction { network, hash } => {
            let (height, tx) = node.transaction(network.as_deref(), &hash)?;
            let mut value = serde_json::to_value(tx)?;
            value["height"] = height.into();
            Ok(value)
        }
        ControlRequest::Account { network, key } => {
            let key = own_or_known(node, key)?;
            Ok(serde_json::to_value(node.account(network.as_deref(), &key)?)?)
        }
        ControlRequest::History { network, key, count } => {
            let key = own_or_known(node, key)?;
            Ok(serde_json::to_value(node.history(network.as_deref(), &key, count)?)?)
        }
        ControlRequest::Prove { network, key } => {
            let key = own_or_known(node, key)?;
            let proof = node.prove(network.as_deref(), &key).await?;
            Ok(json!({ "proof": base::to_hex(&proof.to_bytes()) }))
        }
        ControlRequest::Next { network, key } => {
            let (chain, nonce) = node.next_of(network.as_deref(), &key.parse()?)?;
            let fee = node.fee(network.as_deref())?;
            Ok(json!({ "chain": chain.to_string(), "nonce": nonce, "fee_micro": fee.0 }))
        }
        ControlRequest::Allotments { network } => {
            let kept = node.picked(network.as_deref())?;
            let account = kept.keeper.look(|orderer| orderer.state().money().account(&node.id()).cloned());
            let account = account.unwrap_or_default();
            let line = |(provider, allotment): (&base::NodeId, &ledger::Allotment)| {
                json!({
                    "provider": provider.to_string(), "paid_micro": allotment.paid.0, "left_micro": allotment.left.0,
                    "closes_ms": allotment.closing.map(|at| at.0),
                })
            };
            let lines: Vec<Value> = account.allotments.iter().map(line).collect();
            Ok(json!({ "providers": lines, "deposit_micro": account.deposit.0 }))
        }
        ControlRequest::Submit { network, tx } => {
            let tx = chain::Tx::from_bytes(&base::from_hex(&tx)?)?;
            let height = node.say(network.as_deref(), &tx).await?;
            Ok(json!({ "final_at": height, "tx": tx.hash().to_string() }))
        }
        ControlRequest::Spend { network, tx } => {
            let tx = WalletTx::from_bytes(&base::from_hex(&tx)?)?;
            #[cfg(feature = "serve")]
            let closed = if let WalletTx::Close { payee } = &tx { Some(*payee) } else { None };
            let (height, hash) = node.spend_named(network.as_deref(), tx).await?;
            #[cfg(feature = "serve")]
            note_closed(node, network.as_deref(), closed)?;
            let fee = node.fee(network.as_deref())?;
            Ok(json!({ "final_at": height, "tx": hash.to_string(), "fee_micro": fee.0 }))
        }
        ControlRequest::TakeSeat => Ok(json!({ "final_at": node.take_seat().await? })),
        ControlRequest::LeaveSeat => Ok(json!({ "final_at": node.leave_seat().await? })),
        ControlRequest::Admit { run, share_permille } => {
            let height = node.admit(run.parse()?, share_permille).await?;
            Ok(json!({ "final_at": height, "run": run, "share_permille": share_permille }))
        }
        #[cfg(feature = "serve")]
        ControlRequest::ShareModels => {
            let shared = node.share_models()?;
            let shown = |(model, ticket): &(serving::Model, serving::ModelTicket)| json!({ "name": model.name, "hash": model.hash, "ticket": ticket.to_string() });
            Ok(json!({ "shared": shared.iter().map(shown).collect::<Vec<_>>() }))
        }
        #[cfg(feature = "serve")]
        ControlRequest::Models => {
            let trade = node.in_market()?;
            let names: Vec<String> = trade.models().into_iter().map(|card| card.name).collect();
            Ok(json!({ "models": names, "unloaded": trade.unloaded() }))
        }
        #[cfg(feature = "serve")]
        ControlRequest::Enter { ticket } => {
            node.in_market()?.join(&ticket.parse()?)?;
            Ok(json!({ "entered": true }))
        }
        #[cfg(feature = "serve")]
        ControlRequest::Ask { .. } => bail!("its answer comes word by word"),
        #[cfg(not(feature = "serve"))]
        ControlRequest::ShareModels
        | ControlRequest::Models
        | ControlRequest::Enter { .. }
        | ControlRequest::Ask { .. } => {
            bail!("this talkoo was built without serving")
        }
        ControlRequest::Panel => Ok(serde_json::to_value(node.panel())?),
        ControlRequest::Pause { minutes } => {
            node.pause(minutes)?;
            activity(node)
        }
        ControlRequest::Resume => {
            node.resume()?;
            activity(node)
        }
        ControlRequest::Finish => {
            node.finish()?;
            activity(node)
        }
        ControlRequest::Busy => Ok(json!({ "busy": node.busy() })),
        ControlRequest::Stop => {
            node.stop.cancel();
            Ok(json!({ "stopping": true }))
        }
        ControlRequest::Update { next, check } => {
            // Those that `talkoo up` and `talkoo serve` began show themselves, and go on.
            ensure!(node.is_shown(), "this node ends with its command; it cannot go on as another program");
            next.check()?;
            if !check {
                ensure!(node.next.set(next).is_ok(), "it ends already for another program");
                node.stop.cancel();
            }
            Ok(json!({ "stopping": !check }))
        }
    }
}

/// The budget gets back what an allotment had that its owner closed.
#[cfg(feature = "serve")]
fn note_closed(node: &Node, network: Option<&str>, closed: Option<base::NodeId>) -> Result<()> {
    if let (Some(payee), Ok(trade)) = (closed, node.in_market()) {
        trade.note_closed(&node.pick(network)?.chain(), &payee);
    }
    Ok(())
}

fn activity(node: &Node) -> Result<Value> {
    Ok(serde_json::to_value(node.idling().map(|idling| idling.activity()))?)
}

fn own_or_known(node: &Node, key: Option<String>) -> Result<base::NodeId> {
    key.map_or(Ok(node.id()), |key| known(node, &key))
}

fn way_json(way: &net::PeerInfo) -> Value {
    json!({ "rtt_ms": way.rtt.as_secs_f64() * 1e3, "direct": way.direct, "address": way.address })
}

/// A peer by its whole key, or by the beginning of that of a member of a run.
fn known(node: &Node, text: &str) -> Result<base::NodeId> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let status = node.status();
    let members = status.runs.iter().flat_map(|run| &run.members).map(|member| &member.node);
    let mut found: Vec<&String> = members.filter(|key| !text.is_empty() && key.starts_with(text)).collect();
    found.sort();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(one.parse()?),
        [] => anyhow::bail!("no member's key begins with `{text}`; `talkoo peer ls` shows them"),
        _ => anyhow::bail!("several keys begin with `{text}`; give more of it"),
    }
}
