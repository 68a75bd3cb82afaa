//! Credits: of the node's own account, which earns, and of the owner's wallet, which holds.

use crate::amount;
use crate::client;
use crate::{Common, render};
use anyhow::{Context, Result, bail, ensure};
use base::{NodeId, Signed, Wire};
use clap::{Args, Subcommand};
use ledger::{Credits, WalletEnvelope, WalletTx};
use node::ControlRequest;
use serde_json::{Value, json};
use std::io::IsTerminal;

#[derive(Subcommand)]
pub(crate) enum WalletCommand {
    /// Make a wallet: a key of its own, encrypted; prints the 24 words that restore it.
    New,
    /// What the wallet and the node's account hold.
    Show(On),
    /// The same as one number of each.
    Balance(On),
    /// What happened to an account, newest first.
    History {
        #[command(flatten)]
        on: On,
        /// At most so many entries.
        #[arg(long, default_value_t = 20)]
        count: usize,
        /// Of the node's account, where there is a wallet too.
        #[arg(long)]
        node: bool,
    },
    /// Send credits to another account.
    Send {
        /// Its key; for a member of one of this node's runs the beginning is enough.
        to: String,
        /// Credits, up to six digits after the point.
        amount: String,
        #[command(flatten)]
        spend: Spend,
    },
    /// Move what the node has earned into the wallet.
    Collect {
        /// Credits; everything but a fee if left out.
        amount: Option<String>,
        #[command(flatten)]
        spend: Spend,
    },
    /// Pay into the budget of a run, from which its members are paid by tokens.
    Fund {
        /// The run: its name, or the beginning of its id.
        run: String,
        /// Credits, up to six digits after the point.
        amount: String,
        #[command(flatten)]
        spend: Spend,
    },
    /// Put credits up as a bond: a part of it stands for each seat of a validator.
    Bond {
        /// Credits.
        amount: String,
        #[command(flatten)]
        spend: Spend,
    },
    /// Take credits out of the bond; they are free after the unbonding delay.
    Unbond {
        /// Credits.
        amount: String,
        #[command(flatten)]
        spend: Spend,
    },
    /// What the node's account has set aside for each provider that it pays.
    Providers(On),
    /// Take back what is set aside for providers: it is free after a day, in which they redeem what they were promised.
    Close {
        /// The provider's key, or its beginning; without one, all of them, and what is not allotted to anybody.
        provider: Option<String>,
        #[command(flatten)]
        spend: Spend,
    },
    /// Print the 24 words that restore the wallet.
    Backup,
    /// Make the wallet anew from its 24 words, given on standard input.
    Restore,
}

/// Which network.
#[derive(Args)]
pub(crate) struct On {
    /// The network: its name, or the beginning of its chain's id; this folder's own if left out.
    #[arg(long)]
    pub(crate) network: Option<String>,
}

#[derive(Args)]
pub(crate) struct Spend {
    #[command(flatten)]
    on: On,
    /// From the node's account, where there is a wallet too.
    #[arg(long)]
    node: bool,
    /// Do it; without this the command only shows what it would do.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn wallet(common: &Common, command: WalletCommand) -> Result<()> {
    match command {
        WalletCommand::New => {
            let (account, words) = node::new_wallet(&common.dir(), &new_passphrase()?)?;
            told(common, &account, Some(&words));
            Ok(())
        }
        WalletCommand::Backup => {
            let words = node::wallet_words(&common.dir(), &passphrase()?)?;
            let account = wallet_of(common)?.context("this folder has no wallet")?;
            told(common, &account, Some(&words));
            Ok(())
        }
        WalletCommand::Restore => {
            if std::io::stdin().is_terminal() {
                eprintln!("the 24 words, on one line:");
            }
            let mut words = String::new();
            std::io::stdin().read_line(&mut words)?;
            let account = node::restore_wallet(&common.dir(), &words, &new_passphrase()?)?;
            told(common, &account, None);
            Ok(())
        }
        WalletCommand::Show(on) => show(common, on).await,
        WalletCommand::Balance(on) => balance(common, on).await,
        WalletCommand::History { on, count, node } => history(common, on, count, node).await,
        WalletCommand::Send { to, amount, spend } => {
            let amount = amount::parse(&amount)?;
            let to = client::key_of(common, &to).await?;
            say(common, spend, &format!("send {amount} to {to}"), WalletTx::Transfer { to, amount }).await
        }
        WalletCommand::Collect { amount, spend } => collect(common, amount, spend).await,
        WalletCommand::Fund { run, amount, spend } => {
            let amount = amount::parse(&amount)?;
            let found = client::find(&client::status(common).await?, Some(&run))?;
            let spend = Spend { on: On { network: spend.on.network.or(Some(found.chain)) }, ..spend };
            let text = format!("pay {amount} into the budget of {}", found.name);
            say(common, spend, &text, WalletTx::Fund { pot: found.run.parse()?, amount }).await
        }
        WalletCommand::Bond { amount, spend } => {
            let amount = amount::parse(&amount)?;
            say(common, spend, &format!("bond {amount}"), WalletTx::Bond { amount }).await
        }
        WalletCommand::Unbond { amount, spend } => {
            let amount = amount::parse(&amount)?;
            say(common, spend, &format!("take {amount} out of the bond, fee included"), WalletTx::Unbond { amount })
                .await
        }
        WalletCommand::Providers(on) => providers(common, on).await,
        WalletCommand::Close { provider, spend } => close(common, provider.as_deref(), spend).await,
    }
}

