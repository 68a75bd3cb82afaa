//! Transactions of the owner that no final block has settled yet. They are on disk and submitted until one does: a
//! restart, a source that loses them or a source that is left costs the wallet nothing.

use crate::chain_store::ChainStore;
use crate::refusals::refused;
use anyhow::Result;
use base::{Hash, NodeId, Reject, Wire};
use chain::{Block, Happened, State, Tx};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// As many as validators let wait of one signer.
const PENDING_MAX: usize = 64;
/// Dropped ones that are remembered, so that who asks for one again is warned.
const DROPPED_MAX: usize = 1024;

/// What is known of a submitted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// No block has it yet; what another node last refused it for.
    Waits(Option<Reject>),
    /// It is done, in the block of this height.
    Final(u64),
    /// Nobody has it, or its number was used for another one: it never has an effect.
    Refused(Reject),
    /// The chain refuses it now, by word of a final block or of this node. That uses no number, so whoever has the
    /// signed bytes may bring it later. Its number is free for the next one, of which only one of both happens.
    Dropped(Reject),
}

/// Transactions that wait.
pub(crate) struct Pending {
    store: Arc<ChainStore>,
    waiting: Mutex<BTreeMap<Hash, Waiting>>,
    /// Dropped of late, oldest first.
    dropped: Mutex<VecDeque<Hash>>,
    /// Held while a number is chosen and its transaction added.
    turn: Mutex<()>,
}

struct Waiting {
    tx: Tx,
    progress: watch::Sender<Progress>,
}

impl Pending {
    /// Those on disk.
    pub(crate) fn open(store: Arc<ChainStore>) -> Result<Self> {
        let mut waiting = BTreeMap::new();
        for bytes in store.pending()? {
            // One in an older version's form cannot be submitted anyway.
            if let Ok(tx) = Tx::from_bytes(&bytes) {
                waiting.insert(tx.hash(), Waiting::of(tx));
            }
        }
        Ok(Self { store, waiting: Mutex::new(waiting), dropped: Mutex::default(), turn: Mutex::default() })
    }

