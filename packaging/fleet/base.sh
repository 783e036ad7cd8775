#!/bin/bash
# Builds the server of version 0.2.0 to FILE, from this repository's history: what make bench-fleet compares with.
set -euo pipefail
file=$(realpath -m "${1:?usage: base.sh FILE}")
commit=1f64be4
[ -x "$file" ] && exit 0
cd "$(dirname "$0")/../.."
git cat-file -e "$commit^{commit}" 2>/dev/null || git fetch --depth 1 origin "$commit"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo "== building the server of 0.2.0"
git archive "$commit" | tar -x -C "$dir"
cd "$dir"
CGO_ENABLED=0 go build -buildvcs=false -trimpath -o "$file" ./cmd/warder-server
