//! Every parameter that clients of OpenAI, llama-server, Ollama and vLLM send, in one table: it has its effect, or
//! nothing is lost where it is ignored, or it is refused by name. `docs/api.md` is this table, which a test proves.

use crate::error::ApiError;
use serde_json::Value;

/// An endpoint that takes parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/responses`.
    Responses,
    /// `/v1/embeddings`.
    Embeddings,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Chat, Self::Completions, Self::Responses, Self::Embeddings];

    /// The last part of its path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
        }
    }
}

/// A value that asks for nothing but what is done anyway.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Neutral {
    /// `false`.
    False,
    /// `true`.
    True,
    /// This number.
    Number(f64),
    /// This text.
    Word(&'static str),
    /// A list of this text alone.
    Only(&'static str),
    /// An empty text, list or object.
    Empty,
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match (self, value) {
            (Self::False, Value::Bool(told)) => !told,
            (Self::True, Value::Bool(told)) => *told,
            (Self::Number(idle), Value::Number(told)) => told.as_f64() == Some(idle),
            (Self::Word(idle), Value::String(told)) => told == idle,
            (Self::Only(idle), Value::Array(told)) => told.iter().all(|one| one == idle),
            (Self::Empty, Value::String(told)) => told.is_empty(),
            (Self::Empty, Value::Array(told)) => told.is_empty(),
            (Self::Empty, Value::Object(told)) => told.is_empty(),
            _ => false,
        }
    }

    /// As JSON writes it.
    pub fn json(self) -> String {
        match self {
            Self::False => "false".into(),
            Self::True => "true".into(),
            Self::Number(number) => number.to_string(),
            Self::Word(text) => format!("\"{text}\""),
            Self::Only(text) => format!("[\"{text}\"]"),
            Self::Empty => "empty".into(),
        }
    }
}

/// What becomes of a parameter. `null` is always the same as leaving it out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// It has its effect.
    Effect,
    /// It has its effect as far as the reason says; the endpoint refuses other values by name.
    Checked(&'static str),
    /// Every value is taken and nothing is lost by it, for this reason.
    Harmless(&'static str),
    /// Refused for this reason, unless its value is one of these.
    Refused(&'static [Neutral], &'static str),
    /// The same, where one of these others has another value than the one beside it; else it means nothing.
    RefusedWith(&'static [(&'static str, f64)], &'static [Neutral], &'static str),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name; a dot leads into an object.
    pub name: &'static str,
    /// Where the rule holds.
    pub at: &'static [Endpoint],
    /// What becomes of it.
    pub rule: Rule,
}

use Endpoint::{Chat, Completions, Embeddings, Responses};
use Neutral::{Empty, False, Number, Only, True, Word};
use Rule::{Checked, Effect, Harmless, Refused, RefusedWith};

const ALL: &[Endpoint] = &Endpoint::ALL;
const WRITING: &[Endpoint] = &[Chat, Completions, Responses];
const TEXTS: &[Endpoint] = &[Chat, Completions];
const TALKS: &[Endpoint] = &[Chat, Responses];
const CHAT: &[Endpoint] = &[Chat];
const COMPLETIONS: &[Endpoint] = &[Completions];
const RESPONSES: &[Endpoint] = &[Responses];
const EMBEDDINGS: &[Endpoint] = &[Embeddings];

const NONE: &[Neutral] = &[];
const OFF: &[Neutral] = &[False];
const ON: &[Neutral] = &[True];
const NIL: &[Neutral] = &[Number(0.0)];
const ONE: &[Neutral] = &[Number(1.0)];
const MINUS: &[Neutral] = &[Number(-1.0)];
const NO_LIMIT: &[Neutral] = &[Number(-1.0), Number(0.0)];
const EMPTY: &[Neutral] = &[False, Empty];

/// Without any of these the tokens before are not looked at.
const PENALTIES: &[(&str, f64)] =
    &[("repetition_penalty", 1.0), ("repeat_penalty", 1.0), ("presence_penalty", 0.0), ("frequency_penalty", 0.0)];

