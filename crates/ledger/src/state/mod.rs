//! The books: who holds what, what was issued and burned, and one root over all of it.

mod pots;
mod seats;

use self::pots::Pot;
use crate::account::{Account, LOCKED_MAX};
use crate::tree::{Path, Tree};
use crate::{Credits, Issuance};
use base::{Hash, Millis, NodeId, Reader, Reject, Wire, WireError, wire_struct};
use std::collections::{BTreeMap, BTreeSet};

pub use pots::{PAYERS_MAX, divide};
pub use seats::{SEATS_MAX, Seat};

/// What a network fixes when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Names the chain; signatures for another one are worth nothing here.
    pub chain: Hash,
    /// Burned by each wallet transaction.
    pub fee: Credits,
    /// Units whose earnings stay locked, W.
    pub locked_units: u16,
    /// From the request to unbond until the amount is free.
    pub unbonding_ms: u64,
    /// From a client's request to close an allotment until it is back.
    pub close_ms: u64,
    /// New money.
    pub issuance: Issuance,
    /// The bond that stands for one seat.
    pub seat_bond: Credits,
}

wire_struct!(Params { chain, fee, locked_units, unbonding_ms, close_ms, issuance, seat_bond });

impl Default for Params {
    fn default() -> Self {
        Self {
            chain: Hash::default(),
            fee: Credits(1_000),
            locked_units: 60,
            unbonding_ms: 7 * 24 * 3_600_000,
            close_ms: 24 * 3_600_000,
            issuance: Issuance { per_hour: Credits::whole(1_000), era_hours: 24 * 365 },
            seat_bond: Credits::whole(100),
        }
    }
}

/// Where pay comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaySource {
    /// New money, as far as the schedule allows.
    Issuance,
    /// The budget of a run.
    Pot(Hash),
}

/// The state of all money.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(crate) params: Params,
    pub(crate) accounts: BTreeMap<NodeId, Account>,
    pub(crate) pots: BTreeMap<Hash, Pot>,
    pub(crate) seats: BTreeMap<NodeId, Seat>,
    pub(crate) supply: Supply,
    /// Whose unbonding or closing is due when.
    pub(crate) due: BTreeSet<(Millis, NodeId)>,
    /// Changed since the last root.
    touched: Vec<Key>,
    tree: Tree,
}

/// What was ever issued and burned, by when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Supply {
    pub(crate) begun: Millis,
    pub(crate) now: Millis,
    pub(crate) genesis: Credits,
    pub(crate) issued: Credits,
    pub(crate) burned: Credits,
}

wire_struct!(Supply { begun, now, genesis, issued, burned });

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Supply,
    Account(NodeId),
    Pot(Hash),
    Seat(NodeId),
}

impl Key {
    fn hash(&self) -> Hash {
        match self {
            Self::Supply => Hash::keyed(b"talkoo 2026 ledger supply key v1", &[]),
            Self::Account(id) => Hash::keyed(b"talkoo 2026 ledger accountkey v1", &id.0),
            Self::Pot(pot) => Hash::keyed(b"talkoo 2026 ledger budgetkey v1.", &pot.0),
            Self::Seat(key) => Hash::keyed(b"talkoo 2026 ledger seat key v1..", &key.0),
        }
    }
}

fn record(bytes: &[u8]) -> Hash {
    Hash::keyed(b"talkoo 2026 ledger entry hash v1", bytes)
}

/// The books whole, for who begins with them: what follows from the records is made anew.
impl Wire for Ledger {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.params.clone(), self.supply).encode(out);
        self.accounts.encode(out);
        self.pots.encode(out);
        self.seats.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (params, supply): (Params, Supply) = Wire::decode(input)?;
        let accounts: BTreeMap<NodeId, Account> = Wire::decode(input)?;
        let (pots, seats): (BTreeMap<Hash, Pot>, BTreeMap<NodeId, Seat>) = Wire::decode(input)?;
        let mut touched = vec![Key::Supply];
        touched.extend(accounts.keys().map(|id| Key::Account(*id)));
        touched.extend(pots.keys().map(|pot| Key::Pot(*pot)));
        touched.extend(seats.keys().map(|key| Key::Seat(*key)));
        let due = accounts.iter().flat_map(|(id, account)| account.due().map(|at| (at, *id))).collect();
        let books = Self { params, accounts, pots, seats, supply, due, touched, tree: Tree::default() };
        // A stranger may have written them: what is held is what was issued and not burned, or sums overflow later.
        let all = supply.genesis.plus(supply.issued).and_then(|all| all.less(supply.burned));
        match all {
            Ok(all) if u128::from(all.0) == books.held() => Ok(books),
            _ => Err(WireError::Invalid("books that do not add up")),
        }
    }
}

