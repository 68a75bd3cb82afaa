//! How the next token is chosen.

use crate::Refusal;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;
use serde_json::Value;

/// The parameters of the choice; the default is what the model itself says (temperature 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 = always the likeliest.
    pub temperature: f32,
    /// Of the likeliest tokens, those that make up so much probability.
    pub top_p: f32,
    /// The so many likeliest; 0 = all.
    pub top_k: i32,
    /// Those that are so likely in proportion to the likeliest.
    pub min_p: f32,
    /// Taken off the logit of a token for every time that it was written.
    pub frequency_penalty: f32,
    /// Taken off once if it was.
    pub presence_penalty: f32,
    /// Its logit is divided by this if it was; 1 = off.
    pub repetition_penalty: f32,
    /// Added to logits.
    pub logit_bias: Vec<(i32, f32)>,
    /// The same seed and request give the same answer, on the same machine.
    pub seed: u32,
    /// What the answer has to look like.
    pub format: Format,
}

/// The shape of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Format {
    /// Anything.
    #[default]
    Free,
    /// JSON that fits a schema (JSON Schema).
    Schema(serde_json::Value),
    /// A grammar (GBNF) with the start `root`.
    Grammar(String),
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            format: Format::Free,
        }
    }
}

/// The choice of one answer.
pub(crate) struct Sampler {
    chain: LlamaSampler,
    grammar: Option<LlamaSampler>,
    /// Nothing but the likeliest is ever asked for.
    plain: bool,
}

/// A schema is at most so long: the grammar of a longer one takes seconds to make.
const SCHEMA_MAX: usize = 1 << 16;

impl Sampler {
    pub(crate) fn new(
        model: &LlamaModel,
        sampling: &Sampling,
        max_tokens: usize,
        written: &[i32],
    ) -> Result<Self, Refusal> {
        let vocabulary = model.n_vocab();
        let format = |text: String| Refusal::Format(text);
        let grammar = match &sampling.format {
            Format::Free => None,
            Format::Grammar(text) => Some(text.clone()),
            Format::Schema(schema) if !tame(schema, 0) => {
                return Err(format(
                    "it refers to references, or has names, lists or patterns that grow without bound".into(),
                ));
            }
            Format::Schema(schema) => {
                let text = schema.to_string();
                if text.len() > SCHEMA_MAX {
                    return Err(format(format!("it has {} bytes, more than {SCHEMA_MAX}", text.len())));
                }
                let grammar = llama_cpp_2::json_schema_to_grammar(&text);
                Some(grammar.map_err(|error| format(error.to_string()))?)
            }
        };
        if grammar.as_deref().is_some_and(inverted) {
            return Err(format("a lower bound is above its upper bound".into()));
        }
        let grammar =
            grammar.map(|text| LlamaSampler::grammar(model, &text, "root").map_err(|e| format(e.to_string())));
        let grammar = grammar.transpose()?;
        let mut links = Vec::new();
        if let Some((wrong, _)) = sampling.logit_bias.iter().find(|(id, _)| !(0..vocabulary).contains(id)) {
            return Err(Refusal::Bias(*wrong));
        }
        if !sampling.logit_bias.is_empty() {
            let bias = sampling.logit_bias.iter().map(|(id, bias)| LlamaLogitBias::new(LlamaToken(*id), *bias));
            links.push(LlamaSampler::logit_bias(vocabulary, &bias.collect::<Vec<_>>()));
        }
        let penalties = [sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty - 1.0];
        if penalties.iter().any(|penalty| *penalty != 0.0) {
            links.push(LlamaSampler::penalties(
                vocabulary,
                i32::try_from(max_tokens).unwrap_or(i32::MAX),
                sampling.repetition_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            ));
        }
        let plain = links.is_empty() && sampling.temperature <= 0.0;
        if sampling.temperature <= 0.0 {
            links.push(LlamaSampler::greedy());
        } else {
            if sampling.top_k > 0 {
                links.push(LlamaSampler::top_k(sampling.top_k));
            }
            if sampling.top_p < 1.0 {
                links.push(LlamaSampler::top_p(sampling.top_p, 1));
            }
            if sampling.min_p > 0.0 {
                links.push(LlamaSampler::min_p(sampling.min_p, 1));
            }
            links.push(LlamaSampler::temp(sampling.temperature));
            // Who goes on in the middle draws other numbers than at the beginning.
            links.push(LlamaSampler::dist(sampling.seed.wrapping_add(written.len() as u32)));
        }
        let mut sampler = Self { chain: LlamaSampler::chain_simple(links), grammar, plain };
        for token in written.iter().map(|id| LlamaToken(*id)) {
            // A grammar that is given what it does not allow ends the process.
            if model.vocab().is_eog(token) || !sampler.allowed(token) {
                return Err(format("the beginning of the answer does not fit".into()));
            }
            sampler.took(token);
        }
        Ok(sampler)
    }

    /// Chooses a token by its logits; `None` when the grammar allows none.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Option<LlamaToken> {
        if self.plain {
            let likeliest = LlamaToken(argmax(logits));
            if self.allowed(likeliest) {
                self.took(likeliest);
                return Some(likeliest);
            }
        }
        let mut all = candidates(logits);
        // To ask the grammar about every token takes far longer than to ask about the one that is chosen.
        self.chain.apply(&mut all);
        let mut token = all.selected_token()?;
        if !self.allowed(token) {
            let grammar = self.grammar.as_mut()?;
            let mut all = candidates(logits);
            grammar.apply(&mut all);
            all.data.retain(|candidate| candidate.logit().is_finite());
            if all.data.is_empty() {
                return None;
            }
            self.chain.apply(&mut all);
            token = all.selected_token()?;
        }
        self.took(token);
        Some(token)
    }

    /// Whether the grammar goes on with a token.
    fn allowed(&mut self, token: LlamaToken) -> bool {
        let Some(grammar) = &mut self.grammar else { return true };
        let mut one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 1.0, 0.0)], false);
        grammar.apply(&mut one);
        one.data.first().is_some_and(|candidate| candidate.logit().is_finite())
    }

    fn took(&mut self, token: LlamaToken) {
        self.chain.accept(token);
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token);
        }
    }
}

