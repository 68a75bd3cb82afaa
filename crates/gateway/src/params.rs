//! Parameters that several endpoints share, and how bodies are read.

use crate::error::ApiError;
use crate::state::Shared;
use crate::table::given;
use axum::body::Bytes;
use axum::http::HeaderMap;
use market::{AnswerFormat, AskInput, Sampling};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// A body is at most this long.
pub(crate) const BODY_MAX: usize = 4 << 20;
/// Answers to one question.
const N_MAX: u32 = 8;
const STOPS_MAX: usize = 16;

/// One or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(crate) fn list(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// A text, ids, or a list of either.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<i32>),
    Many(Vec<Vec<i32>>),
}

impl Prompt {
    pub(crate) fn inputs(self) -> Vec<AskInput> {
        match self {
            Self::Text(text) => vec![AskInput::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(AskInput::Text).collect(),
            Self::Ids(ids) => vec![AskInput::Tokens(ids)],
            Self::Many(many) => many.into_iter().map(AskInput::Tokens).collect(),
        }
    }
}

/// Parameters of every endpoint that writes. What else others know by name is in `table.rs`; a name that nobody knows
/// is ignored.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub(crate) struct Common {
    /// Which model, as `/v1/models` names it.
    #[schemars(required)]
    pub(crate) model: Option<String>,
    /// 0: always the likeliest token.
    #[schemars(range(min = 0.0, max = 2.0))]
    temperature: Option<f32>,
    /// Of the likeliest tokens those that make up so much probability.
    #[schemars(range(min = 0.0, max = 1.0))]
    top_p: Option<f32>,
    /// The so many likeliest; 0 and -1: all.
    #[schemars(range(min = -1, max = 1_048_576))]
    top_k: Option<i64>,
    /// Those that are so likely in proportion to the likeliest.
    #[schemars(range(min = 0.0, max = 1.0))]
    min_p: Option<f32>,
    /// `max_tokens` as llama-server calls it; -1: no bound is named.
    #[schemars(range(min = -1))]
    n_predict: Option<i64>,
    /// The same as Ollama calls it.
    #[schemars(range(min = -1))]
    num_predict: Option<i64>,
    /// Answers to one question.
    #[schemars(range(min = 1, max = 8))]
    n: Option<u32>,
    /// Texts that end the answer and are not part of it.
    stop: Option<OneOrMany<String>>,
    /// The same seed gives the same answer on the same machine.
    seed: Option<i64>,
    /// Taken off once if a token was written before.
    #[schemars(range(min = -2.0, max = 2.0))]
    presence_penalty: Option<f32>,
    /// Taken off for every time that it was.
    #[schemars(range(min = -2.0, max = 2.0))]
    frequency_penalty: Option<f32>,
    /// A logit is divided by this if its token was written before.
    #[schemars(range(min = 0.01, max = 10.0))]
    repetition_penalty: Option<f32>,
    /// The same as llama-server and Ollama call it; the other one counts where both are given.
    #[schemars(range(min = 0.01, max = 10.0))]
    repeat_penalty: Option<f32>,
    /// Added to logits, between -100 and 100, by token id.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Whether the answer comes as server-sent events while it is written.
    pub(crate) stream: Option<bool>,
    /// What a stream has beside that.
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
struct StreamOptions {
    /// Whether it ends with the counts of tokens.
    include_usage: Option<bool>,
}

impl Common {
    pub(crate) fn model(&self) -> Result<String, ApiError> {
        self.model.clone().ok_or_else(|| ApiError::missing("model"))
    }

    pub(crate) fn n(&self) -> Result<u32, ApiError> {
        within("n", self.n.unwrap_or(1), 1, N_MAX)
    }

