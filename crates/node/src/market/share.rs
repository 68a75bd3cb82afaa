//! A node gives its published models to peers, and tells those who look for them that it has them.

use crate::Node;
use anyhow::Result;
use base::{Hash, NodeId};
use net::{Address, Topic};
use serving::{MODEL_HERE, Model, ModelTicket, Models, Wanted, model_topic};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// What a node tells in the topic of each model that it has shared since it began.
#[derive(Default)]
pub(crate) struct Shares(std::sync::Mutex<BTreeMap<Hash, watch::Sender<Option<Vec<u8>>>>>);

/// Others whom a ticket names.
const TOLD: usize = 3;

impl Node {
    /// Gives those models to peers that are published now, and no others; says which these are.
    pub fn share_models(&self) -> Result<Vec<(Model, ModelTicket)>> {
        let models = Models::of(self.shared.store.dir());
        let mut out = Vec::new();
        let mut shares = self.shares.0.lock().expect("nobody panics while holding it");
        let published: Vec<Model> = models.all()?.into_iter().filter(|model| model.published).collect();
        for (hash, words) in shares.iter() {
            if published.iter().all(|model| model.hash != *hash) {
                self.shared.contents.remove(hash);
                words.send_replace(None);
            }
        }
        for model in published {
            let before: Vec<Address> = match model.ticket.as_deref().map(str::parse) {
                Some(Ok(Wanted::Ticket(ticket))) => ticket.peers,
                _ => Vec::new(),
            };
            let tree = match models.tree(&model) {
                Ok(tree) => tree,
                Err(error) => {
                    tracing::warn!(%error, model = model.name, "it is not given to peers");
                    continue;
                }
            };
            self.shared.contents.add_file(None, models.path(&model), tree);
            let words = shares.entry(model.hash).or_insert_with(|| {
                let (sender, words) = watch::channel(None);
                before.iter().for_each(|address| self.shared.net.know(address));
                let others: Vec<NodeId> = before.iter().map(|address| address.node).collect();
                self.shared.net.speak(Topic { topic: model_topic(&model.hash), words, hear: Arc::new(()) }, &others);
                sender
            });
            words.send_replace(Some(MODEL_HERE.to_vec()));
            let ticket = ModelTicket {
                name: model.name.clone(),
                hash: model.hash,
                bytes: model.bytes,
                hub: model.hub.clone(),
                peers: std::iter::once(self.address()).chain(before.into_iter().take(TOLD)).collect(),
            };
            out.push((model, ticket));
        }
        Ok(out)
    }
}
