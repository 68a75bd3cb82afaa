//! `talkoo`: one program. See `talkoo help`.

/// `println!` for output that may be cut off: a closed pipe or a full disk ends the program, not in a panic.
macro_rules! outln {
    ($($part:tt)*) => { $crate::render::write_line(format_args!($($part)*)) };
}

mod amount;
#[cfg(feature = "serve")]
mod ask;
#[cfg(feature = "serve")]
mod audit;
mod chain_cmd;
mod client;
mod data_cmd;
mod doctor;
mod glance;
#[cfg(feature = "serve")]
mod key;
#[cfg(feature = "serve")]
mod model_cmd;
mod relay;
mod release_cmd;
mod render;
#[cfg(feature = "serve")]
mod replay;
mod runs;
#[cfg(feature = "serve")]
mod serve;
mod service;
mod stop;
mod train;
mod train_replay;
mod up;
mod update;
mod wallet;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use node::{Config, NodeConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use trainer::Limits;

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
    /// Where to listen for peers (default: any port of all addresses).
    #[arg(long, global = true, value_name = "ADDR")]
    bind: Option<SocketAddr>,
    /// Do not look for nodes of the local network.
    #[arg(long, global = true)]
    no_mdns: bool,
    /// A relay that helps behind a router, as `talkoo relay` prints it; may be given several times.
    #[arg(long, global = true, env = "TALKOO_RELAY", value_delimiter = ',', value_name = "URL")]
    relay: Vec<node::RelayAddr>,
    /// Threads that training may use (default: all).
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Percent of the time in which training may compute (default: 100).
    #[arg(long, global = true, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    duty: Option<u8>,
    /// Device of the trainer: cpu (the default), or one that this program was built with.
    #[arg(long, global = true, value_name = "NAME")]
    device: Option<String>,
    /// What talkoo.toml in the data folder says, where the command line says nothing.
    #[arg(skip)]
    config: Config,
}

#[derive(Subcommand)]
enum Command {
    /// Contribute: this machine trains and serves while you do not use it, and shows what it does. Ctrl-C stops it.
    Up(up::UpArgs),
    /// End the node that runs here, after what is under way.
    Down,
    /// You need the machine: nothing is computed for others, for a while (30m, 2h) or until `resume`.
    Pause {
        /// For how long.
        time: Option<String>,
    },
    /// Go on.
    Resume,
    /// Finish what is under way and take nothing new.
    Finish,
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
    /// The way from this machine to others.
    #[command(subcommand)]
    Net(NetCommand),
    /// Networks of several validators.
    #[command(subcommand)]
    Network(chain_cmd::NetworkCommand),
    /// The chain that orders everything.
    #[command(subcommand)]
    Chain(chain_cmd::ChainCommand),
    /// What the node on the data folder does, and why it waits.
    Status(glance::StatusArgs),
    /// What is wrong with this machine or its node, and the one command that mends it.
    Doctor(doctor::DoctorArgs),
    /// What somebody who helps needs to know; nothing is sent.
    Report(doctor::ReportArgs),
    /// Look again at what a node showed, with a slider through time.
    #[cfg(feature = "serve")]
    Replay(replay::ReplayArgs),
    /// Begin with the machine.
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Install a signed release; one that does not work is taken back.
    Update(update::UpdateArgs),
    /// Sign releases for others.
    #[command(subcommand)]
    Release(release_cmd::ReleaseCommand),
    #[command(hide = true)]
    UpdateTrial(update::TrialArgs),
    /// Completions for a shell: `talkoo completions bash > ~/.local/share/bash-completion/completions/talkoo`.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// The manual page: `talkoo man > talkoo.1`.
    Man,
    /// Four peers train together on this machine; one is killed, another joins, three train alone beside them.
    Demo(demo::DemoArgs),
}

#[derive(Subcommand)]
enum NetCommand {
    /// Whether UDP gets through, what the router does, and how far the relays are.
    Check,
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

