#!/bin/bash
# Builds the packages of the agent and of the server into ./dist: make package.
#
#   packaging/build.sh [deb] [rpm] [apk] [archlinux]     all four without arguments
set -euo pipefail
cd "$(dirname "$0")/.."
formats=("$@")
[ ${#formats[@]} -gt 0 ] || formats=(deb rpm apk archlinux)
VERSION=${VERSION:-$(cat VERSION)} ARCH=${ARCH:-amd64}
NFPM=${NFPM:-github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.2}
export VERSION ARCH GOARCH=$ARCH
# What is built twice of one commit is the same.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
dist=dist
# BUILT=1 packages once more what is in dist, OUT says where to.
out=${OUT:-$dist}
mkdir -p "$out"
wants() { [[ " ${formats[*]} " == *" $1 "* ]]; }
mkdir -p "$dist/units" "$dist/manual" "$dist/static"

build() {
  flags=(-trimpath -ldflags "-s -w -X main.version=$VERSION")
  if wants deb || wants rpm || wants archlinux; then
    # Position-independent, so that the addresses of the program differ from start to start. Its 60,000 relocations are
    # packed (DT_RELR, glibc 2.36): as a table they would be a megabyte and a half of every agent's memory.
    pie=(-buildmode=pie -trimpath -ldflags "-s -w -X main.version=$VERSION -linkmode=external -extldflags=-Wl,-z,pack-relative-relocs,-z,now")
    CGO_ENABLED=1 go build -tags gousb "${pie[@]}" -o "$dist/warder" ./cmd/warder
    CGO_ENABLED=1 go build "${pie[@]}" -o "$dist/warder-server" ./cmd/warder-server
    # It opens the library for patterns while it runs, if that is installed: no cgo, but the C library's loader.
    CGO_ENABLED=0 go build -buildmode=pie "${flags[@]}" -o "$dist/warder-scan" ./cmd/warder-scan
  fi
  if wants apk; then
    # Not position-independent: Go's would ask for glibc's loader, which Alpine has not.
    CGO_ENABLED=0 go build "${flags[@]}" -o "$dist/static/warder" ./cmd/warder
    CGO_ENABLED=0 go build "${flags[@]}" -o "$dist/static/warder-server" ./cmd/warder-server
    CGO_ENABLED=0 go build -tags nohyperscan "${flags[@]}" -o "$dist/static/warder-scan" ./cmd/warder-scan
  fi
  for unit in warder.service warder-early.service; do
    sed 's#{{Path | cmdEscape}}#/usr/bin/warder#' "platform/service/$unit" >"$dist/units/$unit"
  done
}

# The oldest C library that has all the symbols which a program asks for.
glibc() { { objdump -T "$1" 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | cut -d_ -f2; echo 2.36; } | sort -uV | tail -1; }

documents() {
  # Man pages and completions are made from the commands, changelog and copyright from the project's own.
  for program in warder warder-server; do
    local out=$dist/manual/$program
    rm -rf "$out"
    GOARCH='' CGO_ENABLED=0 go run -trimpath -tags manual -ldflags "-X main.version=$VERSION" ./cmd/$program manual "$out"
    rm -f "$out"/man/*-completion*
    gzip -9nf "$out"/man/*
    # The package's own changelog has this version; the project's has all of them.
    {
      printf '%s (%s-1) unstable; urgency=medium\n\n  * Version %s; what changed is in changelog.gz.\n\n' "$program" "$VERSION" "$VERSION"
      printf ' -- The Warder authors <warder@warderd.example>  %s\n' "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")"
    } | gzip -9n >"$out/changelog.Debian.gz"
    gzip -9nc CHANGELOG.md >"$out/changelog.gz"
  done
  {
    cat <<TEXT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Warder
Source: https://github.com/warderd/warder

Files: *
Copyright: 2026 The Warder authors
License: Apache-2.0
 On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0; it is
 also in the file LICENSE of the source.
TEXT
  } >"$dist/manual/copyright"
}

[ -n "${BUILT:-}" ] || { build; documents; }
GLIBC=$(glibc "$dist/warder") GLIBC_SERVER=$(glibc "$dist/warder-server")
export GLIBC GLIBC_SERVER

for format in "${formats[@]}"; do
  # Of this version alone: who takes what is here takes no old one.
  case $format in
  archlinux) rm -f "$out"/*.pkg.tar.zst ;;
  *) rm -f "$out"/*."$format" ;;
  esac
  for name in warder warder-server; do
    case $format in
    deb) file=${name}_${VERSION}_$ARCH.deb ;;
    rpm) file=$name-$VERSION-1.$([ "$ARCH" = amd64 ] && echo x86_64 || echo aarch64).rpm ;;
    apk) file=$name-$VERSION-r1.apk ;;
    archlinux) file=$name-$VERSION-1-$([ "$ARCH" = amd64 ] && echo x86_64 || echo aarch64).pkg.tar.zst ;;
    esac
    GOARCH='' go run "$NFPM" package -f packaging/$name.yaml -p "$format" -t "$out/$file"
  done
done
