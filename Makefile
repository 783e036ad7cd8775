SHELL := /bin/bash
VERSION ?= $(shell cat VERSION)
ARCH ?= amd64
LDFLAGS := -s -w -X main.version=$(VERSION)
MODE ?= monitor
PORT ?= 8443
NFPM := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.2
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
LAPTOP := $(CURDIR)/.cache/laptop
export GOFLAGS ?= -buildvcs=false

.PHONY: generate help run demo build test test-unit check bench bench-fleet lint-api soak package laptop laptop13 deps clean

help:
	@echo "make demo       a server, an agent and a simulated USB bus: a stick is plugged in and refused"
	@echo "make run        a server and an agent on this machine, in monitor mode (MODE=enforce with sudo, PORT=8443)"
	@echo "make build      bin/warder and bin/warder-server"
	@echo "make package    deb, rpm, apk and Arch packages in dist (FORMATS=deb for one)"
	@echo "make test-unit  the tests that need no laptop"
	@echo "make test       every test (root)"
	@echo "make check      vet, staticcheck, golangci-lint, builds for other systems"
	@echo "make bench      figures; HACKING.md has more"
	@echo "make generate   the kernel programs, after a change to platform/bpf/c (clang 14)"

run:
	@PORT=$(PORT) VERSION=$(VERSION) packaging/dev/run.sh $(MODE)

demo:
	@PORT=$(PORT) VERSION=$(VERSION) packaging/dev/run.sh --simulate enforce

deps:
	@packaging/dev/deps.sh build

build:
	@VERSION=$(VERSION) packaging/dev/build.sh

# FORMATS: deb, rpm, apk, archlinux.
package: deps
	VERSION=$(VERSION) ARCH=$(ARCH) NFPM=$(NFPM) packaging/build.sh $(FORMATS)

laptop:
	@packaging/laptop/build.sh $(LAPTOP)

# Debian 13 with its kernel, beside Debian 12.
laptop13:
	@packaging/laptop/build.sh $(LAPTOP)-trixie trixie

# The programs for the kernel, compiled anew into platform/bpf/objects.
generate:
	@platform/bpf/generate.sh

# What the laptop sees as /host: the packages, the server, the guest's hand, and builds for tests.
share: laptop laptop13 package
	@mkdir -p .cache/share
	CGO_ENABLED=0 go build -trimpath -o .cache/share/guest ./packaging/laptop/guest
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o .cache/share/warder-server ./cmd/warder-server
	CGO_ENABLED=0 go build -tags skew -trimpath -o .cache/share/warder-server-skewed ./cmd/warder-server
	CGO_ENABLED=0 go build -trimpath -o .cache/share/hostile ./packaging/laptop/hostile
	CGO_ENABLED=0 go build -trimpath -o .cache/share/attacker ./packaging/laptop/attacker
	CGO_ENABLED=1 go build -buildmode=pie -tags gousb,killpoints -trimpath -ldflags '$(LDFLAGS)' -o .cache/share/warder-killpoints ./cmd/warder
	CGO_ENABLED=0 go test -trimpath -c -o .cache/share/usb.test ./platform/usb
	cp dist/warder_$(VERSION)_$(ARCH).deb .cache/share/warder.deb
	cp dist/warder-server_$(VERSION)_$(ARCH).deb .cache/share/warder-server.deb
	# The same programs once more under the next version, for the upgrade test.
	rm -rf .cache/next; BUILT=1 OUT=.cache/next VERSION=$(VERSION).1 ARCH=$(ARCH) NFPM=$(NFPM) packaging/build.sh
	cp .cache/next/warder_$(VERSION).1_$(ARCH).deb .cache/share/warder-next.deb
	cp .cache/next/warder-server_$(VERSION).1_$(ARCH).deb .cache/share/warder-server-next.deb
	# Packed anew without compression: an emulator takes long to undo that, in each laptop.
	@for p in warder warder-server warder-next warder-server-next; do rm -rf .cache/plain && dpkg-deb -R .cache/share/$$p.deb .cache/plain && \
	  dpkg-deb --root-owner-group -Znone -b .cache/plain .cache/share/$$p.deb >/dev/null || exit 1; done; rm -rf .cache/plain

