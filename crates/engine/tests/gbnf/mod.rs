//! A small interpreter of GBNF, written for tests alone: it shares no code with the engine, nor with llama.cpp.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

enum Node {
    Text(Vec<char>),
    Class(bool, Vec<(char, char)>),
    Any,
    Rule(String),
    Group(Vec<Vec<Node>>),
    Repeat(Box<Node>, usize, Option<usize>),
}

/// Where a rule ends that begins at a place.
type Known = RefCell<HashMap<(String, usize), BTreeSet<usize>>>;

/// A grammar that can be asked.
pub struct Machine {
    rules: HashMap<String, Vec<Vec<Node>>>,
}

impl Machine {
    /// Reads a grammar.
    ///
    /// # Panics
    /// When it is none.
    pub fn new(grammar: &str) -> Self {
        let mut reader = Reader { text: grammar.chars().collect(), at: 0 };
        let mut rules = HashMap::new();
        reader.space(true);
        while reader.at < reader.text.len() {
            let name = reader.name();
            reader.space(false);
            assert!(reader.takes("::="), "no rule at {}", reader.at);
            reader.space(true);
            rules.insert(name, reader.ways(false));
            assert!(reader.at == reader.text.len() || matches!(reader.text[reader.at], '\r' | '\n'), "{}", reader.at);
            reader.space(true);
        }
        Self { rules }
    }

    /// Whether a whole text is of the grammar.
    pub fn accepts(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        self.rule("root", &text, 0, &Known::default()).contains(&text.len())
    }

    fn rule(&self, name: &str, text: &[char], at: usize, known: &Known) -> BTreeSet<usize> {
        if let Some(ends) = known.borrow().get(&(name.to_owned(), at)) {
            return ends.clone();
        }
        let ways = self.rules.get(name).unwrap_or_else(|| panic!("no rule {name}"));
        let ends = self.ways(ways, text, at, known);
        known.borrow_mut().insert((name.to_owned(), at), ends.clone());
        ends
    }

    fn ways(&self, ways: &[Vec<Node>], text: &[char], at: usize, known: &Known) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        for way in ways {
            let mut ends = BTreeSet::from([at]);
            for node in way {
                ends = ends.iter().flat_map(|end| self.node(node, text, *end, known)).collect();
            }
            all.extend(ends);
        }
        all
    }

    fn node(&self, node: &Node, text: &[char], at: usize, known: &Known) -> BTreeSet<usize> {
        let one = |fits: bool| if fits { BTreeSet::from([at + 1]) } else { BTreeSet::new() };
        match node {
            Node::Text(chars) if text[at..].starts_with(chars) => BTreeSet::from([at + chars.len()]),
            Node::Text(_) => BTreeSet::new(),
            Node::Any => one(at < text.len()),
            Node::Class(negated, ranges) => one(text.get(at).is_some_and(|c| {
                let within = ranges.iter().any(|(from, to)| (*from..=*to).contains(c));
                within != *negated
            })),
            Node::Rule(name) => self.rule(name, text, at, known),
            Node::Group(ways) => self.ways(ways, text, at, known),
            Node::Repeat(inner, least, most) => {
                let mut current = BTreeSet::from([at]);
                let mut all = if *least == 0 { current.clone() } else { BTreeSet::new() };
                let mut times = 0;
                while most.is_none_or(|most| times < most) {
                    let next: BTreeSet<usize> =
                        current.iter().flat_map(|end| self.node(inner, text, *end, known)).collect();
                    times += 1;
                    let news = next.iter().any(|end| !all.contains(end));
                    if times >= *least {
                        all.extend(&next);
                    }
                    if next.is_empty() || (times > *least && !news) {
                        break;
                    }
                    current = next;
                }
                all
            }
        }
    }
}

struct Reader {
    text: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> char {
        let c = self.peek().expect("more of a grammar");
        self.at += 1;
        c
    }

    fn takes(&mut self, text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        let there = self.text[self.at..].starts_with(&chars);
        self.at += if there { chars.len() } else { 0 };
        there
    }

    fn space(&mut self, lines: bool) {
        while self.peek().is_some_and(|c| c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r')) {
            self.at += 1;
        }
    }

    fn name(&mut self) -> String {
        let from = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '-') {
            self.at += 1;
        }
        assert!(self.at > from, "no name at {from}");
        self.text[from..self.at].iter().collect()
    }

    fn ways(&mut self, nested: bool) -> Vec<Vec<Node>> {
        let mut ways = vec![self.sequence(nested)];
        while self.takes("|") {
            self.space(true);
            ways.push(self.sequence(nested));
        }
        ways
    }

    fn sequence(&mut self, nested: bool) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        while let Some(c) = self.peek() {
            let node = match c {
                '"' => self.literal(),
                '[' => self.class(),
                '.' => {
                    self.at += 1;
                    Node::Any
                }
                '(' => {
                    self.at += 1;
                    self.space(true);
                    let ways = self.ways(true);
                    assert!(self.takes(")"), "no end of a bracket at {}", self.at);
                    Node::Group(ways)
                }
                '*' | '+' | '?' | '{' => {
                    let (least, most) = self.counts();
                    let last = nodes.pop().expect("something to repeat");
                    Node::Repeat(Box::new(last), least, most)
                }
                c if c.is_ascii_alphanumeric() || c == '-' => Node::Rule(self.name()),
                _ => break,
            };
            nodes.push(node);
            self.space(nested);
        }
        nodes
    }

    fn counts(&mut self) -> (usize, Option<usize>) {
        match self.next() {
            '*' => return (0, None),
            '+' => return (1, None),
            '?' => return (0, Some(1)),
            _ => {}
        }
        let mut inside = String::new();
        while !self.takes("}") {
            inside.push(self.next());
        }
        let number = |text: &str| text.trim().parse::<usize>().ok();
        match inside.split_once(',') {
            Some((least, most)) => (number(least).expect("a count"), number(most)),
            None => (number(&inside).expect("a count"), number(&inside)),
        }
    }

    fn character(&mut self) -> char {
        let c = self.next();
        if c != '\\' {
            return c;
        }
        let digits = match self.next() {
            'n' => return '\n',
            'r' => return '\r',
            't' => return '\t',
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c => return c,
        };
        let value = (0..digits).fold(0, |value, _| value * 16 + self.next().to_digit(16).expect("a digit"));
        char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    fn literal(&mut self) -> Node {
        self.at += 1;
        let mut chars = Vec::new();
        while !self.takes("\"") {
            chars.push(self.character());
        }
        Node::Text(chars)
    }

    fn class(&mut self) -> Node {
        self.at += 1;
        let negated = self.takes("^");
        let mut ranges = Vec::new();
        while !self.takes("]") {
            let from = self.character();
            let range = self.peek() == Some('-') && self.text.get(self.at + 1) != Some(&']');
            self.at += usize::from(range);
            ranges.push((from, if range { self.character() } else { from }));
        }
        Node::Class(negated, ranges)
    }
}
