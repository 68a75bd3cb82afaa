//! How the next token is chosen.

use crate::Refusal;
use crate::schema::{self, SchemaLimits};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The parameters of the choice; the default is what the model itself says (temperature 1).
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
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
    pub format: AnswerShape,
}

/// The shape of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum AnswerShape {
    /// Anything.
    #[default]
    Free,
    /// JSON that fits a schema (JSON Schema).
    Schema(serde_json::Value),
    /// A grammar (GBNF) with the start `root`.
    Grammar(String),
}

impl Default for SamplingParams {
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
            format: AnswerShape::Free,
        }
    }
}

/// The choice of one answer.
pub(crate) struct Sampler {
    chain: LlamaSampler,
    grammar: Option<LlamaSampler>,
    /// Nothing but the likeliest is ever asked for.
    plain: bool,
    /// How long the grammar has taken so far, and for how many tokens.
    spent: Duration,
    tokens: u32,
    /// How long it may take, beside [`EACH`] for each token.
    patience: Duration,
}

/// Why a sampler is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Broken {
    /// llama.cpp did not take a token that it had allowed before.
    #[error("the sampler lost its place in the grammar")]
    Lost,
    /// The answer so far can be read in more ways than can be followed.
    #[error("the answer can be read in too many ways: say more of what each alternative begins with")]
    Slow,
}

/// What a grammar may take for a whole answer, and beside it for each of its tokens. llama.cpp follows every way to
/// read what was written: where two alternatives that begin alike hold themselves, each level doubles them. The others'
/// answers wait meanwhile, so it is the sum that counts.
const PATIENCE: Duration = Duration::from_secs(2);
const EACH: Duration = Duration::from_millis(10);
/// Tokens about which a grammar is asked between two looks at the clock.
const AT_A_TIME: usize = 1_024;

/// A schema is at most so long: what is looked at is bounded by it.
const SCHEMA_MAX: usize = 1 << 16;

impl Sampler {
    pub(crate) fn new(
        model: &LlamaModel,
        sampling: &SamplingParams,
        max_tokens: usize,
        written: &[i32],
    ) -> Result<Self, Refusal> {
        let vocabulary = model.n_vocab();
        let format = |text: String| Refusal::Format(text);
        let grammar = match &sampling.format {
            AnswerShape::Free => None,
            AnswerShape::Grammar(text) => {
                schema::check(text).map_err(|error| format(error.to_string()))?;
                Some(text.clone())
            }
            AnswerShape::Schema(schema) => {
                let length = schema.to_string().len();
                if length > SCHEMA_MAX {
                    return Err(format(format!("it has {length} bytes, more than {SCHEMA_MAX}")));
                }
                let grammar = schema::to_grammar(schema, &SchemaLimits::default());
                Some(grammar.map_err(|error| format(error.to_string()))?)
            }
        };
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
        let chain = LlamaSampler::chain_simple(links);
        let mut sampler = Self { chain, grammar, plain, spent: Duration::ZERO, tokens: 0, patience: PATIENCE };
        for token in written.iter().map(|id| LlamaToken(*id)) {
            // A grammar that is given what it does not allow ends the process.
            if model.vocab().is_eog(token) || !sampler.allowed(token) {
                return Err(format("the beginning of the answer does not fit".into()));
            }
            // A stranger's beginning of an answer is paid like a question: nobody waits longer for a long one.
            sampler.took(token).and_then(|()| sampler.late()).map_err(|error| format(error.to_string()))?;
        }
        // What follows has its own time.
        sampler.spent = Duration::ZERO;
        Ok(sampler)
    }

