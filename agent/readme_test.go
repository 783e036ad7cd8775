package agent

import (
	"log/slog"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
)

// TestReadmeTable holds the README's table against the code's own capability data, so that it
// cannot claim more. WARDER_UPDATE=1 writes it.
func TestReadmeTable(t *testing.T) {
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- capabilities -->\n", "<!-- /capabilities -->"
	head, rest, ok := strings.Cut(string(b), begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("README.md has no place for the table")
	}
	want := table()
	if have == want {
		return
	}
	if os.Getenv("WARDER_UPDATE") == "" {
		t.Fatalf("README.md differs from the capability data; run WARDER_UPDATE=1 go test -run TestReadmeTable ./agent\n%s", want)
	}
	if err := os.WriteFile("../README.md", []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func table() string {
	by := map[string]map[string]string{}
	notes := map[string]bool{}
	for _, c := range claims(all.Sections) {
		if by[string(c.Setting)] == nil {
			by[string(c.Setting)] = map[string]string{}
		}
		cell := c.Level
		if c.Level != "unsupported" && !c.Exercised {
			cell += ", not exercised on real hardware"
		}
		if c.Level == "partial" {
			notes["`"+string(c.Setting)+"` is partial on "+c.OS+": "+c.Limit] = true
		}
		by[string(c.Setting)][c.OS] = cell
	}
	var out strings.Builder
	out.WriteString("| setting | Linux | Windows | macOS |\n|---|---|---|---|\n")
	for _, s := range policy.Names() {
		row := by[string(s)]
		out.WriteString("| `" + string(s) + "` | " + row["linux"] + " | " + row["windows"] + " | " + row["darwin"] + " |\n")
	}
	var lines []string
	for n := range notes {
		lines = append(lines, n)
	}
	sort.Strings(lines)
	for _, n := range lines {
		out.WriteString("\n" + n + ".\n")
	}
	return out.String()
}

// claims are what this version's capabilities claim, on every system: the README's table.
func claims(s []section.Section) []platform.Claim {
	var list []platform.Capability
	for _, f := range capabilities {
		list = append(list, f(platform.Host{Log: slog.New(slog.DiscardHandler)}))
	}
	var out []platform.Claim
	for _, sec := range s {
		for _, set := range sec.Settings {
			for _, os := range platform.Systems {
				out = append(out, platform.ClaimOf(list, set.Name, os))
			}
		}
	}
	return out
}
