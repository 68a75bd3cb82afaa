//! Credits, and the chain that keeps count of them.

use crate::{Common, render, train};
use anyhow::{Context, Result, bail};
use base::Wire;
use clap::Subcommand;
use ledger::Credits;
use node::{NetworkFile, Request, Seat};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum WalletCommand {
    /// What the node's account holds.
    Show,
    /// Send credits to another account.
    Send {
        /// Its key; for a member of one of this node's runs the beginning is enough.
        to: String,
        /// Credits, up to six digits after the point.
        amount: String,
        /// Do it; without this the command only shows what it would do.
        #[arg(long)]
        yes: bool,
    },
    /// Pay into the budget of a run, from which its members are paid by tokens.
    Fund {
        /// The run: its name, or the beginning of its id.
        run: String,
        /// Credits, up to six digits after the point.
        amount: String,
        /// Do it; without this the command only shows what it would do.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Subcommand)]
pub(crate) enum ChainCommand {
    /// The network, its validators, and the last block.
    Status,
    /// A final block.
    Block {
        /// From 1.
        height: u64,
    },
    /// An account.
    Account {
        /// Its key; for a member of one of this node's runs the beginning is enough.
        key: String,
    },
    /// Vote for a run to earn new credits (only where this node is a validator).
    Admit {
        /// The run: its name, or the beginning of its id.
        run: String,
        /// Of 1,000 parts of what may be issued, at most how many; 0 takes the vote back.
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(0..=1000))]
        share_permille: u16,
    },
}

#[derive(Subcommand)]
pub(crate) enum NetworkCommand {
    /// The line by which this data folder is given a seat; `--bind` says where the node will listen.
    Seat,
    /// Make a network of seats: a file for everybody who has one.
    Create {
        /// Its name.
        name: String,
        /// What `talkoo network seat` printed, once for each validator: one, or four and more.
        #[arg(long = "seat", required = true)]
        seats: Vec<String>,
        /// Where the file goes.
        #[arg(long)]
        out: PathBuf,
    },
    /// Take this data folder's seat in a network, before its node is first started.
    Join {
        /// The network's file.
        file: PathBuf,
    },
}

const SEAT: &str = "seat1";

pub(crate) fn network(common: &Common, command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::Seat => {
            let seat = node::seat(&common.dir(), common.bind)?;
            let line = format!("{SEAT}{}", base::to_hex(&seat.to_bytes()));
            render::print(common, &json!({ "seat": line }), || line.clone());
        }
        NetworkCommand::Create { name, seats, out } => {
            let parse = |line: &String| {
                let hex = line.trim().strip_prefix(SEAT).context("a seat begins with `seat1`; copy the whole line")?;
                Seat::from_bytes(&base::from_hex(hex)?).context("a seat that was cut off or mistyped")
            };
            let file = NetworkFile::new(&name, seats.iter().map(parse).collect::<Result<_>>()?)?;
            file.write(&out)?;
            let chain = file.genesis.chain();
            render::print(common, &json!({ "chain": chain, "file": out }), || {
                format!(
                    "{}: chain {chain}; each of its {} nodes joins with\n\n  talkoo network join {}\n",
                    out.display(),
                    file.seats.len(),
                    out.display()
                )
            });
        }
        NetworkCommand::Join { file } => {
            let file = NetworkFile::read(&file)?;
            node::join_network(&common.dir(), &file)?;
            let chain = file.genesis.chain();
            render::print(common, &json!({ "chain": chain }), || {
                format!("joined {} (chain {chain}); `talkoo up` starts the node", file.genesis.name)
            });
        }
    }
    Ok(())
}

