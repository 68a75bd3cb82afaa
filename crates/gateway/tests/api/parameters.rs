//! The table of parameters, row by row: what has its effect, what loses nothing, what is refused by name.

use crate::parrot::{CHAT, Said, heard};
use gateway::{Endpoint, Neutral, PARAMETERS, Parameter, Rule};
use market::Ask;
use serde_json::{Value, json};

fn path(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Chat => CHAT,
        Endpoint::Completions => "/v1/completions",
        Endpoint::Responses => "/v1/responses",
        Endpoint::Embeddings => "/v1/embeddings",
    }
}

/// The plainest request in which a parameter means something.
fn plain(endpoint: Endpoint, name: &str) -> Value {
    let mut body = match endpoint {
        Endpoint::Chat => json!({ "model": "parrot", "seed": 7, "messages": [{ "role": "user", "content": "hi" }] }),
        Endpoint::Completions => json!({ "model": "parrot", "seed": 7, "prompt": "hi" }),
        Endpoint::Responses => json!({ "model": "parrot", "seed": 7, "input": "hi" }),
        Endpoint::Embeddings => json!({ "model": "parrot", "input": "hi" }),
    };
    match name {
        "tool_choice" => body["tools"] = tools(endpoint),
        "parallel_tool_calls" => {
            body["tools"] = tools(endpoint);
            // The parrot calls twice then.
            body["stop"] = "twice".into();
        }
        "top_logprobs" if endpoint == Endpoint::Chat => body["logprobs"] = true.into(),
        name if name.starts_with("stream_options.") => body["stream"] = true.into(),
        _ => {}
    }
    body
}

fn tools(endpoint: Endpoint) -> Value {
    match endpoint {
        Endpoint::Responses => json!([{ "type": "function", "name": "look_up" }]),
        _ => json!([{ "type": "function", "function": { "name": "look_up" } }]),
    }
}

/// A value that changes something.
fn telling(endpoint: Endpoint, name: &str) -> Value {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    match name {
        "model" => "none".into(),
        "messages" => json!([{ "role": "user", "content": "hello" }]),
        // The parrot's vectors are alike: two texts have two.
        "input" if endpoint == Endpoint::Embeddings => json!(["hello", "there"]),
        "prompt" | "input" | "instructions" => "hello".into(),
        "max_tokens" | "max_completion_tokens" | "max_output_tokens" | "n_predict" | "num_predict" => 5.into(),
        "echo" | "stream" | "structured_outputs.json_object" | "stream_options.include_usage" => true.into(),
        "logprobs" if endpoint == Endpoint::Chat => true.into(),
        "logprobs" | "top_logprobs" | "n" => 2.into(),
        "stop" => "x".into(),
        "temperature" | "top_p" | "min_p" => 0.5.into(),
        "top_k" => 3.into(),
        "seed" => 8.into(),
        "presence_penalty" | "frequency_penalty" | "repetition_penalty" | "repeat_penalty" => 1.5.into(),
        "logit_bias" => json!({ "5": 1 }),
        "response_format" | "text.format" => json!({ "type": "json_object" }),
        "json_schema" | "guided_json" | "structured_outputs.json" => schema,
        "format" => "json".into(),
        "include" => json!(["message.output_text.logprobs"]),
        "tools" => tools(endpoint),
        "tool_choice" => "required".into(),
        "parallel_tool_calls" => false.into(),
        "encoding_format" => "base64".into(),
        other => panic!("the test has no value for {other}"),
    }
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    match name.split_once('.') {
        Some((outer, inner)) => body[outer][inner] = value,
        None => body[name] = value,
    }
    body
}

/// What a request does: what the model is asked, and how long the answer in which form is. Names and times in it have a
/// fixed length.
fn seen(endpoint: Endpoint, body: &Value) -> (Vec<Ask>, u16, String, usize) {
    let (said, asks) = heard(path(endpoint), body);
    let kind = said.headers["content-type"].to_str().expect("text").to_owned();
    (asks, said.status.as_u16(), kind, said.text.len())
}

fn status(endpoint: Endpoint, body: &Value) -> u16 {
    heard(path(endpoint), body).0.status.as_u16()
}

fn named(said: &Said, name: &str) -> bool {
    let value = said.json();
    let error = &value["error"];
    said.status == 400 && error["param"] == name && error["message"].as_str().is_some_and(|text| text.contains(name))
}

/// Values that no row takes for nothing.
fn odd() -> Vec<Value> {
    vec![json!(12_345), json!("something"), json!(["x"]), json!({ "x": 1 })]
}

fn values(neutral: &[Neutral]) -> Vec<Value> {
    let json = |neutral: &Neutral| match *neutral {
        Neutral::False => vec![json!(false)],
        Neutral::True => vec![json!(true)],
        Neutral::Number(number) => vec![json!(number)],
        Neutral::Word(text) => vec![json!(text)],
        Neutral::Only(text) => vec![json!([text])],
        Neutral::Empty => vec![json!(""), json!([]), json!({})],
    };
    neutral.iter().flat_map(json).chain([Value::Null]).collect()
}