    /// Tokens of the answer at most, at least `least`, as the first of `named` says that is given, or else one of the
    /// other names.
    pub(crate) fn tokens(&self, named: &[(&str, Option<u64>)], least: u64) -> Result<Option<u64>, ApiError> {
        if let Some((what, n)) = named.iter().find_map(|(what, n)| Some((what, (*n)?))) {
            return within(what, n, least, u64::from(u32::MAX)).map(Some);
        }
        let named = [("n_predict", self.n_predict), ("num_predict", self.num_predict)];
        let Some((what, n)) = named.into_iter().find_map(|(what, n)| Some((what, n?))) else { return Ok(None) };
        if n == -1 {
            return Ok(None);
        }
        let n = within(what, n, least as i64, i64::from(u32::MAX))?;
        Ok(u64::try_from(n).ok())
    }

    pub(crate) fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    pub(crate) fn wants_usage(&self) -> Result<bool, ApiError> {
        match &self.stream_options {
            Some(_) if !self.streams() => {
                Err(ApiError::invalid("stream_options", "'stream_options' is only allowed when 'stream' is true."))
            }
            options => Ok(options.as_ref().and_then(|options| options.include_usage) == Some(true)),
        }
    }

    pub(crate) fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = self.stop.clone().map(OneOrMany::list).unwrap_or_default();
        if stops.len() > STOPS_MAX || stops.iter().any(|stop| stop.len() > 1024) {
            return Err(ApiError::invalid("stop", format!("'stop' takes at most {STOPS_MAX} texts of 1,024 bytes.")));
        }
        Ok(stops)
    }

    pub(crate) fn sampling(&self, shared: &Shared, format: AnswerFormat) -> Result<Sampling, ApiError> {
        let bias = |(id, bias): (&String, &f32)| {
            let id =
                id.parse::<i32>().map_err(|_| ApiError::invalid("logit_bias", format!("'{id}' is no token id.")))?;
            Ok((id, within("logit_bias", *bias, -100.0, 100.0)?))
        };
        let biases = self.logit_bias.iter().flatten().map(bias).collect::<Result<Vec<_>, ApiError>>()?;
        if biases.len() > 1024 {
            return Err(ApiError::invalid("logit_bias", "'logit_bias' takes at most 1,024 tokens."));
        }
        let (what, repetition) = match (self.repetition_penalty, self.repeat_penalty) {
            (None, Some(penalty)) => ("repeat_penalty", penalty),
            (penalty, _) => ("repetition_penalty", penalty.unwrap_or(1.0)),
        };
        let top_k = within("top_k", self.top_k.unwrap_or(0), -1, 1 << 20)?;
        Ok(Sampling {
            // Nearly nothing is nothing: the choice divides by it.
            temperature: Some(within("temperature", self.temperature.unwrap_or(shared.temperature), 0.0, 2.0)?)
                .filter(|temperature| *temperature >= 1e-6)
                .unwrap_or(0.0),
            top_p: within("top_p", self.top_p.unwrap_or(1.0), 0.0, 1.0)?,
            top_k: u32::try_from(top_k).unwrap_or(0),
            min_p: within("min_p", self.min_p.unwrap_or(0.0), 0.0, 1.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty.unwrap_or(0.0), -2.0, 2.0)?,
            presence_penalty: within("presence_penalty", self.presence_penalty.unwrap_or(0.0), -2.0, 2.0)?,
            repetition_penalty: within(what, repetition, 0.01, 10.0)?,
            logit_bias: biases,
            seed: self.seed.map_or_else(|| crate::ids::random() as u32, |seed| seed as u32),
            format,
        })
    }
}

/// A number in its range, or an error that names it.
pub(crate) fn within<T: PartialOrd + std::fmt::Display + Copy>(
    what: &str,
    x: T,
    low: T,
    high: T,
) -> Result<T, ApiError> {
    // Not a number is in no range.
    if x >= low && x <= high {
        return Ok(x);
    }
    Err(ApiError::invalid(what, format!("Invalid '{what}': {x} is not between {low} and {high}.")))
}

