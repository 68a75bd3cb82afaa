//! What others learn: random words of questions and answers, looked for in everybody but the two ends, and in the provider.
//!
//! The two ends cannot reach each other: one has IPv4 only, the other one IPv6 only. All goes through a relay.

use crate::serve::written;
use crate::{Bar, Book, Process, network};
use anyhow::{Context, Result, ensure};
use base::Hash;
use engine::{Engine, EngineConfig};
use node::ControlRequest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SESSIONS: usize = 200;
/// Bytes of a word.
const WORD: usize = 24;
/// What the provider still has so long after the last answer, it keeps.
const AFTER: Duration = Duration::from_secs(5);
/// The first answer comes within this: the offer, and a way through the relay.
const REACHED: Duration = Duration::from_secs(90);
const BEFORE: &str = "my secret is";

/// A process of the network, with what it writes down.
struct Party {
    process: Process,
    dir: PathBuf,
    log: PathBuf,
    ready: Value,
}

impl Party {
    fn begin(stage: &Path, name: &str, arguments: &[&str]) -> Result<Self> {
        let (dir, log) = (stage.join(name), stage.join(format!("{name}.log")));
        let mut command = Command::new(std::env::current_exe()?.with_file_name("talkoo"));
        command.args(["--json", "--no-mdns", "--threads", "1", "--data"]).arg(&dir).args(arguments);
        let file = std::fs::File::create(&log)?;
        let mut child =
            command.env("TALKOO_LOG", "debug").stdout(Stdio::piped()).stderr(file).spawn().context("talkoo")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let ready = serde_json::from_str(&line).with_context(|| format!("the first line of {name}"))?;
        Ok(Self { process: Process(child), dir, log, ready })
    }

    fn said(&self, what: &Value) -> Result<String> {
        Ok(what.as_str().with_context(|| format!("missing in {}", self.ready))?.to_owned())
    }

    /// Words in its memory, its folder and its log.
    fn holds(&self, words: &Words) -> Result<usize> {
        let mut found = words.found(&memory(self.process.0.id())?);
        for path in [&self.dir, &self.log] {
            found += words.found(&files(path)?);
        }
        Ok(found)
    }
}

pub(super) async fn measure(book: &mut Book) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let model = stage.path().join("figure.gguf");
    written(&model, "nano")?;
    let text = |path: &Path| -> Result<String> { Ok(path.to_str().context("UTF-8")?.to_owned()) };
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let relay = Party::begin(stage.path(), "relay", &["relay", "--bind", &free])?;
    let address = relay.said(&relay.ready["relay"])?;
    let here = ["serve", "--listen", "127.0.0.1:0"];
    let file = text(&model)?;
    let offer =
        [&["--bind", "[::1]:0", "--relay", &address][..], &here[..], &["--offer", "--model", &file][..]].concat();
    let provider = Party::begin(stage.path(), "provider", &offer)?;
    let ticket = provider.said(&provider.ready["tickets"][0])?;
    let asks = [&["--bind", "127.0.0.1:0", "--relay", &address][..], &here[..], &["--ticket", &ticket][..]].concat();
    let peer = Party::begin(stage.path(), "peer", &asks)?;
    let client = Party::begin(stage.path(), "client", &asks)?;
    let name = format!("{}{}", serving::NET, provider.said(&provider.ready["models"][0])?);
    let api = client.said(&client.ready["api"])?;
    let api = api.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let ask = |prompt: &str| {
        // Echoed: it is in the answer, too.
        let body = json!({ "model": name, "prompt": prompt, "max_tokens": 8, "temperature": 0, "echo": true });
        post(&api, "/v1/completions", &body.to_string())
    };
    let begun = Instant::now();
    while !ask("hello")?.starts_with("HTTP/1.1 200") {
        ensure!(begun.elapsed() < REACHED, "nobody answers through the relay");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let key = provider.said(&provider.ready["node"])?;
    relayed(&client, &key, &address).await?;
    let words = Words::new(&model)?;
    for word in &words.plain {
        let answer = ask(&format!("{BEFORE} {word}"))?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains(word.as_str()), "no answer: {answer}");
    }
    let mut found = 0;
    for party in [&relay, &peer] {
        found += party.holds(&words)?;
    }
    let control = words.found(&memory(client.process.0.id())?);
    relayed(&client, &key, &address).await?;
    ensure!(control > 0, "the search finds nothing in the memory of the client, which asked");
    tokio::time::sleep(AFTER).await;
    let kept = provider.holds(&words)?;
    let how = format!(
        "{SESSIONS} questions and answers with random words in them, between two processes that have no way to each other but a relay \
         (one with IPv4 only, one with IPv6 only; the client's way is looked at before and after); words found in the memory, the \
         folder and the log of the relay and of a third peer of the network, as UTF-8, \\u-escaped, UTF-16, base64 and ids of tokens \
         in 32 bits; the same search finds {control} in the client's memory"
    );
    book.add("quick", "serve.canaries", (found as f64, "found"), Bar::Most(0.0), "0", &how);
    let how = format!(
        "the same words in the memory, the folder and the log of the provider {} s after the last answer",
        AFTER.as_secs()
    );
    book.add("quick", "serve.canaries.provider", (kept as f64, "found"), Bar::Most(0.0), "0", &how);
    Ok(())
}

