//! What a node proves of a chain to others: accounts, and snapshots to begin from.

use super::Kept;
use crate::disk::Disk;
use anyhow::{Context, Result, bail};
use base::{NodeId, Wire};
use bytes::Bytes;
use chain::{AccountProof, Block, RootProof, Snapshot, Step};
use std::time::{Duration, Instant};

/// A snapshot is given out for so long: blocks lead on from it.
const MADE_FOR: Duration = Duration::from_secs(20);

/// A snapshot for who begins at a block, the height of its state, and when it was made.
pub(super) struct Made {
    anchor: Option<u64>,
    height: u64,
    at: Instant,
    bytes: Bytes,
}

impl Kept {
    fn header(&self, height: u64) -> Result<chain::Header> {
        let bytes = self.store.block(height)?.with_context(|| format!("block {height} is not kept here"))?;
        Ok(Block::from_bytes(&bytes)?.header)
    }

    /// Waits for the block that certifies the state at `height`, and gathers what proves it from the epoch `since` on.
    async fn root_proof(&self, height: u64, since: u64) -> Result<RootProof> {
        self.keeper.height().wait_for(|newest| *newest > height).await?;
        tokio::task::block_in_place(|| {
            let newest = *self.keeper.height().borrow();
            let mut between = Vec::new();
            for at in height + 1..=newest {
                let header = self.header(at)?;
                let Some(certificate) = self.store.certificate(at)? else {
                    between.push(header);
                    continue;
                };
                let mut steps = Vec::new();
                for epoch in since..header.epoch {
                    steps.push(
                        self.store.end(epoch)?.with_context(|| format!("the end of epoch {epoch} is not kept here"))?,
                    );
                }
                steps.push(Step { header, certificate });
                return Ok(RootProof { between, steps });
            }
            bail!("the newest block has no certificate yet; try again")
        })
    }

    /// Proves what `owner` holds: waits for the next block, which certifies it.
    pub async fn prove(&self, owner: &NodeId) -> Result<AccountProof> {
        let mut proof = self.keeper.look(|orderer| orderer.prove(owner));
        proof.root = self.root_proof(proof.height, 0).await?;
        Ok(proof)
    }

    /// The same for several that ask: the same one for a while.
    pub async fn snapshot_bytes(&self, anchor: Option<u64>) -> Result<(u64, Bytes)> {
        let held = || self.made.lock().expect("nobody panics while holding it");
        if let Some(last) = held().as_ref().filter(|last| last.anchor == anchor && last.at.elapsed() < MADE_FOR) {
            return Ok((last.height, last.bytes.clone()));
        }
        let _turn = self.making.acquire().await?;
        let (height, snapshot) = self.snapshot(anchor).await?;
        let bytes = Bytes::from(snapshot.to_bytes());
        *held() = Some(Made { anchor, height, at: Instant::now(), bytes: bytes.clone() });
        Ok((height, bytes))
    }

    /// The state now, for who begins at the block `anchor`.
    async fn snapshot(&self, anchor: Option<u64>) -> Result<(u64, Snapshot)> {
        let genesis = self.network.genesis.clone();
        let begin = |height| -> Result<_> {
            let header = self.header(height)?;
            let set = match (&header.next, header.epoch.checked_sub(1)) {
                (Some(next), _) => next.clone(),
                (None, Some(before)) => self.store.end(before)?.and_then(|step| step.header.next).unwrap_or_default(),
                (None, None) => chain::first_set(&genesis),
            };
            Ok((header, set))
        };
        let anchor = anchor.filter(|height| *height > 0).map(begin).transpose()?;
        let since = anchor.as_ref().map_or(0, |(header, _)| header.epoch);
        let (height, state) = self.keeper.look(|orderer| (orderer.state().height(), orderer.state().to_snapshot()));
        let proof = self.root_proof(height, since).await?;
        Ok((height, Snapshot { genesis, anchor, state, proof }))
    }
}
