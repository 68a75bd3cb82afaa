//! Spot checks: another provider of the same weights reads an answer and says how likely each of its words was. Whoever
//! was asked at first could not know that it would be.
//!
//! What is asked at temperature 0 has to be the likeliest word each time, but for ties. What is asked at temperature 1 has to be
//! the likeliest word as often as these were likely: a sum of independent chances (Poisson binomial), compared by its
//! normal approximation.

use crate::{Ask, AskInput, Finish, Sampling, Token};
use base::Rng;

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// These weights can have written it.
    Good,
    /// Too short to say.
    Unclear,
    /// Words that these weights do not write.
    OtherWords,
    /// The likeliest words where chance was asked for, or the other way round.
    OtherChance,
    /// It was said to be at its end, and was not.
    CutOff,
    /// The question was counted differently.
    OtherCount,
    /// The text that was shown is not that of the answer's tokens.
    OtherText,
}

impl Verdict {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unclear => "unclear",
            Self::OtherWords => "other_words",
            Self::OtherChance => "other_chance",
            Self::CutOff => "cut_off",
            Self::OtherCount => "other_count",
            Self::OtherText => "other_text",
        }
    }

    /// Whether it speaks against the provider.
    pub fn is_bad(self) -> bool {
        !matches!(self, Self::Good | Self::Unclear)
    }
}

/// An answer, and what another provider says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked<'a> {
    /// What was asked.
    pub ask: &'a Ask,
    /// Why the answer ended.
    pub finish: Finish,
    /// Tokens of the question, as the first provider counted them, and as the other one did.
    pub read: (u64, u64),
    /// The text of the answer, as it was shown.
    pub text: &'a str,
    /// Each token of the answer with its bytes, its own likelihood and the likeliest in its place.
    pub scored: &'a [Token],
    /// Tokens that the other one writes behind the answer's end.
    pub more: u64,
}

/// Tokens of an answer that is checked.
const TOKENS: u64 = 64;
/// Alternatives that are told: enough to know the likeliest.
const TOP: u8 = 2;
/// Parts of questions, some ten thousand in all, so that no answer lies ready. Who knows this list can still tell a check
/// from a question; a check of what somebody really asked cannot be told.
const OPENINGS: [&str; 12] = [
    "Tell me about",
    "Write a few lines about",
    "What do people mean by",
    "Explain in simple words",
    "Give me an example of",
    "Why do we need",
    "What is the history of",
    "Help me to understand",
    "Describe",
    "What should I know about",
    "Give me three facts about",
    "What was hard about",
];
const SUBJECTS: [&str; 24] = [
    "neighbours",
    "the sea",
    "bread",
    "old books",
    "a bridge",
    "winter",
    "a good teacher",
    "the night sky",
    "bees",
    "a small town",
    "honesty",
    "a long journey",
    "the first steam engines",
    "an orchard",
    "maps",
    "a village school",
    "letters",
    "the law",
    "glass",
    "a doctor's work",
    "rivers",
    "horses",
    "the making of paper",
    "a lighthouse",
];
const FOR: [&str; 10] = [
    "",
    " for a child",
    " for a friend who is ill",
    " as a sailor would see it",
    " in the last century",
    " in a cold country",
    " for my speech tomorrow",
    " from the point of view of a farmer",
    " for somebody in a hurry",
    " in the words of an old man",
];
const MANNERS: [&str; 6] = [
    "",
    " Be brief.",
    " Use no long words.",
    " Begin with an example.",
    " Say what is doubtful.",
    " End with a question.",
];

