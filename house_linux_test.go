package warder

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/packaging/laptop"
)

// TestEveryClaimHasItsSabotage: every claim for Linux in the README, whose table comes from the capabilities, has a row
// that breaks it on the laptop. One says only how events are written: nothing on the machine is changed for it.
func TestEveryClaimHasItsSabotage(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| ([a-z_]+)").FindAllSubmatch(b, -1)
	if len(rows) < 15 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	claimed := 0
	for _, row := range rows {
		setting := enforce.Setting(row[1])
		if string(row[2]) == "unsupported" || setting == "storage.event_paths" {
			continue
		}
		claimed++
		if !slices.ContainsFunc(laptop.Sabotages, func(s laptop.Sabotage) bool { return slices.Contains(s.Claims, setting) }) {
			t.Errorf("%s is claimed (%s), and nothing in packaging/laptop/sabotage.go breaks it", setting, row[2])
		}
	}
	if claimed < 6 {
		t.Errorf("%d claims", claimed)
	}
	for _, s := range laptop.Sabotages {
		if s.Name == "" || s.Breaks == "" || len(s.Claims) == 0 || s.Policy == "" {
			t.Errorf("%+v is no row", s)
		}
	}
}
