//! The verdicts of the fixture are those of llama.cpp's own converter, where ours does not differ on purpose.

mod gbnf;

use gbnf::Machine;
use serde_json::Value;

#[test]
fn llama_cpps_converter_takes_and_refuses_the_same() {
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/schemas.json")).expect("JSON");
    let (mut wrong, mut compared) = (Vec::new(), 0);
    // What differs says in the fixture why.
    let same = |entry: &&Value| entry["llama"].is_null();
    for entry in fixture["schemas"].as_array().expect("a list").iter().filter(same) {
        let grammar = match llama_cpp_2::json_schema_to_grammar(&entry["schema"].to_string()) {
            Ok(grammar) => grammar,
            Err(error) => {
                wrong.push(format!("{}: {error}", entry["name"]));
                continue;
            }
        };
        let machine = Machine::new(&grammar);
        for (key, fits) in [("accepts", true), ("rejects", false)] {
            for text in entry[key].as_array().expect("a list").iter().filter_map(Value::as_str) {
                compared += 1;
                if machine.accepts(text) != fits {
                    wrong.push(format!("{}: {key} {text}\n{grammar}", entry["name"]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 600, "{compared}");
}
