//! What work is worth: verified tokens × reference floating-point operations per token, in integers.

use base::NodeId;
use ledger::Credits;
use std::collections::{BTreeMap, BTreeSet};
use swarm::Closed;

/// Reference operations of training on one loss-bearing token: 6 for each parameter of a matrix product
/// (the input embedding is none), and causal attention at the run's length. `None` when `config` is no
/// Llama configuration or its numbers are impossible.
pub fn reference_flops(config: &str, seq_len: u32) -> Option<u64> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let get = |name: &str| config.get(name).and_then(serde_json::Value::as_u64).map(u128::from);
    let (hidden, inner, layers) = (get("hidden_size")?, get("intermediate_size")?, get("num_hidden_layers")?);
    let (heads, vocab) = (get("num_attention_heads")?, get("vocab_size")?);
    let kv_heads = get("num_key_value_heads").unwrap_or(heads);
    let head = get("head_dim").or_else(|| hidden.checked_div(heads))?;
    if [hidden, inner, layers, heads, vocab, kv_heads, head].iter().any(|n| *n == 0 || *n > 1 << 24) {
        return None;
    }
    let attention = 2 * hidden * heads * head + 2 * hidden * kv_heads * head;
    let matrices = layers * (attention + 3 * hidden * inner) + hidden * vocab;
    // Scores and their sums over half the length on average, twice two operations, three passes.
    let causal = 6 * layers * heads * head * u128::from(seq_len);
    u64::try_from(6 * matrices + causal).ok()
}

/// The units that a closed round pays, with their tokens: those that the quorum held, and the one of a
/// member alone.
pub fn units(closed: &Closed) -> Vec<(NodeId, u64)> {
    let alone = closed.plain.and_then(|(member, _)| Some((member, closed.commits.get(&member)?.tokens)));
    let set = closed.set.iter().filter(|_| alone.is_none()).map(|candidate| (candidate.member, candidate.tokens));
    set.chain(alone).filter(|(_, tokens)| *tokens > 0).collect()
}

/// What became of a member's part in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is in the set that was applied.
    Counted,
    /// It came too late, or from other weights: too few members held it.
    LeftOut,
    /// No quorum attested: what was done may count in the next round.
    Void,
    /// Nothing came.
    Missed,
}

/// What became of each member's part in a closed round, with the tokens that count: of everybody who has a unit in it or was to
/// have one, each once.
pub(crate) fn fates(closed: &Closed) -> Vec<(NodeId, u64, Fate)> {
    let mut counted: BTreeMap<NodeId, u64> = BTreeMap::new();
    units(closed).into_iter().for_each(|(by, tokens)| *counted.entry(by).or_default() += tokens);
    let planned = closed.plan.iter().map(|slot| slot.member).chain(closed.commits.keys().copied());
    let all: BTreeSet<NodeId> = planned.chain(counted.keys().copied()).collect();
    let fate = |by: NodeId| match counted.get(&by) {
        Some(tokens) => (by, *tokens, Fate::Counted),
        None if !closed.commits.contains_key(&by) => (by, 0, Fate::Missed),
        None if closed.void => (by, 0, Fate::Void),
        None => (by, 0, Fate::LeftOut),
    };
    all.into_iter().map(fate).collect()
}

/// Divides `amount` in proportion to tokens, to the last micro-credit: what rounding leaves over goes to
/// the largest remainders, the first of equals first.
pub(crate) fn divide(amount: Credits, units: &[(NodeId, u64)]) -> Vec<(NodeId, Credits)> {
    let total: u128 = units.iter().map(|(_, tokens)| u128::from(*tokens)).sum();
    if total == 0 {
        return Vec::new();
    }
    let whole = |tokens: u64| u128::from(amount.0) * u128::from(tokens) / total;
    let mut parts: Vec<(NodeId, Credits)> = units.iter().map(|(id, t)| (*id, Credits(whole(*t) as u64))).collect();
    let given: u64 = parts.iter().map(|(_, part)| part.0).sum();
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(u128::from(amount.0) * u128::from(units[i].1) % total));
    for &i in order.iter().take((amount.0 - given) as usize) {
        parts[i].1.0 += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_in_dividing() {
        let id = |i: u8| NodeId([i; 32]);
        let units = [(id(1), 3), (id(2), 2), (id(3), 2)];
        for amount in 0..200 {
            let parts = divide(Credits(amount), &units);
            assert_eq!(parts.iter().map(|(_, part)| part.0).sum::<u64>(), amount);
            for ((_, part), (_, tokens)) in parts.iter().zip(units) {
                assert!((part.0 * 7).abs_diff(amount * tokens) < 7, "{amount}: {parts:?}");
            }
        }
        assert_eq!(divide(Credits(u64::MAX), &[(id(1), u64::MAX)]), [(id(1), Credits(u64::MAX))]);
        assert!(divide(Credits(5), &[]).is_empty());
    }

    #[test]
    fn operations_are_those_of_the_matrices_and_of_attention() {
        let config = r#"{"hidden_size":4,"intermediate_size":8,"num_hidden_layers":2,"num_attention_heads":2,
            "num_key_value_heads":1,"vocab_size":16}"#;
        // Per layer q 16, k 8, v 8, o 16, three of 32: 144; twice, and the head of 64: 352.
        assert_eq!(reference_flops(config, 10), Some(6 * 352 + 6 * 2 * 4 * 10));
        assert_eq!(reference_flops("{}", 10), None);
        assert_eq!(reference_flops("", 10), None);
        assert_eq!(reference_flops(&config.replace(":4,", ":0,"), 10), None);
    }
}
