//! Every command of the README and of the pages it leads to runs. The lines are read from the files themselves, and each is a
//! step of the sessions below, with real processes: a line that nobody runs here is noticed, and a step whose line is gone.

#![cfg(feature = "serve")]

#[path = "common/api.rs"]
mod api;
mod common;
#[path = "common/hub.rs"]
mod hub;

use api::Api;
use common::{Peer, UP, stop, whole};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const PROGRAM: &str = "talkoo";
/// Commands that have commands of their own.
const GROUPS: [&str; 6] = ["chain", "key", "model", "network", "service", "wallet"];

/// What the pages show to be typed, as it stands there: in blocks, and between ticks.
fn shown() -> BTreeSet<String> {
    // What docs/api.md says of keys is tried beside their quotas.
    let docs = std::fs::read_dir("../../docs").expect("the pages").map(|entry| entry.expect("an entry").path());
    let docs = docs.filter(|path| path.extension().is_some_and(|end| end == "md") && !path.ends_with("api.md"));
    let pages = docs.chain(["../../README.md".into()]);
    let text: String = pages.map(|path| std::fs::read_to_string(path).expect("a page")).collect();
    let (mut lines, mut prose, mut block) = (BTreeSet::<String>::new(), String::new(), None);
    for line in text.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language),
            (Some(_), Some(_)) => block = None,
            (None, None) => prose += &format!("{line} "),
            (None, Some("")) => {
                let (code, comment) = line.split_once('#').unwrap_or((line, ""));
                lines.extend(alternatives(code.trim()));
                lines.extend(comment.split_once(&format!(": {PROGRAM} ")).map(|(_, rest)| format!("{PROGRAM} {rest}")));
                prose += &format!("{comment} ");
            }
            // In a language of its own: conformance/ runs it.
            (None, Some(_)) => {}
        }
    }
    for line in &lines {
        let program = line.split(' ').next().unwrap_or_default();
        assert!([PROGRAM, "make"].contains(&program), "a page shows `{line}`: how is it tried?");
    }
    let named = prose.split('`').skip(1).step_by(2).filter(|part| {
        let typed = part.starts_with(&format!("{PROGRAM} ")) || part.starts_with("make ");
        // The beginning of a line is a name for it.
        typed && !lines.iter().any(|line| line == part || line.starts_with(&format!("{part} ")))
    });
    let named: Vec<String> = named.map(str::to_owned).collect();
    lines.extend(named);
    lines
}

/// What a line stands for: the beginning of the first command holds for what follows a dot or a bar.
fn alternatives(line: &str) -> Vec<String> {
    let line = line.replace(" | ", " · ");
    let mut parts = line.split(" · ").map(str::trim).filter(|part| !part.is_empty());
    let Some(first) = parts.next() else { return Vec::new() };
    let group = first.split(' ').nth(1).filter(|group| GROUPS.contains(group));
    let before = group.map_or(PROGRAM.to_owned(), |group| format!("{PROGRAM} {group}"));
    std::iter::once(first.to_owned()).chain(parts.map(|part| format!("{before} {part}"))).collect()
}

#[test]
fn every_line_has_a_step_and_every_step_a_line() {
    let lines: BTreeSet<String> = shown().into_iter().filter(|line| line.starts_with(PROGRAM)).collect();
    assert!(lines.len() > 50, "there are more commands than {lines:#?}");
    // The steps are the texts of this file that begin as a command.
    let begins = format!("\"{PROGRAM} ");
    let steps = include_str!("readme.rs").split(&begins).skip(1).filter_map(|rest| rest.split('"').next());
    let steps: BTreeSet<String> = steps.map(|rest| format!("{PROGRAM} {rest}")).collect();
    let untried: Vec<&String> = lines.difference(&steps).collect();
    assert!(untried.is_empty(), "a page shows what no step of tests/readme.rs runs: {untried:#?}");
    let gone: Vec<&String> = steps.difference(&lines).collect();
    assert!(gone.is_empty(), "steps of tests/readme.rs run what no page shows: {gone:#?}");
}

#[test]
fn every_target_that_is_named_can_be_made() {
    let makefile = std::fs::read_to_string("../../Makefile").expect("the Makefile");
    let lines: Vec<String> = shown().into_iter().filter(|line| line.starts_with("make ")).collect();
    assert!(lines.len() > 5, "the pages name more targets than {lines:?}");
    for line in lines {
        let target = line.split(' ').nth(1).unwrap_or_default();
        assert!(makefile.contains(&format!("\n{target}:")), "a page shows `{line}`, the Makefile has no {target}");
    }
}