/// The shape that is asked for: `response_format`, or `text.format` of the newer endpoint.
pub(crate) fn format(what: &str, value: Option<&Value>) -> Result<AnswerFormat, ApiError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(AnswerFormat::Free) };
    match value["type"].as_str() {
        Some("text") => Ok(AnswerFormat::Free),
        Some("json_object") => Ok(AnswerFormat::Schema(OBJECT.into())),
        Some("json_schema") => {
            // The newer endpoint has it one level higher.
            let schema = value.pointer("/json_schema/schema").or_else(|| value.get("schema"));
            let schema = schema
                .filter(|schema| schema.is_object())
                .ok_or_else(|| ApiError::missing(&format!("{what}.schema")))?;
            let name = value.pointer("/json_schema/name").or_else(|| value.get("name")).and_then(Value::as_str);
            let missing = || {
                let level = if value["json_schema"].is_object() { ".json_schema" } else { "" };
                ApiError::missing(&format!("{what}{level}.name"))
            };
            name.filter(|name| !name.is_empty()).ok_or_else(missing)?;
            Ok(AnswerFormat::Schema(schema.to_string()))
        }
        other => {
            let other = other.unwrap_or("nothing");
            Err(ApiError::invalid(
                what,
                format!("'{what}.type' is {other}: text, json_object and json_schema are known."),
            ))
        }
    }
}

/// The shape that is asked for in chat and completions, by whichever name; at most one of them asks for one.
pub(crate) fn shape(body: &Value) -> Result<AnswerFormat, ApiError> {
    let mut asked = vec![("response_format", format("response_format", body.get("response_format"))?)];
    for name in ["json_schema", "guided_json", "format", "structured_outputs.json"] {
        asked.push((name, schema(name, given(body, name))?));
    }
    let any = "structured_outputs.json_object";
    match given(body, any) {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) => asked.push((any, AnswerFormat::Schema(OBJECT.into()))),
        Some(_) => return Err(ApiError::invalid(any, format!("Invalid '{any}': it is true or false."))),
    }
    let mut shapes = asked.into_iter().filter(|(_, format)| *format != AnswerFormat::Free);
    let first = shapes.next();
    if let (Some((one, _)), Some((other, _))) = (&first, shapes.next()) {
        return Err(ApiError::invalid(other, format!("'{one}' and '{other}' both name a shape: send one of them.")));
    }
    Ok(first.map_or(AnswerFormat::Free, |(_, format)| format))
}

/// Any object.
const OBJECT: &str = r#"{"type":"object"}"#;

/// A schema as other servers take it: as an object, as a text that holds one, or the word for any object.
fn schema(what: &str, value: Option<&Value>) -> Result<AnswerFormat, ApiError> {
    let read = match value {
        None => return Ok(AnswerFormat::Free),
        Some(Value::String(text)) if text.is_empty() => return Ok(AnswerFormat::Free),
        Some(Value::String(text)) if text == "json" => return Ok(AnswerFormat::Schema(OBJECT.into())),
        Some(Value::String(text)) => serde_json::from_str(text).ok(),
        Some(value) => Some(value.clone()),
    };
    let read = read.filter(Value::is_object);
    let read = read.ok_or_else(|| ApiError::invalid(what, format!("Invalid '{what}': it is a JSON Schema.")))?;
    Ok(AnswerFormat::Schema(read.to_string()))
}

/// Reads a body as a JSON object.
pub(crate) fn object(headers: &HeaderMap, body: &Bytes) -> Result<Value, ApiError> {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind != "application/json" && !kind.ends_with("+json") {
        return Err(ApiError::media_type());
    }
    let mut value: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::body(format!("We could not parse the JSON body of your request: {error}.")))?;
    // One more level is in shapes and tools, which are passed on as they are.
    value.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()).for_each(made_whole);
    if value.is_object() { Ok(value) } else { Err(ApiError::body("The body has to be a JSON object.")) }
}

/// A number such as 2.0 is whole, as JSON Schema has it.
fn made_whole(value: &mut Value) {
    const EXACT: f64 = (1u64 << 53) as f64;
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|x| x.fract() == 0.0 && x.abs() <= EXACT);
            *value = whole.map_or(value.take(), |x| Value::from(x as i64));
        }
        Value::Array(items) => items.iter_mut().for_each(made_whole),
        _ => {}
    }
}

