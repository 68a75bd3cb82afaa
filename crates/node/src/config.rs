//! `talkoo.toml`: what the owner of a node has decided. The command line goes before it.

use anyhow::{Context, Result, anyhow, bail};
use base::NodeId;
use ledger::Credits;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file, parsed. What it does not name is as in [`TEMPLATE`].
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node itself.
    pub node: NodeTable,
    /// How much of the machine it may use.
    pub limits: LimitsTable,
    /// When `talkoo up` works for others.
    pub schedule: ScheduleTable,
    /// Models that it serves.
    pub serve: ServeTable,
    /// How it asks others.
    pub ask: AskTable,
}

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeTable {
    /// Where it listens for peers, UDP.
    pub listen: SocketAddr,
    /// Whether nodes of the local network are found by themselves.
    pub mdns: bool,
    /// Relays that help behind a router.
    pub relays: Vec<String>,
    /// What trains.
    pub device: String,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsTable {
    /// Threads at a time; 0 = all.
    pub threads: u16,
    /// Of 100 parts of the time, how many training computes.
    pub duty_percent: u8,
    /// Memory of the program; above it, it rests and lets go of its models. 0 = no limit.
    pub memory_mb: u64,
    /// Memory of the graphics device for models that are served, and as much for a run that trains there. 0 = no limit.
    pub vram_mb: u64,
    /// The data folder; models that do not fit are not fetched. 0 = no limit.
    pub disk_gb: u64,
    /// Content that goes to peers, and that comes from them. 0 = no limit.
    pub upload_mbit: u32,
    /// See above.
    pub download_mbit: u32,
}

/// `[schedule]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleTable {
    /// When it works.
    pub when: When,
    /// Minutes without a key, click or touch after which the owner counts as gone.
    pub idle_minutes: u32,
    /// What it does while the owner is there.
    pub when_active: Presence,
    /// In the background: of 100 parts of its time, how many it computes.
    pub background_percent: u8,
    /// Of all cores, what other programs may use while it works.
    pub other_load_percent: u8,
    /// Whether it works on battery.
    pub on_battery: bool,
    /// Whether it works over a metered connection.
    pub metered: bool,
    /// It pauses above so many degrees Celsius.
    pub temperature_max_c: i32,
    /// Memory that stays free for others.
    pub memory_free_min_mb: u64,
    /// Disk that stays free.
    pub disk_free_min_mb: u64,
    /// Times of the week in which it never works.
    pub quiet_hours: Vec<String>,
    /// Whether it takes part in runs that it was not told of.
    pub runs: bool,
    /// What those pay at least, in credits for 10¹⁵ operations.
    #[serde(with = "amount")]
    pub pay_min: Credits,
}

/// When a node works for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// While its owner does not use the machine.
    #[default]
    Idle,
    /// Whatever the owner does; pauses by hand count.
    Always,
}

/// What a node does while its owner is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Nothing for others.
    #[default]
    Pause,
    /// Less, at low priority.
    Background,
}

/// `[serve]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeTable {
    /// Where the API and the page are.
    pub listen: SocketAddr,
    /// Names of `talkoo model ls`, or GGUF files.
    pub models: Vec<String>,
    /// Whether others may ask them.
    pub offer: bool,
    /// Credits for a million tokens of questions and of answers.
    #[serde(with = "amounts")]
    pub price: [Credits; 2],
    /// Chains whose credits pay for it, beside the own and those that four and more validate.
    pub accept: Vec<String>,
    /// Answers that are written at a time.
    pub parallel: u16,
    /// Tokens of a question and its answer together; 0 = as the model was trained, at most 8,192.
    pub context: usize,
    /// Tokens of an answer where a request names no bound.
    pub answer_tokens: u64,
    /// Temperature where a request names none.
    pub temperature: f32,
    /// Whether a key is needed on this machine, too.
    pub demand_keys: bool,
}

