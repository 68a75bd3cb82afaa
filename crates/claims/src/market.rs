//! Asking over the network: what it costs beside the engine itself, choosing among ten thousand, and what others learn.

use crate::serve::{answer, prompt, written};
use crate::{Bar, Book, Process};
use anyhow::{Context, Result, ensure};
use base::{Hash, Millis, NodeId, Rng};
use engine::{Engine, EngineConfig};
use ledger::Credits;
use market::{Ask, Index, Input, Need, OFFER_MS, Offer, Outcome, Piece, Price, Sampling, Tier};
use node::{Limits, Local, Node, NodeConfig, OfferConfig, Served, Trade, TradeConfig};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROVIDERS: u64 = 10_000;
const QUESTIONS: u64 = 5_000;
const FIRSTS: usize = 100;
const CANCELS: usize = 60;
const SESSIONS: usize = 200;

pub(crate) fn measure(book: &mut Book) -> Result<()> {
    let (ms, attempts) = routing(PROVIDERS, QUESTIONS);
    let how = format!(
        "{PROVIDERS} providers, nine in ten never answer, {QUESTIONS} questions at 500/s while each offer is renewed every 30 s; one decision"
    );
    book.add("quick", "serve.routing.p99", (ms, "ms"), Bar::Most(5.0), "<= 0.5", &how);
    let how = format!("the same {QUESTIONS} questions, nobody bonded: providers asked for each, by own history alone");
    book.add("quick", "serve.sybil.attempts", (attempts, "per question"), Bar::Most(1.5), "<= 1.2", &how);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(firsts(book))?;
    runtime.block_on(cancels(book))?;
    runtime.block_on(canaries(book))
}

fn offer(until: Millis, decode_rate: u32) -> Offer {
    Offer {
        chain: Hash::default(),
        model: Hash::default(),
        name: "a model".into(),
        quantisation: "Q8_0".into(),
        context: 4096,
        tools: true,
        price: Price::default(),
        tier: Tier::Open,
        slots: 4,
        prompt_rate: 1000,
        decode_rate,
        since: Millis(0),
        until,
    }
}

fn provider(i: u64) -> NodeId {
    NodeId(Hash::of("figure", &i.to_le_bytes()).0)
}

/// The 99th of a hundred decisions in milliseconds, and providers asked for each question.
fn routing(providers: u64, questions: u64) -> (f64, f64) {
    let (mut index, mut rng) = (Index::default(), Rng::new(7));
    let sybil = |i: u64| !i.is_multiple_of(10);
    let rate = |i: u64| if sybil(i) { 5_000 } else { 30 };
    let start = 1_000;
    for i in 0..providers {
        let _ = index.offer(Millis(start), provider(i), vec![offer(Millis(start + OFFER_MS), rate(i))], 0);
    }
    let bad: std::collections::BTreeSet<NodeId> = (0..providers).filter(|i| sybil(*i)).map(provider).collect();
    let need =
        Need { model: Hash::default(), context: 500, read: 100, written: 100, price: Price::default(), knows: None };
    let (mut times, mut tries, mut renewed) = (Vec::new(), 0u64, 0);
    for question in 0..questions {
        let now = Millis(start + question * 2);
        // Each of them renews its offer every 30 s.
        while renewed < question * 2 * providers / 30_000 {
            let i = renewed % providers;
            let _ = index.offer(now, provider(i), vec![offer(now.plus(OFFER_MS), rate(i))], 0);
            renewed += 1;
        }
        let mut without = Vec::new();
        loop {
            let begun = Instant::now();
            let chosen = index.choose(now, &need, &without, &mut rng);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            let Some(first) = chosen.into_iter().next() else { break };
            tries += 1;
            if bad.contains(&first.provider) {
                index.note(now, &first.provider, Outcome::Failed);
                without.push(first.provider);
                continue;
            }
            let did = Outcome::Answered { first_ms: 90, read: 100, rest_ms: 3_000, written: 100 };
            index.note(now, &first.provider, did);
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() * 99 / 100], tries as f64 / questions as f64)
}

/// Two nodes: one serves, the other one asks it over the encrypted link.
pub(crate) struct Pair {
    pub(crate) provider: (Arc<Node>, Arc<Trade>),
    pub(crate) client: (Arc<Node>, Arc<Trade>),
    _stage: tempfile::TempDir,
}

