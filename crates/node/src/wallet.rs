//! What the owner asks of the chains of this node: what is on them, and what to submit there.

mod block;
mod spend;

pub use block::{BlockStatus, Deed, TxPart, TxStatus};
use replica::FINAL_WITHIN;
pub use replica::{SpendError, Unsettled};

use crate::Node;
use anyhow::{Context, Result, bail, ensure};
use base::{Hash, NodeId, Signed, Wire, wire_struct};
use chain::{Tx, VOTE_DOMAIN, Vote};
use ledger::{Account, Credits, SEAT_DOMAIN, SeatClaim};
use replica::Entry;
use replica::SEAT_FILE;
use replica::secret;
use replica::{ChainLog, Kept};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use swarm::RunId;
use tokio_util::sync::CancellationToken;

/// Pause before what failed is tried again.
const RECONNECT: std::time::Duration = std::time::Duration::from_millis(500);

/// The chain as a node sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// The network's name.
    pub network: String,
    /// The chain's.
    pub chain: String,
    /// Whether this node validates or follows.
    pub role: String,
    /// Of the last final block.
    pub height: u64,
    /// Its hash.
    pub tip: String,
    /// Its time, Unix milliseconds.
    pub time_ms: u64,
    /// Which set of validators it is, from 0.
    pub epoch: u64,
    /// Who orders blocks.
    pub validators: Vec<String>,
    /// What so many validators prove.
    pub trust: String,
    /// All credits that exist, in micro-credits.
    pub supply_micro: u64,
    /// What all accounts and budgets hold together; the same, or the books are wrong.
    pub held_micro: u64,
    /// Runs on it.
    pub runs: usize,
    /// What was refused of other validators, by reason.
    pub refused: Vec<(String, u64)>,
    /// Validators that this node hears no more: they sent what no honest one sends.
    pub blocked: Vec<String>,
    /// Why it stands still here, if it does.
    pub trouble: Option<String>,
}

/// An account, amounts in micro-credits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccountStatus {
    /// Whose.
    pub key: String,
    /// On which network.
    pub network: String,
    /// Free.
    pub balance_micro: u64,
    /// Earned, and still to be forfeited if a unit fails its audit.
    pub locked_micro: u64,
    /// Stands for good conduct.
    pub bond_micro: u64,
    /// On its way out of the bond.
    pub unbonding_micro: u64,
    /// Set aside for providers.
    pub deposit_micro: u64,
    /// Wallet transactions so far.
    pub transactions: u64,
}

