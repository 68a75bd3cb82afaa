//! From tokens to text that may be shown: whole characters only, and nothing of what may become a stop string.

/// Gathers the bytes of an answer and gives out what is certain.
#[derive(Debug, Default)]
pub(crate) struct Text {
    /// Bytes that were not given out.
    held: Vec<u8>,
    stops: Vec<Vec<u8>>,
    stopped: bool,
}

impl Text {
    pub(crate) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).map(|stop| stop.as_bytes().to_vec()).collect();
        Self { stops, ..Self::default() }
    }

    /// Adds the bytes of a token; gives what can be shown. After a stop string nothing more comes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.extend_from_slice(bytes);
        let first = self.stops.iter().filter_map(|stop| find(&self.held, stop)).min();
        if let Some(at) = first {
            self.stopped = true;
            self.held.truncate(at);
            return self.rest();
        }
        // The longest end of it that a stop string begins with has to wait.
        let begun = |n: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[self.held.len() - n..]));
        let longest = self.stops.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1);
        let wait = (1..=longest.min(self.held.len())).rev().find(begun).unwrap_or(0);
        let free = self.held.len() - wait;
        let whole = whole_characters(&self.held[..free]);
        let out: Vec<u8> = self.held.drain(..whole).collect();
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Whether a stop string came.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// What is left at the end.
    pub(crate) fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
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
    use proptest::prelude::*;

    fn all(text: &mut Text, parts: &[&[u8]]) -> String {
        let mut out: String = parts.iter().map(|part| text.push(part)).collect();
        out += &text.rest();
        out
    }

    #[test]
    fn characters_come_whole() {
        let mut text = Text::new(&[]);
        assert_eq!(text.push("ä".as_bytes().split_at(1).0), "");
        assert_eq!(text.push("ä".as_bytes().split_at(1).1), "ä");
        assert_eq!(text.push(&[0xff, b'a']), "\u{fffd}a");
    }

    #[test]
    fn a_stop_string_and_what_follows_are_never_shown() {
        let mut text = Text::new(&["END".into(), "\n\n".into()]);
        assert_eq!(text.push(b"one E"), "one ");
        assert_eq!(text.push(b"Nd"), "ENd");
        assert_eq!(text.push(b" two EN"), " two ");
        assert_eq!(text.push(b"D three"), "");
        assert!(text.stopped());
        assert_eq!(text.push(b"four"), "");
        assert_eq!(text.rest(), "");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_text_is_the_same(source in "[a-cä ]{0,40}", stop in "[a-c]{1,3}", cuts: Vec<u8>) {
            let bytes = source.as_bytes();
            let mut parts = Vec::new();
            let mut at = 0;
            for cut in cuts {
                let next = (at + usize::from(cut % 4)).min(bytes.len());
                parts.push(&bytes[at..next]);
                at = next;
            }
            parts.push(&bytes[at..]);
            let expected = source.split(&stop).next().unwrap_or_default();
            prop_assert_eq!(all(&mut Text::new(std::slice::from_ref(&stop)), &parts), expected);
        }
    }
}
