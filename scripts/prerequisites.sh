#!/bin/sh
# Checks what a build needs (with `test`: what the tests need, too) and prints the one command that installs what is
# missing. SERVE=0: without what serving models needs.
set -eu
what="${1:-build}"
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

# libclang lies where its distribution puts it; bindgen looks in the same places.
libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  for file in /usr/lib/llvm-*/lib/libclang[.-]*so* /usr/lib/*/libclang[.-]*so* /usr/lib*/libclang[.-]*so* \
    /Library/Developer/CommandLineTools/usr/lib/libclang.dylib \
    /Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib; do
    case "$file" in *libclang-cpp*) continue ;; esac
    [ -e "$file" ] && return 0
  done
  return 1
}

missing="" packages=""
need() {
  missing="${missing:+$missing, }$1"
  packages="$packages $2"
}
command -v cc >/dev/null 2>&1 || need "a C compiler" build-essential
if [ "${SERVE:-1}" != 0 ]; then
  command -v c++ >/dev/null 2>&1 || need "a C++ compiler" build-essential
  command -v cmake >/dev/null 2>&1 || need cmake cmake
  libclang || need libclang libclang-dev
fi
# Tests make networks with routers in them, as any user, in namespaces of their own; and they let systemd begin the node,
# as root or in a session of systemd.
if [ "$what" = test ] && [ "$(uname -s)" = Linux ]; then
  PATH="$PATH:/usr/sbin:/sbin"
  command -v unshare >/dev/null 2>&1 || need unshare util-linux
  command -v ip >/dev/null 2>&1 || need ip iproute2
  command -v nft >/dev/null 2>&1 || need nft nftables
  command -v mount >/dev/null 2>&1 || need mount mount
  [ -x /usr/lib/systemd/systemd ] || [ -x /lib/systemd/systemd ] || need systemd systemd
  command -v dbus-daemon >/dev/null 2>&1 || need dbus-daemon dbus-daemon
fi
if [ -n "$missing" ]; then
  echo "missing: $missing. Install with:"
  case "$(uname -s)" in
    Darwin) echo "  xcode-select --install && brew install cmake" ;;
    *) if command -v apt-get >/dev/null 2>&1; then
         echo "  sudo apt-get update && sudo apt-get install -y$(printf ' %s' $packages | tr ' ' '\n' | sort -u | tr '\n' ' ')"
       else
         echo "  your system's package manager"
       fi ;;
  esac
  [ "${SERVE:-1}" = 0 ] || echo "Without serving models (SERVE=0 before the command) no C++, cmake and libclang are needed."
  exit 1
fi
