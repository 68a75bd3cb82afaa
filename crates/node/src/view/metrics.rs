//! What a node counts, in Prometheus' text format.

use crate::Node;
use crate::activity::MachineState;
use crate::view::panel::{Panel, RunView};
use std::fmt::Write;

/// One metric: its name, kind, what it says, and a value for each set of labels.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    values: Vec<(String, f64)>,
}

impl Node {
    /// Its own figures; those of the API are the gateway's.
    pub fn metrics(&self) -> String {
        let panel = self.panel();
        let mut out = String::new();
        for Metric { name, kind, help, values } in metrics(&panel) {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        }
        out
    }
}

fn metrics(panel: &Panel) -> Vec<Metric> {
    let of_runs = |number: fn(&RunView) -> Option<f64>| -> Vec<(String, f64)> {
        panel.runs.iter().filter_map(|run| Some((of_run(&run.name, &run.run), number(run)?))).collect()
    };
    let one = |value: u64| vec![(String::new(), value as f64)];
    let credits = |micro: u64| vec![(String::new(), micro as f64 / 1e6)];
    let ways = [("direct", Some(true)), ("relayed", Some(false)), ("unconnected", None)];
    let peers = ways.map(|(way, is)| {
        let count = panel.peers.iter().filter(|peer| peer.direct == is).count();
        (label("way", way), count as f64)
    });
    let spent = panel.today.minutes.iter().map(|part| (label("reason", &part.code), part.seconds as f64));
    let counts = panel.serving.counts.iter().map(|(outcome, n)| (label("outcome", outcome), *n as f64));
    let done = &panel.since_start;
    let answered = [("others", done.questions_answered), ("own", done.own_questions)];
    let answered = answered.map(|(whose, n)| (label("whose", whose), n as f64));
    let gauge = |name, help, values| Metric { name, kind: "gauge", help, values };
    let counter = |name, help, values| Metric { name, kind: "counter", help, values };
    let activity = &panel.activity;
    vec![
        gauge("talkoo_uptime_seconds", "Since the node was started.", one(panel.node.uptime_s)),
        gauge(
            "talkoo_working",
            "Whether it works for others; the label says why or why not.",
            vec![(
                label("reason", &activity.reason.code),
                f64::from(u8::from(activity.state == MachineState::Working)),
            )],
        ),
        gauge("talkoo_today_seconds", "Seconds of today (UTC) by what they were spent on.", spent.collect()),
        gauge("talkoo_chain_height", "The newest final block at home.", one(panel.network.height)),
        gauge("talkoo_validators", "Who orders blocks at home.", one(panel.network.validators as u64)),
        gauge("talkoo_peers", "Nodes that are known, by the way to them.", peers.to_vec()),
        gauge("talkoo_run_round", "Closed rounds of a run.", of_runs(|run| Some(run.version as f64))),
        gauge("talkoo_run_tokens", "Tokens applied in a run.", of_runs(|run| Some(run.tokens.0 as f64))),
        gauge("talkoo_run_tokens_planned", "Tokens of a run in all.", of_runs(|run| Some(run.tokens.1 as f64))),
        gauge("talkoo_run_tokens_per_second", "Over the last rounds.", of_runs(|run| Some(run.tokens_per_s))),
        gauge("talkoo_run_loss", "Nats per token of the last round.", of_runs(|run| run.loss)),
        gauge("talkoo_run_heldout_bits_per_byte", "As measured last.", of_runs(|run| run.heldout)),
        gauge("talkoo_run_members_active", "Members that take part.", of_runs(|run| Some(run.active as f64))),
        gauge("talkoo_balance_credits", "Free on the node's account.", credits(panel.account.balance_micro)),
        gauge("talkoo_earned_today_credits", "Earned today (UTC).", credits(panel.today.done.earned_micro)),
        counter("talkoo_earned_credits_total", "Earned since the start.", credits(done.earned_micro)),
        counter("talkoo_trained_tokens_total", "Of units that count, since the start.", one(done.tokens_trained)),
        counter("talkoo_answered_questions_total", "Answered here since the start.", answered.to_vec()),
        counter(
            "talkoo_served_total",
            "Questions of peers by how they ended, and offers that were refused.",
            counts.collect(),
        ),
    ]
}

fn label(name: &str, value: &str) -> String {
    format!("{{{name}=\"{}\"}}", escaped(value))
}

/// Two runs may have one name.
fn of_run(name: &str, id: &str) -> String {
    format!("{{run=\"{}\",id=\"{}\"}}", escaped(name), id.get(..8).unwrap_or(id))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::panel::PeerView;

    #[test]
    fn names_of_others_stay_within_their_label() {
        assert_eq!(label("run", "a\"b\\c\nd"), "{run=\"a\\\"b\\\\c\\nd\"}");
        let run =
            RunView { run: "0123456789".into(), name: "x".into(), version: 3, tokens: (1, 2), ..RunView::default() };
        let peer = PeerView { direct: Some(true), ..PeerView::default() };
        let panel = Panel { runs: vec![run], peers: vec![peer], ..Panel::default() };
        let all = metrics(&panel);
        let of = |name: &str| all.iter().find(|metric| metric.name == name).map(|metric| metric.values.clone());
        assert_eq!(of("talkoo_run_round"), Some(vec![("{run=\"x\",id=\"01234567\"}".into(), 3.0)]));
        assert_eq!(of("talkoo_run_loss"), Some(vec![]));
        assert_eq!(of("talkoo_peers").expect("peers")[0].1, 1.0);
    }
}
