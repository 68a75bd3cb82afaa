//! One class writes one answer, to the last bit of every probability: whatever the threads, the neighbours and the pieces.

mod common;

use common::{answer, job, loaded, written};
use engine::{Client, Engine, Job};
use model::{GgufType, ModelConfig};

/// Far beyond the 512 keys from which llama.cpp takes other ways.
const CONTEXT: usize = 1024;
const PROMPT: usize = 700;

/// Ids, and the bits of the likeliest ones' probabilities, of the question and of the answer.
type Bits = Vec<(i32, u32, Vec<(i32, u32)>)>;

fn prompt(seed: usize, n: usize) -> Vec<i32> {
    (0..n).map(|k| ((seed * 131 + k * 7919) % 2047 + 1) as i32).collect()
}

fn question(client: u8) -> Job {
    Job { client: Client([client; 32]), logprobs: Some(5), ..job(prompt(3, PROMPT), 32) }
}

fn bits(engine: &Engine, job: Job) -> Bits {
    let got = answer(engine, job);
    let tops = got.top.iter().map(|top| top.iter().map(|(id, p)| (*id, p.to_bits())).collect());
    got.ids.iter().zip(&got.logprobs).zip(tops).map(|((id, p), top)| (*id, p.to_bits(), top)).collect()
}

#[test]
fn threads_neighbours_and_pieces_change_no_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = ModelConfig::preset("nano", 2048, CONTEXT).expect("a size");
    let path = written(dir.path(), &config, GgufType::Q8_0);
    let expect = bits(&loaded(path.clone(), 1, 1), question(1));
    assert_eq!(expect.len(), 32);
    for (threads, slots) in [(1, 3), (2, 1), (2, 3)] {
        let engine = loaded(path.clone(), threads, slots);
        assert_eq!(bits(&engine, question(1)), expect, "{threads} threads, {slots} slots, alone");
        // A part of it was read before: the rest comes in other pieces.
        for (client, first) in (2..).zip([1, 63, 200, 513, PROMPT - 1]) {
            answer(&engine, Job { client: Client([client; 32]), ..job(prompt(3, first), 1) });
            assert_eq!(bits(&engine, question(client)), expect, "read from {first} on, {threads} threads");
        }
        // Others write and read meanwhile.
        std::thread::scope(|scope| {
            let others: Vec<_> = (0..slots - 1)
                .map(|k| {
                    let engine = &engine;
                    let other = Job { client: Client([100 + k as u8; 32]), ..job(prompt(50 + k, 90 + 200 * k), 60) };
                    scope.spawn(move || answer(engine, other).ids.len())
                })
                .collect();
            assert_eq!(bits(&engine, question(90)), expect, "{threads} threads, {slots} slots, with others");
            assert!(others.into_iter().all(|other| other.join().expect("answered") == 60));
        });
    }
}

#[test]
fn only_what_was_measured_is_called_exact() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = ModelConfig::preset("nano", 2048, CONTEXT).expect("a size");
    let path = written(dir.path(), &config, GgufType::Q8_0);
    assert!(loaded(path.clone(), 1, 1).info().exact);
    let (mut bytes, field) = (std::fs::read(&path).expect("read"), b"general.file_type");
    // The value stands behind the field's name and its kind.
    let at = bytes.windows(field.len()).position(|window| window == field).expect("the field") + field.len() + 4;
    // Q4_0, Q4_1 and Q4_K_M, by llama.cpp's numbers: their outputs are of other types.
    for kind in [2u32, 3, 15] {
        bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        let other = dir.path().join(format!("{kind}.gguf"));
        std::fs::write(&other, &bytes).expect("written");
        let engine = loaded(other, 1, 1);
        assert!(!engine.info().exact, "{}", engine.info().quantisation);
    }
}

#[test]
fn who_goes_on_writes_the_same_bits() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = ModelConfig::preset("nano", 2048, CONTEXT).expect("a size");
    let path = written(dir.path(), &config, GgufType::Q8_0);
    let expect = bits(&loaded(path.clone(), 1, 1), question(1));
    let second = loaded(path, 2, 2);
    for k in [1, 13, 31] {
        let written = expect[..k].iter().map(|(id, _, _)| *id).collect();
        assert_eq!(bits(&second, Job { written, ..question(k as u8) }), expect[k..], "from {k}");
    }
}
