//! `talkoo service` under systemd itself, the machine's and a user's: the node begins with its manager, gives way to
//! others, goes on with its run after whatever happens, and leaves nothing behind.
//!
//! Each test runs once more inside new namespaces (`unshare`) and starts systemd there: it sees memory in place of the
//! machine's folders, control groups below one of its own, and no units but what a machine needs to start.

#![cfg(target_os = "linux")]

mod common;

use common::{DEADLINE, Peer};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// Told to a test that runs inside: the name of its control group.
const INSIDE: &str = "TALKOO_TEST_INSIDE";
const SYSTEMD: &str = "/usr/lib/systemd/systemd";
const UNIT: &str = "talkoo.service";
const TALKOO: &str = "/home/lab/talkoo";
const HOME: &str = "/home/ann";
/// With characters that mean something else to systemd.
const DATA: &str = "/home/ann/50% of $all; it's";
/// The last line that `up` says once it answers.
const GREETED: &str = "In another terminal";
/// It keeps to this machine, and works whoever uses it.
const SETTINGS: &str = r#"
node = { listen = "127.0.0.1:0", mdns = false }
limits = { threads = 1 }
schedule = { when = "always", memory_free_min_mb = 0, disk_free_min_mb = 0 }
serve = { listen = "127.0.0.1:0" }
"#;
/// What stays when the machine starts again. The program comes first: what hides other folders may hide its own.
const WORLD: &str = r#"
ip link set lo up
mount -t tmpfs tmpfs /run
touch /run/talkoo
mount --bind "$PROGRAM" /run/talkoo
mount -t tmpfs tmpfs /home
mkdir -p /home/lab/groups /home/lab/etc /home/lab/units /home/lab/none
touch "$TALKOO"
mount --bind /run/talkoo "$TALKOO"
mount --bind /home/lab/etc /etc/systemd/system
mount -t cgroup2 cgroup2 /home/lab/groups
ln -s "/usr/lib/systemd/${WHOSE#--}"/*.target /home/lab/units/
"#;
/// What does not stay.
const MEMORY: &str = r#"
for folder in /run /tmp; do mount -t tmpfs tmpfs $folder; done
mkdir -p /run/systemd/system /run/systemd/journal "$XDG_RUNTIME_DIR"
"#;
/// The manager takes the group in which its namespaces begin for the root of all.
const MACHINE: &str = r#"
mkdir "$GROUP"
echo $$ > "$GROUP/cgroup.procs"
exec unshare --cgroup --mount --uts --ipc --pid --fork --mount-proc --kill-child -- sh -euc "$BOOT"
"#;
/// The first process. Groups are mounted on memory, since they cannot be mounted on themselves; what it could change
/// outside (settings of the kernel, the terminal, files) is closed. A user's manager must not be the first process.
const BOOT: &str = r#"
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
for device in /dev/console /dev/kmsg; do [ ! -e $device ] || mount --bind /dev/null $device; done
mount -o remount,bind,ro /
if [ "$WHOSE" = --user ]; then
  mkdir /sys/fs/cgroup/user@0.service
  echo $$ > /sys/fs/cgroup/user@0.service/cgroup.procs
fi
set -- env -i PATH="$PATH" HOME="$HOME" XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR" container=other \
  SYSTEMD_GENERATOR_PATH=/home/lab/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/home/lab/none \
  SYSTEMD_UNIT_PATH="$XDG_RUNTIME_DIR/systemd/user.control:$HOME/.config/systemd/user:/run/systemd/system.control:\
/etc/systemd/system:/home/lab/units" "$SYSTEMD" "$WHOSE"
[ "$WHOSE" = --user ] || exec "$@" --unit=multi-user.target
"$@" || echo "systemd ended: $?"
"#;

#[test]
fn a_users_manager_keeps_the_node() {
    inside("a_users_manager_keeps_the_node", || lives("--user"));
}

#[test]
fn the_systems_manager_keeps_the_node() {
    inside("the_systems_manager_keeps_the_node", || lives("--system"));
}

fn lives(whose: &'static str) {
    shell(WORLD, whose);
    std::fs::create_dir_all(DATA).expect("a folder");
    std::fs::write(Path::new(DATA).join("talkoo.toml"), SETTINGS).expect("written");
    if whose == "--user" {
        bus();
    }
    let mut machine = Machine::start(whose);
    let done = machine.service("install");
    assert_eq!((&done["installed"], &done["to_run"]), (&json!(true), &json!([])), "{done}");
    machine.says(GREETED);
    machine.holds_the_unit();
    machine.keeps_caps();
    machine.says("bard");
    let run = machine.run();
    machine.systemctl(&["restart", UNIT]);
    // Whoever stops it lets it finish what is under way.
    machine.says("down after");
    machine.says(GREETED);
    assert_eq!(machine.run(), run, "it goes on");
    machine.systemctl(&["kill", "--signal=KILL", UNIT]);
    machine.says(GREETED);
    assert_eq!((machine.run(), machine.property("NRestarts")), (run.clone(), "1".to_owned()));
    machine.talkoo(&["down"]);
    let begun = Instant::now();
    while ["active", "deactivating"].contains(&machine.property("ActiveState").as_str()) {
        assert!(begun.elapsed() < DEADLINE, "it does not end");
    }
    assert_eq!(machine.property("ActiveState"), "inactive", "what its owner ends by hand does not begin by itself");
    // The power fails, and comes back.
    drop(machine);
    let mut machine = Machine::start(whose);
    machine.says(GREETED);
    assert_eq!(machine.run(), run, "it begins with the machine");
    // systemd writes down what is set later, too.
    machine.systemctl(&["set-property", "--runtime", UNIT, "MemoryHigh=4G"]);
    let done = machine.service("uninstall");
    assert_eq!((&done["installed"], &done["to_run"]), (&json!(false), &json!([])), "{done}");
    machine.says("down after");
    assert_eq!(machine.property("LoadState"), "not-found");
    let there = |name: &str| Path::new(DATA).join(name).exists();
    assert_eq!((there("key"), there("control.sock")), (true, false), "it ended by itself, and what it knows stays");
    std::fs::remove_dir_all(DATA).expect("removed");
    assert_eq!(machine.done("find", &[HOME, "/tmp", "-mindepth", "1"]), "", "nothing is left");
    assert_eq!(machine.done("find", &["/etc/systemd/system", "/run", "-name", "*talkoo*"]), "", "nothing is left");
}

/// The bus by which a user's manager takes words, as `dbus-user-session` has it.
fn bus() {
    let units = Path::new("/home/lab/units");
    let socket = "[Socket]\nListenStream=%t/bus\n";
    let service = "[Unit]\nRequires=dbus.socket\n[Service]\nType=notify\n\
        ExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile\n";
    let wants = units.join("sockets.target.wants");
    std::fs::create_dir_all(&wants).expect("a folder");
    std::fs::write(units.join("dbus.socket"), socket).expect("written");
    std::fs::write(units.join("dbus.service"), service).expect("written");
    std::os::unix::fs::symlink("../dbus.socket", wants.join("dbus.socket")).expect("a link");
}

/// Runs `test` in new namespaces; called by the test `name`.
fn inside(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    assert!(Path::new(SYSTEMD).exists(), "systemd is missing: apt-get install systemd");
    let mut words: Vec<&str> = Vec::new();
    // Root makes control groups wherever it is; others where the manager of their session lets them.
    if std::fs::metadata("/proc/self").expect("/proc").uid() != 0 {
        words.extend(["systemd-run", "--user", "--scope", "--quiet", "--property=Delegate=yes", "--"]);
    }
    words.extend("unshare --map-root-user --net --mount --cgroup --pid --fork --mount-proc --kill-child".split(' '));
    let ended = common::again(&words, name, (INSIDE, &format!("{name}-{}", std::process::id())));
    let ended = ended.expect("`unshare` is missing: apt-get install util-linux");
    assert!(ended.success(), "it failed inside, see above; it needs root, or a user who is logged in under systemd");
}

/// A command in there, as its owner would give it.
fn command(program: &str, whose: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", HOME).env("WHOSE", whose);
    command.env("TALKOO", TALKOO).env("PROGRAM", env!("CARGO_BIN_EXE_talkoo")).env("SYSTEMD", SYSTEMD);
    command.env("XDG_RUNTIME_DIR", "/run/user/0").current_dir("/").stdin(Stdio::null());
    command
}

fn shell(script: &str, whose: &str) {
    let ended = command("sh", whose).args(["-euc", script]).status().expect("sh runs");
    assert!(ended.success(), "needs `ip` and `mount`: apt-get install iproute2 mount");
}

/// Where systemd runs.
struct Machine {
    whose: &'static str,
    group: String,
    manager: Peer,
    journal: Receiver<String>,
    unread: Vec<String>,
}

impl Machine {
    fn start(whose: &'static str) -> Self {
        shell(MEMORY, whose);
        let group = format!("/home/lab/groups/{}", std::env::var(INSIDE).expect("inside"));
        let journal = journal();
        let mut manager = command("sh", whose);
        manager.args(["-euc", MACHINE]).env("BOOT", BOOT).env("GROUP", &group);
        let manager = Peer(manager.spawn().expect("sh runs"));
        let mut machine = Self { whose, group, manager, journal, unread: Vec::new() };
        let begun = Instant::now();
        while machine.asked("systemctl", &[whose, "is-active", "basic.target"]).stdout != b"active\n" {
            let ended = machine.manager.0.try_wait().expect("a child");
            assert!(ended.is_none() && begun.elapsed() < DEADLINE, "systemd does not start: {ended:?}");
        }
        machine
    }

    /// The limit on processors is kept by the manager, as long as the settings name one.
    fn keeps_caps(&mut self) {
        let kept_by = |machine: &Self, data: &str| {
            let doctor: Value = machine.of(data, &["doctor"]);
            let mut checks = doctor["checks"].as_array().expect("checks").iter();
            checks.find(|check| check["name"] == "caps").expect("a check")["says"].as_str().expect("text").to_owned()
        };
        let says = kept_by(self, DATA);
        if self.whose == "--user" {
            assert!(says.ends_with("kept by the system (talkoo.service)"), "{says}");
        }
        assert_eq!(self.property("CPUQuotaPerSecUSec"), "1s", "{says}");
        if self.whose == "--system" {
            return;
        }
        let file = Path::new(DATA).join("talkoo.toml");
        std::fs::write(&file, SETTINGS.replace("threads = 1", "threads = 0")).expect("written");
        self.systemctl(&["restart", UNIT]);
        self.says("down after");
        self.says(GREETED);
        assert_eq!(self.property("CPUQuotaPerSecUSec"), "infinity", "what is not set any more is lifted");
        std::fs::write(&file, SETTINGS).expect("written");
        self.systemctl(&["restart", UNIT]);
        self.says("down after");
        self.says(GREETED);
        // Begun by hand: in a terminal it gets a scope of its own; what its owner made stays.
        for (scope, expect) in
            [("session-7", "kept by the system (talkoo-"), ("mine", "its owner began it in mine.scope")]
        {
            let data = format!("{HOME}/{scope}");
            std::fs::create_dir_all(&data).expect("a folder");
            std::fs::write(Path::new(&data).join("talkoo.toml"), SETTINGS).expect("written");
            let unit = format!("--unit={scope}");
            let words = ["--user", "--scope", "--quiet", &unit, TALKOO, "--json", "--data", &data, "up", "--no-runs"];
            let mut hand = self.entered("systemd-run", &words).stdout(Stdio::piped()).spawn().expect("it starts");
            let mut line = String::new();
            BufReader::new(hand.stdout.take().expect("piped")).read_line(&mut line).expect("read");
            assert!(line.contains("\"node\""), "{line}");
            let says = kept_by(self, &data);
            assert!(says.contains(expect), "{says}");
            if let Some((_, unit)) = says.split_once("kept by the system (") {
                let show = ["show", "--value", "-p", "CPUQuotaPerSecUSec", unit.trim_end_matches(')')];
                assert_eq!(self.systemctl(&show), "1s");
            }
            assert_eq!(self.of(&data, &["down"])["stopped"], true);
            assert!(hand.wait().expect("it ends").success());
            std::fs::remove_dir_all(&data).expect("removed");
        }
    }

    fn asked(&self, program: &str, arguments: &[&str]) -> Output {
        self.entered(program, arguments).output().expect("`nsenter` is missing: apt-get install util-linux")
    }

    /// A command of its owner in there.
    fn entered(&self, program: &str, arguments: &[&str]) -> Command {
        let own = format!("/proc/{}/ns", self.manager.0.id());
        let mut command = command("nsenter", self.whose);
        command.args([format!("--mount={own}/mnt"), format!("--pid={own}/pid_for_children")]);
        command.arg("--").arg(program).args(arguments);
        command
    }

    fn done(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.asked(program, arguments);
        let (said, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {said} {error}");
        said
    }

    fn systemctl(&self, arguments: &[&str]) -> String {
        self.done("systemctl", &[&[self.whose], arguments].concat())
    }

    fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--value", "-p", name, UNIT])
    }

    fn talkoo(&self, arguments: &[&str]) -> Value {
        self.of(DATA, arguments)
    }

    fn of(&self, data: &str, arguments: &[&str]) -> Value {
        let said = self.asked(TALKOO, &[&["--json", "--data", data], arguments].concat());
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said:?}"))
    }

    fn service(&self, what: &str) -> Value {
        let words = ["service", what, "--system"];
        self.talkoo(if self.whose == "--system" { &words } else { &words[..2] })
    }

    /// Who it is, and the run that it trains, once it looks after it.
    fn run(&self) -> Value {
        let (begun, mut status) = (Instant::now(), Value::Null);
        while !status["runs"][0]["run"].is_string() {
            assert!(begun.elapsed() < DEADLINE, "it has no run: {status}");
            status = self.talkoo(&["status"]);
        }
        json!([status["node"], status["runs"][0]["run"]])
    }

    /// Waits for a line of a service; each is taken once.
    fn says(&mut self, with: &str) {
        let begun = Instant::now();
        while !self.unread.iter().any(|line| line.contains(with)) {
            let Ok(line) = self.journal.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) else {
                panic!("nobody said `{with}`, but {:#?}; {}", self.unread, self.systemctl(&["show", UNIT]));
            };
            self.unread.push(line);
        }
        let at = self.unread.iter().position(|line| line.contains(with)).expect("just seen");
        self.unread.remove(at);
    }

    /// systemd knows each line of the unit, and the process is held to it.
    fn holds_the_unit(&self) {
        let verify = [self.whose, "verify", "--man=no", &self.property("FragmentPath")];
        assert_eq!(text(&self.asked("systemd-analyze", &verify).stderr), "");
        let pid = self.property("MainPID");
        let of = |file: &str| self.done("cat", &[&format!("/proc/{pid}/{file}")]);
        let stat = of("stat");
        let stat: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        assert_eq!((stat[16], stat[38]), ("19", "5"), "the lowest priority in the idle class");
        assert_eq!(self.done("ionice", &["-p", &pid]), "idle");
        let has = |text: String, lines: &[&str]| lines.iter().for_each(|line| assert!(text.contains(line), "{text}"));
        has(of("status"), &["NoNewPrivs:\t1\n", "Seccomp:\t2\n"]);
        if self.whose == "--system" {
            has(of("status"), &["CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n"]);
            // Of all folders it writes to its own.
            let own = DATA.replace(' ', "\\040");
            has(of("mounts"), &[" /home tmpfs ro,", &format!(" {own} tmpfs rw,")]);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.manager.0.kill();
        let _ = self.manager.0.wait();
        // All others end with the first process; then their groups can go.
        let begun = Instant::now();
        let events = format!("{}/cgroup.events", self.group);
        let populated = || std::fs::read_to_string(&events).is_ok_and(|events| events.contains("populated 1"));
        while populated() && begun.elapsed() < DEADLINE {}
        let all = [self.group.as_str(), "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"];
        let _ = command("find", self.whose).args(all).status();
    }
}

/// Lines of services, as the journal takes them.
fn journal() -> Receiver<String> {
    let listener = UnixListener::bind("/run/systemd/journal/stdout").expect("a socket");
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            let said = BufReader::new(stream).lines().map_while(Result::ok);
            std::thread::spawn(move || said.for_each(|line| drop(sender.send(line))));
        }
    });
    lines
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
