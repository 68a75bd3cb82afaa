//! `talkoo up` as a stranger begins it, without a flag: it works while nobody uses the machine, and stops computing
//! when somebody does.
//!
//! The test runs once more inside new namespaces (`unshare`), where the machine has one terminal and one keyboard, both
//! made of files: the access time of the one and the count of interrupts of the other are what the node looks at. No
//! desktop can be reached from there.

#![cfg(target_os = "linux")]

mod common;

use common::{computes, json, shows, start, stop};
use serde_json::Value;
use std::fs::{File, FileTimes};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// Told to a test that runs inside.
const INSIDE: &str = "TALKOO_TEST_INSIDE";

/// One terminal and the controller of a built-in keyboard. Consoles were never used; buses are out of sight.
const WORLD: &str = r#"
mount -t tmpfs none /run
touch -a -d @0 /run/console
for console in /dev/tty[1-9]*; do [ ! -e "$console" ] || mount --bind /run/console "$console"; done
mount -t tmpfs none /dev/pts
touch /dev/pts/0
mount -t tmpfs none /sys/kernel/irq
mkdir /sys/kernel/irq/1
echo i8042 > /sys/kernel/irq/1/actions
echo 0,0 > /sys/kernel/irq/1/per_cpu_count
"#;

/// What decides is whether somebody is there: what else runs on the machine, its heat and its room do not count. The
/// shortest wait that an owner can set.
const SETTINGS: &str = r#"
[schedule]
idle_minutes = 1
other_load_percent = 100
temperature_max_c = 110
memory_free_min_mb = 0
disk_free_min_mb = 0
[serve]
listen = "127.0.0.1:0"
"#;
const IDLE: Duration = Duration::from_secs(60);

/// So long ago the terminal was used when the node begins.
const USED: Duration = Duration::from_secs(45);
/// Access times are read in whole seconds, and a clock may be set a little meanwhile.
const ROUNDED: Duration = Duration::from_secs(3);

/// After a key the node says that it rests, and has let go of its unit, within this. Half a second is usual; a machine
/// that builds something else beside the test leaves little to a program of the lowest priority.
const RESTS_WITHIN: Duration = Duration::from_secs(10);
/// And within this nothing is computed any more: a checkpoint that was begun is written to its end.
const QUIET_WITHIN: Duration = Duration::from_secs(20);
/// Hundredths of a second in a second of rest: less than this are the log, its own looks and this test's questions.
const RESTING: u64 = 20;
/// Keys that the owner presses, one a second.
const KEYS: u64 = 5;

#[test]
fn the_node_rests_while_its_owner_types_and_works_when_nobody_does() {
    inside("the_node_rests_while_its_owner_types_and_works_when_nobody_does", || {
        let ended = Command::new("sh").args(["-euc", WORLD]).status().expect("sh runs");
        assert!(ended.success(), "needs `mount` and `touch`: apt-get install mount coreutils");
        let stage = tempfile::tempdir().expect("a folder");
        let dir = stage.path().join("node");
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join("talkoo.toml"), SETTINGS).expect("written");
        lends(&dir);
    });
}

