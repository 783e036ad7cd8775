//go:build linux

// Package dev tests what "make run" shows.
package dev

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warderd/warder/platform/platformtest"
)

// make run shows to root how a name is refused and another answered, in namespaces of their own, and leaves this machine's
// network as it was.
func TestNames(t *testing.T) {
	if os.Getuid() != 0 {
		platformtest.Cannot(t, "only root can make a network of its own")
	}
	for _, tool := range []string{"nft", "ip", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			platformtest.Cannot(t, tool+" is not installed")
		}
	}
	bin, dir := t.TempDir(), t.TempDir()
	for name, pkg := range map[string]string{"warder": "../../cmd/warder", "warder-server": "../../cmd/warder-server",
		"outside": "../laptop/guest"} {
		build := exec.Command("go", "build", "-o", filepath.Join(bin, name), pkg) //nolint:gosec // our own programs
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", pkg, err, out)
		}
	}
	state := func() string {
		out, err := exec.Command("sh", "-c", "nft -s list ruleset; ip addr; ip route; sha256sum /etc/resolv.conf; ls -l /etc/resolv.conf").CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return string(out)
	}
	before := state()
	cmd := exec.Command("./names.sh")
	cmd.Env = append(os.Environ(), "BIN="+bin, "DIR="+dir)
	b, err := cmd.CombinedOutput()
	out := string(b)
	first, second, found := strings.Cut(out, "in enforce mode:")
	if err != nil || !found {
		for _, log := range []string{"server.log", "agent.log", "outside.log"} {
			text, _ := os.ReadFile(filepath.Join(dir, log))
			t.Logf("%s: %s", log, text)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(first, "203.0.113.10") || !strings.Contains(first, "203.0.113.20") ||
		!strings.Contains(second, "203.0.113.10") || strings.Contains(second, "203.0.113.20") ||
		!strings.Contains(second, "no such name") || !strings.Contains(second, "blocks tracker.example") ||
		!strings.Contains(second, "table inet warder") {
		t.Errorf("%s", out)
	}
	if after := state(); after != before {
		t.Errorf("this machine's network was\n%s\nand is\n%s", before, after)
	}
}
