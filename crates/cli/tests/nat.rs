//! At home behind routers that translate addresses, in network namespaces: with our own relay validators order
//! transactions like the others, peers train together and answer each other's questions, and packets go straight where
//! the routers let them.
//!
//! Each test runs once more inside new namespaces (`unshare`), where it is root of a network of its own: two homes,
//! their routers, and between them the open network with the relay and the other two validators.

#![cfg(target_os = "linux")]

mod common;

use common::{DEADLINE, Peer, RUN, UP};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Told to a test that runs inside.
const INSIDE: &str = "TALKOO_TEST_INSIDE";

/// Most routers at home: a socket has one port outside whomever it talks to, others' packets are dropped until it
/// has sent there first.
#[test]
fn routers_that_keep_ports_are_punched_through() {
    inside("routers_that_keep_ports_are_punched_through", || {
        let mut lab = Lab::new("");
        lab.order_from_everywhere();
        assert_eq!(lab.ping(2, 3)["direct"], true);
        lab.halves();
        lab.one_dead();
    });
}

/// Mobile networks and many firms: another port for each destination, so that nobody can foresee it.
#[test]
fn routers_that_change_ports_are_relayed() {
    inside("routers_that_change_ports_are_relayed", || {
        let mut lab = Lab::new("fully-random");
        lab.order_from_everywhere();
        let way = lab.ping(2, 3);
        assert_eq!((&way["direct"], way["address"].as_str()), (&Value::Bool(false), Some(lab.relay.as_str())));
        lab.one_dead();
    });
}

#[test]
fn neighbours_whose_routers_keep_ports_train_and_answer_straight() {
    inside("neighbours_whose_routers_keep_ports_train_and_answer_straight", || work_together("", true));
}

#[test]
fn neighbours_whose_routers_change_ports_train_and_answer_through_the_relay() {
    inside("neighbours_whose_routers_change_ports_train_and_answer_through_the_relay", || {
        work_together("fully-random", false);
    });
}

/// Rounds between two checkpoints of [`RUN`].
const CHECKPOINT: u64 = 20;