/// The text with other parts in it, each put once where its place is next.
fn filled(text: &str, parts: &[(&str, &str)]) -> String {
    parts.iter().fold(text.to_owned(), |filled, (place, part)| {
        assert!(filled.contains(*place), "no {place} in {filled}");
        filled.replacen(*place, part, 1)
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}"))
}

fn until(what: &str, good: impl Fn() -> bool) {
    common::until(what, || if good() { Ok(()) } else { Err("not yet") });
}

fn up() -> String {
    UP.join(" ")
}

/// Where a stranger types: a folder with the data folders of all nodes, and a hub instead of Hugging Face.
struct Stage {
    dir: tempfile::TempDir,
    hub: hub::Hub,
}

impl Stage {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), hub: hub::hub() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A line of a page for a node, with what stands for something else filled in.
    fn command(&self, node: &str, json: bool, line: &str, parts: &[(&str, &str)]) -> Command {
        let line = filled(line, parts);
        assert!(!line.contains('…'), "a ticket or a seat is missing: {line}");
        let mut command = match json {
            true => common::talkoo(&self.path(node)),
            false => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_talkoo"));
                command.args(["--bind", "127.0.0.1:0", "--no-mdns", "--threads", "1", "--data"]).arg(self.path(node));
                command.stderr(Stdio::piped());
                command
            }
        };
        command.args(line.split(' ').skip(1)).current_dir(self.dir.path());
        command.env("HOME", self.path("home")).env("TALKOO_PASSPHRASE", "correct horse");
        command.env("HF_ENDPOINT", &self.hub.address).env("HF_HOME", self.path("home")).env("HF_TOKEN", "");
        command
    }

    /// Runs a line to its good end, for programs or for people; `input` is typed into it.
    fn ended(&self, node: &str, json: bool, line: &str, parts: &[(&str, &str)], input: &str) -> String {
        let mut command = self.command(node, json, line, parts);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("read");
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.is_empty(), "`{line}` of {node}: {text}{errors}");
        text
    }

    fn typed(&self, node: &str, line: &str, parts: &[(&str, &str)], input: &str) -> Value {
        let text = self.ended(node, true, line, parts, input);
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("`{line}`: {error}: {text}"))
    }

    fn run(&self, node: &str, line: &str, parts: &[(&str, &str)]) -> Value {
        self.typed(node, line, parts, "")
    }

    /// The same for people first, who read `says`: of lines that do no harm when they run twice.
    fn look(&self, node: &str, line: &str, parts: &[(&str, &str)], says: &str) -> Value {
        let text = self.ended(node, false, line, parts, "");
        assert!(text.contains(says), "`{line}` does not say {says}: {text}");
        self.run(node, line, parts)
    }

    /// A line that goes on until it is stopped, and the first thing that it says.
    fn begin(&self, node: &str, line: &str, parts: &[(&str, &str)]) -> (Peer, Value) {
        let mut child = self.command(node, true, line, parts).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
        let peer = Peer(child);
        (peer, serde_json::from_str(&first).unwrap_or_else(|error| panic!("`{line}` of {node}: {error}: {first}")))
    }

    /// One that serves.
    fn serve(&self, node: &str, line: &str, parts: &[(&str, &str)]) -> Api {
        let (peer, ready) = self.begin(node, line, parts);
        let address = text(&ready["api"]).trim_start_matches("http://").trim_end_matches("/v1").to_owned();
        Api { stage: None, dir: self.path(node), peer, address, ready }
    }
}

/// What `bard` answers to any OpenAI client.
fn answer(api: &Api) -> Value {
    let model = api.get("/v1/models")["data"][0]["id"].clone();
    let asked = json!({ "model": model, "messages": [{ "role": "user", "content": "ROMEO:" }], "max_tokens": 8 });
    let answer = api.post("/v1/chat/completions", &asked);
    assert!(answer["usage"]["completion_tokens"].as_u64() > Some(0), "{answer}");
    answer
}

