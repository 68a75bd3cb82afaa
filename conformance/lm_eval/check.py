"""lm-eval against `/v1/completions`: `check.py BASE_URL MODEL TOKENIZER_FOLDER`. Facts are scored, not written: by the log-probabilities
of what is echoed, once as ids, several in a request, and once as texts. Then what was scored is compared with what the model writes."""

import json
import math
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

base, model = sys.argv[1:3]
tokenizer = Path(sys.argv[3]).resolve()
# The tool reads the file of the task from where it stands.
here = Path(__file__).parent
# Sums over several questions at a time round otherwise than over one.
ROUNDING = 0.05


def evaluate(out, batch, **more):
    """Accuracy, and of each question the log-probabilities of its answers with whether each is what the model itself would write."""
    args = {"model": model, "base_url": f"{base}/completions", "tokenizer": tokenizer, "tokenizer_backend": "huggingface",
            "num_concurrent": 2, **more}
    subprocess.run(
        [Path(sys.executable).with_name("lm-eval"), "run", "--model", "local-completions",
         "--model_args", ",".join(f"{key}={value}" for key, value in args.items()),
         "--tasks", "talkoo_facts", "--include_path", here, "--batch_size", str(batch), "--output_path", out, "--log_samples"],
        check=True, cwd=here, timeout=600)
    results = json.loads(next(Path(out).rglob("results_*.json")).read_text())["results"]["talkoo_facts"]
    samples = [json.loads(line) for line in next(Path(out).rglob("samples_*.jsonl")).read_text().splitlines()]
    samples.sort(key=lambda sample: sample["doc_id"])
    scores = [[(float(ll), str(greedy) == "True") for ll, greedy in sample["filtered_resps"]] for sample in samples]
    return results["acc,none"], [sample["doc"] for sample in samples], scores


def written(text, n):
    """What the model goes on with, the likeliest token each time, and how likely that is."""
    body = json.dumps({"model": model, "prompt": text, "max_tokens": n, "temperature": 0, "logprobs": 1}).encode()
    asked = urllib.request.Request(f"{base}/completions", body, {"content-type": "application/json"})
    logprobs = json.load(urllib.request.urlopen(asked))["choices"][0]["logprobs"]
    return logprobs["tokens"], logprobs["token_logprobs"]


with tempfile.TemporaryDirectory() as out:
    accuracy, docs, scores = evaluate(f"{out}/ids", batch=8)
    accuracy_of_texts, _, scores_of_texts = evaluate(f"{out}/texts", batch=1, tokenized_requests=False)

assert len(docs) == 20 and all(len(answers) == 4 for answers in scores)
# One of four is chance; the smallest models know most of these.
assert accuracy >= 0.7 and abs(accuracy - accuracy_of_texts) <= 0.05, (accuracy, accuracy_of_texts)
for answers, same in zip(scores, scores_of_texts):
    for (ll, _), (other, _) in zip(answers, same):
        assert ll < 0 and math.isfinite(ll) and abs(ll - other) < ROUNDING, (ll, other)
    assert sum(greedy for _, greedy in answers) <= 1, "no more than one answer is what the model writes"
    assert all(ll == max(answers)[0] for ll, greedy in answers if greedy), "what the model writes is the likeliest"

greedy_ones = 0
for doc, answers in zip(docs, scores):
    tokens, logprobs = written(doc["text"], 8)
    for choice, (ll, greedy) in zip(doc["choices"], answers):
        # The tokens that spell the answer, if the model writes it.
        n = next((n for n in range(1, 9) if "".join(tokens[:n]) == f" {choice}"), None)
        assert greedy == (n is not None), (doc["text"], choice, tokens)
        if greedy:
            greedy_ones += 1
            assert abs(sum(logprobs[:n]) - ll) < ROUNDING, (sum(logprobs[:n]), ll)
assert greedy_ones >= 5, greedy_ones
print(f"lm-eval {version('lm-eval')}: accuracy {accuracy}, {greedy_ones} of {len(docs)} answers as the model writes them")
