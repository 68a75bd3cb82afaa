//! What the driver of runs writes down before it says anything: what a machine remembers, and running numbers.

use crate::driver::Driver;
use crate::store::Store;
use anyhow::Result;
use base::{Signed, Wire};
use std::time::Duration;
use swarm::{DOMAIN, Envelope, Tx};

/// A disk that takes nothing is tried again after so long.
const DISK_AGAIN: Duration = Duration::from_secs(1);
/// Running numbers reserved on disk at a time.
const SEQ_BATCH: u64 = 10_000;

impl Driver {
    /// Writes down what has to be on disk before anything more is said or done. A disk that is full gets room again, and
    /// the others go on meanwhile: until then this waits.
    pub(crate) fn persist<T>(&mut self, write: impl Fn(&Store) -> Result<T>) -> Result<T> {
        let mut waited = false;
        loop {
            let error = match write(&self.shared.store) {
                Ok(done) => {
                    if waited {
                        self.runs.values_mut().for_each(|run| run.trouble = None);
                        self.show();
                    }
                    return Ok(done);
                }
                Err(error) if self.stop.is_cancelled() => return Err(error),
                Err(error) => error,
            };
            if !waited {
                tracing::error!(error = format!("{error:#}"), "the disk takes nothing; trying again");
            }
            waited = true;
            let text = format!("the disk takes nothing, so this node waits: {error:#}");
            self.runs.values_mut().for_each(|run| run.trouble = Some(text.clone()));
            self.show();
            tokio::task::block_in_place(|| std::thread::sleep(DISK_AGAIN));
        }
    }

    pub(crate) fn submit(&mut self, tx: Tx) -> Result<()> {
        let seq = match self.seqs.next() {
            Some(seq) => seq,
            None => {
                let first = self.persist(|store| store.reserve(SEQ_BATCH))?;
                self.seqs = first + 1..first + SEQ_BATCH;
                first
            }
        };
        let state = self.peer.state();
        let (chain, bits, me) = (state.chain, state.work_bits, self.shared.key.id());
        let envelope = tokio::task::block_in_place(|| Envelope::new(chain, bits, &me, seq, tx));
        let tx = Signed::new(DOMAIN, &self.shared.key, envelope);
        // A full queue is a log that does not keep up; the machine says it again later.
        let _ = self.to_log.try_send(chain::Tx::Work { tx }.to_bytes());
        Ok(())
    }
}