fn wallet_of(common: &Common) -> Result<Option<NodeId>> {
    node::wallet_account(&common.dir())
}

fn told(common: &Common, account: &NodeId, words: Option<&str>) {
    render::print(common, &json!({ "account": account.to_string(), "words": words }), || match words {
        Some(words) => format!(
            "account {account}\n\n  {words}\n\nWrite these words down and keep them where nobody else looks: they are the wallet.\n\
             Without them and without this folder its credits are lost. A running node takes it up at its next start."
        ),
        None => format!("account {account}; a running node takes it up at its next start"),
    });
}

/// From the environment, or asked for; never from the command line, which others can read.
fn passphrase() -> Result<String> {
    match std::env::var("TALKOO_PASSPHRASE") {
        Ok(text) => Ok(text),
        Err(_) if std::io::stderr().is_terminal() => Ok(rpassword::prompt_password("passphrase: ")?),
        Err(_) => bail!("the wallet needs its passphrase: set TALKOO_PASSPHRASE, or run this in a terminal"),
    }
}

fn new_passphrase() -> Result<String> {
    let text = passphrase()?;
    if std::env::var_os("TALKOO_PASSPHRASE").is_none() {
        ensure!(rpassword::prompt_password("once more: ")? == text, "the two passphrases differ");
    }
    Ok(text)
}

