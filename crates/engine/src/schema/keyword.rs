//! The keywords that are known.

use serde_json::Value;

/// Of which type of value a keyword speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Object,
    Array,
    String,
    Number,
    /// Of null and of booleans no keyword speaks.
    Other,
    Any,
    /// Of none: it is for people.
    Note,
    Unknown,
}

pub(super) fn about(keyword: &str, value: &Value) -> About {
    match keyword {
        "properties"
        | "required"
        | "additionalProperties"
        | "patternProperties"
        | "minProperties"
        | "maxProperties"
        | "propertyNames"
        | "dependentRequired"
        | "dependentSchemas"
        | "dependencies"
        | "unevaluatedProperties" => About::Object,
        "items" | "prefixItems" | "additionalItems" | "minItems" | "maxItems" | "uniqueItems" | "contains"
        | "minContains" | "maxContains" | "unevaluatedItems" => About::Array,
        "minLength" | "maxLength" | "pattern" => About::String,
        "format" if value.as_str().is_some_and(|format| shape(format).is_none()) => About::Note,
        "format" => About::String,
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => About::Number,
        "type" | "enum" | "const" | "anyOf" | "oneOf" | "allOf" | "$ref" | "not" | "if" | "then" | "else" => About::Any,
        "title" | "description" | "default" | "example" | "examples" | "$schema" | "$id" | "id" | "$comment"
        | "$anchor" | "$defs" | "definitions" | "components" | "deprecated" | "readOnly" | "writeOnly"
        | "contentMediaType" | "contentEncoding" | "discriminator" => About::Note,
        name if name.starts_with("x-") => About::Note,
        _ => About::Unknown,
    }
}

/// Whether a keyword that is not followed excludes nothing that the grammar would write.
pub(super) fn vacuous(keyword: &str, value: &Value) -> bool {
    match keyword {
        "uniqueItems" => value == &Value::Bool(false),
        "minProperties" => value.as_u64() == Some(0),
        // Every name is a string.
        "propertyNames" => {
            value.as_object().is_some_and(|names| names.iter().all(|(key, kind)| key == "type" && kind == "string"))
        }
        _ => false,
    }
}

/// What is written for a format; none: a format is a note to people.
pub(super) fn shape(format: &str) -> Option<&'static str> {
    match format {
        "date" => Some(r#""\"" date "\"""#),
        "time" => Some(r#""\"" time "\"""#),
        "date-time" => Some(r#""\"" date "T" time "\"""#),
        "uuid" | "uuid1" | "uuid2" | "uuid3" | "uuid4" | "uuid5" => Some("uuid"),
        _ => None,
    }
}

/// A name in a message: no longer than a line.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}
