//! The owner comes first: how soon a machine is free, what it takes meanwhile, how soon it is of use.

mod back;
mod caps;
mod first;
mod paint;
mod update;
mod work;

use crate::cpu::Cpu;
use crate::{Bar, Book, Process, network};
use anyhow::{Context, Result, ensure};
use node::ControlRequest;
use owner::{Day, forecast};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(60);
/// What is waited for is looked for this often.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn measure(book: &mut Book, full: bool) -> Result<()> {
    sizes(book)?;
    forecasts(book);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(idle(book))?;
    paint::first(book)?;
    runtime.block_on(first::measure(book))?;
    runtime.block_on(work::measure(book))?;
    runtime.block_on(work::join(book))?;
    runtime.block_on(caps::returns(book))?;
    match full {
        true => {
            runtime.block_on(caps::soak(book))?;
            runtime.block_on(update::measure(book))?;
        }
        false => {
            book.keep(&[caps::SOAK]);
            book.keep(&update::FIGURES);
        }
    }
    // Last: where there are no namespaces it is this figure alone that fails.
    runtime.block_on(back::measure(book))
}

/// A node that contributes, as its owner starts it.
struct Contributor {
    process: Process,
    dir: std::path::PathBuf,
    page: String,
}

fn contribute(dir: &Path, options: &[&str]) -> Result<Contributor> {
    contribute_within(&[], dir, options)
}

/// The same, begun by the last of some programs that begin each other.
fn contribute_within(through: &[&str], dir: &Path, options: &[&str]) -> Result<Contributor> {
    // In a session of its own, as a service or a terminal is.
    let mut command = Command::new("setsid");
    command.args(through).arg(std::env::current_exe()?.with_file_name("talkoo"));
    command.args(["--bind", "127.0.0.1:0", "--no-mdns", "--json", "--data"]).arg(dir);
    command.args(["up", "--listen", "127.0.0.1:0"]).args(options);
    if !options.contains(&"--when") {
        command.args(["--when", "always"]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("setsid (util-linux)")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
    let ready: Value = serde_json::from_str(&line).context("its first line")?;
    let page = ready["page"].as_str().context("a page")?.trim_start_matches("http://").trim_end_matches('/').to_owned();
    Ok(Contributor { process: Process(child), dir: dir.to_owned(), page })
}

impl Contributor {
    async fn ask(&self, request: ControlRequest) -> Result<Value> {
        node::call(&self.dir, &request).await?.context("the node answers")
    }

    fn cpu(&self) -> Result<Cpu> {
        Cpu::of(self.process.0.id())
    }

    /// Waits until the first unit is done.
    async fn first_unit(&self) -> Result<()> {
        let begun = Instant::now();
        while self.ask(ControlRequest::Panel).await?["runs"][0]["version"].as_u64() < Some(1) {
            ensure!(begun.elapsed() < Duration::from_secs(120), "no unit was done");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until it computes.
    async fn computes(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let before = self.cpu()?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            if self.cpu()?.since(&before) > 0.1 {
                return Ok(());
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "it does not compute");
        }
    }
}

/// What is measured once, without running anything.
fn sizes(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let copy = stage.path().join("talkoo");
    std::fs::copy(std::env::current_exe()?.with_file_name("talkoo"), &copy)?;
    let stripped = Command::new("strip").arg(&copy).status().is_ok_and(|status| status.success());
    ensure!(stripped, "strip (binutils) is needed");
    let bytes = std::fs::metadata(&copy)?.len() as f64 / 1e6;
    let how = "the program with training, chain, serving and page, for processors, after strip";
    book.add("quick", "owner.binary", (bytes, "MB"), Bar::Most(60.0), "<= 45", how);
    Ok(())
}

/// Forecasts of made-up weeks: hours vary by a sixth, prices by a fifth and slowly, one day in twenty is lost.
fn forecasts(book: &mut Book) {
    const HOUR_MS: u64 = 3_600_000;
    const FIRST: u64 = 20_000;
    let error = |seed: u64| {
        let mut rng = base::Rng::keyed(29, seed);
        let mut rate = 2_000 + rng.below(2_000);
        let days: Vec<Day> = (0..84)
            .map(|i| {
                let hours = if (i + seed) % 7 >= 5 { 19 } else { 12 };
                let worked_ms = hours * HOUR_MS * (85 + rng.below(31)) / 100;
                rate = rate * (985 + rng.below(31)) / 1000;
                let earned = rate * (80 + rng.below(41)) / 100 * worked_ms / HOUR_MS;
                let (earned, worked_ms) = if rng.chance(1, 20) { (0, 0) } else { (earned, worked_ms) };
                Day { day: FIRST + i, earned, worked_ms }
            })
            .collect();
        forecast(&days, FIRST + 84).and_then(|said| said.error_permille).unwrap_or(1000) as f64 / 10.0
    };
    let worst = (0..50).map(error).fold(0.0, f64::max);
    let how = "median error of the forecast of the next day's earnings on 50 traces of twelve made-up weeks with noise: the worst trace";
    book.add("quick", "owner.forecast.error", (worst, "%"), Bar::Most(25.0), "<= 10", how);
}

/// A node that has nothing to do.
async fn idle(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let node = contribute(&stage.path().join("node"), &["--no-runs"])?;
    let bytes = page_bytes(&node.page)?;
    let how = "bytes on the socket of the answers to a browser that takes gzip, heads too, for the page and all parts that it names";
    book.add("quick", "owner.page.bytes", (bytes / 1e3, "kB"), Bar::Most(120.0), "<= 60", how);
    // What a start takes is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, begun) = (node.cpu()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let share = 100.0 * node.cpu()?.since(&before) / begun.elapsed().as_secs_f64();
    let how = format!(
        "`talkoo up --when always --no-runs` with API, page and nothing to do, which looks at the machine once a second: time of its \
         threads on a processor (schedstat) over {} s of wall, of one core",
        IDLE.as_secs()
    );
    book.add("quick", "owner.idle.cpu", (share, "%"), Bar::Most(0.5), "<= 0.1", &how);
    let memory = network::resident(node.process.0.id())?;
    book.add("quick", "owner.idle.memory", (memory, "MB"), Bar::Most(80.0), "<= 40", "resident memory of the same");
    Ok(())
}

/// Bytes of the page and its parts as they come over the wire.
fn page_bytes(address: &str) -> Result<f64> {
    let page = got(address, "/", "identity")?;
    let text = String::from_utf8_lossy(&page).into_owned();
    let parts: std::collections::BTreeSet<&str> = text.split('"').filter(|part| part.starts_with("/page/")).collect();
    ensure!(!parts.is_empty(), "the page names no parts");
    let mut bytes = 0;
    for path in parts.into_iter().chain(["/"]) {
        bytes += got(address, path, "gzip")?.len();
    }
    Ok(bytes as f64)
}

/// The whole of an HTTP answer.
fn got(address: &str, path: &str, encoding: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept-encoding: {encoding}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    ensure!(bytes.starts_with(b"HTTP/1.1 200"), "{path} is not there");
    Ok(bytes)
}
