//! Where a follower's transactions go: to several nodes at once, and the owner's again and again until a final block
//! has them. One node alone could swallow them.

use base::{Hash, NodeId, Reject, Rng};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// What is not in a block after so long is submitted again.
pub(crate) const AGAIN: Duration = Duration::from_secs(5);
/// These are others after so long.
pub(crate) const LINK_FOR: Duration = Duration::from_secs(60);
/// Transactions of others that were passed on of late; more than these are refused.
const PASSED_MAX: usize = 4096;
/// Of one signer: as many as validators let wait.
const SIGNER_MAX: usize = 64;
/// Of one node, which may pass on those of many signers: keys cost nothing, connections something.
const FROM_MAX: usize = 512;

/// Ways to nodes that take transactions.
#[derive(Default)]
pub(crate) struct Outlets {
    inner: Mutex<Inner>,
    /// Told when there is a new way.
    pub(crate) opened: Notify,
}

#[derive(Default)]
struct Inner {
    ways: BTreeMap<u64, mpsc::Sender<Vec<u8>>>,
    next: u64,
    /// Transactions of others that went on of late: in a circle of followers they do not run round.
    passed: BTreeMap<Hash, Passed>,
}

struct Passed {
    at: Instant,
    by: Source,
}

/// Whose transaction it is, and which node brought it, if it was another one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) signer: NodeId,
    pub(crate) from: Option<NodeId>,
}

/// An open way; it is closed when this is dropped.
pub(crate) struct Outlet<'a> {
    outlets: &'a Outlets,
    id: u64,
}

impl Outlets {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding it")
    }

    /// Transactions go this way, too, until what is returned is dropped.
    pub(crate) fn open(&self, way: mpsc::Sender<Vec<u8>>) -> Outlet<'_> {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        inner.ways.insert(id, way);
        drop(inner);
        self.opened.notify_one();
        Outlet { outlets: self, id }
    }

    /// Sends a transaction every way; how many have room.
    pub(crate) fn send(&self, tx: &[u8]) -> usize {
        let ways: Vec<_> = self.lock().ways.values().cloned().collect();
        ways.iter().filter(|way| way.try_send(tx.to_vec()).is_ok()).count()
    }

    /// Sends a transaction of others every way, unless it just went. Nobody takes the room of all.
    pub(crate) fn pass_on(&self, tx: &[u8], by: Source) -> Result<(), Reject> {
        let (hash, now) = (net::submitted(tx), Instant::now());
        {
            let mut inner = self.lock();
            inner.passed.retain(|_, passed| now.duration_since(passed.at) < AGAIN);
            if inner.passed.contains_key(&hash) {
                return Ok(());
            }
            let others = || inner.passed.values().map(|passed| passed.by);
            if others().count() >= PASSED_MAX
                || others().filter(|other| other.signer == by.signer).count() >= SIGNER_MAX
                || by.from.is_some() && others().filter(|other| other.from == by.from).count() >= FROM_MAX
            {
                return Err(Reject::TooMany);
            }
            // Nobody to give it to: who submitted it submits it again.
            if inner.ways.is_empty() {
                return Err(Reject::NotHeld);
            }
            inner.passed.insert(hash, Passed { at: now, by });
        }
        if self.send(tx) > 0 {
            return Ok(());
        }
        self.lock().passed.remove(&hash);
        Err(Reject::TooMany)
    }

    /// Whether something of others went on of late.
    pub(crate) fn passes(&self) -> bool {
        self.lock().passed.values().any(|passed| passed.at.elapsed() < LINK_FOR)
    }
}

impl Drop for Outlet<'_> {
    fn drop(&mut self) {
        self.outlets.lock().ways.remove(&self.id);
    }
}

/// Puts nodes into an order that nobody can foresee.
pub(crate) fn shuffle(nodes: &mut [NodeId]) {
    // Without entropy the order is a fixed one, which is what a wrong guess costs here.
    let seed = host::random_secret().unwrap_or_default();
    let mut rng = Rng::new(Hash::of("talkoo 2026 order of sources v1", &seed).seed());
    for i in (1..nodes.len()).rev() {
        nodes.swap(i, rng.below(i as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(signer: u16, from: u8) -> Source {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&signer.to_le_bytes());
        Source { signer: NodeId(key), from: Some(NodeId([from; 32])) }
    }

    #[test]
    fn neither_one_signer_nor_one_node_takes_the_room_of_all() {
        let outlets = Outlets::default();
        let (way, mut out) = mpsc::channel(PASSED_MAX);
        let _open = outlets.open(way);
        let pass = |i: usize, by: Source| outlets.pass_on(&i.to_le_bytes(), by);
        assert!((0..SIGNER_MAX).all(|i| pass(i, source(1, 1)).is_ok()));
        assert_eq!(pass(SIGNER_MAX, source(1, 2)), Err(Reject::TooMany), "wherever it brings them");
        assert!((SIGNER_MAX..FROM_MAX).all(|i| pass(i, source(2 + (i / SIGNER_MAX) as u16, 1)).is_ok()));
        assert_eq!(pass(FROM_MAX, source(99, 1)), Err(Reject::TooMany));
        assert_eq!(pass(FROM_MAX, source(99, 2)), Ok(()), "the others are heard");
        let own = Source { from: None, ..source(98, 1) };
        assert_eq!(pass(FROM_MAX + 1, own), Ok(()));
        assert_eq!(std::iter::from_fn(|| out.try_recv().ok()).count(), FROM_MAX + 2);
    }

    #[test]
    fn a_transaction_goes_to_every_node_and_runs_in_no_circle() {
        let outlets = Outlets::default();
        let pass = |tx: &[u8]| outlets.pass_on(tx, source(1, 1));
        assert_eq!(pass(b"tx"), Err(Reject::NotHeld));
        let (one, mut at_one) = mpsc::channel(4);
        let (two, mut at_two) = mpsc::channel(4);
        let first = outlets.open(one);
        let _second = outlets.open(two);
        assert_eq!(pass(b"tx"), Ok(()));
        assert_eq!((at_one.try_recv().ok(), at_two.try_recv().ok()), (Some(b"tx".to_vec()), Some(b"tx".to_vec())));
        assert_eq!(pass(b"tx"), Ok(()), "from the other side of the circle");
        assert!(at_two.try_recv().is_err(), "it went already");
        // A node that swallows it is not the only one that has it, and when it is left the other stays.
        drop(first);
        assert_eq!(outlets.send(b"own"), 1);
        assert_eq!(at_two.try_recv().ok(), Some(b"own".to_vec()));
        assert!(at_one.try_recv().is_err());
    }
}
