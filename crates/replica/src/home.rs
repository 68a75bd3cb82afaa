//! The chain at home.

use crate::log::ChainLog;
use crate::network::{NetworkFile, SEAT_FILE, private};
use crate::own::Owned;
use crate::paths::secret;
use anyhow::{Context, Result, ensure};
use base::NodeId;
use host::DataFolder;
use std::sync::Arc;

/// The chain that a node keeps at home: made on first use, with the first credits for the first of its owner's `accounts`,
/// which is the node's own. `device` is what computes on this machine.
pub fn home(data: &DataFolder, accounts: Vec<NodeId>, device: String) -> Result<ChainLog> {
    let network = match NetworkFile::of(data.dir())? {
        Some(network) => network,
        None => {
            let owner = *accounts.first().context("a node has an account of its own")?;
            let network = private(owner, secret(data, SEAT_FILE)?.id());
            network.put(data)?;
            network
        }
    };
    ensure!(
        !network.is_earlier(data.dir()),
        "this folder's chain is of an earlier version: networks begin anew; move {} away",
        data.dir().display()
    );
    ChainLog::home(data, network, Arc::new(Owned { accounts, device }))
}
