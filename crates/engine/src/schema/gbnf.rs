//! Grammars that llama.cpp may be given.
//!
//! Its parser recurses with every bracket. Its search for left recursion recurses along what stands first in each rule,
//! looks at a rule once for every way to it, and misses rules that are empty by way of others. So all this is counted
//! before.

use std::collections::HashMap;
use thiserror::Error;

/// Why a grammar is not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// It is not GBNF.
    #[error("byte {at}: {why}")]
    Syntax {
        /// Where it stops to be.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// A rule that is used and not there.
    #[error("there is no rule `{0}`")]
    Unknown(String),
    /// A rule that begins with itself, so that nothing is ever written.
    #[error("the rule `{0}` begins with itself")]
    LeftRecursion(String),
    /// More than may be.
    #[error("it has more than {1} {0}")]
    Limit(&'static str, usize),
}

/// Bytes of a grammar.
const BYTES_MAX: usize = 1 << 19;
/// Brackets within brackets.
const DEPTH_MAX: usize = 64;
/// llama.cpp's own bound of a repetition, beyond which it takes it for one without end.
const REPEATS_MAX: usize = 2_000;
/// Symbols when all repetitions are written out, as llama.cpp does.
const ELEMENTS_MAX: usize = 1 << 20;
/// Rules that begin with one another: so deep does llama.cpp recurse.
const LEFT_MAX: usize = 2_048;
/// Steps that its search for left recursion takes, and that ours does.
const STEPS_MAX: usize = 1 << 21;
/// Ways to go on at one place, through all rules that may begin there. Each is a stack of llama.cpp's, which it asks
/// about every token and compares with all others.
const WAYS_MAX: usize = 1_024;

/// A symbol and how often it comes.
struct Item {
    /// A rule by its number; none: characters.
    rule: Option<usize>,
    /// Symbols that stand for it once.
    length: usize,
    least: usize,
    most: Option<usize>,
    /// Rules that llama.cpp makes of what is in it.
    inner: usize,
}

type Rule = Vec<Vec<Item>>;

/// Looks whether a grammar can be given to llama.cpp: whether it is one, with a rule `root`, and bounded.
pub fn check(grammar: &str) -> Result<(), GrammarError> {
    if grammar.len() > BYTES_MAX {
        return Err(GrammarError::Limit("bytes", BYTES_MAX));
    }
    let mut reader = Reader { text: grammar, at: 0, depth: 0, names: HashMap::new(), rules: Vec::new(), made: 0 };
    reader.space(true);
    while reader.peek().is_some() {
        reader.rule()?;
    }
    if !reader.names.contains_key("root") {
        return Err(GrammarError::Unknown("root".into()));
    }
    let name = |i: usize| {
        let known = reader.names.iter().find(|(_, number)| **number == i);
        known.map_or_else(String::new, |(name, _)| name.chars().take(64).collect())
    };
    let mut rules = Vec::with_capacity(reader.rules.len());
    for (i, rule) in reader.rules.iter().enumerate() {
        rules.push(rule.as_ref().ok_or_else(|| GrammarError::Unknown(name(i)))?);
    }
    let elements = rules.iter().flat_map(|rule| rule.iter().flatten()).map(Item::elements);
    if elements.fold(0usize, usize::saturating_add) > ELEMENTS_MAX {
        return Err(GrammarError::Limit("symbols", ELEMENTS_MAX));
    }
    empties(&rules).and_then(|empty| left(&rules, &empty)).map_err(|error| match error {
        Left::Recursion(i) => GrammarError::LeftRecursion(name(i)),
        Left::Deep => GrammarError::Limit("rules that begin with one another", LEFT_MAX),
        Left::Many => GrammarError::Limit("ways to begin", STEPS_MAX),
        Left::Wide => GrammarError::Limit("ways to go on at one place", WAYS_MAX),
    })
}

impl Item {
    /// How many symbols llama.cpp makes of it.
    fn elements(&self) -> usize {
        let optional = self.most.map_or(1, |most| most - self.least);
        let all = self.least.saturating_mul(self.length);
        all.saturating_add(optional.saturating_mul(self.length.saturating_add(3)))
    }

    /// Whether nothing may stand for it.
    fn empty(&self, empty: &[bool]) -> bool {
        self.least == 0 || self.rule.is_some_and(|rule| empty[rule])
    }
}

/// Which rules may be empty.
fn empties(rules: &[&Rule]) -> Result<Vec<bool>, Left> {
    let mut empty = vec![false; rules.len()];
    // Who waits for a rule to be empty: each use of a rule is looked at once more when it is.
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    for (i, rule) in rules.iter().enumerate() {
        for used in rule.iter().flatten().filter_map(|item| item.rule) {
            users[used].push(i);
        }
    }
    let sizes: Vec<usize> = rules.iter().map(|rule| rule.iter().map(|way| way.len() + 1).sum()).collect();
    let (mut again, mut steps): (Vec<usize>, usize) = ((0..rules.len()).collect(), 0);
    while let Some(i) = again.pop() {
        if empty[i] {
            continue;
        }
        steps = steps.saturating_add(sizes[i]);
        if steps > STEPS_MAX {
            return Err(Left::Many);
        }
        if rules[i].iter().any(|way| way.iter().all(|item| item.empty(&empty))) {
            empty[i] = true;
            again.extend(&users[i]);
        }
    }
    Ok(empty)
}

enum Left {
    Recursion(usize),
    Deep,
    Many,
    Wide,
}

/// The ways to go on from the beginning of these symbols, and the most that there are anywhere in them. What may be
/// empty is no way of its own: what stands behind it is.
fn ways_on(items: &[Item], ways: &[usize], empty: &[bool]) -> (usize, usize) {
    items.iter().rev().fold((0, 0), |(behind, most), item| {
        let own = item.rule.map_or(1, |rule| ways[rule].saturating_mul(times(item, rule, empty)));
        let both = own.saturating_add(behind);
        // Between two of a repetition it goes on with the next one, or behind it.
        let within = if item.most == Some(1) { own } else { both };
        let here = if item.empty(empty) { both } else { own };
        (here, most.max(within).max(here))
    })
}

/// How many times in a row something may begin a rule: where each time may be empty, all of them.
fn times(item: &Item, rule: usize, empty: &[bool]) -> usize {
    if empty[rule] { item.most.unwrap_or(1).max(1) } else { 1 }
}

/// Follows what stands first in each rule: there is no way back, none is too long, and there are not too many.
fn left(rules: &[&Rule], empty: &[bool]) -> Result<(), Left> {
    // What may be empty, again and again, begins with itself wherever it stands.
    let endless = |item: &&Item| item.most.is_none() && item.rule.is_some_and(|rule| empty[rule]);
    if let Some(rule) = rules.iter().flat_map(|rule| rule.iter().flatten()).find(endless).and_then(|item| item.rule) {
        return Err(Left::Recursion(rule));
    }
    // For each rule those that it may begin with, and how many times in a row where each time may be empty.
    let mut firsts: Vec<Vec<(usize, usize)>> = vec![Vec::new(); rules.len()];
    let mut begun_by = vec![0usize; rules.len()];
    for (i, way) in rules.iter().enumerate().flat_map(|(i, rule)| rule.iter().map(move |way| (i, way))) {
        for item in way {
            if let Some(rule) = item.rule {
                firsts[i].push((rule, times(item, rule, empty)));
                begun_by[rule] += 1;
            }
            if !item.empty(empty) {
                break;
            }
        }
    }
    let mut order = Vec::with_capacity(rules.len());
    let mut free: Vec<usize> = (0..rules.len()).filter(|i| begun_by[*i] == 0).collect();
    while let Some(i) = free.pop() {
        order.push(i);
        for (first, _) in &firsts[i] {
            begun_by[*first] -= 1;
            if begun_by[*first] == 0 {
                free.push(*first);
            }
        }
    }
    if let Some(i) = begun_by.iter().position(|uses| *uses > 0) {
        return Err(Left::Recursion(i));
    }
    let (mut depth, mut steps) = (vec![1usize; rules.len()], vec![1usize; rules.len()]);
    let (mut all, mut ways) = (0usize, vec![0usize; rules.len()]);
    for i in order.into_iter().rev() {
        for (first, times) in &firsts[i] {
            // A repetition is a rule of its own.
            depth[i] = depth[i].max(depth[*first].saturating_add(1).saturating_add(*times));
            steps[i] = steps[i].saturating_add(steps[*first].saturating_add(1).saturating_mul(*times));
        }
        all = all.saturating_add(steps[i]);
        if depth[i] > LEFT_MAX {
            return Err(Left::Deep);
        }
        // Only what may stand first counts here, and that was looked at before.
        ways[i] = rules[i].iter().map(|way| ways_on(way, &ways, empty).0).fold(0, usize::saturating_add);
    }
    if all > STEPS_MAX {
        return Err(Left::Many);
    }
    let between = rules.iter().flat_map(|rule| rule.iter()).map(|way| ways_on(way, &ways, empty).1);
    if between.chain(ways.iter().copied()).any(|ways| ways > WAYS_MAX) { Err(Left::Wide) } else { Ok(()) }
}

/// Reads a grammar as llama.cpp does.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    names: HashMap<&'a str, usize>,
    rules: Vec<Option<Rule>>,
    /// Rules that llama.cpp has made so far of groups and repetitions, and names that it has met.
    made: usize,
}

