//! `talkoo demo ledger`: four validators, one killed, work and pay go on; then balances and a proof.

use crate::{FIRST_WITHIN, Peer, SPEEDS, calibrate, duty, say, wait_for};
use anyhow::{Context, Result, ensure};
use base::{NodeId, Wire};
use chain::Happened;
use ledger::Credits;
use node::{ControlRequest, ProofFile};
use replica::NetworkFile;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use swarm::RunEvent;
use trainer::RunStatus;

#[derive(clap::Args)]
pub struct LedgerArgs {
    /// Seconds of training.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// Keep the files here instead of deleting them.
    #[arg(long, value_name = "DIR")]
    pub(super) keep: Option<PathBuf>,
}

/// What the run pays its members, in all.
const BUDGET: Credits = Credits::whole(7);

pub(super) async fn show(device: &str, args: &LedgerArgs, stage: &Path) -> Result<()> {
    say(
        "Four machines found a network: each is a validator with a key of its own, none of them keeps the books alone.",
    );
    let binds = addresses(SPEEDS.len())?;
    let network = found(stage, &binds)?;
    let chain = network.genesis.chain();
    say(&format!("chain {chain}: a block is final when three of the four have signed it"));
    let corpus = stage.join("corpus");
    tokio::task::block_in_place(|| data::shipped::build(&corpus))?;
    let speed = tokio::task::block_in_place(|| calibrate(device, stage))?;
    let duties: Vec<u32> = (0..SPEEDS.len()).map(|i| duty(i, speed)).collect();
    let parts: f64 = duties.iter().map(|duty| f64::from(*duty) / 100.0).sum();
    let tokens = (speed * parts * 0.6 * args.seconds as f64) as u64;
    std::fs::write(stage.join("run.toml"), run_file(tokens))?;
    let file = stage.join("run.toml").to_string_lossy().into_owned();

    let mut peers = Vec::new();
    for (i, duty) in duties.iter().enumerate() {
        let arguments: Vec<&str> =
            if i == 0 { vec!["train", "create", &file] } else { vec!["up", "--when", "always", "--no-runs"] };
        peers.push(Some(Peer::start_at(stage, &name(i), &binds[i], *duty, &arguments)?));
    }
    let at = |peers: &[Option<Peer>], i: usize| peers[i].as_ref().map(|peer| peer.dir.clone()).context("it was killed");
    let first = peers[0].as_ref().context("it runs")?;
    let ticket =
        wait_for(first, "the ticket", FIRST_WITHIN, |run| (!run.name.is_empty()).then(|| run.ticket.clone())).await?;
    let run = wait_for(first, "the run", FIRST_WITHIN, |run| Some(run.run.clone())).await?;
    for i in 1..SPEEDS.len() {
        ask(&at(&peers, i)?, ControlRequest::Join { ticket: ticket.clone() }).await?;
    }
    let fund = ledger::WalletTx::Fund { pot: run.parse()?, amount: BUDGET };
    let creator = ask(&at(&peers, 0)?, ControlRequest::Account { network: None, key: None }).await?;
    let creator = creator["key"].as_str().unwrap_or_default().to_owned();
    let paid =
        ask(&at(&peers, 0)?, ControlRequest::Spend { network: None, tx: base::to_hex(&fund.to_bytes()) }).await?;
    say(&format!(
        "the first creates a run and pays {BUDGET} credits into its budget: final in block {}",
        paid["final_at"]
    ));
    let parts: Vec<String> = duties.iter().map(|duty| format!("{duty} %")).collect();
    say(&format!("all four train it, with {} of a core's time; each round pays by claimed tokens\n", parts.join(", ")));

    // The second one watches: the first will be gone.
    let watched = at(&peers, 1)?;
    let mut killed = None;
    let begun = Instant::now();
    let limit = Duration::from_secs(args.seconds * 4 + 60);
    let end = loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        ensure!(begun.elapsed() < limit, "the run did not end in time; see the logs in {}", stage.display());
        let Some(run) = peers[1].as_ref().context("it runs")?.run().await else { continue };
        let status = ask(&watched, ControlRequest::Chain { network: None }).await?;
        line(&run, &status);
        if killed.is_none() && run.tokens.0 * 3 > run.tokens.1 {
            let mut creator = peers[0].take().context("it runs")?;
            creator.kill().await?;
            killed = Some((status["height"].as_u64().unwrap_or_default(), run.version));
            say("-- the first machine, which created the run, is killed (SIGKILL) for good");
        }
        if run.ended && run.root.as_ref().is_some_and(|(version, _)| *version == run.version) {
            break run;
        }
    };
    let (height, round) = killed.context("the run ended before the first machine could be killed")?;
    let now = ask(&watched, ControlRequest::Chain { network: None }).await?;
    let blocks = now["height"].as_u64().unwrap_or_default() - height;
    ensure!(blocks > 0 && end.version > round, "nothing went on after the first machine was gone");
    say(&format!("\nwithout it: {blocks} more blocks, {} more rounds, to the end of the run", end.version - round));
    same_chain(&peers, stage, &now).await?;
    proof(stage, &watched, &end, &network).await?;
    for peer in peers.iter_mut().flatten() {
        peer.stop().await;
    }
    tokio::task::block_in_place(|| balances(&watched, &network, &end, &creator))?;
    if args.keep.is_some() {
        say(&format!("files: {}", stage.display()));
    }
    Ok(())
}

