//! Calls of tools: what a model is told of them, the shape that its answer has to have, and what it called.
//!
//! A model whose template has a place for tools is told of them there, and writes a call in its own way. Any other is told in
//! a system message and answers in JSON that a grammar holds to the tools' own schemas; so does every model that *has to* call.

use crate::error::ApiError;
use crate::ids::name;
use market::{AnswerFormat, AskInput, Message};
use serde_json::{Map, Value, json};

/// The tools of a request.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    functions: Vec<Function>,
    /// The one function, or any one, that has to be called; none: the model decides.
    forced: Option<Option<String>>,
    /// In the shape of chat completions, for templates.
    given: Value,
    /// Whether an answer may have more than one call.
    several: bool,
}

#[derive(Debug, Clone)]
struct Function {
    name: String,
    parameters: Value,
}

/// What became of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    pub(crate) calls: Vec<Call>,
}

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    /// JSON, as the API wants it: a text.
    pub(crate) arguments: String,
}

const TOOLS_MAX: usize = 128;

/// Whether there are none.
fn none(tools: Option<&Value>) -> bool {
    tools.and_then(Value::as_array).is_none_or(Vec::is_empty)
}

impl Tools {
    /// Reads `tools` and `tool_choice` of either endpoint; `None` when nothing can be called.
    pub(crate) fn read(tools: Option<&Value>, choice: Option<&Value>) -> Result<Option<Self>, ApiError> {
        let calls = |choice: &Value| !choice.is_null() && choice != "auto" && choice != "none";
        let list = match tools {
            None | Some(Value::Null | Value::Array(_)) if choice.is_some_and(calls) && none(tools) => {
                return Err(ApiError::invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are given."));
            }
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) if list.is_empty() => return Ok(None),
            Some(Value::Array(list)) if list.len() <= TOOLS_MAX => list,
            _ => {
                return Err(ApiError::invalid("tools", format!("'tools' is a list of at most {TOOLS_MAX} functions.")));
            }
        };
        let mut functions = Vec::new();
        let mut given = Vec::new();
        for (i, tool) in list.iter().enumerate() {
            let at = format!("tools[{i}]");
            if tool["type"] != "function" {
                let kind = tool["type"].as_str().unwrap_or("nothing");
                return Err(ApiError::unsupported(
                    &format!("{at}.type"),
                    &format!("tools of type {kind} are not run here"),
                ));
            }
            // The newer endpoint has it one level higher.
            let function = if tool["function"].is_object() { &tool["function"] } else { tool };
            let name = function["name"].as_str().filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| ApiError::missing(&format!("{at}.function.name")))?.to_owned();
            let parameters = match &function["parameters"] {
                Value::Null => json!({ "type": "object", "properties": {} }),
                object @ Value::Object(_) => object.clone(),
                _ => {
                    return Err(ApiError::invalid(
                        &format!("{at}.function.parameters"),
                        "'parameters' is a JSON Schema.",
                    ));
                }
            };
            given.push(json!({
                "type": "function",
                "function": { "name": name, "description": function["description"], "parameters": parameters },
            }));
            functions.push(Function { name, parameters });
        }
        let forced = match choice {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => match text.as_str() {
                "auto" => None,
                "none" => return Ok(None),
                "required" => Some(None),
                other => return Err(ApiError::invalid("tool_choice", format!("Invalid 'tool_choice': '{other}'."))),
            },
            Some(value) => {
                let name = value.pointer("/function/name").or_else(|| value.get("name")).and_then(Value::as_str);
                let name = name.filter(|name| functions.iter().any(|function| function.name == *name));
                let name =
                    name.ok_or_else(|| ApiError::invalid("tool_choice", "'tool_choice' names none of the tools."))?;
                Some(Some(name.to_owned()))
            }
        };
        Ok(Some(Self { functions, forced, given: given.into(), several: true }))
    }

    /// With `parallel_tool_calls` as the request has it: at most one call, where it says so.
    pub(crate) fn several(self, may: Option<bool>) -> Self {
        Self { several: may.unwrap_or(true), ..self }
    }

    /// Tells the model of the tools; `known`: its template has a place for them. Gives the shape of its answer.
    pub(crate) fn tell(
        &self,
        messages: Vec<Message>,
        known: bool,
        format: AnswerFormat,
    ) -> Result<(AskInput, AnswerFormat), ApiError> {
        if format != AnswerFormat::Free {
            return Err(ApiError::unsupported("response_format", "an answer in a shape cannot be a call of a tool"));
        }
        let format = match (&self.forced, known) {
            (None, true) => AnswerFormat::Free,
            (None, false) => {
                let text = json!({ "type": "object", "properties": { "response": { "type": "string" } }, "required": ["response"], "additionalProperties": false });
                let call = |schema| json!({ "type": "object", "properties": { "tool_call": schema }, "required": ["tool_call"], "additionalProperties": false });
                self.schema(|functions| json!({ "anyOf": [call(json!({ "anyOf": functions })), text] }))
            }
            (Some(_), _) => self.schema(|functions| json!({ "anyOf": functions })),
        };
        if known {
            return Ok((AskInput::Chat { messages, tools: Some(self.given.to_string()) }, format));
        }
        let how = match self.forced {
            None => {
                "To call one, answer {\"tool_call\": {\"name\": NAME, \"arguments\": {…}}}; otherwise answer {\"response\": TEXT}."
            }
            Some(_) => "Call one: answer {\"name\": NAME, \"arguments\": {…}}.",
        };
        let text = format!("You can call these functions: {}\n{how}", self.given);
        let mut told: Vec<Message> = messages.into_iter().map(spelled_out).collect();
        match told.first_mut().filter(|message| message.role == "system") {
            Some(system) => system.content = format!("{}\n\n{text}", system.content),
            None => told.insert(0, Message { role: "system".into(), content: text, ..Message::default() }),
        }
        Ok((AskInput::Chat { messages: told, tools: None }, format))
    }

    /// A schema over calls of the functions that may be called.
    fn schema(&self, whole: impl FnOnce(Vec<Value>) -> Value) -> AnswerFormat {
        let mut shared = Map::new();
        let chosen = |function: &Function| {
            self.forced.as_ref().and_then(Option::as_ref).is_none_or(|name| *name == function.name)
        };
        let calls = self.functions.iter().enumerate().filter(|(_, function)| chosen(function)).map(|(i, function)| {
            let mut parameters = function.parameters.clone();
            // What a schema refers to lies at the root of the whole, under names that no other tool has.
            renamed(&mut parameters, i);
            for place in ["$defs", "definitions"] {
                let defs = parameters.as_object_mut().and_then(|object| object.remove(place));
                let defs = defs.as_ref().and_then(Value::as_object).into_iter().flatten();
                shared.extend(defs.map(|(name, def)| (format!("{i}_{name}"), def.clone())));
            }
            json!({
                "type": "object", "required": ["name", "arguments"], "additionalProperties": false,
                "properties": { "name": { "const": function.name }, "arguments": parameters },
            })
        });
        let mut schema = whole(calls.collect());
        if !shared.is_empty() {
            schema["$defs"] = shared.into();
        }
        AnswerFormat::Schema(schema.to_string())
    }

    /// What a whole answer says: calls, or a text.
    pub(crate) fn outcome(&self, text: &str) -> Outcome {
        let mut outcome = self.every(text);
        outcome.calls.truncate(if self.several { usize::MAX } else { 1 });
        outcome
    }

    fn every(&self, text: &str) -> Outcome {
        if let Ok(value) = serde_json::from_str::<Value>(text.trim()) {
            if let Some(said) = value["response"].as_str() {
                return Outcome { text: said.to_owned(), calls: Vec::new() };
            }
            // One, or several in a list (Mistral's way); Llama 3 says `parameters`.
            let one = |value: &Value| self.call(value.get("tool_call").unwrap_or(value));
            let calls: Option<Vec<Call>> = match &value {
                Value::Array(several) if !several.is_empty() => several.iter().map(one).collect(),
                other => one(other).map(|call| vec![call]),
            };
            if let Some(calls) = calls {
                return Outcome { text: String::new(), calls };
            }
        }
        // The way of Hermes and Qwen: JSON between marks, among text.
        let (mut rest, mut said, mut calls) = (text, String::new(), Vec::new());
        while let Some((before, after)) = rest.split_once("<tool_call>") {
            let (inside, behind) = after.split_once("</tool_call>").unwrap_or((after, ""));
            let Some(call) = serde_json::from_str(inside.trim()).ok().and_then(|value| self.call(&value)) else {
                break;
            };
            said += before;
            calls.push(call);
            rest = behind;
        }
        Outcome { text: if calls.is_empty() { text.to_owned() } else { (said + rest).trim().to_owned() }, calls }
    }

    fn call(&self, value: &Value) -> Option<Call> {
        let named = value["name"].as_str()?;
        self.functions.iter().find(|function| function.name == named)?;
        let arguments = value.get("arguments").or_else(|| value.get("parameters"))?;
        // Some write the JSON as a text already.
        let arguments = arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned);
        Some(Call { id: name("call"), name: named.to_owned(), arguments })
    }
}

