//! What each keyword of a schema makes of the grammar.

use super::keyword::{About, about, shape, shown, vacuous};
use super::pattern::{self, PatternError};
use super::write::{Full, Grammar, repeated};
use super::{SchemaError, SchemaLimits};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub(super) type Fields = Map<String, Value>;

pub(super) fn convert(schema: &Value, limits: &SchemaLimits) -> Result<String, SchemaError> {
    let mut converter = Converter {
        root: schema,
        limits,
        grammar: Grammar::new(limits),
        named: BTreeMap::new(),
        bare: Vec::new(),
        path: vec!["#".to_owned()],
        depth: 0,
        work: 0,
        shortest: 1,
    };
    let start = converter.visit(schema)?;
    let root = converter.grammar.named("root", start);
    converter.full("type", root)?;
    Ok(converter.grammar.finish())
}

pub(super) struct Converter<'a> {
    root: &'a Value,
    pub(super) limits: &'a SchemaLimits,
    pub(super) grammar: Grammar,
    /// Rules of what was referred to, by where it is in memory: every spelling of a reference means the same.
    named: BTreeMap<usize, String>,
    /// References that were followed since something was written.
    bare: Vec<usize>,
    path: Vec<String>,
    depth: usize,
    work: usize,
    /// Characters of the shortest answer, by the counts around the schema that is looked at.
    pub(super) shortest: usize,
}

impl<'a> Converter<'a> {
    pub(super) fn path(&self) -> String {
        let mut path: Vec<String> = self.path.iter().rev().take(8).map(|part| shown(part)).collect();
        if path.len() < self.path.len() {
            path.push("…".into());
        }
        path.reverse();
        path.join("/")
    }

    pub(super) fn unsupported(&self, keyword: &str) -> SchemaError {
        SchemaError::Unsupported { path: self.path(), keyword: shown(keyword) }
    }

    pub(super) fn wrong(&self, keyword: &str, why: &'static str) -> SchemaError {
        SchemaError::Wrong { path: self.path(), keyword: shown(keyword), why }
    }

    pub(super) fn limit(&self, keyword: &str, what: &'static str, max: usize) -> SchemaError {
        SchemaError::Limit { path: self.path(), keyword: shown(keyword), what, max }
    }

    pub(super) fn full<T>(&self, keyword: &str, result: Result<T, Full>) -> Result<T, SchemaError> {
        result.map_err(|full| self.limit(keyword, full.what, full.max))
    }

    pub(super) fn add(&mut self, keyword: &str, body: String) -> Result<String, SchemaError> {
        let rule = self.grammar.add(body);
        self.full(keyword, rule)
    }

    pub(super) fn primitive(&mut self, name: &'static str) -> Result<String, SchemaError> {
        let rule = self.grammar.primitive(name);
        Ok(self.full("type", rule)?.to_owned())
    }

    /// Counts what is looked at, as often as it is.
    pub(super) fn spend(&mut self, schemas: usize) -> Result<(), SchemaError> {
        self.work = self.work.saturating_add(schemas);
        match self.work > self.limits.work {
            true => Err(self.limit("type", "schemas looked at", self.limits.work)),
            false => Ok(()),
        }
    }

    /// Visits what a keyword holds, where something is written before it.
    pub(super) fn inside(&mut self, place: &[&str], schema: &'a Value) -> Result<String, SchemaError> {
        let bare = std::mem::take(&mut self.bare);
        let rule = self.beside(place, schema);
        self.bare = bare;
        rule
    }

    /// The same, where nothing is.
    pub(super) fn beside(&mut self, place: &[&str], schema: &'a Value) -> Result<String, SchemaError> {
        let known = self.path.len();
        self.path.extend(place.iter().map(|part| (*part).to_owned()));
        let rule = self.visit(schema)?;
        self.path.truncate(known);
        Ok(rule)
    }