impl Node {
    /// A chain of this node by the name of its network or the beginning of its id; that at home without any.
    pub(crate) fn pick(&self, network: Option<&str>) -> Result<Arc<ChainLog>> {
        let Some(text) = network else { return Ok(self.shared.chains.home.clone()) };
        let named = |log: &Arc<ChainLog>| {
            let name = log.kept().map(|kept| kept.network.genesis.name.clone());
            name.as_deref() == Some(text) || (!text.is_empty() && log.chain().to_string().starts_with(text))
        };
        let mut found: Vec<Arc<ChainLog>> = self.shared.chains.all().into_iter().filter(named).collect();
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (None, _) => bail!("this node keeps no network `{text}`; `talkoo network show` lists them"),
            _ => bail!("several networks are called `{text}`; give the beginning of the chain's id"),
        }
    }

    pub(crate) fn picked(&self, network: Option<&str>) -> Result<Arc<Kept>> {
        let log = self.pick(network)?;
        log.kept().with_context(|| log.trouble().unwrap_or_else(|| "the chain has not arrived yet; try again".into()))
    }

    /// What a chain of this node says of itself.
    pub fn chain(&self, network: Option<&str>) -> Result<ChainStatus> {
        let log = self.pick(network)?;
        let kept = self.picked(network)?;
        let keeper = &kept.keeper;
        let trouble = log.trouble();
        let refused = keeper.refused().iter().map(|(reject, n)| (reject.name().to_owned(), n)).collect();
        let blocked = keeper.blocked().iter().map(NodeId::to_string).collect();
        let role = if keeper.validates() { "validates" } else { "follows" };
        Ok(keeper.look(|orderer| {
            let state = orderer.state();
            ChainStatus {
                network: state.name().to_owned(),
                chain: state.chain().to_string(),
                role: role.into(),
                height: state.height(),
                tip: state.tip().to_string(),
                time_ms: state.time().0,
                epoch: state.epoch().number,
                validators: state.validators().iter().map(NodeId::to_string).collect(),
                trust: trust(state.validators().len()),
                supply_micro: state.money().supply().0,
                held_micro: u64::try_from(state.money().held()).unwrap_or(u64::MAX),
                runs: state.runs().runs.len(),
                refused,
                blocked,
                trouble,
            }
        }))
    }

    /// Every network of this node.
    pub fn networks(&self) -> Vec<ChainStatus> {
        let chains = self.shared.chains.all();
        chains.iter().filter_map(|log| self.chain(Some(&log.chain().to_string())).ok()).collect()
    }

    /// What `key` owns on a chain.
    pub fn account(&self, network: Option<&str>, key: &NodeId) -> Result<AccountStatus> {
        Ok(self.picked(network)?.keeper.look(|orderer| {
            let state = orderer.state();
            let nothing = Account::default();
            AccountStatus::of(key, state.name(), state.money().account(key).unwrap_or(&nothing))
        }))
    }

    /// Proves what `key` owns: waits for the block that certifies it.
    pub async fn prove(&self, network: Option<&str>, key: &NodeId) -> Result<ProofFile> {
        let kept = self.picked(network)?;
        let proof = tokio::time::timeout(FINAL_WITHIN, kept.prove(key)).await;
        let proof = proof.context("no block came that certifies it: too few validators answer")??;
        Ok(ProofFile { chain: kept.network.genesis.chain(), proof })
    }

    /// What happened to an account of the owner since this node keeps the chain, newest first.
    pub fn history(&self, network: Option<&str>, key: &NodeId, count: usize) -> Result<Vec<Entry>> {
        Ok(self.picked(network)?.store.history(key, count)?)
    }

    /// A final block.
    pub fn block(&self, network: Option<&str>, height: u64) -> Result<BlockStatus> {
        let (log, kept) = (self.pick(network)?, self.picked(network)?);
        let newest = *kept.keeper.height().borrow();
        let bytes = replica::Disk::block(kept.store.as_ref(), height)?;
        let Some(bytes) = bytes else { bail!("this node has no block {height}; the last one is {newest}") };
        let block = chain::Block::from_bytes(&bytes)?;
        let certified = replica::Disk::certificate(kept.store.as_ref(), height)?.is_some();
        let own = log.own().iter().map(|account| anyhow::Ok((*account, kept.store.history_at(account, height)?)));
        let own: Vec<(NodeId, Vec<Entry>)> = own.collect::<Result<_>>()?;
        Ok(BlockStatus::of(&block, certified, &own, &|run| run_name(&kept, run)))
    }

    /// The final block that carries a transaction, by the beginning of the transaction's hash. Looks from the
    /// newest block back.
    pub fn transaction(&self, network: Option<&str>, hash: &str) -> Result<(u64, TxStatus)> {
        let kept = self.picked(network)?;
        let newest = *kept.keeper.height().borrow();
        for height in (1..=newest).rev() {
            let Some(bytes) = replica::Disk::block(kept.store.as_ref(), height)? else { break };
            let block = chain::Block::from_bytes(&bytes)?;
            if let Some(tx) = block.txs.iter().find(|tx| tx.hash().to_string().starts_with(hash)) {
                return Ok((height, TxStatus::of(tx, &|run| run_name(&kept, run))));
            }
        }
        bail!("no final block that this node keeps has the transaction `{hash}`")
    }

    /// What a wallet transaction costs.
    pub fn fee(&self, network: Option<&str>) -> Result<Credits> {
        Ok(self.picked(network)?.keeper.look(|orderer| orderer.state().money().params().fee))
    }

    /// This node's vote on a run's part of new money.
    pub async fn admit(&self, run: RunId, share_permille: u16) -> Result<u64> {
        let seat = secret(self.shared.store.folder(), SEAT_FILE)?;
        let chain = self.shared.chains.home.chain();
        let seq = replica::clock().0;
        let vote = Signed::new(VOTE_DOMAIN, &seat, Vote { chain, seq, run, share_permille });
        Ok(self.say(None, &Tx::Vote { vote }).await?)
    }

    /// Takes a seat for this folder's validator key at home: bonds what is lacking, then claims it.
    pub async fn take_seat(&self) -> Result<u64> {
        let seat = secret(self.shared.store.folder(), SEAT_FILE)?;
        let chain = self.shared.chains.home.chain();
        let (seated, bond, free, held) = self.picked(None)?.keeper.look(|orderer| {
            let money = orderer.state().money();
            let account = money.account(&self.id()).cloned().unwrap_or_default();
            let seated = money.seat(&seat.id()).is_some_and(|seat| !seat.leaving);
            let taken = money.seats().filter(|(_, seat)| seat.owner == self.id() && !seat.leaving).count() as u64;
            let bond = money.params().seat_bond.0;
            (seated, bond, account.bond.0.saturating_sub(bond * taken), account.balance)
        });
        if seated {
            return Ok(*self.picked(None)?.keeper.height().borrow());
        }
        if free < bond {
            let (lacks, fees) = (Credits(bond - free), 2 * self.fee(None)?.0);
            ensure!(
                held.0 >= lacks.0.saturating_add(fees),
                "a seat takes a bond of {} credits: {lacks} more and fees of {}, and this node's account has {held}; \
                 `talkoo wallet send {} {lacks}` from another one brings it",
                Credits(bond),
                Credits(fees),
                self.id()
            );
            self.spend(None, ledger::WalletTx::Bond { amount: Credits(bond - free) }).await?;
        }
        let claim = SeatClaim { chain, owner: self.id(), node: self.id() };
        Ok(self.spend(None, ledger::WalletTx::Seat { claim: Signed::new(SEAT_DOMAIN, &seat, claim) }).await?)
    }

    /// Gives up the seat of this folder at the end of the epoch.
    pub async fn leave_seat(&self) -> Result<u64> {
        let key = secret(self.shared.store.folder(), SEAT_FILE)?.id();
        Ok(self.spend(None, ledger::WalletTx::Unseat { key }).await?)
    }

    /// Gives a seat to the new key of a folder that was copied or restored, in place of the old one.
    async fn replace_seat(&self, old: NodeId) -> Result<()> {
        let standing = |o: &mut chain::Orderer| o.state().money().seat(&old).is_some_and(|seat| !seat.leaving);
        if self.picked(None)?.keeper.look(standing) {
            self.spend(None, ledger::WalletTx::Unseat { key: old }).await?;
        }
        self.take_seat().await?;
        replica::reseated(self.shared.store.folder());
        Ok(())
    }
}