#[test]
fn contribute() {
    let stage = Stage::new();
    let (mut peer, ready) = stage.begin("node", "talkoo up", &[("up", up().as_str())]);
    assert!(text(&ready["page"]).starts_with("http://127.0.0.1:"), "{ready}");
    assert_eq!(stage.look("node", "talkoo status", &[], "page ")["node"], ready["node"]);
    let (_watched, seen) = stage.begin("node", "talkoo status", &[("status", "status --watch")]);
    assert_eq!(seen["node"], ready["node"]);
    let doctor = stage.look("node", "talkoo doctor", &[], "node_running");
    assert_eq!(doctor["healthy"], true, "{doctor}");
    let paused = stage.look("node", "talkoo pause 2h", &[], "paused for 120 min");
    assert_eq!((&paused["state"], &paused["reason"]["code"]), (&"paused".into(), &"paused_by_owner".into()));
    let resumed = stage.look("node", "talkoo resume", &[], "goes on");
    assert_ne!(resumed["reason"]["code"], "paused_by_owner");
    assert_eq!(stage.look("node", "talkoo finish", &[], "nothing new is taken")["state"], "draining");
    let report = [("FILE", "report.json")];
    assert_eq!(stage.look("node", "talkoo report FILE", &report, "nothing was sent")["file"], "report.json");
    let report = std::fs::read_to_string(stage.path("report.json")).expect("written");
    assert!(report.contains("node_running") && !report.contains(text(&ready["node"])), "{report}");
    let key = stage.run("node", "talkoo release key FILE", &[("FILE", "secret")]);
    let (program, key) = (env!("CARGO_BIN_EXE_talkoo"), text(&key["key"]).to_owned());
    let parts = [("PROGRAM", program), ("FILE", "secret"), ("FOLDER", "releases")];
    let signed = stage.run("node", "talkoo release sign PROGRAM --key FILE --out FOLDER", &parts);
    assert_eq!(signed["key"], key.as_str());
    let parts = [("FOLDER", "releases"), ("KEY", &format!("{key} --check"))];
    let found = stage.look("node", "talkoo update --from FOLDER --trust KEY", &parts, "is not newer");
    assert_eq!((&found["newer"], &found["version"]), (&false.into(), &env!("CARGO_PKG_VERSION").into()));
    let nobody = stage.command("node", true, "talkoo update --trust KEY", &[("KEY", &key)]).output().expect("it ends");
    let nobody: Value = serde_json::from_slice(&nobody.stdout).expect("JSON");
    assert!(text(&nobody["error"]).contains("no peer gives a release"), "{nobody}");
    // Shown only: another test does it.
    let unit = stage.look("node", "talkoo service install", &[("install", "install --print")], " up");
    let same = stage.look("node", "talkoo service uninstall", &[("uninstall", "uninstall --print")], " up");
    assert!(unit["text"].is_string() && unit["file"] == same["file"] && !Path::new(text(&unit["file"])).exists());
    assert_eq!(stage.run("node", "talkoo down", &[])["stopped"], true);
    assert!(peer.0.wait().expect("it ends").success());
}

/// What makes the shipped run one of seconds.
const SMALL: [(&str, &str); 5] = [
    ("size = \"tiny\"", "size = \"nano\""),
    ("tokens = \"2M\"", "tokens = 32000"),
    ("batch_tokens = 2048", "batch_tokens = 512"),
    ("mode = \"auto\"", "mode = \"gradients\""),
    ("target_seconds = 10", "target_seconds = 1"),
];

/// One session: what two machines train answers, is given to others, and is asked on machines of others.
#[test]
fn train_and_ask() {
    let stage = Stage::new();
    train(&stage);
    ask(&stage);
    models(&stage);
    others(&stage);
}

