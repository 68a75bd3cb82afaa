//! Releases that do not work: how long a node is away, and what of its work is lost.

use super::LOOK;
use crate::{Bar, Book, Figure, Measured, Process, serve};
use anyhow::{Context, Result, ensure};
use node::ControlRequest;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TRIES: usize = 100;
/// Every so many releases one neither ends nor answers.
const SILENT: usize = 20;
/// Words of the answer that is under way when an update begins.
const TOKENS: u64 = 48;
/// The API is looked at this often.
const OFTEN: Duration = Duration::from_millis(10);
/// Nothing here takes longer.
const WITHIN: Duration = Duration::from_secs(120);

const BACK: Figure<'static> = Figure { name: "owner.update.back", unit: "s", bar: Bar::Most(30.0), goal: "<= 10" };
const LOST: Figure<'static> =
    Figure { name: "owner.update.lost", unit: "answers and units", bar: Bar::Most(0.0), goal: "0" };
pub(super) const FIGURES: [Figure<'static>; 2] = [BACK, LOST];

pub(super) async fn measure(book: &mut Book) -> Result<()> {
    let installed = Installed::new()?;
    let (mut away, mut lost, mut ended) = (Vec::new(), 0usize, Vec::new());
    for i in 0..TRIES {
        let silent = i % SILENT == SILENT - 1;
        installed.release(if silent { "exec sleep 600" } else { "exit 3" })?;
        let question = installed.ask();
        installed.until(|panel| panel["serving"]["now"].as_u64() > Some(0)).await?;
        let watch = Watch::new(installed.api.clone());
        let said = installed.run(&["update", "--from", "releases", "--trust", &installed.key])?;
        ensure!(said["error"].as_str().is_some_and(|error| error.contains("goes on with")), "{said}");
        // Away until it answers again.
        installed.until(|_| true).await?;
        let gap = watch.end().as_secs_f64();
        println!("release {i}: away for {gap:.2} s");
        away.push(gap);
        if !silent {
            ended.push(gap);
        }
        let answer = question.join().ok().and_then(Result::ok);
        lost += usize::from(answer.is_none_or(|answer| answer["usage"]["completion_tokens"].as_u64() != Some(TOKENS)));
    }
    let status = installed.node(ControlRequest::Status).await?;
    let members = status["runs"][0]["members"].as_array().cloned().unwrap_or_default();
    ensure!(members.first().is_some_and(|member| member["units"].as_u64() > Some(0)), "nothing was trained: {status}");
    let missed: u64 = members.iter().filter_map(|member| member["missed"].as_u64()).sum();
    let worst = away.iter().copied().fold(0.0, f64::max);
    let how = format!(
        "`talkoo up` trains and answers, {TRIES} releases that do not work, one in {SILENT} of which neither ends nor answers: the \
         longest time without an answer of its API, looked at every {} ms, the worst; {:.2} s at most where the release ends",
        OFTEN.as_millis(),
        ended.iter().copied().fold(0.0, f64::max)
    );
    book.full(BACK, Measured::out_of(worst, &away), &how);
    let how = format!(
        "of the same: answers of {TOKENS} tokens that were under way when an update began and did not come whole, and units that \
         the run says were missed"
    );
    book.full(LOST, lost as f64 + missed as f64, &how);
    Ok(())
}

/// A program in a place of its own, whose node trains and serves.
struct Installed {
    stage: tempfile::TempDir,
    program: PathBuf,
    data: PathBuf,
    api: String,
    model: String,
    key: String,
    _node: Process,
}

impl Installed {
    fn new() -> Result<Self> {
        let stage = tempfile::tempdir()?;
        let (program, data) = (stage.path().join("talkoo"), stage.path().join("node"));
        std::fs::copy(std::env::current_exe()?.with_file_name("talkoo"), &program)?;
        let model = stage.path().join("figure.gguf");
        serve::written(&model, "small")?;
        let made = run(&program, stage.path(), &data, &["release", "key", "secret"])?;
        let key = made["key"].as_str().context("a key")?.to_owned();
        // The same port after every start.
        let api = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = command(&program, stage.path(), &data);
        command.args(["up", "--when", "always", "--listen", &api, "--model", "figure.gguf"]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let _: Value = serde_json::from_str(&line).context("its first line")?;
        Ok(Self { stage, program, data, api, model: "figure".into(), key, _node: Process(child) })
    }

    fn run(&self, arguments: &[&str]) -> Result<Value> {
        run(&self.program, self.stage.path(), &self.data, arguments)
    }

    /// A program that says its version, and does this when it is to be the node.
    fn release(&self, does: &str) -> Result<()> {
        let script = self.stage.path().join("script");
        std::fs::write(&script, format!("#!/bin/sh\n[ \"$1\" = --version ] && echo talkoo 99.0.0 && exit\n{does}\n"))?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let signed = self.run(&["release", "sign", "script", "--key", "secret", "--out", "releases"])?;
        ensure!(signed["release"].is_string(), "{signed}");
        Ok(())
    }

    async fn node(&self, request: ControlRequest) -> Result<Value> {
        node::call(&self.data, &request).await?.context("the node answers")
    }

    async fn until(&self, good: impl Fn(&Value) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !self.node(ControlRequest::Panel).await.is_ok_and(|panel| good(&panel)) || health(&self.api).is_err() {
            ensure!(begun.elapsed() < WITHIN, "what was waited for did not come");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Asks a question whose answer takes some time.
    fn ask(&self) -> JoinHandle<Result<Value>> {
        let body =
            json!({ "model": self.model, "prompt": "a question", "max_tokens": TOKENS, "temperature": 0 }).to_string();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len()
        );
        let api = self.api.clone();
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(api)?;
            stream.write_all(format!("{head}{body}").as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let (_, body) = text.split_once("\r\n\r\n").context("an answer")?;
            Ok(serde_json::from_str(body)?)
        })
    }
}

fn command(program: &Path, stage: &Path, data: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1:0", "--no-mdns", "--threads", "1", "--json", "--data"]).arg(data);
    command.current_dir(stage).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// What a command says last.
fn run(program: &Path, stage: &Path, data: &Path, arguments: &[&str]) -> Result<Value> {
    let output = command(program, stage, data).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.lines().last().unwrap_or_default()).with_context(|| format!("{arguments:?}: {text}"))
}

fn health(api: &str) -> Result<()> {
    let mut stream = TcpStream::connect(api)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    ensure!(head.ends_with(b"200"), "it is not well");
    Ok(())
}

/// Looks whether the API answers, until it is ended.
struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Duration>,
}

impl Watch {
    fn new(api: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let looking = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                if health(&api).is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                std::thread::sleep(OFTEN);
            }
            longest.max(last.elapsed())
        });
        Self { stop, looking }
    }

    /// The longest time without an answer.
    fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().unwrap_or(Duration::MAX)
    }
}
