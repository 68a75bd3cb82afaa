//! The members of an object in their order.

use super::write::{Full, Grammar, PLAIN_NOT, in_class};
use serde_json::Value;
use std::collections::BTreeMap;

/// A property whose value has a rule already.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) required: bool,
}

/// The body of an object: what is required, then what is optional, each in the order of the schema, then what is named
/// nowhere, whose values have the rule `others`.
pub(super) fn object(grammar: &mut Grammar, members: &[Member], others: Option<&str>) -> Result<String, Full> {
    grammar.primitive("space")?;
    let mut required = Vec::new();
    // Rule of the member, and whether any number of it may follow.
    let mut optional = Vec::new();
    for member in members {
        let name = Grammar::literal(&quoted(&member.name));
        let rule = grammar.add(format!("{name} space \":\" space {}", member.value))?;
        if member.required { required.push(rule) } else { optional.push((rule, false)) }
    }
    if let Some(value) = others {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let key = match names.is_empty() {
            true => grammar.primitive("string")?.to_owned(),
            false => none_of(grammar, &names)?,
        };
        optional.push((grammar.add(format!("{key} \":\" space {value}"))?, true));
    }
    let required = required.join(" \",\" space ");
    let choice = choice(grammar, &optional)?;
    Ok(match (required.is_empty(), choice.is_empty()) {
        (true, true) => r#""{" space "}""#.to_owned(),
        (true, false) => format!(r#""{{" space ({choice})? space "}}""#),
        (false, true) => format!(r#""{{" space {required} space "}}""#),
        (false, false) => format!(r#""{{" space {required} ("," space ({choice}))? space "}}""#),
    })
}

/// Any of the optional members first, and of those behind it each or not.
fn choice(grammar: &mut Grammar, optional: &[(String, bool)]) -> Result<String, Full> {
    let mut firsts = Vec::new();
    // What may follow the member that is looked at: the last one is looked at first.
    let mut rest = String::new();
    for (rule, many) in optional.iter().rev() {
        let more = grammar.add(format!("\",\" space {rule}"))?;
        let (repeats, again) = if *many { (format!(" {more}*"), "*") } else { (String::new(), "?") };
        firsts.push(format!("{rule}{repeats}{rest}"));
        rest = format!(" {}", grammar.add(format!("{more}{again}{rest}"))?);
    }
    firsts.reverse();
    Ok(firsts.join(" | "))
}

/// A text as JSON writes it.
pub(super) fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Beginnings of names: what may not become one of them.
#[derive(Default)]
struct Node {
    next: BTreeMap<char, usize>,
    /// A name ends here.
    ends: bool,
}

/// A rule of the JSON texts that are none of `names`; as with llama.cpp, a beginning of a name is not among them.
fn none_of(grammar: &mut Grammar, names: &[&str]) -> Result<String, Full> {
    let mut nodes = vec![Node::default()];
    for name in names {
        let mut at = 0;
        let mut whole = true;
        for c in name.chars() {
            // What JSON has to escape is never written plainly: no text goes on beyond here.
            if c == '"' || c == '\\' || (c as u32) < 0x20 || c as u32 == 0x7F {
                whole = false;
                break;
            }
            let new = nodes.len();
            let next = *nodes[at].next.entry(c).or_insert(new);
            if next == new {
                nodes.push(Node::default());
            }
            at = next;
        }
        nodes[at].ends |= whole;
    }
    grammar.primitive("char")?;
    // A node comes behind the one it follows, so its rule is there when that one asks for it.
    let mut rules: Vec<String> = vec![String::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate().rev() {
        let mut ways = Vec::new();
        let mut taken = String::new();
        for (c, next) in &node.next {
            let class = in_class(*c);
            taken.push_str(&class);
            let leaf = nodes[*next].ends && nodes[*next].next.is_empty();
            ways.push(if leaf { format!("[{class}] char+") } else { format!("[{class}] {}", rules[*next]) });
        }
        if i == 0 || !node.ends || !node.next.is_empty() {
            ways.push(format!("[^{PLAIN_NOT}{taken}] char*"));
        }
        rules[i] = if ways.is_empty() { String::new() } else { grammar.add(ways.join(" | "))? };
    }
    let optional = if nodes[0].ends { "" } else { "?" };
    grammar.add(format!(r#""\"" {}{optional} "\"""#, rules[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::SchemaLimits;

    #[test]
    fn optional_members_are_written_once_each() {
        let mut grammar = Grammar::new(&SchemaLimits::default());
        let member = |name: &str, required| Member { name: name.into(), value: "number".into(), required };
        let body = object(&mut grammar, &[member("a", true), member("b", false), member("c", false)], None);
        assert_eq!(body.as_deref(), Ok(r#""{" space r0 ("," space (r1 r4 | r2))? space "}""#));
        let rules = grammar.finish();
        for rule in [r#"r0 ::= "\"a\"" space ":" space number"#, "r4 ::= r3?", r#"r3 ::= "," space r2"#] {
            assert!(rules.contains(rule), "{rules}");
        }
    }
}