/// In a folder that was copied or restored: has the new key take the old one's seat, as soon as the others answer.
pub(crate) async fn reseat(node: Arc<Node>, stop: CancellationToken) -> Result<()> {
    let Some(old) = replica::old_seat(node.shared.store.folder()) else { return Ok(()) };
    tracing::warn!("this folder is a copy or was restored: its old key never votes again, a new one takes its seat");
    let replacing = async {
        while let Err(error) = node.replace_seat(old).await {
            tracing::warn!(%error, "the new key has no seat yet; trying again");
            tokio::time::sleep(RECONNECT).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = replacing => {}
    }
    Ok(())
}

impl AccountStatus {
    /// Of an account.
    pub fn of(key: &NodeId, network: &str, account: &Account) -> Self {
        let sum = |parts: &mut dyn Iterator<Item = Credits>| parts.map(|part| part.0).sum();
        Self {
            key: key.to_string(),
            network: network.to_owned(),
            balance_micro: account.balance.0,
            locked_micro: sum(&mut account.locked.iter().copied()),
            bond_micro: account.bond.0,
            unbonding_micro: sum(&mut account.unbonding.iter().map(|part| part.amount)),
            deposit_micro: account.deposit.0,
            transactions: account.wallet_nonce,
        }
    }
}

/// A proof as it is handed on: what an account holds on which chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// The chain.
    pub chain: Hash,
    /// The proof.
    pub proof: chain::AccountProof,
}

wire_struct!(ProofFile { chain, proof });

/// What a proof says, to who knows how the network began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proved {
    /// What the account held.
    pub account: AccountStatus,
    /// Behind which block.
    pub height: u64,
    /// At what time, Unix milliseconds.
    pub time_ms: u64,
    /// The block whose certificate says so, and how many epochs lead there.
    pub certified_by: u64,
    /// Of which epoch.
    pub epoch: u64,
    /// How many validators' signatures had to be there.
    pub signers: usize,
}

impl ProofFile {
    /// What it proves. Needs no network: only how it began.
    pub fn check(&self, genesis: &chain::Genesis) -> Result<Proved> {
        ensure!(self.chain == genesis.chain(), "the proof is of another chain than {}", genesis.name);
        let (account, light) = self.proof.check(chain::Light::of(genesis)).context("the proof does not hold")?;
        let n = light.set().len();
        Ok(Proved {
            account: AccountStatus::of(&self.proof.owner, &genesis.name, &account.unwrap_or_default()),
            height: self.proof.height,
            time_ms: self.proof.time.0,
            certified_by: light.newest().height,
            epoch: light.newest().epoch,
            signers: n - (n - 1) / 3,
        })
    }
}

/// What a run is called, where the chain has it still.
fn run_name(kept: &Kept, run: &RunId) -> Option<String> {
    kept.keeper.look(|orderer| orderer.state().runs().runs.get(run).map(|run| run.spec.name.clone()))
}

fn trust(validators: usize) -> String {
    match validators {
        1 => "one validator: its owner's own book-keeping, nothing that others need to believe; unaudited".into(),
        n => format!("{n} validators: final unless {} or more of them lie together; unaudited", (n - 1) / 3 + 1),
    }
}
