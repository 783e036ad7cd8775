#!/bin/bash
# The tests that need no laptop: a line for each package as it ends, then what was left out, and why.
set -uo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .cache
log=.cache/unit.log
packages=$(go list ./... | grep -v "/packaging/laptop\|/packaging/formats")
echo "== testing $(wc -w <<<"$packages") packages; the first time they are compiled, which takes minutes (all of it goes to $log)"
# shellcheck disable=SC2086
go test -count=1 -v $packages 2>&1 | tee "$log" | grep --line-buffered -E '^(ok|FAIL|panic: |--- FAIL)'
status=${PIPESTATUS[0]}
if [ "$status" != 0 ]; then
  echo "== failed: see $log"
fi
left=$(grep -A3 -E '^ *--- SKIP' "$log" | grep -oE '_test\.go:[0-9]+: .*|postgrestest\.go:[0-9]+: .*' | sed 's/^[^ ]* //' | sort | uniq -c | sort -rn)
if [ -n "$left" ]; then
  echo "== left out on this machine:"
  sed 's/^ *\([0-9]*\) /   \1 × /' <<<"$left"
fi
exit "$status"