fn train(stage: &Stage) {
    let begun = Instant::now();
    let shipped = std::fs::read_to_string("../../examples/bard.toml").expect("the shipped run");
    let write = |name: &str, text: &str| std::fs::write(stage.path(name), text).expect("written");
    std::fs::create_dir(stage.path("examples")).expect("made");
    write("examples/bard.toml", &shipped);
    let plan = stage.look("one", "talkoo train plan examples/bard.toml", &[], "against one alone");
    assert!(plan["settings"][0]["mode"].is_string(), "{plan}");
    let small = filled(&shipped, &SMALL);
    write("examples/bard.toml", &small);
    let (mut one, created) = stage.begin("one", "talkoo train create examples/bard.toml", &[]);
    let voted = stage.run("one", "talkoo chain admit RUN", &[("RUN", "bard")]);
    assert_eq!(voted["run"], created["run"]);
    assert!(stage.run("one", "talkoo wallet fund RUN 5 --yes", &[("RUN", "bard")])["final_at"].is_u64());
    // Beginning a node of its own, it says nothing until it is stopped.
    let join = [("talkoo1…", text(&created["ticket"]))];
    let join = stage.command("two", true, "talkoo train join talkoo1…", &join).stdout(Stdio::null()).spawn();
    let mut two = Peer(join.expect("it starts"));
    let watched = stage.look("one", "talkoo train watch", &[], "trainer busy");
    assert_eq!((&watched["run"], &watched["ended"]), (&created["run"], &true.into()));
    let [end, got] = ["one", "two"].map(|name| common::watch(&stage.path(name), begun, "the end", whole));
    assert_eq!(end["root"], got["root"], "both have the same weights");
    let exported = stage.look("one", "talkoo train export model/", &[], "weights of round");
    assert_eq!(exported["root"], end["root"][1]);
    stage.run("one", "talkoo train export model/", &[("model/", "checked/ --check")]);
    for file in ["model/model.safetensors", "model/config.json", "model/tokenizer.json", "checked/check.safetensors"] {
        assert!(stage.path(file).exists(), "{file}");
    }
    stop(&mut two);
    stop(&mut one);
    let replayed = stage.run("one", "talkoo train replay", &[]);
    assert_eq!((&replayed["root"], &replayed["same_end"]), (&end["root"][1], &true.into()));
    stage.run("one", "talkoo train log run.log", &[]);
    let again = stage.look("three", "talkoo train replay --log run.log", &[], "= what the log says");
    assert_eq!((&again["root"], &again["units"]), (&end["root"][1], &replayed["units"]));
    // A text of one's own.
    std::fs::copy("../../corpus/shakespeare.jsonl.zst", stage.path("mine.jsonl.zst")).expect("copied");
    let built = stage.run("one", "talkoo data build mine.jsonl.zst --out corpus", &[]);
    assert!(built["train_tokens"].as_u64() > Some(0), "{built}");
    write("own.toml", &filled(&small, &[("manifest = \"shipped\"", "manifest = \"corpus\"")]));
    let plan = stage.run("two", "talkoo train plan examples/bard.toml", &[("examples/bard.toml", "own.toml")]);
    assert!(plan["settings"][0]["mode"].is_string(), "{plan}");
}

fn ask(stage: &Stage) {
    let short = [("run", "run --max-tokens 8")];
    let said = stage.typed("one", "talkoo run", &short, "ROMEO:\nAnd then?\n");
    assert!(said["model"] == "bard" && said["tokens"].as_u64() > Some(0), "{said}");
    stage.ended("one", false, "talkoo run", &short, "ROMEO:\n");
    let listen = ("serve", "serve --listen 127.0.0.1:0");
    let mut api = stage.serve("one", "talkoo serve", &[listen]);
    assert_eq!((&api.ready["models"], api.raw("GET", "/", None, "").0), (&json!(["bard"]), 200));
    answer(&api);
    stop(&mut api.peer);
    let exported = stage.look("one", "talkoo train export bard.gguf --gguf", &[], "weights of round");
    assert_eq!(exported["model"], "bard.gguf");
    let whole = [("bard.gguf", "bard-f32.gguf"), ("--gguf", "--gguf --f32")];
    stage.run("one", "talkoo train export bard.gguf --gguf", &whole);
    let made = stage.run("guest", "talkoo key create NAME", &[("NAME", "visitor")]);
    assert_eq!(stage.look("guest", "talkoo key ls", &[], "visitor")[0]["name"], "visitor");
    let owner = stage.run("guest", "talkoo key create NAME --owner", &[("NAME", "me")]);
    let demand = ("bard.gguf", "bard.gguf --demand-keys");
    let mut api = stage.serve("guest", "talkoo serve --model bard.gguf", &[listen, demand]);
    assert_eq!(api.raw("GET", "/v1/models", None, "").0, 401);
    assert_eq!(api.raw("GET", "/v1/models", Some(text(&made["key"])), "").0, 200);
    let sees = |key: &Value| api.raw("GET", "/api/state", Some(text(&key["key"])), "").0;
    assert_eq!((sees(&made), sees(&owner)), (403, 200));
    stop(&mut api.peer);
    assert_eq!(stage.run("guest", "talkoo key revoke NAME", &[("NAME", "visitor")])["revoked"], "visitor");
}