impl Pair {
    pub(crate) async fn new(local: Local, price: Price, relays: Vec<node::RelayAddr>) -> Result<Self> {
        let stage = tempfile::tempdir()?;
        let offer = OfferConfig { public: true, price };
        let serves = TradeConfig { offer, ..TradeConfig::default() };
        let provider = start(&stage.path().join("provider"), local, serves, &relays).await?;
        let asks = TradeConfig { price, budget: Credits::whole(100), ..TradeConfig::default() };
        let client = start(&stage.path().join("client"), Local::default(), asks, &relays).await?;
        let ticket = provider.1.ticket(provider.1.networks()[0]);
        client.1.join(&ticket)?;
        ensure!(client.1.wait_for(None, Duration::from_secs(30)).await, "no offer came");
        Ok(Self { provider, client, _stage: stage })
    }

    pub(crate) async fn close(self) -> Result<()> {
        for (node, trade) in [self.client, self.provider] {
            trade.close().await;
            node.close().await?;
        }
        Ok(())
    }
}

pub(crate) async fn start(
    dir: &Path,
    local: Local,
    config: TradeConfig,
    relays: &[node::RelayAddr],
) -> Result<(Arc<Node>, Arc<Trade>)> {
    let node_config = NodeConfig {
        dir: dir.to_owned(),
        bind: ([127, 0, 0, 1], 0).into(),
        mdns: false,
        relays: relays.to_vec(),
        rates: (0, 0),
        minded: false,
        limits: Limits { threads: 1, duty_percent: 100 },
        device: "cpu".into(),
        eval_tokens: 0,
    };
    let node = Node::start(node_config).await?;
    let trade = node.trade(local, config).await?;
    Ok((node, trade))
}

/// A model of random weights, served by one thread.
pub(crate) fn served(size: &str, slots: usize) -> Result<(Served, tempfile::TempDir)> {
    let stage = tempfile::tempdir()?;
    let path = stage.path().join("figure.gguf");
    written(&path, size)?;
    let engine = Engine::load(EngineConfig { path, hash: None, threads: 1, slots, context: 512, memory: 0, vram: 0 })?;
    Ok((Served::new(engine), stage))
}

pub(crate) fn question(tokens: Vec<i32>, max_tokens: u64) -> Ask {
    Ask {
        model: "figure".into(),
        input: Input::Tokens(tokens),
        max_tokens: Some(max_tokens),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    }
}

fn ninety_ninth(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * 99 / 100).min(values.len() - 1)]
}

/// What the network adds to the first word.
async fn firsts(book: &mut Book) -> Result<()> {
    let (served, _files) = served("nano", 2)?;
    let engine = served.engine().clone();
    let pair = Pair::new(Local::new(vec![served]), Price::default(), Vec::new()).await?;
    let (mut own, mut over) = (Vec::new(), Vec::new());
    for i in 0..FIRSTS {
        let begun = Instant::now();
        let alone = engine.clone();
        tokio::task::spawn_blocking(move || answer(&alone, crate::serve::job(i, 16, 1))).await??;
        own.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        let client = Hash::of("figure", &i.to_le_bytes()).0;
        let mut pieces = pair.client.1.ask(&client, "first", question(prompt(i + 500, 16), 4)).await?;
        while !matches!(pieces.recv().await.context("an answer")?, Piece::Token(_)) {}
        over.push(begun.elapsed().as_secs_f64() * 1e3);
        while !matches!(pieces.recv().await.context("an answer")?, Piece::End { .. }) {}
    }
    let added = ninety_ninth(over) - crate::median(own);
    let how = format!(
        "choice, encrypted link on loopback, signatures and back: the 99th of {FIRSTS} first words less the engine's own median"
    );
    book.add("quick", "serve.first.p99", (added, "ms"), Bar::Most(20.0), "<= 5", &how);
    pair.close().await
}

/// From hanging up until the provider's decoder has stopped, and what is billed after.
async fn cancels(book: &mut Book) -> Result<()> {
    let (served, _files) = served("small", 2)?;
    let engine = served.engine().clone();
    let price = Price { input: Credits::whole(1), output: Credits::whole(2) };
    let pair = Pair::new(Local::new(vec![served]), price, Vec::new()).await?;
    let (provider, chain) = (pair.provider.0.id(), pair.provider.1.networks()[0]);
    let tx = ledger::Tx::Transfer { to: pair.client.0.id(), amount: Credits::whole(200) };
    pair.provider.0.spend(None, tx).await?;
    let (mut times, mut after) = (Vec::new(), 0);
    for i in 0..CANCELS {
        let mut pieces = pair
            .client
            .1
            .ask(&[3; 32], "cancelled", question(prompt(i + 900, 16 + i), 400))
            .await
            .map_err(|r| anyhow::anyhow!("{r}"))?;
        // Let go of at another token each time, now and then while it is read.
        for _ in 0..i % 40 {
            pieces.recv().await.context("a piece")?;
        }
        let promised = pair.client.1.promised(&chain, &provider);
        let begun = Instant::now();
        drop(pieces);
        while engine.busy() > 0 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        // A voucher for words that had come before may still have been under way.
        let more = pair.client.1.promised(&chain, &provider).0.saturating_sub(promised.0);
        after += more.saturating_sub(price.of(0, market::CHUNK).0);
    }
    let how = format!(
        "from hanging up at the client until the provider's slot is free, over the encrypted link, {CANCELS} answers at another token each"
    );
    book.add("quick", "serve.cancel.p99", (ninety_ninth(times), "ms"), Bar::Most(250.0), "<= 50", &how);
    let how = "micro-credits promised after hanging up, beyond the chunk that had come, in the same answers";
    book.add("quick", "serve.cancel.billed", (after as f64, "micro-credits"), Bar::Most(0.0), "0", how);
    pair.close().await
}

