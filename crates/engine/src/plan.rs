//! What goes into the next pass over the model, and in which slot a prompt is begun: pure decisions.

use crate::Client;

/// What a slot has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing.
    Idle,
    /// So many tokens of a prompt are to be read.
    Prompt(usize),
    /// One token follows the other.
    Decode,
}

/// Tokens of a question whose own probabilities are asked for that one pass reads: each takes a row as long as the vocabulary,
/// which stays taken, and the time of all others to go through.
pub(crate) const ECHO_ROWS: usize = 32;
/// The longest piece of a prompt that is read in one pass.
pub(crate) const CHUNK_MAX: usize = 512;
const CHUNK_MIN: usize = 16;
/// A pass takes about this long at most while somebody writes, so that nobody waits longer for a word; and while nobody
/// does, so that nobody waits longer for a cancel.
const WRITING_MS: f64 = 120.0;
const READING_MS: f64 = 200.0;
/// A second prompt joins a pass with no smaller piece than this: the model is gone through once more for it.
const PIECE_MIN: usize = 32;

/// How many tokens of prompts one pass reads at a measured rate.
pub(crate) fn chunk(slots: &[Work], tokens_per_s: f64) -> usize {
    let ms = if slots.contains(&Work::Decode) { WRITING_MS } else { READING_MS };
    let fits = (tokens_per_s * ms / 1e3) as usize;
    // Whole multiples keep the kernels busy.
    (fits / CHUNK_MIN * CHUNK_MIN).clamp(CHUNK_MIN, CHUNK_MAX)
}

/// Tokens that each slot puts into the next pass: one of everybody who writes, and of those who read a prompt as much as
/// fits into `chunk`, beginning behind the slot that was served last.
pub(crate) fn pass(slots: &[Work], chunk: usize, last: usize) -> Vec<usize> {
    let mut out: Vec<usize> = slots.iter().map(|work| usize::from(*work == Work::Decode)).collect();
    let mut room = chunk;
    let mut first = true;
    for i in (1..=slots.len()).map(|k| (last + k) % slots.len().max(1)) {
        if let Work::Prompt(left) = slots[i]
            && (first || left.min(room) >= PIECE_MIN)
        {
            out[i] = left.min(room);
            room -= out[i];
            first = false;
        }
    }
    out
}

/// What an idle slot still holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Whose it is.
    pub(crate) client: Option<Client>,
    /// Tokens that were read or written there.
    pub(crate) tokens: Vec<i32>,
    /// When it was used last.
    pub(crate) used: u64,
}

/// The idle slot for a prompt of `client`, and how many of its tokens are there already: the one with the longest common
/// beginning of the same client, never another's; else the one that was idle longest. At least one token is left to read.
pub(crate) fn place<'a>(
    idle: impl Iterator<Item = (usize, &'a Held)>,
    client: &Client,
    prompt: &[i32],
) -> Option<(usize, usize)> {
    let common = |held: &Held| {
        if held.client.as_ref() != Some(client) {
            return 0;
        }
        let same = held.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        same.min(prompt.len().saturating_sub(1))
    };
    idle.map(|(i, held)| (common(held), std::cmp::Reverse(held.used), i)).max().map(|(common, _, i)| (i, common))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chunk_fits_into_a_moment() {
        assert_eq!(chunk(&[Work::Idle], 0.0), CHUNK_MIN);
        assert_eq!(chunk(&[Work::Prompt(9)], 1_000.0), 192);
        assert_eq!(chunk(&[Work::Prompt(9), Work::Decode], 1_000.0), 112);
        assert_eq!(chunk(&[Work::Idle], 1e9), CHUNK_MAX);
    }

    #[test]
    fn a_beginning_is_shared_by_one_client_only() {
        let (one, two) = (Client([1; 32]), Client([2; 32]));
        let slots = [
            Held { client: Some(one), tokens: vec![1, 2, 3, 4], used: 5 },
            Held { client: Some(two), tokens: vec![1, 2, 9], used: 1 },
            Held::default(),
        ];
        let idle = || slots.iter().enumerate();
        assert_eq!(place(idle(), &one, &[1, 2, 3, 7]), Some((0, 3)));
        assert_eq!(place(idle(), &one, &[1, 2, 3, 4]), Some((0, 3)), "the last one is read again");
        assert_eq!(place(idle(), &two, &[1, 2, 3, 4]), Some((1, 2)));
        assert_eq!(place(idle(), &Client([3; 32]), &[1, 2, 3, 4]), Some((2, 0)));
        assert_eq!(place(std::iter::empty(), &one, &[1]), None);
    }

    proptest! {
        #[test]
        fn who_writes_is_never_stalled_and_prompts_share_what_is_left(
            works in prop::collection::vec(prop_oneof![Just(Work::Idle), (1usize..2000).prop_map(Work::Prompt), Just(Work::Decode)], 1..12),
            budget in 1usize..600, last in 0usize..12,
        ) {
            let out = pass(&works, budget, last);
            let mut prompts = 0;
            for (work, n) in works.iter().zip(&out) {
                match work {
                    Work::Idle => prop_assert_eq!(*n, 0),
                    Work::Decode => prop_assert_eq!(*n, 1),
                    Work::Prompt(left) => { prop_assert!(n <= left); prompts += n; }
                }
            }
            let asked: usize = works.iter().map(|w| if let Work::Prompt(n) = w { *n } else { 0 }).sum();
            prop_assert!(prompts <= budget && (prompts > 0) == (asked > 0), "some prompt goes on in every pass");
        }
    }
}
