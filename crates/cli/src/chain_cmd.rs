//! Networks, and the chains that keep count of everything on them.

use crate::client;
use crate::wallet::{On, account_text};
use crate::{Common, render};
use anyhow::{Context, Result, bail};
use base::Wire;
use clap::Subcommand;
use node::{ControlRequest, ProofFile};
use replica::{NetworkFile, SeatOffer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub(crate) enum ChainCommand {
    /// The network, its validators, and the last block.
    Status(On),
    /// A final block.
    Block {
        /// From 1.
        height: u64,
        #[command(flatten)]
        on: On,
    },
    /// A final transaction.
    Tx {
        /// The beginning of its hash.
        hash: String,
        #[command(flatten)]
        on: On,
    },
    /// An account.
    Account {
        /// Its key; for a member of one of this node's runs the beginning is enough.
        key: String,
        #[command(flatten)]
        on: On,
    },
    /// Proves what an account holds, in a file that anyone can verify who has the network's file.
    Proof {
        /// Its key; for a member of one of this node's runs the beginning is enough. This node's own if left out.
        key: Option<String>,
        /// Where the proof goes.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        on: On,
    },
    /// Verifies a proof, off line.
    Verify {
        /// The proof.
        proof: PathBuf,
        /// The network's file; the one of this data folder if left out.
        #[arg(long)]
        network_file: Option<PathBuf>,
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
    /// Make a network this data folder's own, before its node is first started. Without a seat in it the node
    /// follows; `talkoo network stake` takes one.
    Join {
        /// The network's file.
        file: PathBuf,
    },
    /// The networks of this node.
    Show,
    /// Write the file of this folder's own network, for others to join.
    Export {
        /// Where the file goes.
        #[arg(long)]
        out: PathBuf,
    },
    /// Bond for a seat among the validators, from the next epoch on.
    Stake,
    /// Give up the seat at the end of the epoch; the bond can then be taken out.
    Leave,
    /// When more than a third of the validators are gone for good: a new network that goes on from the last
    /// certified state, with new validators and a new chain id. A plain fork, and it says who made it.
    Recover {
        /// The new network's name.
        name: String,
        /// Seats of the new validators, as `talkoo network seat` printed them: one, or four and more.
        #[arg(long = "seat", required = true)]
        seats: Vec<String>,
        /// Where the new network's file goes.
        #[arg(long)]
        out: PathBuf,
    },
}

const SEAT: &str = "seat1";

fn parse_seats(seats: &[String]) -> Result<Vec<SeatOffer>> {
    let parse = |line: &String| {
        let hex = line.trim().strip_prefix(SEAT).context("a seat begins with `seat1`; copy the whole line")?;
        SeatOffer::from_bytes(&base::from_hex(hex)?).context("a seat that was cut off or mistyped")
    };
    seats.iter().map(parse).collect()
}

pub(crate) async fn network(common: &Common, command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::Seat => {
            let seat = replica::seat(&common.dir(), common.bind(), common.relays()?.into_iter().next())?;
            let line = format!("{SEAT}{}", base::to_hex(&seat.to_bytes()));
            render::print(common, &json!({ "seat": line }), || line.clone());
        }
        NetworkCommand::Create { name, seats, out } => {
            let file = NetworkFile::new(&name, parse_seats(&seats)?)?;
            file.write(&out)?;
            created(common, &file, &out);
        }
        NetworkCommand::Join { file } => {
            let file = NetworkFile::read(&file)?;
            let seated = replica::join_network(&common.dir(), &file)?;
            let chain = file.genesis.chain();
            let role = if seated { "validates" } else { "follows (it has no seat; `talkoo network stake` takes one)" };
            render::print(common, &json!({ "chain": chain, "seated": seated }), || {
                format!("joined {} (chain {chain}); `talkoo up` starts the node, which {role}", file.genesis.name)
            });
        }
        NetworkCommand::Export { out } => {
            let file =
                NetworkFile::of(&common.dir())?.context("this folder has no network yet; `talkoo up` makes one")?;
            file.write(&out)?;
            created(common, &file, &out);
        }
        NetworkCommand::Show => {
            let answer = client::ask(common, ControlRequest::Networks).await?;
            render::print(common, &answer, || {
                let all = answer.as_array().map(Vec::as_slice).unwrap_or_default();
                all.iter().map(status_text).collect::<Vec<_>>().join("\n\n")
            });
        }
        NetworkCommand::Stake => {
            let answer = client::ask(common, ControlRequest::TakeSeat).await?;
            render::print(common, &answer, || "seat taken; it votes from the next epoch on".into());
        }
        NetworkCommand::Leave => {
            let answer = client::ask(common, ControlRequest::LeaveSeat).await?;
            render::print(common, &answer, || {
                "seat given up at the end of the epoch, if four others stay; then `talkoo wallet unbond`".into()
            });
        }
        NetworkCommand::Recover { name, seats, out } => {
            let recovered = replica::recover(&common.dir(), &name, parse_seats(&seats)?)?;
            recovered.file.write(&out)?;
            let value = json!({
                "chain": recovered.file.genesis.chain(),
                "from_chain": recovered.from,
                "from_height": recovered.height,
                "file": out,
            });
            render::print(common, &value, || {
                format!(
                    "{name} goes on from block {} of {}, the last that this folder has certified.\n\
                     It is a fork that whoever holds this file made: nobody of the old validators signed it. Members that\n\
                     trust you join with\n\n  talkoo network join {}",
                    recovered.height,
                    recovered.from,
                    out.display()
                )
            });
        }
    }
    Ok(())
}

fn created(common: &Common, file: &NetworkFile, out: &Path) {
    let chain = file.genesis.chain();
    render::print(common, &json!({ "chain": chain, "file": out }), || {
        format!(
            "{}: {}, chain {chain}, {} validators at the beginning; a node joins with\n\n  talkoo network join {}\n",
            out.display(),
            file.genesis.name,
            file.genesis.validators.len(),
            out.display()
        )
    });
}

pub(crate) async fn chain(common: &Common, command: ChainCommand) -> Result<()> {
    match command {
        ChainCommand::Status(on) => {
            let answer = client::ask(common, ControlRequest::Chain { network: on.network }).await?;
            render::print(common, &answer, || status_text(&answer));
        }
        ChainCommand::Block { height, on } => {
            let answer = client::ask(common, ControlRequest::Block { network: on.network, height }).await?;
            render::print(common, &answer, || block_text(&answer));
        }
        ChainCommand::Tx { hash, on } => {
            let answer = client::ask(common, ControlRequest::Transaction { network: on.network, hash }).await?;
            render::print(common, &answer, || {
                let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
                let whom = answer["to"].as_str().map(|key| format!("\nto {key}")).unwrap_or_default();
                let (hash, by) = (text("hash"), text("by"));
                format!("{hash}\n{by} {}{whom}\nfinal in block {}", text("text"), answer["height"])
            });
        }
        ChainCommand::Account { key, on } => {
            let answer = client::ask(common, ControlRequest::Account { network: on.network, key: Some(key) }).await?;
            render::print(common, &answer, || account_text("an", &answer));
        }
        ChainCommand::Proof { key, out, on } => {
            eprintln!("waiting for the next block, which certifies the state");
            let answer = client::ask(common, ControlRequest::Prove { network: on.network, key }).await?;
            let bytes = base::from_hex(answer["proof"].as_str().context("the node's answer has no proof")?)?;
            let proof = ProofFile::from_bytes(&bytes)?;
            std::fs::write(&out, &bytes).with_context(|| out.display().to_string())?;
            let value = json!({
                "file": out, "bytes": bytes.len(), "chain": proof.chain, "height": proof.proof.height,
                "account": proof.proof.owner.to_string(),
            });
            render::print(common, &value, || {
                format!(
                    "{}: {} bytes, the account behind block {}; anyone verifies it with\n\n  talkoo chain verify {} --network-file FILE\n",
                    out.display(),
                    bytes.len(),
                    proof.proof.height,
                    out.display()
                )
            });
        }
        ChainCommand::Verify { proof, network_file } => verify(common, &proof, network_file)?,
        ChainCommand::Admit { run, share_permille } => {
            let found = client::find(&client::status(common).await?, Some(&run))?;
            let answer = client::ask(common, ControlRequest::Admit { run: found.run, share_permille }).await?;
            render::print(common, &answer, || {
                format!("voted: {} of 1,000 parts of new credits for {}", share_permille, found.name)
            });
        }
    }
    Ok(())
}

fn verify(common: &Common, path: &Path, network: Option<PathBuf>) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let proof = ProofFile::from_bytes(&bytes).with_context(|| format!("{} is no proof", path.display()))?;
    let network = match network {
        Some(file) => NetworkFile::read(&file)?,
        None => match replica::network_of(&common.dir(), &proof.chain)? {
            Some(network) => network,
            None => bail!("this folder does not know chain {}; name its file with --network-file", proof.chain),
        },
    };
    let proved = proof.check(&network.genesis)?;
    let value = serde_json::to_value(&proved)?;
    render::print(common, &value, || {
        format!(
            "{}\n\nproved for the state behind block {}: block {} says so, which at least {} validators of epoch {} signed",
            account_text("an", &value["account"]),
            proved.height,
            proved.certified_by,
            proved.signers,
            proved.epoch
        )
    });
    Ok(())
}

