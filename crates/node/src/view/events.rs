//! The node's event log: what its panel showed, line by line as it changed. Bounded, turned over, and played again by
//! `talkoo replay`.

use crate::Node;
use crate::view::panel::{Panel, SettingsView};
use anyhow::{Context, Result, ensure};
use host::{append_line, older};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use trainer::{RoundLine, Store};

const FILE: &str = "events.jsonl";
/// It is turned over at this size; one older file stays.
const BYTES_MAX: u64 = 16 << 20;
/// What changes is written down this often at most.
const EVERY: Duration = Duration::from_secs(5);
/// Lines that are played: a longer file is thinned out.
const PLAYED_MAX: usize = 20_000;
/// A line is at most this long.
const LINE_MAX: usize = 1 << 20;

/// Writes down what a node shows, as it changes, until `stop`.
pub(crate) async fn record(node: Weak<Node>, store: Arc<Store>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    let mut last = Panel::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(node) = node.upgrade() else { return };
        let event = event(node.panel());
        if what(&event) == what(&last) {
            continue;
        }
        if let Err(error) = append(store.dir(), &event) {
            tracing::warn!(%error, "the event log was not written");
        }
        last = event;
    }
}

/// A panel without what does not change or is long.
fn event(panel: Panel) -> Panel {
    Panel { settings: SettingsView::default(), earnings: Vec::new(), ..panel }
}

/// An event without its clocks.
fn what(event: &Panel) -> Panel {
    let mut event = event.clone();
    (event.now_ms, event.node.uptime_s, event.today.working_s) = (0, 0, 0);
    event.today.minutes.clear();
    // Delays to peers move all the time.
    event.peers.iter_mut().for_each(|peer| peer.rtt_ms = None);
    event
}

fn append(dir: &Path, event: &Panel) -> Result<()> {
    let mut line = serde_json::to_value(event)?;
    if let Some(fields) = line.as_object_mut() {
        fields.retain(|name, _| name != "settings" && name != "earnings");
    }
    append_line(&dir.join(FILE), BYTES_MAX, &line)
}

/// An event log that is looked at again.
pub struct Recorded {
    events: Vec<Panel>,
    at: Mutex<usize>,
}

impl Recorded {
    /// Reads a log, and before it what was turned over of it; lines that are none are left out.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file: Box<dyn Read> = Box::new(File::open(path).with_context(|| path.display().to_string())?);
        // What was turned over comes first.
        if let Ok(older) = File::open(older(path)) {
            file = Box::new(older.chain(file));
        }
        let mut events = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.with_context(|| path.display().to_string())?;
            let event = (line.len() <= LINE_MAX).then(|| serde_json::from_slice::<Panel>(&line).ok()).flatten();
            events.extend(event.filter(|event| event.now_ms > 0));
            if events.len() > 2 * PLAYED_MAX {
                let mut i = 0;
                events.retain(|_| {
                    i += 1;
                    i % 2 == 0
                });
            }
        }
        ensure!(
            !events.is_empty(),
            "{} holds no events; a node writes them to {FILE} in its data folder",
            path.display()
        );
        let at = Mutex::new(events.len() - 1);
        Ok(Self { events, at })
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it has none; never.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Goes to an event.
    pub fn go(&self, at: usize) {
        *self.at() = at.min(self.events.len() - 1);
    }

    /// What was shown then.
    pub fn state(&self) -> Value {
        let at = *self.at();
        let mut state = json!(self.events[at]);
        state["replay"] = json!({
            "at": at, "count": self.events.len(),
            "from_ms": self.events[0].now_ms, "to_ms": self.events[self.events.len() - 1].now_ms,
        });
        state
    }

    /// A run as far as it was then: its rounds as they were seen.
    pub fn run(&self, id: &str) -> Option<Value> {
        let at = *self.at();
        let run_of = |event: &Panel| event.runs.iter().find(|run| run.run == id).cloned();
        let mut shown = json!(run_of(&self.events[at])?);
        let (mut rounds, mut heldout, mut before) = (Vec::new(), Vec::<(u64, f64)>::new(), 0);
        for run in self.events[..=at].iter().filter_map(run_of) {
            if let Some(loss) = run.loss.filter(|_| run.version > before) {
                rounds.push(RoundLine {
                    round: run.version,
                    loss,
                    set: run.active,
                    total: run.tokens.0,
                    ..RoundLine::default()
                });
                before = run.version;
            }
            if let Some(bits) = run.heldout.filter(|bits| heldout.last().is_none_or(|(_, last)| last != bits)) {
                heldout.push((run.version, bits));
            }
        }
        shown["rounds"] = json!(rounds);
        shown["heldout"] = json!(heldout);
        for (name, none) in [("members", json!([])), ("samples", json!([])), ("refused", json!([]))] {
            shown[name] = none;
        }
        shown["bits_per_parameter"] = json!(0);
        shown["utilisation"] = json!(0);
        Some(shown)
    }

    fn at(&self) -> std::sync::MutexGuard<'_, usize> {
        self.at.lock().expect("nobody panics while holding it")
    }
}