/// Random words of questions and answers, looked for in the memory and the files of everybody but the two ends.
async fn canaries(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let talkoo = std::env::current_exe()?.with_file_name("talkoo");
    let begin = |name: &str, arguments: &[&str]| -> Result<(Process, String)> {
        let log = std::fs::File::create(stage.path().join(format!("{name}.log")))?;
        let mut command = Command::new(&talkoo);
        command.args(["--json", "--no-mdns", "--data"]).arg(stage.path().join(name)).args(arguments);
        let mut child =
            command.env("TALKOO_LOG", "debug").stdout(Stdio::piped()).stderr(log).spawn().context("talkoo")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        Ok((Process(child), line))
    };
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let (relay, line) = begin("relay", &["relay", "--bind", &free])?;
    let value: serde_json::Value = serde_json::from_str(&line).context("the relay's first line")?;
    let address: node::RelayAddr = value["relay"].as_str().context("an address")?.parse()?;
    let (served, _files) = served("nano", 2)?;
    let pair = Pair::new(Local::new(vec![served]), Price::default(), vec![address]).await?;
    let ticket = pair.provider.1.ticket(pair.provider.1.networks()[0]).to_string();
    let arguments = ["--bind", "127.0.0.1:0", "serve", "--listen", "127.0.0.1:0", "--ticket", &ticket];
    let (peer, _) = begin("peer", &arguments)?;
    let mut words = Vec::new();
    for i in 0..SESSIONS {
        let word =
            Hash::of("canary", &(i as u64 ^ std::process::id() as u64).to_le_bytes()).to_string()[..24].to_owned();
        // Echoed: it is in the answer, too.
        let input = Input::Text(format!("my secret is {word}"));
        let ask = Ask { input, echo: true, ..question(Vec::new(), 8) };
        let mut pieces = pair.client.1.ask(&[5; 32], "canary", ask).await?;
        while !matches!(pieces.recv().await.context("an answer")?, Piece::End { .. }) {}
        words.push(word);
    }
    let mut found = 0;
    for process in [&relay, &peer] {
        found += count(&memory(process.0.id())?, &words);
    }
    for name in ["relay", "peer", "relay.log", "peer.log"] {
        found += count(&files(&stage.path().join(name))?, &words);
    }
    ensure!(count(&memory(std::process::id())?, &words) > 0, "the search finds nothing where there is something");
    let how = format!(
        "{SESSIONS} questions and answers with random words in them; found in the memory, logs and folders of a relay and of a third \
         peer of the same network"
    );
    book.add("quick", "serve.canaries", (found as f64, "found"), Bar::Most(0.0), "0", &how);
    pair.close().await
}

fn count(bytes: &[u8], words: &[String]) -> usize {
    // All begin differently: one pass over the bytes, looking up what follows.
    let known: std::collections::BTreeSet<&[u8]> = words.iter().map(String::as_bytes).collect();
    let prefixes: std::collections::BTreeSet<[u8; 3]> =
        words.iter().filter_map(|word| word.as_bytes().first_chunk::<3>().copied()).collect();
    let hit = |at: usize| {
        let window = bytes.get(at..at + 24)?;
        (prefixes.contains(window.first_chunk::<3>()?) && known.contains(window)).then_some(())
    };
    (0..bytes.len()).filter(|at| bytes[*at].is_ascii_hexdigit() && hit(*at).is_some()).count()
}

/// What a process can write to.
fn memory(pid: u32) -> Result<Vec<u8>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut file = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut out = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) else { continue };
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        if file.seek(SeekFrom::Start(from)).is_ok() {
            let _ = (&mut file).take(to - from).read_to_end(&mut out);
        }
    }
    Ok(out)
}

/// All files below a path.
fn files(path: &Path) -> Result<Vec<u8>> {
    if path.is_dir() {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(path)? {
            out.extend(files(&entry?.path())?);
        }
        return Ok(out);
    }
    Ok(if path.is_file() { std::fs::read(path)? } else { Vec::new() })
}
