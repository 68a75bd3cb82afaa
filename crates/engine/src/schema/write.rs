//! The rules of a grammar while it is made.

use super::SchemaLimits;
use std::collections::BTreeMap;

/// There are more than so many of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) what: &'static str,
    pub(super) max: usize,
}

/// Rules by their names.
pub(super) struct Grammar {
    rules: BTreeMap<String, String>,
    /// Names by what the rule says: what is said twice is written once.
    names: BTreeMap<String, String>,
    bytes: usize,
    limits: SchemaLimits,
}

/// A character of a JSON text between quotes that stands for itself, as the inside of a class.
pub(super) const PLAIN_NOT: &str = r#""\\\x7F\x00-\x1F"#;

/// The rules that every grammar may use, those of llama.cpp. Blanks are a choice of few: models that may write as many
/// as they like write nothing else. Numbers end after 16 digits for the same reason.
const PRIMITIVES: [(&str, &str); 20] = [
    ("space", r#"| " " | "\n"{1,2} [ \t]{0,20}"#),
    ("boolean", r#""true" | "false""#),
    ("null", r#""null""#),
    ("decimal", "[0-9]{1,16}"),
    ("integral", "[0] | [1-9] [0-9]{0,15}"),
    ("integer", r#""-"? integral"#),
    ("number", r#""-"? integral ("." decimal)? ([eE] [-+]? integral)?"#),
    ("char", r#"[^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})"#),
    ("string", r#""\"" char* "\"""#),
    ("value", "object | array | string | number | boolean | null"),
    ("member", r#"string ":" space value"#),
    ("members", r#"member ("," space member)*"#),
    ("object", r#""{" space members? space "}""#),
    ("values", r#"value ("," space value)*"#),
    ("array", r#""[" space values? space "]""#),
    ("hex", "[0-9a-fA-F]"),
    ("uuid", r#""\"" hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12} "\"""#),
    ("date", r#"[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [1-2] [0-9] | "3" [0-1])"#),
    ("clock", r#"([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]"#),
    ("time", r#"clock ":" [0-5] [0-9] ("." [0-9]{3})? ("Z" | [-+] clock)"#),
];

/// What each of them uses.
fn uses(name: &str) -> &'static [&'static str] {
    match name {
        "integer" => &["integral"],
        "number" => &["integral", "decimal"],
        "string" => &["char"],
        "value" => &["object", "array", "string", "number", "boolean", "null"],
        "member" => &["string", "space", "value"],
        "members" => &["member", "space"],
        "object" => &["members", "space"],
        "values" => &["value", "space"],
        "array" => &["values", "space"],
        "uuid" => &["hex"],
        "time" => &["clock"],
        _ => &[],
    }
}

impl Grammar {
    pub(super) fn new(limits: &SchemaLimits) -> Self {
        Self { rules: BTreeMap::new(), names: BTreeMap::new(), bytes: 0, limits: *limits }
    }

    /// The name of a rule that says `body`.
    pub(super) fn add(&mut self, body: String) -> Result<String, Full> {
        if let Some(name) = self.names.get(&body) {
            return Ok(name.clone());
        }
        let name = format!("r{}", self.names.len());
        self.names.insert(body.clone(), name.clone());
        self.named(&name, body)?;
        Ok(name)
    }

    /// A rule of a name that was chosen before.
    pub(super) fn named(&mut self, name: &str, body: String) -> Result<(), Full> {
        self.bytes += name.len() + body.len();
        self.rules.insert(name.to_owned(), body);
        if self.rules.len() > self.limits.rules {
            return Err(Full { what: "rules", max: self.limits.rules });
        }
        if self.bytes > self.limits.bytes {
            return Err(Full { what: "bytes of grammar", max: self.limits.bytes });
        }
        Ok(())
    }

    /// A rule that every grammar may use, with all that it uses.
    pub(super) fn primitive(&mut self, name: &'static str) -> Result<&'static str, Full> {
        let mut wanted = vec![name];
        while let Some(next) = wanted.pop() {
            let Some((_, body)) = PRIMITIVES.iter().find(|(known, _)| *known == next) else { continue };
            if !self.rules.contains_key(next) {
                self.named(next, (*body).to_owned())?;
                wanted.extend(uses(next));
            }
        }
        Ok(name)
    }

    /// A text that is written as it is.
    pub(super) fn literal(text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 2);
        out.push('"');
        for c in text.chars() {
            match c {
                '\r' => out.push_str("\\r"),
                '\n' => out.push_str("\\n"),
                '"' | '\\' => out.extend(['\\', c]),
                _ => out.push(c),
            }
        }
        out.push('"');
        out
    }

    /// The text of the grammar.
    pub(super) fn finish(self) -> String {
        self.rules.iter().map(|(name, body)| format!("{name} ::= {body}\n")).collect()
    }
}

/// `item` from `least` to `most` times; none: without end.
pub(super) fn repeated(item: &str, least: usize, most: Option<usize>) -> String {
    match (least, most) {
        (_, Some(0)) => String::new(),
        (0, Some(1)) => format!("{item}?"),
        (0, None) => format!("{item}*"),
        (1, None) => format!("{item}+"),
        (least, Some(most)) if least == most => format!("{item}{{{least}}}"),
        (least, Some(most)) => format!("{item}{{{least},{most}}}"),
        (least, None) => format!("{item}{{{least},}}"),
    }
}

/// One character as the inside of a class.
pub(super) fn in_class(c: char) -> String {
    match c {
        '\\' | ']' | '[' | '-' | '"' => format!("\\{c}"),
        // Where it comes first it would turn the class around.
        '^' => "\\x5E".to_owned(),
        c if (c as u32) < 0x20 || c as u32 == 0x7F => format!("\\x{:02X}", c as u32),
        c => c.to_string(),
    }
}
