#!/usr/bin/env bash
# A second build whose llama.cpp computes in another order, to measure answers that go on from one build to the other:
#   scripts/other_build.sh && OTHER_TALKOO=…/other/debug/talkoo make claims-full
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# Without its own matrix kernels and without weights put in another order when they are loaded.
export GGML_LLAMAFILE=OFF GGML_CPU_REPACK=OFF CARGO_TARGET_DIR="$target/other"
# Cargo does not build them again for options that were not there before.
cargo clean --quiet -p llama-cpp-sys-2 -p engine
cargo build --workspace
echo "OTHER_TALKOO=$CARGO_TARGET_DIR/debug/talkoo"
