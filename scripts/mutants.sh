#!/usr/bin/env bash
# Changes the ledger in one place at a time and runs its tests: a change that no test notices is a rule that no
# test holds. Prints those, and fails if there are any.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-mutants >/dev/null 2>&1; then
  echo "cargo-mutants is not installed; install it with: cargo install cargo-mutants --locked" >&2
  exit 1
fi
# 3: all were noticed, some by a test that never ended.
cargo mutants --package ledger --timeout 60 --output "${MUTANTS_OUT:-$(mktemp -d)}" -- --package ledger || [ $? -eq 3 ]
