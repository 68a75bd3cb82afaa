//! Regular expressions, of which a grammar can say: literals, classes, groups, alternatives, repetitions.
//!
//! A pattern speaks of the text that JSON stands for. So a quote in it is written with a backslash, and a class that
//! has one allows both bytes.

use super::members::quoted;
use super::write::{Full, Grammar, repeated};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatternError {
    /// From here on it is not understood.
    At(usize, &'static str),
    Full(Full),
}

impl From<Full> for PatternError {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

/// Characters of a pattern: each becomes a part of a rule.
const LENGTH_MAX: usize = 1_024;
/// Groups within groups: each takes a piece of the stack here and in llama.cpp.
const DEPTH_MAX: usize = 32;
const LAST: u32 = char::MAX as u32;

/// Characters, from and to.
type Set = Vec<(u32, u32)>;

/// What a piece of a pattern becomes.
struct Piece {
    text: String,
    /// It may match nothing.
    empty: bool,
    /// How often the innermost repetition comes in the outermost.
    times: usize,
}

/// The body of a rule for the JSON texts of a pattern.
pub(super) fn pattern(grammar: &mut Grammar, text: &str, repeats: usize) -> Result<String, PatternError> {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() > LENGTH_MAX {
        return Err(PatternError::At(LENGTH_MAX, "it is too long"));
    }
    let [first @ .., last] = &chars[..] else { return Err(PatternError::At(0, "it must begin with ^ and end with $")) };
    if first.first() != Some(&'^') || *last != '$' {
        return Err(PatternError::At(0, "it must begin with ^ and end with $"));
    }
    let mut parser = Parser { grammar, chars: first, at: 1, depth: 0, repeats };
    let piece = parser.alternatives()?;
    if parser.at < first.len() {
        return Err(parser.wrong("a group ends that never began"));
    }
    Ok(format!(r#""\"" ({}) "\"""#, piece.text))
}

struct Parser<'a> {
    grammar: &'a mut Grammar,
    chars: &'a [char],
    at: usize,
    depth: usize,
    repeats: usize,
}

impl Parser<'_> {
    fn wrong(&self, why: &'static str) -> PatternError {
        PatternError::At(self.at, why)
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Result<char, PatternError> {
        let c = self.peek().ok_or_else(|| self.wrong("it ends in the middle"))?;
        self.at += 1;
        Ok(c)
    }

    /// Takes a character if it is the next one.
    fn takes(&mut self, c: char) -> bool {
        let there = self.peek() == Some(c);
        self.at += usize::from(there);
        there
    }

    /// Up to the end of the group that it is in.
    fn alternatives(&mut self) -> Result<Piece, PatternError> {
        let mut all = self.sequence()?;
        while self.takes('|') {
            let next = self.sequence()?;
            all.text = format!("{} | {}", all.text, next.text);
            all.empty |= next.empty;
            all.times = all.times.max(next.times);
        }
        Ok(all)
    }

    fn sequence(&mut self) -> Result<Piece, PatternError> {
        let mut all = Piece { text: String::new(), empty: true, times: 1 };
        while let Some(c) = self.peek().filter(|c| !matches!(c, '|' | ')')) {
            let piece = self.atom(c)?;
            let piece = self.quantified(piece)?;
            if !all.text.is_empty() && !piece.text.is_empty() {
                all.text.push(' ');
            }
            all.text.push_str(&piece.text);
            all.empty &= piece.empty;
            all.times = all.times.max(piece.times);
        }
        if all.text.is_empty() {
            // Nothing at all at the end of a rule would take the next line for its own.
            all.text.push_str(r#""""#);
        }
        Ok(all)
    }

    /// What a repetition behind it repeats: one symbol of the grammar, so that it can.
    fn atom(&mut self, c: char) -> Result<Piece, PatternError> {
        match c {
            '*' | '+' | '?' | '{' => return Err(self.wrong("there is nothing to repeat")),
            '^' | '$' => return Err(self.wrong("an anchor inside the pattern is not supported")),
            ']' | '}' => return Err(self.wrong("a bracket ends that never began")),
            _ => self.at += 1,
        }
        let text = match c {
            '(' => return self.group(),
            '[' => {
                let set = self.class()?;
                self.set(&set)?
            }
            '.' => self.set(&complement(&[(0xA, 0xA), (0xD, 0xD)]))?,
            '\\' => match &self.escape()?[..] {
                [(a, b)] if a == b => self.literal(*a)?,
                set => self.set(set)?,
            },
            c => self.literal(c as u32)?,
        };
        Ok(Piece { text, empty: false, times: 1 })
    }

    fn group(&mut self) -> Result<Piece, PatternError> {
        if self.takes('?') && !self.takes(':') {
            return Err(self.wrong("only groups without a name or a condition are supported"));
        }
        if self.depth == DEPTH_MAX {
            return Err(self.wrong("groups are nested too deeply"));
        }
        self.depth += 1;
        let piece = self.alternatives()?;
        self.depth -= 1;
        if !self.takes(')') {
            return Err(self.wrong("a group does not end"));
        }
        Ok(Piece { text: self.grammar.add(piece.text)?, ..piece })
    }

    fn quantified(&mut self, piece: Piece) -> Result<Piece, PatternError> {
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counted(piece),
            _ => return Ok(piece),
        };
        self.at += 1;
        self.repeat(piece, least, most)
    }

    fn counted(&mut self, piece: Piece) -> Result<Piece, PatternError> {
        self.at += 1;
        let low = self.count()?;
        let (least, most) = match self.takes(',') {
            true => (low.unwrap_or(0), self.count()?),
            false => (low.ok_or_else(|| self.wrong("a count is missing"))?, low),
        };
        if !self.takes('}') {
            return Err(self.wrong("a count does not end"));
        }
        if most.is_some_and(|most| most < least) {
            return Err(self.wrong("a count's end is below its beginning"));
        }
        self.repeat(piece, least, most)
    }

    /// A number of repetitions, if there is one.
    fn count(&mut self) -> Result<Option<usize>, PatternError> {
        let mut count = None;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            let next = count.unwrap_or(0) * 10 + digit as usize;
            if next > self.repeats {
                return Err(self.wrong("it is repeated too often"));
            }
            count = Some(next);
            self.at += 1;
        }
        Ok(count)
    }

    fn repeat(&mut self, piece: Piece, least: usize, most: Option<usize>) -> Result<Piece, PatternError> {
        // A lazy repetition matches the same texts.
        self.takes('?');
        if most.is_none() && piece.empty {
            return Err(self.wrong("it repeats without end what may be empty"));
        }
        // Every count of a repetition is a place of its own where an answer may be, within every count around it.
        let times = piece.times.saturating_mul(most.unwrap_or(least).max(1));
        if times > self.repeats {
            return Err(self.wrong("repetitions within repetitions are too many"));
        }
        let text = repeated(&piece.text, least, most);
        let empty = piece.empty || least == 0;
        Ok(Piece { text, empty, times })
    }

    /// What is between brackets.
    fn class(&mut self) -> Result<Set, PatternError> {
        let negated = self.takes('^');
        let mut set = Set::new();
        while !self.takes(']') {
            let from = self.member()?;
            let ranges = self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']');
            if !ranges {
                set.extend(from);
                continue;
            }
            self.at += 1;
            match (&from[..], &self.member()?[..]) {
                ([(a, same)], [(b, other)]) if a == same && b == other && a <= b => set.push((*a, *b)),
                _ => return Err(self.wrong("a range in a class has no two ends in order")),
            }
        }
        if set.is_empty() {
            return Err(self.wrong("a class is empty"));
        }
        Ok(if negated { complement(&set) } else { set })
    }

    fn member(&mut self) -> Result<Set, PatternError> {
        match self.next()? {
            '\\' => self.escape(),
            c => Ok(vec![(c as u32, c as u32)]),
        }
    }

    /// What is behind a backslash.
    fn escape(&mut self) -> Result<Set, PatternError> {
        const DIGITS: &[(u32, u32)] = &[(0x30, 0x39)];
        const WORDS: &[(u32, u32)] = &[(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)];
        const BLANKS: &[(u32, u32)] = &[(0x9, 0xD), (0x20, 0x20), (0xA0, 0xA0), (0x2028, 0x2029), (0xFEFF, 0xFEFF)];
        let one = |c: u32| Ok(vec![(c, c)]);
        match self.next()? {
            'd' => Ok(DIGITS.to_vec()),
            'w' => Ok(WORDS.to_vec()),
            's' => Ok(BLANKS.to_vec()),
            'D' => Ok(complement(DIGITS)),
            'W' => Ok(complement(WORDS)),
            'S' => Ok(complement(BLANKS)),
            't' => one(0x9),
            'n' => one(0xA),
            'v' => one(0xB),
            'f' => one(0xC),
            'r' => one(0xD),
            'x' => self.hex(2).and_then(one),
            'u' => self.hex(4).and_then(one),
            c if c.is_ascii_alphanumeric() => Err(self.wrong("what this backslash says is not supported")),
            c => one(c as u32),
        }
    }

    fn hex(&mut self, digits: usize) -> Result<u32, PatternError> {
        let mut value = 0;
        for _ in 0..digits {
            let digit = self.next()?.to_digit(16).ok_or_else(|| self.wrong("a digit of an escape is missing"))?;
            value = value * 16 + digit;
        }
        Ok(value)
    }

    /// One character as JSON has it.
    fn literal(&self, c: u32) -> Result<String, PatternError> {
        let c = char::from_u32(c).ok_or_else(|| self.wrong("half a character stands alone"))?;
        let json = quoted(c.encode_utf8(&mut [0; 4]));
        Ok(Grammar::literal(&json[1..json.len() - 1]))
    }

    /// Any character of a set as JSON has it: as it is, or behind a backslash.
    fn set(&mut self, set: &[(u32, u32)]) -> Result<String, PatternError> {
        let bare: Set = [&complement(set)[..], &[(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)]].concat();
        let bare = complement(&bare);
        let class: String =
            bare.iter().map(|(a, b)| if a == b { code(*a) } else { code(*a) + "-" + &code(*b) }).collect();
        let escapes = [(0x22, "\\\""), (0x5C, "\\\\"), (0x8, "b"), (0x9, "t"), (0xA, "n"), (0xC, "f"), (0xD, "r")];
        let has = |c: u32| set.iter().any(|(a, b)| (*a..=*b).contains(&c));
        let escaped: String = escapes.iter().filter(|(c, _)| has(*c)).map(|(_, text)| *text).collect();
        match (class.is_empty(), escaped.is_empty()) {
            (true, true) => Err(self.wrong("a class has no character that JSON can hold")),
            (false, true) => Ok(format!("[{class}]")),
            (true, false) => Ok(self.grammar.add(format!(r"[\\] [{escaped}]"))?),
            (false, false) => Ok(self.grammar.add(format!(r"[{class}] | [\\] [{escaped}]"))?),
        }
    }
}

/// A character in a class, by its number where it may mean something else.
fn code(c: u32) -> String {
    match char::from_u32(c) {
        Some(plain) if plain.is_ascii_alphanumeric() => plain.to_string(),
        _ if c < 0x80 => format!("\\x{c:02X}"),
        _ => format!("\\U{c:08X}"),
    }
}

/// All other characters.
fn complement(set: &[(u32, u32)]) -> Set {
    let mut sorted = set.to_vec();
    sorted.sort_unstable();
    let mut out = Set::new();
    let mut from = 0;
    for (a, b) in sorted {
        if a > from {
            out.push((from, a - 1));
        }
        from = from.max(b + 1);
    }
    if from <= LAST {
        out.push((from, LAST));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::SchemaLimits;

    fn read(text: &str) -> Result<String, PatternError> {
        pattern(&mut Grammar::new(&SchemaLimits::default()), text, 2_000)
    }

    #[test]
    fn patterns_become_rules() {
        assert_eq!(read("^a[0-9]{2,5}$").as_deref(), Ok(r#""\"" ("a" [0-9]{2,5}) "\"""#));
        assert_eq!(read(r"^\d+\.$").as_deref(), Ok(r#""\"" ([0-9]+ ".") "\"""#));
        assert_eq!(read("^(?:a|b)?\"$").as_deref(), Ok(r#""\"" (r0? "\\\"") "\"""#));
    }

    #[test]
    fn patterns_that_no_grammar_can_say_are_refused() {
        let wild = r"a ^ ^a ^(a$ ^a)$ ^*$ ^a$b$ ^[a$ ^[]$ ^(?=a)$ ^(?<n>a)$ ^\1$ ^\p{L}$
            ^(a{1000}){1000}$ ^a{3000}$ ^a{5,2}$ ^(a*)*$ ^((((a{0,99}){0,99}){0,99}){0,99})$
            ^\$ ^a{$ ^[z-a]$ ^]$ ^\ud800$";
        for wild in wild.split_whitespace() {
            assert!(matches!(read(wild), Err(PatternError::At(..))), "{wild}");
        }
        assert!(read(&format!("^{}a{}$", "(".repeat(33), ")".repeat(33))).is_err());
        assert!(read(&format!("^{}$", "a".repeat(2_000))).is_err());
    }
}