fn rows() -> impl Iterator<Item = (Endpoint, &'static Parameter)> {
    PARAMETERS.iter().flat_map(|row| row.at.iter().map(move |endpoint| (*endpoint, row)))
}

#[test]
fn a_parameter_with_an_effect_has_it() {
    for (endpoint, row) in rows().filter(|(_, row)| row.rule == Rule::Effect) {
        let (name, before) = (row.name, plain(endpoint, row.name));
        let after = with(before.clone(), name, telling(endpoint, name));
        let (before, after) = (seen(endpoint, &before), seen(endpoint, &after));
        assert_eq!(before.1, 200, "{} without {name}", endpoint.name());
        assert_eq!(after.1, if name == "model" { 404 } else { 200 }, "{} with {name}", endpoint.name());
        assert_ne!(before, after, "{name} changes nothing at {}", endpoint.name());
    }
}

#[test]
fn a_parameter_that_would_be_missed_is_refused_by_name() {
    for (endpoint, row) in rows() {
        let (mut body, name) = (plain(endpoint, row.name), row.name);
        let neutral = match row.rule {
            Rule::Refused(neutral, _) => neutral,
            Rule::RefusedWith(others, neutral, _) => {
                for value in odd() {
                    assert_eq!(status(endpoint, &with(body.clone(), name, value)), 200, "{name} alone");
                }
                body[others[0].0] = 1.5.into();
                neutral
            }
            _ => continue,
        };
        let mut wrong = odd();
        wrong.extend(neutral.contains(&Neutral::False).then_some(json!(true)));
        wrong.extend(neutral.contains(&Neutral::True).then_some(json!(false)));
        for value in wrong {
            let body = with(body.clone(), name, value);
            let (said, asks) = heard(path(endpoint), &body);
            assert!(named(&said, name) && asks.is_empty(), "{} {body}: {}", endpoint.name(), said.text);
        }
        for value in values(neutral) {
            let body = with(body.clone(), name, value);
            let (said, _) = heard(path(endpoint), &body);
            assert_eq!(said.status, 200, "{} {body}: {}", endpoint.name(), said.text);
        }
    }
}

#[test]
fn a_parameter_without_meaning_here_is_read_over() {
    for (endpoint, row) in rows().filter(|(_, row)| matches!(row.rule, Rule::Harmless(_))) {
        let typed = row.name == "stream_options.include_usage";
        for value in if typed { vec![true.into(), false.into()] } else { odd() } {
            let body = with(plain(endpoint, row.name), row.name, value);
            assert_eq!(status(endpoint, &body), 200, "{} {body}", endpoint.name());
        }
    }
}

#[test]
fn a_parameter_that_an_endpoint_checks_is_refused_by_name_where_it_differs() {
    let mut checked = 0;
    for (endpoint, row) in rows().filter(|(_, row)| matches!(row.rule, Rule::Checked(_))) {
        let (right, wrong) = match row.name {
            "best_of" => (1, 2),
            "dimensions" => (2, 3),
            other => panic!("the test has no value for {other}"),
        };
        let body = |value: i32| with(plain(endpoint, row.name), row.name, value.into());
        assert_eq!(status(endpoint, &body(right)), 200, "{}", row.name);
        assert!(named(&heard(path(endpoint), &body(wrong)).0, row.name), "{}", row.name);
        checked += 1;
    }
    assert_eq!(checked, 2);
}

/// A row as the document shows it.
fn line(row: &Parameter) -> String {
    let taken = |neutral: &[Neutral]| {
        let all: Vec<String> = neutral.iter().map(|one| format!("`{}`", one.json())).collect();
        if all.is_empty() { String::new() } else { format!(" (taken: {})", all.join(", ")) }
    };
    let what = match row.rule {
        Rule::Effect => "has its effect".into(),
        Rule::Checked(why) => format!("has its effect: {why}"),
        Rule::Harmless(why) => format!("taken, without effect: {why}"),
        Rule::Refused(neutral, why) => format!("refused: {why}{}", taken(neutral)),
        Rule::RefusedWith(others, neutral, why) => {
            let others: Vec<String> = others.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("refused beside {}: {why}{}", others.join(", "), taken(neutral))
        }
    };
    let at: Vec<&str> = row.at.iter().map(|endpoint| endpoint.name()).collect();
    format!("| `{}` | {} | {what} |", row.name, at.join(", "))
}

#[test]
fn the_document_shows_the_table() {
    let shown: Vec<&str> =
        include_str!("../../../../docs/api.md").lines().filter(|line| line.starts_with("| `")).collect();
    let table: Vec<String> = PARAMETERS.iter().map(line).collect();
    let missing: Vec<&String> = table.iter().filter(|line| !shown.contains(&line.as_str())).collect();
    assert!(missing.is_empty(), "docs/api.md lacks:\n{}", missing.iter().map(|l| format!("{l}\n")).collect::<String>());
    assert_eq!(shown.len(), table.len(), "docs/api.md has rows that the table has not");
}