    /// The rule of a schema. Calls itself through everything that a schema holds, `limits.depth` deep at most.
    pub(super) fn visit(&mut self, schema: &'a Value) -> Result<String, SchemaError> {
        self.spend(1)?;
        if self.depth >= self.limits.depth {
            return Err(self.limit("$ref", "schemas within each other", self.limits.depth));
        }
        self.depth += 1;
        let rule = match schema {
            Value::Object(fields) => self.fields(fields),
            Value::Bool(true) => self.primitive("value"),
            Value::Bool(false) => Err(self.wrong("false", "allows nothing: leave out what has it")),
            _ => Err(self.wrong("schema", "must be an object")),
        };
        self.depth -= 1;
        rule
    }

    fn fields(&mut self, fields: &'a Fields) -> Result<String, SchemaError> {
        if let Some(to) = fields.get("$ref") {
            self.only(fields, None, &["$ref"])?;
            return self.reference(to);
        }
        for keyword in ["oneOf", "anyOf"] {
            if let Some(ways) = fields.get(keyword) {
                self.only(fields, None, &[keyword])?;
                return self.union(keyword, ways);
            }
        }
        if let Some(value) = fields.get("const") {
            self.only(fields, None, &["const", "type", "enum"])?;
            if fields.get("enum").and_then(Value::as_array).is_some_and(|values| !values.contains(value)) {
                return Err(self.wrong("const", "is not in `enum`"));
            }
            return self.values("const", fields, std::slice::from_ref(value));
        }
        if let Some(values) = fields.get("enum") {
            self.only(fields, None, &["enum", "type"])?;
            let values = self.list("enum", values)?;
            return self.values("enum", fields, values);
        }
        match fields.get("type") {
            None => self.typed(fields, None),
            Some(Value::String(name)) => self.typed(fields, Some(name)),
            Some(types) => {
                let mut rules = Vec::new();
                for name in self.list("type", types)? {
                    let name = name.as_str().ok_or_else(|| self.wrong("type", "must be a name or a list of names"))?;
                    rules.push(self.typed(fields, Some(name))?);
                }
                self.add("type", rules.join(" | "))
            }
        }
    }

    /// Refuses what would not be followed, given of which type the values are; none: of any.
    pub(super) fn only(&self, fields: &Fields, kind: Option<About>, followed: &[&str]) -> Result<(), SchemaError> {
        for (keyword, value) in fields {
            let said = match about(keyword, value) {
                About::Note => true,
                About::Unknown => false,
                other if other == About::Any || Some(other) == kind || kind.is_none() => {
                    followed.contains(&keyword.as_str()) || vacuous(keyword, value)
                }
                // What it says is about values of another type.
                _ => true,
            };
            if !said {
                return Err(self.unsupported(keyword));
            }
        }
        Ok(())
    }

