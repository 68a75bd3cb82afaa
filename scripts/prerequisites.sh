#!/bin/sh
# Checks what a build needs (with `test`: what the tests need, too) and prints the one command that installs what is missing.
set -eu
what="${1:-build}"
missing=""
if ! command -v cargo >/dev/null 2>&1; then
  echo "Rust is missing. Install it with:"
  echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\""
  exit 1
fi
have=$(rustc --version | sed 's/rustc \([0-9]*\)\.\([0-9]*\).*/\1 \2/')
set -- $have
if [ "$1" -lt 1 ] || { [ "$1" -eq 1 ] && [ "$2" -lt 95 ]; }; then
  echo "Rust 1.95 or newer is needed (this is $1.$2). Update with:  rustup update stable"
  exit 1
fi
command -v cc >/dev/null 2>&1 || missing="a C compiler"
if [ -n "$missing" ]; then
  echo "$missing is missing. Install it with:"
  case "$(uname -s)" in
    Darwin) echo "  xcode-select --install" ;;
    *) if command -v apt-get >/dev/null 2>&1; then echo "  sudo apt-get update && sudo apt-get install -y build-essential"
       else echo "  your system's package manager (gcc or clang)"; fi ;;
  esac
  exit 1
fi

# Tests make networks with routers in them, as any user, in namespaces of their own.
if [ "$what" = test ] && [ "$(uname -s)" = Linux ]; then
  for tool in unshare ip nft; do
    if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null 2>&1; then
      echo "$tool is missing, with which tests make networks of their own. Install it with:"
      echo "  sudo apt-get update && sudo apt-get install -y util-linux iproute2 nftables"
      exit 1
    fi
  done
fi