/// The parameters of an endpoint in a body; one of the wrong type is named.
pub(crate) fn fields<T: DeserializeOwned>(value: &Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        ApiError::invalid(&path, format!("Invalid type for '{path}': {}.", error.inner()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_out_of_range_are_named() {
        assert!(within("temperature", 2.0, 0.0, 2.0).is_ok());
        for wrong in [-0.1, 2.1, f32::NAN, f32::INFINITY] {
            let error = within("temperature", wrong, 0.0, 2.0).expect_err("refused");
            assert_eq!((error.param.as_deref(), error.code), (Some("temperature"), Some("invalid_value")));
        }
    }

    #[test]
    fn two_point_naught_is_two() {
        let mut value = json!([2.0, -3.0, 0.5, 1e300, 7, "2.0", [4.0]]);
        made_whole(&mut value);
        assert_eq!(value.to_string(), r#"[2,-3,0.5,1e+300,7,"2.0",[4]]"#);
    }

    #[test]
    fn a_shape_is_read_by_every_name_and_only_one_of_them_counts() {
        let any = json!({ "type": "object" });
        for body in [
            json!({ "json_schema": any }),
            json!({ "guided_json": any.to_string() }),
            json!({ "format": "json" }),
            json!({ "format": any, "response_format": { "type": "text" } }),
            json!({ "structured_outputs": { "json": any } }),
            json!({ "structured_outputs": { "json_object": true } }),
        ] {
            assert_eq!(shape(&body).expect("read"), AnswerFormat::Schema(OBJECT.into()), "{body}");
        }
        assert_eq!(shape(&json!({ "format": "", "json_schema": null })).expect("read"), AnswerFormat::Free);
        for (body, param) in [
            (json!({ "format": "xml" }), "format"),
            (json!({ "guided_json": [1] }), "guided_json"),
            (json!({ "format": "json", "response_format": { "type": "json_object" } }), "format"),
            (json!({ "structured_outputs": { "json_object": 1 } }), "structured_outputs.json_object"),
        ] {
            assert_eq!(shape(&body).expect_err("refused").param.as_deref(), Some(param), "{body}");
        }
    }

    #[test]
    fn a_bound_has_several_names_and_the_first_one_counts() {
        let tokens = |body: Value, max: Option<u64>| {
            fields::<Common>(&body).and_then(|common| common.tokens(&[("max_tokens", max)], 1)).map_err(|e| e.param)
        };
        assert_eq!(tokens(json!({ "n_predict": 5, "num_predict": 6 }), None), Ok(Some(5)));
        assert_eq!(tokens(json!({ "num_predict": 6 }), None), Ok(Some(6)));
        assert_eq!(tokens(json!({ "n_predict": 5 }), Some(7)), Ok(Some(7)));
        assert_eq!(tokens(json!({ "n_predict": -1 }), None), Ok(None));
        assert_eq!(tokens(json!({}), None), Ok(None));
        assert_eq!(tokens(json!({ "n_predict": -2 }), None), Err(Some("n_predict".into())));
        assert_eq!(tokens(json!({}), Some(0)), Err(Some("max_tokens".into())));
    }

    #[test]
    fn shapes_are_read_in_both_places() {
        let schema = json!({ "type": "object" });
        let chat = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
        let newer = json!({ "type": "json_schema", "name": "x", "schema": schema });
        for value in [chat, newer] {
            assert_eq!(format("f", Some(&value)).expect("read"), AnswerFormat::Schema(schema.to_string()));
        }
        assert!(format("f", Some(&json!({ "type": "xml" }))).is_err());
        assert!(format("f", Some(&json!({ "type": "json_schema" }))).is_err());
        let nameless = json!({ "type": "json_schema", "json_schema": { "schema": schema } });
        assert_eq!(format("f", Some(&nameless)).expect_err("refused").param.as_deref(), Some("f.json_schema.name"));
    }
}