impl<'a> Reader<'a> {
    fn wrong<T>(&self, why: &'static str) -> Result<T, GrammarError> {
        Err(GrammarError::Syntax { at: self.at, why })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes a text if it comes next.
    fn takes(&mut self, text: &str) -> bool {
        let there = self.text.as_bytes()[self.at..].starts_with(text.as_bytes());
        self.at += if there { text.len() } else { 0 };
        there
    }

    /// Goes on to where something that is no blank and no comment begins.
    fn space(&mut self, lines: bool) {
        let mut comment = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'\r' | b'\n' if !lines => return,
                b'\r' | b'\n' => comment = false,
                b'#' => comment = true,
                b' ' | b'\t' => {}
                _ if !comment => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn name(&mut self) -> Result<&'a str, GrammarError> {
        let rest = &self.text[self.at..];
        let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'-').count();
        if length == 0 {
            return self.wrong("the name of a rule is missing");
        }
        self.at += length;
        Ok(&rest[..length])
    }

    /// A new rule, not said yet.
    fn new_rule(&mut self) -> usize {
        self.rules.push(None);
        self.rules.len() - 1
    }

    fn number_of(&mut self, name: &'a str) -> usize {
        match self.names.get(name) {
            Some(number) => *number,
            None => {
                let number = self.new_rule();
                self.names.insert(name, number);
                self.made += 1;
                number
            }
        }
    }

