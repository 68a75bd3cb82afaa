//! Ordinary text must not end the process: every way of splitting texts that llama.cpp knows, on the longest texts.

mod common;

use common::{config, loaded, written};
use engine::{Engine, Refusal};
use model::GgufType;
use std::path::Path;

/// Every value of `tokenizer.ggml.pre` that the llama.cpp of this build knows for byte-level vocabularies.
const PRE_TOKENIZERS: &str = "default llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 deepseek-llm \
     deepseek-coder deepseek-v3 spark2_5 youtu falcon mpt starcoder gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de \
     a.x-4.0 mellum modern-bert jais-2 jina-v2-code roberta-bpe refact command-r qwen2 deepseek-r1-qwen kormo f2llmv2 qwen35 \
     stablelm2 olmo dbrx smaug-bpe poro-chat chatglm-bpe glm4 viking jais tekken smollm codeshell bloom gpt3-finnish exaone \
     exaone4 exaone-moe chameleon minerva-7b megrez gpt-4o llama4 superbpe trillion granite-docling bailingmoe bailingmoe2 \
     llada-moe seed-coder hunyuan hunyuan-dense kimi-k2 grok-2 afmoe minimax-m2 solar-open mellum2";

/// What, repeated, pre-tokenizers take as one word or number or gap: all of them, or the ones whose patterns go on over
/// One of each kind of patterns: these are tried to the end, the others with texts that need a stack of their own.
const DEEP: &str = "default deepseek-v3 tekken gpt-4o exaone-moe youtu bloom qwen2";

/// white space.
const RUNS: [&str; 11] = ["a", "G", "7", " ", "\n", "-", "ä", "漢", "\u{301}", "/\n", "a "];

/// The same model with another way of splitting: the header is changed so that what follows moves by whole pages of 32 bytes.
fn split_by(bytes: &[u8], pre: &str) -> Vec<u8> {
    let field = |key: &str| {
        let key = key.as_bytes();
        bytes.windows(key.len()).position(|window| window == key).expect("the field") + key.len() + 4
    };
    let text = |value: &str| [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat();
    let (name, split) = (field("general.name"), field("tokenizer.ggml.pre"));
    assert!(name < split && bytes[split..].starts_with(&text("gpt-2")) && bytes[name..].starts_with(&text("own")));
    let pad = (64 + 5 - pre.len()) % 32;
    let (new_name, new_split) = (text(&format!("own{}", "_".repeat(pad))), text(pre));
    let (old_name, old_split) = (text("own").len(), text("gpt-2").len());
    [&bytes[..name], &new_name, &bytes[name + old_name..split], &new_split, &bytes[split + old_split..]].concat()
}

fn with(dir: &Path, bytes: &[u8], pre: &str) -> Engine {
    let path = dir.join(format!("{pre}.gguf"));
    std::fs::write(&path, split_by(bytes, pre)).expect("written");
    let engine = loaded(path.clone(), 1, 1);
    std::fs::remove_file(path).expect("removed");
    engine
}

#[test]
fn the_longest_run_of_one_kind_ends_no_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let bytes = std::fs::read(written(dir.path(), &config(), GgufType::Q8_0)).expect("read");
    let longest = 1 << 19;
    for pre in PRE_TOKENIZERS.split_whitespace() {
        let engine = with(dir.path(), &bytes, pre);
        // As on a worker of an async runtime, which has 2 MiB of stack.
        let short = std::thread::Builder::new().stack_size(2 << 20);
        let run = move || {
            for one in RUNS {
                for n in [1_000, 1_025, 8_000] {
                    let ids = engine.tokenize(&one.repeat(n), false).expect("tokens");
                    assert!(!ids.is_empty(), "{pre}, {n} times {one:?}");
                }
            }
            if DEEP.split_whitespace().any(|deep| deep == pre) {
                for (one, n) in [("/\n", longest / 2), ("a ", longest / 2), ("a", longest), ("\u{1F9E1} 7!ab", 20_000)]
                {
                    engine.tokenize(&one.repeat(n), false).expect("tokens");
                }
            }
            let error = engine.tokenize(&"a".repeat(longest + 1), false).expect_err("too long a piece");
            assert_eq!(error, Refusal::Piece(longest + 1, longest));
            assert!(error.to_string().contains("break it up"), "{error}");
        };
        short.spawn(run).expect("a thread").join().expect("tokens");
    }
}
