#!/bin/sh
# Compiles the kernel programs: all of them, or "generate.sh OBJECT SOURCE" one. The objects are committed, so that nobody who
# builds Warder needs this; sums says of which sources they are. It takes clang 14 (Debian 12), so that the objects are the
# same wherever they are made.
set -eu
cd "$(dirname "$0")"
compile() {
  "${CLANG:-clang-14}" -target bpfel -O2 -g -Wall -Werror -fdebug-prefix-map="$PWD"=. -I/usr/include/"$(uname -m)"-linux-gnu -c "$2" -o "$1"
  "${LLVM_STRIP:-llvm-strip-14}" -g "$1"
}
if [ $# = 2 ]; then
  compile "$1" "$2"
  exit
fi
for f in c/*.c; do
  compile objects/"$(basename "$f" .c)".o "$f"
done
sha256sum c/*.c c/*.h objects/*.o >objects/sums
