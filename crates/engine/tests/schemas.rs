//! Schemas become grammars that take what fits and nothing else, in bounded time, whatever a stranger sends.

mod gbnf;

use engine::schema::{SchemaError, SchemaLimits, check, to_grammar};
use gbnf::Machine;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn fixture() -> Value {
    serde_json::from_str(include_str!("../fixtures/schemas.json")).expect("JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no list {key} in {value}"))
}

fn grammar(schema: &Value) -> Result<String, SchemaError> {
    to_grammar(schema, &SchemaLimits::default())
}

#[test]
fn every_schema_takes_what_fits_and_nothing_else() {
    let fixture = fixture();
    let (mut wrong, mut texts) = (Vec::new(), 0);
    assert!(list(&fixture, "schemas").len() >= 200);
    for entry in list(&fixture, "schemas") {
        let grammar = match grammar(&entry["schema"]) {
            Ok(grammar) => grammar,
            Err(error) => {
                wrong.push(format!("{}: {error}", entry["name"]));
                continue;
            }
        };
        let machine = Machine::new(&grammar);
        for (key, fits) in [("accepts", true), ("rejects", false)] {
            for text in list(entry, key).iter().filter_map(Value::as_str) {
                texts += 1;
                if machine.accepts(text) != fits {
                    wrong.push(format!("{}: {key} {text}\n{grammar}", entry["name"]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(texts >= 800, "{texts}");
}

/// The name of an error's kind, as the fixture has it.
fn kind(error: &SchemaError) -> &'static str {
    match error {
        SchemaError::Unsupported { .. } => "unsupported",
        SchemaError::Wrong { .. } => "wrong",
        SchemaError::Limit { .. } => "limit",
        SchemaError::Reference { .. } => "reference",
        SchemaError::Circle { .. } => "circle",
        SchemaError::Pattern { .. } => "pattern",
        SchemaError::Grammar(_) => "grammar",
        _ => "another",
    }
}

#[test]
fn hostile_schemas_are_refused_by_name() {
    let fixture = fixture();
    let mut wrong = Vec::new();
    for entry in list(&fixture, "hostile") {
        match grammar(&entry["schema"]) {
            Err(error) => {
                let text = error.to_string();
                let named = entry["names"].as_str().is_none_or(|name| text.contains(name));
                if kind(&error) != entry["error"].as_str().expect("a kind") || !named || text.len() > 1_024 {
                    wrong.push(format!("{}: {}: {text}", entry["name"], kind(&error)));
                }
            }
            Ok(_) => wrong.push(format!("{}: it was taken", entry["name"])),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn chains_of_references_of_any_length_end() {
    let chain = |n: usize, last: Value| {
        let mut all: Map<String, Value> =
            (0..n).map(|i| (format!("d{i}"), json!({ "$ref": format!("#/$defs/d{}", i + 1) }))).collect();
        all.insert(format!("d{n}"), last);
        json!({ "$ref": "#/$defs/d0", "$defs": all })
    };
    assert!(grammar(&chain(40, json!({ "type": "null" }))).is_ok());
    for n in [64, 300, 1_800, 20_000] {
        let error = grammar(&chain(n, json!({ "type": "null" }))).expect_err("too long");
        assert!(matches!(error, SchemaError::Limit { .. }), "{error}");
    }
    let error = grammar(&chain(20, json!({ "$ref": "#/$defs/d3" }))).expect_err("a circle");
    assert!(matches!(error, SchemaError::Circle { .. }), "{error}");
}

#[test]
fn ways_that_double_with_every_definition_are_not_followed() {
    // llama.cpp's search for left recursion would take 2^25 steps for it.
    let ways = |i: usize| {
        let next = json!({ "$ref": format!("#/$defs/d{i}") });
        json!({ "anyOf": [next, { "anyOf": [next, { "const": i }] }] })
    };
    let mut all: Map<String, Value> = (0..25).map(|i| (format!("d{i}"), ways(i + 1))).collect();
    all.insert("d25".into(), json!({ "type": "null" }));
    let error = grammar(&json!({ "$ref": "#/$defs/d0", "$defs": all })).expect_err("too many");
    assert!(matches!(error, SchemaError::Grammar(_)), "{error}");
}

#[test]
fn ways_to_go_on_at_one_place_are_bounded_through_all_rules() {
    // Few values, each looked at once: the ways of a rule count wherever it may begin.
    let (values, ways) = (json!((0..200).collect::<Vec<u32>>()), json!(vec![json!({ "$ref": "#/$defs/one" }); 6]));
    let schema = |ways: &Value| json!({ "anyOf": ways, "$defs": { "one": { "enum": values } } });
    let error = grammar(&schema(&ways)).expect_err("1,200 ways");
    assert!(error.to_string().contains("ways to go on"), "{error}");
    assert!(grammar(&schema(&json!(ways.as_array().expect("a list")[..5]))).is_ok());
    let optional = |n: usize| (0..n).map(|i| format!(" a{i}?")).collect::<String>();
    let many: String = (0..40).map(|i| format!("\"{i}\" | ")).collect();
    let rules: String = (0..40).map(|i| format!("a{i} ::= {many}\"x\"\n")).collect();
    assert_eq!(check(&format!("root ::= \"y\"{}\n{rules}", optional(20))), Ok(()));
    assert!(check(&format!("root ::= \"y\"{}\n{rules}", optional(40))).is_err(), "behind the first symbol");
    // As many as an object has at most, all of them optional.
    let fields: Map<String, Value> = (0..256).map(|i| (format!("p{i}"), json!({}))).collect();
    assert!(grammar(&json!({ "properties": fields, "additionalProperties": { "type": "null" } })).is_ok());
}

#[test]
fn grammars_that_llama_cpp_does_not_survive_are_refused() {
    assert_eq!(check("root ::= [a-z]{2,5} \"{\" [0-9]{3} [a]{3,} # numbers"), Ok(()));
    assert_eq!(check("root ::= \"(\" root \")\" | \"x\""), Ok(()));
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000));
    let chain: String = (0..20_000).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect();
    let chain = format!("root ::= r0\n{chain}r20000 ::= \"a\"\n");
    let double: String = (0..40).map(|i| format!("r{i} ::= r{n} | r{n} \"x\"\n", n = i + 1)).collect();
    let double = format!("root ::= r0\n{double}r40 ::= \"a\"\n");
    let names: String = (0..15_000).map(|i| format!(" e{i}")).collect();
    let wide =
        format!("root ::={names} \"x\"\n{}", (0..15_000).map(|i| format!("e{i} ::= |\"x\"\n")).collect::<String>());
    for wild in [
        "",
        "root",
        "root ::= (",
        "a ::= \"b\"",
        "root ::= b",
        "root ::= root \"a\" | \"b\"",
        "root ::= [a-z]{5,2}",
        "root ::= [0-9]{18,15} \"x\"",
        "root ::= [a]{3000}",
        "root ::= (a a a){1500}\na ::= \"b\"",
        "root ::= (a*)*\na ::= \"b\"",
        "root ::= \"a",
        "root ::= [a",
        "root ::= []",
        "root ::= \"\\q\"",
        "root ::= *",
        "root ::= a root \"x\" | \"y\"\na ::= b\nb ::= \"z\" | \"\"",
        "root ::= <[5]>",
        "root ::= \"\0\"",
        "ro\u{e9}t ::= a",
        &deep,
        &chain,
        &double,
        &wide,
    ] {
        assert!(check(wild).is_err(), "{}", wild.chars().take(80).collect::<String>());
    }
}

#[test]
fn nothing_shipped_calls_llama_cpps_converter() {
    let files = ["src", "src/schema"].map(|dir| std::fs::read_dir(dir).expect("a folder"));
    for file in files.into_iter().flatten().map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(&file).expect("a source");
        assert!(!text.contains("json_schema_to_grammar"), "{}", file.display());
    }
}

/// JSON of the words that schemas are made of.
fn anything() -> impl Strategy<Value = Value> {
    let words = [
        "type",
        "properties",
        "required",
        "items",
        "prefixItems",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "enum",
        "const",
        "pattern",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "format",
        "additionalProperties",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "title",
        "x",
    ];
    let texts = [
        "object",
        "array",
        "string",
        "integer",
        "number",
        "boolean",
        "null",
        "#",
        "#/$defs/x",
        "#/x",
        "#/properties/x",
        "#/anyOf/0",
        "^a{2,3}$",
        "^(a|[^b-c]+)?$",
        "^((a*)*)*$",
        "date",
        "x",
        "required",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-9i64..3_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(texts.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 8, move |inner| {
        let word = prop::sample::select(words.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((word, inner), 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_refused_or_makes_a_bounded_grammar(schema in anything()) {
        let limits = SchemaLimits::default();
        if let Ok(grammar) = to_grammar(&schema, &limits) {
            prop_assert!(grammar.len() <= 2 * limits.bytes);
            prop_assert!(grammar.lines().count() <= limits.rules);
            prop_assert_eq!(check(&grammar), Ok(()));
            Machine::new(&grammar);
        }
    }

    #[test]
    fn any_text_is_a_grammar_or_refused(text in "[a-z:=|()*+?{}\\[\\]\"\\\\ \n0-9,^-]{0,200}") {
        let _ = check(&format!("root ::= {text}"));
        let _ = check(&text);
    }

    #[test]
    fn integers_between_bounds_are_those(low in -1_500i64..1_500, span in 0i64..1_500, x in -3_000i64..3_000) {
        let schema = json!({ "type": "integer", "minimum": low, "maximum": low + span });
        let machine = Machine::new(&grammar(&schema).expect("bounds"));
        prop_assert_eq!(machine.accepts(&x.to_string()), (low..=low + span).contains(&x));
    }

    #[test]
    fn integers_above_or_below_a_bound_are_those(bound in -100_000i64..100_000, x in -200_000i64..200_000) {
        for (key, fits) in [("minimum", x >= bound), ("maximum", x <= bound)] {
            let machine = Machine::new(&grammar(&json!({ "type": "integer", key: bound })).expect("a bound"));
            prop_assert_eq!(machine.accepts(&x.to_string()), fits);
        }
    }

    #[test]
    fn numbers_between_bounds_are_those(low in -50i64..50, span in 1i64..50, x in -100_000i64..100_000) {
        let schema = json!({ "type": "number", "minimum": low, "exclusiveMaximum": low + span });
        let machine = Machine::new(&grammar(&schema).expect("bounds"));
        let x = x as f64 / 1_000.0;
        prop_assert_eq!(machine.accepts(&x.to_string()), (low as f64..(low + span) as f64).contains(&x));
    }
}
