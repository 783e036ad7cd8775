#!/bin/bash
# Asks Redocly and Spectral about the server's OpenAPI documents. Anything that they say is a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .cache/lint
WARDER_OPENAPI=$PWD/.cache/lint go test -count=1 -run 'TestDocuments$' ./sync/server/api >/dev/null
cd .cache/lint
[ -x node_modules/.bin/redocly ] || { echo "== fetching the linters"; npm install --no-audit --no-fund --silent @redocly/cli @stoplight/spectral-cli >/dev/null; }
echo 'extends: ["spectral:oas"]' >.spectral.yaml
for f in openapi.json openapi-3.0.json; do
  npx redocly lint "$f" --format=json 2>/dev/null >redocly.out || true
  node -e 'const p=JSON.parse(require("fs").readFileSync("redocly.out")).problems; for (const x of p) console.log(x.ruleId+": "+x.message); process.exit(p.length?1:0)'
done
npx spectral lint --fail-severity=hint openapi.json openapi-3.0.json
echo "== the linters have nothing to say"