/// Fails unless the client's packets to the provider pass the relay.
async fn relayed(client: &Party, provider: &str, relay: &str) -> Result<()> {
    let way = network::answer(&client.dir, &ControlRequest::Ping { peer: provider.to_owned() }).await?;
    ensure!(way["direct"] == false && way["address"] == relay, "it does not go through the relay: {way}");
    Ok(())
}

/// The whole of an HTTP answer.
fn post(address: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Words, and every form in which they are looked for.
struct Words {
    plain: Vec<String>,
    /// By their first four bytes.
    forms: BTreeMap<[u8; 4], Vec<Vec<u8>>>,
    /// First two bytes of a form.
    begins: Vec<bool>,
}

impl Words {
    fn new(model: &Path) -> Result<Self> {
        let random = |i: usize| Hash::of("canary", &(i as u64 ^ u64::from(std::process::id())).to_le_bytes());
        let plain: Vec<String> = (0..SESSIONS).map(|i| random(i).to_string()[..WORD].to_owned()).collect();
        let path = model.to_owned();
        let engine =
            Engine::load(EngineConfig { path, hash: None, threads: 1, slots: 1, context: 512, memory: 0, vram: 0 })?;
        let tokens = |text: &str| engine.tokenize(text, true).map_err(|refusal| anyhow::anyhow!("{refusal:?}"));
        let before = tokens(BEFORE)?;
        let mut forms = Vec::new();
        for word in &plain {
            forms.extend(written_forms(word));
            let whole = tokens(&format!("{BEFORE} {word}"))?;
            let same = whole.iter().zip(&before).take_while(|(a, b)| a == b).count();
            forms.push(whole[same..].iter().flat_map(|id| id.to_le_bytes()).collect());
        }
        Ok(Self::of(plain, forms))
    }

    fn of(plain: Vec<String>, all: Vec<Vec<u8>>) -> Self {
        let mut begins = vec![false; 1 << 16];
        let mut forms: BTreeMap<[u8; 4], Vec<Vec<u8>>> = BTreeMap::new();
        for form in all {
            let Some(first) = form.first_chunk::<4>().copied() else { continue };
            begins[usize::from(u16::from_le_bytes([first[0], first[1]]))] = true;
            forms.entry(first).or_default().push(form);
        }
        Self { plain, forms, begins }
    }

    /// How often one of them is there.
    fn found(&self, bytes: &[u8]) -> usize {
        let hit = |at: usize| {
            let rest = &bytes[at..];
            let first = rest.first_chunk::<4>()?;
            if !self.begins[usize::from(u16::from_le_bytes([first[0], first[1]]))] {
                return None;
            }
            self.forms.get(first)?.iter().find(|form| rest.starts_with(form))
        };
        (0..bytes.len()).filter(|at| hit(*at).is_some()).count()
    }
}

/// A word as text is kept or sent.
fn written_forms(word: &str) -> Vec<Vec<u8>> {
    let escaped: String = word.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let wide = |order: fn(u16) -> [u8; 2]| word.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    let mut forms =
        vec![word.as_bytes().to_vec(), escaped.into_bytes(), wide(u16::to_le_bytes), wide(u16::to_be_bytes)];
    forms.extend((0..3).map(|before| base64(word.as_bytes(), before)));
    forms
}

/// The characters of base64 that these bytes alone decide, so many bytes after the beginning of a group of three.
fn base64(bytes: &[u8], before: usize) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let skipped = before * 8;
    let bit = |at: usize| usize::from(bytes[(at - skipped) / 8] >> (7 - (at - skipped) % 8) & 1);
    let digit = |i: usize| DIGITS[(6 * i..6 * i + 6).fold(0, |digit, at| 2 * digit + bit(at))];
    (skipped.div_ceil(6)..(skipped + 8 * bytes.len()) / 6).map(digit).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_a_word_is_found_wherever_it_begins() {
        // Of "Man", "xMan" and "xyMan" with what follows.
        assert_eq!(base64(b"Man", 0), b"TWFu");
        assert_eq!(base64(b"Man", 1), b"1hb");
        assert_eq!(base64(b"Man", 2), b"NYW");
    }

    #[test]
    fn a_word_is_found_in_every_form() {
        let word = "0123456789abcdef01234567";
        let forms = written_forms(word);
        let words = Words::of(vec![word.to_owned()], forms.clone());
        for form in forms {
            let there = [&b"something before "[..], form.as_slice(), &b" and after"[..]].concat();
            assert_eq!(words.found(&there), 1, "{}", String::from_utf8_lossy(&form));
            assert_eq!(words.found(&there[..there.len() / 2]), 0);
        }
    }
}
