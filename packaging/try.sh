#!/usr/bin/env bash
# Installs each package of a folder into a place of its own, without any network, and lets the program show its main job from
# there: packaging/try.sh OUT [SECONDS]; 0 seconds: only its version.
set -euo pipefail
out="$(realpath "$1")" seconds="${2:-20}"
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
cd "$out"
sha256sum --check --quiet SHA256SUMS

try() { # NAME PROGRAM
  # Nothing of the builder's place helps it: an empty home, and the system's own folders only.
  echo "== $1: $(env -i "$2" --version)"
  [ "$seconds" = 0 ] || env -i HOME="$stage/home-$1" PATH=/usr/bin:/bin "$2" demo --seconds "$seconds" --local-seconds 0
}

tar -xzf talkoo-*-linux-*.tar.gz -C "$stage"
try tarball "$(echo "$stage"/talkoo-*/talkoo)"
if command -v dpkg-deb >/dev/null 2>&1; then
  dpkg-deb --extract talkoo_*.deb "$stage/deb"
  try deb "$stage/deb/usr/bin/talkoo"
fi
if command -v python3 >/dev/null 2>&1; then
  python3 -m venv "$stage/venv"
  "$stage/venv/bin/pip" install --quiet --no-index --disable-pip-version-check talkoo-*.whl
  try wheel "$stage/venv/bin/talkoo"
fi
if command -v npm >/dev/null 2>&1; then
  npm install --silent --offline --no-audit --no-fund --cache "$stage/npm-cache" --prefix "$stage/npm" "$(echo "$out"/talkoo-*-npm-*.tgz)"
  try npm "$stage/npm/node_modules/.bin/talkoo"
fi