/// `[ask]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AskTable {
    /// Tickets of networks whose providers are asked.
    pub tickets: Vec<String>,
    /// Credits that are paid for a million tokens of questions and of answers, at most.
    #[serde(with = "amounts")]
    pub max_price: [Credits; 2],
    /// Credits that may be set aside for providers, in all.
    #[serde(with = "amount")]
    pub budget: Credits,
    /// Of 100 answers, how many a second provider is shown to check the first one.
    pub check_percent: u8,
    /// Names for which other machines may be asked, too: all others stay with the models of this machine.
    pub for_names: Vec<String>,
    /// Keys of the nodes that may be asked; empty: all.
    #[serde(deserialize_with = "keys")]
    pub providers: Vec<NodeId>,
}

/// The file with every key at its default, as it is written for an owner who has none.
pub const TEMPLATE: &str = include_str!("talkoo.toml");

const FILE: &str = "talkoo.toml";
/// A piece of content takes at most 4 s then, which its receiver waits for.
const MBIT_MIN: u32 = 2;
const MEMORY_MB_MIN: u64 = 64;

impl Default for NodeTable {
    fn default() -> Self {
        Self { listen: ([0, 0, 0, 0], 0).into(), mdns: true, relays: Vec::new(), device: "cpu".into() }
    }
}

impl Default for LimitsTable {
    fn default() -> Self {
        Self { threads: 0, duty_percent: 100, memory_mb: 0, vram_mb: 0, disk_gb: 0, upload_mbit: 0, download_mbit: 0 }
    }
}

impl Default for ScheduleTable {
    fn default() -> Self {
        let allowed = owner::Settings::default();
        Self {
            when: When::Idle,
            idle_minutes: (allowed.idle_after_ms / 60_000) as u32,
            when_active: Presence::Pause,
            background_percent: 25,
            other_load_percent: (allowed.other_load_permille_max / 10) as u8,
            on_battery: allowed.on_battery,
            metered: allowed.metered,
            temperature_max_c: allowed.temperature_max_c,
            memory_free_min_mb: allowed.memory_free_min_mb,
            disk_free_min_mb: allowed.disk_free_min_mb,
            quiet_hours: Vec::new(),
            runs: true,
            pay_min: Credits(100_000),
        }
    }
}

impl ScheduleTable {
    /// As the machine that decides takes it.
    pub fn settings(&self) -> Result<owner::Settings> {
        self.check("")?;
        let share_permille = u32::from(self.background_percent) * 10;
        let settings = owner::Settings {
            idle_after_ms: u64::from(self.idle_minutes) * 60_000,
            other_load_permille_max: u32::from(self.other_load_percent) * 10,
            on_battery: self.on_battery,
            metered: self.metered,
            temperature_max_c: self.temperature_max_c,
            memory_free_min_mb: self.memory_free_min_mb,
            disk_free_min_mb: self.disk_free_min_mb,
            when_active: match self.when_active {
                Presence::Pause => owner::WhenActive::Pause,
                Presence::Background => owner::WhenActive::Background { share_permille },
            },
            quiet_hours: self.quiet_hours.join(",").parse()?,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Refuses what cannot be meant, by its key and its line in `text`.
    fn check(&self, text: &str) -> Result<()> {
        let range = |good: bool, key: &str, what: &str| within(text, good, ("schedule", key), what);
        range(self.idle_minutes <= 1440, "idle_minutes", "is at most 1440, a day")?;
        let percent = |value: u8| (1..=100).contains(&value);
        range(percent(self.background_percent), "background_percent", "is between 1 and 100")?;
        range(percent(self.other_load_percent), "other_load_percent", "is between 1 and 100")?;
        range((30..=110).contains(&self.temperature_max_c), "temperature_max_c", "is between 30 and 110")?;
        let hours = self.quiet_hours.join(",").parse::<owner::WeekSchedule>();
        range(hours.is_ok(), "quiet_hours", &hours.err().map(|error| error.to_string()).unwrap_or_default())
    }
}

impl Default for ServeTable {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 8080).into(),
            models: Vec::new(),
            offer: false,
            price: [Credits::ZERO; 2],
            accept: Vec::new(),
            parallel: 4,
            context: 0,
            answer_tokens: 2048,
            temperature: 1.0,
            demand_keys: false,
        }
    }
}

