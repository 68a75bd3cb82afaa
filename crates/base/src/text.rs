//! Text of others.

/// A name that others gave as it may stand in a sentence: without what steers the text around it.
pub fn plain(name: &str) -> String {
    // Of Unicode's format characters: joiners and marks of direction, line and paragraph, tags.
    let steers = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    name.chars().filter(|c| !c.is_control() && !steers(*c)).collect()
}
