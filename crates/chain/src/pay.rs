//! What work is worth: claimed tokens × reference floating-point operations per token, in integers.

use base::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use swarm::Closed;

/// Reference operations of training on one loss-bearing token: 6 for each parameter of a matrix product
/// (the input embedding is none), and causal attention at the run's length. `None` when `config` is no
/// Llama configuration or its numbers are impossible.
///
/// Every node must come to the same number, so the parser of JSON is a part of the rules: a configuration is at most
/// 64 KiB by the rules of runs, nested at most 128 deep by the parser's; of a name that is there twice the last one
/// counts; a number counts only where it is written as an integer. A parser that differs in this is another chain.
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
    let product = |factors: &[u128]| factors.iter().fold(1u128, |all, factor| all.saturating_mul(*factor));
    let sum = |terms: &[u128]| terms.iter().fold(0u128, |all, term| all.saturating_add(*term));
    let attention = sum(&[product(&[2, hidden, heads, head]), product(&[2, hidden, kv_heads, head])]);
    let layer = sum(&[attention, product(&[3, hidden, inner])]);
    let matrices = sum(&[product(&[layers, layer]), product(&[hidden, vocab])]);
    // Scores and their sums over half the length on average, twice two operations, three passes.
    let causal = product(&[6, layers, heads, head, u128::from(seq_len)]);
    u64::try_from(sum(&[product(&[6, matrices]), causal])).ok()
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
    for (by, tokens) in units(closed) {
        let sum = counted.entry(by).or_default();
        *sum = sum.saturating_add(tokens);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_the_matrices_and_of_attention() {
        let config = r#"{"hidden_size":4,"intermediate_size":8,"num_hidden_layers":2,"num_attention_heads":2,
            "num_key_value_heads":1,"vocab_size":16}"#;
        // Per layer q 16, k 8, v 8, o 16, three of 32: 144; twice, and the head of 64: 352.
        assert_eq!(reference_flops(config, 10), Some(6 * 352 + 6 * 2 * 4 * 10));
        assert_eq!(reference_flops("{}", 10), None);
        assert_eq!(reference_flops("", 10), None);
        assert_eq!(reference_flops(&config.replace(":4,", ":0,"), 10), None);
        // The parser's own rules are a part of the chain's: the last of two counts, 4.0 is no integer, 128 levels.
        let twice = config.replacen('{', r#"{"hidden_size":9,"#, 1);
        assert_eq!(reference_flops(&twice, 10), reference_flops(config, 10));
        assert_eq!(reference_flops(&config.replace(":4,", ":4.0,"), 10), None);
        assert_eq!(reference_flops(&config.replace(":4,", ":4e0,"), 10), None);
        let nested = |n: usize| config.replacen('{', &format!(r#"{{"x":{}{},"#, "[".repeat(n), "]".repeat(n)), 1);
        assert_eq!(reference_flops(&nested(126), 10), reference_flops(config, 10));
        assert_eq!(reference_flops(&nested(128), 10), None);
    }
}