/// Names and references of a schema, properties of an object, and how deep it may go: what llama.cpp does with more takes
/// its stack or its time.
const NAME_MAX: usize = 128;
const PROPERTIES_MAX: usize = 256;
const DEPTH_MAX: usize = 32;

/// Whether a schema can be made into a grammar in bounded time and space.
fn tame(schema: &Value, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    match schema {
        Value::Array(items) => items.len() <= PROPERTIES_MAX && items.iter().all(|item| tame(item, depth + 1)),
        Value::Object(fields) => {
            let plain = |(key, value): (&String, &Value)| {
                let bounded = match (key.as_str(), value) {
                    ("$ref", Value::String(to)) => to.len() <= NAME_MAX,
                    // A repeated group multiplies with every one around it.
                    ("pattern", Value::String(pattern)) => {
                        let groups = [")*", ")+", "){", ")?"];
                        pattern.len() <= 4 * NAME_MAX && !groups.iter().any(|group| pattern.contains(group))
                    }
                    _ => true,
                };
                bounded && key.len() <= NAME_MAX && tame(value, depth + 1)
            };
            // A definition that is nothing but a reference may lead back to itself.
            let definitions = ["$defs", "definitions"].iter().filter_map(|key| fields.get(*key)?.as_object());
            let circles = definitions.flat_map(|all| all.values()).any(|one| one.get("$ref").is_some());
            fields.len() <= PROPERTIES_MAX && !circles && fields.iter().all(plain)
        }
        _ => true,
    }
}

/// Whether a grammar repeats something at least `m` and at most fewer times, which llama.cpp would try for ever.
fn inverted(grammar: &str) -> bool {
    let bounds = grammar.split('{').skip(1).filter_map(|rest| rest.split_once('}')?.0.split_once(','));
    let mut numbers =
        bounds.filter_map(|(low, high)| Some((low.trim().parse::<u64>().ok()?, high.trim().parse::<u64>().ok()?)));
    numbers.any(|(low, high)| high < low)
}

fn candidates(logits: &[f32]) -> LlamaTokenDataArray {
    LlamaTokenDataArray::from_iter(
        (0..).zip(logits).map(|(id, logit)| LlamaTokenData::new(LlamaToken(id), *logit, 0.0)),
        false,
    )
}

fn argmax(logits: &[f32]) -> i32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    best.0
}

/// Natural logarithms of probabilities: of `token`, and of the `count` likeliest.
pub(crate) fn logprobs(logits: &[f32], token: i32, count: usize) -> (f32, Vec<(i32, f32)>) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    let log = |logit: f32| (f64::from(logit - highest) - sum.ln()) as f32;
    let mut order: Vec<i32> = (0..i32::try_from(logits.len()).unwrap_or(i32::MAX)).collect();
    let key = |id: &i32| std::cmp::Reverse(ordered(logits[*id as usize]));
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by_key(count, key);
    }
    order.truncate(count);
    order.sort_by_key(key);
    let top = order.into_iter().map(|id| (id, log(logits[id as usize]))).collect();
    (logits.get(token as usize).map_or(f32::NEG_INFINITY, |logit| log(*logit)), top)
}

/// Floats in their order, as integers.
fn ordered(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_that_grow_without_bound_are_not_tried() {
        use serde_json::json;
        let definitions =
            json!({ "properties": { "a": { "$ref": "#/$defs/A" } }, "$defs": { "A": { "type": "integer" } } });
        assert!(tame(&definitions, 0));
        assert!(tame(&json!({ "type": "string", "pattern": "^[a-z]{2,5}$" }), 0));
        for wild in [
            json!({ "allOf": [{ "$ref": "#/$defs/A" }], "$defs": { "A": { "$ref": "#/$defs/A" } } }),
            json!({ "properties": { "_".repeat(60_000): {} } }),
            json!({ "pattern": "^((((a{0,99}){0,99}){0,99}){0,99})$" }),
            json!({ "properties": (0..1000).map(|i| (i.to_string(), json!({}))).collect::<serde_json::Map<_, _>>() }),
        ] {
            assert!(!tame(&wild, 0));
        }
        assert!(inverted("root ::= [a-z]{5,2}") && inverted("root ::= [0-9]{18,15} \"x\""));
        assert!(!inverted("root ::= [a-z]{2,5} \"{\" [0-9]{3} [a]{3,}"));
    }

    #[test]
    fn probabilities_add_up_and_the_likeliest_come_first() {
        let logits = [0.0, 2.0, -1.0, 1.0];
        let (own, top) = logprobs(&logits, 3, 4);
        let sum: f32 = top.iter().map(|(_, log)| log.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 0, 2]);
        assert_eq!(own, top[1].1);
        assert_eq!(logprobs(&logits, 1, 0).1, []);
        assert_eq!(logprobs(&logits, 1, 2).1.len(), 2);
        assert_eq!(argmax(&logits), 1);
    }
}
