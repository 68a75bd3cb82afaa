//! What the driver of runs writes down before it says anything: what a machine remembers, and running numbers.

use crate::driver::Driver;
use anyhow::{Result, ensure};
use base::Signed;
use std::time::Duration;
use swarm::{DOMAIN, Output, RunId, WorkEnvelope, WorkTx};

/// A disk that takes nothing is tried again after so long.
const DISK_AGAIN: Duration = Duration::from_secs(1);
/// What machines asked for may wait for the disk, for some hours of blocks; more ends the driver.
const WAITING_MAX: usize = 100_000;
/// Running numbers reserved on disk at a time.
const SEQ_BATCH: u64 = 10_000;
/// How trouble with the disk begins.
const TROUBLE: &str = "the disk takes nothing, so this node waits";

impl Driver {
    /// Carries out what machines asked for, in order. What has to be remembered is on disk before anything after it is said
    /// or done: a disk that is full gets room again, and until then all of it waits.
    pub(crate) fn carry_on(&mut self) -> Result<()> {
        while let Some(output) = self.waiting.pop_front() {
            tracing::debug!(output = output.name(), "asked for");
            let Output::Remember(run, memory) = output else {
                self.carry_out(output)?;
                continue;
            };
            let written = self.shared.store.remember(&run, &memory);
            if let Some(run) = self.runs.get_mut(&run) {
                let waited = run.trouble.as_ref().is_some_and(|text| text.starts_with(TROUBLE));
                match &written {
                    Ok(()) if waited => run.trouble = None,
                    Ok(()) => {}
                    Err(error) => {
                        if !waited {
                            tracing::error!(error = format!("{error:#}"), "the disk takes nothing; trying again");
                        }
                        run.trouble = Some(format!("{TROUBLE}: {error:#}"));
                    }
                }
            }
            if written.is_err() {
                self.waiting.push_front(Output::Remember(run, memory));
                ensure!(self.waiting.len() < WAITING_MAX, "the disk took nothing for too long");
                self.wake_in(DISK_AGAIN);
                break;
            }
        }
        Ok(())
    }

    /// Nothing is remembered of a run that was left.
    pub(crate) fn forget_waiting(&mut self, left: &RunId) {
        self.waiting.retain(|output| !matches!(output, Output::Remember(run, _) if run == left));
    }

    pub(crate) fn submit(&mut self, tx: WorkTx) -> Result<()> {
        let seq = match self.seqs.next() {
            Some(seq) => seq,
            None => {
                // A database that failed to write is of no use until it is opened again: that ends the node.
                let first = self.shared.store.reserve(SEQ_BATCH)?;
                self.seqs = first + 1..first + SEQ_BATCH;
                first
            }
        };
        let state = self.peer.state();
        let (chain, bits, me) = (state.chain, state.work_bits, self.shared.key.id());
        let envelope = tokio::task::block_in_place(|| WorkEnvelope::new(chain, bits, &me, seq, tx));
        let tx = Signed::new(DOMAIN, &self.shared.key, envelope);
        // A full queue is a log that does not keep up; the machine says it again later.
        let _ = self.to_log.try_send(tx);
        Ok(())
    }
}