impl LimitsTable {
    /// With what is safe on this machine where nothing was said: half of its memory.
    pub fn picked(mut self) -> Self {
        if self.memory_mb == 0 {
            // The same again after the next kernel, which keeps a little more or less for itself.
            self.memory_mb = host::hardware().memory_mb / 2 / 256 * 256;
        }
        self
    }

    /// What the system is asked to keep the program to.
    pub fn caps(&self) -> host::Caps {
        host::Caps { threads: self.threads, memory_mb: self.memory_mb }
    }

    /// Bytes of content a second that may go and come; 0: no limit.
    pub fn rates(&self) -> (u64, u64) {
        (u64::from(self.upload_mbit) * 125_000, u64::from(self.download_mbit) * 125_000)
    }
}

impl Config {
    /// What the data folder may still take of the disk.
    pub fn disk_budget(&self, folder: &Path) -> host::DiskBudget {
        let (limit_gb, free_min_mb) = (self.limits.disk_gb, self.schedule.disk_free_min_mb);
        host::DiskBudget { folder: folder.to_owned(), limit_gb, free_min_mb }
    }

    /// Where the settings of a data folder are.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    /// The settings of a data folder; the defaults where it has none.
    pub fn of(dir: &Path) -> Result<Self> {
        let path = Self::path(dir);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Writes the file with every key at its default where there is none.
    pub fn write_template(dir: &Path) -> Result<()> {
        let path = Self::path(dir);
        if path.exists() {
            return Ok(());
        }
        host::write_whole(&path, TEMPLATE.as_bytes(), false)
    }

    /// Reads the file's text. An unknown key is an error that names the one that was meant.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| told(text, &error))?;
        let Self { limits, schedule, serve, ask, .. } = &config;
        let range = |good: bool, section: &str, key: &str, what: &str| within(text, good, (section, key), what);
        range((1..=100).contains(&limits.duty_percent), "limits", "duty_percent", "is between 1 and 100")?;
        let least = limits.memory_mb == 0 || limits.memory_mb >= MEMORY_MB_MIN;
        range(least, "limits", "memory_mb", "is 0 or at least 64: the program itself takes about 40")?;
        range(limits.threads <= 1024, "limits", "threads", "is at most 1024")?;
        for (key, limit) in [("upload_mbit", limits.upload_mbit), ("download_mbit", limits.download_mbit)] {
            let what = "is 0 or at least 2: content moves in pieces of a mebibyte";
            range(limit == 0 || limit >= MBIT_MIN, "limits", key, what)?;
        }
        schedule.check(text)?;
        range((1..=256).contains(&serve.parallel), "serve", "parallel", "is between 1 and 256")?;
        range(serve.answer_tokens > 0, "serve", "answer_tokens", "is at least 1")?;
        range((0.0..=2.0).contains(&serve.temperature), "serve", "temperature", "is between 0 and 2")?;
        range(ask.check_percent <= 100, "ask", "check_percent", "is at most 100")?;
        Ok(config)
    }
}

/// An error that names the key, and its line where it stands in `text`.
fn within(text: &str, good: bool, (section, key): (&str, &str), what: &str) -> Result<()> {
    if good {
        return Ok(());
    }
    let (mut inside, mut line) = (false, None);
    for (number, text) in (1..).zip(text.lines().map(str::trim)) {
        match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, _)) if !text.contains('=') => inside = name.trim() == section,
            _ if inside && text.split('=').next().is_some_and(|name| name.trim() == key) => line = Some(number),
            _ => {}
        }
    }
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    bail!("{line}[{section}] {key} {what}")
}

/// What is wrong, where, and what may have been meant.
fn told(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let message = error.message();
    // serde names what it found and then all that it knows, each between backticks.
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| names.next()).flatten();
    let Some(unknown) = unknown else { return anyhow!("line {line}: {message}") };
    let near = names.map(|name| (strsim::damerau_levenshtein(unknown, name), name)).min();
    match near {
        Some((distance, name)) if distance <= unknown.len().div_ceil(2) => {
            anyhow!("line {line}: there is no `{unknown}` here; did you mean `{name}`?")
        }
        _ => {
            let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
            anyhow!("line {line}: there is no `{unknown}` here; known are {}", known.join(", "))
        }
    }
}

