//! The chain that this node keeps: a network of its own with one validator, made on first use. That is
//! its owner's own book-keeping; with four validators and more the same path is nobody's.

use crate::store::{Store, write_whole};
use anyhow::{Context, Result};
use base::{NodeId, Reject, Wire};
use bytes::Bytes;
use chain::{Connections, Disk, Genesis, Timing, Validator, ValidatorConfig};
use ledger::{Credits, Params};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What the owner of a new private network holds, so that the first question and the first run can be paid.
const FAUCET: Credits = Credits::whole(10_000);

/// The chain of this node.
pub(crate) struct ChainLog {
    store: Arc<Store>,
    validator: Validator,
}

impl ChainLog {
    /// Goes on with the chain on disk, or begins one whose first credits are `owner`'s.
    pub(crate) fn open(store: Arc<Store>, owner: NodeId) -> Result<Self> {
        let seat = store.secret("seat")?;
        let path = store.dir().join("genesis");
        let genesis = match std::fs::read(&path) {
            Ok(bytes) => Genesis::from_bytes(&bytes).with_context(|| format!("{} is damaged", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let genesis = private(owner, seat.id());
                write_whole(&path, &genesis.to_bytes(), true)?;
                genesis
            }
            Err(error) => return Err(error).context(path.display().to_string()),
        };
        // Alone there is nobody to talk to.
        let (out, _) = mpsc::unbounded_channel();
        let (_, incoming) = mpsc::channel(1);
        let timing = Timing::of(genesis.validators.len());
        let journal = store.dir().join("consensus");
        let config = ValidatorConfig { genesis, key: seat, journal, disk: store.clone(), timing };
        let validator = Validator::start(config, Connections { out, incoming })?;
        Ok(Self { store, validator })
    }

    /// Why the chain stands still, if it does.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.validator.trouble()
    }

    /// The chain itself.
    pub(crate) fn validator(&self) -> &Validator {
        &self.validator
    }
}

/// A network of one owner.
fn private(owner: NodeId, seat: NodeId) -> Genesis {
    Genesis {
        name: format!("private network of {}", owner.short()),
        time: chain::clock(),
        validators: vec![seat],
        opening: vec![(owner, FAUCET)],
        // Nothing can fail an audit where there are none, so nothing is locked.
        money: Params { locked_units: 0, ..Params::default() },
        per_pflop: Credits::whole(1),
    }
}

impl net::LogService for ChainLog {
    fn submit(&self, _from: NodeId, tx: Vec<u8>) -> Result<(), Reject> {
        self.validator.submit(&tx)
    }

    fn block(&self, height: u64) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send + '_>> {
        Box::pin(async move {
            let mut heights = self.validator.height();
            heights.wait_for(|newest| *newest >= height).await.ok()?;
            tokio::task::block_in_place(|| self.store.block(height)).ok().flatten().map(Bytes::from)
        })
    }
}
