//! Text for people, and text of others as it may stand in it.

/// A name that others gave as it may stand in a sentence: without what steers the text around it.
pub fn plain(name: &str) -> String {
    // Of Unicode's format characters: joiners and marks of direction, line and paragraph, tags.
    let steers = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    name.chars().filter(|c| !c.is_control() && !steers(*c)).collect()
}

/// A number with its thousands apart, `between` each two.
pub fn grouped_by(n: u64, between: char) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(between);
        }
        out.push(digit);
    }
    out
}

/// A number with thin groups.
pub fn grouped(n: u64) -> String {
    grouped_by(n, ' ')
}

/// The beginning of an id in hexadecimal, which names it among a few.
pub fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// A curve in `width` characters, each the mean of its part.
pub fn curve(values: &[f64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let width = width.min(values.len());
    let means: Vec<f64> = (0..width)
        .map(|i| {
            let part = &values[i * values.len() / width..((i + 1) * values.len() / width)];
            part.iter().sum::<f64>() / part.len() as f64
        })
        .collect();
    let (low, high) = means.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    let bar = |x: f64| BARS[(((x - low) / (high - low).max(1e-9)) * 7.0).round() as usize];
    means.into_iter().map(bar).collect()
}