/// A node whose owner leaves, comes back and leaves again.
fn lends(dir: &Path) {
    type_into_the_terminal();
    let (mut peer, mut lines) = start(dir, &["up"]);
    lines.next().expect("a line").expect("read");
    let pid = peer.0.id();

    // Somebody is there: nothing is begun.
    let panel = shows(dir, "the owner", |panel| {
        type_into_the_terminal();
        code(panel) == "owner_active"
    });
    let typed = Instant::now();
    assert_eq!((&panel["activity"]["state"], &panel["runs"]), (&"paused".into(), &Value::Array(Vec::new())));
    let panel = shows(dir, "the end of the wait", |panel| {
        let waits = code(panel) == "owner_active";
        assert!(!waits || panel["runs"][0].is_null(), "nothing is begun while somebody is there: {panel:#}");
        !waits
    });
    let waited = typed.elapsed();
    assert!(waited + ROUNDED >= IDLE - USED, "it began after {waited:?}: {panel:#}");
    assert_ne!(panel["activity"]["state"], "paused", "{panel:#}");

    // Nobody is there: it trains.
    shows(dir, "the first unit", |panel| tokens(panel) > 0);
    // One key: what is under way is let go of, and the processor is free.
    let mut keyboard = Keyboard(0);
    let mut pressed = keyboard.press();
    shows(dir, "rest", |panel| code(panel) == "owner_active" && rests(panel));
    let took = pressed.elapsed();
    assert!(took < RESTS_WITHIN, "it took {took:?} to rest");
    while computes(pid) >= RESTING {
        let took = pressed.elapsed();
        assert!(took < QUIET_WITHIN, "it computes {took:?} after the key");
    }

    // That is so as long as keys are pressed.
    let before = panel_of(dir);
    for _ in 0..KEYS {
        pressed = keyboard.press();
        let used = computes(pid);
        assert!(used < RESTING, "{used} hundredths of a second in one second of rest");
        let panel = panel_of(dir);
        assert!(code(&panel) == "owner_active" && rests(&panel), "{panel:#}");
        assert_eq!(tokens(&panel), tokens(&before), "nothing is trained: {panel:#}");
    }
    // When the last one was long enough ago, it goes on with the same run.
    let panel = shows(dir, "more units", |panel| tokens(panel) > tokens(&before));
    let waited = pressed.elapsed();
    assert!(waited + ROUNDED >= IDLE, "it went on {waited:?} after the last key");
    assert_eq!(panel["runs"][0]["run"], before["runs"][0]["run"]);
    let minutes = panel["today"]["minutes"].as_array().expect("minutes");
    assert!(minutes.iter().any(|part| part["code"] == "owner_active"), "its time is accounted for: {minutes:?}");
    stop(&mut peer);
}

fn panel_of(dir: &Path) -> Value {
    json(dir, &["status"])["panel"].clone()
}

/// Why the node works or not.
fn code(panel: &Value) -> &str {
    panel["activity"]["reason"]["code"].as_str().unwrap_or_default()
}

/// Tokens of its run that were trained and applied.
fn tokens(panel: &Value) -> u64 {
    panel["runs"][0]["tokens"][0].as_u64().unwrap_or(0)
}

/// Whether its trainer has let go of what it did.
fn rests(panel: &Value) -> bool {
    panel["runs"][0]["waiting"].as_str().is_some_and(|text| text.starts_with("resting"))
}

/// What somebody typed was read [`USED`] ago.
fn type_into_the_terminal() {
    let terminal = File::options().write(true).open("/dev/pts/0").expect("a terminal");
    terminal.set_times(FileTimes::new().set_accessed(SystemTime::now() - USED)).expect("a time");
}

/// Interrupts of the keyboard so far.
struct Keyboard(u64);

impl Keyboard {
    /// Presses a key, and says when.
    fn press(&mut self) -> Instant {
        self.0 += 1;
        // Nobody reads half a count.
        let counts = Path::new("/sys/kernel/irq/1/per_cpu_count");
        let new = counts.with_extension("new");
        std::fs::write(&new, format!("0,{}\n", self.0)).expect("written");
        let now = Instant::now();
        std::fs::rename(new, counts).expect("renamed");
        now
    }
}

/// Runs `test` in new namespaces; called by the test `name`.
fn inside(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let mut words = vec!["env"];
    for desktop in ["DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"] {
        words.extend(["-u", desktop]);
    }
    words.extend(["unshare", "--user", "--map-root-user", "--mount"]);
    let ended = common::again(&words, name, (INSIDE, "1"));
    let ended = ended.expect("`env` is missing: apt-get install coreutils");
    assert!(ended.success(), "it failed inside, see above; it needs `unshare`: apt-get install util-linux");
}
