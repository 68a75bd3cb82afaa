#!/bin/sh
# Checks what a build needs (with `test`: what the tests need, too) and installs what is missing: it asks once on a terminal, and
# not at all with CI=true or YES=1. Where it cannot, it prints the one command. SERVE=0: without what serving models needs.
set -eu
self="$0" what="${1:-build}"
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
[ -n "$missing" ] || exit 0

as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo "
case "$(uname -s)" in
  Darwin) command="xcode-select --install; brew install cmake" tool=brew as_root="" ;;
  *)
    command="${as_root}apt-get update && ${as_root}apt-get install -y$(printf ' %s' $packages | tr ' ' '\n' | sort -u | tr '\n' ' ' | sed 's/ $//')"
    tool=apt-get
    ;;
esac
echo "missing: $missing"
may=no
# Once: what is missing after that is said.
if [ -z "${TALKOO_INSTALLED:-}" ] && command -v "$tool" >/dev/null 2>&1 && { [ -z "$as_root" ] || command -v sudo >/dev/null 2>&1; }; then
  if [ "${CI:-}" = true ] || [ "${YES:-}" = 1 ]; then
    may=yes
  elif [ -t 0 ] && [ -t 1 ]; then
    printf 'Install with  %s  now? [Y/n] ' "$command"
    read -r answer || answer=n
    case "$answer" in "" | [yY]*) may=yes ;; esac
  fi
fi
if [ "$may" = yes ] && DEBIAN_FRONTEND=noninteractive sh -c "$command"; then
  TALKOO_INSTALLED=1 exec "$self" "$what"
fi
if command -v "$tool" >/dev/null 2>&1; then
  echo "Install with:  $command   (or say YES=1 before make)"
else
  echo "Install them with your system's package manager."
fi
[ "${SERVE:-1}" = 0 ] || echo "Without serving models (SERVE=0 before the command) no C++, cmake and libclang are needed."
exit 1