    /// Nobody else chooses a number until this is dropped.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().expect("nobody panics while holding it")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Hash, Waiting>> {
        self.waiting.lock().expect("nobody panics while holding it")
    }

    /// Writes one down; what becomes of it, and whether it is new.
    pub(crate) fn add(&self, tx: &Tx) -> Result<Result<(watch::Receiver<Progress>, bool), Reject>> {
        let mut waiting = self.lock();
        let hash = tx.hash();
        if let Some(known) = waiting.get(&hash) {
            return Ok(Ok((known.progress.subscribe(), false)));
        }
        if waiting.values().filter(|other| other.tx.by() == tx.by()).count() >= PENDING_MAX {
            return Ok(Err(Reject::TooMany));
        }
        let rival = |other: &Waiting| other.tx.by() == tx.by() && number(&other.tx) == number(tx);
        if number(tx).is_some() && waiting.values().any(rival) {
            return Ok(Err(Reject::Duplicate));
        }
        self.store.add_pending(&hash, &tx.to_bytes())?;
        let entry = Waiting::of(tx.clone());
        let progress = entry.progress.subscribe();
        waiting.insert(hash, entry);
        Ok(Ok((progress, true)))
    }

    /// One that says the same as a transaction of `by`, if one waits. One that waits behind `next`, the first free
    /// number, waits for ever unless that is used: it is dropped, and the caller signs it again.
    pub(crate) fn like(
        &self,
        by: &NodeId,
        tx: &ledger::WalletTx,
        next: u64,
    ) -> Option<(Hash, watch::Receiver<Progress>)> {
        let same = |other: &Tx| matches!(other, Tx::Wallet { tx: o } if o.by == *by && o.value.tx == *tx);
        let found = {
            let waiting = self.lock();
            let found = waiting.iter().filter(|(_, other)| same(&other.tx)).min_by_key(|(_, other)| number(&other.tx));
            let (hash, found) = found?;
            (*hash, number(&found.tx), found.progress.subscribe())
        };
        let (hash, number, progress) = found;
        if number < Some(next) {
            return Some((hash, progress));
        }
        self.end(&hash, Progress::Dropped(Reject::Early));
        None
    }

    /// Whether one was submitted and then dropped: others may have it.
    pub(crate) fn was_dropped(&self, hash: &Hash) -> bool {
        self.dropped.lock().expect("nobody panics while holding it").contains(hash)
    }

    /// Those that wait, each signer's in the order of their numbers.
    pub(crate) fn all(&self) -> Vec<Tx> {
        let mut all: Vec<Tx> = self.lock().values().map(|waiting| waiting.tx.clone()).collect();
        all.sort_by_key(|tx| (tx.by(), number(tx)));
        all
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Numbers of wallet transactions of `by` that wait.
    pub(crate) fn numbers(&self, by: &NodeId) -> BTreeSet<u64> {
        let own = |waiting: &Waiting| (waiting.tx.by() == *by).then(|| number(&waiting.tx)).flatten();
        self.lock().values().filter_map(own).collect()
    }

    /// Another node refused one, which it names as the log does.
    pub(crate) fn refused(&self, submitted: &Hash, reject: Reject) {
        for waiting in self.lock().values() {
            if net::submitted(&waiting.tx.to_bytes()) == *submitted {
                tracing::warn!(reason = reject.name(), "a node refused a transaction of this wallet; others are asked");
                waiting.progress.send_replace(Progress::Waits(Some(reject)));
            }
        }
    }

    /// A block is final: what it carries has its answer.
    pub(crate) fn settle(&self, block: &Block, happened: &[Happened]) {
        if self.is_empty() {
            return;
        }
        let refused = refused(block, happened);
        for tx in &block.txs {
            let hash = tx.hash();
            match refused.get(&hash) {
                None => self.end(&hash, Progress::Final(block.header.height)),
                // Its turn comes when those before it are done.
                Some(Reject::Early) => {}
                // Its number is used, or it brings nothing any more.
                Some(Reject::Stale) => self.end(&hash, Progress::Refused(Reject::Stale)),
                Some(why) => self.end(&hash, Progress::Dropped(*why)),
            }
        }
    }

    /// Ends the wait for one.
    pub(crate) fn end(&self, hash: &Hash, progress: Progress) {
        let Some(ended) = self.lock().remove(hash) else { return };
        if matches!(progress, Progress::Dropped(_)) {
            let mut dropped = self.dropped.lock().expect("nobody panics while holding it");
            dropped.push_back(*hash);
            if dropped.len() > DROPPED_MAX {
                dropped.pop_front();
            }
        }
        if let Err(error) = self.store.remove_pending(hash) {
            // At the next start it is found to be used.
            tracing::warn!(%error, "a settled transaction is still on disk");
        }
        ended.progress.send_replace(progress);
    }
}

impl Waiting {
    fn of(tx: Tx) -> Self {
        Self { tx, progress: watch::Sender::new(Progress::Waits(None)) }
    }
}

/// The running number of a wallet transaction.
pub(crate) fn number(tx: &Tx) -> Option<u64> {
    if let Tx::Wallet { tx } = tx { Some(tx.value.nonce) } else { None }
}

/// The first number from `used` on that no transaction in `taken` has.
pub(crate) fn free_number(used: u64, taken: &BTreeSet<u64>) -> u64 {
    (used..).find(|n| !taken.contains(n)).unwrap_or(u64::MAX)
}

/// How many numbers of the signer come before that of `tx` on this state.
pub(crate) fn ahead(state: &State, tx: &Tx) -> u64 {
    let used = state.money().account(&tx.by()).map_or(0, |account| account.wallet_nonce);
    number(tx).map_or(0, |n| n.saturating_sub(used))
}

