//! The text that the bytes of an answer's tokens come to: a provider may show that and nothing else.
//!
//! A provider signs ids and text, and a spot check reads ids. Without this, right ids with any other text would pass.

use crate::Token;
use crate::limits::{STOP_MAX, TOKEN_BYTES_MAX};
use base::Reject;

/// Text that was written and is not shown: it may become a text that ends the answer. Whole tokens wait for that.
const HELD_MAX: usize = STOP_MAX + TOKEN_BYTES_MAX;

/// Follows the text of an answer by the bytes of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendering {
    /// Whether all bytes since the beginning are known.
    known: bool,
    /// Text of these bytes that was not shown.
    held: String,
    /// The beginning of a character.
    cut: Vec<u8>,
}

impl Rendering {
    /// Of an answer whose beginning is known where it has none.
    pub(crate) fn after(written: &[i32]) -> Self {
        Self { known: written.is_empty(), held: String::new(), cut: Vec::new() }
    }

    /// Takes a token: the text that it shows is what the bytes so far come to.
    pub(crate) fn token(&mut self, token: &Token) -> Result<(), Reject> {
        if !self.known {
            return Ok(());
        }
        self.cut.extend_from_slice(&token.bytes);
        let whole = whole_characters(&self.cut);
        self.held += &String::from_utf8_lossy(&self.cut[..whole]);
        self.cut.drain(..whole);
        let rest = self.held.strip_prefix(&token.text).ok_or(Reject::WrongWork)?;
        if rest.len() > HELD_MAX {
            return Err(Reject::WrongShape);
        }
        self.held = rest.to_owned();
        Ok(())
    }

    /// Takes the last text: nothing of the answer is left but what one of `stops` begins.
    pub(crate) fn end(&mut self, text: &str, stops: &[String]) -> Result<(), Reject> {
        if text.len() > HELD_MAX {
            return Err(Reject::Oversized);
        }
        if !self.known {
            return Ok(());
        }
        self.held += &String::from_utf8_lossy(&std::mem::take(&mut self.cut));
        let rest = self.held.strip_prefix(text).ok_or(Reject::WrongWork)?;
        let stopped = stops.iter().any(|stop| !stop.is_empty() && rest.starts_with(stop.as_str()));
        if rest.is_empty() || stopped { Ok(()) } else { Err(Reject::CutOff) }
    }
}

/// Bytes up to the last character that is not cut off.
fn whole_characters(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match std::str::from_utf8(&bytes[at..]) {
            Ok(_) => return bytes.len(),
            Err(error) => match error.error_len() {
                // Cut off: the rest may still come.
                None => return at + error.valid_up_to(),
                // Never a character, whatever comes.
                Some(wrong) => at += error.valid_up_to() + wrong,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens as pairs of bytes and shown text, then the last text.
    fn check(tokens: &[(&[u8], &str)], last: &str, stops: &[&str], expect: Result<(), Reject>) {
        let mut rendering = Rendering::after(&[]);
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let token = |(bytes, text): &(&[u8], &str)| Token {
            text: (*text).to_owned(),
            bytes: bytes.to_vec(),
            ..Token::default()
        };
        let shown = tokens.iter().try_for_each(|said| rendering.token(&token(said)));
        assert_eq!(shown.and_then(|()| rendering.end(last, &stops)), expect, "{tokens:?} {last}");
    }

    #[test]
    fn text_that_the_bytes_do_not_come_to_is_a_lie() {
        check(&[(b"a", "a"), (b" b", " b")], "", &[], Ok(()));
        check(&[(b"a", "a"), (b" b", " c")], "", &[], Err(Reject::WrongWork));
        check(&[(b"a", "a buy")], "", &[], Err(Reject::WrongWork));
        check(&[(b"a", "a")], " buy", &[], Err(Reject::WrongWork));
        check(&[(b"a", "")], "", &[], Err(Reject::CutOff));
    }

    #[test]
    fn characters_that_come_in_pieces_are_no_lie() {
        check(&[(&[0xc3], ""), (&[0xa4], "ä")], "", &[], Ok(()));
        check(&[(&[0xff, b'a'], "\u{fffd}a")], "", &[], Ok(()));
        check(&[(&[0xc3], "")], "\u{fffd}", &[], Ok(()));
    }

    #[test]
    fn only_a_stop_text_and_what_follows_it_is_left_out() {
        check(&[(b"one E", "one "), (b"Nd", "ENd")], "", &["END"], Ok(()));
        check(&[(b"two EN", "two "), (b"D three", "")], "", &["END"], Ok(()));
        check(&[(b"two EN", "two ")], "EN", &["END"], Ok(()));
        check(&[(b"two EN", "two ")], "", &["END"], Err(Reject::CutOff));
        check(&[(b"two", "")], "", &[""], Err(Reject::CutOff));
    }

    #[test]
    fn a_last_text_of_an_unknown_answer_is_bounded() {
        let mut rendering = Rendering::after(&[1]);
        assert_eq!(rendering.end(&"x".repeat(HELD_MAX + 1), &[]), Err(Reject::Oversized));
        assert_eq!(rendering.end("rest", &[]), Ok(()));
    }
}
