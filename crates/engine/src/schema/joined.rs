//! Objects, and what several schemas together say of one.

use super::SchemaError;
use super::convert::{Converter, Fields};
use super::keyword::{About, about, shown};
use super::members::{self, Member};
use super::write::Grammar;
use serde_json::Value;

/// A property before its value has a rule.
struct Property<'a> {
    name: &'a str,
    schema: &'a Value,
    required: bool,
}

/// What else an object may have.
enum Others<'a> {
    None,
    Any,
    Like(&'a Value),
}

/// What of a schema has to be compared with others.
fn weight(part: &Fields) -> usize {
    let properties = part.get("properties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    1 + properties + part.get("enum").and_then(Value::as_array).map_or(0, Vec::len)
}

fn is_object(part: &Fields) -> bool {
    part.contains_key("properties") || part.get("type").is_some_and(|name| name == "object")
}

impl<'a> Converter<'a> {
    pub(super) fn object(&mut self, fields: &'a Fields) -> Result<String, SchemaError> {
        let followed = ["type", "properties", "required", "additionalProperties"];
        self.only(fields, Some(About::Object), &followed)?;
        let mut properties = Vec::new();
        self.properties(fields, false, &mut properties)?;
        self.require(fields, &mut properties)?;
        let others = match fields.get("additionalProperties") {
            Some(Value::Bool(false)) => Others::None,
            Some(Value::Object(schema)) if !schema.is_empty() => Others::Like(&fields["additionalProperties"]),
            Some(Value::Bool(true) | Value::Object(_)) => Others::Any,
            Some(_) => return Err(self.wrong("additionalProperties", "must be a schema, true or false")),
            // As with llama.cpp: an object that says what it has, has nothing else.
            None if fields.contains_key("properties") => Others::None,
            None => Others::Any,
        };
        if properties.is_empty() && matches!(others, Others::Any) {
            return self.primitive("object");
        }
        self.written(&properties, others)
    }

    /// Adds the properties of a schema to those that others said.
    fn properties(&self, fields: &'a Fields, required: bool, all: &mut Vec<Property<'a>>) -> Result<(), SchemaError> {
        let Some(properties) = fields.get("properties") else { return Ok(()) };
        let own = properties.as_object().ok_or_else(|| self.wrong("properties", "must be an object"))?;
        for (name, schema) in own {
            if name.len() > self.limits.name {
                return Err(self.limit(name, "bytes of a name", self.limits.name));
            }
            match all.iter_mut().find(|known| known.name == name) {
                Some(known) if std::ptr::eq(known.schema, schema) || known.schema == schema => {
                    known.required |= required
                }
                Some(_) => return Err(self.wrong("allOf", "says two things about one property")),
                None => all.push(Property { name, schema, required }),
            }
            if all.len() > self.limits.members {
                return Err(self.limit("properties", "properties", self.limits.members));
            }
        }
        Ok(())
    }

    fn require(&self, fields: &Fields, all: &mut [Property<'a>]) -> Result<(), SchemaError> {
        let Some(names) = fields.get("required") else { return Ok(()) };
        let names = names.as_array().ok_or_else(|| self.wrong("required", "must be a list of names"))?;
        for name in names {
            let name = name.as_str().ok_or_else(|| self.wrong("required", "must be a list of names"))?;
            match all.iter_mut().find(|property| property.name == name) {
                Some(property) => property.required = true,
                None => return Err(self.wrong("required", "has a name that `properties` has not")),
            }
        }
        Ok(())
    }

    fn written(&mut self, properties: &[Property<'a>], others: Others<'a>) -> Result<String, SchemaError> {
        let mut all = Vec::with_capacity(properties.len());
        for Property { name, schema, required } in properties {
            let value = self.inside(&["properties", name], schema)?;
            all.push(Member { name: (*name).to_owned(), value, required: *required });
        }
        let others = match others {
            Others::None => None,
            Others::Any => Some(self.primitive("value")?),
            Others::Like(schema) => Some(self.inside(&["additionalProperties"], schema)?),
        };
        let body = members::object(&mut self.grammar, &all, others.as_deref());
        let body = self.full("properties", body)?;
        self.add("properties", body)
    }

    /// What all of several schemas say: of one object, what each says of it; of values, those that are in all lists. As
    /// with llama.cpp, the properties of all of them are required, and optional where `anyOf` stands between.
    pub(super) fn all_of(&mut self, fields: &'a Fields) -> Result<String, SchemaError> {
        self.only(fields, None, &["allOf", "type", "required"])?;
        let Some(list) = fields.get("allOf") else { return Err(self.wrong("allOf", "must be a list")) };
        let list = self.list("allOf", list)?;
        let mut parts = Vec::new();
        for schema in list {
            self.part(schema, &mut parts)?;
        }
        self.spend(parts.iter().map(|&(part, _)| weight(part)).sum())?;
        let values = |fields: &'a Fields| match (fields.get("const"), fields.get("enum").and_then(Value::as_array)) {
            (Some(value), _) => Some(std::slice::from_ref(value)),
            (None, Some(values)) => Some(&values[..]),
            (None, None) => None,
        };
        let lists: Vec<&[Value]> = parts.iter().filter_map(|&(part, _)| values(part)).collect();
        if let [first, others @ ..] = &lists[..] {
            if lists.len() != parts.len() || parts.iter().any(|(_, required)| !required) {
                return Err(self.wrong("allOf", "joins values with what is no list of values"));
            }
            for (part, _) in &parts {
                self.only(part, None, &["enum", "const", "type"])?;
            }
            let in_all = first.iter().filter(|value| others.iter().all(|list| list.contains(value)));
            let texts: Vec<String> = in_all.map(|value| Grammar::literal(&value.to_string())).collect();
            if texts.is_empty() {
                return Err(self.wrong("allOf", "leaves no value: its lists have none in common"));
            }
            if texts.len() > self.limits.members {
                return Err(self.limit("allOf", "entries", self.limits.members));
            }
            return self.add("allOf", texts.join(" | "));
        }
        // One alone may be anything.
        if let ([schema], [(part, true)]) = (list, &parts[..])
            && !is_object(part)
            && !fields.contains_key("required")
        {
            return self.beside(&["allOf", "0"], schema);
        }
        let mut properties = Vec::new();
        for &(part, required) in &parts {
            if part.iter().all(|(keyword, value)| about(keyword, value) == About::Note) {
                continue;
            }
            if !is_object(part) {
                return Err(self.wrong("allOf", "joins what are no objects with `properties`"));
            }
            self.only(part, Some(About::Object), &["type", "properties", "required", "additionalProperties"])?;
            self.properties(part, required, &mut properties)?;
        }
        self.require(fields, &mut properties)?;
        self.written(&properties, Others::None)
    }

    /// The schemas that one of `allOf` stands for, and whether what it has is required.
    fn part(&self, schema: &'a Value, parts: &mut Vec<(&'a Fields, bool)>) -> Result<(), SchemaError> {
        let fields = self.followed(schema)?;
        let ways = if schema.get("$ref").is_none() { fields.get("anyOf").or(fields.get("oneOf")) } else { None };
        let Some(ways) = ways else {
            parts.push((fields, true));
            return Ok(());
        };
        self.only(fields, None, &[if fields.contains_key("anyOf") { "anyOf" } else { "oneOf" }])?;
        for way in self.list("anyOf", ways)? {
            parts.push((self.followed(way)?, false));
        }
        if parts.len() > self.limits.members {
            return Err(self.limit("allOf", "entries", self.limits.members));
        }
        Ok(())
    }

    /// A schema behind any number of references.
    fn followed(&self, schema: &'a Value) -> Result<&'a Fields, SchemaError> {
        let (mut at, mut seen) = (schema, Vec::new());
        for _ in 0..self.limits.depth {
            let fields = at.as_object().ok_or_else(|| self.wrong("allOf", "must be a list of schemas"))?;
            let Some(to) = fields.get("$ref") else { return Ok(fields) };
            self.only(fields, None, &["$ref"])?;
            let to = to.as_str().ok_or_else(|| self.wrong("$ref", "must be a text"))?;
            at = self.resolve(to)?;
            let place = std::ptr::from_ref(at).addr();
            if seen.contains(&place) {
                return Err(SchemaError::Circle { path: self.path(), to: shown(to) });
            }
            seen.push(place);
        }
        Err(self.limit("$ref", "references in a row", self.limits.depth))
    }
}
