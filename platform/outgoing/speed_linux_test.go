//go:build bench

package outgoing

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/scan"
)

// looksFor is a policy that the scanner knows.
type looksFor struct{ policy }

func (looksFor) LooksFor() (json.RawMessage, []fact.SensitiveFound) {
	return json.RawMessage(`[{"name":"card","regex":"\\b(?:[0-9]{4}[ -]?){3}[0-9]{4}\\b","validator":"luhn"}]`), []fact.SensitiveFound{{Pattern: "card", Setting: string(setting)}}
}

// TestSpeed: how long who opens a file waits that was just written there, with the real program; and one that nothing is known of,
// beside a directory that nobody watches.
func TestSpeed(t *testing.T) {
	l := newLab(t)
	program := filepath.Join(t.TempDir(), "warder-scan")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/warder-scan").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := scan.Capability(platform.Host{Sysfs: "/sys", Scanner: program, Quarantine: filepath.Join(t.TempDir(), "quarantine"), Log: l.g.log})
	if err := platform.Join([]platform.Capability{c, {Uses: []platform.Port{platform.Borrow(platform.PortLook, func(f platform.LookInto) { l.g.look = f })}}}); err != nil {
		t.Fatal(err)
	}
	p := looksFor{policy{mode: enforce.Enforce, late: true}}
	if err := c.Guards[0].Load(p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Guards[0].Stop)
	l.set(p.policy)
	// python3 writes, closes, and opens at once, as a sync client would; it prints microseconds.
	measure := func(dir string, n int, pause float64) {
		out := l.sh(fmt.Sprintf(`python3 - <<'E'
import os, time
text = ("some words of a letter that says nothing, " * 2600).encode()[:100 << 10]
for i in range(%d):
    name = "%s/t%%d" %% i
    with open(name, "wb") as f: f.write(text)
    if %v: time.sleep(%v)
    a = time.perf_counter()
    with open(name, "rb") as f: pass
    b = time.perf_counter()
    with open(name, "rb") as f: pass
    print(int((b - a) * 1e6), int((time.perf_counter() - b) * 1e6))
E`, n, dir, pause, pause))
		var first, again []int
		for line := range strings.Lines(out) {
			var a, b int
			if _, err := fmt.Sscan(line, &a, &b); err == nil {
				first, again = append(first, a), append(again, b)
			}
		}
		slices.Sort(first)
		slices.Sort(again)
		at := func(list []int, p int) time.Duration {
			return time.Duration(list[(len(list)-1)*p/100]) * time.Microsecond
		}
		t.Logf("%-10s 100 KiB just written: p50 %s p99 %s; opened again: p50 %s p99 %s", filepath.Base(dir), at(first, 50), at(first, 99), at(again, 50), at(again, 99))
	}
	l.sh("mkdir $home/anna/free")
	for range 2 {
		measure(l.sync, 200, 0)
		measure(l.at, 200, 0)
		measure(l.home+"/anna/free", 200, 0)
	}
	measure(l.sync, 200, 0.05) // it was looked into before it is opened
	for range 5 {
		l.sh("pkill -KILL -f '^warder-scan child' || true; sleep 0.2")
		measure(l.sync, 1, 0)
	}
}