    /// A list that is neither empty nor too long.
    pub(super) fn list(&self, keyword: &str, value: &'a Value) -> Result<&'a [Value], SchemaError> {
        match value.as_array() {
            Some(list) if list.len() > self.limits.members => Err(self.limit(keyword, "entries", self.limits.members)),
            Some(list) if !list.is_empty() => Ok(list),
            _ => Err(self.wrong(keyword, "must be a list that is not empty")),
        }
    }

    fn typed(&mut self, fields: &'a Fields, name: Option<&str>) -> Result<String, SchemaError> {
        let has = |keyword: &str| fields.contains_key(keyword);
        let closed = |more: &Value| more != &Value::Bool(true);
        let shaped = has("properties") || fields.get("additionalProperties").is_some_and(closed);
        match name {
            Some("object") | None if shaped => self.object(fields),
            Some("object" | "string") | None if has("allOf") => self.all_of(fields),
            Some("object") => self.object(fields),
            Some("array") => self.array(fields),
            None if has("items") || has("prefixItems") => self.array(fields),
            Some("string") => self.string(fields),
            None if has("pattern") || has("minLength") || has("maxLength") => self.string(fields),
            None if fields.get("format").and_then(Value::as_str).and_then(shape).is_some() => self.string(fields),
            None => {
                self.only(fields, None, &[])?;
                self.primitive("value")
            }
            Some("integer") => self.integer(fields),
            Some("number") => self.number(fields),
            Some("boolean") => self.plain(fields, "boolean"),
            Some("null") => self.plain(fields, "null"),
            Some(_) => Err(self.wrong("type", "is not one that JSON has")),
        }
    }

    fn plain(&mut self, fields: &Fields, name: &'static str) -> Result<String, SchemaError> {
        self.only(fields, Some(About::Other), &["type"])?;
        self.primitive(name)
    }

    /// What a reference names, wherever it is in the schema.
    pub(super) fn resolve(&self, to: &str) -> Result<&'a Value, SchemaError> {
        let wrong = |why| SchemaError::Reference { path: self.path(), to: shown(to), why };
        let Some(pointer) = to.strip_prefix('#') else {
            return Err(wrong("leads to another file: only #/… is followed"));
        };
        let pointer = percent_decoded(pointer).ok_or_else(|| wrong("has a % that is followed by no byte"))?;
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(wrong("names an anchor: only #/… is followed"));
        }
        // A pointer's own escapes are those of `Value::pointer`.
        self.root.pointer(&pointer).ok_or_else(|| wrong("leads nowhere"))
    }

    fn reference(&mut self, to: &'a Value) -> Result<String, SchemaError> {
        let to = to.as_str().ok_or_else(|| self.wrong("$ref", "must be a text"))?;
        let target = self.resolve(to)?;
        let place = std::ptr::from_ref(target).addr();
        if self.bare.contains(&place) {
            return Err(SchemaError::Circle { path: self.path(), to: shown(to) });
        }
        if let Some(name) = self.named.get(&place) {
            return Ok(name.clone());
        }
        let name = format!("ref{}", self.named.len());
        self.named.insert(place, name.clone());
        self.bare.push(place);
        let path = std::mem::replace(&mut self.path, vec![to.to_owned()]);
        let rule = self.visit(target)?;
        self.path = path;
        self.bare.pop();
        let added = self.grammar.named(&name, rule);
        self.full("$ref", added)?;
        Ok(name)
    }

    fn union(&mut self, keyword: &str, ways: &'a Value) -> Result<String, SchemaError> {
        let mut rules = Vec::new();
        for (i, way) in self.list(keyword, ways)?.iter().enumerate() {
            rules.push(self.beside(&[keyword, &i.to_string()], way)?);
        }
        self.add(keyword, rules.join(" | "))
    }

    /// Values that are written as they are; a `type` beside them may only say what they are.
    fn values(&mut self, keyword: &str, fields: &Fields, values: &[Value]) -> Result<String, SchemaError> {
        let is = |value: &Value, name: &Value| match name.as_str() {
            Some("null") => value.is_null(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.as_f64().is_some_and(|x| x.fract() == 0.0),
            Some("number") => value.is_number(),
            Some("string") => value.is_string(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => false,
        };
        let fits = |value: &Value| match fields.get("type") {
            None => true,
            Some(Value::Array(names)) => names.iter().any(|name| is(value, name)),
            Some(name) => is(value, name),
        };
        if !values.iter().all(fits) {
            return Err(self.wrong(keyword, "has a value that is not of the `type`"));
        }
        self.spend(values.len())?;
        let texts: Vec<String> = values.iter().map(|value| Grammar::literal(&value.to_string())).collect();
        self.add(keyword, texts.join(" | "))
    }

    fn array(&mut self, fields: &'a Fields) -> Result<String, SchemaError> {
        let keywords = ["type", "items", "prefixItems", "minItems", "maxItems", "additionalItems"];
        self.only(fields, Some(About::Array), &keywords)?;
        let (least, most) = self.counts(fields, "minItems", "maxItems")?;
        let (items, prefix) = (fields.get("items"), fields.get("prefixItems"));
        if let Some(Value::Array(_)) = prefix.or(items) {
            return self.tuple(fields, least, most);
        }
        if prefix.is_some() {
            return Err(self.wrong("prefixItems", "must be a list of schemas"));
        }
        // What follows a list of items says nothing where there is none.
        let any = items.is_none_or(|items| items == &Value::Bool(true) || items.as_object().is_some_and(Map::is_empty));
        if any && least == 0 && most.is_none() {
            return self.primitive("array");
        }
        let around = self.shortest;
        self.shortest = around.saturating_mul(least.max(1));
        let item = match items {
            Some(items) => self.inside(&["items"], items)?,
            None => self.primitive("value")?,
        };
        self.shortest = around;
        self.primitive("space")?;
        // A name of its own: llama.cpp multiplies the rules of a group by how often it is repeated.
        let more = self.add("items", format!("\",\" space {item}"))?;
        let rest = repeated(&more, least.saturating_sub(1), most.map(|most| most.saturating_sub(1)));
        let body = match (least, most) {
            (_, Some(0)) => r#""[" space space "]""#.to_owned(),
            (0, _) => format!(r#""[" space ({item} {rest})? space "]""#),
            _ => format!(r#""[" space {item} {rest} space "]""#),
        };
        self.add("items", body)
    }

    /// So many items, each with a schema of its own, and none behind them.
    fn tuple(&mut self, fields: &'a Fields, least: usize, most: Option<usize>) -> Result<String, SchemaError> {
        let keyword = if fields.contains_key("prefixItems") { "prefixItems" } else { "items" };
        let more = if keyword == "items" { "additionalItems" } else { "items" };
        if fields.get(more).is_some_and(|more| more != &Value::Bool(false)) {
            return Err(self.unsupported(more));
        }
        let Some(list) = fields.get(keyword) else { return self.primitive("array") };
        let list = self.list(keyword, list)?;
        if least > list.len() || most.is_some_and(|most| most < list.len()) {
            return Err(self.wrong(keyword, "has another number of items than the array may have"));
        }
        self.primitive("space")?;
        let mut rules = Vec::new();
        for (i, item) in list.iter().enumerate() {
            rules.push(self.inside(&[keyword, &i.to_string()], item)?);
        }
        self.add(keyword, format!(r#""[" space {} space "]""#, rules.join(r#" "," space "#)))
    }

    fn string(&mut self, fields: &'a Fields) -> Result<String, SchemaError> {
        let shaped = fields.get("format").and_then(Value::as_str).and_then(shape);
        let followed: &[&str] = match (fields.get("pattern"), shaped) {
            (Some(_), _) => &["type", "pattern"],
            (None, Some(_)) => &["type", "format"],
            (None, None) => &["type", "minLength", "maxLength"],
        };
        self.only(fields, Some(About::String), followed)?;
        if let Some(pattern) = fields.get("pattern") {
            let text = pattern.as_str().ok_or_else(|| self.wrong("pattern", "must be a text"))?;
            let body = pattern::pattern(&mut self.grammar, text, self.limits.repeats).map_err(|error| match error {
                PatternError::At(at, why) => SchemaError::Pattern { path: self.path(), at, why },
                PatternError::Full(full) => self.limit("pattern", full.what, full.max),
            })?;
            return self.add("pattern", body);
        }
        if let Some(shape) = shaped {
            for name in ["date", "time", "uuid"].into_iter().filter(|name| shape.contains(name)) {
                self.primitive(name)?;
            }
            return self.add("format", shape.to_owned());
        }
        let (least, most) = self.counts(fields, "minLength", "maxLength")?;
        if least == 0 && most.is_none() {
            return self.primitive("string");
        }
        self.primitive("char")?;
        self.add("minLength", format!(r#""\"" {} "\"""#, repeated("char", least, most)))
    }
}

/// A text in which `%` and two digits stand for a byte; none where it is no text then.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        bytes.push((digit(0)? * 16 + digit(1)?) as u8);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}
