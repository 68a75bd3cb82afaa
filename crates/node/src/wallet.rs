//! What the owner asks of the chain that this node keeps: what is on it, and what to say on it.

use crate::Node;
use crate::log::Kept;
use anyhow::{Result, bail};
use base::{NodeId, Signed, Wire};
use chain::{Tx, VOTE_DOMAIN, Vote};
use ledger::{Account, Credits, Envelope};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use swarm::RunId;

/// The chain as a node sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// The network's name.
    pub network: String,
    /// The chain's.
    pub chain: String,
    /// Of the last final block.
    pub height: u64,
    /// Its hash.
    pub tip: String,
    /// Its time, Unix milliseconds.
    pub time_ms: u64,
    /// Who orders blocks.
    pub validators: Vec<String>,
    /// What so many validators prove.
    pub trust: String,
    /// All credits that exist, in micro-credits.
    pub supply_micro: u64,
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

/// A final block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockStatus {
    /// From 1.
    pub height: u64,
    /// Its name.
    pub hash: String,
    /// The one before.
    pub parent: String,
    /// Root of the state behind its parent.
    pub root: String,
    /// Unix milliseconds.
    pub time_ms: u64,
    /// Its transactions: kind and signer.
    pub transactions: Vec<(String, String)>,
}

/// A transaction is final after so long, or something is wrong.
const FINAL_WITHIN: Duration = Duration::from_secs(30);

impl Node {
    pub(crate) fn home(&self) -> Arc<Kept> {
        self.shared.chains.home.kept().expect("the chain at home is kept from the start")
    }

    /// What the chain of this node says of itself.
    pub fn chain(&self) -> ChainStatus {
        let kept = self.home();
        let validator = &kept.keeper;
        let trouble = validator.trouble();
        let refused = validator.refused().iter().map(|(reject, n)| (reject.name().to_owned(), n)).collect();
        let blocked = validator.blocked().iter().map(NodeId::to_string).collect();
        validator.look(|orderer| {
            let state = orderer.state();
            ChainStatus {
                network: state.name().to_owned(),
                chain: state.chain().to_string(),
                height: state.height(),
                tip: state.tip().to_string(),
                time_ms: state.time().0,
                validators: state.validators().iter().map(NodeId::to_string).collect(),
                trust: trust(state.validators().len()),
                supply_micro: state.money().supply().0,
                runs: state.runs().runs.len(),
                refused,
                blocked,
                trouble,
            }
        })
    }

    /// What `key` owns on it.
    pub fn account(&self, key: &NodeId) -> AccountStatus {
        self.home().keeper.look(|orderer| {
            let nothing = Account::default();
            let account = orderer.state().money().account(key).unwrap_or(&nothing);
            let sum = |parts: &mut dyn Iterator<Item = Credits>| parts.map(|part| part.0).sum();
            AccountStatus {
                key: key.to_string(),
                balance_micro: account.balance.0,
                locked_micro: sum(&mut account.locked.iter().copied()),
                bond_micro: account.bond.0,
                unbonding_micro: sum(&mut account.unbonding.iter().map(|part| part.amount)),
                deposit_micro: account.deposit.0,
                transactions: account.wallet_nonce,
            }
        })
    }

    /// A final block.
    pub fn block(&self, height: u64) -> Result<BlockStatus> {
        let bytes = chain::Disk::block(self.home().store.as_ref(), height)?;
        let Some(bytes) = bytes else { bail!("there is no block {height}; the last one is {}", self.chain().height) };
        let block = chain::Block::from_bytes(&bytes)?;
        Ok(BlockStatus {
            height,
            hash: block.hash().to_string(),
            parent: block.header.parent.to_string(),
            root: block.header.root.to_string(),
            time_ms: block.header.time.0,
            transactions: block.txs.iter().map(|tx| (tx.kind().to_owned(), tx.by().to_string())).collect(),
        })
    }

    /// What a wallet transaction costs.
    pub fn fee(&self) -> Credits {
        self.home().keeper.look(|orderer| orderer.state().money().params().fee)
    }

    /// Says a wallet transaction of this node's own account; gives the height of the block it is final in.
    pub async fn spend(&self, tx: ledger::Tx) -> Result<u64> {
        let (me, key) = (self.id(), &self.shared.key);
        let nonce = self.home().keeper.look(|orderer| {
            let used = orderer.state().money().account(&me).map_or(0, |account| account.wallet_nonce);
            used + orderer.waiting(&me)
        });
        let chain = self.shared.chains.home.chain();
        let tx = Tx::Wallet { tx: Signed::new(ledger::DOMAIN, key, Envelope { chain, nonce, tx }) };
        self.say(&tx).await
    }

    /// This node's vote on a run's part of new money.
    pub async fn admit(&self, run: RunId, share_permille: u16) -> Result<u64> {
        let seat = self.shared.store.secret("seat")?;
        let chain = self.shared.chains.home.chain();
        let seq = chain::clock().0;
        let vote = Signed::new(VOTE_DOMAIN, &seat, Vote { chain, seq, run, share_permille });
        self.say(&Tx::Vote { vote }).await
    }

    /// Submits and waits until it is final.
    async fn say(&self, tx: &Tx) -> Result<u64> {
        let kept = self.home();
        let validator = &kept.keeper;
        if let Err(reject) = validator.submit(&tx.to_bytes()) {
            bail!("refused: {}", why(reject));
        }
        let mut heights = validator.height();
        let done = async {
            while !validator.look(|orderer| orderer.state().used(tx)) {
                heights.changed().await?;
            }
            let height = *heights.borrow();
            anyhow::Ok(height)
        };
        match tokio::time::timeout(FINAL_WITHIN, done).await {
            Ok(height) => height,
            Err(_) => bail!(
                "not final yet after {} s: {}",
                FINAL_WITHIN.as_secs(),
                validator.trouble().unwrap_or_else(|| "too few validators answer".into())
            ),
        }
    }
}

/// A refusal for people.
fn why(reject: base::Reject) -> String {
    match reject {
        base::Reject::Insufficient => "there is not so much (with the fee) in the account".into(),
        base::Reject::BadAmount => "the amount is zero, or more than can be added".into(),
        base::Reject::UnknownRun => "the chain of this node does not have this run".into(),
        other => other.to_string(),
    }
}

fn trust(validators: usize) -> String {
    match validators {
        1 => "one validator: its owner's own book-keeping, nothing that others need to believe".into(),
        n => format!("{n} validators: final unless {} or more of them lie together", (n - 1) / 3 + 1),
    }
}
