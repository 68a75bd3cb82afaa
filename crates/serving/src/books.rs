//! What this node has promised to providers and what clients have promised to it, and the receipts of its answers: one
//! file, written before anything is said or done on the strength of it.

use crate::accounts::Accounts;
use anyhow::{Context, Result};
use base::{Hash, Keypair, NodeId, Reject, Signed, Wire};
use ledger::{Credits, Voucher};
use market::{Allotted, Purse, Till};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// By chain and peer.
const TILLS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("tills");
const PURSES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("purses");
/// Serial of the last allotment to a provider that came back to the budget.
const CLOSED: TableDefinition<&[u8], u64> = TableDefinition::new("closed");
/// Receipts by running number, and their numbers by the answer's name.
const RECEIPTS: TableDefinition<u64, (&str, &str)> = TableDefinition::new("receipts");
const NAMES: TableDefinition<&str, u64> = TableDefinition::new("names");
/// What answers came to, by day since 1970, model and device: micro-credits, questions of others, own questions.
const ANSWERS: TableDefinition<(u64, &str, &str), (u64, u64, u64)> = TableDefinition::new("answers");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Micro-credits that were allotted to providers, in all.
const SET_ASIDE: &str = "set aside";
/// Receipts that are kept.
const RECEIPTS_MAX: u64 = 10_000;

/// What answers came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answered {
    /// Earned, in micro-credits.
    pub earned_micro: u64,
    /// Questions of others that were answered.
    pub others: u64,
    /// The owner's own.
    pub own: u64,
}

impl Answered {
    fn of((earned_micro, others, own): (u64, u64, u64)) -> Self {
        Self { earned_micro, others, own }
    }

    /// Both together.
    pub fn and(self, more: Self) -> Self {
        Self {
            earned_micro: self.earned_micro.saturating_add(more.earned_micro),
            others: self.others.saturating_add(more.others),
            own: self.own.saturating_add(more.own),
        }
    }
}

/// The books of a node.
pub(crate) struct Books {
    database: Database,
    accounts: Arc<dyn Accounts>,
    pub(crate) me: NodeId,
    tills: Mutex<BTreeMap<Vec<u8>, Till>>,
    writing: Mutex<()>,
    /// Chains whose credits the owner takes, whoever validates them.
    accept: Vec<Hash>,
    /// What computes here.
    device: String,
    before: Answered,
}

fn key(chain: &Hash, peer: &NodeId) -> Vec<u8> {
    (*chain, *peer).to_bytes()
}

impl Books {
    pub(crate) fn open(
        dir: &Path,
        accounts: Arc<dyn Accounts>,
        me: NodeId,
        device: String,
        accept: Vec<Hash>,
    ) -> Result<Self> {
        let path = dir.join("market.redb");
        let database = Database::create(&path).with_context(|| format!("{} is damaged", path.display()))?;
        let write = database.begin_write()?;
        write.open_table(TILLS)?;
        write.open_table(PURSES)?;
        write.open_table(CLOSED)?;
        write.open_table(RECEIPTS)?;
        write.open_table(NAMES)?;
        write.open_table(META)?;
        write.open_table(ANSWERS)?;
        write.commit()?;
        let read = database.begin_read()?;
        let mut tills = BTreeMap::new();
        for entry in read.open_table(TILLS)?.iter()? {
            let (key, value) = entry?;
            tills.insert(key.value().to_vec(), Till::from_bytes(value.value())?.restarted());
        }
        drop(read);
        let (tills, before) = (Mutex::new(tills), Answered::default());
        let mut books = Self { database, accounts, me, accept, tills, writing: Mutex::default(), device, before };
        books.before = books.answered()?.into_values().fold(before, Answered::and);
        Ok(books)
    }

    /// What the chain says `client` has allotted to `payee`.
    pub(crate) fn allotted(&self, chain: &Hash, client: &NodeId, payee: &NodeId) -> Option<Allotted> {
        let allotment = self.accounts.allotment(chain, client, payee)?;
        let total = allotment.paid.plus(allotment.left).ok()?;
        Some(Allotted { serial: allotment.serial, total, closing: allotment.closing.is_some() })
    }

    /// Whether a chain is this node's own network.
    pub(crate) fn is_home(&self, chain: &Hash) -> bool {
        *chain == self.accounts.home()
    }

    /// Whether credits of a chain pay for answers: of the own network, of one that four and more validators keep, or of
    /// one that the owner named. A stranger's chain of one may mint what it likes and leave out what it does not.
    pub(crate) fn is_money(&self, chain: &Hash) -> bool {
        self.is_home(chain)
            || self.accept.contains(chain)
            || self.accounts.validators(chain).is_some_and(|many| many >= 4)
    }

    fn put(&self, table: TableDefinition<&[u8], &[u8]>, key: &[u8], value: &[u8]) -> Result<()> {
        let write = self.database.begin_write()?;
        write.open_table(table)?.insert(key, value)?;
        write.commit()?;
        Ok(())
    }

