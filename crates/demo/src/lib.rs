//! `talkoo demo`: the main job, end to end, on one machine, with real processes of the program that calls it.

mod ledger;
#[cfg(feature = "serve")]
mod serve;

use anyhow::{Context, Result, bail, ensure};
use base::Hash;
use data::{Corpus, Tokenizer};
use model::{SampleSettings, Trainer};
use node::{ControlRequest, Status};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use trainer::RunStatus;

/// What is shown, and how long.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    #[command(subcommand)]
    act: Option<DemoAct>,
    /// Seconds of the main act.
    #[arg(long, default_value_t = 150)]
    seconds: u64,
    /// Seconds of the act in local mode; 0 leaves it out.
    #[arg(long, default_value_t = 30)]
    local_seconds: u64,
    /// Keep the files here instead of deleting them.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum DemoAct {
    /// Four validators order and pay a run, one of them is killed, and balances are proved.
    Ledger(ledger::LedgerArgs),
    /// Two peers serve the model that they trained, one is killed in mid-answer, the answer goes on.
    #[cfg(feature = "serve")]
    Serve(serve::ServeDemoArgs),
}

/// Relative speeds of the peers, percent of the fastest; those alone are as fast as the fastest.
const SPEEDS: [u32; 4] = [100, 75, 75, 50];
/// What a round of the demo takes beyond its training: all members begin at once on few cores, then exchange and apply.
const ROUND_SECONDS: f64 = 0.27;
/// What all members together train at most, tokens per second: on a faster machine each gets a smaller part of it.
/// A round of 1,024 tokens is to take longer in training than in what a round costs beyond it.
const GROUP_SPEED: f64 = 3_600.0;
/// What a peer shows first comes within this.
const FIRST_WITHIN: Duration = Duration::from_secs(60);
/// Tokens of a step of those who train alone beside the group: nobody knows before which of them suits one machine best.
const ALONE_BATCHES: [u64; 3] = [256, 512, 1024];
/// Tokens of a step of the group.
const GROUP_BATCH: u64 = 1024;
/// Held-out tokens of the final measurement.
const EVAL_TOKENS: u64 = 40_000;

/// The folder of the demo; deleted at the end, also after an error or Ctrl-C.
struct Stage {
    dir: PathBuf,
    keep: bool,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Percent of a core's time that peer `i` may compute. Together with those alone they stay well below
/// what the machine has, so that each is a machine of its own speed and none takes from another.
fn duty(i: usize, speed: f64) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all: u32 = SPEEDS.iter().sum();
    let fastest = ((cores * 13).min(100) as f64).min(GROUP_SPEED / speed * 1e4 / f64::from(all));
    ((fastest * f64::from(SPEEDS[i]) / 100.0) as u32).max(1)
}

/// A peer of the demo: a process with an identity and a folder of its own. Killed when dropped.
struct Peer {
    dir: PathBuf,
    child: Child,
}

impl Peer {
    fn start(stage: &Path, name: &str, duty: u32, arguments: &[&str]) -> Result<Self> {
        Self::start_at(stage, name, "127.0.0.1:0", duty, arguments)
    }