fn models(stage: &Stage) {
    let added = stage.look("giver", "talkoo model add bard.gguf", &[], "bard");
    let (mut giver, _) = stage.begin("giver", "talkoo up", &[("up", up().as_str())]);
    let published = stage.look("giver", "talkoo model publish bard", &[], "others fetch it with");
    let ticket = [("talkoomodel1…", text(&published["ticket"]))];
    let pulled = stage.run("taker", "talkoo model pull talkoomodel1…", &ticket);
    assert_eq!((&pulled["hash"], &pulled["name"]), (&added["hash"], &"bard".into()));
    let bytes = std::fs::read(stage.path("bard-f32.gguf")).expect("exported");
    let sum = hub::sha256(&bytes);
    stage.hub.state.lock().expect("mine").files.insert("other-Q4_K_M.gguf".into(), bytes);
    let pulled = stage.run("taker", "talkoo model pull OWNER/REPO:Q4_K_M", &[("OWNER/REPO", "org/repo")]);
    // Of the test's own hub, which has another model.
    let useful = [("Qwen/Qwen3-0.6B-GGUF:Q8_0", "org/repo:Q4_K_M")];
    let same = stage.run("taker", "talkoo model pull Qwen/Qwen3-0.6B-GGUF:Q8_0", &useful);
    assert_eq!(same["hash"], pulled["hash"]);
    assert_eq!((text(&pulled["sha256"]), text(&pulled["name"])), (sum.as_str(), "other-Q4_K_M"));
    let listed = stage.look("taker", "talkoo model ls", &[], "other-Q4_K_M");
    assert_eq!(listed["models"].as_array().map(Vec::len), Some(2), "{listed}");
    let shown = stage.look("taker", "talkoo model show NAME", &[("NAME", "bard")], text(&added["sha256"]));
    assert_eq!(shown["hash"], added["hash"]);
    let good = stage.look("taker", "talkoo model verify", &[], "good: ");
    assert_eq!(good["good"].as_array().map(Vec::len), Some(2), "{good}");
    assert_eq!(stage.run("taker", "talkoo model rm NAME", &[("NAME", "bard")])["removed"], "bard");
    stop(&mut giver);
}

fn others(stage: &Stage) {
    let offer = "--offer --listen 127.0.0.1:0";
    let mut first = stage.serve("first", "talkoo serve --model bard.gguf --offer", &[("--offer", offer)]);
    let ticket = text(&first.ready["tickets"][0]).to_owned();
    let offer = format!("{offer} --ticket {ticket}");
    let mut second = stage.serve("second", "talkoo serve --model bard.gguf --offer", &[("--offer", offer.as_str())]);
    let asked = [("run", "run --max-tokens 8 --receipt receipt.json"), ("talkoo1…", ticket.as_str())];
    stage.ended("asker", false, "talkoo run --ticket talkoo1…", &asked, "ROMEO:\n");
    let said = stage.typed("asker", "talkoo run --ticket talkoo1…", &asked, "ROMEO:\n");
    let provider = &said["receipt"]["parts"][0]["provider"];
    assert!([&first.ready["node"], &second.ready["node"]].contains(&provider), "{said}");
    let checked = stage.look("asker", "talkoo receipt verify FILE", &[("FILE", "receipt.json")], "receipt verified");
    assert_eq!(checked["verified"], true);
    let few = format!("{ticket} --checks 2");
    let audit = [("MODEL", "bard"), ("talkoo1…", few.as_str())];
    let audited = stage.run("auditor", "talkoo audit MODEL --ticket talkoo1…", &audit);
    let providers = audited["providers"].as_array().expect("a list");
    assert!(providers.len() == 2 && providers.iter().all(|provider| provider["bad"] == false), "{audited}");
    let listen = [("serve", "serve --listen 127.0.0.1:0"), ("talkoo1…", ticket.as_str())];
    let mut client = stage.serve("asker", "talkoo serve --ticket talkoo1…", &listen);
    until("an offer", || client.get("/v1/models")["data"][0]["id"] == "net/bard");
    let id = answer(&client)["id"].clone();
    let (status, receipt) = client.raw("GET", &format!("/v1/receipts/{}", text(&id)), None, "");
    assert_eq!(status, 200, "{receipt}");
    std::fs::write(stage.path("own.json"), receipt).expect("written");
    assert_eq!(stage.run("asker", "talkoo receipt verify FILE", &[("FILE", "own.json")])["verified"], true);
    for api in [&mut client, &mut second, &mut first] {
        stop(&mut api.peer);
    }
}