    /// Counts what an answer came to, for displays: what is paid is in the tills.
    pub(crate) fn count(&self, model: &str, answered: Answered) {
        let add = || -> Result<()> {
            let mut write = self.database.begin_write()?;
            write.set_durability(redb::Durability::None)?;
            {
                let mut table = write.open_table(ANSWERS)?;
                let key = (crate::clock::clock().0 / owner::DAY_MS, model, self.device.as_str());
                let all = table.get(key)?.map(|value| Answered::of(value.value())).unwrap_or_default().and(answered);
                table.insert(key, (all.earned_micro, all.others, all.own))?;
            }
            Ok(write.commit()?)
        };
        if let Err(error) = add() {
            tracing::warn!(%error, "what an answer came to was not counted");
        }
    }

    /// What answers came to, by day since 1970, model and device.
    pub(crate) fn answered(&self) -> Result<BTreeMap<(u64, String, String), Answered>> {
        let read = self.database.begin_read()?;
        let mut out = BTreeMap::new();
        for entry in read.open_table(ANSWERS)?.iter()? {
            let (key, value) = entry?;
            let (day, model, device) = key.value();
            out.insert((day, model.to_owned(), device.to_owned()), Answered::of(value.value()));
        }
        Ok(out)
    }

    /// The same all together, when the books were opened.
    pub(crate) fn before(&self) -> Answered {
        self.before
    }

    /// Credits that this node allotted to providers by itself since its first start.
    pub(crate) fn set_aside(&self) -> Credits {
        let read = || -> Result<u64> {
            let read = self.database.begin_read()?;
            Ok(read.open_table(META)?.get(SET_ASIDE)?.map_or(0, |value| value.value()))
        };
        // Whoever cannot read it spends nothing.
        Credits(read().unwrap_or(u64::MAX))
    }

    /// Counts an allotment; it is on disk when this returns.
    pub(crate) fn set_aside_more(&self, amount: Credits) -> Result<()> {
        self.change_set_aside(|before| before.saturating_add(amount.0))
    }

    /// Takes back what was counted and not done.
    pub(crate) fn set_aside_less(&self, amount: Credits) -> Result<()> {
        self.change_set_aside(|before| before.saturating_sub(amount.0))
    }

    /// Takes back what a closed allotment had and nobody was promised, once for each; whether it was done now.
    pub(crate) fn give_back(&self, chain: &Hash, payee: &NodeId, serial: u64, amount: Credits) -> Result<bool> {
        let key = key(chain, payee);
        let read = self.database.begin_read()?;
        let noted = read.open_table(CLOSED)?.get(key.as_slice())?.map(|known| known.value());
        if noted == Some(serial) {
            return Ok(false);
        }
        let write = self.database.begin_write()?;
        {
            let (mut closed, mut meta) = (write.open_table(CLOSED)?, write.open_table(META)?);
            // Somebody else may have been faster.
            let noted = closed.insert(key.as_slice(), serial)?.map(|known| known.value());
            if noted == Some(serial) {
                return Ok(false);
            }
            let before = meta.get(SET_ASIDE)?.map_or(0, |value| value.value());
            meta.insert(SET_ASIDE, before.saturating_sub(amount.0))?;
        }
        write.commit()?;
        Ok(true)
    }

