//! A model comes from peers first, many at a time, then from the hub that it once came from.

use super::hub::Hub;
use super::ticket::{HERE, PEERS_MAX, Wanted, topic};
use super::{Doing, Model, ModelTicket, Models, Origin, Progress, Told, valid_name};
use anyhow::{Result, bail, ensure};
use base::{CHUNK_BYTES, NodeId};
use host::DiskBudget;
use net::{Net, Topic};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Others who have a model say so within this; one of a few chunks is fetched before that.
const OTHERS_WITHIN: Duration = Duration::from_secs(2);
const FEW: u64 = 16;

/// Who has a model, as they say.
#[derive(Clone)]
struct Holders(watch::Sender<BTreeSet<NodeId>>);

impl net::Hears for Holders {
    fn hear(&self, by: NodeId, words: &[u8]) {
        self.0.send_if_modified(|holders| {
            if words == HERE { holders.len() < PEERS_MAX && holders.insert(by) } else { holders.remove(&by) }
        });
    }
}

/// Fetches a model into `models`, unless it is there; what an interrupted transfer left is gone on with. `network` is how
/// peers are reached; its key is not used, so a node on the same data folder may run meanwhile.
pub async fn pull(
    models: &Models,
    wanted: &Wanted,
    name: Option<&str>,
    (network, budget): (&net::NetConfig, &DiskBudget),
    told: Told<'_>,
) -> Result<Model> {
    match wanted {
        Wanted::Hub(wanted) => {
            let hub = Hub::from_env()?;
            let promised = hub.find(wanted).await?;
            let known = models.all()?.into_iter().find(|model| model.sha256 == promised.sha256);
            match known {
                Some(known) => Ok(known),
                None => from_hub(models, &hub, promised, name, None, (budget, told)).await,
            }
        }
        Wanted::Ticket(ticket) => {
            if let Some(known) = models.all()?.into_iter().find(|model| model.hash == ticket.hash) {
                return Ok(known);
            }
            let peers = from_peers(models, ticket, name, (network, budget), told).await;
            match (peers, &ticket.hub) {
                (Err(error), Some(file)) => {
                    tracing::warn!(%error, %file, "no peer has all of it; it is fetched from its hub");
                    let hub = Hub::from_env()?;
                    let promised = hub.promised(file).await?;
                    let named = name.or(Some(&ticket.name));
                    let model = from_hub(models, &hub, promised, named, Some(ticket), (budget, told)).await?;
                    models.forget_arriving(&ticket.hash.to_string());
                    Ok(model)
                }
                (peers, _) => peers,
            }
        }
    }
}

async fn from_hub(
    models: &Models,
    hub: &Hub,
    promised: super::hub::Promised,
    name: Option<&str>,
    ticket: Option<&ModelTicket>,
    (budget, told): (&DiskBudget, Told<'_>),
) -> Result<Model> {
    let name = name.map_or_else(|| promised.file.name(), valid_name)?;
    models.free(&name)?;
    budget.ensure(promised.bytes)?;
    let mut arriving = models.arriving(&promised.sha256)?;
    hub.fetch(&promised, &mut arriving, told).await?;
    let right = |model: &Model| {
        let same = model.sha256 == promised.sha256;
        ensure!(same, "{} is not what the hub says of it: it was thrown away", promised.file);
        let meant = ticket.is_none_or(|ticket| ticket.hash == model.hash);
        ensure!(meant, "the file on the hub is another one than the ticket says: it was thrown away");
        Ok(())
    };
    let origin = Origin { hub: Some(promised.file.clone()), ticket: ticket.map(ModelTicket::to_string) };
    tokio::task::block_in_place(|| models.settle(arriving, &name, origin, right, told))
}

async fn from_peers(
    models: &Models,
    ticket: &ModelTicket,
    name: Option<&str>,
    (network, budget): (&net::NetConfig, &DiskBudget),
    told: Told<'_>,
) -> Result<Model> {
    let name = name.map_or_else(|| Ok(ticket.name.clone()), valid_name)?;
    models.free(&name)?;
    budget.ensure(ticket.bytes)?;
    let arriving = models.arriving(&ticket.hash.to_string())?;
    let secret = host::random_secret()?;
    let bind = std::net::SocketAddr::new(network.bind.ip(), 0);
    let config = net::NetConfig { secret, bind, ..network.clone() };
    let net = Net::open(config, Arc::new(()), None, None).await?;
    let fetched = fetch(&net, ticket, &arriving, told).await;
    net.close().await;
    fetched?;
    let right = |model: &Model| {
        ensure!(model.hash == ticket.hash, "what arrived is not what the ticket names");
        Ok(())
    };
    let origin = Origin { hub: ticket.hub.clone(), ticket: Some(ticket.to_string()) };
    tokio::task::block_in_place(|| models.settle(arriving, &name, origin, right, told))
}

async fn fetch(net: &Net, ticket: &ModelTicket, arriving: &super::Arriving, told: Told<'_>) -> Result<()> {
    ticket.peers.iter().for_each(|address| net.know(address));
    let named: BTreeSet<NodeId> = ticket.peers.iter().map(|address| address.node).collect();
    let (holders, mut heard) = watch::channel(named.clone());
    let (_words, words) = watch::channel(None);
    let begin: Vec<NodeId> = named.iter().copied().collect();
    net.speak(Topic { topic: topic(&ticket.hash), words, hear: Arc::new(Holders(holders)) }, &begin);
    if ticket.bytes > FEW * CHUNK_BYTES as u64 {
        // All that say so within this time, not the first one: they bring it together.
        let _ = tokio::time::timeout(OTHERS_WITHIN, heard.wait_for(|holders| holders.len() >= PEERS_MAX)).await;
    }
    let mut file = arriving.file.try_clone()?;
    let mut tried = BTreeSet::new();
    loop {
        let sources: Vec<NodeId> = heard.borrow_and_update().iter().copied().collect();
        tried.extend(sources.iter().copied());
        let of = ticket.bytes;
        let progress = |moved: usize, all: usize| {
            let done = of.saturating_sub(((all - moved.min(all)) * CHUNK_BYTES) as u64);
            told(Progress { what: Doing::Peers(sources.len()), done, of });
        };
        match net.fetch(ticket.hash, ticket.bytes, &sources, file, &progress).await {
            Ok(_) => return Ok(()),
            Err(error) if error.disk.is_some() => bail!("{error}"),
            Err(error) => {
                let others = heard.wait_for(|holders| holders.iter().any(|holder| !tried.contains(holder)));
                if tokio::time::timeout(OTHERS_WITHIN, others).await.is_err() {
                    bail!("{error}; what came is kept: run this again when one of them is there");
                }
                file = error.partial;
            }
        }
    }
}