/// A log as the gateway's page asks it.
#[cfg(feature = "serve")]
impl gateway::PanelSource for Recorded {
    fn state(&self) -> Value {
        self.state()
    }

    fn run(&self, run: &str) -> Option<Value> {
        self.run(run)
    }

    fn days(&self) -> Value {
        json!([])
    }

    fn blocks(&self, _before: Option<u64>, _count: usize) -> Value {
        json!({ "blocks": [] })
    }

    fn account(&self, _key: &str) -> Option<Value> {
        None
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn pause(&self, _minutes: Option<u64>) -> Result<(), String> {
        Err("this is a replay of what was".into())
    }

    fn resume(&self) -> Result<(), String> {
        Err("this is a replay of what was".into())
    }

    fn replay(&self, at: usize) -> Result<(), String> {
        self.go(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::panel::{NodeView, PeerView, RunView};

    #[test]
    fn a_log_is_played_as_it_was_written() {
        let stage = tempfile::tempdir().expect("a folder");
        let shown = |i: u64| {
            let run = RunView {
                run: "ab".into(),
                version: i,
                tokens: (i * 100, 1000),
                loss: Some(5.0 - i as f64),
                heldout: Some(3.0),
                active: 1,
                ..RunView::default()
            };
            Panel { now_ms: i * 1000, runs: vec![run], ..Panel::default() }
        };
        for i in 1..=4 {
            append(stage.path(), &event(shown(i))).expect("written");
        }
        let path = stage.path().join(FILE);
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, format!("{{half a line\n{text}not json\n[1]\n")).expect("written");
        let log = Recorded::read(&path).expect("a log");
        assert_eq!((log.len(), log.state()["replay"]["at"].as_u64()), (4, Some(3)));
        log.go(1);
        assert_eq!((&log.state()["now_ms"], &log.state()["replay"]["to_ms"]), (&json!(2000), &json!(4000)));
        let run = log.run("ab").expect("the run");
        assert_eq!(run["rounds"].as_array().map(Vec::len), Some(2), "as far as it was then");
        assert_eq!(run["heldout"], json!([[1, 3.0]]));
        log.go(1_000_000);
        assert_eq!(log.state()["replay"]["at"], 3);
        assert!(log.run("cd").is_none());
        std::fs::write(&path, "nothing\n").expect("written");
        assert!(Recorded::read(&path).is_err());
    }

    #[test]
    fn only_what_changes_is_an_event() {
        let panel = |uptime_s: u64, loss: f64| Panel {
            now_ms: uptime_s,
            node: NodeView { uptime_s, ..NodeView::default() },
            runs: vec![RunView { loss: Some(loss), ..RunView::default() }],
            peers: vec![PeerView { rtt_ms: Some(uptime_s as f64), ..PeerView::default() }],
            ..Panel::default()
        };
        assert_eq!(what(&event(panel(1, 2.0))), what(&event(panel(5, 2.0))));
        assert_ne!(what(&event(panel(1, 2.0))), what(&event(panel(5, 1.9))));
    }
}
