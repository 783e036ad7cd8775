#!/bin/bash
# Packages the same program once more under the next version, for the upgrade test.
set -euo pipefail
dist=$1 share=$2 version=$3 arch=$4 nfpm=$5
VERSION="$version.1" ARCH=$arch go run "$nfpm" package -f packaging/nfpm.yaml -p deb -t "$share/warder-next.deb" >/dev/null
