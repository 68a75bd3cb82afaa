"""Simon Willison's command-line tool `llm` against our API: `llm_cli.py BASE_URL MODEL`. Its settings live in a folder that goes away."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

base, model = sys.argv[1:3]
# The same model by each of the three ways that the tool has to ask.
MODELS = f"""
- {{model_id: talkoo, model_name: {model}, api_base: "{base}", supports_schema: true, supports_tools: true}}
- {{model_id: talkoo-responses, model_name: {model}, api_base: "{base}", supports_schema: true, responses: true}}
- {{model_id: talkoo-text, model_name: {model}, api_base: "{base}", completion: true}}
- {{model_id: missing, model_name: none, api_base: "{base}"}}
"""

with tempfile.TemporaryDirectory() as home:
    Path(home, "extra-openai-models.yaml").write_text(MODELS)

    def llm(*words, fails=None):
        """What the tool prints. Where it may fail, `fails` is in its errors, which are given back too."""
        # The tool lies beside this Python, whether or not that is on the path.
        tool = Path(sys.executable).with_name("llm")
        env = {**os.environ, "LLM_USER_PATH": home}
        ran = subprocess.run([tool, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if ran.returncode:
            assert ran.returncode == 1 and fails and fails in ran.stderr, (words, ran.returncode, ran.stderr)
        return (ran.stdout + (ran.stderr if fails else "")).strip()

    short = ("-o", "temperature", "0", "-o", "max_tokens", "8")
    streamed = llm("-m", "talkoo", "Say hi", *short)
    assert streamed, "words"
    logged = json.loads(llm("logs", "-n", "1", "--json"))[0]
    assert logged["response"].strip() == streamed and logged["input_tokens"] > 0 and 0 < logged["output_tokens"] <= 8, logged
    assert llm("-m", "talkoo", "Say hi", "--no-stream", *short) == streamed, "streamed or not, temperature 0 says the same"
    assert llm("-c", "And once more", *short), "a conversation goes on"

    person = json.loads(llm("-m", "talkoo", "A person", "--schema", "name, age int", "-o", "temperature", "0", "-o", "max_tokens", "80"))
    assert person.keys() == {"name", "age"} and type(person["age"]) is int and type(person["name"]) is str, person

    # The tool tells its own version by a call, runs it, and asks again with the result. A small model may call again and again:
    # then the tool stops it, and that is no fault of ours.
    version_asked = ("Which version?", "-T", "llm_version", "--tools-debug", "--chain-limit", "2")
    called = llm("-m", "talkoo", *version_asked, "-o", "temperature", "0", "-o", "max_tokens", "80", fails="Chain limit of 2 exceeded")
    assert f"Tool call: llm_version({{}})\n  {version('llm')}" in called, called

    told = llm("-m", "talkoo-responses", "Say hi", "-o", "temperature", "0")
    assert told and llm("-m", "talkoo-responses", "Say hi", "--no-stream", "-o", "temperature", "0") == told
    assert llm("-m", "talkoo-text", "The sky is", *short)

    missing = "The model 'none' does not exist"
    assert missing in llm("-m", "missing", "Say hi", fails=missing)

print(f"llm {version('llm')}: as expected")