pub(crate) async fn wallet(common: &Common, command: WalletCommand) -> Result<()> {
    match command {
        WalletCommand::Show => account(common, None).await,
        WalletCommand::Send { to, amount, yes } => {
            let micro = parse(&amount)?;
            preview(common, yes, &format!("send {} to {to}", Credits(micro)), Request::Send { to, micro }).await
        }
        WalletCommand::Fund { run, amount, yes } => {
            let micro = parse(&amount)?;
            let found = train::find(&train::status(common).await?, Some(&run))?;
            let text = format!("pay {} into the budget of {}", Credits(micro), found.name);
            preview(common, yes, &text, Request::Fund { run: found.run, micro }).await
        }
    }
}

pub(crate) async fn chain(common: &Common, command: ChainCommand) -> Result<()> {
    match command {
        ChainCommand::Status => {
            let answer = train::ask(common, Request::Chain).await?;
            let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
            render::print(common, &answer, || {
                let trouble = answer["trouble"].as_str().map(|text| format!("\ntrouble: {text}")).unwrap_or_default();
                format!(
                    "{}\nchain {}\nblock {} {}\n{}\n{} credits exist, {} runs{trouble}",
                    text("network"),
                    text("chain"),
                    answer["height"],
                    text("tip"),
                    text("trust"),
                    credits(&answer["supply_micro"]),
                    answer["runs"],
                )
            });
            Ok(())
        }
        ChainCommand::Block { height } => {
            let answer = train::ask(common, Request::Block { height }).await?;
            render::print(common, &answer, || block_text(&answer));
            Ok(())
        }
        ChainCommand::Account { key } => account(common, Some(key)).await,
        ChainCommand::Admit { run, share_permille } => {
            let found = train::find(&train::status(common).await?, Some(&run))?;
            let request = Request::Admit { run: found.run, share_permille };
            let answer = train::ask(common, request).await?;
            render::print(common, &answer, || {
                format!("voted: {} of 1,000 parts of new credits for {}", share_permille, found.name)
            });
            Ok(())
        }
    }
}

async fn account(common: &Common, key: Option<String>) -> Result<()> {
    let answer = train::ask(common, Request::Account { key }).await?;
    render::print(common, &answer, || {
        let mut out = format!("account {}\n", answer["key"].as_str().unwrap_or_default());
        let parts = [
            ("balance", "free"),
            ("locked", "earned, still open to audit"),
            ("bond", "bonded"),
            ("unbonding", "leaving the bond"),
            ("deposit", "set aside for providers"),
        ];
        for (name, text) in parts {
            let micro = &answer[format!("{name}_micro")];
            if name == "balance" || micro.as_u64() != Some(0) {
                out.push_str(&format!("{:>18}  {text}\n", credits(micro)));
            }
        }
        out.push_str(&format!("{} wallet transactions", answer["transactions"]));
        out
    });
    Ok(())
}

/// Shows what would be done, or does it.
async fn preview(common: &Common, yes: bool, text: &str, request: Request) -> Result<()> {
    if !yes {
        bail!("this would {text} and burn the fee; add --yes to do it");
    }
    let answer = train::ask(common, request).await?;
    let fee = credits(&answer["fee_micro"]);
    render::print(common, &answer, || format!("done: {text}, fee {fee}; final in block {}", answer["final_at"]));
    Ok(())
}

fn block_text(block: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = format!(
        "block {} {}\nparent {}\nroot of the state behind it {}\n",
        block["height"],
        text(&block["hash"]),
        text(&block["parent"]),
        text(&block["root"])
    );
    for tx in block["transactions"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {:<9} by {}\n", text(&tx[0]), render::short(&text(&tx[1]))));
    }
    out.trim_end().to_owned()
}

fn parse(amount: &str) -> Result<u64> {
    match Credits::parse(amount) {
        Ok(Credits(micro)) if micro > 0 => Ok(micro),
        _ => bail!("`{amount}` is no amount; write credits like 3 or 0.25, up to six digits after the point"),
    }
}

fn credits(micro: &Value) -> String {
    Credits(micro.as_u64().unwrap_or_default()).to_string()
}