const SHAPE: &str = "an answer is held to a JSON Schema only: send 'response_format'";
const DIALS: &str = "models here have no such dial";
const MACHINE: &str = "how the model is run is the machine owner's to set, and does not change the answer";
const STORED: &str = "nothing is stored: send the whole conversation as 'input'";
const NEWER: &str = "this endpoint calls it 'max_output_tokens'";
const SAMPLER: &str = "this way of choosing tokens is not built: 'temperature', 'top_p', 'top_k' and 'min_p' are";
const SWITCHED: &str = "it means nothing while what it belongs to is off, and that cannot be switched on";
const PICTURES: &str = "models here read and write text";
const PROMPTS: &str = "the template is the model's own; send the messages as they are to be read";
const THOUGHTS: &str = "what a model thinks stands in its answer as it wrote it";
const IDS: &str = "answers are given as texts; '/tokenize' gives the ids of a text";
const LIMITS: &str = "a time limit is not built: hang up when the answer takes too long";

const fn row(at: &'static [Endpoint], name: &'static str, rule: Rule) -> Parameter {
    Parameter { name, at, rule }
}

/// The table.
#[rustfmt::skip]
pub const PARAMETERS: &[Parameter] = &[
    // The question.
    row(ALL, "model", Effect),
    row(CHAT, "messages", Effect),
    row(COMPLETIONS, "prompt", Effect),
    row(&[Responses, Embeddings], "input", Effect),
    row(RESPONSES, "instructions", Effect),
    row(COMPLETIONS, "echo", Effect),
    row(CHAT, "echo", Refused(OFF, "only '/v1/completions' repeats the question")),
    row(COMPLETIONS, "suffix", Refused(EMPTY, "models here write what follows, not what comes between")),
    row(&[Responses, Embeddings], "messages", Refused(EMPTY, "this endpoint calls it 'input'")),
    // How long the answer is, and how many there are.
    row(TEXTS, "max_tokens", Effect),
    row(CHAT, "max_completion_tokens", Effect),
    row(COMPLETIONS, "max_completion_tokens", Refused(NONE, "this endpoint calls it 'max_tokens'")),
    row(TEXTS, "n_predict", Effect),
    row(TEXTS, "num_predict", Effect),
    row(RESPONSES, "max_output_tokens", Effect),
    row(RESPONSES, "max_tokens", Refused(NONE, NEWER)),
    row(RESPONSES, "max_completion_tokens", Refused(NONE, NEWER)),
    row(RESPONSES, "n_predict", Refused(MINUS, NEWER)),
    row(RESPONSES, "num_predict", Refused(MINUS, NEWER)),
    row(WRITING, "min_tokens", Refused(NIL, "the model ends its answer itself")),
    row(TEXTS, "n", Effect),
    row(RESPONSES, "n", Refused(ONE, "this endpoint writes one answer: ask several times, or '/v1/chat/completions'")),
    row(COMPLETIONS, "best_of", Checked("as many answers are written as 'n' says")),
    row(CHAT, "best_of", Refused(ONE, "as many answers are written as 'n' says")),
    row(WRITING, "stop", Effect),
    row(WRITING, "stop_token_ids", Refused(EMPTY, "an answer ends at texts: send them as 'stop'")),
    row(WRITING, "include_stop_str_in_output", Refused(OFF, "the text that ends an answer is not part of it")),
    row(WRITING, "ignore_eos", Refused(OFF, "the model ends its answer itself")),
    row(WRITING, "t_max_predict_ms", Refused(NO_LIMIT, LIMITS)),
    row(WRITING, "t_max_prompt_ms", Refused(NO_LIMIT, LIMITS)),
    // How tokens are chosen.
    row(WRITING, "temperature", Effect),
    row(WRITING, "top_p", Effect),
    row(WRITING, "top_k", Effect),
    row(WRITING, "min_p", Effect),
    row(WRITING, "seed", Effect),
    row(WRITING, "presence_penalty", Effect),
    row(WRITING, "frequency_penalty", Effect),
    row(WRITING, "repetition_penalty", Effect),
    row(WRITING, "repeat_penalty", Effect),
    row(WRITING, "logit_bias", Effect),
    row(WRITING, "repeat_last_n", RefusedWith(PENALTIES, MINUS, "penalties look at the whole answer")),
    row(WRITING, "penalty_last_n", RefusedWith(PENALTIES, MINUS, "penalties look at the whole answer")),
    row(WRITING, "penalize_nl", RefusedWith(PENALTIES, ON, "penalties look at every token")),
    row(WRITING, "typical_p", Refused(ONE, SAMPLER)),
    row(WRITING, "typ_p", Refused(ONE, SAMPLER)),
    row(WRITING, "tfs_z", Refused(ONE, SAMPLER)),
    row(WRITING, "top_a", Refused(NIL, SAMPLER)),
    row(WRITING, "top_n_sigma", Refused(NO_LIMIT, SAMPLER)),
    row(WRITING, "min_keep", Refused(&[Number(0.0), Number(1.0)], "as many tokens are kept as the other dials say")),
    row(WRITING, "mirostat", Refused(NIL, SAMPLER)),
    row(WRITING, "mirostat_tau", Harmless(SWITCHED)),
    row(WRITING, "mirostat_eta", Harmless(SWITCHED)),
    row(WRITING, "dynatemp_range", Refused(NIL, SAMPLER)),
    row(WRITING, "dynatemp_exponent", Harmless(SWITCHED)),
    row(WRITING, "xtc_probability", Refused(NIL, SAMPLER)),
    row(WRITING, "xtc_threshold", Harmless(SWITCHED)),
    row(WRITING, "dry_multiplier", Refused(NIL, SAMPLER)),
    row(WRITING, "dry_base", Harmless(SWITCHED)),
    row(WRITING, "dry_allowed_length", Harmless(SWITCHED)),
    row(WRITING, "dry_penalty_last_n", Harmless(SWITCHED)),
    row(WRITING, "dry_sequence_breakers", Harmless(SWITCHED)),
    row(WRITING, "samplers", Refused(NONE, "the order is fixed: penalties, 'top_k', 'top_p', 'min_p', 'temperature'")),
    row(WRITING, "use_beam_search", Refused(OFF, SAMPLER)),
    row(WRITING, "length_penalty", Refused(ONE, SAMPLER)),
    row(WRITING, "early_stopping", Harmless("it belongs to beam search, which is refused")),
    row(WRITING, "bad_words", Refused(EMPTY, "send 'logit_bias' with -100 for the tokens")),
    row(WRITING, "allowed_token_ids", Refused(EMPTY, "send 'logit_bias' with 100 for the tokens")),
    row(WRITING, "logits_processors", Refused(EMPTY, "code of clients is not run here")),
    row(WRITING, "lora", Refused(EMPTY, "adapters are not built: merge it into the model")),
    // The shape of the answer.
    row(TEXTS, "response_format", Effect),
    row(TEXTS, "json_schema", Effect),
    row(TEXTS, "guided_json", Effect),
    row(TEXTS, "format", Effect),
    row(TEXTS, "structured_outputs.json", Effect),
    row(TEXTS, "structured_outputs.json_object", Effect),
    row(TEXTS, "structured_outputs.regex", Refused(EMPTY, SHAPE)),
    row(TEXTS, "structured_outputs.choice", Refused(EMPTY, SHAPE)),
    row(TEXTS, "structured_outputs.grammar", Refused(EMPTY, SHAPE)),
    row(TEXTS, "structured_outputs.structural_tag", Refused(EMPTY, SHAPE)),
    row(RESPONSES, "text.format", Effect),
    row(RESPONSES, "response_format", Refused(EMPTY, "this endpoint calls it 'text.format'")),
    row(RESPONSES, "json_schema", Refused(NONE, "this endpoint calls it 'text.format'")),
    row(RESPONSES, "guided_json", Refused(NONE, "this endpoint calls it 'text.format'")),
    row(RESPONSES, "structured_outputs", Refused(EMPTY, "this endpoint calls it 'text.format'")),
    row(RESPONSES, "format", Refused(EMPTY, "this endpoint calls it 'text.format'")),
    row(WRITING, "guided_regex", Refused(EMPTY, SHAPE)),
    row(WRITING, "guided_choice", Refused(EMPTY, SHAPE)),
    row(WRITING, "guided_grammar", Refused(EMPTY, SHAPE)),
    row(WRITING, "guided_whitespace_pattern", Refused(EMPTY, SHAPE)),
    row(WRITING, "guided_decoding_backend", Harmless("there is one way of holding an answer to a schema")),
    row(WRITING, "structural_tag", Refused(EMPTY, SHAPE)),
    row(WRITING, "grammar", Refused(EMPTY, SHAPE)),
    row(WRITING, "grammar_lazy", Refused(OFF, SHAPE)),
    row(WRITING, "grammar_triggers", Refused(EMPTY, SHAPE)),
    row(WRITING, "preserved_tokens", Refused(EMPTY, SHAPE)),
    // What comes with the answer.
    row(WRITING, "stream", Effect),
    row(TEXTS, "stream_options.include_usage", Effect),
    row(RESPONSES, "stream_options.include_usage", Harmless("the last event has the counts")),
    row(WRITING, "stream_options.include_obfuscation", Harmless("events are not padded")),
    row(WRITING, "stream_options.continuous_usage_stats", Refused(OFF, "counts come with the last event")),
    row(CHAT, "logprobs", Effect),
    row(CHAT, "top_logprobs", Effect),
    row(COMPLETIONS, "logprobs", Effect),
    row(COMPLETIONS, "top_logprobs", Refused(NIL, "this endpoint calls it 'logprobs'")),
    row(RESPONSES, "logprobs", Refused(OFF, "send 'include': [\"message.output_text.logprobs\"]")),
    row(RESPONSES, "top_logprobs", Effect),
    row(RESPONSES, "include", Effect),
    row(WRITING, "n_probs", Refused(NIL, "send 'logprobs', and 'top_logprobs' where the endpoint has it")),
    row(WRITING, "post_sampling_probs", Refused(OFF, "log-probabilities are the model's own")),
    row(WRITING, "prompt_logprobs", Refused(NONE, "'/v1/completions' gives them with 'echo' and 'logprobs'")),
    row(WRITING, "return_tokens", Refused(OFF, IDS)),
    row(WRITING, "return_token_ids", Refused(OFF, IDS)),
    row(WRITING, "return_tokens_as_token_ids", Refused(OFF, IDS)),
    row(WRITING, "skip_special_tokens", Refused(ON, "special tokens are not part of an answer")),
    row(WRITING, "spaces_between_special_tokens", Harmless("special tokens are not part of an answer")),
    row(WRITING, "timings_per_token", Refused(OFF, "times are not part of an answer: '/metrics' has them")),
    row(WRITING, "return_progress", Refused(OFF, "progress of reading is not shown")),
    row(WRITING, "response_fields", Refused(EMPTY, "an answer has all of its fields")),
    // Tools.
    row(TALKS, "tools", Effect),
    row(TALKS, "tool_choice", Effect),
    row(TALKS, "parallel_tool_calls", Effect),
    row(TALKS, "parse_tool_calls", Refused(ON, "calls are always read; send no 'tools' to have the text")),
    row(RESPONSES, "max_tool_calls", Refused(NONE, "tools are run by you: stop calling when it is enough")),
    row(CHAT, "functions", Refused(EMPTY, "it was replaced by 'tools'")),
    row(CHAT, "function_call", Refused(&[Word("none"), Word("auto")], "it was replaced by 'tool_choice'")),
    row(CHAT, "web_search_options", Refused(NONE, "models here search nothing; give what you found as a message")),
    // How a model thinks.
    row(TALKS, "reasoning_effort", Refused(&[Word("auto"), Word("default"), Word("none")], DIALS)),
    row(RESPONSES, "reasoning.effort", Refused(NONE, DIALS)),
    row(RESPONSES, "reasoning.summary", Harmless("there are no items of thought that could be summed up")),
    row(RESPONSES, "reasoning.generate_summary", Harmless("there are no items of thought that could be summed up")),
    row(CHAT, "reasoning_format", Refused(&[Word("none")], THOUGHTS)),
    row(CHAT, "include_reasoning", Refused(ON, THOUGHTS)),
    row(CHAT, "thinking_forced_open", Refused(OFF, PROMPTS)),
    row(CHAT, "reasoning_budget", Refused(MINUS, DIALS)),
    row(CHAT, "thinking_budget_tokens", Refused(MINUS, DIALS)),
    row(TALKS, "enable_thinking", Refused(NONE, DIALS)),
    row(TALKS, "think", Refused(NONE, DIALS)),
    row(CHAT, "verbosity", Refused(&[Word("auto"), Word("default"), Word("none"), Word("medium")], DIALS)),
    row(RESPONSES, "text.verbosity", Refused(&[Word("medium")], DIALS)),
    // The model's template.
    row(WRITING, "chat_template", Refused(EMPTY, PROMPTS)),
    row(WRITING, "chat_template_kwargs", Refused(EMPTY, PROMPTS)),
    row(CHAT, "add_generation_prompt", Refused(ON, PROMPTS)),
    row(CHAT, "continue_final_message", Refused(OFF, "only '/v1/completions' goes on with a text")),
    row(CHAT, "documents", Refused(EMPTY, "send them as a message")),
    row(CHAT, "add_special_tokens", Refused(OFF, PROMPTS)),
    row(&[Completions, Embeddings], "add_special_tokens", Refused(ON, "a text is read as the model's vocabulary says")),
    row(WRITING, "template", Refused(EMPTY, PROMPTS)),
    row(CHAT, "system", Refused(EMPTY, "send a message of the role 'system'")),
    row(COMPLETIONS, "system", Refused(EMPTY, "put it at the beginning of 'prompt'")),
    row(RESPONSES, "system", Refused(EMPTY, "this endpoint calls it 'instructions'")),
    row(WRITING, "raw", Refused(OFF, "'/v1/completions' reads a text without a template")),
    row(WRITING, "context", Refused(EMPTY, "nothing is stored: send the whole conversation")),
    row(WRITING, "images", Refused(EMPTY, PICTURES)),
    row(CHAT, "modalities", Refused(&[Only("text")], PICTURES)),
    row(CHAT, "audio", Refused(NONE, PICTURES)),
    row(ALL, "mm_processor_kwargs", Refused(EMPTY, PICTURES)),
    row(CHAT, "media_io_kwargs", Refused(EMPTY, PICTURES)),
    row(CHAT, "prediction", Refused(NONE, "predicted output is not built")),
    // What is kept, and for whom.
    row(CHAT, "store", Refused(OFF, "nothing is stored")),
    row(RESPONSES, "store", Refused(OFF, STORED)),
    row(RESPONSES, "previous_response_id", Refused(EMPTY, STORED)),
    row(RESPONSES, "conversation", Refused(EMPTY, STORED)),
    row(RESPONSES, "background", Refused(OFF, "an answer is written while you wait")),
    row(RESPONSES, "prompt", Refused(EMPTY, "stored prompts are not built: send 'instructions' and 'input'")),
    row(RESPONSES, "truncation", Refused(&[Word("disabled")], "what is too long is refused: leave out its beginning")),
    row(WRITING, "truncate_prompt_tokens", Refused(NONE, "what is too long is refused: leave out its beginning")),
    row(EMBEDDINGS, "truncate_prompt_tokens", Refused(NONE, "what is too long is refused: cut the text")),
    row(EMBEDDINGS, "truncate", Refused(OFF, "what is too long is refused: cut the text")),
    row(ALL, "user", Harmless("callers are told apart by their keys")),
    row(ALL, "safety_identifier", Harmless("callers are told apart by their keys")),
    row(ALL, "metadata", Harmless("nothing is stored, so there is nothing that it could belong to")),
    row(ALL, "prompt_cache_key", Harmless("what was read before for a key is found by its text")),
    row(ALL, "prompt_cache_retention", Harmless("what was read before for a key is found by its text")),
    row(ALL, "cache_salt", Harmless("what was read for one key is never used for another")),
    row(ALL, "request_id", Harmless("the header 'x-request-id' names a request")),
    row(ALL, "service_tier", Refused(&[Word("auto"), Word("default")], "there is one tier")),
    row(ALL, "priority", Refused(NIL, "places are shared out evenly")),
    row(WRITING, "cache_prompt", Refused(ON, "what was read before for your key is always used; it is not shared")),
    row(WRITING, "id_slot", Refused(MINUS, "the server chooses the slot")),
    row(ALL, "kv_transfer_params", Refused(EMPTY, "caches are not moved between servers")),
    row(ALL, "vllm_xargs", Refused(EMPTY, "there are no extensions that could read it")),
    // How the model is run.
    row(WRITING, "n_keep", Harmless("an answer that reaches the end of the context ends: nothing is dropped")),
    row(WRITING, "num_keep", Harmless("an answer that reaches the end of the context ends: nothing is dropped")),
    row(WRITING, "n_discard", Harmless("an answer that reaches the end of the context ends: nothing is dropped")),
    row(WRITING, "n_cache_reuse", Harmless(MACHINE)),
    row(WRITING, "n_indent", Refused(NIL, "lines are as the model writes them")),
    row(WRITING, "speculative.n_max", Harmless(MACHINE)),
    row(WRITING, "speculative.n_min", Harmless(MACHINE)),
    row(WRITING, "speculative.p_min", Harmless(MACHINE)),
    row(ALL, "keep_alive", Harmless("models stay loaded while the server runs")),
    row(ALL, "num_thread", Harmless(MACHINE)),
    row(ALL, "num_batch", Harmless(MACHINE)),
    row(ALL, "num_gpu", Harmless(MACHINE)),
    row(ALL, "num_ctx", Refused(NONE, "the machine's owner sets it with '--context'")),
    row(ALL, "options", Refused(EMPTY, "send its fields beside 'model'")),
    // Vectors.
    row(EMBEDDINGS, "encoding_format", Effect),
    row(EMBEDDINGS, "dimensions", Checked("it is the length of the model's own vectors")),
    row(EMBEDDINGS, "normalize", Refused(ON, "vectors have the length one")),
    row(EMBEDDINGS, "embd_normalize", Refused(&[Number(2.0)], "vectors have the length one")),
    row(EMBEDDINGS, "input_type", Refused(EMPTY, "put the model's own words for it before the text")),
    row(EMBEDDINGS, "task", Refused(EMPTY, "put the model's own words for it before the text")),
];