    fn start_at(stage: &Path, name: &str, bind: &str, duty: u32, arguments: &[&str]) -> Result<Self> {
        let dir = stage.join(name);
        std::fs::create_dir_all(&dir)?;
        let log = std::fs::File::options().create(true).append(true).open(stage.join(format!("{name}.log")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--data", &dir.to_string_lossy(), "--bind", bind, "--no-mdns", "--json"]);
        command.args(["--threads", "1", "--duty", &duty.to_string()]).args(arguments);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(log);
        let child = command.kill_on_drop(true).spawn().context("cannot start a peer")?;
        Ok(Self { dir, child })
    }

    async fn run(&self) -> Option<RunStatus> {
        let answer = node::call(&self.dir, &ControlRequest::Status).await.ok()??;
        serde_json::from_value::<Status>(answer).ok()?.runs.into_iter().next()
    }

    async fn stop(&mut self) {
        let _ = node::call(&self.dir, &ControlRequest::Stop).await;
        let _ = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        let _ = self.child.kill().await;
    }

    async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill a peer")
    }
}

/// What an act ended with.
struct Act {
    run: RunStatus,
    roots: usize,
    took: f64,
    bits: f64,
    theta: Vec<f32>,
}

/// Shows it; `device` is what trains.
pub async fn run(device: &str, args: DemoArgs) -> Result<()> {
    let kept = match &args.act {
        Some(DemoAct::Ledger(ledger)) => ledger.keep.clone(),
        #[cfg(feature = "serve")]
        Some(DemoAct::Serve(serve)) => serve.keep.clone(),
        None => args.keep.clone(),
    };
    let keep = kept.is_some();
    let dir = kept.unwrap_or_else(|| std::env::temp_dir().join(format!("talkoo-demo-{}", std::process::id())));
    let mut stage = Stage { dir: std::path::absolute(dir)?, keep };
    std::fs::create_dir_all(&stage.dir)?;
    let shown = tokio::select! {
        result = async {
            match &args.act {
                Some(DemoAct::Ledger(ledger)) => ledger::show(device, ledger, &stage.dir).await,
                #[cfg(feature = "serve")]
                Some(DemoAct::Serve(serve)) => serve::show(device, serve, &stage.dir).await,
                None => show(device, &args, &stage.dir).await,
            }
        } => result,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; the peers were stopped{}", if keep { "" } else { " and the files deleted" }),
    };
    // What failed leaves its logs: the error names them.
    stage.keep |= shown.is_err();
    shown
}

async fn show(device: &str, args: &DemoArgs, stage: &Path) -> Result<()> {
    say("Four peers on this machine, each a process with its own key and folder, train one language model");
    say("on Shakespeare (1 M parameters). They find each other by ticket over loopback; no server, no internet.");
    let corpus = stage.join("corpus");
    let built = tokio::task::block_in_place(|| data::shipped::build(&corpus))?;
    say(&format!(
        "data: {} tokens to train on, {} held out",
        base::grouped(built.manifest.train_tokens()),
        base::grouped(built.manifest.heldout_tokens())
    ));
    let speed = tokio::task::block_in_place(|| calibrate(device, stage))?;
    say(&format!(
        "one core of this machine trains about {speed:.0} tokens/s while all compute; each peer may use a part of one: {} %",
        [0, 1, 2, 3].map(|i| duty(i, speed).to_string()).join(", ")
    ));

    let gradients = act(args, stage, speed, Mode::Gradients).await?;
    if args.local_seconds > 0 {
        let local = act(args, stage, speed, Mode::Local).await?;
        compare(&gradients, &local);
    }
    let text = tokio::task::block_in_place(|| write(stage, &gradients))?;
    say(
        "\nThe exported model, loaded again, writes (the shape of a play, not sense: it is tiny and has read for minutes):\n",
    );
    say(&format!("{text}\n"));
    if args.keep.is_some() {
        say(&format!("files: {} (the model is in {})", stage.display(), stage.join("model").display()));
        say(&format!(
            "do the run again from its log: talkoo --data {} train replay",
            stage.join("gradients-1").display()
        ));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Gradients,
    Local,
}

impl Mode {
    fn name(self) -> &'static str {
        if self == Self::Gradients { "gradients" } else { "local" }
    }
}

/// The run file of an act, of the group or of one that trains alone with steps of so many tokens.
fn run_file(mode: Mode, alone: Option<u64>, tokens: u64) -> String {
    // Small models learn by the number of steps. Members share a step in single sequences, so that
    // unequal speeds divide well; one alone takes the larger micro-batch that suits it.
    let micro_batch = alone.map_or(1, |batch| (batch / 128).min(4));
    let batch = alone.unwrap_or(GROUP_BATCH);
    let round = match mode {
        Mode::Gradients => "mode = \"gradients\"\nbits = 8\ntarget_seconds = 1",
        Mode::Local => "mode = \"local\"\nbits = 2\ndensity = 1\ndelay = 0\ntarget_seconds = 4",
    };
    let steps = if mode == Mode::Local { "inner_steps = 10\n" } else { "" };
    format!(
        "[run]\nname = \"bard\"\nseed = 7\n[model]\nsize = \"tiny\"\n[data]\nmanifest = \"corpus\"\nseq_len = 128\n\
         [train]\ntokens = {tokens}\nbatch_tokens = {batch}\nmicro_batch = {micro_batch}\nlr = 3e-3\nwarmup = 0.05\n{steps}\
         [round]\n{round}\n[out]\nevery_rounds = 1000000\n"
    )
}

/// Trains until the tokens are done; in gradients mode with a kill, a join, and one beside that trains alone.
async fn act(args: &DemoArgs, stage: &Path, speed: f64, mode: Mode) -> Result<Act> {
    let main = mode == Mode::Gradients;
    let seconds = if main { args.seconds } else { args.local_seconds };
    let parts: f64 = (0..SPEEDS.len()).map(|i| f64::from(duty(i, speed)) / 100.0).sum();
    // What a round costs beyond training, with all members on this machine.
    let round = GROUP_BATCH as f64 / (speed * parts) + ROUND_SECONDS;
    let tokens = (GROUP_BATCH as f64 / round * seconds as f64) as u64;
    say(&format!("\n== {} mode: {} tokens in about {seconds} s", mode.name(), base::grouped(tokens)));
    std::fs::write(stage.join("run.toml"), run_file(mode, None, tokens))?;
    let file = stage.join("run.toml").to_string_lossy().into_owned();
    let name = |i: usize| format!("{}-{i}", mode.name());
    let mut peers = vec![Peer::start(stage, &name(1), duty(0, speed), &["train", "create", &file])?];
    let ticket = wait_for(&peers[0], "the ticket", FIRST_WITHIN, |run| {
        (!run.ticket.is_empty() && !run.name.is_empty()).then(|| run.ticket.clone())
    })
    .await?;
    for i in 1..SPEEDS.len() {
        peers.push(Peer::start(stage, &name(i + 1), duty(i, speed), &["train", "join", &ticket])?);
    }
    let mut alone = Vec::new();
    for batch in ALONE_BATCHES.into_iter().filter(|_| main) {
        // Planned for the group's whole time, and given more if it needs it: it is compared at the end of its own schedule.
        let tokens = (speed * f64::from(duty(0, speed)) / 100.0 * seconds as f64) as u64;
        let file = stage.join(format!("alone-{batch}.toml"));
        std::fs::write(&file, run_file(mode, Some(batch), tokens))?;
        let arguments = ["train", "create", &file.to_string_lossy()];
        alone.push(Peer::start(stage, &format!("alone-{batch}"), duty(0, speed), &arguments)?);
    }
    let begun = Instant::now();
    let mut roots: BTreeMap<u64, BTreeMap<String, usize>> = BTreeMap::new();
    let (mut killed, mut joined) = (!main, !main);
    let limit = Duration::from_secs(seconds * 4 + 60);
    let run = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(begun.elapsed() < limit, "the run did not end in time; see the logs in {}", stage.display());
        note_roots(&peers, &mut roots).await;
        let Some(run) = peers[0].run().await else { continue };
        let part = run.tokens.0 as f64 / run.tokens.1.max(1) as f64;
        if begun.elapsed().as_secs().is_multiple_of(10) {
            progress(&run, alone.first()).await;
        }
        if !killed && part > 0.4 {
            killed = true;
            peers[3].kill().await?;
            say("-- the fourth peer is killed (SIGKILL); nobody waits longer than a round for it");
        }
        if !joined && part > 0.6 {
            joined = true;
            peers.push(Peer::start(stage, &name(5), duty(3, speed), &["train", "join", &ticket])?);
            say("-- a fifth peer joins: it fetches the weights by hash and takes part");
        }
        if run.ended && run.root.as_ref().is_some_and(|(version, _)| *version == run.version) {
            break run;
        }
    };
    let took = begun.elapsed().as_secs_f64();
    ensure!(killed && joined, "the run ended before anybody was killed and joined; give it more --seconds");
    let roots = agreed_roots(&peers, &run, roots).await?;
    let newcomer = run.members.iter().filter(|member| member.units > 0).count();
    say(&format!("done in {took:.0} s, {} rounds; {newcomer} members contributed", run.version));
    say(&format!(
        "roots compared at {roots} versions of the weights: all equal. final {}",
        run.root.as_ref().map_or("-", |(_, root)| base::short(root))
    ));
    let id: Hash = run.run.parse()?;
    let (bits, theta) = measure(&peers[0].dir, &id, &stage.join("corpus"))?;
    say(&format!("held out: {bits:.3} bits per byte (a uniform guess over 2 048 tokens has {:.2})", untrained(stage)?));
    if main {
        beside(stage, &mut alone, (bits, took), limit).await?;
    }
    if main {
        let saved = trainer::saved(&peers[0].dir, &id)?;
        saved.export(&stage.join("model"), run.tokens.0, newcomer as u64, Some(bits))?;
    }
    for peer in &mut peers {
        peer.stop().await;
    }
    Ok(Act { run, roots, took, bits, theta })
}