    fn change_set_aside(&self, change: impl FnOnce(u64) -> u64) -> Result<()> {
        let write = self.database.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let before = meta.get(SET_ASIDE)?.map_or(0, |value| value.value());
            meta.insert(SET_ASIDE, change(before))?;
        }
        Ok(write.commit()?)
    }

    /// What is known of a client.
    pub(crate) fn till(&self, chain: &Hash, client: &NodeId) -> Till {
        let tills = self.tills.lock().expect("nobody panics while holding it");
        tills.get(&key(chain, client)).cloned().unwrap_or_default()
    }

    /// Every client that has promised something, with the chain.
    pub(crate) fn tills(&self) -> Vec<(Hash, NodeId, Till)> {
        let tills = self.tills.lock().expect("nobody panics while holding it");
        let all = tills.iter().filter_map(|(key, till)| {
            let (chain, client) = <(Hash, NodeId)>::from_bytes(key).ok()?;
            Some((chain, client, till.clone()))
        });
        all.collect()
    }

    /// What a client was given and has promised, to look at and to change in memory.
    pub(crate) fn with_till<T>(&self, chain: &Hash, client: &NodeId, change: impl FnOnce(&mut Till) -> T) -> T {
        let (mut tills, key) = (self.tills.lock().expect("nobody panics while holding it"), key(chain, client));
        let changed = change(tills.entry(key.clone()).or_default());
        // Whoever only asked is forgotten: names of chains and keys cost nothing.
        if tills.get(&key).is_some_and(|till| *till == Till::default()) {
            tills.remove(&key);
        }
        changed
    }

    /// Writes down what a client never paid: it is on disk with whatever comes next.
    pub(crate) fn note_lost(&self, chain: &Hash, client: &NodeId) {
        let note = || -> Result<()> {
            let _writing = self.writing.lock().expect("nobody panics while holding it");
            let mut write = self.database.begin_write()?;
            write.set_durability(redb::Durability::None)?;
            let (key, till) = (key(chain, client), self.till(chain, client));
            write.open_table(TILLS)?.insert(key.as_slice(), till.to_bytes().as_slice())?;
            Ok(write.commit()?)
        };
        if let Err(error) = note() {
            tracing::warn!(%error, "what a client never paid was not written down");
        }
    }

    /// Takes a client's voucher, and says how much it promises beyond the last; it is on disk when this returns. A crash
    /// forgets what was done since: of each open answer a chunk and a half at most, and reading that was paid with it.
    pub(crate) async fn take(
        self: &Arc<Self>,
        chain: Hash,
        client: NodeId,
        voucher: Signed<Voucher>,
    ) -> Result<Credits, Reject> {
        let books = self.clone();
        // The disk takes its time: nobody else waits for it.
        let taken = tokio::task::spawn_blocking(move || {
            let allotted = books.allotted(&chain, &client, &books.me);
            // One after the other: what is read here is what is written.
            let _writing = books.writing.lock().expect("nobody panics while holding it");
            let mut kept = books.till(&chain, &client);
            let Some(more) = kept.take(&chain, &books.me, &client, allotted, voucher.clone())? else {
                return Ok(Credits::ZERO);
            };
            books.put(TILLS, &key(&chain, &client), &kept.to_bytes()).map_err(|_| Reject::NotHeld)?;
            books.with_till(&chain, &client, |till| till.take(&chain, &books.me, &client, allotted, voucher))?;
            Ok(more)
        });
        taken.await.unwrap_or(Err(Reject::NotHeld))
    }

    /// Promises `amount` more to a provider: the voucher to send, which is on disk when this returns.
    pub(crate) fn promise(
        &self,
        own: &Keypair,
        chain: Hash,
        payee: NodeId,
        amount: Credits,
    ) -> Result<Signed<Voucher>, Reject> {
        let allotted = self.allotted(&chain, &self.me, &payee);
        self.change_purse(&chain, &payee, |purse| purse.promise(allotted, own, chain, payee, amount))
    }

    /// What was promised to a provider.
    pub(crate) fn promised(&self, chain: &Hash, payee: &NodeId) -> Credits {
        self.change_purse(chain, payee, |purse| Ok(purse.promised())).unwrap_or_default()
    }

    /// Takes note of a voucher of this node that a provider shows.
    pub(crate) fn recall(&self, chain: &Hash, payee: &NodeId, voucher: &Signed<Voucher>) -> Result<(), Reject> {
        if voucher.value.payee != *payee || voucher.value.chain != *chain {
            return Err(Reject::WrongWork);
        }
        self.change_purse(chain, payee, |purse| purse.recall(&self.me, voucher))
    }

    fn change_purse<T>(
        &self,
        chain: &Hash,
        payee: &NodeId,
        change: impl FnOnce(&mut Purse) -> Result<T, Reject>,
    ) -> Result<T, Reject> {
        let key = key(chain, payee);
        let (mut result, mut changed) = (Err(Reject::NotHeld), false);
        let run = || -> Result<()> {
            // One writer at a time: what is read here is what is changed.
            let write = self.database.begin_write()?;
            {
                let mut table = write.open_table(PURSES)?;
                let kept = table.get(key.as_slice())?.map(|value| Purse::from_bytes(value.value())).transpose()?;
                let mut purse = kept.unwrap_or_default();
                let before = purse.clone();
                result = change(&mut purse);
                changed = purse != before;
                if changed {
                    table.insert(key.as_slice(), purse.to_bytes().as_slice())?;
                }
            }
            if changed { Ok(write.commit()?) } else { Ok(write.abort()?) }
        };
        run().map_err(|_| Reject::NotHeld)?;
        result
    }

    /// Keeps a receipt under the answer's name; the oldest make room.
    pub(crate) fn keep(&self, name: &str, receipt: &str) -> Result<()> {
        let mut write = self.database.begin_write()?;
        // Nobody's money: it is on disk with whatever comes next.
        write.set_durability(redb::Durability::None)?;
        {
            let (mut receipts, mut names) = (write.open_table(RECEIPTS)?, write.open_table(NAMES)?);
            let number = receipts.last()?.map_or(0, |(number, _)| number.value() + 1);
            receipts.insert(number, (name, receipt))?;
            names.insert(name, number)?;
            let gone = number.checked_sub(RECEIPTS_MAX).map(|old| receipts.remove(old)).transpose()?.flatten();
            if let Some(gone) = gone {
                names.remove(gone.value().0)?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// The receipt of an answer.
    pub(crate) fn receipt(&self, name: &str) -> Result<Option<String>> {
        let read = self.database.begin_read()?;
        let Some(number) = read.open_table(NAMES)?.get(name)?.map(|number| number.value()) else { return Ok(None) };
        Ok(read.open_table(RECEIPTS)?.get(number)?.map(|entry| entry.value().1.to_owned()))
    }
}