/// For a template that knows no calls: those that were made stand in the text.
fn spelled_out(message: Message) -> Message {
    match message.tool_calls {
        None => message,
        Some(calls) => Message { content: format!("{}{calls}", message.content), tool_calls: None, ..message },
    }
}

impl Call {
    /// As chat completions show it.
    pub(crate) fn json(&self) -> Value {
        json!({ "id": self.id, "type": "function", "function": { "name": self.name, "arguments": self.arguments } })
    }
}

/// References of tool `i` to its own definitions, as they are called beside those of others.
fn renamed(schema: &mut Value, i: usize) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = value.as_str().filter(|_| key == "$ref");
                let name =
                    name.and_then(|text| ["#/$defs/", "#/definitions/"].iter().find_map(|at| text.strip_prefix(at)));
                match name.map(|name| format!("#/$defs/{i}_{name}")) {
                    Some(reference) => *value = reference.into(),
                    None => renamed(value, i),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| renamed(item, i)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(choice: Value) -> Tools {
        let tool = json!({ "type": "function", "function": { "name": "f", "parameters": {
            "type": "object", "properties": { "a": { "$ref": "#/$defs/A" } }, "$defs": { "A": { "type": "integer" } } } } });
        Tools::read(Some(&json!([tool])), Some(&choice)).expect("read").expect("some")
    }

    #[test]
    fn a_call_is_read_in_every_way_that_models_write_it() {
        let tools = tools("auto".into());
        for text in [
            r#"{"tool_call": {"name": "f", "arguments": {"a": 1}}}"#,
            r#"{"name": "f", "arguments": {"a": 1}}"#,
            r#"{"name": "f", "parameters": {"a": 1}}"#,
            r#"[{"name": "f", "arguments": {"a": 1}}]"#,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
        ] {
            let outcome = tools.outcome(text);
            assert_eq!((outcome.text.as_str(), outcome.calls.len()), ("", 1), "{text}");
            assert_eq!((outcome.calls[0].name.as_str(), outcome.calls[0].arguments.as_str()), ("f", r#"{"a":1}"#));
        }
        let both = tools.outcome("Let me see. <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>");
        assert_eq!((both.text.as_str(), both.calls.len()), ("Let me see.", 1));
        for text in ["hello", r#"{"name": "g", "arguments": {}}"#, "<tool_call>{", "[]", r#"{"a": 1}"#] {
            assert_eq!(tools.outcome(text), Outcome { text: text.into(), calls: vec![] });
        }
        assert_eq!(tools.outcome(r#"{"response": "hi"}"#).text, "hi");
        let two = r#"[{"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": {"a": 2}}]"#;
        assert_eq!(tools.outcome(two).calls.len(), 2);
        assert_eq!(tools.several(Some(false)).outcome(two).calls.len(), 1);
    }

    #[test]
    fn a_model_that_knows_no_tools_is_told_and_held_to_their_schemas() {
        let asked = vec![Message { role: "user".into(), content: "hi".into(), ..Message::default() }];
        let (input, format) = tools("required".into()).tell(asked.clone(), false, AnswerFormat::Free).expect("told");
        let AskInput::Chat { messages, tools: None } = input else { panic!("in a message") };
        assert!(messages[0].role == "system" && messages[0].content.contains("\"f\""));
        let AnswerFormat::Schema(schema) = format else { panic!("held") };
        let schema: Value = serde_json::from_str(&schema).expect("JSON");
        assert_eq!(schema["$defs"]["0_A"]["type"], "integer");
        assert!(schema.to_string().contains("#/$defs/0_A"));
        assert_eq!(schema["anyOf"][0]["properties"]["name"]["const"], "f");
        let (input, format) = tools("auto".into()).tell(asked, true, AnswerFormat::Free).expect("told");
        assert!(matches!(input, AskInput::Chat { tools: Some(_), .. }) && format == AnswerFormat::Free);
    }

    #[test]
    fn wrong_tools_are_named() {
        let read = |tools: Value, choice: Value| Tools::read(Some(&tools), Some(&choice)).map(|tools| tools.is_some());
        let f = json!([{ "type": "function", "name": "f" }]);
        assert!(matches!(read(f.clone(), "none".into()), Ok(false)));
        assert!(matches!(read(f.clone(), json!({ "type": "function", "name": "f" })), Ok(true)));
        for (tools, choice) in [
            (json!([{ "type": "web_search" }]), Value::Null),
            (json!([{ "type": "function" }]), Value::Null),
            (json!("f"), Value::Null),
            (f.clone(), "maybe".into()),
            (f, json!({ "type": "function", "name": "g" })),
        ] {
            assert!(read(tools, choice).is_err());
        }
    }
}