/// Waits for those who trained alone, and says who did better. That is no error: what noise decides fails nobody's first
/// command.
async fn beside(stage: &Path, alone: &mut [Peer], (bits, took): (f64, f64), limit: Duration) -> Result<()> {
    say("-- three trained alone beside the group, each as fast as its fastest member, with steps of different sizes:");
    let mut best = f64::INFINITY;
    for (peer, batch) in alone.iter_mut().zip(ALONE_BATCHES) {
        let begun = Instant::now();
        let run = wait_for(peer, "the end of one alone", limit, |run| run.ended.then(|| run.clone())).await?;
        peer.stop().await;
        let (bits, _) = measure(&peer.dir, &run.run.parse()?, &stage.join("corpus"))?;
        say(&format!(
            "   steps of {batch:>4} tokens, {} tokens in about {:.0} s: {bits:.3} bits per byte",
            base::grouped(run.tokens.0),
            took + begun.elapsed().as_secs_f64()
        ));
        best = best.min(bits);
    }
    let verdict = if bits < best { "better" } else { "no better" };
    say(&format!(
        "the group is {verdict} than the best of them: {bits:.3} against {best:.3} ({:+.1} %)",
        100.0 * (bits / best - 1.0)
    ));
    Ok(())
}

async fn progress(run: &RunStatus, alone: Option<&Peer>) {
    let losses: Vec<f64> = run.rounds.iter().filter(|round| round.loss > 0.0).map(|round| round.loss).collect();
    let active = run.members.iter().filter(|member| member.status == swarm::Standing::Active).count();
    let planned: Vec<String> = run.members.iter().map(|member| member.planned.to_string()).collect();
    let beside = match alone {
        Some(peer) => peer.run().await.and_then(|run| run.rounds.last().map(|r| format!("   alone: {:.3}", r.loss))),
        None => None,
    };
    say(&format!(
        "round {:>4}  loss {:.3} {}  {:.0} tokens/s  {active} active, planned {}{}",
        run.version,
        losses.last().copied().unwrap_or_default(),
        base::curve(&losses, 24),
        run.tokens_per_s,
        planned.join("+"),
        beside.unwrap_or_default()
    ));
    // One line per ten seconds: wait out the second in which it was due.
    tokio::time::sleep(Duration::from_millis(600)).await;
}