/// What a body says of a parameter, if it says anything.
pub(crate) fn given<'a>(body: &'a Value, name: &str) -> Option<&'a Value> {
    // llama-server has names with a dot in them, at the top.
    let inside = || body.pointer(&format!("/{}", name.replace('.', "/"))).filter(|_| name.contains('.'));
    body.get(name).or_else(inside).filter(|value| !value.is_null())
}

/// Refuses by name what a body asks of an endpoint and would not get.
pub(crate) fn check(endpoint: Endpoint, body: &Value) -> Result<(), ApiError> {
    for Parameter { name, rule, .. } in PARAMETERS.iter().filter(|parameter| parameter.at.contains(&endpoint)) {
        let Some(value) = given(body, name) else { continue };
        let idle = |(other, idle): &(&str, f64)| given(body, other).is_none_or(|told| told.as_f64() == Some(*idle));
        let (neutral, why) = match rule {
            Effect | Checked(_) | Harmless(_) => continue,
            RefusedWith(others, ..) if others.iter().all(idle) => continue,
            Refused(neutral, why) | RefusedWith(_, neutral, why) => (neutral, why),
        };
        if !neutral.iter().any(|neutral| neutral.is(value)) {
            return Err(ApiError::unsupported(name, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_parameter_has_one_rule_at_each_endpoint() {
        for endpoint in Endpoint::ALL {
            let mut names: Vec<&str> =
                PARAMETERS.iter().filter(|row| row.at.contains(&endpoint)).map(|row| row.name).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}", endpoint.name());
        }
    }

    #[test]
    fn what_belongs_to_something_that_is_off_is_read_over() {
        let refused = |body: Value| check(Chat, &body).err().and_then(|error| error.param);
        assert_eq!(refused(json!({ "repeat_last_n": 64, "repeat_penalty": 1.0, "presence_penalty": 0 })), None);
        assert_eq!(refused(json!({ "repeat_last_n": -1, "repeat_penalty": 1.1 })), None);
        let narrow = refused(json!({ "repeat_last_n": 64, "repeat_penalty": 1.1 }));
        assert_eq!(narrow.as_deref(), Some("repeat_last_n"));
        assert_eq!(refused(json!({ "dry_base": 1.75, "dry_multiplier": 0.0 })), None);
        assert_eq!(refused(json!({ "modalities": ["text"] })), None);
        assert_eq!(refused(json!({ "modalities": ["text", "audio"] })).as_deref(), Some("modalities"));
    }

    #[test]
    fn a_name_with_a_dot_is_found_at_the_top_and_inside() {
        let body = json!({ "a.b": 1, "c": { "d": 2, "e": null } });
        assert_eq!(given(&body, "a.b"), Some(&json!(1)));
        assert_eq!(given(&body, "c.d"), Some(&json!(2)));
        assert_eq!((given(&body, "c.e"), given(&body, "c.f"), given(&body, "f")), (None, None, None));
    }
}
