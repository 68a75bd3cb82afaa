//! How soon the page is seen: a real browser is told what to open, over the pipe that it offers to debuggers
//! (<https://chromedevtools.github.io/devtools-protocol/>).

use super::contribute;
use crate::{Bar, Book, Figure, Process};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const PAINT: Figure<'static> = Figure { name: "owner.page.paint", unit: "ms", bar: Bar::Most(500.0), goal: "<= 200" };
const PAINTS: usize = 5;

/// The median of first contentful paints of a fresh window, as the browser tells them.
pub(super) fn first(book: &mut Book) -> Result<()> {
    let Some(program) = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        eprintln!("no Chromium here: owner.page.paint stands as it was measured last");
        book.keep(&[PAINT]);
        return Ok(());
    };
    let stage = tempfile::tempdir()?;
    let node = contribute(&stage.path().join("node"), &["--no-runs"])?;
    let mut paints = Vec::new();
    for i in 0..PAINTS {
        let mut browser = Browser::open(program, &stage.path().join(format!("profile-{i}")))?;
        paints.push(browser.paint(&format!("http://{}/", node.page))?);
        browser.close()?;
    }
    let how = format!(
        "from the beginning of the navigation to the first contentful paint of the page of a node that runs, in headless Chromium with \
         nothing kept of earlier visits, on loopback: median of {PAINTS}"
    );
    let Figure { name, unit, bar, goal } = PAINT;
    book.add("quick", name, (paints, unit), bar, goal, &how);
    Ok(())
}

/// A browser with nothing in it.
struct Browser {
    process: Process,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    last: u64,
}

impl Browser {
    fn open(program: &str, profile: &Path) -> Result<Self> {
        // It reads orders from its file 3 and writes answers to 4. It ends by itself if this program does not end it.
        let mut command = Command::new("sh");
        command.args(["-c", "exec timeout 60 \"$0\" \"$@\" 3<&0 4>&1 >/dev/null 2>&1", program]);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg("--remote-debugging-pipe").arg(format!("--user-data-dir={}", profile.display()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("sh")?;
        let (orders, answers) = (child.stdin.take().context("piped")?, child.stdout.take().context("piped")?);
        Ok(Self { process: Process(child), orders, answers: BufReader::new(answers), last: 0 })
    }

    fn tell(&mut self, session: Option<&str>, method: &str, params: &Value) -> Result<Value> {
        self.last += 1;
        let mut order = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = session {
            order["sessionId"] = session.into();
        }
        self.orders.write_all(order.to_string().as_bytes())?;
        self.orders.write_all(&[0])?;
        loop {
            let mut bytes = Vec::new();
            self.answers.read_until(0, &mut bytes)?;
            ensure!(bytes.pop() == Some(0), "the browser ended");
            let answer: Value = serde_json::from_slice(&bytes)?;
            if answer["id"] == self.last {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].clone());
            }
        }
    }

    fn close(mut self) -> Result<()> {
        self.tell(None, "Browser.close", &json!({}))?;
        self.process.0.wait()?;
        Ok(())
    }

    /// Milliseconds until there is something to see of a page.
    fn paint(&mut self, url: &str) -> Result<f64> {
        let target = self.tell(None, "Target.createTarget", &json!({ "url": "about:blank" }))?["targetId"].clone();
        let attached = self.tell(None, "Target.attachToTarget", &json!({ "targetId": target, "flatten": true }))?;
        let session = attached["sessionId"].as_str().context("a session")?.to_owned();
        self.tell(Some(&session), "Page.navigate", &json!({ "url": url }))?;
        let ask = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime";
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let said = self.tell(Some(&session), "Runtime.evaluate", &json!({ "expression": ask }))?;
            if let Some(paint) = said["result"]["value"].as_f64() {
                return Ok(paint);
            }
            std::thread::sleep(super::LOOK);
        }
        bail!("nothing was painted")
    }
}