async fn note_roots(peers: &[Peer], roots: &mut BTreeMap<u64, BTreeMap<String, usize>>) {
    for peer in peers {
        if let Some((version, root)) = peer.run().await.and_then(|run| run.root) {
            *roots.entry(version).or_default().entry(root).or_default() += 1;
        }
    }
}

/// Waits until every living peer has the last version; gives how many versions were seen on two or more peers.
async fn agreed_roots(
    peers: &[Peer],
    run: &RunStatus,
    mut roots: BTreeMap<u64, BTreeMap<String, usize>>,
) -> Result<usize> {
    let last = run.version;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut waiting: Vec<&Peer> = Vec::new();
    for peer in peers {
        if peer.run().await.is_some() {
            waiting.push(peer);
        }
    }
    ensure!(waiting.len() >= 3, "too few peers are alive at the end");
    for peer in waiting {
        loop {
            match peer.run().await.and_then(|run| run.root) {
                Some((version, root)) if version == last => {
                    *roots.entry(version).or_default().entry(root).or_default() += 1;
                    break;
                }
                _ => ensure!(Instant::now() < deadline, "a peer did not reach the last round"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for (version, seen) in &roots {
        ensure!(seen.len() == 1, "version {version} has {} different roots", seen.len());
    }
    Ok(roots.values().filter(|seen| seen.values().sum::<usize>() > 1).count())
}

async fn wait_for<T>(
    peer: &Peer,
    what: &str,
    limit: Duration,
    mut found: impl FnMut(&RunStatus) -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(found) = peer.run().await.as_ref().and_then(&mut found) {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{what} did not come in time; see the logs beside {}", peer.dir.display())
}

/// Speed of one thread on the demo's model while the other cores compute too: they share more than it seems.
fn calibrate(device: &str, stage: &Path) -> Result<f64> {
    let text = run_file(Mode::Gradients, None, 1_000_000);
    let file = swarm::RunFile::parse(&text)?;
    let vocab = Corpus::open(&stage.join("corpus"))?.manifest().vocab as usize;
    let config = model::ModelConfig::preset("tiny", vocab, file.data.seq_len as usize)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(SPEEDS.len());
    let shape = (file.train.micro_batch as usize, file.data.seq_len as usize);
    std::thread::scope(|scope| {
        let measure = || trainer::speed(&config, shape, 1, device);
        let others: Vec<_> = (1..cores).map(|_| scope.spawn(measure)).collect();
        let own = measure();
        others.into_iter().for_each(|other| drop(other.join()));
        // That was the best of many; what shares its caches with five others gets about two thirds of it.
        own.map(|best| best * 2.0 / 3.0)
    })
}

/// Held-out bits per byte of the weights on a peer's disk.
fn measure(dir: &Path, run: &Hash, corpus: &Path) -> Result<(f64, Vec<f32>)> {
    let saved = trainer::saved(dir, run)?;
    let mut trainer = Trainer::new(&saved.config, &model::open("cpu")?);
    let corpus = Corpus::open(corpus)?;
    let theta = saved.weights.theta().to_vec();
    let (rows, seq_len) = (saved.spec.micro_batch.into(), saved.spec.seq_len.into());
    let heldout = trainer::Heldout { rows, seq_len, tokens: EVAL_TOKENS };
    let bits = trainer::bits_per_byte(&mut trainer, &theta, &corpus, heldout, || false)?;
    Ok((bits.context("the corpus has a held-out split")?, theta))
}

/// Bits per byte of a uniform guess over the vocabulary.
fn untrained(stage: &Path) -> Result<f64> {
    let corpus = Corpus::open(&stage.join("corpus"))?;
    let manifest = corpus.manifest();
    let per_byte = manifest.heldout_tokens() as f64 / manifest.heldout_text_bytes() as f64;
    Ok(f64::from(manifest.vocab).log2() * per_byte)
}

fn compare(gradients: &Act, local: &Act) {
    let at = local.run.tokens.0;
    let near = |rounds: &[trainer::RoundLine]| {
        rounds.iter().filter(|r| r.loss > 0.0).min_by_key(|r| r.total.abs_diff(at)).map_or(0.0, |r| r.loss)
    };
    let bytes = |act: &Act| {
        let rounds = act.run.rounds.len().max(1) as f64;
        let per_round = act.run.bits_per_parameter * act.run.params as f64 / 8.0;
        per_round * rounds / act.run.tokens.0.max(1) as f64
    };
    say(&format!(
        "after {} tokens: gradients loss {:.3} with {:.0} bytes per token and member; local loss {:.3} with {:.1} ({} roots equal, {:.3} bits per byte held out, {:.0} s)",
        base::grouped(at),
        near(&gradients.run.rounds),
        bytes(gradients),
        near(&local.run.rounds),
        bytes(local),
        local.roots,
        local.bits,
        local.took
    ));
}

/// Loads the exported model and lets it write.
fn write(stage: &Path, act: &Act) -> Result<String> {
    let dir = stage.join("model");
    let (config, theta) = model::load(&dir)?;
    ensure!(theta == act.theta, "the exported model is not the trained one");
    let tokenizer = Tokenizer::from_json(&std::fs::read(dir.join("tokenizer.json"))?)?;
    let mut trainer = Trainer::new(&config, &model::open("cpu")?);
    trainer.set(&theta);
    let prompt = tokenizer.encode("KING HENRY.\n")?;
    let sampling = SampleSettings { temperature: 0.8, top_k: 40, seed: 1 };
    let ids = model::sample(&mut trainer, &prompt, 120, tokenizer.end_token(), sampling);
    Ok(format!("KING HENRY.\n{}", tokenizer.decode(&ids)?))
}

fn say(text: &str) {
    use std::io::Write;
    // When nobody reads, there is nobody to show anything to.
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(1);
    }
}
