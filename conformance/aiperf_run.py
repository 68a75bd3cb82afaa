"""NVIDIA's aiperf against streamed chat and `/metrics`: `aiperf_run.py BASE_URL MODEL TOKENIZER_FOLDER`. What it measures is asked to make
sense, not to be fast: the tool itself takes a core."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

base, model, tokenizer = sys.argv[1:4]
REQUESTS, READ, WRITTEN = 8, 64, 16
# Told to stay off line, the tool takes a folder for a name at a hub. A folder is read without asking anybody in any case.
env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}

with tempfile.TemporaryDirectory() as out:
    subprocess.run(
        [Path(sys.executable).with_name("aiperf"), "profile", "--model", model, "--url", base.removesuffix("/v1"),
         "--endpoint-type", "chat", "--streaming", "--tokenizer", Path(tokenizer).resolve(), "--apply-chat-template",
         "--concurrency", "2", "--request-count", str(REQUESTS), "--random-seed", "1",
         "--synthetic-input-tokens-mean", str(READ), "--output-tokens-mean", str(WRITTEN), "--extra-inputs", "temperature:0",
         "--workers-max", "1", "--record-processors", "1", "--no-gpu-telemetry", "--ui", "none", "--artifact-dir", out],
        check=True, env=env, timeout=600)
    records = [json.loads(line) for line in Path(out, "profile_export.jsonl").read_text().splitlines()]
    whole = json.loads(Path(out, "profile_export_aiperf.json").read_text())
    scraped = json.loads(Path(out, "server_metrics_export.json").read_text())["metrics"]

assert len(records) == REQUESTS and not any(record.get("error") for record in records), records
for record in records:
    value = {name: metric["value"] for name, metric in record["metrics"].items()}
    # The question was made as long as this by the model's own tokenizer and template: two programs count the same.
    assert value["usage_prompt_tokens"] == READ, value
    # A text that was cut off may be split in another way than it was written.
    assert abs(value["usage_completion_tokens"] - value["output_sequence_length"]) <= 1 and value["usage_completion_tokens"] <= WRITTEN, value
    assert 0 < value["time_to_first_token"] < value["request_latency"] and len(value["inter_chunk_latency"]) > 1, value
assert whole["request_count"]["avg"] == REQUESTS and whole["output_token_throughput"]["avg"] > 0
assert "talkoo_generation_tokens" in " ".join(scraped), list(scraped)
first, speed = whole["time_to_first_token"]["p50"], whole["output_token_throughput"]["avg"]
print(f"aiperf {version('aiperf')}: {REQUESTS} answers, the first token after {first:.0f} ms, {speed:.1f} tokens a second")