    /// Threads that may compute.
    pub(crate) fn threads(&self) -> usize {
        match self.threads.unwrap_or(self.config.limits.threads) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads.into(),
        }
    }

    /// Where to listen for peers.
    pub(crate) fn bind(&self) -> SocketAddr {
        self.bind.unwrap_or(self.config.node.listen)
    }

    /// The same with the limits that are picked for this machine where the owner says nothing.
    pub(crate) fn picked(&self) -> Self {
        let mut picked = self.clone();
        picked.config.limits = picked.config.limits.picked();
        picked
    }

    /// What was said of a node on the command line, to be said again by somebody else.
    pub(crate) fn options(&self) -> Vec<String> {
        let option = |name: &str, value: Option<String>| value.map(|value| [format!("--{name}"), value]);
        let mut options = [
            option("bind", self.bind.map(|bind| bind.to_string())),
            option("threads", self.threads.map(|threads| threads.to_string())),
            option("duty", self.duty.map(|duty| duty.to_string())),
            option("device", self.device.clone()),
        ];
        let relays = self.relay.iter().map(|relay| [String::from("--relay"), relay.to_string()]);
        let named = options.iter_mut().filter_map(Option::take).chain(relays).flatten();
        named.chain(self.no_mdns.then(|| "--no-mdns".into())).collect()
    }

    /// What trains.
    pub(crate) fn device(&self) -> &str {
        self.device.as_deref().unwrap_or(&self.config.node.device)
    }

    /// Relays that help behind a router.
    pub(crate) fn relays(&self) -> Result<Vec<node::RelayAddr>> {
        if !self.relay.is_empty() {
            return Ok(self.relay.clone());
        }
        let relays = self.config.node.relays.iter().map(|relay| relay.parse::<node::RelayAddr>());
        relays.collect::<Result<_, _>>().map_err(|error| anyhow::anyhow!("talkoo.toml, [node] relays: {error}"))
    }

    /// The settings as they are in force: the command line goes before the file.
    pub(crate) fn in_force(&self) -> Config {
        let mut config = self.config.clone();
        config.node.listen = self.bind();
        config.node.mdns &= !self.no_mdns;
        config.node.device = self.device().to_owned();
        if !self.relay.is_empty() {
            config.node.relays = self.relay.iter().map(ToString::to_string).collect();
        }
        config.limits.threads = self.threads.unwrap_or(config.limits.threads);
        config.limits.duty_percent = self.duty.unwrap_or(config.limits.duty_percent);
        config
    }

    /// What training may take of this machine.
    pub(crate) fn limits(&self) -> Limits {
        let duty = self.duty.unwrap_or(self.config.limits.duty_percent);
        Limits { threads: self.threads(), duty_percent: duty.into() }
    }

    pub(crate) fn node(&self) -> Result<NodeConfig> {
        Ok(NodeConfig {
            dir: self.dir(),
            bind: self.bind(),
            mdns: !self.no_mdns && self.config.node.mdns,
            relays: self.relays()?,
            rates: self.config.limits.rates(),
            minded: false,
            limits: self.limits(),
            device: self.device().to_owned(),
            eval_tokens: EVAL_TOKENS,
        })
    }
}

/// Warnings, but for what is ordinary: that nodes leave, a relay too, without a word, that a machine is in no network, and that a
/// model is used with a shorter context than it was trained with.
const QUIET: &str = "warn,iroh_relay::server=off,iroh::socket::transports::relay=off,iroh_gossip=error,llama-cpp-2=error,\
    swarm_discovery::socket=error";

fn main() -> std::process::ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TALKOO_LOG").unwrap_or_else(|_| QUIET.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::try_parse().unwrap_or_else(|error| usage(&error));
    if let Some(lacks) = host::lacks() {
        eprintln!("talkoo: {lacks}");
        return std::process::ExitCode::FAILURE;
    }
    let json = cli.common.json;
    // Each thread has its own priority, and its children have it too: before there are any.
    let lowered = matches!(cli.command, Command::Up(_)).then(host::lower_priority);
    host::prepare_process();
    update::end_with_trial();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli)));
    drop(lowered);
    update::become_next();
    match done {
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
        // Up to how it is used: what is missing stands in lines of its own.
        let lines = text.lines().take_while(|line| !line.starts_with("Usage")).map(str::trim);
        let text = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        let text = text.trim_start_matches("error: ");
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
    let mut common = cli.common;
    // Who looks for what is wrong is told so by the doctor; what ends something needs no settings.
    let needless = match &cli.command {
        Command::Doctor(_) | Command::Report(_) | Command::Completions { .. } | Command::Man => true,
        Command::Release(_) | Command::UpdateTrial(_) => true,
        Command::Down | Command::Pause { .. } | Command::Resume | Command::Finish => true,
        Command::Service(command) => matches!(command, service::ServiceCommand::Uninstall(_)),
        _ => false,
    };
    common.config =
        Config::of(&common.dir()).or_else(|error| if needless { Ok(Config::default()) } else { Err(error) })?;
    match cli.command {
        Command::Up(args) => up::up(&common, args).await,
        Command::Down => up::down(&common).await,
        Command::Pause { time } => up::pause(&common, time.as_deref()).await,
        Command::Resume => up::resume(&common).await,
        Command::Finish => up::finish(&common).await,
        Command::Train(command) => train::run(&common, command).await,
        Command::Data(command) => data_cmd::run(&common, command),
        Command::Network(command) => chain_cmd::network(&common, command).await,
        Command::Wallet(command) => wallet::wallet(&common, command).await,
        Command::Chain(command) => chain_cmd::chain(&common, command).await,
        Command::Net(NetCommand::Check) => relay::check(&common).await,
        Command::Peer(PeerCommand::Ls) => {
            let status = client::status(&common).await?;
            render::print(&common, &render::peers_json(&status), || render::peers(&status));
            Ok(())
        }
        Command::Peer(PeerCommand::Ping { peer }) => {
            let answer = client::ask(&common, node::ControlRequest::Ping { peer }).await?;
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
        Command::Status(args) => glance::status(&common, &args).await,
        Command::Doctor(args) => doctor::doctor(&common, &args).await,
        Command::Report(args) => doctor::report(&common, &args).await,
        #[cfg(feature = "serve")]
        Command::Replay(args) => replay::run(&common, args).await,
        Command::Service(command) => service::run(&common, &command),
        Command::Update(args) => update::update(&common, &args).await,
        Command::Release(command) => release_cmd::run(&common, &command),
        Command::UpdateTrial(args) => update::trial(&common, args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "talkoo", &mut std::io::stdout());
            Ok(())
        }
        Command::Man => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            outln!("{}", String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
        Command::Demo(args) => demo::run(common.device(), args).await,
    }
}