impl Ledger {
    /// Books with opening balances, which count as issued.
    ///
    /// # Panics
    /// When the balances do not add up to an amount: a genesis is checked when it is made.
    pub fn new(params: Params, opening: &[(NodeId, Credits)]) -> Self {
        let mut ledger = Self {
            params,
            accounts: BTreeMap::new(),
            pots: BTreeMap::new(),
            seats: BTreeMap::new(),
            supply: Supply::default(),
            due: BTreeSet::new(),
            touched: vec![Key::Supply],
            tree: Tree::default(),
        };
        for (id, amount) in opening {
            ledger.supply.genesis = ledger.supply.genesis.plus(*amount).expect("opening balances add up");
            let account = ledger.account_mut(id);
            account.balance = account.balance.joined(*amount);
        }
        ledger
    }

    /// What the network fixed.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What `id` owns, if it ever had anything.
    pub fn account(&self, id: &NodeId) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// Everything that exists: issued and not burned.
    pub fn supply(&self) -> Credits {
        let all = self.supply.genesis.plus(self.supply.issued).expect("pay never issues more than an amount");
        all.less(self.supply.burned).expect("nothing is burned that was not issued")
    }

    /// What the schedule allows to be issued now and was not issued yet.
    pub fn issuable(&self) -> Credits {
        let ms = self.supply.now.since(self.supply.begun);
        let all = self.params.issuance.until(ms);
        let Supply { genesis, issued, .. } = self.supply;
        let room = u64::MAX.saturating_sub(genesis.0).saturating_sub(issued.0);
        Credits(all.0.saturating_sub(issued.0).min(room))
    }

    /// When something is due that takes so long from now.
    pub(crate) fn later(&self, ms: u64) -> Result<Millis, Reject> {
        self.supply.now.0.checked_add(ms).map(Millis).ok_or(Reject::Expired)
    }

    /// Books of some accounts and a budget alone, to try a transaction on.
    pub(crate) fn part(&self, ids: impl Iterator<Item = NodeId>, pot: Option<&Hash>) -> Self {
        Self {
            params: self.params.clone(),
            accounts: ids.filter_map(|id| Some((id, self.account(&id)?.clone()))).collect(),
            pots: pot.into_iter().filter_map(|id| Some((*id, self.pots.get(id)?.clone()))).collect(),
            seats: self.seats.clone(),
            supply: self.supply,
            due: BTreeSet::new(),
            touched: Vec::new(),
            tree: Tree::default(),
        }
    }

    /// Everything that somebody holds, counted anew. Equal to [`supply`](Self::supply), always.
    pub fn held(&self) -> u128 {
        let accounts: u128 = self.accounts.values().map(Account::total).sum();
        let pots: u128 = self.pots.values().map(|pot| pot.left).sum();
        accounts.saturating_add(pots)
    }

