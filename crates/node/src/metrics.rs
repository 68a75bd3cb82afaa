//! What a node counts, in Prometheus' text format.

use crate::Node;
use serde_json::Value;
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

fn metrics(panel: &Value) -> Vec<Metric> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let runs = list(&panel["runs"]);
    let of_runs = |number: fn(&Value) -> Option<f64>| -> Vec<(String, f64)> {
        runs.iter().filter_map(|run| Some((of_run(&text(&run["name"]), &text(&run["run"])), number(run)?))).collect()
    };
    let one = |value: &Value| value.as_f64().map(|value| (String::new(), value)).into_iter().collect();
    let peers = list(&panel["peers"]);
    let ways = [("direct", Value::Bool(true)), ("relayed", Value::Bool(false)), ("unconnected", Value::Null)];
    let peers = ways
        .iter()
        .map(|(way, is)| (label("way", way), peers.iter().filter(|peer| peer["direct"] == *is).count() as f64));
    let spent = list(&panel["today"]["minutes"]);
    let spent =
        spent.iter().map(|part| (label("reason", &text(&part["code"])), part["seconds"].as_f64().unwrap_or(0.0)));
    let counts = list(&panel["serving"]["counts"]);
    let counts = counts.iter().map(|pair| (label("outcome", &text(&pair[0])), pair[1].as_f64().unwrap_or(0.0)));
    let did = &panel["since_start"];
    let answered = [("others", "questions_answered"), ("own", "own_questions")].into_iter();
    let answered = answered.filter_map(|(whose, key)| Some((label("whose", whose), did[key].as_f64()?)));
    let credits = |micro: &Value| micro.as_f64().map(|micro| (String::new(), micro / 1e6)).into_iter().collect();
    let gauge = |name, help, values| Metric { name, kind: "gauge", help, values };
    let counter = |name, help, values| Metric { name, kind: "counter", help, values };
    vec![
        gauge("talkoo_uptime_seconds", "Since the node was started.", one(&panel["node"]["uptime_s"])),
        gauge(
            "talkoo_working",
            "Whether it works for others; the label says why or why not.",
            vec![(
                label("reason", &text(&panel["activity"]["reason"]["code"])),
                f64::from(u8::from(panel["activity"]["state"] == "working")),
            )],
        ),
        gauge("talkoo_today_seconds", "Seconds of today (UTC) by what they were spent on.", spent.collect()),
        gauge("talkoo_chain_height", "The newest final block at home.", one(&panel["network"]["height"])),
        gauge("talkoo_validators", "Who orders blocks at home.", one(&panel["network"]["validators"])),
        gauge("talkoo_peers", "Nodes that are known, by the way to them.", peers.collect()),
        gauge("talkoo_run_round", "Closed rounds of a run.", of_runs(|run| run["version"].as_f64())),
        gauge("talkoo_run_tokens", "Tokens applied in a run.", of_runs(|run| run["tokens"][0].as_f64())),
        gauge("talkoo_run_tokens_planned", "Tokens of a run in all.", of_runs(|run| run["tokens"][1].as_f64())),
        gauge("talkoo_run_tokens_per_second", "Over the last rounds.", of_runs(|run| run["tokens_per_s"].as_f64())),
        gauge("talkoo_run_loss", "Nats per token of the last round.", of_runs(|run| run["loss"].as_f64())),
        gauge("talkoo_run_heldout_bits_per_byte", "As measured last.", of_runs(|run| run["heldout"].as_f64())),
        gauge("talkoo_run_members_active", "Members that take part.", of_runs(|run| run["active"].as_f64())),
        gauge("talkoo_balance_credits", "Free on the node's account.", credits(&panel["account"]["balance_micro"])),
        gauge("talkoo_earned_today_credits", "Earned today (UTC).", credits(&panel["today"]["earned_micro"])),
        counter("talkoo_earned_credits_total", "Earned since the start.", credits(&did["earned_micro"])),
        counter("talkoo_trained_tokens_total", "Of units that count, since the start.", one(&did["tokens_trained"])),
        counter("talkoo_answered_questions_total", "Answered here since the start.", answered.collect()),
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
    use serde_json::json;

    #[test]
    fn names_of_others_stay_within_their_label() {
        assert_eq!(label("run", "a\"b\\c\nd"), "{run=\"a\\\"b\\\\c\\nd\"}");
        let panel = json!({ "runs": [{ "run": "0123456789", "name": "x", "version": 3, "tokens": [1, 2], "loss": null }], "peers": [{ "direct": true }] });
        let all = metrics(&panel);
        let of = |name: &str| all.iter().find(|metric| metric.name == name).map(|metric| metric.values.clone());
        assert_eq!(of("talkoo_run_round"), Some(vec![("{run=\"x\",id=\"01234567\"}".into(), 3.0)]));
        assert_eq!(of("talkoo_run_loss"), Some(vec![]));
        assert_eq!(of("talkoo_peers").expect("peers")[0].1, 1.0);
    }
}