/// What a final state, all of whose blocks were [settled](Pending::settle), says of those that still wait.
pub(crate) fn judge(state: &State, waiting: &[Tx]) -> Vec<(Hash, Progress)> {
    let verdict = |tx: &Tx| {
        if state.used(tx) {
            // No block carried this one: its number went to another, from a machine with the same key.
            return Some(Progress::Refused(Reject::Stale));
        }
        match state.check(tx, 0) {
            // Later ones are judged when those before them are done.
            Ok(()) | Err(Reject::Early | Reject::TooMany) => None,
            Err(reject) => Some(Progress::Dropped(reject)),
        }
    };
    waiting.iter().filter_map(|tx| Some((tx.hash(), verdict(tx)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{Keypair, Signed};
    use ledger::Credits;

    struct Stage {
        dir: tempfile::TempDir,
        state: State,
        owner: Keypair,
        donor: Keypair,
        seat: NodeId,
    }

    impl Stage {
        fn new() -> Self {
            let (owner, seat) = (Keypair::from_secret([1; 32]), Keypair::from_secret([2; 32]).id());
            let donor = Keypair::from_secret([3; 32]);
            let mut genesis = crate::network::private(owner.id(), seat).genesis;
            genesis.opening.push((donor.id(), Credits(u64::MAX / 2)));
            let state = State::new(&genesis);
            Self { dir: tempfile::tempdir().expect("a folder"), state, owner, donor, seat }
        }

        fn pending(&self, name: &str) -> Pending {
            let store = ChainStore::open(&self.dir.path().join(name)).expect("a store");
            Pending::open(Arc::new(store)).expect("read")
        }

        fn send(&self, nonce: u64, amount: u64) -> Tx {
            self.transfer(&self.owner, NodeId([9; 32]), (nonce, amount))
        }

        fn transfer(&self, by: &Keypair, to: NodeId, (nonce, amount): (u64, u64)) -> Tx {
            let tx = ledger::WalletTx::Transfer { to, amount: Credits(amount) };
            let envelope = ledger::WalletEnvelope { chain: self.state.chain(), nonce, tx };
            Tx::Wallet { tx: Signed::new(ledger::DOMAIN, by, envelope) }
        }

        /// Somebody pays the owner.
        fn credit(&mut self, amount: u64) {
            let paid = self.transfer(&self.donor, self.owner.id(), (0, amount));
            self.block(vec![paid], &[]);
        }

        fn received(&self) -> u64 {
            self.state.money().account(&NodeId([9; 32])).map_or(0, |account| account.balance.0)
        }

        /// A final block of these, settled and judged by all of `wallets`.
        fn block(&mut self, txs: Vec<Tx>, wallets: &[&Pending]) {
            let now = self.state.time().plus(1_000);
            let block = self.state.next(self.seat, Vec::new(), now, txs);
            let happened = self.state.apply(&block).expect("it follows");
            for wallet in wallets {
                wallet.settle(&block, &happened);
                judge(&self.state, &wallet.all()).iter().for_each(|(hash, what)| wallet.end(hash, *what));
            }
        }

        fn next(&self, wallet: &Pending) -> u64 {
            let taken = wallet.numbers(&self.owner.id());
            let used = self.state.money().account(&self.owner.id()).map_or(0, |account| account.wallet_nonce);
            free_number(used, &taken)
        }
    }

    fn added(wallet: &Pending, tx: &Tx) -> watch::Receiver<Progress> {
        wallet.add(tx).expect("written").expect("taken").0
    }

    #[test]
    fn a_transaction_that_a_block_refused_may_happen_later_and_its_owner_is_told_so() {
        let mut stage = Stage::new();
        let wallet = stage.pending("here");
        let refused = stage.send(0, u64::MAX / 4);
        let told = added(&wallet, &refused);
        stage.block(vec![refused.clone()], &[&wallet]);
        assert_eq!(*told.borrow(), Progress::Dropped(Reject::Insufficient), "it is not over");
        assert!(wallet.was_dropped(&refused.hash()), "who asks again is warned");
        // The next one takes its number, so that only one of both can happen.
        assert_eq!(stage.next(&wallet), 0);
        let instead = stage.send(0, 5);
        let told_instead = added(&wallet, &instead);
        stage.credit(u64::MAX / 4);
        stage.block(vec![refused], &[&wallet]);
        assert_eq!(stage.received(), u64::MAX / 4, "somebody brought it again");
        assert_eq!(*told_instead.borrow(), Progress::Refused(Reject::Stale), "its number was used");
        stage.block(vec![instead], &[&wallet]);
        assert_eq!(stage.received(), u64::MAX / 4, "nothing was paid twice");
    }

    #[test]
    fn a_transaction_that_came_too_early_waits_on() {
        let mut stage = Stage::new();
        let wallet = stage.pending("here");
        let (first, second) = (stage.send(0, 5), stage.send(1, 6));
        let (told, told_second) = (added(&wallet, &first), added(&wallet, &second));
        stage.block(vec![second.clone()], &[&wallet]);
        assert_eq!(*told_second.borrow(), Progress::Waits(None));
        assert_eq!(wallet.all(), [first.clone(), second.clone()], "both are submitted again");
        stage.block(vec![first, second], &[&wallet]);
        assert_eq!((*told.borrow(), *told_second.borrow()), (Progress::Final(2), Progress::Final(2)));
    }

    #[test]
    fn a_transaction_that_a_proposer_put_in_twice_is_done() {
        let mut stage = Stage::new();
        let wallet = stage.pending("here");
        let twice = stage.send(0, 5);
        let told = added(&wallet, &twice);
        stage.block(vec![twice.clone(), twice], &[&wallet]);
        assert_eq!((*told.borrow(), stage.received()), (Progress::Final(1), 5));
    }

    #[test]
    fn one_that_waits_behind_a_gap_is_signed_again() {
        let stage = Stage::new();
        let wallet = stage.pending("here");
        let behind = stage.send(1, 5);
        let told = added(&wallet, &behind);
        let (by, Tx::Wallet { tx }) = (stage.owner.id(), &behind) else { panic!("it is a wallet's") };
        assert!(wallet.like(&by, &tx.value.tx, stage.next(&wallet)).is_none(), "number 0 may never come");
        assert_eq!(*told.borrow(), Progress::Dropped(Reject::Early));
        let again = stage.send(stage.next(&wallet), 5);
        added(&wallet, &again);
        let like = wallet.like(&by, &tx.value.tx, stage.next(&wallet));
        assert_eq!(like.map(|(hash, _)| hash), Some(again.hash()));
    }

    #[test]
    fn one_that_is_added_again_is_not_new() {
        let stage = Stage::new();
        let (wallet, tx) = (stage.pending("here"), stage.send(0, 5));
        let new = || wallet.add(&tx).expect("written").expect("taken").1;
        assert!(new() && !new());
    }

    #[test]
    fn of_two_machines_with_one_key_only_the_one_whose_transaction_happened_hears_final() {
        let mut stage = Stage::new();
        let (here, there) = (stage.pending("here"), stage.pending("there"));
        let (mine, theirs) = (stage.send(0, 5), stage.send(0, 7));
        let (told_here, told_there) = (added(&here, &mine), added(&there, &theirs));
        stage.block(vec![theirs], &[&here, &there]);
        assert_eq!(*told_there.borrow(), Progress::Final(1));
        assert_eq!(*told_here.borrow(), Progress::Refused(Reject::Stale), "the number was used by another one");
        assert_eq!((stage.next(&here), stage.next(&there)), (1, 1), "both go on");
    }

    #[test]
    fn a_lost_transaction_outlives_the_process_and_the_wallet_goes_on() {
        let mut stage = Stage::new();
        let wallet = stage.pending("here");
        let lost = stage.send(0, 5);
        added(&wallet, &lost);
        // The source lost it: blocks come without it, and the process ends.
        stage.block(Vec::new(), &[&wallet]);
        assert_eq!(stage.next(&wallet), 1, "its number stays taken");
        drop(wallet);
        let wallet = stage.pending("here");
        assert_eq!(wallet.all(), vec![lost.clone()], "it is submitted again");
        let told = added(&wallet, &lost);
        wallet.refused(&net::submitted(&lost.to_bytes()), Reject::TooMany);
        assert_eq!(*told.borrow(), Progress::Waits(Some(Reject::TooMany)), "the owner hears of the refusal");
        let next = stage.send(stage.next(&wallet), 6);
        let told_next = added(&wallet, &next);
        stage.block(vec![lost, next], &[&wallet]);
        assert_eq!((*told.borrow(), *told_next.borrow()), (Progress::Final(2), Progress::Final(2)));
        drop(wallet);
        assert!(stage.pending("here").is_empty(), "what is settled is not submitted again");
    }

    #[test]
    fn what_the_chain_no_longer_takes_gives_its_number_back() {
        let mut stage = Stage::new();
        let wallet = stage.pending("here");
        let told = added(&wallet, &stage.send(0, u64::MAX / 2));
        let second = added(&wallet, &stage.send(1, 5));
        assert_eq!(wallet.add(&stage.send(1, 6)).expect("read").err(), Some(Reject::Duplicate));
        stage.block(Vec::new(), &[&wallet]);
        assert!(matches!(*told.borrow(), Progress::Dropped(_)), "{told:?}");
        assert_eq!(*second.borrow(), Progress::Waits(None));
        assert_eq!(stage.next(&wallet), 0, "the gap is filled first");
    }
}
