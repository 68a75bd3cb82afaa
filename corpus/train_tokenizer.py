#!/usr/bin/env python3
"""Train the 2048-token byte-level BPE on the corpus and save `tokenizer.json`.

    pip install tokenizers==0.22.2 zstandard==0.25.0
    python corpus/train_tokenizer.py

Byte-level BPE with the GPT-2 split pattern, no added prefix space. Id 0 is
`<|endoftext|>`, ids 1 to 256 are the 256 byte symbols, the rest are merges: 2048
in all. Prints the corpus size in tokens, without and with one `<|endoftext|>`
after each document, and checks that every document survives the round trip.
"""

import argparse
import hashlib
import io
import json
import pathlib

import zstandard
from tokenizers import Tokenizer, __version__, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
VOCAB = 2048
EOT = "<|endoftext|>"


def read(path: pathlib.Path) -> list[str]:
    with open(path, "rb") as f, zstandard.ZstdDecompressor().stream_reader(f) as z:
        return [json.loads(line)["text"] for line in io.TextIOWrapper(z, "utf-8", newline="\n")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=pathlib.Path, default=HERE / "shakespeare.jsonl.zst")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "tokenizer.json")
    args = parser.parse_args()

    if not __version__.startswith("0.22."):
        raise SystemExit(f"wants tokenizers 0.22.x, found {__version__}")
    texts = read(args.corpus)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        min_frequency=2,
        show_progress=False,
        special_tokens=[EOT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tok.train_from_iterator(texts, trainer)
    tok.save(str(args.out))

    tok = Tokenizer.from_file(str(args.out))
    assert tok.get_vocab_size() == VOCAB and tok.token_to_id(EOT) == 0
    total = 0
    for text, enc in zip(texts, tok.encode_batch(texts)):
        assert tok.decode(enc.ids, skip_special_tokens=False) == text
        total += len(enc.ids)
    size = sum(len(t.encode()) for t in texts)
    print(
        json.dumps(
            {
                "tokenizers": __version__,
                "sha256": hashlib.sha256(args.out.read_bytes()).hexdigest(),
                "documents": len(texts),
                "text_bytes": size,
                "tokens": total,
                "tokens_with_eot": total + len(texts),
                "bytes_per_token": round(size / total, 4),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
