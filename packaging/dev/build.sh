#!/bin/bash
# Builds the programs into ./bin, and says that it lives while it does. Under sudo it builds as the user who
# called it: what is built, and the caches, belong to them. "simulate" also builds what make demo needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
want=1.26
if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] && [ -z "${BUILD_AS_USER:-}" ]; then
  packaging/dev/deps.sh build # as root: it may have to install
  # A login shell has the user's own PATH, with Go in it; sudo's has not.
  if sudo -u "$SUDO_USER" -i test -w "$PWD" 2>/dev/null; then
    exec sudo -u "$SUDO_USER" -i env BUILD_AS_USER=1 VERSION="${VERSION:-}" bash "$PWD/packaging/dev/build.sh" "$@"
  fi
  echo "== building as root: $SUDO_USER has no login shell, or cannot write $PWD"
fi
for dir in /usr/local/go/bin "$HOME/go/bin" /usr/lib/go/bin /snap/bin; do
  command -v go >/dev/null && break
  [ -x "$dir/go" ] && PATH=$dir:$PATH
done
if ! command -v go >/dev/null; then
  echo "Go is needed, $want or later, and there is no \"go\" in PATH: https://go.dev/doc/install" >&2
  exit 1
fi
have=$(go env GOVERSION 2>/dev/null || go version | awk '{print $3}')
have=${have#go}
# Since 1.21 Go fetches by itself what go.mod asks for, unless it is told not to.
if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -1)" != "$want" ] &&
  { [ "$(printf '1.21\n%s\n' "$have" | sort -V | head -1)" != 1.21 ] || [ "$(go env GOTOOLCHAIN)" = local ]; }; then
  echo "Go $want or later is needed (this is $have, $(command -v go)): https://go.dev/doc/install" >&2
  exit 1
fi
[ -n "${BUILD_AS_USER:-}" ] || packaging/dev/deps.sh build

version=${VERSION:-$(cat VERSION)}
flags=(-trimpath -ldflags "-s -w -X main.version=$version")
export GOFLAGS=${GOFLAGS--buildvcs=false}
mkdir -p bin

# step says what is built, and every ten seconds that it still is.
step() {
  local what=$1 began=$SECONDS pid
  shift
  echo "== building $what"
  "$@" &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    for _ in $(seq 50); do
      sleep 0.2
      kill -0 "$pid" 2>/dev/null || break
    done
    kill -0 "$pid" 2>/dev/null && echo "   … $((SECONDS - began)) s"
  done
  wait "$pid"
}
[ -x bin/warder ] || echo "== the first build fetches and compiles everything, SQLite and the C library for USB included: two to four minutes on two cores"
step "the server (bin/warder-server)" env CGO_ENABLED=0 go build "${flags[@]}" -o bin/warder-server ./cmd/warder-server
step "the scanner (bin/warder-scan)" env CGO_ENABLED=0 go build "${flags[@]}" -o bin/warder-scan ./cmd/warder-scan
step "the agent (bin/warder)" env CGO_ENABLED=1 go build -tags gousb "${flags[@]}" -o bin/warder ./cmd/warder
[ "${1:-}" = names ] && CGO_ENABLED=0 go build -o bin/outside ./packaging/laptop/guest
if [ "${1:-}" = simulate ]; then
  step "the agent for the demonstration (bin/warder-simulated, bin/bus)" env CGO_ENABLED=0 go build -tags simulate "${flags[@]}" -o bin/warder-simulated ./cmd/warder
  CGO_ENABLED=0 go build -o bin/bus ./packaging/dev/bus
fi
