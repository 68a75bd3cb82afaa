//! `talkoo`: one program. See `talkoo help`.

/// `println!` for output that may be cut off: a closed pipe or a full disk ends the program, not in a panic.
macro_rules! outln {
    ($($part:tt)*) => { $crate::render::write_line(format_args!($($part)*)) };
}

#[cfg(feature = "serve")]
mod ask;
#[cfg(feature = "serve")]
mod audit;
mod chain_cmd;
mod data_cmd;
mod demo;
#[cfg(feature = "serve")]
mod key;
#[cfg(feature = "serve")]
mod model_cmd;
mod relay;
mod render;
mod runs;
#[cfg(feature = "serve")]
mod serve;
mod train;
mod wallet;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use node::{Limits, NodeConfig};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Neighbours train open models together.
#[derive(Parser)]
#[command(args_override_self = true, name = "talkoo", version, about, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args, Clone)]
pub(crate) struct Common {
    /// The data folder of this node (default: .talkoo in the home folder).
    #[arg(long, global = true, env = "TALKOO_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Where to listen.
    #[arg(long, global = true, default_value = "0.0.0.0:0", value_name = "ADDR")]
    bind: SocketAddr,
    /// Do not look for nodes of the local network.
    #[arg(long, global = true)]
    no_mdns: bool,
    /// A relay that helps behind a router, as `talkoo relay` prints it; may be given several times.
    #[arg(long, global = true, env = "TALKOO_RELAY", value_delimiter = ',', value_name = "URL")]
    relay: Vec<node::RelayAddr>,
    /// Threads that training may use (default: all).
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Percent of the time in which training may compute.
    #[arg(long, global = true, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    duty: u32,
    /// Device of the trainer: cpu, or one that this program was built with.
    #[arg(long, global = true, default_value = "cpu", value_name = "NAME")]
    device: String,
}

#[derive(Subcommand)]
enum Command {
    /// Run this node: it goes on with its runs by itself. Ctrl-C stops it.
    Up,
    /// Train together.
    #[command(subcommand)]
    Train(train::TrainCommand),
    /// Build and check data.
    #[command(subcommand)]
    Data(data_cmd::DataCommand),
    /// Other nodes.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Serve models to any OpenAI client.
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    /// Models on this machine: fetch, check, give away, remove.
    #[cfg(feature = "serve")]
    #[command(subcommand)]
    Model(model_cmd::ModelCommand),
    /// Ask a model: of the network, or of this machine.
    #[cfg(feature = "serve")]
    Run(ask::RunArgs),
    /// What proves an answer.
    #[cfg(feature = "serve")]
    #[command(subcommand)]
    Receipt(ask::ReceiptCommand),
    /// Check by samples that providers of a model serve what they say.
    #[cfg(feature = "serve")]
    Audit(audit::AuditArgs),
    /// Keys of the API on this machine.
    #[cfg(feature = "serve")]
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Help nodes behind routers to reach each other: this machine has an open port. Ctrl-C stops it.
    Relay(relay::RelayArgs),
    /// Credits of this node's account.
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
    /// Networks of several validators.
    #[command(subcommand)]
    Network(chain_cmd::NetworkCommand),
    /// The chain that orders everything.
    #[command(subcommand)]
    Chain(chain_cmd::ChainCommand),
    /// What the node on the data folder does, and why it waits.
    Status,
    /// Four peers train the shipped example on this machine; one is killed, another joins.
    Demo(demo::DemoArgs),
}

#[derive(Subcommand)]
enum PeerCommand {
    /// Members of this node's runs.
    Ls,
    /// The way to a peer: delay, and whether it is direct.
    Ping {
        /// Its key, as `talkoo peer ls` shows it.
        peer: String,
    },
}

/// Held-out tokens that a node measures at each checkpoint.
const EVAL_TOKENS: u64 = 16_384;

impl Common {
    /// The data folder.
    pub(crate) fn dir(&self) -> PathBuf {
        let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
        self.data.clone().unwrap_or_else(|| home().join(".talkoo"))
    }

    /// Threads that training may use.
    pub(crate) fn threads(&self) -> usize {
        self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    pub(crate) fn node(&self) -> NodeConfig {
        NodeConfig {
            dir: self.dir(),
            bind: self.bind,
            mdns: !self.no_mdns,
            relays: self.relay.clone(),
            limits: Limits { threads: self.threads(), duty_percent: self.duty },
            device: self.device.clone(),
            eval_tokens: EVAL_TOKENS,
        }
    }
}

/// Warnings, but for what is ordinary: that nodes leave a relay without a word.
const QUIET: &str = "warn,iroh_relay::server=error";

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TALKOO_LOG").unwrap_or_else(|_| QUIET.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::try_parse().unwrap_or_else(|error| usage(&error));
    let json = cli.common.json;
    match run(cli).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            if json {
                outln!("{}", serde_json::json!({ "error": chain(&error) }));
            }
            eprintln!("talkoo: {}", chain(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

/// A wrong command line, in JSON too where that was asked for. Help and version are no errors.
fn usage(error: &clap::Error) -> ! {
    if error.use_stderr() && std::env::args().any(|argument| argument == "--json") {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        outln!("{}", serde_json::json!({ "error": text }));
    }
    error.exit()
}

/// An error and its causes; one that repeats what was just said is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for part in error.chain().map(ToString::to_string) {
        if !out.ends_with(&part) {
            let between = if out.is_empty() { "" } else { ": " };
            out.push_str(between);
            out.push_str(&part);
        }
    }
    out
}

async fn run(cli: Cli) -> Result<()> {
    let common = cli.common;
    match cli.command {
        Command::Up => train::up(&common).await,
        Command::Train(command) => train::run(&common, command).await,
        Command::Data(command) => data_cmd::run(&common, command),
        Command::Network(command) => chain_cmd::network(&common, command).await,
        Command::Wallet(command) => wallet::wallet(&common, command).await,
        Command::Chain(command) => chain_cmd::chain(&common, command).await,
        Command::Peer(PeerCommand::Ls) => {
            let status = train::status(&common).await?;
            render::print(&common, &render::peers_json(&status), || render::peers(&status));
            Ok(())
        }
        Command::Peer(PeerCommand::Ping { peer }) => {
            let answer = train::ask(&common, node::Request::Ping { peer }).await?;
            render::print(&common, &answer, || {
                let ways = answer["ways"].as_array().map(Vec::as_slice).unwrap_or_default();
                ways.iter().map(render::way).collect::<Vec<_>>().join("\n")
            });
            Ok(())
        }
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&common, args).await,
        #[cfg(feature = "serve")]
        Command::Model(command) => model_cmd::run(&common, command).await,
        #[cfg(feature = "serve")]
        Command::Run(args) => ask::run(&common, args).await,
        #[cfg(feature = "serve")]
        Command::Receipt(command) => ask::receipt(&common, &command),
        #[cfg(feature = "serve")]
        Command::Audit(args) => audit::run(&common, args).await,
        #[cfg(feature = "serve")]
        Command::Key(command) => key::run(&common, command),
        Command::Relay(args) => relay::run(&common, args).await,
        Command::Status => {
            let status = train::status(&common).await?;
            render::print(&common, &serde_json::to_value(&status)?, || render::status(&status));
            Ok(())
        }
        Command::Demo(args) => demo::run(&common, args).await,
    }
}