    /// Chooses a token by its logits; `None` when the grammar allows none. After an error it is not asked again:
    /// llama.cpp ends the process when a grammar is asked that has lost its place.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<Option<LlamaToken>, Broken> {
        let token = self.next(logits)?;
        self.in_time()?;
        Ok(token)
    }

    /// Counts one more token: whether the grammar has taken no longer than it may for so many.
    fn in_time(&mut self) -> Result<(), Broken> {
        self.tokens = self.tokens.saturating_add(1);
        self.late()
    }

    fn late(&self) -> Result<(), Broken> {
        let most = self.patience.saturating_add(EACH.saturating_mul(self.tokens));
        if self.spent > most { Err(Broken::Slow) } else { Ok(()) }
    }

    fn next(&mut self, logits: &[f32]) -> Result<Option<LlamaToken>, Broken> {
        if self.plain {
            let likeliest = LlamaToken(argmax(logits));
            if self.allowed(likeliest) {
                self.took(likeliest)?;
                return Ok(Some(likeliest));
            }
        }
        let mut all = candidates(logits);
        // To ask the grammar about every token takes far longer than to ask about the one that is chosen.
        self.chain.apply(&mut all);
        let Some(mut token) = all.selected_token() else { return Ok(None) };
        if !self.allowed(token) {
            if self.grammar.is_none() {
                return Ok(None);
            }
            let mut allowed = Vec::new();
            for part in candidates(logits).data.chunks(AT_A_TIME) {
                let mut part = LlamaTokenDataArray::new(part.to_vec(), false);
                self.ask_grammar(&mut part);
                allowed.extend(part.data.into_iter().filter(|candidate| candidate.logit().is_finite()));
                self.late()?;
            }
            if allowed.is_empty() {
                return Ok(None);
            }
            let mut all = LlamaTokenDataArray::new(allowed, false);
            self.chain.apply(&mut all);
            let Some(other) = all.selected_token() else { return Ok(None) };
            token = other;
        }
        self.took(token)?;
        Ok(Some(token))
    }

    /// Whether the grammar goes on with a token.
    fn allowed(&mut self, token: LlamaToken) -> bool {
        if self.grammar.is_none() {
            return true;
        }
        let mut one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 1.0, 0.0)], false);
        self.ask_grammar(&mut one);
        one.data.first().is_some_and(|candidate| candidate.logit().is_finite())
    }

    /// Marks what the grammar does not go on with, on its clock.
    fn ask_grammar(&mut self, candidates: &mut LlamaTokenDataArray) {
        let Some(grammar) = &mut self.grammar else { return };
        let begun = Instant::now();
        grammar.apply(candidates);
        self.spent += begun.elapsed();
    }

    fn took(&mut self, token: LlamaToken) -> Result<(), Broken> {
        self.chain.try_accept(token).map_err(|_| Broken::Lost)?;
        let Some(grammar) = &mut self.grammar else { return Ok(()) };
        let begun = Instant::now();
        let accepted = grammar.try_accept(token);
        self.spent += begun.elapsed();
        accepted.map_err(|_| Broken::Lost)
    }
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

    /// A model of random weights: only its vocabulary is of use.
    fn vocabulary() -> LlamaModel {
        use ::model::{ExportCard, GgufType, Layout, ModelConfig, Part};
        let config = ModelConfig::preset("nano", 2048, 128).expect("a size");
        let theta = ::model::init(&Layout::new(&config, &Part::whole(&config)), config.num_hidden_layers, 5);
        let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("own.gguf");
        let card = ExportCard::default();
        ::model::export_gguf(&path, &config, &theta, &tokenizer, 0, &card, GgufType::Q8_0).expect("written");
        let params = llama_cpp_2::model::params::LlamaModelParams::default();
        LlamaModel::load_from_file(crate::backend(), &path, &params).expect("loaded")
    }

    fn sampler(model: &LlamaModel, grammar: &str) -> Sampler {
        let format = AnswerShape::Grammar(grammar.into());
        Sampler::new(model, &SamplingParams { temperature: 0.0, format, ..SamplingParams::default() }, 64, &[])
            .expect("made")
    }

    fn token(model: &LlamaModel, text: &str) -> LlamaToken {
        model.vocab().tokenize(text.as_bytes(), false, false)[0]
    }

    #[test]
    fn a_sampler_that_loses_its_place_says_so() {
        let model = vocabulary();
        let mut sampler = sampler(&model, "root ::= [0-9]+");
        let (digit, letter) = (token(&model, "7"), token(&model, "x"));
        assert!(sampler.allowed(digit) && !sampler.allowed(letter));
        assert_eq!(sampler.took(digit), Ok(()));
        assert_eq!(sampler.took(letter), Err(Broken::Lost));
    }

    #[test]
    fn an_answer_that_can_be_read_in_ever_more_ways_ends() {
        let model = vocabulary();
        let mut sampler = sampler(&model, "root ::= a | b | \"x\"\na ::= \"[\" root \"]\"\nb ::= \"[\" root \"}\"");
        sampler.patience = Duration::from_millis(20);
        let mut logits = vec![0.0; model.n_vocab() as usize];
        logits[token(&model, "[").0 as usize] = 10.0;
        let ends = (0..64).map(|_| sampler.choose(&logits)).find(Result::is_err);
        assert_eq!(ends, Some(Err(Broken::Slow)));
    }

    #[test]
    fn a_beginning_that_is_read_in_ever_more_ways_ends_soon() {
        let model = vocabulary();
        let written = vec![token(&model, "[").0; 64];
        let grammar = "root ::= a | b | \"x\"\na ::= \"[\" root \"]\"\nb ::= \"[\" root \"}\"";
        let sampling = SamplingParams { format: AnswerShape::Grammar(grammar.into()), ..SamplingParams::default() };
        let begun = Instant::now();
        let refused = Sampler::new(&model, &sampling, 64, &written).err();
        assert!(matches!(refused, Some(Refusal::Format(why)) if why == Broken::Slow.to_string()));
        // However long it is. The last step doubles what the one before took.
        assert!(begun.elapsed() < 8 * PATIENCE, "{:?}", begun.elapsed());
    }

    #[test]
    fn the_clock_strikes_while_a_grammar_is_asked_about_a_vocabulary() {
        let model = vocabulary();
        let mut sampler = sampler(&model, "root ::= [0-9]+");
        (sampler.patience, sampler.spent) = (Duration::ZERO, Duration::from_nanos(1));
        let mut logits = vec![0.0; model.n_vocab() as usize];
        logits[token(&model, "x").0 as usize] = 10.0;
        assert_eq!(sampler.next(&logits), Err(Broken::Slow));
    }

    #[test]
    fn a_grammar_has_one_clock_for_all_tokens_of_an_answer() {
        let model = vocabulary();
        let mut sampler = sampler(&model, "root ::= [0-9]+");
        // A moment more for each token than one may take, and none of them too long by itself.
        let slow = EACH + PATIENCE / 100;
        let ends = (0..1_000).find(|_| {
            sampler.spent += slow;
            sampler.in_time().is_err()
        });
        assert_eq!(ends, Some(100));
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
