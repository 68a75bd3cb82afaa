//! The model's own chat template, rendered as its publisher meant it: Jinja with the functions that Hugging Face
//! gives to templates.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A message of a conversation, as templates see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TemplateMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Calls that the assistant made, in the shape of the OpenAI API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<serde_json::Value>,
    /// Which call a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Who says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Why a conversation has no prompt.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The model was published without a template.
    #[error("this model has no chat template: it completes text only; use /v1/completions")]
    None,
    /// The template refuses the conversation, or is wrong itself.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
}

/// A chat template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    /// Whether it looks at the tools that it is given.
    tools: bool,
    bos: String,
    eos: String,
}

const NAME: &str = "chat";
/// Steps that a template may take: one that never ends is refused.
const FUEL: u64 = 5_000_000;
/// Depth of what a template may build.
const RECURSION: usize = 64;

impl Template {
    /// Reads a template; `bos` and `eos` are the texts of the model's tokens.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TemplateError::Refused(error.to_string()))?);
        environment.set_recursion_limit(RECURSION);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_function("strftime_now", |format: String| chrono::Local::now().format(&format).to_string());
        environment.add_filter("tojson", to_json);
        let added = environment.add_template_owned(NAME, source.to_owned());
        added.map_err(|error| TemplateError::Refused(error.to_string()))?;
        Ok(Self { environment, tools: source.contains("tools"), bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Whether tools given to it have an effect.
    pub fn takes_tools(&self) -> bool {
        self.tools
    }

    /// The prompt after which the assistant speaks.
    pub fn render(
        &self,
        messages: &[TemplateMessage],
        tools: Option<&serde_json::Value>,
    ) -> Result<String, TemplateError> {
        let refused =
            |error: Error| TemplateError::Refused(error.detail().map_or_else(|| error.to_string(), str::to_owned));
        let template = self.environment.get_template(NAME).map_err(refused)?;
        let given = context! {
            messages => Serde(messages),
            tools => tools.map_or(Value::from(()), |tools| Value::from(Serde(tools))),
            add_generation_prompt => true,
            bos_token => self.bos.clone(),
            eos_token => self.eos.clone(),
        };
        template.render(given).map_err(refused)
    }
}

/// As Python writes it: a space behind colons and commas, nothing escaped for HTML.
fn to_json(value: Value, indent: Option<usize>) -> Result<String, Error> {
    let wrong = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let value = serde_json::to_value(&value).map_err(wrong)?;
    if indent.is_some_and(|n| n > 0) {
        return serde_json::to_string_pretty(&value).map_err(wrong);
    }
    let mut out = Vec::new();
    serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut out, Spaced))
        .map_err(wrong)?;
    String::from_utf8(out).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(role: &str, content: &str) -> TemplateMessage {
        TemplateMessage {
            role: role.into(),
            content: content.into(),
            tool_calls: vec![],
            tool_call_id: None,
            name: None,
        }
    }

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\\nHelp.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + \
        '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    #[test]
    fn a_conversation_becomes_the_prompt_that_its_publisher_meant() {
        let template = Template::new(CHATML, "<s>", "</s>").expect("a template");
        let prompt = template.render(&[said("user", "Hi")], None).expect("rendered");
        assert_eq!(
            prompt,
            "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        assert!(!template.takes_tools());
    }

    #[test]
    fn pythons_methods_json_and_refusals_work() {
        let source = "{{ messages[0].content.strip() }}{% if tools is none %}{% else %}{{ tools | tojson }}{% endif %}";
        let template = Template::new(source, "", "").expect("a template");
        let tools = serde_json::json!([{ "a": [1, 2], "b": "<x>" }]);
        assert_eq!(
            template.render(&[said("user", " a ")], Some(&tools)).expect("rendered"),
            r#"a[{"a": [1, 2], "b": "<x>"}]"#
        );
        assert_eq!(template.render(&[said("user", " a ")], None).expect("rendered"), "a");
        let picky = Template::new("{{ raise_exception('no system role') }}", "", "").expect("a template");
        let error = picky.render(&[], None).expect_err("refused").to_string();
        assert!(error.contains("no system role"), "{error}");
    }

    #[test]
    fn one_that_never_ends_is_refused() {
        let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}";
        let template = Template::new(endless, "", "").expect("a template");
        assert!(matches!(template.render(&[], None), Err(TemplateError::Refused(_))));
    }
}