fn name(i: usize) -> String {
    format!("validator-{}", i + 1)
}

/// Addresses that were free a moment ago.
fn addresses(n: usize) -> Result<Vec<String>> {
    let sockets = (0..n).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    sockets.iter().map(|socket| Ok(socket.local_addr()?.to_string())).collect()
}

/// Founds the network as its owners would: each makes a seat, one makes the file, each joins with it.
fn found(stage: &Path, binds: &[String]) -> Result<NetworkFile> {
    let folder = |i: usize| stage.join(name(i));
    let seats = binds.iter().enumerate().map(|(i, bind)| replica::seat(&folder(i), bind.parse()?, None));
    let network = NetworkFile::new("demo", seats.collect::<Result<_>>()?)?;
    network.write(&stage.join("demo.network"))?;
    for i in 0..binds.len() {
        replica::join_network(&folder(i), &network)?;
    }
    Ok(network)
}

fn run_file(tokens: u64) -> String {
    format!(
        "[run]\nname = \"bard\"\nseed = 7\n[model]\nsize = \"tiny\"\n[data]\nmanifest = \"corpus\"\nseq_len = 128\n\
         [train]\ntokens = {tokens}\nbatch_tokens = 1024\nmicro_batch = 1\nlr = 3e-3\nwarmup = 0.05\n\
         [round]\nmode = \"gradients\"\nbits = 8\ntarget_seconds = 1\n[out]\nevery_rounds = 1000000\n"
    )
}

async fn ask(dir: &Path, request: ControlRequest) -> Result<Value> {
    node::call(dir, &request).await?.with_context(|| format!("the node on {} is gone", dir.display()))
}

fn line(run: &RunStatus, chain: &Value) {
    let loss = run.rounds.iter().rev().find(|round| round.loss > 0.0).map_or(0.0, |round| round.loss);
    let active = run.members.iter().filter(|member| member.status == swarm::Standing::Active).count();
    say(&format!(
        "block {:>5}  round {:>4}  loss {loss:.3}  {active} members, {} of {} tokens",
        chain["height"].as_u64().unwrap_or_default(),
        run.version,
        base::grouped(run.tokens.0),
        base::grouped(run.tokens.1)
    ));
}

/// What a member did, was paid, and would have to be paid exactly, in millionths of a millionth of a credit.
#[derive(Default)]
struct Line {
    tokens: u64,
    paid: u64,
    due: u128,
}

