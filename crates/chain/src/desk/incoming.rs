//! What other nodes send to a desk.

use super::{ASK_AGAIN, Desk, GIVEN_BYTES_MAX, GIVEN_MAX, Wait};
use crate::block::{Block, Tx};
use crate::certificate::certified;
use crate::keeper::clock;
use crate::wires::Packet;
use base::{Hash, Millis, NodeId, Reject, Wire};
use std::collections::VecDeque;

impl Desk {
    pub(super) fn packet(&mut self, from: NodeId, packet: Packet) {
        let now = clock();
        self.work.heard.insert(from, now);
        match packet {
            Packet::Engine { channel, epoch, bytes } => match &self.work.place {
                Some(place) if place.epoch == epoch => place.inlet.take(&from, channel, epoch, bytes),
                _ => self.other_epoch(from, epoch, now),
            },
            Packet::Block(bytes) => match Block::from_bytes(&bytes) {
                Ok(block) => {
                    let hash = self.look(|orderer| orderer.body(block));
                    if self.work.wanted.remove(&hash) {
                        return;
                    }
                    let given = self.work.given.entry(from).or_default();
                    given.push_back((hash, bytes.len()));
                    let too_many = |given: &VecDeque<(Hash, usize)>| {
                        given.len() > GIVEN_MAX || given.iter().map(|(_, n)| n).sum::<usize>() > GIVEN_BYTES_MAX
                    };
                    let mut gone = Vec::new();
                    while too_many(given) {
                        gone.extend(given.pop_front());
                    }
                    self.look(|orderer| gone.iter().for_each(|(oldest, _)| orderer.forget(oldest)));
                }
                Err(_) => self.count(Reject::Malformed),
            },
            Packet::Ask(hash) => {
                let known = self.look(|orderer| orderer.block(&hash).map(Wire::to_bytes));
                let known = known.or_else(|| self.final_block(&hash));
                if let Some(bytes) = known {
                    let _ = self.out.send((vec![from], Packet::Block(bytes)));
                }
            }
            Packet::Tx(bytes) => {
                let tx = Tx::from_bytes(&bytes).map_err(|_| Reject::Malformed);
                if let Err(reject) = tx.and_then(|tx| self.look(|orderer| orderer.submit(tx))) {
                    self.count(reject);
                }
            }
            Packet::End(epoch) => {
                if let Ok(Some(step)) = self.disk.end(epoch) {
                    let _ = self.out.send((vec![from], Packet::Final(step.certificate)));
                }
            }
            Packet::Final(certificate) => {
                let epoch = self.look(|orderer| orderer.state().epoch().clone());
                match certified(&self.chain, epoch.number, &epoch.set, &certificate) {
                    Ok(block) => self.work.await_final(block, certificate),
                    Err(reject) => self.count(reject),
                }
            }
        }
    }

    /// A validator that votes in an earlier epoch is told how it ended; one in a later epoch is asked.
    fn other_epoch(&mut self, from: NodeId, theirs: u64, now: Millis) {
        let recently = self.work.told.get(&from).is_some_and(|at| now.since(*at) < ASK_AGAIN.as_millis() as u64);
        if recently {
            return;
        }
        self.work.told.insert(from, now);
        let ours = self.look(|orderer| orderer.state().epoch().number);
        let packet = match theirs.cmp(&ours) {
            std::cmp::Ordering::Less => {
                self.disk.end(theirs).ok().flatten().map(|step| Packet::Final(step.certificate))
            }
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Packet::End(ours)),
        };
        if let Some(packet) = packet {
            let _ = self.out.send((vec![from], packet));
        }
    }

    /// Takes final blocks of another node, if the certificate for the last one is what it says.
    pub(super) fn offer(&mut self, blocks: Vec<Block>, certificate: &[u8]) -> Result<(), Reject> {
        let last = blocks.last().ok_or(Reject::WrongShape)?.hash();
        let epoch = self.look(|orderer| orderer.state().epoch().clone());
        if certified(&self.chain, epoch.number, &epoch.set, certificate)? != last {
            return Err(Reject::WrongHash);
        }
        self.look(|orderer| {
            for block in blocks {
                orderer.body(block);
            }
        });
        match self.finish(&last, certificate) {
            Ok(()) => Ok(()),
            Err(Wait::Missing(_)) => Err(Reject::NotHeld),
            Err(Wait::Disk(_)) => Err(Reject::Full),
        }
    }

    /// A final block by its hash, for a validator that fell behind.
    fn final_block(&self, hash: &Hash) -> Option<Vec<u8>> {
        let height = self.look(|orderer| orderer.height_of(hash))?;
        self.disk.block(height).ok().flatten()
    }
}
