//! llama.cpp's own sampler takes and refuses with our grammars what the fixture says, token by token.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use model::{ExportCard, GgufType, Layout, ModelConfig, Part};
use serde_json::Value;
use std::path::Path;

/// A model of random weights: only its vocabulary is of use.
fn vocabulary(dir: &Path) -> LlamaModel {
    let config = ModelConfig::preset("nano", 2048, 128).expect("a size");
    let theta = model::init(&Layout::new(&config, &Part::whole(&config)), config.num_hidden_layers, 5);
    let tokenizer = std::fs::read("../../corpus/tokenizer.json").expect("the shipped tokenizer");
    let path = dir.join("own.gguf");
    model::export_gguf(&path, &config, &theta, &tokenizer, 0, &ExportCard::default(), GgufType::Q8_0).expect("written");
    LlamaModel::load_from_file(engine::backend(), &path, &LlamaModelParams::default()).expect("loaded")
}

fn allows(sampler: &mut LlamaSampler, token: LlamaToken) -> bool {
    let mut one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 1.0, 0.0)], false);
    sampler.apply(&mut one);
    one.data.first().is_some_and(|candidate| candidate.logit().is_finite())
}

/// Whether an answer may be this text, and end there.
fn takes(model: &LlamaModel, grammar: &str, text: &str) -> bool {
    let mut sampler = LlamaSampler::grammar(model, grammar, "root").expect("a grammar");
    for token in model.vocab().tokenize(text.as_bytes(), false, false) {
        if !allows(&mut sampler, token) {
            return false;
        }
        sampler.try_accept(token).expect("it was allowed");
    }
    allows(&mut sampler, model.vocab().eos())
}

#[test]
fn llama_cpp_follows_our_grammars() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = vocabulary(dir.path());
    assert!(model.vocab().is_eog(model.vocab().eos()));
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/schemas.json")).expect("JSON");
    let mut wrong = Vec::new();
    for entry in fixture["schemas"].as_array().expect("a list") {
        let grammar = engine::schema::to_grammar(&entry["schema"], &engine::schema::SchemaLimits::default());
        let grammar = grammar.unwrap_or_else(|error| panic!("{}: {error}", entry["name"]));
        for (key, fits) in [("accepts", true), ("rejects", false)] {
            for text in entry[key].as_array().expect("a list").iter().filter_map(Value::as_str) {
                if takes(&model, &grammar, text) != fits {
                    wrong.push(format!("{}: {key} {text}\n{grammar}", entry["name"]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