/// So many addresses that were free a moment ago, for UDP and TCP.
fn free(count: usize) -> Vec<String> {
    let both = |_: i32| {
        let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
        let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
        Some((udp, tcp))
    };
    let held: Vec<(UdpSocket, TcpListener)> = (0..100).filter_map(both).take(count).collect();
    held.iter().map(|(udp, _)| udp.local_addr().expect("bound").to_string()).collect()
}

#[test]
fn four_validators() {
    let stage = Stage::new();
    let nodes = ["first", "second", "third", "fourth"];
    let binds = free(nodes.len());
    let seat = |i: usize| {
        let bind = ("IP:PORT", binds[i].as_str());
        let seat = stage.look(nodes[i], "talkoo --bind IP:PORT network seat", &[bind], "seat1");
        text(&seat["seat"]).to_owned()
    };
    let seats: Vec<String> = (0..nodes.len()).map(seat).collect();
    let places: Vec<(&str, &str)> = seats.iter().map(|seat| ("seat1…", seat.as_str())).collect();
    let line = "talkoo network create lab --seat seat1… --seat seat1… --seat seat1… --seat seat1… --out lab.network";
    let created = stage.look("first", line, &places, "4 validators");
    let joined = |node: &str| stage.run(node, "talkoo network join lab.network", &[])["seated"] == true;
    assert!(nodes.iter().all(|node| joined(node)) && !joined("fifth"), "four have seats, the fifth follows");
    let up = up();
    let begin = |i: usize| {
        let parts = [("IP:PORT", binds[i].as_str()), ("up", up.as_str())];
        stage.begin(nodes[i], "talkoo --bind IP:PORT up", &parts).0
    };
    let mut peers: Vec<Peer> = (0..nodes.len()).map(begin).collect();
    let (fifth, ready) = stage.begin("fifth", "talkoo up", &[("up", up.as_str())]);
    peers.push(fifth);
    let status = stage.look("first", "talkoo chain status", &[], "this node validates");
    assert_eq!((&status["chain"], status["validators"].as_array().map(Vec::len)), (&created["chain"], Some(4)));
    ordered(&stage, text(&ready["node"]));
    peers.iter_mut().for_each(stop);
    // Who was there last goes on as a network of its own.
    let seat = seat(1);
    let parts = [("NAME", "anew"), ("seat1…", seat.as_str()), ("FILE", "anew.network")];
    let anew = stage.run("second", "talkoo network recover NAME --seat seat1… --out FILE", &parts);
    assert_eq!(anew["from_chain"], created["chain"]);
}

/// The fifth gets credits, takes a seat, gives it up; the chain says all of that, and proves it.
fn ordered(stage: &Stage, key: &str) {
    let whole = format!("{key} 200");
    let sent = stage.run("first", "talkoo wallet send KEY 3 --yes", &[("KEY 3", whole.as_str())]);
    let height = sent["final_at"].to_string();
    until("the credits", || stage.run("fifth", "talkoo wallet balance", &[])["node"] == 200_000_000);
    assert!(stage.run("fifth", "talkoo network stake", &[])["final_at"].is_u64());
    assert!(stage.run("fifth", "talkoo network leave", &[])["final_at"].is_u64());
    assert_eq!(stage.look("fifth", "talkoo network show", &[], "this node follows")[0]["network"], "lab");
    let block = stage.look("first", "talkoo chain block N", &[("N", height.as_str())], "proposed by");
    let hash = text(&block["transactions"][0]["hash"]);
    let found = stage.look("first", "talkoo chain tx HASH", &[("HASH", hash)], hash);
    assert_eq!((found["height"].to_string(), text(&found["kind"])), (height, "transfer"));
    let account = stage.look("first", "talkoo chain account KEY", &[("KEY", key)], "bonded");
    assert_eq!(account["bond_micro"], 100_000_000, "{account}");
    let proof = stage.run("first", "talkoo chain proof KEY --out FILE", &[("KEY", key), ("FILE", "fifth.proof")]);
    assert_eq!(proof["account"], key);
    let line = "talkoo chain verify FILE --network-file lab.network";
    let proved = stage.look("stranger", line, &[("FILE", "fifth.proof")], "proved for the state");
    assert_eq!(proved["account"]["bond_micro"], account["bond_micro"]);
}