    fn rule(&mut self) -> Result<(), GrammarError> {
        let name = self.name()?;
        let number = self.number_of(name);
        self.space(false);
        if !self.takes("::=") {
            return self.wrong("::= is missing");
        }
        self.space(true);
        let rule = self.alternatives()?;
        self.rules[number] = Some(rule);
        match self.peek() {
            None | Some(b'\r' | b'\n') => self.space(true),
            Some(_) => return self.wrong("this is no part of a rule"),
        }
        Ok(())
    }

    /// Calls itself for every bracket, `DEPTH_MAX` deep at most.
    fn alternatives(&mut self) -> Result<Rule, GrammarError> {
        let mut rule = vec![self.sequence()?];
        while self.takes("|") {
            self.space(true);
            rule.push(self.sequence()?);
        }
        Ok(rule)
    }

    fn sequence(&mut self) -> Result<Vec<Item>, GrammarError> {
        let mut items: Vec<Item> = Vec::new();
        // Whether there is something that a repetition may follow.
        let mut repeatable = false;
        let nested = self.depth > 0;
        while let Some(byte) = self.peek() {
            let plain = |length| Item { rule: None, length, least: 1, most: Some(1), inner: 1 };
            let item = match byte {
                b'"' => plain(self.literal()?),
                b'[' => plain(self.class()?),
                b'.' => {
                    self.at += 1;
                    plain(1)
                }
                b'(' => self.group()?,
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => {
                    let name = self.name()?;
                    Item { rule: Some(self.number_of(name)), ..plain(1) }
                }
                b'*' | b'+' | b'?' | b'{' => {
                    let (least, most) = self.counts(nested)?;
                    match items.last_mut().filter(|_| repeatable) {
                        Some(item) if (item.least, item.most) == (1, Some(1)) => {
                            self.made += repeat(item, least, most)?
                        }
                        Some(_) => return self.wrong("a repetition is repeated: put brackets around it"),
                        None => return self.wrong("there is nothing to repeat"),
                    }
                    self.space(nested);
                    continue;
                }
                b'<' | b'!' => return self.wrong("tokens by their names are not supported"),
                0 => return self.wrong("a zero byte"),
                _ => break,
            };
            // An empty text is no symbol.
            repeatable = item.length > 0;
            if repeatable {
                items.push(item);
            }
            self.space(nested);
        }
        Ok(items)
    }