fn status_text(chain: &Value) -> String {
    let text = |name: &str| chain[name].as_str().unwrap_or_default().to_owned();
    let trouble = chain["trouble"].as_str().map(|text| format!("\ntrouble: {text}")).unwrap_or_default();
    format!(
        "{}\nchain {}\nblock {} {}\nepoch {}: {}\nthis node {}\n{} credits exist, {} runs{trouble}",
        text("network"),
        text("chain"),
        chain["height"],
        text("tip"),
        chain["epoch"],
        text("trust"),
        text("role"),
        render::credits(&chain["supply_micro"]),
        chain["runs"],
    )
}

fn block_text(block: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = format!(
        "block {} {}\nparent {}\nroot of the state behind it {}\nepoch {}, proposed by {}\n",
        block["height"],
        text(&block["hash"]),
        text(&block["parent"]),
        text(&block["root"]),
        block["epoch"],
        text(&block["by"]),
    );
    for tx in block["transactions"].as_array().into_iter().flatten() {
        let (hash, by) = (text(&tx["hash"]), text(&tx["by"]));
        out.push_str(&format!("  {}  {} {}\n", base::short(&hash), base::short(&by), text(&tx["text"])));
    }
    for what in block["happened"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}\n", text(&what["text"])));
    }
    out.trim_end().to_owned()
}