/// Goes through the chain once more, round by round: what each member was paid against its part of the tokens.
fn balances(dir: &Path, network: &NetworkFile, run: &RunStatus, creator: &str) -> Result<()> {
    let mut state = chain::State::new(&network.genesis);
    let store = replica::ChainStore::of(dir, &network.genesis.chain())?;
    let id = run.run.parse()?;
    let mut lines: BTreeMap<NodeId, Line> = BTreeMap::new();
    let mut given = 0;
    for height in 1.. {
        let Some(bytes) = replica::Disk::block(&store, height)? else { break };
        let happened = state.apply(&chain::Block::from_bytes(&bytes)?)?;
        let mut paid: BTreeMap<NodeId, u64> = BTreeMap::new();
        for what in &happened {
            match what {
                Happened::Paid { to, amount, .. } => *paid.entry(*to).or_default() += amount.0,
                // What is paid for a round comes before the word that it closed.
                Happened::Run(RunEvent::Closed(of, round)) if *of == id => {
                    let closed = state.runs().runs[&id].closed_round(round.0).context("a round that just closed")?;
                    let units = chain::units(closed);
                    let tokens: u64 = units.iter().map(|(_, tokens)| tokens).sum();
                    let all: u64 = std::mem::take(&mut paid)
                        .into_iter()
                        .map(|(to, amount)| {
                            lines.entry(to).or_default().paid += amount;
                            amount
                        })
                        .sum();
                    given += all;
                    for (member, own) in units {
                        let line = lines.entry(member).or_default();
                        line.tokens += own;
                        line.due += u128::from(all) * u128::from(own) * 1_000_000 / u128::from(tokens.max(1));
                    }
                }
                _ => {}
            }
        }
    }
    say("\nmember       tokens          paid      due by tokens of each round   difference");
    for (member, line) in &lines {
        let off = (line.paid as i128 * 1_000_000 - line.due as i128) as f64 / 1e6;
        let name = member.to_string();
        say(&format!(
            "{}  {:>9}  {:>12}  {:>28}  {off:>+8.3} millionths{}",
            base::short(&name),
            base::grouped(line.tokens),
            Credits(line.paid).to_string(),
            Credits((line.due / 1_000_000) as u64).to_string(),
            if name == creator { "   (killed)" } else { "" }
        ));
        // A round is divided to the last millionth of a credit: less than one is off, for each member and round.
        ensure!(off.abs() <= run.version as f64, "{name} was paid {} millionths too much", off);
    }
    ensure!(given == BUDGET.0, "paid {given} of a budget of {}", BUDGET.0);
    let money = state.money();
    ensure!(u128::from(money.supply().0) == money.held(), "the books do not add up");
    say(&format!(
        "together {}: the whole budget; what everybody holds is what was issued less fees burned, {} credits",
        Credits(given),
        money.supply()
    ));
    Ok(())
}

/// The three that are left have one chain.
async fn same_chain(peers: &[Option<Peer>], stage: &Path, status: &Value) -> Result<()> {
    let height = status["height"].as_u64().unwrap_or_default();
    let mut hashes = Vec::new();
    for peer in peers.iter().flatten() {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match ask(&peer.dir, ControlRequest::Block { network: None, height }).await {
                Ok(block) => break hashes.push(block["hash"].as_str().unwrap_or_default().to_owned()),
                Err(error) => ensure!(Instant::now() < deadline, "{error}; see the logs in {}", stage.display()),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    ensure!(hashes.iter().all(|hash| *hash == hashes[0]), "the chains differ at block {height}");
    say(&format!("block {height} is {} on all three that are left", base::short(&hashes[0])));
    Ok(())
}

/// A proof in a file, verified by a program that has nothing else but the network's file.
async fn proof(stage: &Path, dir: &Path, run: &RunStatus, network: &NetworkFile) -> Result<()> {
    let member = run.members.iter().max_by_key(|member| member.tokens).context("a member")?;
    let answer = ask(dir, ControlRequest::Prove { network: None, key: Some(member.node.clone()) }).await?;
    let bytes = base::from_hex(answer["proof"].as_str().context("no proof")?)?;
    let path = stage.join("account.proof");
    std::fs::write(&path, &bytes)?;
    say(&format!(
        "\nthe account of {} with its proof, {} bytes; verified off line with the network's file alone:",
        base::short(&member.node),
        bytes.len()
    ));
    let verify = std::process::Command::new(std::env::current_exe()?)
        .args([
            "--data".as_ref(),
            stage.join("stranger").as_os_str(),
            "chain".as_ref(),
            "verify".as_ref(),
            path.as_os_str(),
        ])
        .args(["--network-file".as_ref(), stage.join("demo.network").as_os_str()])
        .output()?;
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    ensure!(verify.status.success(), "the proof does not hold: {}", String::from_utf8_lossy(&verify.stderr));
    text.trim_end().lines().for_each(|line| say(&format!("    {line}")));
    let mut forged = ProofFile::from_bytes(&bytes)?;
    forged.proof.height += 1;
    ensure!(forged.check(&network.genesis).is_err(), "a changed proof holds");
    say("the same with one number changed is refused");
    Ok(())
}
