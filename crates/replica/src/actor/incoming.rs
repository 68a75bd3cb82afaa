//! What other nodes send to a desk.

use super::{ASK_AGAIN, Actor, GIVEN_BYTES_MAX, GIVEN_MAX, Wait};
use crate::wires::Packet;
use base::{Hash, NodeId, Reject, Wire};
use chain::{BLOCK_BYTES_MAX, Block, CERTIFICATE_MAX, Tx, certified};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Blocks that a validator is given in a second, in bytes: enough to catch up, not enough to fill the link of who
/// answers. Each answer counts as a page at least, for it is a read of the disk.
const BLOCKS_PER_SECOND: usize = 4 * BLOCK_BYTES_MAX;
const ANSWER_MIN: usize = 4096;
/// Certificates of a validator that are checked in a second: each is up to 64 signatures, and an honest one sends one
/// for each epoch that this one lacks.
const FINALS_PER_SECOND: usize = 16;
/// Blocks that are offered at once, in bytes: they are in memory until their certificate is judged.
const OFFER_BYTES_MAX: usize = 16 * BLOCK_BYTES_MAX;

/// What one validator had of this one in the second that began then, by a clock that nobody sets back.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    began: Option<Instant>,
    had: usize,
}

impl Allowance {
    /// Whether it had less than `most` in this second.
    fn is_open(&mut self, now: Instant, most: usize) -> bool {
        if self.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            *self = Self { began: Some(now), had: 0 };
        }
        self.had < most
    }

    fn take(&mut self, n: usize) {
        self.had = self.had.saturating_add(n);
    }
}

/// Asserts that blocks follow each other, and that neither they nor all together are too long.
fn linked(blocks: &[Block]) -> Result<(), Reject> {
    let mut all = 0usize;
    for block in blocks {
        let length = block.to_bytes().len();
        all = all.saturating_add(length);
        if length > BLOCK_BYTES_MAX || all > OFFER_BYTES_MAX {
            return Err(Reject::Oversized);
        }
    }
    let follows = |one: &Block, next: &Block| {
        one.header.height.checked_add(1) == Some(next.header.height) && next.header.parent == one.hash()
    };
    if blocks.windows(2).all(|two| follows(&two[0], &two[1])) { Ok(()) } else { Err(Reject::OutOfOrder) }
}

impl Actor {
    pub(super) fn packet(&mut self, from: NodeId, packet: Packet) {
        let now = Instant::now();
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
                if !self.work.blocks.entry(from).or_default().is_open(now, BLOCKS_PER_SECOND) {
                    return self.count(Reject::TooMany);
                }
                let known = self.look(|orderer| orderer.block(&hash).map(Wire::to_bytes));
                let known = known.or_else(|| self.final_block(&hash));
                let length = known.as_ref().map_or(0, Vec::len);
                self.work.blocks.entry(from).or_default().take(length.max(ANSWER_MIN));
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
                let had = self.work.blocks.entry(from).or_default();
                if !had.is_open(now, BLOCKS_PER_SECOND) {
                    return self.count(Reject::TooMany);
                }
                had.take(CERTIFICATE_MAX);
                if let Ok(Some(step)) = self.disk.end(epoch) {
                    let _ = self.out.send((vec![from], Packet::Final(step.certificate)));
                }
            }
            Packet::Final(certificate) => {
                let finals = self.work.finals.entry(from).or_default();
                if !finals.is_open(now, FINALS_PER_SECOND) {
                    return self.count(Reject::TooMany);
                }
                finals.take(1);
                let epoch = self.look(|orderer| orderer.state().epoch().clone());
                match certified(&self.chain, epoch.number, &epoch.set, &certificate) {
                    Ok(block) => self.work.await_final(block, certificate),
                    Err(reject) => self.count(reject),
                }
            }
        }
    }

    /// A validator that votes in an earlier epoch is told how it ended; one in a later epoch is asked.
    fn other_epoch(&mut self, from: NodeId, theirs: u64, now: Instant) {
        let recently = self.work.told.get(&from).is_some_and(|at| now.duration_since(*at) < ASK_AGAIN);
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

    /// Takes final blocks of another node, if the certificate for the last one is what it says. The others lie on the
    /// way to it: nothing else is kept.
    pub(super) fn offer(&mut self, blocks: Vec<Block>, certificate: &[u8]) -> Result<(), Reject> {
        let last = blocks.last().ok_or(Reject::WrongShape)?.hash();
        linked(&blocks)?;
        let epoch = self.look(|orderer| orderer.state().epoch().clone());
        if certified(&self.chain, epoch.number, &epoch.set, certificate)? != last {
            return Err(Reject::WrongHash);
        }
        self.look(|orderer| {
            let height = orderer.state().height();
            let mut new = blocks.into_iter().filter(|block| block.header.height > height).peekable();
            // One that leads to nothing here would only lie about.
            let leads = |parent: &Hash| *parent == orderer.state().tip() || orderer.block(parent).is_some();
            if new.peek().is_some_and(|first| !leads(&first.header.parent)) {
                return Err(Reject::NotHeld);
            }
            for block in new {
                orderer.body(block);
            }
            Ok(())
        })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_lasts_a_second() {
        let (mut allowance, begun) = (Allowance::default(), Instant::now());
        assert!(allowance.is_open(begun, 2));
        allowance.take(2);
        assert!(!allowance.is_open(begun + Duration::from_millis(999), 2));
        assert!(allowance.is_open(begun + Duration::from_secs(1), 2));
    }
}