test: deps
	@# What takes longest to compile is compiled while packages are installed.
	@go test -race -vet=off -run '^$$' ./agent ./sync/server ./platform/clipboard >/dev/null 2>&1 & compiling=$$!; packaging/dev/deps.sh test; deps=$$?; wait $$compiling; exit $$deps
	@# The longest first, so that none is alone at the end. What takes text out of documents does one thing after the other: below.
	@mkdir -p .cache; echo "== the laptop's image and packages are made meanwhile (.cache/share.log)"
	@$(MAKE) --no-print-directory share >.cache/share.log 2>&1 & share=$$!; \
	go test -race -count=1 -timeout 20m -parallel 6 ./agent ./sync/server ./platform/clipboard $$(go list ./... | grep -v "/packaging/laptop\|/packaging/formats\|/platform/scan/text$$"); tests=$$?; \
	wait $$share || { cat .cache/share.log; exit 1; }; exit $$tests
	@# Built as the packages are, so that less is compiled again. Beside the laptops: what needs the packages, and two kinds of units in another build.
	(CGO_ENABLED=1 go test -tags gousb -count=1 ./platform/usb && CGO_ENABLED=0 go test -trimpath -count=1 ./platform/scan/... && \
	  CGO_ENABLED=0 WARDER_PACKAGES=$(CURDIR)/dist:$(CURDIR)/.cache/next go test -trimpath -count=1 -v ./packaging/formats) >.cache/formats.log 2>&1 & formats=$$!; \
	rm -f .cache/laptop.rc; (CGO_ENABLED=0 WARDER_LAPTOP=$(CURDIR)/.cache go test -trimpath -count=1 -v -timeout 66m -parallel 40 -skip TestSpeed ./packaging/laptop 2>&1; echo $$? >.cache/laptop.rc) | tee .cache/laptop.log; \
	tests=$$(cat .cache/laptop.rc || echo 1); wait $$formats || tests=1; cat .cache/formats.log; \
	test $$tests = 0 || awk -f packaging/dev/failures.awk .cache/laptop.log; exit $$tests

test-unit:
	@packaging/dev/unit.sh

soak: share
	WARDER_LAPTOP=$(CURDIR)/.cache WARDER_SOAK=1 go test -count=1 -v -timeout 170m -parallel 40 -skip TestSpeed ./packaging/laptop

check: deps
	go vet ./...
	go vet -tags gousb,killpoints,bench ./...
	go run $(STATICCHECK) ./...
	go run $(GOLANGCI) run ./...
	for os in linux windows darwin; do for arch in amd64 arm64; do \
	  echo "== $$os/$$arch"; CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -o /dev/null ./cmd/warder && \
	  CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -o /dev/null ./cmd/warder-server && \
	  CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch go build -o /dev/null ./cmd/warder-scan || exit 1; done; done
	CGO_ENABLED=0 go vet -tags nohyperscan ./platform/scan/... ./cmd/warder-scan

bench: deps
	@packaging/dev/deps.sh test
	@packaging/dev/deps.sh bench
	go test -run '^$$' -bench . -benchmem ./enforce/... ./platform/usb ./platform/clipboard ./agent/... ./sync/...
	CGO_ENABLED=0 go test -tags bench -count=1 -p 1 -v -timeout 20m -run '^TestSpeed$$' ./platform/scan ./platform/scan/match ./platform/outgoing
	go test -tags bench -count=1 -p 1 -v -timeout 20m -run '^TestSpeed$$' ./platform/resolver ./agent
	$(MAKE) --no-print-directory share
	WARDER_LAPTOP=$(CURDIR)/.cache WARDER_BENCH=1 go test -count=1 -v -timeout 90m -run 'TestSpeed' ./packaging/laptop

# Ten thousand devices need twenty thousand descriptors in the generator and in the server.
# What linters say of the OpenAPI documents: nothing. Needs node 20 and npm.
lint-api:
	@packaging/dev/lint-api.sh

bench-fleet: build
	@packaging/dev/deps.sh test
	@mkdir -p bin
	go build -o bin/fleet ./packaging/fleet
	@packaging/fleet/base.sh bin/warder-server-0.2.0
	ulimit -n 65536 2>/dev/null || true; bin/fleet -server bin/warder-server -base bin/warder-server-0.2.0 $(FLEET)

clean:
	rm -rf bin dist var