/// Two at home train one model together; then one of them asks what the other one serves.
fn work_together(ports: &str, direct: bool) {
    shell(WORLD, ports);
    let stage = tempfile::tempdir().expect("a folder");
    let (relay, _relay) = relay(stage.path());
    let at = |i: usize| {
        let mut command = talkoo(Some(["home1", "home2"][i]), &stage.path().join(format!("node-{i}")));
        command.args(["--bind", "0.0.0.0:4000", "--relay", &relay]);
        command
    };
    let file = stage.path().join("run.toml");
    std::fs::write(&file, RUN.replace("tokens = 12000", "tokens = 50000000")).expect("written");
    let (mut one, created) = begin(with(at(0), &["train", "create", file.to_str().expect("utf-8")]));
    let ticket = created["ticket"].as_str().expect("a ticket").to_owned();
    let (mut two, _) = begin(with(at(1), &["train", "join", &ticket]));
    // Both have trained, all hold the same weights, and a checkpoint is on disk.
    let worked = |member: &Value| member["tokens"].as_u64() > Some(0);
    let end = seen(&at, |run| {
        let members = run["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        members.len() == 2 && members.iter().all(worked) && run["agreed"][0].as_u64() > Some(2 * CHECKPOINT)
    });
    let status = asked(with(at(1), &["status"]));
    let mut members = end["members"].as_array().expect("members").iter();
    let other = members.find(|member| member["node"] != status["node"]).expect("a neighbour");
    let way = asked(with(at(1), &["peer", "ping", other["node"].as_str().expect("a key")]));
    assert_eq!(way["direct"], direct, "{way}");
    assert_eq!(asked(with(at(1), &["status"]))["panel"]["network"]["alone"], false, "it knows of a neighbour");
    let run = end["run"].as_str().expect("an id");
    (0..2).for_each(|i| drop(asked(with(at(i), &["train", "leave", run]))));
    common::stop(&mut two);
    common::stop(&mut one);
    if cfg!(feature = "serve") {
        answer(&at, &relay, direct);
    }
}

/// One serves what both have trained; the other one asks.
fn answer(at: &dyn Fn(usize) -> Command, relay: &str, direct: bool) {
    let (_provider, ready) = begin(with(at(0), &["serve", "--offer", "--listen", "127.0.0.1:0"]));
    let ticket = ready["tickets"][0].as_str().expect("a ticket").to_owned();
    let ask = ["run", "--ticket", &ticket, "net/end-to-end", "ROMEO:", "--max-tokens", "24", "--temperature", "0"];
    // An offer may take longer than one who asks waits: the other end looks for the node that was there before first.
    let said = common::until("an answer", || {
        let answer = tried(with(at(1), &ask));
        answer.inspect_err(|text| assert!(text.contains("nobody whom this node knows"), "{text}"))
    });
    assert_eq!((said["tokens"].as_u64(), said["receipt"]["parts"].as_array().map(Vec::len)), (Some(24), Some(1)));
    assert_eq!(said["receipt"]["parts"][0]["provider"], ready["node"], "{said}");
    // A node that goes on asking finds the same way as one that trains, once the other end knows that the one before is gone.
    let (_client, _) = begin(with(at(1), &["serve", "--ticket", &ticket, "--listen", "127.0.0.1:0"]));
    let key = ready["node"].as_str().expect("a key");
    let way = common::until("a way", || tried(with(at(1), &["peer", "ping", key])));
    assert_eq!(way["direct"], direct, "{way}");
    assert!(direct || way["address"] == relay, "{way}");
}

/// Looks at the run of the second home until it is as it should be.
fn seen(at: &dyn Fn(usize) -> Command, done: impl Fn(&Value) -> bool) -> Value {
    common::until("the run", || {
        let run = asked(with(at(1), &["train", "show"]));
        if done(&run) { Ok(run) } else { Err(run) }
    })
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// What a command says, or what it says where it fails.
fn tried(mut command: Command) -> Result<Value, String> {
    let output = command.output().expect("talkoo runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(serde_json::from_str(&text).expect("JSON")) } else { Err(text) }
}

fn asked(command: Command) -> Value {
    tried(command).unwrap_or_else(|text| panic!("{text}"))
}

/// Our relay in the open network: its address.
fn relay(stage: &Path) -> (String, Peer) {
    let (child, first) = begin(with(talkoo(None, &stage.join("relay")), &["--bind", &format!("{OPEN}:7843"), "relay"]));
    (first["relay"].as_str().expect("an address").to_owned(), child)
}

/// Where the relay and the validators of the open network are.
const OPEN: &str = "198.51.100.1";

/// The homes `home1` and `home2` behind `router1` and `router2`; this namespace is the open network.
const WORLD: &str = r#"
set -e
mount -t tmpfs none /run
mkdir /run/netns
ip link set lo up
ip addr add 198.51.100.1/32 dev lo
echo 1 > /proc/sys/net/ipv4/ip_forward
for i in 1 2; do
  ip netns add router$i
  ip netns add home$i
  ip link add wan$i type veth peer name out netns router$i
  ip addr add 203.0.113.$((4*i+1))/30 dev wan$i
  ip link set wan$i up
  ip -n router$i addr add 203.0.113.$((4*i+2))/30 dev out
  ip -n router$i link set out up
  ip -n router$i route add default via 203.0.113.$((4*i+1))
  ip -n router$i link add lan type veth peer name eth netns home$i
  ip -n router$i addr add 192.168.$i.1/24 dev lan
  ip -n router$i link set lan up
  ip -n home$i addr add 192.168.$i.2/24 dev eth
  ip -n home$i link set eth up
  ip -n home$i link set lo up
  ip -n home$i route add default via 192.168.$i.1
  ip netns exec router$i sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
  ip netns exec router$i nft -f - <<END
table ip nat {
  chain leaving {
    type nat hook postrouting priority 100
    oifname "out" masquerade $PORTS
  }
  chain coming {
    type filter hook input priority 0
    iifname "out" drop
  }
}
END
done
"#;

/// The open network no longer talks to the routers; they still talk to each other.
const CUT: &str = r#"
table ip cut {
  chain coming {
    type filter hook input priority 0
    ip saddr 203.0.113.0/24 drop
  }
  chain leaving {
    type filter hook output priority 0
    ip daddr 203.0.113.0/24 drop
  }
}
"#;

/// Runs `test` in new namespaces; called by the test `name`.
fn inside(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let words = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"];
    let ended = common::again(&words, name, (INSIDE, "1"));
    let ended = ended.expect("`unshare` is missing: apt-get install util-linux iproute2 nftables");
    assert!(ended.success(), "it failed inside, see above");
}

fn shell(script: &str, ports: &str) {
    let ended = Command::new("sh").args(["-c", script]).env("PORTS", ports).status().expect("sh runs");
    assert!(ended.success(), "needs `ip` and `nft`: apt-get install iproute2 nftables");
}

fn nft(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft runs");
    nft.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("taken");
    assert!(nft.wait().expect("it ends").success());
}

struct Lab {
    stage: tempfile::TempDir,
    relay: String,
    _relay: Peer,
    peers: Vec<Peer>,
}

/// Where each validator lives, and where it listens.
const PLACES: [(Option<&str>, &str); 4] = [
    (None, "198.51.100.1:4001"),
    (None, "198.51.100.1:4002"),
    (Some("home1"), "0.0.0.0:4000"),
    (Some("home2"), "0.0.0.0:4000"),
];

impl Lab {
    fn new(ports: &str) -> Self {
        shell(WORLD, ports);
        let stage = tempfile::tempdir().expect("a folder");
        let (relay, child) = relay(stage.path());
        let mut lab = Self { stage, relay, _relay: child, peers: Vec::new() };
        let file = lab.stage.path().join("lab.network");
        let file = file.to_str().expect("utf-8");
        let seats: Vec<Value> =
            (0..4).map(|i| lab.ask(i, &["network", "seat"]).expect("a seat")["seat"].clone()).collect();
        let mut create = vec!["network", "create", "lab", "--out", file];
        seats.iter().for_each(|seat| create.extend(["--seat", seat.as_str().expect("a seat")]));
        lab.ask(0, &create).expect("a network");
        (0..4).for_each(|i| drop(lab.ask(i, &["network", "join", file]).expect("joined")));
        for i in 0..4 {
            let mut command = lab.talkoo(i);
            command.args(UP);
            lab.peers.push(begin(command).0);
        }
        lab
    }

    fn dir(&self, i: usize) -> PathBuf {
        self.stage.path().join(format!("node-{i}"))
    }

    fn talkoo(&self, i: usize) -> Command {
        let (home, bind) = PLACES[i];
        let mut command = talkoo(home, &self.dir(i));
        command.args(["--bind", bind]);
        // Those in the open have a relay too: for the way to those who are reached through it only.
        command.args(["--relay", &self.relay]);
        command
    }

    fn ask(&self, i: usize, arguments: &[&str]) -> Result<Value, String> {
        tried(with(self.talkoo(i), arguments))
    }

    fn send(&self, i: usize) -> Result<Value, String> {
        self.ask(i, &["wallet", "send", &"44".repeat(32), "1", "--yes"])
    }

    fn order_from_everywhere(&self) {
        (0..4).for_each(|i| drop(self.send(i).expect("final")));
    }

    /// The way from one to another at last.
    fn ping(&self, from: usize, to: usize) -> Value {
        let to = self.ask(to, &["status"]).expect("a status")["node"].as_str().expect("a key").to_owned();
        let answer = self.ask(from, &["peer", "ping", &to]).expect("an answer");
        println!("{answer}");
        answer
    }

    /// Homes and open network apart: neither half decides anything; together again, what was said is done once.
    fn halves(&self) {
        nft(CUT);
        std::thread::scope(|scope| {
            for i in [0, 2] {
                let lab = &self;
                scope.spawn(move || {
                    let error = lab.send(i).expect_err("half of a network decides nothing");
                    assert!(error.contains("too few validators"), "{error}");
                });
            }
        });
        nft("delete table ip cut");
        self.order_from_everywhere();
        let begun = Instant::now();
        loop {
            let got = self.ask(0, &["chain", "account", &"44".repeat(32)]).expect("an account");
            if got["balance_micro"] == 10_000_000 {
                return;
            }
            assert!(begun.elapsed() < DEADLINE, "each of ten once: {got}");
        }
    }

    /// With one in the open gone, those at home are needed for every block.
    fn one_dead(&mut self) {
        drop(self.peers.remove(1));
        for i in [0, 2, 3] {
            self.send(i).expect("final");
        }
    }
}

fn talkoo(home: Option<&str>, dir: &Path) -> Command {
    let program = env!("CARGO_BIN_EXE_talkoo");
    let mut command = match home {
        None => Command::new(program),
        Some(home) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", home, program]);
            command
        }
    };
    command.args(["--no-mdns", "--threads", "1", "--json", "--data"]).arg(dir);
    command.stdin(Stdio::null());
    command
}

/// Starts a process, and the first line that it says.
fn begin(mut command: Command) -> (Peer, Value) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("talkoo starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    (Peer(child), serde_json::from_str(&line).expect("JSON"))
}