    fn group(&mut self) -> Result<Item, GrammarError> {
        if self.depth == DEPTH_MAX {
            return Err(GrammarError::Limit("brackets within brackets", DEPTH_MAX));
        }
        self.at += 1;
        self.depth += 1;
        self.space(true);
        let made = self.made;
        self.made += 1;
        let number = self.new_rule();
        let rule = self.alternatives()?;
        self.rules[number] = Some(rule);
        self.depth -= 1;
        if !self.takes(")") {
            return self.wrong("a bracket does not end");
        }
        Ok(Item { rule: Some(number), length: 1, least: 1, most: Some(1), inner: self.made - made })
    }

    /// What follows a symbol: how often it comes.
    fn counts(&mut self, nested: bool) -> Result<(usize, Option<usize>), GrammarError> {
        for (sign, least, most) in [("*", 0, None), ("+", 1, None), ("?", 0, Some(1))] {
            if self.takes(sign) {
                return Ok((least, most));
            }
        }
        self.at += 1;
        self.space(nested);
        let Some(least) = self.count()? else { return self.wrong("a count is missing") };
        self.space(nested);
        let most = if self.takes(",") {
            self.space(nested);
            self.count()?
        } else {
            Some(least)
        };
        self.space(nested);
        if !self.takes("}") {
            return self.wrong("a count does not end");
        }
        if most.is_some_and(|most| most < least) {
            return self.wrong("a count's end is below its beginning");
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<Option<usize>, GrammarError> {
        let mut count = None;
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            let next = count.unwrap_or(0) * 10 + usize::from(digit - b'0');
            if next > REPEATS_MAX {
                return Err(GrammarError::Limit("repetitions", REPEATS_MAX));
            }
            count = Some(next);
            self.at += 1;
        }
        Ok(count)
    }

    fn character(&mut self) -> Result<(), GrammarError> {
        let Some(c) = self.text[self.at..].chars().next() else { return self.wrong("it ends in the middle") };
        self.at += c.len_utf8();
        if c != '\\' {
            return if c == '\0' { self.wrong("a zero byte") } else { Ok(()) };
        }
        let digits = match self.peek() {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            Some(b't' | b'r' | b'n' | b'\\' | b'"' | b'[' | b']' | b'-') => 0,
            _ => return self.wrong("what this backslash says is not known"),
        };
        self.at += 1;
        let hex = self.text.as_bytes()[self.at..].iter().take(digits).take_while(|byte| byte.is_ascii_hexdigit());
        if hex.count() < digits {
            return self.wrong("a digit of an escape is missing");
        }
        self.at += digits;
        Ok(())
    }

    fn literal(&mut self) -> Result<usize, GrammarError> {
        self.at += 1;
        let mut length = 0;
        while !self.takes("\"") {
            self.character()?;
            length += 1;
        }
        Ok(length)
    }

    fn class(&mut self) -> Result<usize, GrammarError> {
        self.at += 1;
        let negated = self.takes("^");
        let mut length = 0;
        while !self.takes("]") {
            self.character()?;
            length += 1;
        }
        // Nothing, or anything: llama.cpp makes no symbol of either.
        if length == 0 {
            self.wrong(if negated { "a class excludes nothing" } else { "a class is empty" })
        } else {
            Ok(length)
        }
    }
}

/// Sets how often a symbol comes; returns how many rules that makes.
fn repeat(item: &mut Item, least: usize, most: Option<usize>) -> Result<usize, GrammarError> {
    // llama.cpp refuses what would repeat so many rules; it has a look at the same numbers.
    if item.inner.saturating_mul(most.unwrap_or(least).max(1)) > REPEATS_MAX {
        return Err(GrammarError::Limit("repetitions of all that is in a bracket", REPEATS_MAX));
    }
    (item.least, item.most) = (least, most);
    Ok(most.map_or(1, |most| most - least))
}