/// A question that is asked for a check alone: greedy or by chance, as it falls.
pub fn question(model: &str, rng: &mut Rng) -> Ask {
    let mut pick = |of: &[&'static str]| of[rng.below(of.len() as u64) as usize];
    let text = format!("{} {}{}.{}", pick(&OPENINGS), pick(&SUBJECTS), pick(&FOR), pick(&MANNERS));
    let temperature = if rng.below(2) == 0 { 0.0 } else { 1.0 };
    let sampling = Sampling { temperature, seed: rng.below(1 << 32) as u32, ..Sampling::default() };
    Ask {
        model: model.to_owned(),
        input: AskInput::Text(text),
        max_tokens: Some(TOKENS),
        sampling,
        stop: Vec::new(),
        logprobs: None,
        echo: false,
    }
}

/// Whether an answer to this can be checked: its words have to be the likeliest, or left to plain chance.
pub fn checkable(ask: &Ask) -> bool {
    let Sampling { temperature, seed, .. } = ask.sampling;
    let plain = ask.sampling == Sampling { temperature, seed, ..Sampling::default() };
    // Filters change nothing of which word is the likeliest.
    let greedy = Sampling { temperature, seed, top_p: 1.0, top_k: 0, min_p: 0.0, ..ask.sampling.clone() };
    let greedy = temperature <= 0.0 && greedy == Sampling { temperature, seed, ..Sampling::default() };
    (greedy || plain && temperature == 1.0) && ask.stop.is_empty() && !ask.echo
}

/// What another provider is asked, who is given the answer of so many tokens as its own beginning.
pub fn reading(ask: &Ask, finish: Finish, tokens: usize) -> Ask {
    // Behind an end it would write nothing more.
    let max_tokens = Some(tokens as u64 + u64::from(finish == Finish::Stop));
    Ask { logprobs: Some(TOP), echo: true, max_tokens, ..ask.clone() }
}

/// An answer of fewer tokens says little.
const TOKENS_MIN: usize = 12;
/// Machines of one class round alike; of others a tie may fall otherwise. In natural logarithms of a chance.
const TIE: f32 = 0.05;
/// So many words that are not the likeliest are no ties.
const OFF: usize = 2;
/// Standard deviations from what is expected that chance does not reach: once in 300,000.
const DEVIATIONS: f64 = 4.5;

/// What a check says.
pub fn judge(checked: &Checked<'_>) -> Verdict {
    if checked.read.0 != checked.read.1 {
        return Verdict::OtherCount;
    }
    let bytes: Vec<u8> = checked.scored.iter().flat_map(|token| token.bytes.iter().copied()).collect();
    if String::from_utf8_lossy(&bytes) != checked.text {
        return Verdict::OtherText;
    }
    let greedy = checked.ask.sampling.temperature <= 0.0;
    if greedy && checked.finish == Finish::Stop && checked.more > 0 {
        return Verdict::CutOff;
    }
    let known = checked.scored.iter().filter_map(|token| Some((token.logprob?, token.top.first()?.1)));
    let known: Vec<(f32, f32)> = known.collect();
    if greedy {
        let off = known.iter().filter(|(own, best)| best - own > TIE).count();
        return match () {
            () if off >= OFF => Verdict::OtherWords,
            () if known.len() < TOKENS_MIN => Verdict::Unclear,
            () => Verdict::Good,
        };
    }
    if known.len() < TOKENS_MIN {
        return Verdict::Unclear;
    }
    let (mut hits, mut expected, mut variance) = (0.0, 0.0, 0.0);
    for (own, best) in known {
        let chance = f64::from(best).exp().min(1.0);
        hits += f64::from(u8::from(best - own <= f32::EPSILON));
        expected += chance;
        variance += chance * (1.0 - chance);
    }
    let deviations = (hits - expected) / variance.max(0.25).sqrt();
    match deviations {
        d if d > DEVIATIONS => Verdict::OtherChance,
        d if d < -DEVIATIONS => Verdict::OtherWords,
        _ => Verdict::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_tokens_with_other_text_are_a_lie() {
        let ask =
            Ask { sampling: Sampling { temperature: 0.0, ..Sampling::default() }, ..question("m", &mut Rng::new(1)) };
        let token = |i: usize| Token {
            id: i as i32,
            bytes: format!("{i} ").into_bytes(),
            logprob: Some(-0.1),
            top: vec![(Vec::new(), -0.1)],
            ..Token::default()
        };
        let scored: Vec<Token> = (0..TOKENS_MIN).map(token).collect();
        let right: String = (0..TOKENS_MIN).map(|i| format!("{i} ")).collect();
        let verdict = |text: &str| {
            judge(&Checked { ask: &ask, finish: Finish::Length, read: (3, 3), text, scored: &scored, more: 0 })
        };
        assert_eq!(verdict(&right), Verdict::Good);
        assert_eq!(verdict(&right.replacen('1', "2", 1)), Verdict::OtherText);
        assert_eq!(verdict(&format!("{right}buy this")), Verdict::OtherText);
    }
}
