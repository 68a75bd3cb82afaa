"""The tokenizer of a GGUF file as a folder that transformers loads: `gguf_tokenizer.py MODEL.gguf FOLDER BASE_URL`.

Tools that count tokens, or send ids, want one by the name of a model at a hub; this one needs no network. It is asked beside the
server's own `/tokenize`, so that a difference shows here and not in the figures.
"""

import json
import sys
import urllib.request

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

path, folder, base = sys.argv[1:4]
fields = GGUFReader(path).fields


def get(name):
    return fields[f"tokenizer.{name}"].contents()


assert (get("ggml.model"), get("ggml.pre")) == ("gpt2", "smollm"), "another kind of tokenizer is split in another way"
words = get("ggml.tokens")
merges = [tuple(pair.split(" ")) for pair in get("ggml.merges")]
tokenizer = Tokenizer(models.BPE({word: id for id, word in enumerate(words)}, merges))
# `smollm`: digits one by one, then as GPT-2 does.
splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
tokenizer.decoder = decoders.ByteLevel()
CONTROL = 3
controls = [word for word, kind in zip(words, get("ggml.token_type")) if kind == CONTROL]
tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in controls])
end = words[get("ggml.eos_token_id")]
whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end, chat_template=get("chat_template"))
whole.save_pretrained(folder)

TEXTS = ["The capital of France is Paris.", " 12 months,\n\n3 or 42?", "Äiti näki 🚲 — «naïve» x² don't", "    indented\tcode_with(names);  "]
for text in TEXTS:
    body = json.dumps({"prompt": text}).encode()
    asked = urllib.request.Request(base.removesuffix("/v1") + "/tokenize", body, {"content-type": "application/json"})
    ours = json.load(urllib.request.urlopen(asked))["tokens"]
    theirs = tokenizer.encode(text).ids
    assert ours == theirs, (text, ours, theirs)