    /// Block time moves on: what is due by `now` becomes free. The first time ever begins the schedule.
    pub fn advance(&mut self, now: Millis) {
        if self.supply.now == Millis(0) {
            self.supply.begun = now;
        }
        self.supply.now = self.supply.now.max(now);
        self.touched.push(Key::Supply);
        let now = self.supply.now;
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, id));
            let account = self.account_mut(&id);
            let (free, waiting) = account.unbonding.iter().partition::<Vec<_>, _>(|part| part.at <= now);
            account.unbonding = waiting;
            for part in free {
                account.balance = account.balance.joined(part.amount);
            }
            for (_, gone) in account.allotments.extract_if(.., |_, a| a.closing.is_some_and(|at| at <= now)) {
                account.deposit = account.deposit.joined(gone.left);
            }
        }
    }

    /// Pays a unit: the amount joins the locked earnings of `to`, and what the oldest of more than W
    /// units earned becomes free.
    pub fn pay(&mut self, from: PaySource, to: &NodeId, amount: Credits) -> Result<(), Reject> {
        match from {
            PaySource::Issuance => {
                let issued = self.supply.issued.plus(amount)?;
                let ms = self.supply.now.since(self.supply.begun);
                if issued > self.params.issuance.until(ms) || self.supply.genesis.plus(issued).is_err() {
                    return Err(Reject::Insufficient);
                }
                self.supply.issued = issued;
                self.touched.push(Key::Supply);
            }
            PaySource::Pot(pot) => self.draw(&pot, amount)?,
        }
        let units = usize::from(self.params.locked_units).min(LOCKED_MAX);
        let account = self.account_mut(to);
        account.locked.push_back(amount);
        while account.locked.len() > units {
            let free = account.locked.pop_front().unwrap_or_default();
            account.balance = account.balance.joined(free);
        }
        Ok(())
    }

    /// Nothing of `id` can fail an audit any more: all its locked earnings become free.
    pub fn unlock(&mut self, id: &NodeId) {
        let account = self.account_mut(id);
        for free in std::mem::take(&mut account.locked) {
            account.balance = account.balance.joined(free);
        }
    }

    /// A unit of `id` failed: the earnings of its last `units` are burned. Gives how much that was.
    pub fn forfeit(&mut self, id: &NodeId, units: usize) -> Credits {
        let locked = &mut self.account_mut(id).locked;
        let gone = locked.split_off(locked.len().saturating_sub(units));
        let gone = gone.into_iter().fold(Credits::ZERO, Credits::joined);
        self.burn(gone);
        gone
    }

    /// Takes up to `amount` of a bond, and of what is leaving it: a quarter goes to the victim, a
    /// quarter to who proved it, the rest is burned. Gives how much there was.
    pub fn slash(&mut self, id: &NodeId, amount: Credits, victim: Option<&NodeId>, prover: Option<&NodeId>) -> Credits {
        let account = self.account_mut(id);
        let mut left = amount;
        let parts = account.unbonding.iter_mut().map(|part| &mut part.amount);
        for part in std::iter::once(&mut account.bond).chain(parts) {
            let taken = left.min(*part);
            (left, *part) = (left.without(taken), part.without(taken));
        }
        account.unbonding.retain(|part| part.amount > Credits::ZERO);
        let taken = amount.without(left);
        let mut burned = taken;
        for other in [victim, prover].into_iter().flatten().filter(|other| *other != id) {
            let share = Credits(taken.0 / 4);
            burned = burned.without(share);
            let account = self.account_mut(other);
            account.balance = account.balance.joined(share);
        }
        self.burn(burned);
        taken
    }

    /// The root over every account, every budget and the supply.
    pub fn root(&mut self) -> Hash {
        self.touched.sort_unstable();
        self.touched.dedup();
        let touched = std::mem::take(&mut self.touched);
        let mut changes: Vec<(Hash, Option<Hash>)> = (touched.iter())
            .map(|key| {
                let bytes = match key {
                    Key::Supply => Some(self.supply.to_bytes()),
                    Key::Account(id) => self.accounts.get(id).map(Wire::to_bytes),
                    Key::Pot(pot) => self.pots.get(pot).map(Wire::to_bytes),
                    Key::Seat(key) => self.seats.get(key).map(Wire::to_bytes),
                };
                (key.hash(), bytes.map(|bytes| record(&bytes)))
            })
            .collect();
        changes.sort_unstable_by_key(|(key, _)| *key);
        self.tree.update(&changes);
        self.touched = touched;
        self.touched.clear();
        self.tree.root()
    }

    /// Proves an account, or that there is none, against the last [`root`](Self::root).
    pub fn prove(&self, id: &NodeId) -> Proof {
        Proof { account: self.accounts.get(id).cloned(), path: self.tree.path(&Key::Account(*id).hash()) }
    }

    pub(crate) fn account_mut(&mut self, id: &NodeId) -> &mut Account {
        self.touched.push(Key::Account(*id));
        self.accounts.entry(*id).or_default()
    }

    pub(crate) fn set_seat(&mut self, key: NodeId, seat: Option<Seat>) {
        self.touched.push(Key::Seat(key));
        match seat {
            Some(seat) => self.seats.insert(key, seat),
            None => self.seats.remove(&key),
        };
    }

    pub(crate) fn set_pot(&mut self, id: Hash, pot: Option<Pot>) {
        self.touched.push(Key::Pot(id));
        match pot {
            Some(pot) => self.pots.insert(id, pot),
            None => self.pots.remove(&id),
        };
    }

    pub(crate) fn burn(&mut self, amount: Credits) {
        self.supply.burned = self.supply.burned.plus(amount).expect("not more than was issued");
        self.touched.push(Key::Supply);
    }
}

/// What the books say of one account, verifiable by anyone who knows the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    account: Option<Account>,
    path: Path,
}

wire_struct!(Proof { account, path });

impl Proof {
    /// The account of `id` under `root`, `None` when it never had anything.
    pub fn check(&self, root: &Hash, id: &NodeId) -> Result<Option<&Account>, Reject> {
        let found = self.path.check(root, &Key::Account(*id).hash())?;
        let claimed = self.account.as_ref().map(|account| record(&account.to_bytes()));
        if found == claimed { Ok(self.account.as_ref()) } else { Err(Reject::WrongRoot) }
    }
}