/// Shows what would be done, or does it: signed here where the wallet pays, by the node where its account does.
async fn say(common: &Common, spend: Spend, text: &str, tx: WalletTx) -> Result<()> {
    let network = spend.on.network;
    let wallet = wallet_of(common)?.filter(|_| !spend.node);
    let from = if wallet.is_some() { "the wallet" } else { "the node's account" };
    let key = match wallet {
        Some(wallet) => wallet.to_string(),
        None => client::ask(common, ControlRequest::Account { network: None, key: None }).await?["key"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    };
    let next = client::ask(common, ControlRequest::Next { network: network.clone(), key }).await?;
    let fee = Credits(next["fee_micro"].as_u64().unwrap_or_default());
    if !spend.yes {
        bail!("this would {text} from {from} and burn the fee of {fee}; add --yes to do it");
    }
    let answer = if wallet.is_some() {
        let key = node::open_wallet(&common.dir(), &passphrase()?)?;
        let chain = next["chain"].as_str().unwrap_or_default().parse()?;
        let nonce = next["nonce"].as_u64().context("the node's answer has no number")?;
        let tx = chain::Tx::Wallet { tx: Signed::new(ledger::DOMAIN, &key, WalletEnvelope { chain, nonce, tx }) };
        client::ask(common, ControlRequest::Submit { network, tx: base::to_hex(&tx.to_bytes()) }).await?
    } else {
        client::ask(common, ControlRequest::Spend { network, tx: base::to_hex(&tx.to_bytes()) }).await?
    };
    render::print(common, &answer, || {
        format!("done: {text}, from {from}, fee {fee}; final in block {}", answer["final_at"])
    });
    Ok(())
}

async fn collect(common: &Common, amount: Option<String>, spend: Spend) -> Result<()> {
    let to = wallet_of(common)?.context("this folder has no wallet; `talkoo wallet new` makes one")?;
    let network = spend.on.network.clone();
    let amount = match amount {
        Some(amount) => amount::parse(&amount)?,
        None => {
            let held = client::ask(common, ControlRequest::Account { network: network.clone(), key: None }).await?;
            let key = held["key"].as_str().unwrap_or_default().to_owned();
            let next = client::ask(common, ControlRequest::Next { network, key }).await?;
            let micro = |value: &Value| value.as_u64().unwrap_or_default();
            let left = micro(&held["balance_micro"]).saturating_sub(micro(&next["fee_micro"]));
            ensure!(left > 0, "the node's account holds no more than the fee");
            Credits(left)
        }
    };
    let spend = Spend { node: true, ..spend };
    say(common, spend, &format!("move {amount} into the wallet"), WalletTx::Transfer { to, amount }).await
}

async fn providers(common: &Common, on: On) -> Result<()> {
    let answer = client::ask(common, ControlRequest::Allotments { network: on.network }).await?;
    render::print(common, &answer, || {
        let line = |entry: &Value| {
            let (paid, left) = (render::credits(&entry["paid_micro"]), render::credits(&entry["left_micro"]));
            let closes = entry["closes_ms"].as_u64();
            let closes = closes.map(|at| format!(", back at {}", node::utc(at))).unwrap_or_default();
            format!("{}  {paid} paid, {left} left{closes}", entry["provider"].as_str().unwrap_or_default())
        };
        let mut lines: Vec<String> = answer["providers"].as_array().into_iter().flatten().map(line).collect();
        lines.push(format!("{} set aside for nobody yet", render::credits(&answer["deposit_micro"])));
        lines.join("\n")
    });
    Ok(())
}

/// Closes the allotment of a provider, or all of them; a deposit that nobody has goes back at once.
async fn close(common: &Common, provider: Option<&str>, spend: Spend) -> Result<()> {
    let network = spend.on.network;
    let held = client::ask(common, ControlRequest::Allotments { network: network.clone() }).await?;
    let all = held["providers"].as_array().cloned().unwrap_or_default();
    let open = all.iter().filter(|entry| entry["closes_ms"].is_null());
    let keys = open.filter_map(|entry| entry["provider"].as_str());
    let keys: Vec<&str> = keys.filter(|key| provider.is_none_or(|begins| key.starts_with(begins))).collect();
    let deposit = Credits(held["deposit_micro"].as_u64().unwrap_or_default());
    let mut txs: Vec<(String, WalletTx)> = Vec::new();
    for key in &keys {
        txs.push((format!("take back what is left for {}", base::short(key)), WalletTx::Close { payee: key.parse()? }));
    }
    if provider.is_none() && deposit > Credits::ZERO {
        txs.push((format!("take back {deposit} that nobody has"), WalletTx::Withdraw { amount: deposit }));
    }
    match (provider, keys.len()) {
        (Some(begins), 0) => bail!("nothing is set aside for {begins}, or it is on its way back already"),
        (Some(begins), 2..) => bail!("several providers begin with {begins}: give more of the key"),
        _ => ensure!(!txs.is_empty(), "nothing is set aside for providers, or all of it is on its way back"),
    }
    for (text, tx) in txs {
        let on = On { network: network.clone() };
        say(common, Spend { on, node: true, yes: spend.yes }, &text, tx).await?;
    }
    Ok(())
}

/// The wallet's account, where there is one, and the node's.
async fn accounts(common: &Common, on: &On) -> Result<Vec<(&'static str, Value)>> {
    let network = || on.network.clone();
    let own = client::ask(common, ControlRequest::Account { network: network(), key: None }).await?;
    let mut out = Vec::new();
    if let Some(wallet) = wallet_of(common)? {
        let key = Some(wallet.to_string());
        out.push(("wallet", client::ask(common, ControlRequest::Account { network: network(), key }).await?));
    }
    out.push(("node", own));
    Ok(out)
}

async fn show(common: &Common, on: On) -> Result<()> {
    let all = accounts(common, &on).await?;
    // The node's account stands for the folder where there is no wallet.
    let mut value = all.last().map(|(_, value)| value.clone()).unwrap_or_default();
    if let [(_, wallet), _] = all.as_slice() {
        value["wallet"] = wallet.clone();
    }
    render::print(common, &value, || {
        all.iter().map(|(name, account)| account_text(name, account)).collect::<Vec<_>>().join("\n\n")
    });
    Ok(())
}

async fn balance(common: &Common, on: On) -> Result<()> {
    let all = accounts(common, &on).await?;
    let value = all.iter().map(|(name, account)| ((*name).to_owned(), account["balance_micro"].clone())).collect();
    render::print(common, &Value::Object(value), || {
        let line =
            |(name, account): &(&str, Value)| format!("{name:<7} {}", render::credits(&account["balance_micro"]));
        all.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

async fn history(common: &Common, on: On, count: usize, node: bool) -> Result<()> {
    let key = wallet_of(common)?.filter(|_| !node).map(|key| key.to_string());
    let answer = client::ask(common, ControlRequest::History { network: on.network, key, count }).await?;
    render::print(common, &answer, || {
        let entries: Vec<replica::Entry> = serde_json::from_value(answer.clone()).unwrap_or_default();
        let line = |entry: &replica::Entry| {
            let amount = match (entry.in_micro, entry.out_micro) {
                (0, 0) => String::new(),
                (coming, 0) => format!("+{}", Credits(coming)),
                (_, going) => format!("-{}", Credits(going)),
            };
            let (time, other) = (node::utc(entry.time_ms), base::short(&entry.other));
            format!("{time}  block {:>7}  {:<9} {amount:>16}  {other}", entry.height, entry.what)
        };
        if entries.is_empty() {
            "nothing happened to it yet".into()
        } else {
            entries.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    });
    Ok(())
}

/// An account for people.
pub(crate) fn account_text(name: &str, account: &Value) -> String {
    let text = |field: &str| account[field].as_str().unwrap_or_default().to_owned();
    let mut out = format!("{name} account {}\non {}\n", text("key"), text("network"));
    let parts = [
        ("balance", "free"),
        ("locked", "earned, still open to audit"),
        ("bond", "bonded"),
        ("unbonding", "leaving the bond"),
        ("deposit", "set aside for providers"),
    ];
    for (field, what) in parts {
        let micro = &account[format!("{field}_micro")];
        if field == "balance" || micro.as_u64() != Some(0) {
            out.push_str(&format!("{:>18}  {what}\n", render::credits(micro)));
        }
    }
    out.push_str(&format!("{} wallet transactions", account["transactions"]));
    out
}
