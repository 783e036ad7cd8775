package agent

import (
	"slices"
	"testing"

	"github.com/warderd/warder/platform"
)

// What looks for sensitive data is given its rules before whoever has something looked into: otherwise what comes in between is looked
// into by the rules before, and counts as looked into by these.
func TestScanComesFirst(t *testing.T) {
	var names []string
	users := 0
	for _, f := range capabilities {
		c := f(platform.Host{Sysfs: t.TempDir(), Proc: "/proc", Run: t.TempDir(), Quarantine: t.TempDir()})
		names = append(names, c.Name)
		for _, p := range c.Uses {
			if p.Name == platform.PortLook {
				if users++; !slices.Contains(names, "scan") {
					t.Errorf("%s comes before scan: %v", c.Name, names)
				}
			}
		}
	}
	if users != 2 {
		t.Errorf("%d capabilities have something looked into", users)
	}
}