mod amount {
    use super::*;

    pub(super) fn serialize<S: Serializer>(credits: &Credits, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&credits.to_string())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Credits, D::Error> {
        parsed(&String::deserialize(from)?)
    }

    pub(super) fn parsed<E: serde::de::Error>(text: &str) -> Result<Credits, E> {
        Credits::parse(text).map_err(|_| E::custom(format!("`{text}` is no amount such as \"2\" or \"0.05\"")))
    }
}

mod amounts {
    use super::*;

    pub(super) fn serialize<S: Serializer>(both: &[Credits; 2], to: S) -> Result<S::Ok, S::Error> {
        both.map(|credits| credits.to_string()).serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<[Credits; 2], D::Error> {
        let [input, output] = <[String; 2]>::deserialize(from)?;
        Ok([amount::parsed(&input)?, amount::parsed(&output)?])
    }
}

fn keys<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<NodeId>, D::Error> {
    let key = |text: &String| {
        text.parse::<NodeId>()
            .map_err(|_| serde::de::Error::custom(format!("`{text}` is no node's key, which `talkoo status` names")))
    };
    Vec::<String>::deserialize(from)?.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_says_what_holds_without_it() {
        assert_eq!(Config::parse(TEMPLATE).expect("it parses"), Config::default(), "all of it is commented out");
        let uncommented: String = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("#").filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_eq!(Config::parse(&uncommented).expect("it parses"), Config::default());
        // And it names every key.
        let known = toml::Table::try_from(Config::default()).expect("a table");
        let named: toml::Table = uncommented.parse().expect("a table");
        for (section, keys) in &known {
            for key in keys.as_table().expect("a section").keys() {
                assert!(named[section].get(key).is_some(), "[{section}] {key} is missing in the template");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_where_it_is() {
        let wrong = |text: &str, says: &str| {
            let error = Config::parse(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        };
        wrong("[limits]\nthread = 2\n", "line 2: there is no `thread` here; did you mean `threads`?");
        wrong("[limit]\nthreads = 2\n", "line 1: there is no `limit` here; did you mean `limits`?");
        wrong("mdns = true\n", "line 1: there is no `mdns` here; known are node, limits, ");
        wrong("[limits]\nmemory_mb = 1\n", "line 2: [limits] memory_mb is 0 or at least 64");
        wrong("[serve]\n\nparalel = 2\n", "line 3: there is no `paralel` here; did you mean `parallel`?");
        wrong("[limits]\nthreads = \"two\"\n", "line 2");
        wrong("[limits]\nduty_percent = 0\n", "line 2: [limits] duty_percent is between 1 and 100");
        wrong("[limits]\nthreads = 1\nupload_mbit = 1\n", "line 3: [limits] upload_mbit is 0 or at least 2");
        wrong("[schedule]\n\n  idle_minutes=5000\n", "line 3: [schedule] idle_minutes is at most 1440");
        wrong("[schedule]\nother_load_percent = 0\n", "line 2: [schedule] other_load_percent is between 1 and 100");
        wrong("[schedule]\nquiet_hours = [\"someday 1-2\"]\n", "line 2: [schedule] quiet_hours ");
        wrong("[ask]\nbudget = \"much\"\n", "is no amount");
        wrong("[serve]\nprice = [\"1\"]\n", "line 2");
        wrong("[ask]\nproviders = [\"somebody\"]\n", "line 2");
        wrong("limits\n", "line 1");
        let full =
            "[limits]\nthreads = 2\n[serve]\nprice = [\"1\", \"0.5\"]\nmodels = [\"bard\"]\n[ask]\nbudget = \"3\"\n";
        let config = Config::parse(full).expect("it parses");
        assert_eq!(config.limits.threads, 2);
        assert_eq!(config.ask.budget, Credits::whole(3));
    }
}