#[test]
fn the_wallet() {
    let stage = Stage::new();
    let made = stage.run("node", "talkoo wallet new", &[]);
    let (account, words) = (text(&made["account"]), text(&made["words"]));
    assert_eq!(words.split(' ').count(), 24);
    assert_eq!(stage.look("node", "talkoo wallet backup", &[], words)["words"], made["words"]);
    let restored = stage.typed("other", "talkoo wallet restore", &[], &format!("{words}\n"));
    assert_eq!(restored["account"], made["account"]);
    let (mut peer, ready) = stage.begin("node", "talkoo up", &[("up", up().as_str())]);
    assert_eq!(stage.look("node", "talkoo wallet show", &[], account)["wallet"]["balance_micro"], 0);
    assert!(stage.run("node", "talkoo wallet collect --yes", &[])["final_at"].is_u64());
    let friend = "33".repeat(32);
    assert!(stage.run("node", "talkoo wallet send KEY 3 --yes", &[("KEY", friend.as_str())])["tx"].is_string());
    assert!(stage.run("node", "talkoo wallet bond 100 --yes", &[])["tx"].is_string());
    assert!(stage.run("node", "talkoo wallet unbond 100 --yes", &[])["tx"].is_string());
    // Into the wallet came all but the bond of the seat and a fee; out of it went 3 and 100, each with a fee.
    let left = 10_000_000_000 - 100_000_000 - 1_000 - 3_001_000 - 100_001_000u64;
    let on = format!("balance --network {}", text(&ready["chain"]));
    for on in ["balance", on.as_str()] {
        let balance = stage.look("node", "talkoo wallet balance", &[("balance", on)], "wallet ");
        assert_eq!((&balance["wallet"], &balance["node"]), (&left.into(), &0.into()));
    }
    let history = stage.look("node", "talkoo wallet history", &[], "unbond");
    let whats: Vec<&str> = history.as_array().expect("a list").iter().map(|entry| text(&entry["what"])).collect();
    assert_eq!(whats, ["unbond", "bond", "sent", "received"], "newest first");
    stop(&mut peer);
}

#[test]
fn behind_a_router() {
    let stage = Stage::new();
    let [open, bind]: [String; 2] = free(2).try_into().expect("two");
    let place = [("0.0.0.0:7843", open.as_str()), ("NAME", "127.0.0.1")];
    let (mut relay, said) = stage.begin("relay", "talkoo --bind 0.0.0.0:7843 relay --host NAME", &place);
    let url = text(&said["relay"]);
    assert!(url.ends_with(&format!("@{open}")), "{said}");
    // Two that have something to say to each other: one keeps the chain that the other follows.
    let dir = stage.path("one");
    let seat = common::json(&dir, &["--bind", &bind, "network", "seat"]);
    let file = stage.path("home.network").display().to_string();
    common::json(&dir, &["network", "create", "home", "--seat", text(&seat["seat"]), "--out", &file]);
    for node in ["one", "two"] {
        common::json(&stage.path(node), &["network", "join", &file]);
    }
    let begin = |node: &str, up: &str| {
        let parts = [("https://KEY@NAME:7843", url), ("up", up)];
        stage.begin(node, "talkoo --relay https://KEY@NAME:7843 up", &parts)
    };
    let (mut one, ready) = begin("one", &format!("--bind {bind} {}", up()));
    let (mut two, _) = begin("two", &up());
    // Without one it asks those of the node that runs there.
    let unnamed = stage.look("one", "talkoo net check", &[], "gets through");
    assert_eq!(unnamed["relays_asked"], 1);
    let named = format!("--relay {url} net");
    let seen = stage.look("one", "talkoo net check", &[("net", named.as_str())], "gets through");
    assert_eq!((&seen["udp_v4"], &seen["relays"][0]["relay"]), (&true.into(), &url.into()));
    let way = stage.look("two", "talkoo peer ping KEY", &[("KEY", text(&ready["node"]))], " ms, ");
    assert!(way["peer"] == ready["node"] && way["rtt_ms"].as_f64() > Some(0.0), "{way}");
    for peer in [&mut two, &mut one, &mut relay] {
        stop(peer);
    }
}
