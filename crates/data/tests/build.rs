//! Corpora from every format: the same text gives the same bytes, and damage is found.

use data::{BuildOptions, Corpus, Split, Tokenizer, build};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn texts() -> Vec<String> {
    (0..60).map(|i| format!("ACT {i}. Enter a king, a fool and {i} ghosts — “speak!”\n").repeat(1 + i % 7)).collect()
}

fn json_lines() -> Vec<u8> {
    texts().iter().flat_map(|text| format!("{}\n", serde_json::json!({ "text": text, "n": 1 })).into_bytes()).collect()
}

fn parquet(path: &Path) {
    let schema = parse_message_type("message m { required binary text (UTF8); }").expect("a schema");
    let file = std::fs::File::create(path).expect("created");
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    let mut column = group.next_column().expect("columns").expect("one column");
    let values: Vec<ByteArray> = texts().iter().map(|text| ByteArray::from(text.as_str())).collect();
    column.typed::<ByteArrayType>().write_batch(&values, None, None).expect("written");
    column.close().expect("closed");
    group.close().expect("closed");
    writer.close().expect("closed");
}

/// The same documents as `.jsonl`, `.jsonl.gz`, `.jsonl.zst` and `.parquet`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let path = |name: &str| dir.join(name);
    std::fs::write(path("a.jsonl"), json_lines()).expect("written");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&json_lines()).expect("compressed");
    std::fs::write(path("a.jsonl.gz"), gz.finish().expect("compressed")).expect("written");
    std::fs::write(path("a.jsonl.zst"), zstd::encode_all(json_lines().as_slice(), 1).expect("compressed"))
        .expect("written");
    parquet(&path("a.parquet"));
    ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"].map(path).to_vec()
}

fn tokenizer() -> Tokenizer {
    data::shipped::tokenizer().expect("shipped")
}

fn options() -> BuildOptions {
    BuildOptions { heldout_permille: 200, shard_tokens: 1000, ..BuildOptions::default() }
}

fn built(source: &Path, out: &Path) -> Vec<(String, Vec<u8>)> {
    build(&[source.to_owned()], &tokenizer(), &options(), out, |_| ()).expect("built");
    let mut files: Vec<(String, Vec<u8>)> = (std::fs::read_dir(out).expect("a folder").flatten())
        .map(|entry| (entry.file_name().into_string().expect("utf-8"), std::fs::read(entry.path()).expect("read")))
        .collect();
    files.sort();
    files
}

#[test]
fn every_format_gives_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let sources = sources(dir.path());
    let reference = built(&sources[0], &dir.path().join("0"));
    assert!(reference.len() > 4, "several shards, a manifest and a tokenizer");
    for (i, source) in sources.iter().enumerate().skip(1) {
        assert_eq!(built(source, &dir.path().join(i.to_string())), reference, "{}", source.display());
    }
    assert_eq!(built(&sources[0], &dir.path().join("again")), reference);
}

#[test]
fn windows_are_the_packed_documents() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = &sources(dir.path())[0];
    let out = dir.path().join("corpus");
    built(source, &out);
    let corpus = Corpus::open(&out).expect("opened");
    let mut packed = [Vec::new(), Vec::new()];
    for (i, split) in [Split::Train, Split::Heldout].into_iter().enumerate() {
        let manifest = corpus.manifest();
        let tokens = if i == 0 { manifest.train_tokens() } else { manifest.heldout_tokens() };
        let mut ids = Vec::new();
        for window in 0..(tokens - 1) / 7 {
            ids.clear();
            corpus.window(split, window, 7, &mut ids).expect("inside");
            packed[i].extend_from_slice(&ids[..7]);
            assert_eq!(ids.len(), 8, "T + 1");
        }
        assert!(corpus.window(split, tokens, 7, &mut ids).is_err(), "past the end");
    }
    let end = tokenizer().end_token();
    let found = packed.iter().flat_map(|ids| ids.split(|id| *id == end)).map(<[u32]>::len).sum::<usize>();
    let expected: usize = texts().iter().map(|text| tokenizer().encode(text).expect("encoded").len()).sum();
    assert!(found <= expected && found + 16 > expected, "{found} of {expected} tokens, but for the cut tails");
}

#[test]
fn damage_is_found_and_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("corpus");
    let files = built(&sources(dir.path())[0], &out);
    Corpus::verify(&out).expect("whole");
    let shard = files.iter().find(|(name, _)| !name.ends_with(".json")).expect("a shard");
    let path = out.join(&shard.0);
    let mut bytes = shard.1.clone();
    bytes[10] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    assert!(Corpus::verify(&out).expect_err("one bit").to_string().contains(&shard.0[..8]));
    std::fs::write(&path, &shard.1[1..]).expect("written");
    assert!(Corpus::verify(&out).is_err(), "cut short");
    std::fs::remove_file(&path).expect("removed");
    assert!(Corpus::verify(&out).is_err(), "missing");
    std::fs::write(out.join("manifest.json"), b"{").expect("written");
    assert!(Corpus::open(&out).is_err(), "no manifest");
}

#[test]
fn sources_that_are_no_documents_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let refuse = |name: &str, bytes: &[u8], expected: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let error = build(&[path], &tokenizer(), &options(), &dir.path().join("out"), |_| ()).expect_err(name);
        assert!(error.to_string().contains(expected), "{name}: {error}");
    };
    refuse("a.jsonl", b"{\"text\": 1}", "record 1");
    refuse("a.jsonl.gz", b"no gzip", "a.jsonl.gz");
    refuse("a.jsonl.zst", b"no zstd", "a.jsonl.zst");
    refuse("a.parquet", b"no parquet at all", "a.parquet");
    refuse("a.docx", b"", "unknown format");
    refuse("a.txt", b"", "training split");
    let mut cut = json_lines();
    cut.truncate(cut.len() - 10);
    refuse("b.jsonl", &cut, "record 60");
}
